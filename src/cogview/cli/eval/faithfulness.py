"""``cogview eval attributes``, ``things``, ``scenes``, ``alignment``, ``editing``, ``fairness``.

Do images show what was asked for?
"""

from __future__ import annotations

from pathlib import Path

import typer

from cogview.checkpoints.bundle import ModelBundle
from cogview.cli.eval.common import Report, Sheet
from cogview.cli.options import grouped
from cogview.cli.output import bars
from cogview.evaluation import inputs, plans
from cogview.evaluation import report_tables as tables

SHOWN = 60  # images of each set on a sheet


@grouped(work=Path("runs/attributes"))
def attributes(
    given: inputs.Attributes, plan: plans.AttributePlan, way: inputs.Generation, report: Sheet
) -> None:
    """How many attributes stated in unseen captions a classifier finds in the images generated for them.

    Chinese and English captions are used each; real images give the ceiling, swapped prompts the floor.
    """
    from cogview.evaluation.experiments.attributes import evaluate_attributes
    from cogview.pipelines.model import DEFAULT
    from cogview.tokenizers.loading import read_image_tokenizer

    reader, text = inputs.open_classifier(given.classifier), ModelBundle.find(DEFAULT).text_tokenizer
    own = given.model == inputs.NEAREST
    generator = inputs.nearest(given.corpus, text(), plan.source) if own else way.by(given.model)
    place = given.tokenizer or getattr(generator, "image_tokenizer", None)
    tokenizer = read_image_tokenizer(place) if place else None
    with bars() as progress:
        found, sets = evaluate_attributes(
            plan, given.corpus, reader, generator, way.work, tokenizer, progress
        )
    report.draw(sets, SHOWN)
    report.finish(found, tables.attributes)


@grouped(work=Path("runs/things"))
def things(
    given: inputs.Things, plan: plans.ThingsPlan, judged: inputs.Judged, share: inputs.Share, report: Sheet
) -> None:
    """Whether images of bare names show the thing, judged by a classifier, and whether they copy training
    images.

    cogview eval things --model pictogram --reader runs/things/model -n 2000 --out things.json
    """
    from cogview.evaluation.experiments.things import evaluate_things
    from cogview.evaluation.judges.thing_reader import ThingReader

    judge, generator, part = ThingReader.from_directory(given.reader), judged.generator(), share.part
    with bars() as progress:
        found = evaluate_things(plan, judge, generator, judged.work, given.drawings, part, progress)
    report.of_files(found, share, SHOWN, tables.things)


@grouped(work=Path("runs/scenes"))
def scenes(
    given: inputs.Scenes, plan: plans.ScenesPlan, judged: inputs.Judged, share: inputs.Share, report: Sheet
) -> None:
    """Whether images show the requested scene: GenEval's six tasks, judged by a detector.

    cogview eval scenes --model pictogram --reader runs/scenes/model --real work/judges/prompted
    """
    from cogview.evaluation.experiments.scenes import evaluate_scenes
    from cogview.evaluation.judges.scene_reader import SceneReader

    judge, generator, part = SceneReader.from_directory(given.reader), judged.generator(), share.part
    with bars() as progress:
        found = evaluate_scenes(plan, judge, generator, judged.work, given.real, part, progress)
    report.of_files(found, share, SHOWN, tables.scenes)


@grouped(work=Path("runs/alignment"))
def alignment(
    given: inputs.Captioned,
    plan: plans.AlignmentPlan,
    rows: inputs.Rows,
    way: inputs.Generation,
    share: inputs.Share,
    report: Sheet,
) -> None:
    """R-precision and retrieval: do images and their captions find each other?

    The images of --data are the ceiling, the captions of others the floor.

    cogview eval alignment --scorer runs/scorer --data corpus --split test_comp -n 500 --model pictogram
    """
    from cogview.evaluation.experiments.alignment import evaluate_alignment
    from cogview.evaluation.judges.captioned import read_captioned
    from cogview.evaluation.judges.scorer import DualEncoder

    judge, part = DualEncoder.from_directory(given.scorer), share.part
    generators = [
        inputs.nearest(given.data, judge.text, rows.source) if name == inputs.NEAREST else way.by(name)
        for name in given.models
    ]
    shape = judge.config.preprocessing
    with bars() as progress:
        captioned = read_captioned(given.data, shape, rows.split, rows.source, rows.count, progress=progress)
        found = evaluate_alignment(plan, captioned, judge, generators, way.work, part, progress)
    if found is None:
        return typer.echo(share.waiting)
    report.draw(found[1], SHOWN)
    report.finish(found[0], tables.alignment)


@grouped(model="pictogram-2", work=Path("runs/editing"))
def editing(given: inputs.Edits, plan: plans.EditingPlan, judged: inputs.Judged, report: Sheet) -> None:
    """Edit held-out images and measure what changed: the requested attribute, the others, the pixels.

    Example:

      cogview eval editing edits --model pictogram-2 --classifier classifier --sheet edits.png
    """
    from cogview.evaluation.experiments.edits import evaluate_editing

    ModelBundle.find(judged.model, "edit")
    reader, editor = inputs.open_classifier(given.classifier), judged.generator()
    with bars() as progress:
        found, sets = evaluate_editing(plan, given.tasks, reader, editor, judged.work, progress)
    report.draw(sets, SHOWN // 3)
    report.finish(found, tables.editing)


@grouped(work=Path("runs/fairness"))
def fairness(given: inputs.Open, plan: plans.AuditPlan, judged: inputs.Judged, report: Report) -> None:
    """Proportions among the images of open prompts, with Wilson intervals, with and without word replacing.

    cogview eval fairness recipes/fairness/avatars.yaml --model pictogram --classifier runs/classifier
    """
    from cogview.evaluation.experiments.audit import evaluate_fairness, read_audit
    from cogview.evaluation.fairness_plot import plot_fairness

    asked, work = read_audit(given.audit), judged.work
    reader, generator = inputs.open_classifier(given.classifier), judged.generator()
    with bars() as progress:
        found = evaluate_fairness(*asked, plan, reader, generator, work, given.corpus, progress)
    if given.plot:
        plot_fairness(found, given.plot)
    report.finish(found, tables.fairness)
