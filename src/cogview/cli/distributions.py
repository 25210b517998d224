"""``cogview eval pictures`` and ``cogview eval compare``: FID-k, KID-k and Inception Score."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cogview.errors import CogViewError

if TYPE_CHECKING:
    from rich.table import Table

    from cogview.evaluation.distributions import DistributionReport

PlaceHelp = "A folder of pictures, or a corpus of Parquet files."


def pictures(
    reference: Annotated[Path, typer.Argument(help=f"The real pictures. {PlaceHelp}", show_default=False)],
    drawn: Annotated[Path, typer.Argument(help=f"The pictures to judge. {PlaceHelp}", show_default=False)],
    weights: Annotated[
        Path, typer.Option("--weights", help="What `cogview import lite0` wrote.", show_default=False)
    ],
    metrics: Annotated[str, typer.Option(help="Of fid, kid and is, with commas.")] = "fid,kid",
    blur: Annotated[
        str, typer.Option(help="Radii of the blur of both sides, with commas: 0,1,2,4,8 is the paper's.")
    ] = "0",
    canvas: Annotated[int, typer.Option(min=16, help="Pixels a side at which pictures are blurred.")] = 256,
    resample: Annotated[str, typer.Option(help="Kernel of resizing: box, bilinear, bicubic, lanczos.")] = (
        "bicubic"
    ),
    seed: Annotated[int, typer.Option(min=0, help="Chooses KID's subsets.")] = 0,
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

    KID is unbiased and right for hundreds of pictures; FID needs thousands. The network is
    EfficientNet-Lite0, and the figures are called Lite0-FID and Lite0-KID: compare them among each other.

    cogview eval pictures photos/ out/ --weights lite0.safetensors --blur 0,1,2,4,8
    """
    from cogview.cli.evaluate import bars
    from cogview.config import validate
    from cogview.evaluation.distributions import DistributionPlan, Lite0Extractor, compare_pictures
    from cogview.evaluation.pictures import open_set
    from cogview.evaluation.reports import write_report

    given = {"metrics": _listed(metrics), "blurs": _listed(blur), "canvas": canvas, "resample": resample}
    plan = validate(DistributionPlan, {**given, "seed": seed}, "eval pictures")
    share = _share(part)
    extractor = Lite0Extractor(weights)
    real, other = open_set(reference, split, source, count), open_set(drawn, count=count)
    with bars() as progress:
        report = compare_pictures(real, other, plan, extractor, work, progress, share)
    if report is None:
        typer.echo(f"part {part} is done; run the same without --part when all parts are")
        return
    if out:
        write_report(report, out)
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
    else:
        _print({str(drawn): report})


def compare(
    reports: Annotated[
        list[Path], typer.Argument(help="Reports of `cogview eval pictures --out`.", show_default=False)
    ],
) -> None:
    """Put reports side by side; refused, with the field named, where they were not measured the same way."""
    from cogview.evaluation.distributions import read_reports

    if len(reports) < 2:
        raise CogViewError("one report is nothing to compare; give two or more")
    _print(read_reports(reports))


def _listed(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _share(text: str) -> tuple[int, int]:
    """(0-based number, of how many) of "2/4"."""
    first, _, second = text.partition("/")
    if not (first.isdecimal() and second.isdecimal() and 1 <= int(first) <= int(second)):
        raise CogViewError(f"--part {text}: expected I/N with 1 <= I <= N, such as 2/4")
    return int(first) - 1, int(second)


def _print(reports: dict[str, DistributionReport]) -> None:
    from rich.console import Console

    Console().print(_table(reports))


def _table(reports: dict[str, DistributionReport]) -> Table:
    from rich.table import Table

    names = list(dict.fromkeys(name for report in reports.values() for name in report.figures))
    table = Table("pictures", "n", *names)
    for where, report in reports.items():
        cells = []
        for name in names:
            value = report.figures.get(name)
            spread = f" ±{value.spread:.4f}" if value and value.spread is not None else ""
            cells.append(f"{value.value:.4f}{spread}" if value else "")
        table.add_row(where, str(report.drawn.count), *cells)
    return table
