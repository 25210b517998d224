"""``cogview eval fairness``: what a model draws where the prompt leaves it open."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cogview.cli.arguments import existing, model_name
from cogview.cli.precision import PrecisionOption

if TYPE_CHECKING:
    from cogview.evaluation.experiments.fairness import FairnessReport, Reading


def fairness(
    audit: Annotated[
        Path,
        typer.Argument(
            callback=existing, help="A YAML file of prompt sets, such as recipes/fairness/avatars.yaml."
        ),
    ],
    model: Annotated[str, typer.Option("--model", callback=model_name, help="A model's name or directory.")],
    classifier: Annotated[
        Path,
        typer.Option("--classifier", callback=existing, help="What `cogview eval train-classifier` wrote."),
    ],
    corpus: Annotated[
        Path | None,
        typer.Option(
            "--corpus",
            callback=existing,
            help="Also give the shares in its training pictures, and check the reader.",
        ),
    ] = None,
    n: Annotated[int, typer.Option("--n", "-n", min=1, help="Pictures for each set and way.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Decides words and pictures.")] = 0,
    temperature: Annotated[float | None, typer.Option(help="Default: the model's own.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Default: the model's own.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Default: the model's own.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Default: the model's own.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Pictures drawn together.")] = 20,
    source: Annotated[str, typer.Option(help="Which rows of the corpus; '' for all.")] = "dice",
    precision: PrecisionOption = "fp32",
    work: Annotated[Path, typer.Option("--work", help="Where pictures are kept, for stopped runs.")] = Path(
        "runs/fairness"
    ),
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the report, every number, as JSON.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw the proportions as bars (PNG, SVG or PDF).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Proportions of what is drawn for open prompts, with Wilson intervals; with and without word replacing.

    cogview eval fairness recipes/fairness/avatars.yaml --model pictogram --classifier runs/classifier
    """
    from cogview.cli.progress import bars
    from cogview.config import validate
    from cogview.evaluation.experiments.fairness import AuditPlan, evaluate_fairness, read_audit
    from cogview.evaluation.experiments.image_generator import ModelDrawer
    from cogview.evaluation.judges.classifier import AttributeReader
    from cogview.evaluation.plots import plot_fairness
    from cogview.evaluation.reports import write_report

    given = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "guidance": guidance}
    sampling = {name: value for name, value in given.items() if value is not None}
    plan = validate(
        AuditPlan, {"count": n, "seed": seed, "batch": batch, "sampling": sampling}, "eval fairness"
    )
    asked, tables = read_audit(audit)
    reader, drawer = AttributeReader.from_directory(classifier), ModelDrawer(model, precision)
    with bars() as progress:
        report = evaluate_fairness(
            asked, tables, plan, reader, drawer, work, corpus, source or None, progress
        )
    if out:
        write_report(report, out)
    if plot:
        plot_fairness(report, plot)
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
    else:
        _print(report)


def _print(report: FairnessReport) -> None:
    """A table for each set: a value on each line, a way in each column."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for name, ways in report.readings.items():
        table = Table(title=f"{report.facts['model']}: {name}, %", title_justify="left")
        table.add_column("value", no_wrap=True)
        for way, reading in ways.items():
            table.add_column(f"{way}\n({reading.pictures})", justify="right")
        for value in next(iter(ways.values())).proportions:
            table.add_row(value, *(_cell(reading, value) for reading in ways.values()))
        console.print(table)
        for way, reading in ways.items():
            if line := _line(way, reading):
                typer.echo(line)
        if name in report.reader and report.reader[name].stated:
            share = report.reader[name]
            typer.echo(f"classifier: {share.right} of {share.stated} unseen real pictures read right")


def _cell(reading: Reading, value: str) -> str:
    own = reading.proportions[value]
    text = f"{100 * own.share:.1f} ({100 * own.low:.0f}–{100 * own.high:.0f})"
    return f"{text} of {100 * reading.wanted.get(value, 0.0):.0f}" if reading.wanted else text


def _line(way: str, reading: Reading) -> str:
    """What a table has no place for."""
    parts = []
    if reading.right is not None:
        parts.append(f"{100 * reading.right.value:.1f} % of the pictures show what their words name")
    if reading.distance is not None and reading.chance is not None:
        parts.append(
            f"distance to what was asked {reading.distance:.3f} (by chance up to {reading.chance:.3f})"
        )
    return f"{way}: {'; '.join(parts)}" if parts else ""
