"""``cogview eval captions``, ``best-of`` and ``order``: what the caption role is worth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cogview.cli.arguments import existing, model_name
from cogview.cli.precision import PrecisionOption
from cogview.errors import CogViewError
from cogview.files import write_image

if TYPE_CHECKING:
    from cogview.evaluation.metrics.scoring import Accuracy, Figure

ModelOption = Annotated[
    str, typer.Option("--model", callback=model_name, help="A model's name or directory.")
]
CorpusOption = Annotated[
    Path,
    typer.Option(
        "--corpus",
        callback=existing,
        help="The folder of Parquet files with the avatars and their attributes.",
    ),
]
SourceOption = Annotated[str, typer.Option("--source", help="Which rows of the corpus; '' for all.")]
SplitOption = Annotated[str, typer.Option(help="The held-out split.")]
LanguagesOption = Annotated[str, typer.Option(help="Of zh and en, with a comma.")]
OutOption = Annotated[
    Path | None, typer.Option("--out", help="Write the report, with every number, as JSON.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the report as JSON instead of tables.")]
SHOWN = 40


def captions(
    model: ModelOption,
    corpus: CorpusOption,
    n: Annotated[int, typer.Option("--n", "-n", min=1, help="How many held-out pictures.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Chooses the pictures.")] = 0,
    beams: Annotated[int, typer.Option(min=1, help="Captions followed at once.")] = 4,
    temperature: Annotated[
        float | None, typer.Option(help="Draw captions by chance.", show_default="beams")
    ] = None,
    languages: LanguagesOption = "zh,en",
    rare: Annotated[int, typer.Option(min=1, help="Skip values with fewer training pictures.")] = 20,
    split: SplitOption = "test_comp",
    source: SourceOption = "dice",
    precision: PrecisionOption = "fp32",
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """How many attributes of unseen pictures their generated captions name.

    The true captions give the ceiling, captions of other pictures the floor. Also: how often a picture's own
    caption has a lower caption loss than another's.
    """
    from cogview.cli.progress import bars
    from cogview.config import validate
    from cogview.evaluation.experiments.captions import CaptionPlan, evaluate_captions
    from cogview.evaluation.experiments.image_generator import ModelDrawer
    from cogview.evaluation.reports import write_report

    settings = {
        "count": n,
        "seed": seed,
        "split": split,
        "source": source or None,
        "languages": _listed(languages),
        "beams": beams,
        "sampling": {} if temperature is None else {"temperature": temperature},
    }
    plan = validate(CaptionPlan, settings, "eval captions")
    with bars() as progress:
        report = evaluate_captions(plan, corpus, ModelDrawer(model, precision), rare, progress)
    report = report.model_copy(update={"facts": {**report.facts, "precision": precision}})
    if out:
        write_report(report, out)
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
        return
    _print(f"{report.facts['model']}: captions of {n} held-out pictures", "captions", report.accuracy)
    for language, found in report.matching.items():
        typer.echo(
            f"{language}: caption loss {found.own:.3f}, with another's caption {found.other:.3f}; "
            f"own preferred for {100 * found.preferred:.1f} %"
        )


def best_of(
    model: ModelOption,
    corpus: CorpusOption,
    classifier: Annotated[
        Path,
        typer.Option("--classifier", callback=existing, help="What `cogview eval train-classifier` wrote."),
    ],
    n: Annotated[int, typer.Option("--n", "-n", min=1, help="How many held-out combinations.")] = 200,
    sizes: Annotated[str, typer.Option(help="Numbers of candidates, with commas.")] = "1,4,16",
    seed: Annotated[int, typer.Option(min=0, help="Chooses the combinations and the pictures.")] = 0,
    temperature: Annotated[float | None, typer.Option(help="Default: the model's own.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Default: the model's own.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Default: the model's own.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Default: the model's own.")] = None,
    languages: LanguagesOption = "zh,en",
    split: SplitOption = "test_comp",
    source: SourceOption = "dice",
    precision: PrecisionOption = "fp32",
    work: Annotated[Path, typer.Option("--work", help="Where pictures are kept, for stopped runs.")] = Path(
        "runs/best-of"
    ),
    scorer: Annotated[
        Path | None,
        typer.Option(
            "--scorer",
            callback=existing,
            help="Rank by `cogview eval train-scorer`'s network, too, in CLIP's place.",
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights", callback=existing, help="What `cogview import lite0` wrote: FID, KID, IS too."
        ),
    ] = None,
    out: OutOption = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw accuracy against candidates (PNG, SVG or PDF).")
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option("--sheet", help="Write a picture of all sets above each other (PNG).")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Attribute accuracy of the best of 1, 4 and 16 pictures by caption loss, for unseen captions.

    cogview eval best-of --model m/ --corpus corpus/ --classifier runs/classifier --sizes 1,2,4,8,16,32,64
    """
    from cogview.cli.evaluate import write_sheet
    from cogview.cli.progress import bars
    from cogview.config import validate
    from cogview.evaluation.experiments.best_of import BestOfPlan, curves, evaluate_best_of
    from cogview.evaluation.experiments.image_generator import ModelDrawer
    from cogview.evaluation.judges.classifier import AttributeReader
    from cogview.evaluation.judges.scorer import AlignmentScorer
    from cogview.evaluation.metrics.distributions import open_extractor
    from cogview.evaluation.reports import write_report
    from cogview.reports.plots import plot_curves

    given = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "guidance": guidance}
    settings = {
        "count": n,
        "seed": seed,
        "split": split,
        "source": source or None,
        "languages": _listed(languages),
        "sizes": _listed(sizes),
        "sampling": {name: value for name, value in given.items() if value is not None},
    }
    plan = validate(BestOfPlan, settings, "eval best-of")
    reader, drawer = AttributeReader.from_directory(classifier), ModelDrawer(model, precision)
    alignment = AlignmentScorer.from_directory(scorer) if scorer else None
    extractor = open_extractor(weights) if weights else None
    with bars() as progress:
        report, sets = evaluate_best_of(plan, corpus, reader, drawer, work, progress, alignment, extractor)
    report = report.model_copy(update={"facts": {**report.facts, "precision": precision}})
    if out:
        write_report(report, out)
    if plot:
        plot_curves(curves(report.accuracy), "candidates", "attributes read right", plot)
    if sheet:
        rows = [i * n // min(n, SHOWN) for i in range(min(n, SHOWN))]
        write_sheet(sheet, [pictures[rows] for pictures in sets.values()])
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
        return
    _print(f"{report.facts['model']}: {n} held-out combinations", "pictures", report.accuracy)
    for name, loss in report.losses.items():
        told = "".join(f", {figure} {own:.4g}" for figure, own in report.distributions.get(name, {}).items())
        typer.echo(f"{name}: caption loss {loss:.3f} nats a token{told}")


def order(
    prompt: Annotated[str, typer.Argument(help="What to draw.", show_default=False)],
    model: ModelOption,
    n: Annotated[int, typer.Option("--n", "-n", min=2, help="How many pictures.")] = 60,
    seed: Annotated[int, typer.Option(min=0, help="Decides the pictures.")] = 0,
    temperature: Annotated[float | None, typer.Option(help="Default: the model's own.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Default: the model's own.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Default: the model's own.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Default: the model's own.")] = None,
    scorer: Annotated[
        Path | None,
        typer.Option(
            "--scorer", callback=existing, help="Tell how far `cogview eval train-scorer`'s network agrees."
        ),
    ] = None,
    precision: PrecisionOption = "fp32",
    sheet: Annotated[Path, typer.Option("--sheet", help="The picture of all, the best first (PNG).")] = Path(
        "order.png"
    ),
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Draw many pictures of one prompt and show them in the order of their caption loss (CogView, figure 6).

    cogview eval order "a blue monster with round eyes, red background" --model pictogram -n 60
    """
    from cogview import from_pretrained as load
    from cogview.cli.progress import bar
    from cogview.evaluation.experiments.order import order_pictures, order_sheet
    from cogview.evaluation.judges.scorer import AlignmentScorer
    from cogview.evaluation.reports import write_report

    given = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "guidance": guidance}
    sampling = {name: value for name, value in given.items() if value is not None}
    alignment = AlignmentScorer.from_directory(scorer) if scorer else None
    family = load(model, precision=precision)
    with bar() as progress:
        report, images = order_pictures(family, prompt, n, seed, sampling, alignment, progress)
    try:
        sheet.parent.mkdir(parents=True, exist_ok=True)
        write_image(sheet, order_sheet(report, images))
    except OSError as error:
        raise CogViewError(f"{sheet}: cannot be written ({error.strerror or error})") from None
    if out:
        write_report(report, out)
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
        return
    first, last = report.order[0], report.order[-1]
    agreed = "" if report.agreement is None else f"; rank correlation with the scorer {report.agreement:.2f}"
    typer.echo(f"{sheet}: caption loss from {first.loss:.3f} to {last.loss:.3f} nats a token{agreed}")


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _print(title: str, what: str, sets: dict[str, Accuracy]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for column in (what, "right, %", "of ceiling", "macro", "floor"):
        table.add_column(column, justify="left" if column == what else "right", no_wrap=True)
    for name, found in sets.items():
        floor = "–" if found.floor is None else f"{100 * found.floor:.1f}"
        figures = (found.overall, found.of_ceiling, found.macro)
        table.add_row(name, *(_percent(figure) for figure in figures), floor)
    Console().print(table)


def _percent(figure: Figure | None) -> str:
    if figure is None:
        return ""
    return f"{100 * figure.value:.1f} ±{50 * (figure.high - figure.low):.1f}"
