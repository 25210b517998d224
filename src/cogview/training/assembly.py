"""Assemble a model family from training runs (`cogview assemble`).

A trained transformer has a ``training.json`` with the sequence format it was trained on and the fingerprints
of both tokenizers. They determine the family's vocabulary and formats, and tokenizers that do not match are
rejected here, where it can still be corrected.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from cogview.checkpoints.bundle import (
    BASE,
    COGLM,
    DIRECT,
    FILE,
    ITERATIVE,
    FamilyConfig,
    Fingerprints,
    ModelBundle,
    Role,
)
from cogview.checkpoints.family_writing import check_place, write_family
from cogview.checkpoints.prompt_help import FILE as WORDS
from cogview.checkpoints.prompt_help import PromptHelp
from cogview.config import load_json, parse_pairs, validate
from cogview.errors import CogViewError
from cogview.files import write_file
from cogview.generation.next_tokens import FILE as NEXT_TOKENS
from cogview.tokenizers.clusters import FILE as CLUSTERS
from cogview.tokenizers.clusters import cluster_codebook
from cogview.tokenizers.loading import read_image_tokenizer
from cogview.tokenizers.text import TextTokenizer
from cogview.training.assembly_plan import FamilySettings, Looks, Parts
from cogview.transformer import storage
from cogview.transformer.lora import CONFIG as LORA
from cogview.transformer.lora import apply_adapter
from cogview.transformer.model import Transformer
from cogview.types import SamplingParams

FACTS = "training.json"
CARD = "card.md"
IMAGES = "image_tokenizer"


def model_directory(run: Path) -> Path:
    """The directory with the weights: ``run`` itself, or the ``model/`` of a run directory."""
    for directory in (run, run / "model"):
        if any((directory / name).is_file() for name in ("config.json", LORA)):
            return directory
    raise CogViewError(f"{run} holds no trained model; give a run's directory, or the model/ in it")


def read_facts(model: Path) -> dict[str, Any]:
    """Read ``training.json`` beside a transformer's weights; raises CogViewError if missing or damaged."""
    path = model / FACTS
    if not path.is_file():
        raise CogViewError(f"{model} has no {FACTS}; give a transformer trained with `cogview train`")
    facts = load_json(path)
    required = {"image_tokenizer", "text_tokenizer", "sequences"}
    if not isinstance(facts, dict) or not required <= facts.keys():
        raise CogViewError(f"{path}: damaged, or written by another version; train again or restore it")
    return facts


def assemble(
    out: str | Path,
    roles: Mapping[str, Path],
    image_tokenizer: Path | None = None,
    text_tokenizer: Path | None = None,
    *,
    start: ModelBundle | None = None,
    settings: FamilySettings | None = None,
    adapters: Mapping[str, Path] | None = None,
    small: Collection[str] = (),
    card: Path | None = None,
    beside: ModelBundle | None = None,
    clusters: int = 0,
    share: bool = False,
) -> ModelBundle:
    """Write a family of trained models to ``out`` and return it, loaded again.

    Args:
        roles: the run directory, or the model in it, of each role ("base"). An adapter (`lora:`) is merged
            into the role's weights in ``start``.
        image_tokenizer: a run's directory or the model in it; text_tokenizer: a ``.model`` file.
        start: a family that provides everything not given: tokenizers, other roles, styles.
        settings: styles (added to ``start``'s), templates and sampling defaults.
        adapters: the run of each adapter that is stored beside the model, by name.
        small: parts stored as int8 rows, half the size: names from ``roles``, and ``image_tokenizer``.
        card: the model card; by default an existing one in ``out`` is kept.
        beside: a family in the same directory as ``out`` whose tokenizers are used without copying.
        clusters: number of clusters of image codes, for cluster sampling (CogView2, section 4.1).
        share: store weights only once that a role shares with the base role, or a super-resolution role with
            the CogLM; either both are stored as int8 or neither.

    Raises CogViewError if a part is missing or was trained with another tokenizer than the family's.
    """
    out, settings = Path(out), settings or FamilySettings()
    check_place(out)
    if share and BASE not in roles:
        raise CogViewError("--share stores weights shared with base only once; give --base too")
    tokenizers = _tokenizers(beside or start, image_tokenizer, text_tokenizer)
    prints = tokenizers.prints
    new = {*roles, *({IMAGES} if beside is None else ())}
    for name in set(small) - new:
        raise CogViewError(f"there is no {name!r} that could be stored small; there are {', '.join(new)}")
    models = {name: model_directory(path) for name, path in roles.items()}
    entries = {name: _role(name, path, prints) for name, path in models.items()}
    parts = dict(models)
    for name, role in (start.config.roles if start else {}).items():
        if name not in entries:
            assert start is not None
            entries[name] = role.model_copy(update={"directory": name})
            parts[name] = start.directory / role.directory
    adapted = _adapters(start, adapters or {})
    fields = _config(out, entries, prints, start, settings, adapted)
    if beside is not None:
        fields |= _places(beside, out)
    _check_start(start, prints, set(entries) - set(models))
    card_text = _card(card, out)
    with TemporaryDirectory() as folder:
        parts |= _stored(parts, set(models), small, start, share, Path(folder))
        parts |= _next_tokens(models, start, set(entries))
        if beside is None:
            parts |= {IMAGES: tokenizers.images, "text.model": tokenizers.text}
        if IMAGES in small:
            parts[IMAGES] = Path(folder) / IMAGES
            read_image_tokenizer(tokenizers.images).save(parts[IMAGES], torch.int8)
        words = settings.words or (start and start.prompt_help and start.prompt_help.path)
        if words:
            parts[WORDS] = PromptHelp(words).checked().path
        labels = _labels(start, tokenizers, clusters, Path(folder))
        if labels is not None:
            parts[CLUSTERS], fields["clusters"] = labels, CLUSTERS
        config = validate(FamilyConfig, fields, str(out))
        family = write_family(config, out, parts | {f"lora-{name}": path for name, path in adapted.items()})
    if card_text is not None:
        write_file(out / CARD, card_text)
    return family


def assemble_parts(parts: Parts, looks: Looks) -> ModelBundle:
    """:func:`assemble` with the options of a command line."""
    roles = parse_pairs("--role", parts.role) | ({BASE: str(parts.base)} if parts.base else {})
    start = ModelBundle.find(parts.start) if parts.start else None
    return assemble(
        parts.out,
        {name: Path(path) for name, path in roles.items()},
        parts.image_tokenizer,
        parts.text_tokenizer,
        start=start,
        settings=looks.family(start),
        adapters={name: Path(path) for name, path in parse_pairs("--lora", parts.lora).items()},
        small=parts.small,
        card=looks.card,
        beside=ModelBundle.find(parts.beside) if parts.beside else None,
        clusters=parts.clusters,
        share=parts.share,
    )


@dataclass(frozen=True)
class _Tokenizers:
    """The paths of both tokenizers, the codebook (codes, d), and the fingerprints."""

    images: Path
    text: Path
    vectors: Tensor
    prints: Fingerprints


def _tokenizers(source: ModelBundle | None, images: Path | None, text: Path | None) -> _Tokenizers:
    """Both tokenizers, given or ``source``'s."""
    directory = model_directory(images) if images else _part(source, "image_tokenizer")
    path = text or _part(source, "text_tokenizer")
    tokenizer = read_image_tokenizer(directory)
    prints = Fingerprints(
        image_tokenizer=tokenizer.fingerprint, text_tokenizer=TextTokenizer.from_file(path).fingerprint
    )
    return _Tokenizers(directory, path, tokenizer.quantizer.codebook, prints)


def _places(beside: ModelBundle, out: Path) -> dict[str, str]:
    """Paths of the tokenizers in a family beside ``out``, relative to ``out``; raises CogViewError if it is
    elsewhere."""
    if beside.directory.resolve().parent != out.resolve().parent:
        raise CogViewError(
            f"{out} does not lie beside {beside.directory}, whose tokenizers it is to share; give another "
            "directory, or --image-tokenizer and --text-tokenizer to copy them"
        )
    prefix = f"../{beside.directory.resolve().name}"
    return {
        "image_tokenizer": f"{prefix}/{beside.config.image_tokenizer}",
        "text_tokenizer": f"{prefix}/{beside.config.text_tokenizer}",
    }


def _labels(start: ModelBundle | None, tokenizers: _Tokenizers, count: int, folder: Path) -> Path | None:
    """The file of the codes' clusters: computed if ``count`` is given, else ``start``'s, if any."""
    if count:
        cluster_codebook(tokenizers.vectors, folder / CLUSTERS, count)
        return folder / CLUSTERS
    name = None if start is None else start.config.clusters
    return None if start is None or name is None else start.directory / name


def _adapters(start: ModelBundle | None, given: Mapping[str, Path]) -> dict[str, Path]:
    """The directories of all adapters by name, ``start``'s and the given ones."""
    adapters = {name: start.directory / path for name, path in start.config.adapters.items()} if start else {}
    for name, run in given.items():
        adapters[name] = model_directory(run)
        if not (adapters[name] / LORA).is_file():
            raise CogViewError(f"{run} trained a full model, not an adapter; give it as a role")
    return adapters


def _merged(role: str, adapter: Path, start: ModelBundle | None, out: Path) -> Path:
    """``start``'s model of a role with an adapter merged into its weights, written to ``out``."""
    if start is None or role not in start.config.roles:
        raise CogViewError(f"{adapter} is an adapter; give the family that it adapts with --from")
    model = start.transformer(role)
    apply_adapter(model, adapter)
    model.save(out)
    return out


def _stored(
    models: Mapping[str, Path],
    new: Collection[str],
    small: Collection[str],
    start: ModelBundle | None,
    share: bool,
    folder: Path,
) -> dict[str, Path]:
    """The directories of the roles' models as they will be stored; new ones are written to ``folder``."""
    parts = dict(models)
    for name in parts:
        if name in new and (parts[name] / LORA).is_file():
            parts[name] = _merged(name, parts[name], start, folder / name)
        if name in small:
            parts[name] = _small(parts[name], folder / f"{name}-small")
        elif name not in new and storage.shares(parts[name]):
            parts[name] = _small(parts[name], folder / f"{name}-complete")  # base may have changed
    stages = COGLM if COGLM in parts else BASE  # the model that super-resolution starts from
    for name in [name for name in parts if name not in (BASE, COGLM)] if share else ():
        owner = stages if name in (DIRECT, ITERATIVE) else BASE
        storage.save_without_shared(parts[name], parts[owner], folder / f"{name}-unshared", f"../{owner}")
        parts[name] = folder / f"{name}-unshared"
    return parts


def _next_tokens(new: Mapping[str, Path], start: ModelBundle | None, roles: set[str]) -> dict[str, Path]:
    """The tables of next tokens beside the weights of roles, by their path in the family."""
    models = dict[str, Path]()
    if start is not None:
        models = {name: start.directory / role.directory for name, role in start.config.roles.items()}
    files = {name: model / NEXT_TOKENS for name, model in {**models, **new}.items() if name in roles}
    return {f"{name}/{NEXT_TOKENS}": file for name, file in files.items() if file.is_file()}


def _small(model: Path, out: Path) -> Path:
    """Write a model to ``out`` with its matrices as int8 rows."""
    Transformer.from_directory(model).save(out, torch.int8)
    return out


def _part(start: ModelBundle | None, name: str) -> Path:
    if start is None:
        option = name.replace("_", "-")
        raise CogViewError(f"no {option.replace('-', ' ')}: give --{option}, or a family with --from")
    return start.directory / str(getattr(start.config, name))


def _role(name: str, model: Path, prints: Fingerprints) -> Role:
    facts = read_facts(model)
    for part in ("image_tokenizer", "text_tokenizer"):
        actual, expected = getattr(prints, part), facts[part]
        if actual != expected:
            raise CogViewError(
                f"{model} was trained with another {part.replace('_', ' ')} ({str(expected)[:12]}, "
                f"not {actual[:12]}); give the one its tokens were built with"
            )
    role = {"directory": name, "sequences": facts["sequences"], "guidance_free": facts.get("guidance_free")}
    return validate(Role, role, f"{model / FACTS}")


def _config(
    out: Path,
    roles: Mapping[str, Role],
    prints: Fingerprints,
    start: ModelBundle | None,
    settings: FamilySettings,
    adapters: Mapping[str, Path],
) -> dict[str, Any]:
    if not roles:
        raise CogViewError("no model: give at least --base RUN")
    before = start.config if start else None
    fields: dict[str, Any] = {
        "name": out.name,
        "vocabulary": roles.get(BASE, next(iter(roles.values()))).sequences.vocabulary,
        "roles": dict(roles),
        "styles": {**(before.styles if before else {}), **settings.styles},
        "defaults": settings.defaults or (before.defaults if before else SamplingParams()),
        "direct": settings.direct or (before.direct if before else SamplingParams()),
        "iterative": settings.iterative or (before.iterative if before else SamplingParams()),
        "editing": settings.editing or (before.editing if before else SamplingParams()),
        "adapters": {name: f"lora-{name}" for name in adapters},
        "also": settings.also,
        "fingerprints": prints,
    }
    templates = {**(before.templates if before else {}), **settings.templates}
    return fields | ({"templates": templates} if templates else {})


def _check_start(start: ModelBundle | None, prints: Fingerprints, taken: set[str]) -> None:
    """Raise CogViewError if roles are taken from ``start`` but not its tokenizers."""
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
