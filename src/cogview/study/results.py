"""The report of a study: every answer as CSV, the figures as JSON, Figure 10 as PNG, all on one HTML page."""

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
    "Counted are raters who answered everything and whose chosen best pictures had the highest overall score "
    "of their group (alone or tied) in more than {threshold:.0%} of groups. Thin error bars: sample standard "
    "deviation of single scores, as in the paper's Figure 10. Thick bars and intervals in brackets: 95 % "
    "percentile intervals of {resamples:,} bootstrap resamples over raters. A share of best is taken of the "
    "groups in which the model was shown."
)


class Report(Config):
    """Everything ``report.json`` says: which study, by what rule, and the figures."""

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
    """The figures of a study as it stands, and the answers they are made of."""
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
        CogViewError: no rater's answers count yet (the CSV is there all the same), or ``out`` not writable.
    """
    report, answers = make_report(store)
    files = {"ratings.csv": ratings_csv(answers, report.figures).encode()}
    if report.figures.models:
        picture = figure_png(report.figures, store.study)
        files["report.json"] = (report.model_dump_json(indent=2) + "\n").encode()
        files["report.png"] = picture
        files["report.html"] = report_page(report, store, answers, picture).encode()
    try:
        out.mkdir(parents=True, exist_ok=True)
        paths = [_write(out / name, content) for name, content in files.items()]
    except OSError as error:
        raise CogViewError(f"{out}: cannot be written ({error.strerror or error})") from error
    if not report.figures.models:
        raise CogViewError(
            f"no rater's answers count yet ({outcomes(report.figures)}); {paths[0]} has them all"
        )
    return report, paths


def _write(path: Path, content: bytes) -> Path:
    write_file(path, content)
    return path


def outcomes(figures: Figures) -> str:
    """How many raters were invited, and what became of them, in words."""
    finished = figures.count("kept", "inconsistent")
    return (
        f"{figures.count()} invited, {finished} finished, {figures.count('kept')} kept, "
        f"{figures.count('inconsistent')} inconsistent, {figures.count('unfinished')} unfinished, "
        f"{figures.count('not begun')} not begun"
    )


def ratings_csv(answers: Sequence[Answer], figures: Figures) -> str:
    """A line for each image shown to each rater; cells are empty where nothing was said yet.

    ``half`` is A or B, ``best`` 1 for the image chosen, ``outcome`` what became of the rater.
    """
    judged = {rater.rater: rater.outcome for rater in figures.raters}
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([*Answer.model_fields, "outcome"])
    for answer in answers:
        values = answer.model_dump() | {"half": "AB"[answer.half]}
        values["best"] = None if answer.best is None else int(answer.best)
        table.writerow([*(_cell(value) for value in values.values()), judged[answer.rater]])
    return text.getvalue()


def _cell(value: Any) -> Any:
    """A cell that a spreadsheet does not take for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


# ---------------------------------------------------------------------------------------------- plots


def _colours(study: Study) -> dict[str, str]:
    return {model: COLOURS[n % len(COLOURS)] for n, model in enumerate(study.models)}


def figure_png(figures: Figures, study: Study) -> bytes:
    """Figure 10: overall scores, the three scales, shares of the best; PNG."""
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


def _bar(axes: Any, at: float, mean: Any, colour: str, width: float) -> None:
    """A mean with its standard deviation (thin) and interval (thick)."""
    axes.bar(at, mean.mean, width, color=colour)
    axes.errorbar(at, mean.mean, mean.deviation or 0, color="#444", lw=0.9, capsize=2.5, capthick=0.9)
    if mean.interval:
        axes.vlines(at, *mean.interval, color="#111", lw=3)


def _overall(axes: Any, figures: Figures, names: Sequence[str], colours: Mapping[str, str]) -> None:
    for at, name in enumerate(names):
        _bar(axes, at, figures.models[name].scores["overall"], colours[name], 0.72)
    axes.set(title="(a) overall score", ylim=(0, 11), yticks=range(0, 11, 2), xticks=[])
    axes.grid(axis="y", color="#e3e3e3", lw=0.7)


def _three_scales(axes: Any, figures: Figures, names: Sequence[str], colours: Mapping[str, str]) -> None:
    step, scales = 0.84 / len(names), SCALES[:3]
    for place, scale in enumerate(scales):
        for number, name in enumerate(names):
            at = place + (number - (len(names) - 1) / 2) * step
            _bar(axes, at, figures.models[name].scores[scale], colours[name], step * 0.88)
    axes.set(title="(b) clarity, texture, relevance", ylim=(0, 5.9), yticks=range(6))
    axes.set_xticks(range(3), scales)
    axes.grid(axis="y", color="#e3e3e3", lw=0.7)


def _best(axes: Any, figures: Figures, names: Sequence[str], colours: Mapping[str, str]) -> None:
    for at, name in enumerate(names):
        best = figures.models[name].best
        axes.barh(at, 100 * best.share, 0.72, color=colours[name])
        high = best.share
        if best.interval:
            axes.hlines(at, 100 * best.interval[0], 100 * best.interval[1], color="#111", lw=3)
            high = max(high, best.interval[1])
        axes.text(100 * high + 2, at, f"{best.share:.1%}", va="center", fontsize=9)
    axes.set(title="(c) chosen as best, %", xlim=(0, 118), xticks=range(0, 101, 25), yticks=[])
    axes.invert_yaxis()
    axes.grid(axis="x", color="#e3e3e3", lw=0.7)


# ---------------------------------------------------------------------------------------------- the page


def _ci(interval: Interval | None, form: str = "{:.2f}") -> str:
    return f"[{form.format(interval[0])}, {form.format(interval[1])}]" if interval else "–"


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
    """The first captions, each with (model, mean overall score, image) of its images (Figure 16)."""
    kept = {rater.rater for rater in figures.raters if rater.outcome == "kept"}
    scores: dict[tuple[str, str], list[int]] = {}
    for answer in answers:
        if answer.rater in kept:
            scores.setdefault((answer.caption, answer.model), []).append(answer.overall or 0)
    found = []
    for group in store.study.groups[:EXAMPLES]:
        cells = []
        for model in store.study.models:
            given = scores.get((group.key, model), [])
            mean = f"{sum(given) / len(given):.1f}" if given else "–"
            cells.append((model, mean, _thumbnail(store.directory / PICTURES / group.pictures[model])))
        found.append((" · ".join(group.captions.values()), cells))
    return found


STYLE = Path(__file__).parent / "static" / "report.css"


def report_page(report: Report, store: Store, answers: Sequence[Answer], picture: bytes) -> str:
    """The whole report as one self-contained HTML page."""
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
            plot=data_uri(picture, "png"),
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

    found = Table("model", *SCALES, "best", "of")
    for row in model_rows(report.figures, intervals=False):
        found.add_row(*row)
    return found
