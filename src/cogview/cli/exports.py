"""``cogview export``: convert a model to formats of other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import typer

from cogview.cli.options import grouped
from cogview.config import Config, option

exports = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Export a model in a format that other programs read."
)


@exports.callback()
def _group() -> None:
    """Export a family without changing it."""


class Checkpoint(Config):
    """The checkpoint to write."""

    family: str = option(..., "A family's directory or name.", argument=True, metavar="MODEL")
    out: Path = option(..., "The new folder for the checkpoint.", "--out", "-o")
    role: str = option("base", "Role of the transformer to export.")
    layout: Literal["megatron", "sat"] = option(
        "megatron", "Layout of the original code (megatron) or of the later toolkit (sat)."
    )
    model_parallel: int = option(1, "Number of shards, one for each GPU.", ge=1, le=64)


@exports.command("cogview")
@grouped()
def cogview_command(args: Checkpoint) -> None:
    """Export a transformer as a checkpoint of the original code: tracker file, mp_rank_*_model_states.pt.

    Importing it again gives bit-identical weights.

    cogview export cogview models/cogview --role base -o cogview-base --layout sat
    """
    from cogview.checkpoints.bundle import ModelBundle
    from cogview.importers.export import export_transformer

    family, shards = ModelBundle.find(args.family), args.model_parallel
    for path in export_transformer(family, args.role, args.out, args.layout, shards):
        typer.echo(path)


class Onnx(Config):
    """The family to export, and how its weights are stored."""

    family: str = option(..., "A family's directory or name.", argument=True, metavar="MODEL")
    out: Path = option(..., "The new folder.", argument=True, metavar="OUT")
    weights: Literal["fp32", "fp16", "int8"] = option(
        "fp32", "Precision of the stored weights; int8 is a quarter of the size, and faster."
    )
    lora: str | None = option(
        None, "An adapter to merge into the base model: its name in the family, or a directory."
    )
    lora_strength: float = option(1.0, "Strength of the adapter; 0: none.")


@exports.command("onnx")
@grouped()
def onnx_command(args: Onnx) -> None:
    """Export a family as ONNX graphs, for ONNX Runtime without PyTorch: on phones, in browsers, in other
    languages.

    To generate images with them: python -m cogview.onnx generate FOLDER "a red apple"

    cogview export onnx pictogram pictogram-onnx --weights int8
    """
    from cogview.checkpoints.bundle import ModelBundle
    from cogview.errors import CogViewError

    try:
        from cogview.exporters.onnx_family import export_family, exported_roles
    except ModuleNotFoundError as error:
        raise CogViewError(f"{error.name} is not installed: pip install 'cogview[onnx]'") from error

    family = ModelBundle.find(args.family)
    if args.lora is None and args.lora_strength != 1.0:
        raise CogViewError("--lora-strength needs an adapter; name one with --lora")
    lora = None if args.lora is None else (args.lora, args.lora_strength)
    skipped = sorted(set(family.config.roles) - set(exported_roles(family.config)))
    manifest = export_family(family, args.out, args.weights, lambda part: typer.echo(part, err=True), lora)
    if skipped:
        typer.echo(f"left out: {', '.join(skipped)}; there are no ONNX graphs for these roles", err=True)
    size = sum(file.bytes for file in manifest.files.values())
    typer.echo(f"{args.out}: {', '.join(manifest.tasks)}; {size / 1e6:.1f} MB")
