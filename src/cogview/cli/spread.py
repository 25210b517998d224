"""``cogview eval diversity`` and ``cogview eval speed``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cogview.cli.arguments import existing, model_name
from cogview.cli.precision import PrecisionOption

if TYPE_CHECKING:
    from cogview.evaluation.metrics.scoring import Figure

OutOption = Annotated[Path | None, typer.Option(help="Write the report, with every number, as JSON.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]


def diversity(
    pictures: Annotated[
        Path,
        typer.Argument(
            callback=existing,
            help="A folder of pictures, best drawn here (they tell their prompts), or a corpus of Parquet.",
        ),
    ],
    weights: Annotated[
        Path,
        typer.Option(
            "--weights", callback=existing, help="What `cogview import lite0` or `inception` wrote."
        ),
    ],
    split: Annotated[str | None, typer.Option(help="Of a corpus: only this split.")] = None,
    source: Annotated[str | None, typer.Option(help="Of a corpus: only rows of this source.")] = None,
    count: Annotated[int | None, typer.Option("-n", min=2, help="So many pictures; default all.")] = None,
    prompts: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Of a corpus: pictures are of the same prompt that have the same text here.",
        ),
    ] = None,
    bootstrap: Annotated[int, typer.Option(min=0, help="Resampled sets for the 95 % intervals.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Chooses these.")] = 0,
    work: Annotated[Path, typer.Option(help="Where features are kept, for stopped runs.")] = Path(
        "runs/pictures"
    ),
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """How different pictures are: of one prompt, of different prompts, and altogether (Vendi score).

    cogview eval diversity out/ --weights lite0.safetensors

    cogview eval diversity corpus --split test_concept --prompts en --weights lite0.safetensors
    """
    from cogview.cli.progress import bars
    from cogview.evaluation.metrics.distributions import open_extractor
    from cogview.evaluation.metrics.diversity import DiversityPlan, column, evaluate_diversity
    from cogview.evaluation.metrics.pictures import open_set
    from cogview.evaluation.reports import write_report

    extractor, found = open_extractor(weights), open_set(pictures, split, source, count)
    texts = column(pictures, found, prompts) if prompts else None
    plan = DiversityPlan(bootstrap=bootstrap, seed=seed)
    with bars() as progress:
        report = evaluate_diversity(found, extractor, plan, work, progress, texts)
    if out:
        write_report(report, out)
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
        return
    typer.echo(f"{len(found)} pictures, {report.prompts} prompts, distances by {report.extractor}")
    typer.echo(f"within a prompt: {_distance(report.within)}; across prompts: {_distance(report.across)}")
    typer.echo(f"Vendi score: {report.vendi:.1f} of {len(found)}")


def _distance(figure: Figure | None) -> str:
    if figure is None:
        return "not to be told"
    return f"{figure.value:.4f} [{figure.low:.4f}, {figure.high:.4f}]"


def speed(
    model: Annotated[str, typer.Option("--model", callback=model_name, help="A model's name or directory.")],
    batches: Annotated[str, typer.Option(help="Pictures drawn at a time, with commas.")] = "1,4",
    repeats: Annotated[int, typer.Option(min=1, help="How often each is timed.")] = 3,
    prompt: Annotated[str | None, typer.Option(help="What to draw.", show_default="a monster")] = None,
    precision: PrecisionOption = "fp32",
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """How fast a model draws on this machine.

    cogview eval speed --model pictogram --batches 1,4,16
    """
    from cogview.cli.distributions import listed
    from cogview.cli.progress import bars
    from cogview.config import validate
    from cogview.evaluation.experiments.speed import SpeedPlan, measure_speed
    from cogview.evaluation.reports import write_report

    settings = {"batches": listed(batches), "repeats": repeats} | ({"prompt": prompt} if prompt else {})
    plan = validate(SpeedPlan, settings, "eval speed")
    with bars() as progress:
        report = measure_speed(model, plan, precision, progress)
    if out:
        write_report(report, out)
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
        return
    typer.echo(
        f"{report.model}, {report.precision}, {report.device}, {report.threads} threads: "
        f"ready after {report.ready:.2f} s, first picture after {report.first:.2f} s more"
    )
    for own in report.timings:
        typer.echo(
            f"{own.pictures} at a time: {own.seconds:.2f} s ({own.fastest:.2f} to {own.slowest:.2f}), "
            f"{own.pictures_per_minute:.1f} pictures a minute, {own.tokens_per_second:.0f} tokens a second"
        )
