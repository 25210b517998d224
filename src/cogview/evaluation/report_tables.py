"""Reports as tables and lines for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.markup import escape
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from cogview.evaluation.experiments.alignment import AlignmentReport
    from cogview.evaluation.experiments.attributes import AttributeReport
    from cogview.evaluation.experiments.audit import FairnessReport
    from cogview.evaluation.experiments.audit import Reading as Proportions
    from cogview.evaluation.experiments.best_of import BestOfReport
    from cogview.evaluation.experiments.captions import CaptionReport
    from cogview.evaluation.experiments.edits import EditingReport
    from cogview.evaluation.experiments.scenes import ScenesReport
    from cogview.evaluation.experiments.speed import SpeedReport
    from cogview.evaluation.experiments.things import ThingsReport
    from cogview.evaluation.experiments.windowed_upscaling import UpscalingReport
    from cogview.evaluation.metrics.accuracy import Accuracy, Figure
    from cogview.evaluation.metrics.diversity import DiversityReport
    from cogview.evaluation.metrics.fid import Value
    from cogview.evaluation.metrics.reconstruction import ReconstructionReport

Parts = Iterator[Table | Text | str]
HALF = "± half of the 95 % interval"


def make_table(
    columns: Iterable[str], rows: Iterable[Sequence[str]], title: str | None = None, **style: Any
) -> Table:
    """A table whose first column is text and the others numbers."""
    table = Table(title=title, title_justify="left", **style)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def note(text: str) -> Text:
    return Text(text, style="dim")


def percent(figure: Figure | None) -> str:
    return "" if figure is None else f"{100 * figure.value:.1f} ±{50 * (figure.high - figure.low):.1f}"


def share(value: float | None, missing: str = "") -> str:
    return missing if value is None else f"{100 * value:.1f}"


def attributes(report: AttributeReport) -> Parts:
    sets = report.accuracy
    stated = sum(one.stated for one in sets["real"].by_attribute.values())
    title = (
        f"{report.facts['model']}: {len(report.selection.keys)} held-out combinations, {stated} statements"
    )
    columns = ("pictures", "right, %", "of ceiling", "macro", "of ceiling", "floor")
    rows = (
        (name, *map(percent, (own.overall, own.of_ceiling, own.macro, own.macro_of_ceiling)), _floor(own))
        for name, own in sets.items()
    )
    yield make_table(columns, rows, title)
    yield note(f"{HALF}; floor: prompts swapped within a style")
    parts = make_table(("right, %", "stated", *sets), ())
    for every in ([own.by_group for own in sets.values()], [own.by_style for own in sets.values()]):
        for name, first in every[0].items():
            parts.add_row(name, str(first.stated), *(share(own[name].value) for own in every))
        parts.add_section()
    yield parts


def accuracies(title: str, what: str, sets: Mapping[str, Accuracy]) -> Table:
    rows = (
        (name, *map(percent, (own.overall, own.of_ceiling, own.macro)), _floor(own))
        for name, own in sets.items()
    )
    return make_table((what, "right, %", "of ceiling", "macro", "floor"), rows, title)


def _floor(own: Accuracy) -> str:
    return share(own.floor, "–")


def captions(report: CaptionReport) -> Parts:
    count = len(report.selection.keys)
    title = f"{report.facts['model']}: captions of {count} held-out pictures"
    yield accuracies(title, "captions", report.accuracy)
    for language, found in report.matching.items():
        yield (
            f"{language}: caption loss {found.own:.3f}, with another's caption {found.other:.3f}; "
            f"own preferred for {share(found.preferred)} %"
        )


def best_of(report: BestOfReport) -> Parts:
    title = f"{report.facts['model']}: {len(report.selection.keys)} held-out combinations"
    yield accuracies(title, "pictures", report.accuracy)
    for name, loss in report.losses.items():
        figures = report.distributions.get(name, {})
        more = "".join(f", {figure} {value:.4g}" for figure, value in figures.items())
        yield f"{name}: caption loss {loss:.3f} nats a token{more}"


def things(report: ThingsReport) -> Parts:
    columns = ("language", "images", "first, %", "of ceiling", "five, %", "of ceiling", "floor")
    rows = (
        (
            language,
            str(own.images),
            *map(percent, (own.first, own.first_of_ceiling, own.five, own.five_of_ceiling)),
            share(own.floor),
        )
        for language, own in report.readings.items()
    )
    yield make_table(columns, rows, f"{report.facts['model']}: things, bare names")
    known = ", ".join(f"{name} {share(value)} %" for name, value in report.ceiling.items())
    counts = "" if report.counts else "; too low for the figures to count"
    yield note(f"ceiling: {known or 'not measured'}{counts}; {HALF}")
    if report.difference:
        yield note(f"difference of the languages: {percent(report.difference)} points")
    if copied := report.copying:
        yield (
            f"nearer to one of {copied.drawings} training drawings than two styles of a thing to each other "
            f"(cosine distance < {copied.threshold:.3f}): {percent(copied.nearer)} %; "
            f"than the nearest twentieth of these ({copied.much:.3f}): {percent(copied.much_nearer)} %"
        )


def scenes(report: ScenesReport) -> Parts:
    columns = ("task", "images", "right, %", "ceiling", "of ceiling", "floor")
    for language, readings in report.readings.items():
        rows = (
            (
                task,
                str(own.images),
                percent(own.right),
                share(own.ceiling),
                percent(own.of_ceiling),
                share(own.floor),
            )
            for task, own in readings.items()
        )
        yield make_table(columns, rows, f"{report.facts['model']}: scenes, {language}")


def alignment(report: AlignmentReport) -> Parts:
    first = next(iter(report.sets.values()))
    found = ", ".join(str(k) for k in first.text_recall)
    columns = (
        "pictures",
        f"R-precision\nof {first.choices}",
        f"text@\n{found}",
        f"picture@\n{found}",
        "cosine",
    )

    def recall(values: Mapping[int, Figure]) -> str:
        return " ".join(f"{100 * figure.value:.0f}" for figure in values.values())

    rows = (
        (
            name,
            percent(own.r_precision),
            recall(own.text_recall),
            recall(own.picture_recall),
            f"{own.cosine.value:.3f}",
        )
        for name, own in report.sets.items()
    )
    title = f"{first.pictures} pictures, scorer {report.manifest.scorer}, %"
    table = make_table(columns, rows, title, box=box.SIMPLE)
    table.columns[0].no_wrap = False
    yield table
    yield note(f"{HALF}; @k: the right one among the first k")


def editing(report: EditingReport) -> Parts:
    count = report.untouched.stated
    rows = (
        (name, f"{share(own.changed.value)} %", f"{share(own.kept.value)} %")
        for name, own in report.outcomes.items()
    )
    title = f"{report.facts['model']}: {count} edits"
    yield make_table(("pictures", "changed", "others kept"), rows, title)
    for name, own in report.outcomes["edited"].by_group.items():
        yield f"{name}: {own.right} of {own.stated} changed"
    yield (
        f"outside the mask untouched: {report.untouched.right} of {count}; "
        f"{report.skipped} tasks left out (the classifier cannot read the change)"
    )


def fairness(report: FairnessReport) -> Parts:
    for name, ways in report.readings.items():
        columns = ("value", *(f"{way}\n({reading.pictures})" for way, reading in ways.items()))
        rows = (
            (value, *(_proportion(reading, value) for reading in ways.values()))
            for value in next(iter(ways.values())).proportions
        )
        yield make_table(columns, rows, f"{report.facts['model']}: {name}, %")
        yield from filter(None, (_reading(way, reading) for way, reading in ways.items()))
        if name in report.reader and report.reader[name].stated:
            own = report.reader[name]
            yield f"classifier: {own.right} of {own.stated} unseen real pictures read right"


def _proportion(reading: Proportions, value: str) -> str:
    own = reading.proportions[value]
    text = f"{share(own.share)} ({100 * own.low:.0f}–{100 * own.high:.0f})"
    return f"{text} of {100 * reading.wanted.get(value, 0.0):.0f}" if reading.wanted else text


def _reading(way: str, reading: Proportions) -> str:
    """What a table has no place for."""
    parts = []
    if reading.right is not None:
        parts.append(f"{share(reading.right.value)} % of the pictures show what their words name")
    if reading.distance is not None and reading.chance is not None:
        parts.append(
            f"distance to what was asked {reading.distance:.3f} (sampling noise reaches {reading.chance:.3f})"
        )
    return f"{way}: {'; '.join(parts)}" if parts else ""


def reconstruction(report: ReconstructionReport) -> Parts:
    rows = (
        (
            name,
            str(own.pictures),
            f"{own.psnr:.2f} dB",
            f"{own.psnr_pooled:.2f} dB",
            f"{own.ssim:.4f}",
            "–" if own.lpips is None else f"{own.lpips:.4f}",
        )
        for name, own in {**report.by_source, "all": report.overall}.items()
    )
    columns = ("source", "pictures", "PSNR", "pooled", "SSIM", "LPIPS")
    yield make_table(columns, rows, f"image tokenizer {report.facts['tokenizer']}")
    book = report.codebook
    yield (
        f"codebook: {book.used} of {book.codes} codes used ({share(book.usage)} %), "
        f"perplexity {book.perplexity:.0f}"
    )
    if report.skipped:
        yield "left out: " + ", ".join(f"{count} {reason}" for reason, count in report.skipped.items())


def upscaling(report: UpscalingReport) -> Parts:
    count = next(iter(report.overall.values())).pictures
    rows = (
        (name, f"{own.lpips:.4f}", f"{own.ssim:.4f}", f"{own.psnr:.2f} dB")
        for name, own in report.overall.items()
    )
    title = f"{report.facts['model']}: {count} pictures brought back to {report.facts['size']} px"
    yield make_table(("way", "LPIPS", "SSIM", "PSNR"), rows, title)
    for pair in report.comparisons:
        yield (
            f"LPIPS of {pair.first} minus {pair.second}: {pair.difference:+.4f} "
            f"±{(pair.high - pair.low) / 2:.4f}, nearer on {100 * pair.wins:.0f} % of the pictures"
        )


def figures(reports: Mapping[str, Mapping[str, Value]]) -> Parts:
    """The figures of reports side by side."""
    names = dict.fromkeys(name for own in reports.values() for name in own)
    rows = ((name, *(_value(own.get(name)) for own in reports.values())) for name in names)
    yield make_table(("figure", *reports), rows)
    yield note("in brackets: 95 % interval")


def _value(value: Value | None) -> str:
    if value is None:
        return ""
    interval = "" if value.low is None else f" [{value.low:.4f}, {value.high:.4f}]"
    return escape(f"{value.value:.4f}{interval}")


def diversity(report: DiversityReport) -> Parts:
    def distance(figure: Figure | None) -> str:
        if figure is None:
            return "unknown"
        return f"{figure.value:.4f} [{figure.low:.4f}, {figure.high:.4f}]"

    count = report.pictures.count
    yield f"{count} pictures, {report.prompts} prompts, distances by {report.extractor}"
    yield f"within a prompt: {distance(report.within)}; across prompts: {distance(report.across)}"
    yield f"Vendi score: {report.vendi:.1f} of {count}"


def speed(report: SpeedReport) -> Parts:
    yield (
        f"{report.model}, {report.precision}, {report.device}, {report.threads} threads: "
        f"ready after {report.ready:.2f} s, first picture after {report.first:.2f} s more"
    )
    for own in report.timings:
        yield (
            f"{own.pictures} at a time: {own.seconds:.2f} s ({own.fastest:.2f} to {own.slowest:.2f}), "
            f"{own.pictures_per_minute:.1f} pictures a minute, {own.tokens_per_second:.0f} tokens a second"
        )
