"""One HTML page from training runs, reports of ``cogview eval``, benchmarks, contact sheets and models.

Every source becomes a section. Reports of a known kind get plots and tables, any other JSON becomes tables;
the plan, facts, manifest or recipe behind the numbers can be unfolded. The images share the size limit of
the page.
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
from cogview.evaluation.experiments.best_of import BestOfReport, Points, panels
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

IMAGES = (".png", ".jpg", ".jpeg", ".webp")
POINTS = 300  # maximum number of points of a curve
ROWS, DEPTH, TEXT = 40, 4, 20_000  # limits for unknown JSON: table rows, nesting depth, text length
MAX_TEXT = 16 << 20  # maximum size of a text file, in bytes
SAMPLES = 2  # sample sheets of a run: the first and the last


@dataclass(frozen=True)
class Part:
    """A section: its title, its images, and a function that makes the body from the embedded images."""

    title: str
    images: tuple[Path, ...]
    body: Callable[[Sequence[Block]], Sequence[Block]]


def build(sources: Sequence[Path], title: str, limit: int) -> str:
    """Build the page of ``sources``, of at most ``limit`` bytes.

    Raises:
        CogViewError: a source of an unknown kind, or a page over the limit even with the smallest images.
    """
    parts = [part for source in sources for part in read_source(source)]
    count = max(1, sum(len(part.images) for part in parts))
    share = limit * 4 // 5 // count
    for _ in range(5):
        sections = [
            Section(part.title, part.body([_embedded(p, share) for p in part.images])) for part in parts
        ]
        text = html.page(title, sections)
        if len(text.encode()) <= limit:
            return text
        share //= 2
    raise CogViewError(
        f"the page would be {len(text.encode()) / 1e6:.1f} MB; raise --max-mb, or give fewer sources"
    )


def read_source(source: Path) -> list[Part]:
    """The sections of one source."""
    if source.is_dir():
        return _directory(source)
    if not source.is_file():
        raise CogViewError(f"{source}: no such file or folder")
    if source.suffix.lower() in IMAGES:
        return [Part(readable(source.name), (source,), list)]
    if source.suffix == ".json":
        return [_json(source)]
    raise CogViewError(f"{source}: give the folder of a run or model, a .json report or an image")


def _directory(source: Path) -> list[Part]:
    if (source / "metrics.jsonl").is_file():
        return [_run(source)]
    if (source / "family.json").is_file():
        return [_model(source)]
    files = sorted(path for path in source.iterdir() if path.suffix.lower() in (".json", *IMAGES))
    runs = sorted(path.parent for path in source.glob("*/metrics.jsonl"))
    if not files and not runs:
        raise CogViewError(f"{source}: contains no run, model, report or image")
    return [part for path in (*runs, *files) for part in read_source(path)]


def _embedded(path: Path, limit: int) -> Block:
    try:
        image = decode(path).image
    except BadImage as error:
        raise CogViewError(f"{path}: cannot be read as an image ({error})") from None
    width = min(2 * image.width, 432) if image.width <= 216 else None
    return html.picture(image, limit, readable(path.name), width)


# ------------------------------------------------------------------------------------- runs and models


def _run(folder: Path) -> Part:
    """The section of a training run: loss curves, last metrics, first and last samples, recipe."""
    sheets = sorted((folder / "samples").glob("*.png"))
    samples = tuple(dict.fromkeys([*sheets[:1], *sheets[-SAMPLES + 1 :]]))

    def body(images: Sequence[Block]) -> list[Block]:
        metrics = folder / "metrics.jsonl"
        curves = {(k, n): _thinned(points) for (k, n), points in loss_curves(metrics).items()}
        named = {n if k == "train" else f"{n}, validation": points for (k, n), points in curves.items()}
        held_out = [name for name in named if name.endswith(", validation")]
        blocks: list[Block] = [lines(named, "step", "loss", dashed=held_out)]
        blocks.append(_last(MetricsFile(metrics).lines()))
        blocks += [Heading("Samples"), *images] if images else []
        for name in ("recipe.yaml", "model/training.json"):
            if (folder / name).is_file():
                blocks.append(Details(name, [Preformatted(_text(folder / name))]))
        return blocks

    return Part(f"run {readable(folder.resolve().name)}", samples, body)


def _thinned(points: Sequence[tuple[int, float]]) -> list[tuple[float, float]]:
    """Reduce a curve to at most POINTS points, each the mean of neighbouring points."""
    size = -(-len(points) // POINTS)
    groups = [points[first : first + size] for first in range(0, len(points), size)] if points else []
    return [(fmean(x for x, _ in group), fmean(y for _, y in group)) for group in groups]


def _last(metrics: Sequence[Mapping[str, Any]]) -> Block:
    """The last metrics of training and validation, and the lowest validation loss."""
    rows = []
    for kind, name in (("train", "training"), ("evaluate", "validation")):
        selected = [line for line in metrics if line.get("kind") == kind]
        last = selected[-1] if selected else {}
        rows += [(f"{name}, {key}", value) for key, value in last.items() if key != "kind"]
        with_loss = [line for line in selected if isinstance(line.get("loss"), float)]
        if kind == "evaluate" and with_loss:
            best = min(with_loss, key=lambda line: line["loss"])
            rows.append(("validation, lowest loss", f"{best['loss']:.4f} at step {best['step']}"))
    return Details("Last figures", [Table(("", ""), rows)])


def _model(folder: Path) -> Part:
    """The section of a model: its card and its configuration."""

    def body(_: Sequence[Block]) -> list[Block]:
        card = folder / "card.md"
        text: Block = Preformatted(_text(card)) if card.is_file() else Text("no card")
        return [text, Details("family.json", [Preformatted(_text(folder / "family.json"))])]

    return Part(f"model {readable(folder.resolve().name)}", (), body)


def _text(path: Path) -> str:
    text = read_text(path, MAX_TEXT)
    return text if len(text) <= TEXT else f"{text[:TEXT]}\n… ({len(text):,} characters)"


# --------------------------------------------------------------------------------------------- reports


def _json(path: Path) -> Part:
    """The section of a JSON file: a report of a known kind, or tables."""
    data = load_json(path)
    for model, kind, show in KINDS:
        try:
            report = model.model_validate(data)
        except pydantic.ValidationError:
            continue
        context = [(name, data[name]) for name in ("facts", "manifest", "plan", "selection") if name in data]
        details = [Details(name, plain(value)) for name, value in context]
        return _without_images(f"{kind}: {readable(path.stem)}", [*show(report), *details])
    return _without_images(readable(path.stem), plain(data))


def _without_images(title: str, body: Sequence[Block]) -> Part:
    return Part(title, (), lambda _: body)


def _accuracy(sets: Mapping[str, Accuracy]) -> list[Block]:
    """Attribute accuracy with its intervals, by set of images."""
    figures = {
        "overall": [accuracy.overall for accuracy in sets.values()],
        "macro": [accuracy.macro for accuracy in sets.values()],
    }
    rows = [
        (name, *map(_figure, (a.overall, a.of_ceiling, a.macro, a.macro_of_ceiling)), a.floor)
        for name, a in sets.items()
    ]
    groups = list(dict.fromkeys(group for a in sets.values() for group in a.by_group))
    by_group = [
        (group, *(a.by_group[group].value if group in a.by_group else None for a in sets.values()))
        for group in groups
    ]
    return [
        bars(
            list(sets),
            {name: [figure.value for figure in values] for name, values in figures.items()},
            "accuracy",
            {name: [(figure.low, figure.high) for figure in values] for name, values in figures.items()},
            {"overall": [accuracy.floor for accuracy in sets.values()]},
        ),
        Text("error bars: 95 % intervals; thick marks: prompts swapped within a style"),
        Table(("images", "right", "of ceiling", "macro", "of ceiling", "floor"), rows),
        Details("By group", [Table(("group", *sets), by_group)]),
    ]


def _figure(figure: Figure | None) -> str | None:
    return None if figure is None else f"{figure.value:.3f} ({figure.low:.3f}–{figure.high:.3f})"


def _attributes(report: AttributeReport) -> list[Block]:
    return _accuracy(report.accuracy)


def _captions(report: CaptionReport) -> list[Block]:
    rows = [(name, m.own, m.other, m.preferred) for name, m in report.matching.items()]
    header = ("captions", "loss of the own caption", "of another image's", "own preferred")
    return [*_accuracy(report.accuracy), Table(header, rows)]


def _best_of(report: BestOfReport) -> list[Block]:
    """CogView's figure 9: accuracy and loss of the selected images against the number of candidates."""
    blocks = [*(curve(y, own) for y, own in panels(report).items()), *_accuracy(report.accuracy)]
    blocks.append(Table(("images", "caption loss, nats per token"), list(report.losses.items())))
    if report.distributions:
        names = list(next(iter(report.distributions.values())))
        rows = [
            (label, *(values.get(name) for name in names)) for label, values in report.distributions.items()
        ]
        blocks.append(Table(("images", *names), rows))
    return blocks


def curve(metric: str, by_label: Mapping[str, Points]) -> Block:
    """A metric against the number of candidates, a curve for each language and judge."""
    series = {label: [(float(size), f.value) for size, f in points] for label, points in by_label.items()}
    spans = {label: [(f.low, f.high) for _, f in points] for label, points in by_label.items()}
    return lines(series, "candidates", metric, spans, log=True)


def _order(report: OrderReport) -> list[Block]:
    points = [(float(rank), placed.loss) for rank, placed in enumerate(report.order, 1)]
    agreed = "" if report.agreement is None else f"; rank correlation with the scorer {report.agreement:.2f}"
    title = Text(f"“{report.prompt}”, seed {report.seed}{agreed}", note=False)
    return [title, lines({"caption loss, nats per token": points}, "rank", "caption loss")]


def _fairness(report: FairnessReport) -> list[Block]:
    header = ("condition", "images", "distance to the target", "by chance", "as named")
    blocks: list[Block] = []
    for name, readings in report.readings.items():
        values = list(next(iter(readings.values())).proportions)
        rows = [(c, r.pictures, r.distance, r.chance, _share(r)) for c, r in readings.items()]
        blocks += [Heading(name), _proportions(values, readings), Table(header, rows)]
    return blocks


def _proportions(values: Sequence[str], readings: Mapping[str, Reading]) -> Block:
    return bars(
        values,
        {name: [r.proportions[value].share for value in values] for name, r in readings.items()},
        "share of the images",
        {
            name: [(r.proportions[value].low, r.proportions[value].high) for value in values]
            for name, r in readings.items()
        },
        {name: [r.wanted.get(value, 0.0) for value in values] for name, r in readings.items() if r.wanted},
    )


def _share(reading: Reading) -> str | None:
    return None if reading.right is None else f"{reading.right.right} of {reading.right.stated}"


def _distributions(report: DistributionReport) -> list[Block]:
    rows = [(name, f.value, f.low, f.high, f.spread) for name, f in report.figures.items()]
    return [Table(("figure", "value", "low", "high", "spread"), rows)]


def _alignment(report: AlignmentReport) -> list[Block]:
    """R-precision with its interval, and recall at k, by set of images."""
    figures = {name: alignment.r_precision for name, alignment in report.sets.items()}
    chart = bars(
        list(figures),
        {"R-precision": [figure.value for figure in figures.values()]},
        "R-precision",
        {"R-precision": [(figure.low, figure.high) for figure in figures.values()]},
    )
    first = next(iter(report.sets.values()), None)
    if first is None:
        return [chart]
    header = [f"text@{k}" for k in first.text_recall] + [f"picture@{k}" for k in first.picture_recall]
    rows = [
        (name, *map(_figure, (a.r_precision, *a.text_recall.values(), *a.picture_recall.values())))
        for name, a in report.sets.items()
    ]
    return [chart, Table(("images", f"R-precision of {first.choices}", *header), rows)]


def _fidelity(methods: Mapping[str, Fidelity]) -> list[Block]:
    rows = [(n, f.pictures, f.psnr, f.psnr_pooled, f.ssim, f.lpips) for n, f in methods.items()]
    return [Table(("", "images", "PSNR, dB", "pooled", "SSIM", "LPIPS"), rows)]


def _reconstruction(report: ReconstructionReport) -> list[Block]:
    usage = report.codebook
    used = f"codebook: {usage.used} of {usage.codes} codes used, perplexity {usage.perplexity:.0f}"
    return [*_fidelity({**report.by_source, "all": report.overall}), Text(used)]


def _upscaling(report: UpscalingReport) -> list[Block]:
    rows = [(c.first, c.second, c.difference, c.low, c.high, c.wins) for c in report.comparisons]
    header = ("method", "against", "LPIPS difference", "low", "high", "wins")
    return [*_fidelity(report.overall), Table(header, rows)]


KINDS: tuple[tuple[type[pydantic.BaseModel], str, Callable[[Any], list[Block]]], ...] = (
    (AttributeReport, "attributes", _attributes),
    (BestOfReport, "best of several", _best_of),
    (CaptionReport, "captions", _captions),
    (OrderReport, "order by caption loss", _order),
    (FairnessReport, "fairness", _fairness),
    (CocoReport, "MS-COCO protocol", _distributions),
    (DistributionReport, "sets of images", _distributions),
    (AlignmentReport, "alignment", _alignment),
    (ReconstructionReport, "image tokenizer", _reconstruction),
    (UpscalingReport, "super-resolution", _upscaling),
)


# ------------------------------------------------------------------------------------- any other JSON


def plain(value: Any, depth: int = 0) -> list[Block]:
    """Any JSON value as tables: a mapping's scalars in one table, a list of mappings by its columns."""
    if depth >= DEPTH or not isinstance(value, dict | list) or not value:
        return [Preformatted(str(value)[:TEXT])]
    if isinstance(value, list):
        return _list(value, depth)
    scalars = [(name, _joined(item)) for name, item in value.items() if _simple(item)]
    nested = [(name, item) for name, item in value.items() if not _simple(item)]
    blocks: list[Block] = [Table(("", ""), scalars[: ROWS * 5])] if scalars else []
    if nested and all(isinstance(item, dict) and all(map(_simple, item.values())) for _, item in nested):
        columns = list(dict.fromkeys(key for _, item in nested for key in item))
        rows = [(name, *(_joined(item.get(key)) for key in columns)) for name, item in nested]
        return [*blocks, Table(("", *columns), rows[: ROWS * 5])]
    for name, item in nested[:ROWS]:
        blocks += [Heading(name), *plain(item, depth + 1)]
    return blocks


def _list(value: list[Any], depth: int) -> list[Block]:
    more = [Text(f"and {len(value) - ROWS} more")] if len(value) > ROWS else []
    if all(isinstance(item, dict) for item in value):
        columns = list(dict.fromkeys(key for item in value for key in item))
        if all(_simple(item.get(key)) for item in value for key in columns):
            rows = [[_joined(item.get(key)) for key in columns] for item in value[:ROWS]]
            return [Table(columns, rows), *more]
    return [*(block for item in value[:ROWS] for block in plain(item, depth + 1)), *more]


def _simple(value: Any) -> bool:
    """Whether a value fits into a table cell: a scalar, or a short list of scalars."""
    if isinstance(value, list):
        return len(value) <= ROWS and not any(isinstance(item, dict | list) for item in value)
    return not isinstance(value, dict)


def _joined(value: Any) -> Any:
    return ", ".join(map(html.number, value)) if isinstance(value, list) else value
