"""Exports a family as ONNX graphs with a manifest (``cogview export onnx``), for runtimes without PyTorch."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Container
from pathlib import Path
from typing import cast

from cogview.checkpoints.bundle import (
    BASE,
    CAPTION,
    COGLM,
    DIRECT,
    ITERATIVE,
    UPSCALING,
    FamilyConfig,
    ModelBundle,
)
from cogview.checkpoints.components import adapter_facts
from cogview.checkpoints.provenance import software
from cogview.errors import CogViewError
from cogview.exporters.graph import OPSET
from cogview.exporters.image_graph import write_image_tokenizer
from cogview.exporters.transformer_graph import write_transformer
from cogview.files import replace_directory, spare_name
from cogview.importers.family import check_new, check_space
from cogview.onnx.manifest import (
    FILE,
    CaptionLayout,
    Fitting,
    Manifest,
    PromptLayout,
    Task,
    Weights,
    facts_of,
)
from cogview.sequences.protocols import CaptionFormat, Format, ImageFormat
from cogview.tokenizers.clusters import read_labels
from cogview.tokenizers.loading import side_of
from cogview.tokenizers.text import TextTokenizer
from cogview.tokenizers.vqvae import ImageTokenizer
from cogview.transformer.lora import apply_adapter
from cogview.transformer.model import Transformer
from cogview.vocabulary import Vocabulary

BYTES = {"fp32": 4, "fp16": 2, "int8": 1}  # per weight
KINDS = {  # (role, sequence format) that can be exported, and the heads they need
    (BASE, "text_to_image"): ("image",),
    (BASE, "coglm"): ("image", "text"),
    (CAPTION, "image_to_text"): ("text",),
    (COGLM, "coglm"): ("image", "text"),
    (UPSCALING, "super_resolution"): ("image",),
    (DIRECT, "direct_super_resolution"): ("image",),
    (ITERATIVE, "iterative_super_resolution"): ("image",),
}
Progress = Callable[[str], None]


def exported_roles(family: FamilyConfig, only: Container[str] | None = None) -> dict[str, tuple[str, ...]]:
    """The roles, of ``only``, that can be exported, with their heads; CogViewError if there are none."""
    kinds = {name: KINDS.get((name, role.sequences.kind)) for name, role in family.roles.items()}
    roles = {n: heads for n, heads in kinds.items() if heads is not None and (only is None or n in only)}
    if not roles:
        raise CogViewError(f"the model {family.name} has no role that can be exported to ONNX")
    return roles


def export_family(
    family: ModelBundle,
    out: Path,
    weights: Weights = "fp32",
    progress: Progress | None = None,
    lora: tuple[str | Path, float] | None = None,
    only: Container[str] | None = None,
) -> Manifest:
    """Write a family into a new folder, completely or not at all.

    Args:
        weights: precision of matrices. fp16 is computed in float32, int8 in integers.
        lora: an adapter of the base model (one of the family's by name, or its directory) and its strength;
            it is merged into the weights.
        only: the roles to export, if the family has them; default: all that can be exported.
        progress: called with the name of each part before it is written.

    Raises:
        CogViewError: a part cannot be exported, the folder exists, or there is too little disk space.
    """
    roles, report = exported_roles(family.config, only), progress or (lambda part: None)
    adapter = None if lora is None else (family.adapter(lora[0]), lora[1])
    if adapter is not None and BASE not in roles:
        raise CogViewError(f"the model {family.config.name} has no base model to apply an adapter to")
    check_new(out)
    for name in roles:
        family.check(name)
    tokenizer = family.image_tokenizer()
    if not isinstance(tokenizer, ImageTokenizer):
        raise CogViewError(
            f"the image tokenizer of {family.config.name} has several scales; it cannot be exported"
        )
    check_space(out, _bytes(family, tokenizer, roles, weights))
    temporary = spare_name(out.resolve())
    try:
        temporary.mkdir(parents=True)
        manifest = _write(family, tokenizer, temporary, roles, weights, report, adapter)
        for old in replace_directory(temporary, out.resolve()):
            shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise CogViewError(f"{out}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return manifest


def _write(
    family: ModelBundle,
    tokenizer: ImageTokenizer,
    folder: Path,
    roles: dict[str, tuple[str, ...]],
    weights: Weights,
    progress: Progress,
    adapter: tuple[Path, float] | None,
) -> Manifest:
    """Write all files, the manifest last."""
    config = family.config
    progress("image tokenizer")
    image = write_image_tokenizer(tokenizer, folder / "image", weights)
    text = family.text_tokenizer()
    text.save(folder / "text.model")
    transformers, lora = {}, None
    for name, heads in roles.items():
        progress(name)
        ids = {head: _ids(head, config.roles[name].sequences.vocabulary) for head in heads}
        model = family.transformer(name)
        if adapter is not None and name == BASE:
            lora = adapter_facts(adapter, apply_adapter(model, *adapter))
        length = config.roles[name].sequences.max_length
        transformers[name] = write_transformer(model, folder / name, ids, length, weights)
    labels = (
        None
        if config.clusters is None
        else read_labels(family.directory / config.clusters, config.vocabulary.image_codes)
    )
    manifest = Manifest(
        software=software(),
        opset=OPSET,
        model_hash=family.hash,
        weights=weights,
        tasks=tasks(config, roles),
        family=_exported_config(config, roles),
        prompt=_prompt(config, roles),
        captions=_captions(config, roles, text),
        fitting=_fitting(family, tokenizer, roles),
        transformers=transformers,
        image=image,
        text="text.model",
        clusters=None if labels is None else labels.tolist(),
        lora=lora,
        files={
            path.relative_to(folder).as_posix(): facts_of(path)
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        },
    )
    (folder / FILE).write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return Manifest.read(folder)


def tasks(config: FamilyConfig, roles: dict[str, tuple[str, ...]]) -> tuple[Task, ...]:
    """The tasks that a runtime can perform with the exported roles."""
    supported: dict[Task, bool] = {
        "generate": BASE in roles,
        "caption": any("text" in heads for heads in roles.values()),
        "score": any("text" in heads for heads in roles.values()),
        "upscale": UPSCALING in roles or DIRECT in roles,
        "edit": config.coglm in roles,
    }
    return tuple(task for task, is_supported in supported.items() if is_supported)


def _ids(head: str, vocabulary: Vocabulary) -> range:
    """The ids for which a head returns logits."""
    return vocabulary.images if head == "image" else range(vocabulary.texts.start, vocabulary.size)


def _exported_config(config: FamilyConfig, roles: dict[str, tuple[str, ...]]) -> FamilyConfig:
    """The configuration of the exported family."""
    update = {
        "roles": {name: config.roles[name] for name in roles},
        "image_tokenizer": "image",
        "text_tokenizer": "text.model",
        "clusters": None,
        "adapters": {},
    }
    return config.model_copy(update=update)


def _prompt(config: FamilyConfig, roles: dict[str, tuple[str, ...]]) -> PromptLayout | None:
    format: Format | None = config.roles[BASE].sequences if BASE in roles else None
    return None if format is None else PromptLayout.of(cast("ImageFormat", format))


def _captions(
    config: FamilyConfig, roles: dict[str, tuple[str, ...]], text: TextTokenizer
) -> CaptionLayout | None:
    """The layout of the captioning role; None if there is none."""
    name = next((name for name in (CAPTION, COGLM, BASE) if "text" in roles.get(name, ())), None)
    return (
        None if name is None else CaptionLayout.of(cast("CaptionFormat", config.roles[name].sequences), text)
    )


def _fitting(
    family: ModelBundle, tokenizer: ImageTokenizer, roles: dict[str, tuple[str, ...]]
) -> Fitting | None:
    """How images are resized for the caption model; as in :mod:`cogview.pipelines`."""
    if CAPTION in roles:
        released = family.check(CAPTION).numerics == "released"
        return Fitting(size=tokenizer.image_size, crop=True, resample="bilinear" if released else "box")
    coglm = family.config.coglm
    if coglm is None:
        return None
    size = side_of(tokenizer, family.config.roles[coglm].sequences.grid[0])
    return Fitting(size=size, crop=False, resample="bilinear")


def _bytes(
    family: ModelBundle, tokenizer: ImageTokenizer, roles: dict[str, tuple[str, ...]], weights: Weights
) -> int:
    """An estimate of the number of bytes to write."""
    counts = [x.numel() for x in tokenizer.state_dict().values()]
    counts += [x.numel() for name in roles for x in Transformer.shapes(family.check(name)).values()]
    return int(sum(counts)) * BYTES[weights]
