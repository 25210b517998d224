"""One HTML page of what there is: training runs, reports of ``cogview eval``, benchmarks, sheets, models.

Every source becomes a section. Reports of a known kind get their plots and tables; any other JSON is shown as
tables; whatever a number hangs on (plan, facts, manifest, recipe) is there to unfold. Pictures share what the
page may weigh.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import pydantic

from cogview import page
from cogview.config import load_json
from cogview.data.images import BadImage, decode
from cogview.errors import CogViewError
from cogview.evaluation.alignment import AlignmentReport
from cogview.evaluation.attributes import AttributeReport
from cogview.evaluation.best_of import BestOfReport, curves
from cogview.evaluation.captions import CaptionReport
from cogview.evaluation.coco import CocoReport
from cogview.evaluation.distributions import DistributionReport
from cogview.evaluation.fairness import FairnessReport, Reading
from cogview.evaluation.order import OrderReport
from cogview.evaluation.reconstruction import Fidelity, ReconstructionReport
from cogview.evaluation.scoring import Accuracy, Figure
from cogview.evaluation.upscaling import UpscalingReport
from cogview.page import Section
from cogview.training.metrics import MetricsFile, loss_curves
from cogview.untrusted import read_text, readable

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
POINTS = 300  # of a curve, at most
ROWS, DEPTH, TEXT = 40, 4, 20_000  # of what is not known: lines of a table, levels, characters of a text
MAX_TEXT = 16 << 20  # bytes of a text file that is shown
SAMPLES = 2  # the first and the last sheets of a run


@dataclass(frozen=True)
class Part:
    """A section to be: its pictures, and its body made of them, in that order."""

    title: str
    pictures: tuple[Path, ...]
    body: Callable[[Sequence[str]], str]


def build(sources: Sequence[Path], title: str, limit: int) -> str:
    """The page of ``sources``, at most ``limit`` bytes.

    Raises:
        CogViewError: a source that is nothing of these, or more than fits without pictures.
    """
    parts = [part for source in sources for part in read_source(source)]
    count = max(1, sum(len(part.pictures) for part in parts))
    share = limit * 4 // 5 // count
    for _ in range(5):
        sections = [
            Section(part.title, part.body([_embedded(p, share) for p in part.pictures])) for part in parts
        ]
        text = page.page(title, sections)
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
        return [Part(readable(source.name), (source,), "".join)]
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


def _embedded(path: Path, limit: int) -> str:
    try:
        image = decode(path).image
    except BadImage as error:
        raise CogViewError(f"{path}: cannot be read as a picture ({error})") from None
    shown = min(2 * image.width, 432) if image.width <= 216 else None
    return page.picture(image, limit, readable(path.name), shown)


# ------------------------------------------------------------------------------------- runs and models


def _run(folder: Path) -> Part:
    """A training run: its losses, its last figures, its first and last samples, its recipe."""
    sheets = sorted((folder / "samples").glob("*.png"))
    chosen = tuple(dict.fromkeys([*sheets[:1], *sheets[-SAMPLES + 1 :]]))

    def body(pictures: Sequence[str]) -> str:
        metrics = folder / "metrics.jsonl"
        curves = {(k, n): _thinned(points) for (k, n), points in loss_curves(metrics).items()}
        named = {n if k == "train" else f"{n}, validation": points for (k, n), points in curves.items()}
        held_out = [name for name in named if name.endswith(", validation")]
        shown = [page.lines(named, "step", "loss", dashed=held_out), _last(MetricsFile(metrics).lines())]
        shown += [page.heading("Samples"), *pictures] if pictures else []
        for name in ("recipe.yaml", "model/training.json"):
            if (folder / name).is_file():
                shown.append(page.details(name, page.preformatted(_text(folder / name))))
        return "\n".join(shown)

    return Part(f"run {readable(folder.resolve().name)}", chosen, body)


def _thinned(points: Sequence[tuple[int, float]]) -> list[tuple[float, float]]:
    """At most POINTS of a curve, each the mean of its neighbours."""
    size = -(-len(points) // POINTS)
    groups = [points[first : first + size] for first in range(0, len(points), size)] if points else []
    return [(fmean(x for x, _ in group), fmean(y for _, y in group)) for group in groups]


def _last(found: Sequence[Mapping[str, Any]]) -> str:
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
    return page.details("Last figures", page.table(("", ""), rows))


def _model(folder: Path) -> Part:
    """A model: its card and its configuration."""

    def body(_: Sequence[str]) -> str:
        card = folder / "card.md"
        told = page.preformatted(_text(card)) if card.is_file() else page.paragraph("no card")
        return told + page.details("family.json", page.preformatted(_text(folder / "family.json")))

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
        rest = "".join(page.details(name, plain(value)) for name, value in told)
        return _written(f"{kind}: {readable(path.stem)}", show(report) + rest)
    return _written(readable(path.stem), plain(data))


def _written(title: str, body: str) -> Part:
    return Part(title, (), lambda _: body)


def _accuracy(sets: Mapping[str, Accuracy]) -> str:
    """Shares read right, with their intervals, by set of pictures."""
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
    return "\n".join(
        (
            page.bars(
                list(sets),
                {name: [own.value for own in values] for name, values in figures.items()},
                "share read right",
                {name: [(own.low, own.high) for own in values] for name, values in figures.items()},
                {"overall": [own.floor for own in sets.values()]},
            ),
            page.paragraph("bars: 95 % intervals; thick marks: prompts swapped within a style"),
            page.table(("pictures", "right", "of ceiling", "macro", "of ceiling", "floor"), rows),
            page.details("By group", page.table(("group", *sets), by_group)),
        )
    )


def _figure(figure: Figure | None) -> str | None:
    return None if figure is None else f"{figure.value:.3f} ({figure.low:.3f}–{figure.high:.3f})"


def _attributes(report: AttributeReport) -> str:
    return _accuracy(report.accuracy)


def _captions(report: CaptionReport) -> str:
    rows = [(name, m.own, m.other, m.preferred) for name, m in report.matching.items()]
    return _accuracy(report.accuracy) + page.table(
        ("captions", "loss of its own", "of another's", "own preferred"), rows
    )


def _best_of(report: BestOfReport) -> str:
    """Figure 9: accuracy and the chosen ones' losses against the number of candidates."""
    parts = [curve(report.accuracy), _accuracy(report.accuracy)]
    parts.append(page.table(("pictures", "caption loss, nats a token"), list(report.losses.items())))
    if report.distributions:
        names = list(next(iter(report.distributions.values())))
        rows = [(name, *(own.get(each) for each in names)) for name, own in report.distributions.items()]
        parts.append(page.table(("pictures", *names), rows))
    return "\n".join(parts)


def curve(sets: Mapping[str, Accuracy]) -> str:
    """Accuracy against the number of candidates, a curve for each language and judge."""
    found = curves(sets)
    series = {label: [(float(size), own.value) for size, own in points] for label, points in found.items()}
    spans = {label: [(own.low, own.high) for _, own in points] for label, points in found.items()}
    return page.lines(series, "candidates", "attributes read right", spans, log=True)


def _order(report: OrderReport) -> str:
    points = [(float(rank), placed.loss) for rank, placed in enumerate(report.order, 1)]
    agreed = "" if report.agreement is None else f"; rank correlation with the scorer {report.agreement:.2f}"
    told = page.paragraph(f"“{report.prompt}”, seed {report.seed}{agreed}", small=False)
    return told + page.lines({"caption loss, nats a token": points}, "rank", "caption loss")


def _fairness(report: FairnessReport) -> str:
    parts = []
    for name, ways in report.readings.items():
        values = list(next(iter(ways.values())).proportions)
        parts += [page.heading(name), _proportions(values, ways)]
        rows = [(way, own.pictures, own.distance, own.chance, _share(own)) for way, own in ways.items()]
        parts.append(
            page.table(("way", "pictures", "distance to what was asked", "by chance", "as named"), rows)
        )
    return "\n".join(parts)


def _proportions(values: Sequence[str], ways: Mapping[str, Reading]) -> str:
    return page.bars(
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


def _distributions(report: DistributionReport) -> str:
    rows = [(name, own.value, own.low, own.high, own.spread) for name, own in report.figures.items()]
    return page.table(("figure", "value", "low", "high", "spread"), rows)


def _alignment(report: AlignmentReport) -> str:
    """R-precision with its interval, and recalls, by set of pictures."""
    figures = {name: own.r_precision for name, own in report.sets.items()}
    shown = page.bars(
        list(figures),
        {"R-precision": [own.value for own in figures.values()]},
        "R-precision",
        {"R-precision": [(own.low, own.high) for own in figures.values()]},
    )
    first = next(iter(report.sets.values()), None)
    if first is None:
        return shown
    header = [f"text@{k}" for k in first.text_recall] + [f"picture@{k}" for k in first.picture_recall]
    rows = [
        (name, *map(_figure, (own.r_precision, *own.text_recall.values(), *own.picture_recall.values())))
        for name, own in report.sets.items()
    ]
    return shown + page.table(("pictures", f"R-precision of {first.choices}", *header), rows)


def _fidelity(ways: Mapping[str, Fidelity]) -> str:
    rows = [(n, f.pictures, f.psnr, f.psnr_pooled, f.ssim, f.lpips) for n, f in ways.items()]
    return page.table(("", "pictures", "PSNR, dB", "pooled", "SSIM", "LPIPS"), rows)


def _reconstruction(report: ReconstructionReport) -> str:
    book = report.codebook
    used = f"codebook: {book.used} of {book.codes} codes used, perplexity {book.perplexity:.0f}"
    return _fidelity({**report.by_source, "all": report.overall}) + page.paragraph(used)


def _upscaling(report: UpscalingReport) -> str:
    rows = [(c.first, c.second, c.difference, c.low, c.high, c.wins) for c in report.comparisons]
    return _fidelity(report.overall) + page.table(
        ("way", "against", "LPIPS difference", "low", "high", "wins"), rows
    )


KINDS: tuple[tuple[type[pydantic.BaseModel], str, Callable[[Any], str]], ...] = (
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


def plain(value: Any, depth: int = 0) -> str:
    """Any JSON as tables: scalars of a mapping together, lists of mappings by their columns."""
    if depth >= DEPTH or not isinstance(value, dict | list) or not value:
        return page.preformatted(str(value)[:TEXT])
    if isinstance(value, list):
        return _list(value, depth)
    scalars = [(name, _joined(own)) for name, own in value.items() if _simple(own)]
    nested = [(name, own) for name, own in value.items() if not _simple(own)]
    parts = [page.table(("", ""), scalars[: ROWS * 5])] if scalars else []
    if nested and all(isinstance(own, dict) and all(map(_simple, own.values())) for _, own in nested):
        columns = list(dict.fromkeys(key for _, own in nested for key in own))
        rows = [(name, *(_joined(own.get(key)) for key in columns)) for name, own in nested]
        return "\n".join([*parts, page.table(("", *columns), rows[: ROWS * 5])])
    return "\n".join([*parts, *(page.heading(name) + plain(own, depth + 1) for name, own in nested[:ROWS])])


def _list(value: list[Any], depth: int) -> str:
    more = page.paragraph(f"and {len(value) - ROWS} more") if len(value) > ROWS else ""
    if all(isinstance(own, dict) for own in value):
        columns = list(dict.fromkeys(key for own in value for key in own))
        if all(_simple(own.get(key)) for own in value for key in columns):
            return (
                page.table(columns, [[_joined(own.get(key)) for key in columns] for own in value[:ROWS]])
                + more
            )
    return "".join(plain(own, depth + 1) for own in value[:ROWS]) + more


def _simple(value: Any) -> bool:
    """Whether it fits a cell: a scalar, or a short list of them."""
    if isinstance(value, list):
        return len(value) <= ROWS and not any(isinstance(own, dict | list) for own in value)
    return not isinstance(value, dict)


def _joined(value: Any) -> Any:
    return ", ".join(map(page.number, value)) if isinstance(value, list) else value
