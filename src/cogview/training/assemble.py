"""From one's own runs to a family directory that draws (`cogview assemble`).

A trained transformer carries ``training.json``: the sequences it was trained on and the fingerprints of both
tokenizers. Those decide the family's vocabulary and formats, and tokenizers that do not belong are refused
here, where it can still be mended.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from pydantic import Field

from cogview.config import Config, load_json, validate
from cogview.errors import CogViewError
from cogview.family import FILE, Defaults, Family, FamilyConfig, Fingerprints, Role, write_family
from cogview.sequences import SequenceFormat
from cogview.tokenizers.images import read_image_tokenizer
from cogview.tokenizers.text import TextTokenizer
from cogview.transformer.lora import CONFIG as LORA
from cogview.transformer.lora import apply_adapter
from cogview.transformer.model import Transformer

FACTS = "training.json"
CARD = "card.md"


class FamilySettings(Config):
    """What a family has beside its models; as a YAML file for ``--settings`` (fields as in family.json)."""

    styles: dict[str, dict[str, str]] = Field(default_factory=dict)
    templates: dict[str, str] = Field(default_factory=dict)
    defaults: Defaults | None = None


def model_directory(run: Path) -> Path:
    """The directory with the weights: ``run`` itself, or the ``model/`` of a run directory."""
    for place in (run, run / "model"):
        if any((place / name).is_file() for name in ("config.json", LORA)):
            return place
    raise CogViewError(f"{run} holds no trained model; give a run's directory, or the model/ in it")


def read_facts(model: Path) -> dict[str, Any]:
    """``training.json`` beside a transformer's weights; CogViewError where it is missing or foreign."""
    path = model / FACTS
    if not path.is_file():
        raise CogViewError(f"{model} has no {FACTS}; give a transformer that `cogview train` made")
    facts = load_json(path)
    wanted = {"image_tokenizer", "text_tokenizer", "sequences"}
    if not isinstance(facts, dict) or not wanted <= facts.keys():
        raise CogViewError(f"{path}: damaged, or written by another version; train again or restore it")
    return facts


def assemble(
    out: str | Path,
    roles: Mapping[str, Path],
    image_tokenizer: Path | None = None,
    text_tokenizer: Path | None = None,
    *,
    start: Family | None = None,
    settings: FamilySettings | None = None,
    adapters: Mapping[str, Path] | None = None,
    small: Collection[str] = (),
    card: Path | None = None,
) -> Family:
    """Write a family of one's own runs to ``out`` and return it, read back whole.

    Args:
        roles: role ("base") to a run's directory or the model in it. A run that trained an adapter (`lora:`)
            is added to the role's weights in ``start``.
        image_tokenizer: a run's directory or the model in it; text_tokenizer: a ``.model`` file.
        start: a family to take everything from that is not given: tokenizers, other roles, styles.
        settings: styles (added to ``start``'s), templates and sampling defaults.
        adapters: name to the run of an adapter that is kept beside the model, to be asked for by name.
        small: the roles among ``roles`` whose matrices are stored as int8 rows, half the size.
        card: the model card; by default the one that is in ``out`` already stays.

    Raises CogViewError where a part is missing or trained with another tokenizer than the family's.
    """
    out, settings = Path(out), settings or FamilySettings()
    images = model_directory(image_tokenizer) if image_tokenizer else _part(start, "image_tokenizer")
    text = text_tokenizer or _part(start, "text_tokenizer")
    prints = Fingerprints(
        image_tokenizer=read_image_tokenizer(images).fingerprint,
        text_tokenizer=TextTokenizer.from_file(text).fingerprint,
    )
    for name in set(small) - set(roles):
        raise CogViewError(f"no {name!r} role is given that could be stored small; given: {', '.join(roles)}")
    models = {name: model_directory(path) for name, path in roles.items()}
    entries = {name: _role(name, path, prints) for name, path in models.items()}
    parts = {"image_tokenizer": images, "text.model": text, **models}
    for name, role in (start.config.roles if start else {}).items():
        if name not in entries:
            assert start is not None
            entries[name] = role.model_copy(update={"directory": name})
            parts[name] = start.directory / role.directory
    beside = _adapters(start, adapters or {})
    config = validate(FamilyConfig, _config(out, entries, prints, start, settings, beside), str(out))
    _check_start(start, prints, set(entries) - set(models))
    kept = _card(card, out)
    with TemporaryDirectory() as folder:
        for name, path in models.items():
            if (path / LORA).is_file():
                parts[name] = _merged(name, path, start, Path(folder) / name)
            if name in small:
                parts[name] = _small(parts[name], Path(folder) / f"{name}-small")
        family = write_family(config, out, parts | {f"lora-{name}": path for name, path in beside.items()})
    if kept is not None:
        (out / CARD).write_text(kept, encoding="utf-8")
    return family


def _adapters(start: Family | None, given: Mapping[str, Path]) -> dict[str, Path]:
    """Name to directory of every adapter, ``start``'s and the given ones."""
    found = {name: start.directory / place for name, place in start.config.adapters.items()} if start else {}
    for name, run in given.items():
        found[name] = model_directory(run)
        if not (found[name] / LORA).is_file():
            raise CogViewError(f"{run} trained a whole model, not an adapter; give it as a role")
    return found


def _merged(role: str, adapter: Path, start: Family | None, out: Path) -> Path:
    """``start``'s model of a role with an adapter added to its weights, written to ``out``."""
    if start is None or role not in start.config.roles:
        raise CogViewError(f"{adapter} is an adapter; name the family that it adapts with --from")
    model = start.transformer(role)
    apply_adapter(model, adapter)
    model.save(out)
    return out


def _small(model: Path, out: Path) -> Path:
    """A model again with its matrices as int8 rows, written to ``out``."""
    Transformer.from_directory(model).save(out, torch.int8)
    return out


def _part(start: Family | None, name: str) -> Path:
    if start is None:
        option = name.replace("_", "-")
        raise CogViewError(f"no {option.replace('-', ' ')}: give --{option}, or a family with --from")
    return start.directory / str(getattr(start.config, name))


def _role(name: str, model: Path, prints: Fingerprints) -> Role:
    facts = read_facts(model)
    for part in ("image_tokenizer", "text_tokenizer"):
        found, wanted = getattr(prints, part), facts[part]
        if found != wanted:
            raise CogViewError(
                f"{model} was trained with another {part.replace('_', ' ')} ({str(wanted)[:12]}, "
                f"not {found[:12]}); give the one its tokens were built with"
            )
    sequences = validate(SequenceFormat, facts["sequences"], f"{model / FACTS}: sequences")
    return validate(Role, {"directory": name, "sequences": sequences}, f"role {name}")


def _config(
    out: Path,
    roles: Mapping[str, Role],
    prints: Fingerprints,
    start: Family | None,
    settings: FamilySettings,
    adapters: Mapping[str, Path],
) -> dict[str, Any]:
    if not roles:
        raise CogViewError("no model: give at least --base RUN")
    before = start.config if start else None
    fields: dict[str, Any] = {
        "name": out.name,
        "vocabulary": next(iter(roles.values())).sequences.vocabulary,
        "roles": dict(roles),
        "styles": {**(before.styles if before else {}), **settings.styles},
        "defaults": settings.defaults or (before.defaults if before else Defaults()),
        "adapters": {name: f"lora-{name}" for name in adapters},
        "fingerprints": prints,
    }
    templates = {**(before.templates if before else {}), **settings.templates}
    return fields | ({"templates": templates} if templates else {})


def _check_start(start: Family | None, prints: Fingerprints, taken: set[str]) -> None:
    """Roles taken over from ``start`` only fit its own tokenizers."""
    if start is not None and taken and start.config.fingerprints != prints:
        raise CogViewError(
            f"the roles {', '.join(sorted(taken))} of {start.config.name} were trained with its own "
            "tokenizers; leave --image-tokenizer and --text-tokenizer out, or give these roles too"
        )


def _card(card: Path | None, out: Path) -> str | None:
    path = card or out / CARD
    if card is None and not path.is_file():
        return None
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CogViewError(f"{path}: cannot be read as UTF-8 ({error})") from error


__all__ = ["CARD", "FILE", "FamilySettings", "assemble", "model_directory", "read_facts"]
