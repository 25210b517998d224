"""``cogview data``: check data sets, and build token shards, image caches and text tokenizers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from cogview.checkpoints.bundle import ModelBundle, ModelName
from cogview.cli.options import JSON, grouped
from cogview.cli.output import bar, writing
from cogview.config import Config, Existing, option
from cogview.data.build_plan import Building, Decoding, Learned, Origin, Square, Tokenizers, build
from cogview.data.shards import read_index
from cogview.data.sources import VALIDATION
from cogview.errors import CogViewError
from cogview.ray_cluster import Cluster

if TYPE_CHECKING:
    from cogview.data.tally import Report

data = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Check a data set, and build inputs of training: image caches, text tokenizers, token shards.",
)


class ReportOptions(Config):
    """How a report is printed."""

    as_json: bool = JSON

    def show(self, report: Report) -> None:
        """Print it."""
        typer.echo(report.model_dump_json(indent=2) if self.as_json else "\n".join(report.lines()))


class Checking(ReportOptions):
    """Where the report goes."""

    report: Path | None = option(None, "Write the report, with every rejected record, to a JSON file.")


@data.command("check")
@grouped()
def check_command(origin: Origin, decoding: Decoding, checking: Checking) -> None:
    """Read every record, count the usable ones and list what is wrong with the others.

    Exits with code 2 if an image or a caption cannot be used. Images rejected by filters are only counted,
    and so are images without a caption, for which train-on uses the file names.
    """
    from cogview.data.check import check

    opened = origin.open(decoding.validation)
    processes = decoding.processes(opened)
    with bar("checking", "count") as progress:
        report = check(opened, decoding.limits, progress, processes)
    if checking.report:
        with writing(checking.report):
            report.save(checking.report)
    checking.show(report)
    if report.bad == report.nameless > 0:
        advice = "build leaves them out, train-on captions them by their file names (--unnamed)"
        typer.echo(f"{report.nameless:,} images have no caption: {advice}", err=True)
    elif broken := report.bad - report.filtered:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in report.rejected.items())
        raise CogViewError(
            f"{origin.source}: {broken:,} of {report.records:,} records cannot be used: {reasons}"
        )


@data.command("build")
@grouped()
def build_command(
    origin: Origin,
    building: Building,
    tokenizers: Tokenizers,
    decoding: Decoding,
    square: Square,
    cluster: Cluster,
    report: ReportOptions,
) -> None:
    """Encode images and captions into token shards. A stopped build continues when it is run again.

    cogview data build pets/ tokens/ --tokenizers pictogram

    On several machines with a shared folder, or with several GPUs:

    torchrun --nproc-per-node 8 --no-python cogview data build pets/ tokens/ --tokenizers pictogram

    cogview data build pets/ tokens/ --tokenizers pictogram --rank 3 --ranks 16

    cogview data build pets/ tokens/ --tokenizers pictogram --ray auto
    """
    with bar("encoding", "count") as progress:
        result = build(origin, building, tokenizers, decoding, square, cluster, progress)
    if result.report:
        report.show(result.report)
        entries = read_index(building.out).shards
        size = sum(file.bytes for entry in entries for file in entry.files.values())
        typer.echo(f"  {result.report.sizes(size)}", err=report.as_json)
    else:
        share = building.share()
        done = f"{result.done} of {result.blocks} shards are done"
        typer.echo(
            f"rank {share.rank} of {share.ranks} has finished; {done}; the last rank assembles the data set"
        )


class Released(Config):
    """The data to convert."""

    released: Existing = option(
        ..., "A flat int32 file or an LMDB written by CogView's tools.", argument=True, metavar="FILE"
    )
    out: Path = option(..., "The directory for the shards.", argument=True, metavar="OUT")
    tokenizers: ModelName = option(
        ..., "The imported family whose tokenizers the token ids are of.", metavar="FAMILY"
    )
    validation: float = option(VALIDATION, 'Share of the pairs for the split "val".', ge=0, le=1)


@data.command("convert")
@grouped()
def convert_command(args: Released) -> None:
    """Convert data tokenized by CogView's own tools to token shards."""
    from cogview.data.convert import Conversion, convert

    conversion = Conversion.of(ModelBundle.find(args.tokenizers))
    with bar("converting", "count") as progress:
        shards = convert(args.released, args.out, conversion, args.validation, progress)
    typer.echo(f"{len(shards):,} pairs in {args.out}")


class Cache(ReportOptions):
    """The cache to build."""

    out: Path = option(..., "The directory for the cache.", argument=True, metavar="OUT")
    size: int = option(..., "Side of the square images, in pixels.", ge=1)


@data.command("cache")
@grouped()
def cache_command(origin: Origin, cache: Cache, decoding: Decoding, square: Square) -> None:
    """Decode every image once into one file, for training an image tokenizer (captions are not needed)."""
    opened = origin.open(decoding.validation)
    from cogview.data.image_cache import build_image_cache

    processes, shape = decoding.processes(opened), square.of(cache.size)
    with bar("decoding", "count") as progress:
        built = build_image_cache(opened, cache.out, shape, decoding.limits, progress, processes)
    cache.show(built.index.report)


@data.command("text-tokenizer")
@grouped()
def text_tokenizer_command(origin: Origin, learned: Learned) -> None:
    """Train a text tokenizer on all captions, including those with style phrases, and the keywords.

    cogview data text-tokenizer pets/ work/text.model --pieces 50000 --algorithm bpe

    cogview data text-tokenizer pets/ work/text.model --pieces 130000 --classes
    """
    tokenizer = learned.train(origin.open())
    from cogview.tokenizers.language_classes import class_runs

    with writing(learned.out):
        tokenizer.save(learned.out)
    runs = ", ".join(f"{name} {end - first:,}" for name, first, end in class_runs(tokenizer))
    typer.echo(f"{tokenizer.pieces:,} pieces in {learned.out}{f': {runs}' if runs else ''}")
