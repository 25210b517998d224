"""``cogview eval captions``, ``best-of``, ``order``: evaluate the caption role."""

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
def captions(args: inputs.Captions, plan: plans.CaptionPlan, output: Report) -> None:
    """How many attributes of unseen images their generated captions name.

    The true captions give the upper bound, captions of other images the lower one. Also measures how often
    the caption loss of an image's true caption is lower than that of another image's caption.
    """
    from cogview.evaluation.experiments.captions import evaluate_captions

    model = inputs.open_generator(args.model, args.place)
    with bars() as progress:
        report = evaluate_captions(plan, args.corpus, model, args.rare, progress, args.work)
    facts = {**report.facts, "precision": args.place.precision}
    output.finish(report.model_copy(update={"facts": facts}), tables.captions)


@grouped(work=Path("runs/best-of"))
def best_of(args: inputs.Candidates, plan: plans.BestOfPlan, judged: inputs.Judged, output: Sheet) -> None:
    """Attribute accuracy of the best of 1, 4 and 16 images by caption loss, for unseen captions (or --sizes).

    cogview eval best-of --model m/ --corpus corpus/ --classifier runs/classifier --sizes 1,2,4,8,16,32,64
    """
    from cogview.evaluation.experiments.best_of import evaluate_best_of, panels
    from cogview.evaluation.metrics.fid import open_extractor
    from cogview.reports.plots import plot_curves

    classifier, generator = inputs.open_classifier(args.classifier), judged.generator()
    others = (inputs.open_scorer(args.scorer), open_extractor(args.weights) if args.weights else None)
    with bars() as progress:
        report, sets = evaluate_best_of(
            plan, args.corpus, classifier, generator, judged.work, progress, *others
        )
    if args.plot:
        plot_curves(panels(report), "candidates", args.plot)
    output.write_sheet(sets, SHOWN)
    output.finish(report, tables.best_of)


@grouped(work=Path("runs/order"))
def order(args: inputs.Prompt, plan: plans.OrderPlan, output: Report) -> None:
    """Generate many images of a prompt and write a sheet in order of their caption loss (CogView, figure 6).

    cogview eval order "a blue monster with round eyes, red background" --model pictogram -n 60
    """
    from cogview.evaluation.experiments.order import order_sheet, rank_images
    from cogview.files import write_image

    judge, pipeline = inputs.open_scorer(args.scorer), inputs.open_model(args.model, args.place)
    with bars() as progress:
        report, images = rank_images(
            pipeline, args.prompt, plan.count, plan.seed, plan.sampling, judge, progress, args.work
        )
    with writing(args.sheet):
        write_image(args.sheet, order_sheet(report, images))

    def line(report: OrderReport) -> list[str]:
        losses = f"{report.order[0].loss:.3f} to {report.order[-1].loss:.3f} nats per token"
        if report.agreement is not None:
            losses += f"; rank correlation with the scorer {report.agreement:.2f}"
        return [f"{args.sheet}: caption loss from {losses}"]

    output.finish(report, line)
