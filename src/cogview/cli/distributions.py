"""``cogview eval pictures`` and ``cogview eval compare``: FID-k, KID-k and Inception Score."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from cogview.cli.arguments import existing
from cogview.errors import CogViewError

if TYPE_CHECKING:
    from rich.table import Table

    from cogview.evaluation.metrics.distributions import Value

PlaceHelp = "A folder of pictures, or a corpus of Parquet files."


def pictures(
    reference: Annotated[
        Path, typer.Argument(callback=existing, help=f"The real pictures. {PlaceHelp}", show_default=False)
    ],
    drawn: Annotated[
        Path,
        typer.Argument(callback=existing, help=f"The pictures to judge. {PlaceHelp}", show_default=False),
    ],
    weights: Annotated[
        Path,
        typer.Option(
            "--weights",
            callback=existing,
            help="What `cogview import lite0` or `cogview import inception` wrote.",
            show_default=False,
        ),
    ],
    metrics: Annotated[str, typer.Option(help="Of fid, kid and is, with commas.")] = "fid,kid",
    blur: Annotated[
        str, typer.Option(help="Radii of the blur of both sides, with commas: 0,1,2,4,8 is the paper's.")
    ] = "0",
    canvas: Annotated[int, typer.Option(min=16, help="Pixels a side at which pictures are blurred.")] = 256,
    resample: Annotated[str, typer.Option(help="Kernel of resizing: box, bilinear, bicubic, lanczos.")] = (
        "bicubic"
    ),
    preprocessing: Annotated[
        str, typer.Option(help="How Inception's input is resized: pytorch-fid or tensorflow.")
    ] = "pytorch-fid",
    bootstrap: Annotated[int, typer.Option(min=0, help="Resampled sets for the 95 % intervals.")] = 100,
    any_size: Annotated[
        bool, typer.Option("--any-size", help="Judge pictures of several sizes as one set.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Chooses KID's subsets and the resampled sets.")] = 0,
    split: Annotated[str | None, typer.Option(help="Rows of a corpus given as reference.")] = None,
    source: Annotated[str | None, typer.Option(help="Rows of a corpus given as reference.")] = None,
    count: Annotated[
        int | None, typer.Option("--count", "-n", min=2, help="So many of each side; default all.")
    ] = None,
    part: Annotated[
        str,
        typer.Option(
            help="I/N: only the I-th of N shares of the network's work; run once more without it to finish.",
            metavar="I/N",
        ),
    ] = "1/1",
    work: Annotated[Path, typer.Option(help="Where features are kept, for stopped runs.")] = Path(
        "runs/pictures"
    ),
    out: Annotated[Path | None, typer.Option(help="Write figures and manifest as JSON.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the JSON instead of a table.")] = False,
) -> None:
    """How near drawn pictures are to real ones: FID-k, KID-k, Inception Score, with a manifest.

    KID is unbiased and right for hundreds of pictures; FID needs thousands. Figures are called after the
    network, Lite0-FID or Inception-FID: compare those of one network with each other.

    cogview eval pictures photos/ out/ --weights lite0.safetensors --blur 0,1,2,4,8
    """
    from cogview.cli.progress import bars
    from cogview.config import validate
    from cogview.evaluation.metrics.distributions import DistributionPlan, compare_pictures, open_extractor
    from cogview.evaluation.metrics.pictures import open_set
    from cogview.evaluation.reports import write_report
    from cogview.evaluation.sample_store import rank_of

    given = {"metrics": listed(metrics), "blurs": listed(blur), "canvas": canvas, "resample": resample}
    plan = validate(DistributionPlan, {**given, "seed": seed, "bootstrap": bootstrap}, "eval pictures")
    share = rank_of(part, "--part")
    extractor = open_extractor(weights, canvas, preprocessing)
    real, other = open_set(reference, split, source, count), open_set(drawn, count=count)
    with bars() as progress:
        report = compare_pictures(real, other, plan, extractor, work, progress, share, any_size)
    if report is None:
        typer.echo(f"part {part} is done; run the same without --part when all parts are")
        return
    if out:
        write_report(report, out)
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
    else:
        show({str(drawn): report.figures})


def compare(
    reports: Annotated[
        list[Path],
        typer.Argument(
            callback=existing,
            help="What --out of `eval pictures`, `coco` or `alignment` wrote.",
            show_default=False,
        ),
    ],
) -> None:
    """Put reports side by side; refused, with the field named, where they were not measured the same way."""
    from cogview.evaluation.metrics.comparison import figures, read_reports

    if len(reports) < 2:
        raise CogViewError("one report is nothing to compare; give two or more")
    found = read_reports(reports)
    show({where: figures(report) for where, report in found.items()})


def listed(text: str) -> list[str]:
    """The words between commas."""
    return [word.strip() for word in text.split(",") if word.strip()]


def show(reports: dict[str, dict[str, Value]]) -> None:
    """Print the figures of reports side by side."""
    from rich.console import Console

    console = Console()
    console.print(table_of(reports))
    console.print("in brackets: 95 % interval", style="dim")


def table_of(reports: dict[str, dict[str, Value]]) -> Table:
    """A line for each figure and a column for each report."""
    from rich.table import Table

    table = Table("figure", *reports)
    for column in table.columns[1:]:
        column.justify = "right"
    for name in dict.fromkeys(name for own in reports.values() for name in own):
        table.add_row(name, *(_cell(own.get(name)) for own in reports.values()))
    return table


def _cell(value: Value | None) -> str:
    if value is None:
        return ""
    interval = "" if value.low is None else f" [{value.low:.4f}, {value.high:.4f}]"
    return escape(f"{value.value:.4f}{interval}")
