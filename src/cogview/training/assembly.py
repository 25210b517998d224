"""From one's own runs to a family directory that draws (`cogview assemble`).

A trained transformer carries ``training.json``: the sequences it was trained on and the fingerprints of both
tokenizers. Those decide the family's vocabulary and formats, and tokenizers that do not belong are refused
here, where it can still be mended.
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
    start: ModelBundle | None = None,
    settings: FamilySettings | None = None,
    adapters: Mapping[str, Path] | None = None,
    small: Collection[str] = (),
    card: Path | None = None,
    beside: ModelBundle | None = None,
    clusters: int = 0,
    share: bool = False,
) -> ModelBundle:
    """Write a family of one's own runs to ``out`` and return it, read back whole.

    Args:
        roles: role ("base") to a run's directory or the model in it. A run that trained an adapter (`lora:`)
            is added to the role's weights in ``start``.
        image_tokenizer: a run's directory or the model in it; text_tokenizer: a ``.model`` file.
        start: a family to take everything from that is not given: tokenizers, other roles, styles.
        settings: styles (added to ``start``'s), templates and sampling defaults.
        adapters: name to the run of an adapter that is kept beside the model, to be asked for by name.
        small: what is stored as int8 rows, half the size: roles among ``roles``, and ``image_tokenizer``.
        card: the model card; by default the one that is in ``out`` already stays.
        beside: a family in the same directory as ``out`` whose tokenizers are used where they are.
        clusters: how many clusters of image codes to make, for cluster sampling (CogView2, section 4.1).
        share: store once what a role has in common with the base role, and super-resolution in two stages
            with the CogLM; both have to be small or not.

    Raises CogViewError where a part is missing or trained with another tokenizer than the family's.
    """
    out, settings = Path(out), settings or FamilySettings()
    check_place(out)
    if share and BASE not in roles:
        raise CogViewError("--share stores once what roles have in common with base; give --base too")
    tokenizers = _tokenizers(beside or start, image_tokenizer, text_tokenizer)
    prints = tokenizers.prints
    given = {*roles, *({IMAGES} if beside is None else ())}
    for name in set(small) - given:
        raise CogViewError(f"there is no {name!r} that could be stored small; there are {', '.join(given)}")
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
    kept = _card(card, out)
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
    if kept is not None:
        write_file(out / CARD, kept)
    return family


def assemble_parts(parts: Parts, looks: Looks) -> ModelBundle:
    """As :func:`assemble`, of what a command line names."""
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
    """Where both tokenizers are, the image codes' vectors (codes, d), and the fingerprints."""

    images: Path
    text: Path
    vectors: Tensor
    prints: Fingerprints


def _tokenizers(source: ModelBundle | None, images: Path | None, text: Path | None) -> _Tokenizers:
    """Both tokenizers, given or ``source``'s."""
    where = model_directory(images) if images else _part(source, "image_tokenizer")
    path = text or _part(source, "text_tokenizer")
    tokenizer = read_image_tokenizer(where)
    prints = Fingerprints(
        image_tokenizer=tokenizer.fingerprint, text_tokenizer=TextTokenizer.from_file(path).fingerprint
    )
    return _Tokenizers(where, path, tokenizer.quantizer.codebook, prints)


def _places(beside: ModelBundle, out: Path) -> dict[str, str]:
    """The tokenizers' places in a neighbouring family, seen from ``out``; CogViewError for no neighbour."""
    if beside.directory.resolve().parent != out.resolve().parent:
        raise CogViewError(
            f"{out} does not lie beside {beside.directory}, whose tokenizers it is to share; give another "
            "directory, or --image-tokenizer and --text-tokenizer to copy them"
        )
    before = f"../{beside.directory.resolve().name}"
    return {
        "image_tokenizer": f"{before}/{beside.config.image_tokenizer}",
        "text_tokenizer": f"{before}/{beside.config.text_tokenizer}",
    }


def _labels(start: ModelBundle | None, tokenizers: _Tokenizers, count: int, folder: Path) -> Path | None:
    """The file of the codes' clusters: made again where a number is asked for, else ``start``'s, if any."""
    if count:
        cluster_codebook(tokenizers.vectors, folder / CLUSTERS, count)
        return folder / CLUSTERS
    name = None if start is None else start.config.clusters
    return None if start is None or name is None else start.directory / name


def _adapters(start: ModelBundle | None, given: Mapping[str, Path]) -> dict[str, Path]:
    """Name to directory of every adapter, ``start``'s and the given ones."""
    found = {name: start.directory / place for name, place in start.config.adapters.items()} if start else {}
    for name, run in given.items():
        found[name] = model_directory(run)
        if not (found[name] / LORA).is_file():
            raise CogViewError(f"{run} trained a whole model, not an adapter; give it as a role")
    return found


def _merged(role: str, adapter: Path, start: ModelBundle | None, out: Path) -> Path:
    """``start``'s model of a role with an adapter added to its weights, written to ``out``."""
    if start is None or role not in start.config.roles:
        raise CogViewError(f"{adapter} is an adapter; name the family that it adapts with --from")
    model = start.transformer(role)
    apply_adapter(model, adapter)
    model.save(out)
    return out


def _stored(
    given: Mapping[str, Path],
    new: Collection[str],
    small: Collection[str],
    start: ModelBundle | None,
    share: bool,
    folder: Path,
) -> dict[str, Path]:
    """The roles' models as they are to be stored; what is newly written stands in ``folder``."""
    parts = dict(given)
    for name in parts:
        if name in new and (parts[name] / LORA).is_file():
            parts[name] = _merged(name, parts[name], start, folder / name)
        if name in small:
            parts[name] = _small(parts[name], folder / f"{name}-small")
        elif name not in new and storage.shares(parts[name]):
            parts[name] = _small(parts[name], folder / f"{name}-whole")  # base may be another one now
    stages = COGLM if COGLM in parts else BASE  # whose weights direct and iterative super-resolution have
    for name in [name for name in parts if name not in (BASE, COGLM)] if share else ():
        owner = stages if name in (DIRECT, ITERATIVE) else BASE
        storage.save_without_shared(parts[name], parts[owner], folder / f"{name}-own", f"../{owner}")
        parts[name] = folder / f"{name}-own"
    return parts


def _next_tokens(new: Mapping[str, Path], start: ModelBundle | None, roles: set[str]) -> dict[str, Path]:
    """The tables of next tokens beside the weights of roles, by their place in the family."""
    places = dict[str, Path]()
    if start is not None:
        places = {name: start.directory / role.directory for name, role in start.config.roles.items()}
    files = {name: place / NEXT_TOKENS for name, place in {**places, **new}.items() if name in roles}
    return {f"{name}/{NEXT_TOKENS}": file for name, file in files.items() if file.is_file()}


def _small(model: Path, out: Path) -> Path:
    """A model again with its matrices as int8 rows, written to ``out``."""
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
        found, wanted = getattr(prints, part), facts[part]
        if found != wanted:
            raise CogViewError(
                f"{model} was trained with another {part.replace('_', ' ')} ({str(wanted)[:12]}, "
                f"not {found[:12]}); give the one its tokens were built with"
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
