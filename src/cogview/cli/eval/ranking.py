"""``cogview eval captions``, ``best-of``, ``order``: what the caption role is worth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cogview.cli.eval.common import Report, Sheet
from cogview.cli.options import grouped
from cogview.cli.output import bars, writing
from cogview.evaluation import inputs, plans
from cogview.evaluation import report_tables as tables

if TYPE_CHECKING:
    from cogview.evaluation.experiments.order import OrderReport

SHOWN = 40  # images of each set on a sheet


@grouped(work=Path("runs/captions"))
def captions(given: inputs.Captions, plan: plans.CaptionPlan, report: Report) -> None:
    """How many attributes of unseen images their generated captions name.

    The true captions give the ceiling, captions of other images the floor. Also: how often an image's own
    caption has a lower caption loss than another's.
    """
    from cogview.evaluation.experiments.captions import evaluate_captions

    model = inputs.open_generator(given.model, given.place)
    with bars() as progress:
        found = evaluate_captions(plan, given.corpus, model, given.rare, progress, given.work)
    facts = {**found.facts, "precision": given.place.precision}
    report.finish(found.model_copy(update={"facts": facts}), tables.captions)


@grouped(work=Path("runs/best-of"))
def best_of(given: inputs.Candidates, plan: plans.BestOfPlan, judged: inputs.Judged, report: Sheet) -> None:
    """Attribute accuracy of the best of 1, 4 and 16 images by caption loss, for unseen captions.

    cogview eval best-of --model m/ --corpus corpus/ --classifier runs/classifier --sizes 1,2,4,8,16,32,64
    """
    from cogview.evaluation.experiments.best_of import curves, evaluate_best_of
    from cogview.evaluation.metrics.fid import open_extractor
    from cogview.reports.plots import plot_curves

    reader, generator = inputs.open_classifier(given.classifier), judged.generator()
    others = (inputs.open_scorer(given.scorer), open_extractor(given.weights) if given.weights else None)
    with bars() as progress:
        found, sets = evaluate_best_of(plan, given.corpus, reader, generator, judged.work, progress, *others)
    if given.plot:
        plot_curves(curves(found.accuracy), "candidates", "attributes read right", given.plot)
    report.draw(sets, SHOWN)
    report.finish(found, tables.best_of)


@grouped(work=Path("runs/order"))
def order(given: inputs.Prompt, plan: plans.OrderPlan, report: Report) -> None:
    """Generate many images of a prompt and show them in order of their caption loss (CogView, figure 6).

    cogview eval order "a blue monster with round eyes, red background" --model pictogram -n 60
    """
    from cogview.evaluation.experiments.order import order_sheet, rank_images
    from cogview.files import write_image

    judge, pipeline = inputs.open_scorer(given.scorer), inputs.open_model(given.model, given.place)
    with bars() as progress:
        found, images = rank_images(
            pipeline, given.prompt, plan.count, plan.seed, plan.sampling, judge, progress, given.work
        )
    with writing(given.sheet):
        write_image(given.sheet, order_sheet(found, images))

    def line(report: OrderReport) -> list[str]:
        losses = f"{report.order[0].loss:.3f} to {report.order[-1].loss:.3f} nats a token"
        if report.agreement is not None:
            losses += f"; rank correlation with the scorer {report.agreement:.2f}"
        return [f"{given.sheet}: caption loss from {losses}"]

    report.finish(found, line)
