"""``cogview eval upscaling``: super-resolution against plain enlargement, on held-out pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cogview.cli.arguments import existing, model_name
from cogview.errors import CogViewError

if TYPE_CHECKING:
    from cogview.evaluation.experiments.upscaling import UpscalingReport

Network = Literal["vgg16", "alexnet"]


def upscaling(
    data: Annotated[
        Path,
        typer.Option(
            "--data", callback=existing, help="A folder of pictures, a table or a folder of Parquet files."
        ),
    ],
    lpips: Annotated[
        Path,
        typer.Option(
            "--lpips", callback=existing, help="LPIPS weights, as `cogview import lpips` writes them."
        ),
    ],
    model: Annotated[
        str, typer.Option("--model", callback=model_name, help="A model's name or directory.")
    ] = "pictogram",
    network: Annotated[
        Network, typer.Option(help="Which network's weights those are; alexnet is 13 times cheaper.")
    ] = "vgg16",
    split: Annotated[str, typer.Option(help="The held-out split; '' for all.")] = "val",
    n: Annotated[int, typer.Option("-n", "--n", min=1, help="How many pictures, evenly spaced.")] = 200,
    captions: Annotated[
        bool, typer.Option("--captions/--no-captions", help="Tell the model what the pictures show.")
    ] = True,
    seed: Annotated[int, typer.Option(min=0, help="Decides the pictures drawn.")] = 0,
    temperature: Annotated[float | None, typer.Option(help="Default: the model's own.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Default: the model's own.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Default: the model's own.")] = None,
    detail: Annotated[
        float, typer.Option(min=0, max=1, help="How much of what was drawn to show (see cogview upscale).")
    ] = 0.6,
    order: Annotated[
        Literal["released", "diagonal", "confidence"],
        typer.Option(help="Of iterative super-resolution, for a family that has it."),
    ] = "released",
    resample: Annotated[
        str, typer.Option(help="How pictures are made smaller: box, bilinear, bicubic, lanczos.")
    ] = "box",
    batch: Annotated[int, typer.Option(min=1, help="Windows drawn together.")] = 64,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the report, with every number, as JSON.")
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option("--sheet", help="Write a picture of all versions above each other (PNG).")
    ] = None,
    shown: Annotated[int, typer.Option(min=1, help="Pictures on the sheet.")] = 10,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the report as JSON instead of a table.")
    ] = False,
) -> None:
    """LPIPS, SSIM and PSNR of upscaled pictures to the true large ones, against bicubic and Lanczos.

    Pictures of twice the model's size are halved and brought back; for a family of CogView2's kind, as many
    times as its direct model enlarges, and from their codes. Rows of the sheet are those of the table, the
    true pictures first.

    Examples:

      cogview eval upscaling --data corpus/ --lpips vgg16.safetensors -n 200 --out sr.json --sheet sr.png

      cogview eval upscaling --model pictogram-2 --data corpus216/ --lpips vgg16.safetensors -n 50
    """
    from cogview import from_pretrained as load
    from cogview.cli.evaluate import write_sheet
    from cogview.cli.progress import bars
    from cogview.config import validate
    from cogview.data.shards import Preprocessing
    from cogview.evaluation.experiments.enlarging import evaluate_enlarging
    from cogview.evaluation.experiments.upscaling import Plan, evaluate_upscaling
    from cogview.evaluation.metrics.reconstruction import spread
    from cogview.evaluation.reports import versions, write_report
    from cogview.tokenizers.perceptual import LPIPS

    judge = LPIPS.from_file(lpips, network)
    way = validate(Preprocessing, {"size": 1, "resample": resample}, "--resample").resample
    plan = Plan(split or None, n, captions, seed, way, batch, detail)
    given = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    sampling = {name: value for name, value in given.items() if value is not None}
    with bars() as progress:
        cogview = load(model)
        if cogview.two_stage:
            refuse_for_codes(sampling)
            report, ways, sources = evaluate_enlarging(cogview, data, judge, plan, order, progress)
        else:
            report, ways, sources = evaluate_upscaling(cogview, data, judge, plan, sampling, progress)
    report = report.model_copy(update={"facts": {**report.facts, **versions()}})
    if out:
        write_report(report, out)
    if sheet:
        rows = spread(sources, shown)
        write_sheet(sheet, [pictures[rows] for pictures in ways.values()], len(rows))
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
    else:
        _print(report)


def refuse_for_codes(sampling: dict[str, float]) -> None:
    """CogViewError for settings that direct and iterative super-resolution do not have."""
    if sampling:
        raise CogViewError(
            f"--{next(iter(sampling)).replace('_', '-')}: families of CogView2's kind draw large pictures "
            "with the release's settings; leave it away"
        )


def _print(report: UpscalingReport) -> None:
    from rich.console import Console
    from rich.table import Table

    count = next(iter(report.overall.values())).pictures
    table = Table(
        title=f"{report.facts['model']}: {count} pictures brought back to {report.facts['size']} px",
        title_justify="left",
    )
    for column in ("way", "LPIPS", "SSIM", "PSNR"):
        table.add_column(column, justify="left" if column == "way" else "right")
    for name, own in report.overall.items():
        table.add_row(name, f"{own.lpips:.4f}", f"{own.ssim:.4f}", f"{own.psnr:.2f} dB")
    console = Console()
    console.print(table)
    for pair in report.comparisons:
        half = (pair.high - pair.low) / 2
        console.print(
            f"LPIPS of {pair.first} minus {pair.second}: {pair.difference:+.4f} ±{half:.4f}, "
            f"nearer on {100 * pair.wins:.0f} % of the pictures",
            highlight=False,
        )
