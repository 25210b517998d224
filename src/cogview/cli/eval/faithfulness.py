"""``cogview eval attributes``, ``things``, ``scenes``, ``alignment``, ``editing``, ``fairness``.

These measure whether images show what their prompts describe.
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
    args: inputs.Attributes, plan: plans.AttributePlan, generation: inputs.Generation, output: Sheet
) -> None:
    """Attribute accuracy: a classifier checks images generated for unseen captions for the stated attributes.

    It is measured for Chinese and for English captions; real images give the upper bound, swapped prompts the
    lower one.
    """
    from cogview.evaluation.experiments.attributes import evaluate_attributes
    from cogview.pipelines.model import DEFAULT
    from cogview.tokenizers.loading import read_image_tokenizer

    classifier, text = inputs.open_classifier(args.classifier), ModelBundle.find(DEFAULT).text_tokenizer
    nearest = args.model == inputs.NEAREST
    generator = inputs.nearest(args.corpus, text(), plan.source) if nearest else generation.by(args.model)
    directory = args.tokenizer or getattr(generator, "image_tokenizer", None)
    tokenizer = read_image_tokenizer(directory) if directory else None
    with bars() as progress:
        report, sets = evaluate_attributes(
            plan, args.corpus, classifier, generator, generation.work, tokenizer, progress
        )
    output.write_sheet(sets, SHOWN)
    output.finish(report, tables.attributes)


@grouped(work=Path("runs/things"))
def things(
    args: inputs.Things, plan: plans.ThingsPlan, judged: inputs.Judged, share: inputs.Share, output: Sheet
) -> None:
    """Whether images generated for the names of things show them, by a classifier, and whether they copy
    training images.

    cogview eval things --model pictogram --reader runs/things/model -n 2000 --out things.json
    """
    from cogview.evaluation.experiments.things import evaluate_things
    from cogview.evaluation.judges.thing_reader import ThingReader

    judge, generator, part = ThingReader.from_directory(args.reader), judged.generator(), share.part
    with bars() as progress:
        report = evaluate_things(plan, judge, generator, judged.work, args.drawings, part, progress)
    output.finish_files(report, share, SHOWN, tables.things)


@grouped(work=Path("runs/scenes"))
def scenes(
    args: inputs.Scenes, plan: plans.ScenesPlan, judged: inputs.Judged, share: inputs.Share, output: Sheet
) -> None:
    """Whether images show the requested scene: GenEval's six tasks, judged by a detector.

    cogview eval scenes --model pictogram --reader runs/scenes/model --real work/judges/prompted
    """
    from cogview.evaluation.experiments.scenes import evaluate_scenes
    from cogview.evaluation.judges.scene_reader import SceneReader

    judge, generator, part = SceneReader.from_directory(args.reader), judged.generator(), share.part
    with bars() as progress:
        report = evaluate_scenes(plan, judge, generator, judged.work, args.real, part, progress)
    output.finish_files(report, share, SHOWN, tables.scenes)


@grouped(work=Path("runs/alignment"))
def alignment(
    args: inputs.Captioned,
    plan: plans.AlignmentPlan,
    rows: inputs.Rows,
    generation: inputs.Generation,
    share: inputs.Share,
    output: Sheet,
) -> None:
    """R-precision and retrieval between images and their captions, by a dual encoder.

    The images of --data give the upper bound, the captions of other images the lower one.

    cogview eval alignment --scorer runs/scorer --data corpus --split test_comp -n 500 --model pictogram
    """
    from cogview.evaluation.experiments.alignment import evaluate_alignment
    from cogview.evaluation.judges.captioned import read_captioned
    from cogview.evaluation.judges.scorer import DualEncoder

    judge, part = DualEncoder.from_directory(args.scorer), share.part
    generators = [
        inputs.nearest(args.data, judge.text, rows.source) if name == inputs.NEAREST else generation.by(name)
        for name in args.models
    ]
    shape = judge.config.preprocessing
    with bars() as progress:
        captioned = read_captioned(args.data, shape, rows.split, rows.source, rows.count, progress=progress)
        report = evaluate_alignment(plan, captioned, judge, generators, generation.work, part, progress)
    if report is None:
        return typer.echo(share.waiting)
    output.write_sheet(report[1], SHOWN)
    output.finish(report[0], tables.alignment)


@grouped(model="pictogram-2", work=Path("runs/editing"))
def editing(args: inputs.Edits, plan: plans.EditingPlan, judged: inputs.Judged, output: Sheet) -> None:
    """Edit held-out images and measure what changed: the requested attribute, other attributes, the pixels.

    Example:

      cogview eval editing edits --model pictogram-2 --classifier classifier --sheet edits.png
    """
    from cogview.evaluation.experiments.edits import evaluate_editing

    ModelBundle.find(judged.model, "edit")
    classifier, editor = inputs.open_classifier(args.classifier), judged.generator()
    with bars() as progress:
        report, sets = evaluate_editing(plan, args.tasks, classifier, editor, judged.work, progress)
    output.write_sheet(sets, SHOWN // 3)
    output.finish(report, tables.editing)


@grouped(work=Path("runs/fairness"))
def fairness(args: inputs.Open, plan: plans.AuditPlan, judged: inputs.Judged, output: Report) -> None:
    """Proportions of attributes in images of open prompts, with Wilson intervals, with and without added
    words.

    cogview eval fairness recipes/fairness/avatars.yaml --model pictogram --classifier runs/classifier
    """
    from cogview.evaluation.experiments.audit import evaluate_fairness, read_audit
    from cogview.evaluation.fairness_plot import plot_fairness

    audit, work = read_audit(args.audit), judged.work
    classifier, generator = inputs.open_classifier(args.classifier), judged.generator()
    with bars() as progress:
        report = evaluate_fairness(*audit, plan, classifier, generator, work, args.corpus, progress)
    if args.plot:
        plot_fairness(report, args.plot)
    output.finish(report, tables.fairness)
