"""``cogview export``: a model in a form that other programs read."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import typer

from cogview.cli.options import grouped
from cogview.config import Config, option

exports = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Write a model in a form that other programs read.",
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

    Imported again, it is the same to the bit.

    cogview export cogview models/cogview --role base -o cogview-base --layout sat
    """
    from cogview.checkpoints.bundle import ModelBundle
    from cogview.importers.export import export_transformer

    opened, shards = ModelBundle.find(given.family), given.model_parallel
    for path in export_transformer(opened, given.role, given.out, given.layout, shards):
        typer.echo(path)
