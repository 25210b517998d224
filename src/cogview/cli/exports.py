"""``cogview export``: a model in a form that other programs read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

exports = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Write a model in a form that other programs read.",
)


@exports.callback()
def _group() -> None:
    """The family itself stays as it is."""


@exports.command("cogview")
def cogview_command(
    family: Annotated[str, typer.Argument(metavar="MODEL", help="A family's directory or name.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The new checkpoint's folder.")],
    role: Annotated[str, typer.Option(help="Which of the family's transformers.")] = "base",
    layout: Annotated[
        Literal["megatron", "sat"], typer.Option(help="The original code's, or the later toolkit's.")
    ] = "megatron",
    model_parallel: Annotated[int, typer.Option(min=1, max=64, help="Shards, one a GPU.")] = 1,
) -> None:
    """A transformer as the original code's checkpoint: tracker file, mp_rank_*_model_states.pt.

    Imported again, it is the same to the bit.

    cogview export cogview models/cogview --role base -o cogview-base --layout sat
    """
    from cogview.checkpoints.bundle import ModelBundle
    from cogview.importers.export import export_transformer

    opened = ModelBundle.find(family)
    for path in export_transformer(opened, role, out, layout, model_parallel):
        typer.echo(path)
