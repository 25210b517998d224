"""The report of a study: answers as CSV, statistics as JSON, figure 10 as PNG, and one HTML page."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cogview
from cogview.config import Config
from cogview.data.images import BadImage, decode
from cogview.errors import CogViewError
from cogview.files import write_file
from cogview.reports.html import data_uri, environment
from cogview.reports.plots import new_figure, png
from cogview.study.records import HIGHEST, PICTURES, SCALES, Study
from cogview.study.statistics import RESAMPLES, Figures, Interval, compute
from cogview.study.store import Answer, Store

if TYPE_CHECKING:
    from rich.table import Table

COLOURS = ("#0f766e", "#d97706", "#6d5bd0", "#be3455", "#4b7bb5", "#7c8a3a", "#8a5a44", "#5f6b6d")
EXAMPLES, THUMBNAIL = 12, 200
METHOD = (
    "Raters count if they answered everything and the images that they chose as best had the highest overall "
    "score of their group (alone or tied) in more than {threshold:.0%} of groups. Thin error bars: sample "
    "standard deviation of single scores, as in the paper's figure 10. Thick bars and intervals in brackets: "
    "95 % percentile intervals of {resamples:,} bootstrap resamples over raters. The share of best choices "
    "is relative to the groups in which the model was shown."
)


class Report(Config):
    """The content of ``report.json``: the study, the method and the figures."""

    format: int = 1
    software: str
    study: str
    title: str
    captions: int
    captions_per_rater: int
    consistency: float
    resamples: int
    seed: int
    method: str
    figures: Figures


def make_report(store: Store) -> tuple[Report, list[Answer]]:
    """Compute the current figures of a study; also returns the answers."""
    study, answers = store.study, store.answers()
    method = METHOD.format(threshold=study.consistency, resamples=RESAMPLES)
    figures = compute(answers, study.models, study.ab, study.consistency, study.seed)
    report = Report(
        software=f"cogview {cogview.__version__}",
        study=study.id,
        title=study.title,
        captions=len(study.groups),
        captions_per_rater=study.captions_per_rater,
        consistency=study.consistency,
        resamples=RESAMPLES,
        seed=study.seed,
        method=method,
        figures=figures,
    )
    return report, answers


def write_report(store: Store, out: Path) -> tuple[Report, list[Path]]:
    """Write ``ratings.csv`` and, once a rater is kept, ``report.json``, ``report.png`` and ``report.html``.

    Raises:
        CogViewError: no rater is kept yet (the CSV is still written), or ``out`` is not writable.
    """
    report, answers = make_report(store)
    files = {"ratings.csv": ratings_csv(answers, report.figures).encode()}
    if report.figures.models:
        plot = figure_png(report.figures, store.study)
        files["report.json"] = (report.model_dump_json(indent=2) + "\n").encode()
        files["report.png"] = plot
        files["report.html"] = report_page(report, store, answers, plot).encode()
    try:
        out.mkdir(parents=True, exist_ok=True)
        paths = [_write(out / name, content) for name, content in files.items()]
    except OSError as error:
        raise CogViewError(f"{out}: cannot be written ({error.strerror or error})") from error
    if not report.figures.models:
        raise CogViewError(
            f"no rater's answers count yet ({outcomes(report.figures)}); all answers are in {paths[0]}"
        )
    return report, paths


def _write(path: Path, content: bytes) -> Path:
    write_file(path, content)
    return path


def outcomes(figures: Figures) -> str:
    """The number of raters by outcome, as text."""
    finished = figures.count("kept", "inconsistent")
    return (
        f"{figures.count()} invited, {finished} finished, {figures.count('kept')} kept, "
        f"{figures.count('inconsistent')} inconsistent, {figures.count('unfinished')} unfinished, "
        f"{figures.count('not begun')} not begun"
    )


def ratings_csv(answers: Sequence[Answer], figures: Figures) -> str:
    """A CSV with a row for each image shown to each rater; cells without an answer are empty.

    ``half`` is A or B, ``best`` is 1 for the chosen image, ``outcome`` is the rater's.
    """
    by_rater = {rater.rater: rater.outcome for rater in figures.raters}
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([*Answer.model_fields, "outcome"])
    for answer in answers:
        values = answer.model_dump() | {"half": "AB"[answer.half]}
        values["best"] = None if answer.best is None else int(answer.best)
        table.writerow([*(_cell(value) for value in values.values()), by_rater[answer.rater]])
    return text.getvalue()


def _cell(value: Any) -> Any:
    """A cell that spreadsheets do not interpret as a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


# ---------------------------------------------------------------------------------------------- plots


def _colours(study: Study) -> dict[str, str]:
    return {model: COLOURS[n % len(COLOURS)] for n, model in enumerate(study.models)}


def figure_png(figures: Figures, study: Study) -> bytes:
    """Figure 10 as PNG: overall scores, the three scales, shares of best choices."""
    names = list(figures.models)
    figure = new_figure(12, max(3.6, 0.42 * len(names) + 2))
    figure.set_dpi(150)
    left, middle, right = figure.subplots(1, 3, width_ratios=(3, 4.4, 2.6))
    colours = _colours(study)
    _overall(left, figures, names, colours)
    _three_scales(middle, figures, names, colours)
    _best(right, figures, names, colours)
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
    figure.legend(
        handles=left.patches[: len(names)],
        labels=[name.replace("$", r"\$") for name in names],
        loc="outside lower center",
        ncols=min(len(names), 6),
        frameon=False,
    )
    return png(figure, f"cogview {cogview.__version__}")


def _bar(axes: Any, x: float, mean: Any, colour: str, width: float) -> None:
    """A bar for a mean with its standard deviation (thin) and interval (thick)."""
    axes.bar(x, mean.mean, width, color=colour)
    axes.errorbar(x, mean.mean, mean.deviation or 0, color="#444", lw=0.9, capsize=2.5, capthick=0.9)
    if mean.interval:
        axes.vlines(x, *mean.interval, color="#111", lw=3)


def _overall(axes: Any, figures: Figures, names: Sequence[str], colours: Mapping[str, str]) -> None:
    for x, name in enumerate(names):
        _bar(axes, x, figures.models[name].scores["overall"], colours[name], 0.72)
    axes.set(title="(a) overall score", ylim=(0, 11), yticks=range(0, 11, 2), xticks=[])
    axes.grid(axis="y", color="#e3e3e3", lw=0.7)


def _three_scales(axes: Any, figures: Figures, names: Sequence[str], colours: Mapping[str, str]) -> None:
    step, scales = 0.84 / len(names), SCALES[:3]
    for group, scale in enumerate(scales):
        for number, name in enumerate(names):
            x = group + (number - (len(names) - 1) / 2) * step
            _bar(axes, x, figures.models[name].scores[scale], colours[name], step * 0.88)
    axes.set(title="(b) clarity, texture, relevance", ylim=(0, 5.9), yticks=range(6))
    axes.set_xticks(range(3), scales)
    axes.grid(axis="y", color="#e3e3e3", lw=0.7)


def _best(axes: Any, figures: Figures, names: Sequence[str], colours: Mapping[str, str]) -> None:
    for y, name in enumerate(names):
        best = figures.models[name].best
        axes.barh(y, 100 * best.share, 0.72, color=colours[name])
        high = best.share
        if best.interval:
            axes.hlines(y, 100 * best.interval[0], 100 * best.interval[1], color="#111", lw=3)
            high = max(high, best.interval[1])
        axes.text(100 * high + 2, y, f"{best.share:.1%}", va="center", fontsize=9)
    axes.set(title="(c) chosen as best, %", xlim=(0, 118), xticks=range(0, 101, 25), yticks=[])
    axes.invert_yaxis()
    axes.grid(axis="x", color="#e3e3e3", lw=0.7)


# ---------------------------------------------------------------------------------------------- the page


def _ci(interval: Interval | None, template: str = "{:.2f}") -> str:
    return f"[{template.format(interval[0])}, {template.format(interval[1])}]" if interval else "–"


def model_rows(figures: Figures, intervals: bool = True) -> list[list[str]]:
    """A row for each model: the four means ± deviation, the share of best; intervals on a second line."""
    rows = []
    for name, model in figures.models.items():
        means, best = [model.scores[scale] for scale in SCALES], model.best
        cells = [f"{mean.mean:.2f} ± {mean.deviation or 0:.2f}" for mean in means] + [f"{best.share:.1%}"]
        spans = [*(_ci(mean.interval) for mean in means), _ci(best.interval, "{:.1%}")]
        if intervals:
            cells = [f"{cell}\n{span}" for cell, span in zip(cells, spans, strict=True)]
        rows.append([name, *cells, f"{best.best} / {best.shown}"])
    return rows


def _rater_rows(figures: Figures) -> list[list[str]]:
    return [
        [
            str(r.rater),
            "AB"[r.half],
            f"{r.scored} / {r.asked}",
            str(r.chosen),
            "–" if r.consistency is None else f"{r.consistency:.0%}",
            r.outcome,
        ]
        for r in figures.raters
    ]


def _ab_rows(figures: Figures) -> list[list[str]]:
    test = figures.ab
    if not test:
        return []
    return [
        [scale, f"{test.difference[scale]:+.2f}", _ci(test.interval[scale], "{:+.2f}")] for scale in SCALES
    ]


def _thumbnail(path: Path) -> str:
    try:
        small = decode(path).image
    except BadImage as error:
        raise CogViewError(f"{path}: {error}; restore the study's folder") from error
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return data_uri(buffer.getvalue(), "jpeg")


def _examples(
    store: Store, answers: Sequence[Answer], figures: Figures
) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """The first captions, each with (model, mean overall score, image URI) for its images (figure 16)."""
    kept = {rater.rater for rater in figures.raters if rater.outcome == "kept"}
    scores: dict[tuple[str, str], list[int]] = {}
    for answer in answers:
        if answer.rater in kept:
            scores.setdefault((answer.caption, answer.model), []).append(answer.overall or 0)
    examples = []
    for group in store.study.groups[:EXAMPLES]:
        cells = []
        for model in store.study.models:
            values = scores.get((group.key, model), [])
            mean = f"{sum(values) / len(values):.1f}" if values else "–"
            cells.append((model, mean, _thumbnail(store.directory / PICTURES / group.pictures[model])))
        examples.append((" · ".join(group.captions.values()), cells))
    return examples


STYLE = Path(__file__).parent / "static" / "report.css"


def report_page(report: Report, store: Store, answers: Sequence[Answer], plot: bytes) -> str:
    """The full report as one self-contained HTML page."""
    figures, study = report.figures, store.study
    facts = [
        (report.captions, "captions"),
        (len(study.models), "models"),
        (figures.count(), "raters invited"),
        (figures.count("kept", "inconsistent"), "finished"),
        (figures.count("kept"), "kept"),
        (sum(model.best.best for model in figures.models.values()), "groups judged"),
    ]
    page = (
        environment("cogview.study")
        .get_template("report.html")
        .render(
            title=report.title or "Human study",
            style=STYLE.read_text(encoding="utf-8"),
            report=report,
            facts=facts,
            plot=data_uri(plot, "png"),
            head=["model", *(f"{scale} (1–{HIGHEST[scale]})" for scale in SCALES), "chosen as best", "of"],
            models=model_rows(figures),
            ab=figures.ab,
            ab_rows=_ab_rows(figures),
            outcomes=outcomes(figures),
            examples=_examples(store, answers, figures),
            raters=_rater_rows(figures),
        )
    )
    return str(page)


def table(report: Report) -> Table:
    """The figures of every model, for the terminal."""
    from rich.table import Table

    rows = Table("model", *SCALES, "best", "of")
    for row in model_rows(report.figures, intervals=False):
        rows.add_row(*row)
    return rows
