"""``cogview eval train-scorer`` and ``cogview eval alignment``: R-precision and retrieval."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cogview.cli.arguments import drawer_name, existing, model_name
from cogview.cli.precision import Precision, PrecisionOption
from cogview.errors import CogViewError

if TYPE_CHECKING:
    from cogview.evaluation.experiments.alignment import AlignmentReport
    from cogview.evaluation.metrics.scoring import Figure
    from cogview.evaluation.sample_store import Drawer
    from cogview.tokenizers.text import TextTokenizer

SHOWN = 40
DataHelp = "A folder of pictures with captions, a table, or a folder of Parquet files."
DataOption = Annotated[Path, typer.Option("--data", callback=existing, help=DataHelp)]
SourceOption = Annotated[str | None, typer.Option(help="Only rows of this source.")]
FirstStageOption = Annotated[
    bool,
    typer.Option("--first-stage-only", help="Of models of several steps: the small pictures of the first."),
]


def train_scorer(
    data: DataOption,
    out: Annotated[Path, typer.Option("--out", help="The scorer's directory.")],
    model: Annotated[
        str,
        typer.Option(
            callback=model_name, help="The family whose text pieces it reads: a name or a directory."
        ),
    ] = "pictogram",
    text_tokenizer: Annotated[
        Path | None,
        typer.Option(
            callback=existing, help="A SentencePiece model instead of the family's.", show_default=False
        ),
    ] = None,
    size: Annotated[int, typer.Option(min=16, help="Side of the pictures it reads, in pixels.")] = 72,
    epochs: Annotated[float, typer.Option(help="Passes over the training pictures.")] = 3.0,
    batch: Annotated[int, typer.Option(min=4, help="Pictures compared with each other.")] = 256,
    rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 2e-3,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    split: Annotated[
        str, typer.Option(help="What it learns from; keep what you measure out of it.")
    ] = "train",
    limit: Annotated[
        int | None, typer.Option(min=4, help="At most so many pictures, of all sources.", show_default="all")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Train even if it is already there.")] = False,
) -> None:
    """Train the scorer that says how well a picture and a sentence fit, on real pictures and their captions.

    cogview eval train-scorer --data corpus --out runs/scorer
    """
    from cogview.cli.progress import bars
    from cogview.config import validate
    from cogview.evaluation.judges.scorer_training import ScorerTraining, train_from_data, up_to_date

    settings = {"epochs": epochs, "batch": batch, "rate": rate, "seed": seed}
    training = validate(ScorerTraining, settings, "train-scorer")
    if not force and up_to_date(out, data, training, size, split, limit):
        typer.echo(f"{out} is up to date; --force trains it anew")
        return
    text = _text(model, text_tokenizer)
    with bars() as progress:
        scorer = train_from_data(data, text, training, size, split, limit, progress)
    try:
        scorer.save(out)
    except OSError as error:
        raise CogViewError(f"{out}: cannot be written ({error.strerror or error})") from None
    facts = scorer.config.facts
    typer.echo(f"{out}: {facts['pictures']} pictures, {facts['steps']} steps, {facts['seconds']} s")


def _text(model: str, file: Path | None) -> TextTokenizer:
    from cogview.checkpoints.bundle import ModelBundle
    from cogview.tokenizers.text import TextTokenizer

    return TextTokenizer.from_file(file) if file else ModelBundle.find(model).text_tokenizer()


def alignment(
    scorer: Annotated[
        Path, typer.Option("--scorer", callback=existing, help="What `cogview eval train-scorer` wrote.")
    ],
    data: DataOption,
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            callback=drawer_name,
            help="Draw the captions by this model (name or directory), too; nearest-training takes the "
            "training picture with the nearest caption. May be given several times.",
            show_default="the pictures of --data only",
        ),
    ] = None,
    n: Annotated[
        int | None, typer.Option("--n", "-n", min=2, help="How many pictures.", show_default="all")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Only this split.", show_default="all")] = None,
    source: SourceOption = None,
    languages: Annotated[
        str, typer.Option(help="Of the captions, with a comma.", show_default="all there are")
    ] = "",
    distractors: Annotated[int, typer.Option(min=1, help="Texts of others, for R-precision.")] = 99,
    seed: Annotated[int, typer.Option(min=0, help="Chooses these, and the pictures drawn.")] = 0,
    temperature: Annotated[float | None, typer.Option(help="Default: the model's own.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Default: the model's own.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Default: the model's own.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Default: the model's own.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Prompts drawn together.")] = 20,
    precision: PrecisionOption = "fp32",
    first_stage_only: FirstStageOption = False,
    rank: Annotated[
        str, typer.Option(help="I/N: draw the I-th of N shares only; the last one reports.", metavar="I/N")
    ] = "1/1",
    work: Annotated[Path, typer.Option("--work", help="Where pictures are kept, for stopped runs.")] = Path(
        "runs/alignment"
    ),
    out: Annotated[Path | None, typer.Option(help="Write the report, with every number, as JSON.")] = None,
    sheet: Annotated[
        Path | None, typer.Option("--sheet", help="Write a picture of all sets above each other (PNG).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """R-precision and retrieval: do pictures and their captions find each other?

    The pictures of --data are the ceiling, the captions of others the floor.

    cogview eval alignment --scorer runs/scorer --data corpus --split test_comp -n 500 --model pictogram
    """
    from cogview.cli.evaluate import write_sheet
    from cogview.cli.progress import bars
    from cogview.config import validate
    from cogview.evaluation.experiments.alignment import AlignmentPlan, evaluate_alignment
    from cogview.evaluation.judges.captioned import read_captioned
    from cogview.evaluation.judges.scorer import AlignmentScorer
    from cogview.evaluation.reports import write_report
    from cogview.evaluation.sample_store import rank_of

    given = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "guidance": guidance}
    settings = {
        "languages": [part.strip() for part in languages.split(",") if part.strip()],
        "distractors": distractors,
        "seed": seed,
        "batch": batch,
        "sampling": {name: value for name, value in given.items() if value is not None},
    }
    plan, share = validate(AlignmentPlan, settings, "eval alignment"), rank_of(rank)
    judge = AlignmentScorer.from_directory(scorer)
    drawers = [
        find_drawer(name, data, judge.text, precision, source, first_stage_only) for name in models or ()
    ]
    with bars() as progress:
        captioned = read_captioned(data, judge.config.preprocessing, split, source, n, progress=progress)
        found = evaluate_alignment(plan, captioned, judge, drawers, work, share, progress)
    if found is None:
        typer.echo(f"share {rank} is drawn; the same command reports when all shares are")
        return
    report, pictures = found
    if out:
        write_report(report, out)
    if sheet:
        shown = min(len(captioned), SHOWN)
        rows = [i * len(captioned) // shown for i in range(shown)]
        write_sheet(sheet, [own[rows] for own in pictures.values() if len(own) == len(captioned)])
    typer.echo(report.model_dump_json(indent=2)) if as_json else _print(report)


def find_drawer(
    name: str,
    data: Path,
    text: TextTokenizer,
    precision: Precision = "fp32",
    source: str | None = None,
    small: bool = False,
) -> Drawer:
    """The model family ``name``, or the trivial drawer ``nearest-training`` over split "train".

    small: of a family that enlarges what it draws, the pictures of the first step.
    """
    from cogview.evaluation.experiments.image_generator import ModelDrawer
    from cogview.evaluation.experiments.nearest import NAME, NearestTraining

    return (
        NearestTraining(data, text, "train", source) if name == NAME else ModelDrawer(name, precision, small)
    )


def _print(report: AlignmentReport) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    first = next(iter(report.sets.values()))
    title = f"{first.pictures} pictures, scorer {report.manifest.scorer}, %"
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    table.add_column("pictures")
    found = ", ".join(str(k) for k in first.text_recall)
    for column in (f"R-precision\nof {first.choices}", f"text@\n{found}", f"picture@\n{found}", "cosine"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, own in report.sets.items():
        recalls = (_shares(own.text_recall), _shares(own.picture_recall))
        table.add_row(name, _percent(own.r_precision), *recalls, f"{own.cosine.value:.3f}")
    console = Console()
    console.print(table)
    console.print("± half of the 95 % interval; @k: the right one among the first k", style="dim")


def _shares(recalls: dict[int, Figure]) -> str:
    return " ".join(f"{100 * figure.value:.0f}" for figure in recalls.values())


def _percent(figure: Figure) -> str:
    return f"{100 * figure.value:.1f} ±{50 * (figure.high - figure.low):.1f}"
