"""``cogview eval things`` and ``cogview eval scenes``: what readers see in a model's images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from cogview.cli.alignment import FirstStageOption
from cogview.cli.arguments import existing, model_name
from cogview.cli.precision import PrecisionOption

if TYPE_CHECKING:
    from cogview.config import Config
    from cogview.evaluation.experiments.scenes import ScenesReport
    from cogview.evaluation.experiments.things import ThingsReport
    from cogview.evaluation.metrics.scoring import Figure

P = TypeVar("P", bound="Config")
R = TypeVar("R", bound="Config")
SHOWN = 60  # images of each language on a sheet

ModelOption = Annotated[
    str, typer.Option("--model", callback=model_name, help="A model's name or directory.")
]
LanguagesOption = Annotated[str, typer.Option(help="Of the prompts, with a comma.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Decides the images.")]
Own = typer.Option(help="Default: the model's own.")
Number = Annotated[float | None, Own]
Count = Annotated[int | None, Own]
BatchOption = Annotated[int, typer.Option(min=1, help="Prompts generated together.")]
RankOption = Annotated[
    str, typer.Option(help="I/N: generate the I-th of N shares only; the last one reports.", metavar="I/N")
]
WorkOption = Annotated[Path, typer.Option("--work", help="Where images are kept, for stopped runs.")]
OutOption = Annotated[Path | None, typer.Option("--out", help="Write the report as JSON.")]
SheetOption = Annotated[Path | None, typer.Option("--sheet", help="Write a picture of images (PNG).")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the report as JSON instead of tables.")]


def things(
    model: ModelOption,
    reader: Annotated[
        Path,
        typer.Option("--reader", callback=existing, help="What `cogview train` made of task thing_reader."),
    ],
    n: Annotated[int, typer.Option("--n", "-n", min=2, help="How many prompts a language.")] = 2000,
    drawings: Annotated[
        Path | None,
        typer.Option(
            "--drawings",
            callback=existing,
            help="A labelled cache of training drawings: measures how often images copy them.",
        ),
    ] = None,
    languages: LanguagesOption = "en,zh",
    seed: SeedOption = 0,
    temperature: Number = None,
    top_k: Count = None,
    top_p: Number = None,
    guidance: Number = None,
    batch: BatchOption = 20,
    precision: PrecisionOption = "fp32",
    first_stage_only: FirstStageOption = False,
    rank: RankOption = "1/1",
    work: WorkOption = Path("runs/things"),
    out: OutOption = None,
    sheet: SheetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Whether images of bare names show the thing, by a reader of things; and whether they copy drawings.

    cogview eval things --model pictogram --reader runs/things/model -n 2000 --out things.json
    """
    from cogview.cli.progress import bars
    from cogview.evaluation.experiments.image_generator import ModelDrawer
    from cogview.evaluation.experiments.things import ThingsPlan, evaluate_things
    from cogview.evaluation.judges.thing_reader import ThingReader
    from cogview.evaluation.sample_store import rank_of

    sampling = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "guidance": guidance}
    plan = _plan(ThingsPlan, "eval things", n, seed, languages, batch, sampling)
    share, judge = rank_of(rank), ThingReader.from_directory(reader)
    drawer = ModelDrawer(model, precision, first_stage_only)
    with bars() as progress:
        found = evaluate_things(plan, judge, drawer, work, drawings, share, progress)
    _show(found, rank, out, sheet, None if as_json else _print_things)


def scenes(
    model: ModelOption,
    reader: Annotated[
        Path,
        typer.Option("--reader", callback=existing, help="What `cogview train` made of task scene_reader."),
    ],
    n: Annotated[
        int | None, typer.Option("--n", "-n", min=6, help="How many prompts a language.", show_default="all")
    ] = None,
    real: Annotated[
        Path | None,
        typer.Option("--real", callback=existing, help="A cache of the true scenes, for the ceiling."),
    ] = None,
    languages: LanguagesOption = "en,zh",
    seed: SeedOption = 0,
    temperature: Number = None,
    top_k: Count = None,
    top_p: Number = None,
    guidance: Number = None,
    batch: BatchOption = 20,
    precision: PrecisionOption = "fp32",
    first_stage_only: FirstStageOption = False,
    rank: RankOption = "1/1",
    work: WorkOption = Path("runs/scenes"),
    out: OutOption = None,
    sheet: SheetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Whether images show the scene that was asked for: GenEval's six tasks, by a reader of scenes.

    cogview eval scenes --model pictogram --reader runs/scenes/model --real work/judges/prompted
    """
    from cogview.cli.progress import bars
    from cogview.evaluation.experiments.image_generator import ModelDrawer
    from cogview.evaluation.experiments.scenes import ScenesPlan, evaluate_scenes
    from cogview.evaluation.judges.scene_reader import SceneReader
    from cogview.evaluation.sample_store import rank_of

    sampling = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "guidance": guidance}
    plan = _plan(ScenesPlan, "eval scenes", n, seed, languages, batch, sampling)
    share, judge = rank_of(rank), SceneReader.from_directory(reader)
    drawer = ModelDrawer(model, precision, first_stage_only)
    with bars() as progress:
        found = evaluate_scenes(plan, judge, drawer, work, real, share, progress)
    _show(found, rank, out, sheet, None if as_json else _print_scenes)


def _plan(
    kind: type[P],
    verb: str,
    n: int | None,
    seed: int,
    languages: str,
    batch: int,
    sampling: Mapping[str, Any],
) -> P:
    from cogview.config import validate

    settings = {
        "count": n,
        "seed": seed,
        "languages": [part.strip() for part in languages.split(",") if part.strip()],
        "batch": batch,
        "sampling": {name: value for name, value in sampling.items() if value is not None},
    }
    return validate(kind, settings, verb)


def _show(
    found: tuple[R, Mapping[str, list[Path]]] | None,
    rank: str,
    out: Path | None,
    sheet: Path | None,
    show: Callable[[R], None] | None,
) -> None:
    """Write what was found and show it, as JSON without ``show``; None: other shares are missing."""
    if found is None:
        typer.echo(f"share {rank} is generated; the same command reports when all shares are")
        return
    report, images = found
    _write(report, images, out, sheet)
    typer.echo(report.model_dump_json(indent=2)) if show is None else show(report)


def _write(report: Config, images: Mapping[str, list[Path]], out: Path | None, sheet: Path | None) -> None:
    from cogview.cli.evaluate import write_sheet
    from cogview.data.shards import Preprocessing
    from cogview.evaluation.reports import write_report
    from cogview.evaluation.sample_store import load_all

    if out:
        write_report(report, out)
    if sheet:
        shape = Preprocessing(size=128, resample="box")
        shown = min(SHOWN, *map(len, images.values()))
        rows = [[own[i * len(own) // shown] for i in range(shown)] for own in images.values()]
        write_sheet(sheet, [load_all(paths, shape) for paths in rows])


def _print_things(report: ThingsReport) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{report.facts['model']}: things, bare names", title_justify="left")
    for column in ("language", "images", "first, %", "of ceiling", "five, %", "of ceiling", "floor"):
        table.add_column(column, justify="left" if column == "language" else "right", no_wrap=True)
    for language, own in report.readings.items():
        shares = (own.first, own.first_of_ceiling, own.five, own.five_of_ceiling)
        table.add_row(language, str(own.images), *map(_percent, shares), f"{100 * own.floor:.1f}")
    console = Console()
    console.print(table)
    known = ", ".join(f"{name} {100 * value:.1f} %" for name, value in report.ceiling.items())
    counts = "" if report.counts else "; too low for the figures to count"
    console.print(f"ceiling: {known or 'not measured'}{counts}; ± half of the 95 % interval", style="dim")
    if report.difference:
        console.print(f"difference of the languages: {_percent(report.difference)} points", style="dim")
    if copied := report.copying:
        console.print(
            f"nearer to one of {copied.drawings} training drawings than two styles of a thing to each other "
            f"(cosine distance < {copied.threshold:.3f}): {_percent(copied.nearer)} %; "
            f"than the nearest twentieth of these ({copied.much:.3f}): {_percent(copied.much_nearer)} %"
        )


def _print_scenes(report: ScenesReport) -> None:
    from rich.console import Console
    from rich.table import Table

    for language, readings in report.readings.items():
        table = Table(title=f"{report.facts['model']}: scenes, {language}", title_justify="left")
        for column in ("task", "images", "right, %", "ceiling", "of ceiling", "floor"):
            table.add_column(column, justify="left" if column == "task" else "right", no_wrap=True)
        for task, own in readings.items():
            ceiling = "" if own.ceiling is None else f"{100 * own.ceiling:.1f}"
            cells = (_percent(own.right), ceiling, _percent(own.of_ceiling), f"{100 * own.floor:.1f}")
            table.add_row(task, str(own.images), *cells)
        Console().print(table)


def _percent(figure: Figure | None) -> str:
    return "" if figure is None else f"{100 * figure.value:.1f} ±{50 * (figure.high - figure.low):.1f}"
