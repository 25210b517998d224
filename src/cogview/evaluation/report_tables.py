"""Renders reports as tables and lines for the terminal."""

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
    """A table with left-aligned text in the first column and right-aligned numbers in the others."""
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
    stated = sum(share.stated for share in sets["real"].by_attribute.values())
    title = (
        f"{report.facts['model']}: {len(report.selection.keys)} held-out combinations, {stated} statements"
    )
    columns = ("images", "right, %", "of ceiling", "macro", "of ceiling", "floor")
    rows = (
        (name, *map(percent, (a.overall, a.of_ceiling, a.macro, a.macro_of_ceiling)), _floor(a))
        for name, a in sets.items()
    )
    yield make_table(columns, rows, title)
    yield note(f"{HALF}; floor: prompts swapped within a style")
    details = make_table(("right, %", "stated", *sets), ())
    for shares in ([a.by_group for a in sets.values()], [a.by_style for a in sets.values()]):
        for name, first in shares[0].items():
            details.add_row(name, str(first.stated), *(share(by_name[name].value) for by_name in shares))
        details.add_section()
    yield details


def accuracies(title: str, what: str, sets: Mapping[str, Accuracy]) -> Table:
    rows = ((name, *map(percent, (a.overall, a.of_ceiling, a.macro)), _floor(a)) for name, a in sets.items())
    return make_table((what, "right, %", "of ceiling", "macro", "floor"), rows, title)


def _floor(accuracy: Accuracy) -> str:
    return share(accuracy.floor, "–")


def captions(report: CaptionReport) -> Parts:
    count = len(report.selection.keys)
    title = f"{report.facts['model']}: captions of {count} held-out images"
    yield accuracies(title, "captions", report.accuracy)
    for language, matching in report.matching.items():
        yield (
            f"{language}: caption loss {matching.own:.3f}, with another image's caption "
            f"{matching.other:.3f}; own caption preferred for {share(matching.preferred)} %"
        )


def best_of(report: BestOfReport) -> Parts:
    title = f"{report.facts['model']}: {len(report.selection.keys)} held-out combinations"
    yield accuracies(title, "images", report.accuracy)
    for name, loss in report.losses.items():
        figures = report.distributions.get(name, {})
        more = "".join(f", {figure} {value:.4g}" for figure, value in figures.items())
        yield f"{name}: caption loss {loss:.3f} nats per token{more}"


def things(report: ThingsReport) -> Parts:
    columns = ("language", "images", "first, %", "of ceiling", "five, %", "of ceiling", "floor")
    rows = (
        (
            language,
            str(reading.images),
            *map(percent, (reading.first, reading.first_of_ceiling, reading.five, reading.five_of_ceiling)),
            share(reading.floor),
        )
        for language, reading in report.readings.items()
    )
    yield make_table(columns, rows, f"{report.facts['model']}: things, bare names")
    ceilings = ", ".join(f"{name} {share(value)} %" for name, value in report.ceiling.items())
    counts = "" if report.counts else "; too low for the figures to be meaningful"
    yield note(f"ceiling: {ceilings or 'not measured'}{counts}; {HALF}")
    if report.difference:
        yield note(f"difference between the languages: {percent(report.difference)} points")
    if copied := report.copying:
        yield (
            f"nearer to one of {copied.drawings} training drawings than drawings of a thing in two styles "
            f"(cosine distance below the median, {copied.threshold:.3f}): {percent(copied.nearer)} %; "
            f"below the 5th percentile ({copied.much:.3f}): {percent(copied.much_nearer)} %"
        )


def scenes(report: ScenesReport) -> Parts:
    columns = ("task", "images", "right, %", "ceiling", "of ceiling", "floor")
    for language, readings in report.readings.items():
        rows = (
            (
                task,
                str(reading.images),
                percent(reading.right),
                share(reading.ceiling),
                percent(reading.of_ceiling),
                share(reading.floor),
            )
            for task, reading in readings.items()
        )
        yield make_table(columns, rows, f"{report.facts['model']}: scenes, {language}")


def alignment(report: AlignmentReport) -> Parts:
    first = next(iter(report.sets.values()))
    ks = ", ".join(str(k) for k in first.text_recall)
    columns = (
        "images",
        f"R-precision\nof {first.choices}",
        f"text@\n{ks}",
        f"picture@\n{ks}",
        "cosine",
    )

    def recall(values: Mapping[int, Figure]) -> str:
        return " ".join(f"{100 * figure.value:.0f}" for figure in values.values())

    rows = (
        (
            name,
            percent(figures.r_precision),
            recall(figures.text_recall),
            recall(figures.picture_recall),
            f"{figures.cosine.value:.3f}",
        )
        for name, figures in report.sets.items()
    )
    title = f"{first.pictures} images, scorer {report.manifest.scorer}, %"
    table = make_table(columns, rows, title, box=box.SIMPLE)
    table.columns[0].no_wrap = False
    yield table
    yield note(f"{HALF}; @k: the right one is among the k best")


def editing(report: EditingReport) -> Parts:
    count = report.untouched.stated
    rows = (
        (name, f"{share(outcome.changed.value)} %", f"{share(outcome.kept.value)} %")
        for name, outcome in report.outcomes.items()
    )
    title = f"{report.facts['model']}: {count} edits"
    yield make_table(("images", "changed", "others kept"), rows, title)
    for name, changed in report.outcomes["edited"].by_group.items():
        yield f"{name}: {changed.right} of {changed.stated} changed"
    yield (
        f"unchanged outside the mask: {report.untouched.right} of {count}; "
        f"{report.skipped} tasks skipped (the classifier cannot read the change)"
    )


def fairness(report: FairnessReport) -> Parts:
    for name, readings in report.readings.items():
        columns = ("value", *(f"{condition}\n({r.pictures})" for condition, r in readings.items()))
        rows = (
            (value, *(_proportion(reading, value) for reading in readings.values()))
            for value in next(iter(readings.values())).proportions
        )
        yield make_table(columns, rows, f"{report.facts['model']}: {name}, %")
        yield from filter(None, (_reading(condition, reading) for condition, reading in readings.items()))
        if name in report.reader and report.reader[name].stated:
            check = report.reader[name]
            yield f"classifier: {check.right} of {check.stated} unseen real images read right"


def _proportion(reading: Proportions, value: str) -> str:
    proportion = reading.proportions[value]
    text = f"{share(proportion.share)} ({100 * proportion.low:.0f}–{100 * proportion.high:.0f})"
    return f"{text} of {100 * reading.wanted.get(value, 0.0):.0f}" if reading.wanted else text


def _reading(condition: str, reading: Proportions) -> str:
    """The figures of a condition that are not in the table."""
    parts = []
    if reading.right is not None:
        parts.append(f"{share(reading.right.value)} % of the images show what their prompts name")
    if reading.distance is not None and reading.chance is not None:
        parts.append(
            f"distance to the target {reading.distance:.3f} (sampling noise reaches {reading.chance:.3f})"
        )
    return f"{condition}: {'; '.join(parts)}" if parts else ""


def reconstruction(report: ReconstructionReport) -> Parts:
    rows = (
        (
            name,
            str(fidelity.pictures),
            f"{fidelity.psnr:.2f} dB",
            f"{fidelity.psnr_pooled:.2f} dB",
            f"{fidelity.ssim:.4f}",
            "–" if fidelity.lpips is None else f"{fidelity.lpips:.4f}",
        )
        for name, fidelity in {**report.by_source, "all": report.overall}.items()
    )
    columns = ("source", "images", "PSNR", "pooled", "SSIM", "LPIPS")
    yield make_table(columns, rows, f"image tokenizer {report.facts['tokenizer']}")
    codebook = report.codebook
    yield (
        f"codebook: {codebook.used} of {codebook.codes} codes used ({share(codebook.usage)} %), "
        f"perplexity {codebook.perplexity:.0f}"
    )
    if report.skipped:
        yield "skipped: " + ", ".join(f"{count} {reason}" for reason, count in report.skipped.items())


def upscaling(report: UpscalingReport) -> Parts:
    count = next(iter(report.overall.values())).pictures
    rows = (
        (name, f"{fidelity.lpips:.4f}", f"{fidelity.ssim:.4f}", f"{fidelity.psnr:.2f} dB")
        for name, fidelity in report.overall.items()
    )
    title = f"{report.facts['model']}: {count} images upscaled to {report.facts['size']} px"
    yield make_table(("method", "LPIPS", "SSIM", "PSNR"), rows, title)
    for pair in report.comparisons:
        yield (
            f"LPIPS of {pair.first} minus {pair.second}: {pair.difference:+.4f} "
            f"±{(pair.high - pair.low) / 2:.4f}, lower on {100 * pair.wins:.0f} % of the images"
        )


def figures(reports: Mapping[str, Mapping[str, Value]]) -> Parts:
    """The figures of several reports side by side."""
    names = dict.fromkeys(name for values in reports.values() for name in values)
    rows = ((name, *(_value(values.get(name)) for values in reports.values())) for name in names)
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
    yield f"{count} images, {report.prompts} prompts, distances by {report.extractor}"
    yield f"within a prompt: {distance(report.within)}; across prompts: {distance(report.across)}"
    yield f"Vendi score: {report.vendi:.1f} of {count}"


def speed(report: SpeedReport) -> Parts:
    yield (
        f"{report.model}, {report.precision}, {report.device}, {report.threads} threads: "
        f"ready after {report.ready:.2f} s, first image after {report.first:.2f} s more"
    )
    for timing in report.timings:
        yield (
            f"batch of {timing.pictures}: {timing.seconds:.2f} s "
            f"({timing.fastest:.2f} to {timing.slowest:.2f}), "
            f"{timing.pictures_per_minute:.1f} images/min, {timing.tokens_per_second:.0f} tokens/s"
        )
