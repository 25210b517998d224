"""One HTML page of what there is: training runs, reports of ``cogview eval``, benchmarks, sheets, models.

Every source becomes a section. Reports of a known kind get their plots and tables; any other JSON is shown as
tables; whatever a number hangs on (plan, facts, manifest, recipe) is there to unfold. Images share what the
page may weigh.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import pydantic

from cogview.config import load_json
from cogview.data.images import BadImage, decode
from cogview.errors import CogViewError
from cogview.evaluation.experiments.alignment import AlignmentReport
from cogview.evaluation.experiments.attributes import AttributeReport
from cogview.evaluation.experiments.audit import FairnessReport, Reading
from cogview.evaluation.experiments.best_of import BestOfReport, curves
from cogview.evaluation.experiments.captions import CaptionReport
from cogview.evaluation.experiments.coco import CocoReport
from cogview.evaluation.experiments.order import OrderReport
from cogview.evaluation.experiments.windowed_upscaling import UpscalingReport
from cogview.evaluation.metrics.accuracy import Accuracy, Figure
from cogview.evaluation.metrics.fid import DistributionReport
from cogview.evaluation.metrics.reconstruction import Fidelity, ReconstructionReport
from cogview.files import read_text, readable
from cogview.reports import html
from cogview.reports.html import Block, Details, Heading, Preformatted, Section, Table, Text
from cogview.reports.plots import bars, lines
from cogview.training.metrics_file import MetricsFile, loss_curves

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
POINTS = 300  # of a curve, at most
ROWS, DEPTH, TEXT = 40, 4, 20_000  # of what is not known: lines of a table, levels, characters of a text
MAX_TEXT = 16 << 20  # bytes of a text file that is shown
SAMPLES = 2  # the first and the last sheets of a run


@dataclass(frozen=True)
class Part:
    """A section to be: its images, and its body made of them, in that order."""

    title: str
    pictures: tuple[Path, ...]
    body: Callable[[Sequence[Block]], Sequence[Block]]


def build(sources: Sequence[Path], title: str, limit: int) -> str:
    """The page of ``sources``, at most ``limit`` bytes.

    Raises:
        CogViewError: a source that is nothing of these, or more than fits without images.
    """
    parts = [part for source in sources for part in read_source(source)]
    count = max(1, sum(len(part.pictures) for part in parts))
    share = limit * 4 // 5 // count
    for _ in range(5):
        sections = [
            Section(part.title, part.body([_embedded(p, share) for p in part.pictures])) for part in parts
        ]
        text = html.page(title, sections)
        if len(text.encode()) <= limit:
            return text
        share //= 2
    raise CogViewError(
        f"the page would be {len(text.encode()) / 1e6:.1f} MB; raise --max-mb, or give fewer sources"
    )


def read_source(source: Path) -> list[Part]:
    """What one argument adds to the page."""
    if source.is_dir():
        return _directory(source)
    if not source.is_file():
        raise CogViewError(f"{source}: no such file or folder")
    if source.suffix.lower() in PICTURES:
        return [Part(readable(source.name), (source,), list)]
    if source.suffix == ".json":
        return [_json(source)]
    raise CogViewError(f"{source}: give a run's folder, a model's, a .json report or a picture")


def _directory(source: Path) -> list[Part]:
    if (source / "metrics.jsonl").is_file():
        return [_run(source)]
    if (source / "family.json").is_file():
        return [_model(source)]
    inside = sorted(path for path in source.iterdir() if path.suffix.lower() in (".json", *PICTURES))
    runs = sorted(path.parent for path in source.glob("*/metrics.jsonl"))
    if not inside and not runs:
        raise CogViewError(f"{source}: no run, model, report or picture in it")
    return [part for path in (*runs, *inside) for part in read_source(path)]


def _embedded(path: Path, limit: int) -> Block:
    try:
        image = decode(path).image
    except BadImage as error:
        raise CogViewError(f"{path}: cannot be read as a picture ({error})") from None
    shown = min(2 * image.width, 432) if image.width <= 216 else None
    return html.picture(image, limit, readable(path.name), shown)


# ------------------------------------------------------------------------------------- runs and models


def _run(folder: Path) -> Part:
    """A training run: its losses, its last figures, its first and last samples, its recipe."""
    sheets = sorted((folder / "samples").glob("*.png"))
    chosen = tuple(dict.fromkeys([*sheets[:1], *sheets[-SAMPLES + 1 :]]))

    def body(pictures: Sequence[Block]) -> list[Block]:
        metrics = folder / "metrics.jsonl"
        curves = {(k, n): _thinned(points) for (k, n), points in loss_curves(metrics).items()}
        named = {n if k == "train" else f"{n}, validation": points for (k, n), points in curves.items()}
        held_out = [name for name in named if name.endswith(", validation")]
        shown: list[Block] = [lines(named, "step", "loss", dashed=held_out)]
        shown.append(_last(MetricsFile(metrics).lines()))
        shown += [Heading("Samples"), *pictures] if pictures else []
        for name in ("recipe.yaml", "model/training.json"):
            if (folder / name).is_file():
                shown.append(Details(name, [Preformatted(_text(folder / name))]))
        return shown

    return Part(f"run {readable(folder.resolve().name)}", chosen, body)


def _thinned(points: Sequence[tuple[int, float]]) -> list[tuple[float, float]]:
    """At most POINTS of a curve, each the mean of its neighbours."""
    size = -(-len(points) // POINTS)
    groups = [points[first : first + size] for first in range(0, len(points), size)] if points else []
    return [(fmean(x for x, _ in group), fmean(y for _, y in group)) for group in groups]


def _last(found: Sequence[Mapping[str, Any]]) -> Block:
    """The last figures of each kind, and the best validation loss."""
    rows = []
    for kind, name in (("train", "training"), ("evaluate", "validation")):
        own = [line for line in found if line.get("kind") == kind]
        rows += [
            (f"{name}, {key}", value) for key, value in (own[-1] if own else {}).items() if key != "kind"
        ]
        known = [line for line in own if isinstance(line.get("loss"), float)]
        if kind == "evaluate" and known:
            best = min(known, key=lambda line: line["loss"])
            rows.append(("validation, lowest loss", f"{best['loss']:.4f} at step {best['step']}"))
    return Details("Last figures", [Table(("", ""), rows)])


def _model(folder: Path) -> Part:
    """A model: its card and its configuration."""

    def body(_: Sequence[Block]) -> list[Block]:
        card = folder / "card.md"
        told: Block = Preformatted(_text(card)) if card.is_file() else Text("no card")
        return [told, Details("family.json", [Preformatted(_text(folder / "family.json"))])]

    return Part(f"model {readable(folder.resolve().name)}", (), body)


def _text(path: Path) -> str:
    text = read_text(path, MAX_TEXT)
    return text if len(text) <= TEXT else f"{text[:TEXT]}\n… ({len(text):,} characters)"


# --------------------------------------------------------------------------------------------- reports


def _json(path: Path) -> Part:
    """A report: by its kind, or as tables."""
    data = load_json(path)
    for model, kind, show in KINDS:
        try:
            report = model.model_validate(data)
        except pydantic.ValidationError:
            continue
        told = [(name, data[name]) for name in ("facts", "manifest", "plan", "selection") if name in data]
        rest = [Details(name, plain(value)) for name, value in told]
        return _written(f"{kind}: {readable(path.stem)}", [*show(report), *rest])
    return _written(readable(path.stem), plain(data))


def _written(title: str, body: Sequence[Block]) -> Part:
    return Part(title, (), lambda _: body)


def _accuracy(sets: Mapping[str, Accuracy]) -> list[Block]:
    """Shares read right, with their intervals, by set of images."""
    figures = {
        "overall": [own.overall for own in sets.values()],
        "macro": [own.macro for own in sets.values()],
    }
    rows = [
        (name, *map(_figure, (a.overall, a.of_ceiling, a.macro, a.macro_of_ceiling)), a.floor)
        for name, a in sets.items()
    ]
    groups = list(dict.fromkeys(group for own in sets.values() for group in own.by_group))
    by_group = [
        (group, *(own.by_group[group].value if group in own.by_group else None for own in sets.values()))
        for group in groups
    ]
    return [
        bars(
            list(sets),
            {name: [own.value for own in values] for name, values in figures.items()},
            "share read right",
            {name: [(own.low, own.high) for own in values] for name, values in figures.items()},
            {"overall": [own.floor for own in sets.values()]},
        ),
        Text("bars: 95 % intervals; thick marks: prompts swapped within a style"),
        Table(("pictures", "right", "of ceiling", "macro", "of ceiling", "floor"), rows),
        Details("By group", [Table(("group", *sets), by_group)]),
    ]


def _figure(figure: Figure | None) -> str | None:
    return None if figure is None else f"{figure.value:.3f} ({figure.low:.3f}–{figure.high:.3f})"


def _attributes(report: AttributeReport) -> list[Block]:
    return _accuracy(report.accuracy)


def _captions(report: CaptionReport) -> list[Block]:
    rows = [(name, m.own, m.other, m.preferred) for name, m in report.matching.items()]
    header = ("captions", "loss of its own", "of another's", "own preferred")
    return [*_accuracy(report.accuracy), Table(header, rows)]


def _best_of(report: BestOfReport) -> list[Block]:
    """Figure 9: accuracy and the chosen ones' losses against the number of candidates."""
    parts: list[Block] = [curve(report.accuracy), *_accuracy(report.accuracy)]
    parts.append(Table(("pictures", "caption loss, nats a token"), list(report.losses.items())))
    if report.distributions:
        names = list(next(iter(report.distributions.values())))
        rows = [(name, *(own.get(each) for each in names)) for name, own in report.distributions.items()]
        parts.append(Table(("pictures", *names), rows))
    return parts


def curve(sets: Mapping[str, Accuracy]) -> Block:
    """Accuracy against the number of candidates, a curve for each language and judge."""
    found = curves(sets)
    series = {label: [(float(size), own.value) for size, own in points] for label, points in found.items()}
    spans = {label: [(own.low, own.high) for _, own in points] for label, points in found.items()}
    return lines(series, "candidates", "attributes read right", spans, log=True)


def _order(report: OrderReport) -> list[Block]:
    points = [(float(rank), placed.loss) for rank, placed in enumerate(report.order, 1)]
    agreed = "" if report.agreement is None else f"; rank correlation with the scorer {report.agreement:.2f}"
    told = Text(f"“{report.prompt}”, seed {report.seed}{agreed}", note=False)
    return [told, lines({"caption loss, nats a token": points}, "rank", "caption loss")]


def _fairness(report: FairnessReport) -> list[Block]:
    header = ("way", "pictures", "distance to what was asked", "at random", "as named")
    parts: list[Block] = []
    for name, ways in report.readings.items():
        values = list(next(iter(ways.values())).proportions)
        rows = [(way, own.pictures, own.distance, own.chance, _share(own)) for way, own in ways.items()]
        parts += [Heading(name), _proportions(values, ways), Table(header, rows)]
    return parts


def _proportions(values: Sequence[str], ways: Mapping[str, Reading]) -> Block:
    return bars(
        values,
        {way: [own.proportions[value].share for value in values] for way, own in ways.items()},
        "share of the pictures",
        {
            way: [(own.proportions[v].low, own.proportions[v].high) for v in values]
            for way, own in ways.items()
        },
        {way: [own.wanted.get(value, 0.0) for value in values] for way, own in ways.items() if own.wanted},
    )


def _share(own: Reading) -> str | None:
    return None if own.right is None else f"{own.right.right} of {own.right.stated}"


def _distributions(report: DistributionReport) -> list[Block]:
    rows = [(name, own.value, own.low, own.high, own.spread) for name, own in report.figures.items()]
    return [Table(("figure", "value", "low", "high", "spread"), rows)]


def _alignment(report: AlignmentReport) -> list[Block]:
    """R-precision with its interval, and recalls, by set of images."""
    figures = {name: own.r_precision for name, own in report.sets.items()}
    shown = bars(
        list(figures),
        {"R-precision": [own.value for own in figures.values()]},
        "R-precision",
        {"R-precision": [(own.low, own.high) for own in figures.values()]},
    )
    first = next(iter(report.sets.values()), None)
    if first is None:
        return [shown]
    header = [f"text@{k}" for k in first.text_recall] + [f"picture@{k}" for k in first.picture_recall]
    rows = [
        (name, *map(_figure, (own.r_precision, *own.text_recall.values(), *own.picture_recall.values())))
        for name, own in report.sets.items()
    ]
    return [shown, Table(("pictures", f"R-precision of {first.choices}", *header), rows)]


def _fidelity(ways: Mapping[str, Fidelity]) -> list[Block]:
    rows = [(n, f.pictures, f.psnr, f.psnr_pooled, f.ssim, f.lpips) for n, f in ways.items()]
    return [Table(("", "pictures", "PSNR, dB", "pooled", "SSIM", "LPIPS"), rows)]


def _reconstruction(report: ReconstructionReport) -> list[Block]:
    book = report.codebook
    used = f"codebook: {book.used} of {book.codes} codes used, perplexity {book.perplexity:.0f}"
    return [*_fidelity({**report.by_source, "all": report.overall}), Text(used)]


def _upscaling(report: UpscalingReport) -> list[Block]:
    rows = [(c.first, c.second, c.difference, c.low, c.high, c.wins) for c in report.comparisons]
    header = ("way", "against", "LPIPS difference", "low", "high", "wins")
    return [*_fidelity(report.overall), Table(header, rows)]


KINDS: tuple[tuple[type[pydantic.BaseModel], str, Callable[[Any], list[Block]]], ...] = (
    (AttributeReport, "attributes", _attributes),
    (BestOfReport, "best of several", _best_of),
    (CaptionReport, "captions", _captions),
    (OrderReport, "order by caption loss", _order),
    (FairnessReport, "fairness", _fairness),
    (CocoReport, "MS-COCO protocol", _distributions),
    (DistributionReport, "sets of pictures", _distributions),
    (AlignmentReport, "alignment", _alignment),
    (ReconstructionReport, "image tokenizer", _reconstruction),
    (UpscalingReport, "super-resolution", _upscaling),
)


# ------------------------------------------------------------------------------------- whatever else


def plain(value: Any, depth: int = 0) -> list[Block]:
    """Any JSON as tables: scalars of a mapping together, lists of mappings by their columns."""
    if depth >= DEPTH or not isinstance(value, dict | list) or not value:
        return [Preformatted(str(value)[:TEXT])]
    if isinstance(value, list):
        return _list(value, depth)
    scalars = [(name, _joined(own)) for name, own in value.items() if _simple(own)]
    nested = [(name, own) for name, own in value.items() if not _simple(own)]
    parts: list[Block] = [Table(("", ""), scalars[: ROWS * 5])] if scalars else []
    if nested and all(isinstance(own, dict) and all(map(_simple, own.values())) for _, own in nested):
        columns = list(dict.fromkeys(key for _, own in nested for key in own))
        rows = [(name, *(_joined(own.get(key)) for key in columns)) for name, own in nested]
        return [*parts, Table(("", *columns), rows[: ROWS * 5])]
    for name, own in nested[:ROWS]:
        parts += [Heading(name), *plain(own, depth + 1)]
    return parts


def _list(value: list[Any], depth: int) -> list[Block]:
    more = [Text(f"and {len(value) - ROWS} more")] if len(value) > ROWS else []
    if all(isinstance(own, dict) for own in value):
        columns = list(dict.fromkeys(key for own in value for key in own))
        if all(_simple(own.get(key)) for own in value for key in columns):
            rows = [[_joined(own.get(key)) for key in columns] for own in value[:ROWS]]
            return [Table(columns, rows), *more]
    return [*(block for own in value[:ROWS] for block in plain(own, depth + 1)), *more]


def _simple(value: Any) -> bool:
    """Whether it fits a cell: a scalar, or a short list of them."""
    if isinstance(value, list):
        return len(value) <= ROWS and not any(isinstance(own, dict | list) for own in value)
    return not isinstance(value, dict)


def _joined(value: Any) -> Any:
    return ", ".join(map(html.number, value)) if isinstance(value, list) else value
