"""``cogview eval``: how faithful the pictures of a model are, and how much an image tokenizer loses."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cogview.cli import (
    alignment,
    coco,
    distributions,
    editing,
    fairness,
    judged,
    reranking,
    spread,
    upscaling,
)
from cogview.cli.arguments import drawer_name, existing
from cogview.cli.precision import PrecisionOption
from cogview.cli.progress import bars
from cogview.errors import CogViewError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.table import Table

    from cogview.evaluation.experiments.attributes import AttributeReport
    from cogview.evaluation.metrics.reconstruction import Fidelity, ReconstructionReport
    from cogview.evaluation.metrics.scoring import Accuracy, Figure
    from cogview.tokenizers.images import AnyImageTokenizer

SHOWN = 60  # pictures of each kind on the sheet of `eval attributes`

evaluate = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Measure a model: attribute accuracy of its pictures, fidelity of its image tokenizer.",
)

CorpusOption = Annotated[
    Path,
    typer.Option(
        "--corpus",
        callback=existing,
        help="The folder of Parquet files with the avatars and their attributes.",
    ),
]
SourceOption = Annotated[str, typer.Option("--source", help="Which rows of the corpus; '' for all.")]
OutOption = Annotated[
    Path | None, typer.Option("--out", help="Write the report, with every number, as JSON.")
]
SheetOption = Annotated[
    Path | None, typer.Option("--sheet", help="Write a picture of all versions above each other (PNG).")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the report as JSON instead of tables.")]


# ------------------------------------------------------------------------------------- attributes


@evaluate.command()
def attributes(
    model: Annotated[
        str,
        typer.Option(
            "--model",
            callback=drawer_name,
            help="A model's name or directory; nearest-training takes the training picture with the nearest "
            "caption.",
        ),
    ],
    corpus: CorpusOption,
    classifier: Annotated[
        Path,
        typer.Option("--classifier", callback=existing, help="What `cogview eval train-classifier` wrote."),
    ],
    n: Annotated[int, typer.Option("--n", "-n", min=1, help="How many held-out combinations.")] = 500,
    seed: Annotated[int, typer.Option(min=0, help="Chooses the combinations and the pictures.")] = 0,
    temperature: Annotated[float | None, typer.Option(help="Default: the model's own.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Default: the model's own.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Default: the model's own.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Default: the model's own.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Prompts drawn together.")] = 20,
    split: Annotated[str, typer.Option(help="The held-out split.")] = "test_comp",
    source: SourceOption = "dice",
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            "--tokenizer",
            callback=existing,
            help="Image tokenizer whose reconstructions are read too (default: the model's).",
        ),
    ] = None,
    precision: PrecisionOption = "fp32",
    first_stage_only: alignment.FirstStageOption = False,
    work: Annotated[Path, typer.Option("--work", help="Where pictures are kept, for stopped runs.")] = Path(
        "runs/attributes"
    ),
    out: OutOption = None,
    sheet: SheetOption = None,
    as_json: JsonOption = False,
) -> None:
    """How many attributes stated in unseen captions a classifier finds in the pictures drawn for them.

    Chinese and English captions are drawn each; real pictures give the ceiling, swapped prompts the floor.
    """
    from cogview.checkpoints.bundle import ModelBundle
    from cogview.evaluation.experiments.attributes import AttributePlan, evaluate_attributes
    from cogview.evaluation.experiments.image_generator import ModelDrawer
    from cogview.evaluation.experiments.nearest import NAME, NearestTraining
    from cogview.evaluation.judges.classifier import AttributeReader
    from cogview.evaluation.reports import write_report
    from cogview.evaluation.sample_store import Drawer
    from cogview.pipelines.model import DEFAULT

    given = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "guidance": guidance}
    plan = AttributePlan(
        count=n,
        seed=seed,
        split=split,
        source=source or None,
        batch=batch,
        sampling={name: value for name, value in given.items() if value is not None},
    )
    reader = AttributeReader.from_directory(classifier)
    drawer: Drawer
    if model == NAME:
        drawer = NearestTraining(corpus, ModelBundle.find(DEFAULT).text_tokenizer(), "train", source or None)
    else:
        drawer = ModelDrawer(model, precision, first_stage_only)
        tokenizer = tokenizer or drawer.image_tokenizer
    painter = _image_tokenizer(tokenizer) if tokenizer else None
    with bars() as progress:
        report, sets = evaluate_attributes(plan, corpus, reader, drawer, work, painter, progress)
    if out:
        write_report(report, out)
    if sheet:
        rows = [i * n // min(n, SHOWN) for i in range(min(n, SHOWN))]
        write_sheet(sheet, [pictures[rows] for pictures in sets.values()])
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
    else:
        _print_attributes(report)


def _image_tokenizer(directory: Path) -> AnyImageTokenizer:
    from cogview.tokenizers.images import read_image_tokenizer

    return read_image_tokenizer(directory)


def _print_attributes(report: AttributeReport) -> None:
    from rich.console import Console
    from rich.table import Table

    stated = sum(share.stated for share in report.accuracy["real"].by_attribute.values())
    title = (
        f"{report.facts['model']}: {len(report.selection.keys)} held-out combinations, {stated} statements"
    )
    table = Table(title=title, title_justify="left")
    for column in ("pictures", "right, %", "of ceiling", "macro", "of ceiling", "floor"):
        table.add_column(column, justify="left" if column == "pictures" else "right", no_wrap=True)
    for name, accuracy in report.accuracy.items():
        table.add_row(name, *_cells(accuracy))
    console = Console()
    console.print(table)
    console.print("± half of the 95 % interval; floor: prompts swapped within a style", style="dim")
    console.print(_parts_table(report))


def _parts_table(report: AttributeReport) -> Table:
    """Percent read right by group and by style, one column for each set of pictures."""
    from rich.table import Table

    table = Table("right, %", "stated", *report.accuracy)
    for column in table.columns[1:]:
        column.justify = "right"
    sets = report.accuracy.values()
    for parts in ([own.by_group for own in sets], [own.by_style for own in sets]):
        for name, share in parts[0].items():
            table.add_row(name, str(share.stated), *(f"{100 * own[name].value:.1f}" for own in parts))
        table.add_section()
    return table


def _cells(accuracy: Accuracy) -> list[str]:
    figures = (accuracy.overall, accuracy.of_ceiling, accuracy.macro, accuracy.macro_of_ceiling)
    floor = "–" if accuracy.floor is None else f"{100 * accuracy.floor:.1f}"
    return [*(_percent(figure) for figure in figures), floor]


def _percent(figure: Figure | None) -> str:
    if figure is None:
        return ""
    return f"{100 * figure.value:.1f} ±{50 * (figure.high - figure.low):.1f}"


# ------------------------------------------------------------------------------------- classifier


@evaluate.command()
def train_classifier(
    corpus: CorpusOption,
    out: Annotated[Path, typer.Option("--out", help="The classifier's directory.")],
    size: Annotated[int, typer.Option(min=16, help="Side of the pictures it reads, in pixels.")] = 72,
    epochs: Annotated[float, typer.Option(help="Passes over the training pictures.")] = 5.0,
    batch: Annotated[int, typer.Option(min=2)] = 128,
    rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 4e-3,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    rare: Annotated[int, typer.Option(min=1, help="Skip values with fewer training pictures.")] = 20,
    source: SourceOption = "dice",
    force: Annotated[bool, typer.Option("--force", help="Train even if it is already there.")] = False,
) -> None:
    """Train the classifier that reads attributes off pictures, on real pictures of split "train" only."""
    from cogview.config import validate
    from cogview.evaluation.judges.classifier_training import ReaderTraining, train_from_corpus, up_to_date

    settings = {"epochs": epochs, "batch": batch, "rate": rate, "seed": seed}
    training = validate(ReaderTraining, settings, "train-classifier")
    if not force and up_to_date(out, corpus, training, size, source or None, rare):
        typer.echo(f"{out} is up to date; --force trains it anew")
        return
    with bars() as progress:

        def show(step: int, steps: int, loss: float) -> None:
            progress("training", step, steps)

        reader = train_from_corpus(corpus, training, size, source or None, rare, show)
    try:
        reader.save(out)
    except OSError as error:
        raise CogViewError(f"{out}: cannot be written ({error.strerror or error})") from None
    facts = reader.config.facts
    typer.echo(
        f"{out}: {len(reader.config.attributes)} attributes of {len(reader.styles)} styles, "
        f"{facts['pictures']} pictures, {facts['seconds']} s, "
        f"{_share(facts.get('val_accuracy'))} of split 'val' read right"
    )


def _share(value: object) -> str:
    return f"{100 * value:.1f} %" if isinstance(value, float) else "nothing"


# ------------------------------------------------------------------------------------- tokenizer


@evaluate.command()
def tokenizer(
    directory: Annotated[
        Path, typer.Option("--tokenizer", callback=existing, help="The image tokenizer's directory.")
    ],
    data: Annotated[
        Path,
        typer.Option(
            "--data", callback=existing, help="A folder of pictures, a table or a folder of Parquet files."
        ),
    ],
    split: Annotated[str, typer.Option(help="Which split; '' for all.")] = "val",
    lpips: Annotated[
        Path | None,
        typer.Option(
            "--lpips", callback=existing, help="LPIPS weights (VGG16), as `cogview import lpips` writes them."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many pictures, evenly spaced.")] = None,
    resample: Annotated[
        str, typer.Option(help="How pictures are resized: box, bilinear, bicubic, lanczos.")
    ] = "box",
    out: OutOption = None,
    sheet: SheetOption = None,
    columns: Annotated[int, typer.Option(min=1, help="Pictures a line of the sheet.")] = 16,
    shown: Annotated[int, typer.Option(min=1, help="Pictures on the sheet.")] = 48,
    as_json: JsonOption = False,
) -> None:
    """PSNR, SSIM and LPIPS of reconstructions, and how the codebook is used."""
    from cogview.config import validate
    from cogview.data.shards import Preprocessing
    from cogview.evaluation.metrics.reconstruction import evaluate_tokenizer, load_pictures, spread
    from cogview.evaluation.reports import versions, write_report
    from cogview.tokenizers.perceptual import LPIPS

    model = _image_tokenizer(directory)
    judge = LPIPS.from_file(lpips) if lpips else None
    shape = validate(Preprocessing, {"size": model.image_size, "resample": resample}, "--resample")
    pictures = load_pictures(data, split or None, shape, limit)
    with bars() as progress:
        report, copies = evaluate_tokenizer(model, pictures, judge, progress)
    facts = {
        "data": data.name,
        "split": split,
        "resample": resample,
        "lpips": "vgg16" if lpips else "",
        **versions(),
    }
    report = report.model_copy(update={"facts": {**report.facts, **facts}})
    if out:
        write_report(report, out)
    if sheet:
        rows = spread(pictures.sources, shown)
        write_sheet(sheet, [pictures.pixels[rows], copies[rows]], columns)
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
    else:
        _print_fidelity(report)


def _print_fidelity(report: ReconstructionReport) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"image tokenizer {report.facts['tokenizer']}", title_justify="left")
    for column in ("source", "pictures", "PSNR", "pooled", "SSIM", "LPIPS"):
        table.add_column(column, justify="left" if column == "source" else "right")
    for name, own in {**report.by_source, "all": report.overall}.items():
        table.add_row(name, *_fidelity_cells(own))
    book = report.codebook
    console = Console()
    console.print(table)
    console.print(
        f"codebook: {book.used} of {book.codes} codes used ({100 * book.usage:.1f} %), "
        f"perplexity {book.perplexity:.0f}"
    )
    if report.skipped:
        console.print(
            "left out: " + ", ".join(f"{count} {reason}" for reason, count in report.skipped.items())
        )


def _fidelity_cells(own: Fidelity) -> list[str]:
    lpips = "–" if own.lpips is None else f"{own.lpips:.4f}"
    return [str(own.pictures), f"{own.psnr:.2f} dB", f"{own.psnr_pooled:.2f} dB", f"{own.ssim:.4f}", lpips]


def write_sheet(path: Path, rows: list[NDArray[np.uint8]], columns: int = 20) -> None:
    """Write the sheet of sets of pictures; CogViewError where the place is not writable."""
    from cogview.evaluation.sheets import sheet
    from cogview.files import write_image

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, sheet(rows, columns))
    except OSError as error:
        raise CogViewError(f"{path}: cannot be written ({error.strerror or error})") from None


evaluate.command("things")(judged.things)
evaluate.command("scenes")(judged.scenes)
evaluate.command("pictures")(distributions.pictures)
evaluate.command("compare")(distributions.compare)
evaluate.command("upscaling")(upscaling.upscaling)
evaluate.command("editing")(editing.editing)
evaluate.command("captions")(reranking.captions)
evaluate.command("best-of")(reranking.best_of)
evaluate.command("order")(reranking.order)
evaluate.command("fairness")(fairness.fairness)
evaluate.command("train-scorer")(alignment.train_scorer)
evaluate.command("alignment")(alignment.alignment)
evaluate.command("coco")(coco.coco)
evaluate.command("diversity")(spread.diversity)
evaluate.command("speed")(spread.speed)
