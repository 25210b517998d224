"""``cogview export``: a model in a format that other programs read."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import typer

from cogview.cli.options import grouped
from cogview.config import Config, option

exports = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Export a model in a format that other programs read.",
)


@exports.callback()
def _group() -> None:
    """The family itself stays as it is."""


class Checkpoint(Config):
    """What is written, and how."""

    family: str = option(..., "A family's directory or name.", argument=True, metavar="MODEL")
    out: Path = option(..., "The new checkpoint's folder.", "--out", "-o")
    role: str = option("base", "Which of the family's transformers.")
    layout: Literal["megatron", "sat"] = option("megatron", "The original code's, or the later toolkit's.")
    model_parallel: int = option(1, "Shards, one a GPU.", ge=1, le=64)


@exports.command("cogview")
@grouped()
def cogview_command(given: Checkpoint) -> None:
    """A transformer as the original code's checkpoint: tracker file, mp_rank_*_model_states.pt.

    Imported again, it is identical, bit for bit.

    cogview export cogview models/cogview --role base -o cogview-base --layout sat
    """
    from cogview.checkpoints.bundle import ModelBundle
    from cogview.importers.export import export_transformer

    opened, shards = ModelBundle.find(given.family), given.model_parallel
    for path in export_transformer(opened, given.role, given.out, given.layout, shards):
        typer.echo(path)


class Onnx(Config):
    """Which family is written where, and how its weights are stored."""

    family: str = option(..., "A family's directory or name.", argument=True, metavar="MODEL")
    out: Path = option(..., "The new folder.", argument=True, metavar="OUT")
    weights: Literal["fp32", "fp16", "int8"] = option(
        "fp32", "How weights are stored; int8 is a quarter the size, and faster."
    )
    lora: str | None = option(
        None, "An adapter to add to the base model: one of the family's by name, or a directory."
    )
    lora_strength: float = option(1.0, "Strength of the adapter; 0: none.")


@exports.command("onnx")
@grouped()
def onnx_command(given: Onnx) -> None:
    """A family as ONNX graphs, for ONNX Runtime without PyTorch: on phones, in browsers, in other languages.

    Generate with them: python -m cogview.onnx generate FOLDER "a red apple"

    cogview export onnx pictogram pictogram-onnx --weights int8
    """
    from cogview.checkpoints.bundle import ModelBundle
    from cogview.errors import CogViewError

    try:
        from cogview.exporters.onnx_family import export_family, exported_roles
    except ModuleNotFoundError as error:
        raise CogViewError(f"{error.name} is not installed: pip install 'cogview[onnx]'") from error

    family = ModelBundle.find(given.family)
    if given.lora is None and given.lora_strength != 1.0:
        raise CogViewError("--lora-strength is of an adapter; name one with --lora")
    lora = None if given.lora is None else (given.lora, given.lora_strength)
    left = sorted(set(family.config.roles) - set(exported_roles(family.config)))
    made = export_family(family, given.out, given.weights, lambda part: typer.echo(part, err=True), lora)
    if left:
        typer.echo(f"left out: {', '.join(left)}; they have no ONNX graphs", err=True)
    typer.echo(
        f"{given.out}: {', '.join(made.tasks)}; {sum(f.bytes for f in made.files.values()) / 1e6:.1f} MB"
    )
