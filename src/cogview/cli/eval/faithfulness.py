"""``cogview eval attributes``, ``things``, ``scenes``, ``alignment``, ``editing``, ``fairness``.

Do images show what was asked for?
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cogview.checkpoints.bundle import ModelBundle
from cogview.cli.eval.common import (
    CLASSIFIER,
    CORPUS,
    DATA,
    NEAREST,
    PLOT,
    READER,
    Generation,
    GeneratorName,
    Judged,
    Report,
    Rows,
    Share,
    Sheet,
    generator,
    open_classifier,
)
from cogview.cli.options import grouped
from cogview.cli.output import bars
from cogview.config import Check, Config, Existing, MaybeExisting, option
from cogview.evaluation import report_tables as tables
from cogview.evaluation.plans import (
    AlignmentPlan,
    AttributePlan,
    AuditPlan,
    EditingPlan,
    ScenesPlan,
    ThingsPlan,
)

if TYPE_CHECKING:
    from cogview.evaluation.sample_store import ImageGenerator
    from cogview.tokenizers.text import TextTokenizer

SHOWN = 60  # images of each set on a sheet


class Attributes(Config):
    """What the images are of, and what reads them."""

    model: GeneratorName = option(
        ..., "A model's name or directory; nearest-training: the training picture with the nearest caption."
    )
    corpus: Existing = CORPUS
    classifier: Existing = CLASSIFIER
    tokenizer: MaybeExisting = option(
        None, "Image tokenizer whose reconstructions are read, too.", shown="the model's"
    )


@grouped(work=Path("runs/attributes"))
def attributes(given: Attributes, plan: AttributePlan, way: Generation, report: Sheet) -> None:
    """How many attributes stated in unseen captions a classifier finds in the pictures generated for them.

    Chinese and English captions are used each; real pictures give the ceiling, swapped prompts the floor.
    """
    from cogview.evaluation.experiments.attributes import evaluate_attributes
    from cogview.pipelines.model import DEFAULT
    from cogview.tokenizers.loading import read_image_tokenizer

    reader, text = open_classifier(given.classifier), ModelBundle.find(DEFAULT).text_tokenizer
    own = given.model == NEAREST
    drawer = nearest(given.corpus, text(), plan.source) if own else way.by(given.model)
    place = given.tokenizer or getattr(drawer, "image_tokenizer", None)
    tokenizer = read_image_tokenizer(place) if place else None
    with bars() as progress:
        found, sets = evaluate_attributes(plan, given.corpus, reader, drawer, way.work, tokenizer, progress)
    report.draw(sets, SHOWN)
    report.finish(found, tables.attributes)


class Things(Config):
    """What reads the images."""

    reader: Existing = READER
    drawings: MaybeExisting = option(
        None, "A labelled cache of training drawings: measures how often images copy them."
    )


@grouped(work=Path("runs/things"))
def things(given: Things, plan: ThingsPlan, judged: Judged, share: Share, report: Sheet) -> None:
    """Whether images of bare names show the thing, by a reader of things; and whether they copy drawings.

    cogview eval things --model pictogram --reader runs/things/model -n 2000 --out things.json
    """
    from cogview.evaluation.experiments.things import evaluate_things
    from cogview.evaluation.judges.thing_reader import ThingReader

    judge, drawer, part = ThingReader.from_directory(given.reader), judged.generator(), share.part
    with bars() as progress:
        found = evaluate_things(plan, judge, drawer, judged.work, given.drawings, part, progress)
    report.of_files(found, share, SHOWN, tables.things)


class Scenes(Config):
    """What reads the images."""

    reader: Existing = READER
    real: MaybeExisting = option(None, "A cache of the true scenes, for the ceiling.")


@grouped(work=Path("runs/scenes"))
def scenes(given: Scenes, plan: ScenesPlan, judged: Judged, share: Share, report: Sheet) -> None:
    """Whether images show the scene that was asked for: GenEval's six tasks, by a reader of scenes.

    cogview eval scenes --model pictogram --reader runs/scenes/model --real work/judges/prompted
    """
    from cogview.evaluation.experiments.scenes import evaluate_scenes
    from cogview.evaluation.judges.scene_reader import SceneReader

    judge, drawer, part = SceneReader.from_directory(given.reader), judged.generator(), share.part
    with bars() as progress:
        found = evaluate_scenes(plan, judge, drawer, judged.work, given.real, part, progress)
    report.of_files(found, share, SHOWN, tables.scenes)


class Captioned(Config):
    """The pictures whose captions are used, and what judges whether they fit."""

    scorer: Existing = option(..., "What `cogview eval train-scorer` wrote.")
    data: Existing = DATA(...)
    models: Annotated[tuple[str, ...], Check(generator)] = option(
        (),
        "Generate images of the captions by this model (name or directory), too; nearest-training takes the "
        "training picture with the nearest caption. May be given several times.",
        "--model",
        repeated=True,
        shown="the pictures of --data only",
    )


@grouped(work=Path("runs/alignment"))
def alignment(
    given: Captioned, plan: AlignmentPlan, rows: Rows, way: Generation, share: Share, report: Sheet
) -> None:
    """R-precision and retrieval: do pictures and their captions find each other?

    The pictures of --data are the ceiling, the captions of others the floor.

    cogview eval alignment --scorer runs/scorer --data corpus --split test_comp -n 500 --model pictogram
    """
    from cogview.evaluation.experiments.alignment import evaluate_alignment
    from cogview.evaluation.judges.captioned import read_captioned
    from cogview.evaluation.judges.scorer import DualEncoder

    judge, part = DualEncoder.from_directory(given.scorer), share.part
    drawers = [
        nearest(given.data, judge.text, rows.source) if name == NEAREST else way.by(name)
        for name in given.models
    ]
    shape = judge.config.preprocessing
    with bars() as progress:
        captioned = read_captioned(given.data, shape, rows.split, rows.source, rows.count, progress=progress)
        found = evaluate_alignment(plan, captioned, judge, drawers, way.work, part, progress)
    if found is None:
        return share.wait()
    report.draw(found[1], SHOWN)
    report.finish(found[0], tables.alignment)


class Edits(Config):
    """What is edited, and what reads it."""

    tasks: Existing = option(
        ..., "A folder with edits.jsonl, as edits.py writes it.", argument=True, metavar="TASKS"
    )
    classifier: Existing = CLASSIFIER


@grouped(model="pictogram-2", work=Path("runs/editing"))
def editing(given: Edits, plan: EditingPlan, judged: Judged, report: Sheet) -> None:
    """Edit held-out pictures and read off what changed: the attribute asked for, the others, the pixels.

    Example:

      cogview eval editing edits --model pictogram-2 --classifier classifier --sheet edits.png
    """
    from cogview.evaluation.experiments.edits import evaluate_editing

    ModelBundle.find(judged.model, "edit")
    reader, editor = open_classifier(given.classifier), judged.generator()
    with bars() as progress:
        found, sets = evaluate_editing(plan, given.tasks, reader, editor, judged.work, progress)
    report.draw(sets, SHOWN // 3)
    report.finish(found, tables.editing)


class Open(Config):
    """What is asked, and what reads the images."""

    audit: Existing = option(
        ...,
        "A YAML file of prompt sets, such as recipes/fairness/avatars.yaml.",
        argument=True,
        metavar="AUDIT",
    )
    classifier: Existing = CLASSIFIER
    corpus: MaybeExisting = option(
        None, "Also give the shares in its training pictures, and check the classifier."
    )
    plot: Path | None = PLOT


@grouped(work=Path("runs/fairness"))
def fairness(given: Open, plan: AuditPlan, judged: Judged, report: Report) -> None:
    """Proportions of what is drawn for open prompts, with Wilson intervals; with and without word replacing.

    cogview eval fairness recipes/fairness/avatars.yaml --model pictogram --classifier runs/classifier
    """
    from cogview.evaluation.experiments.audit import evaluate_fairness, read_audit
    from cogview.evaluation.fairness_plot import plot_fairness

    asked, work = read_audit(given.audit), judged.work
    reader, drawer = open_classifier(given.classifier), judged.generator()
    with bars() as progress:
        found = evaluate_fairness(*asked, plan, reader, drawer, work, given.corpus, progress)
    if given.plot:
        plot_fairness(found, given.plot)
    report.finish(found, tables.fairness)


def nearest(data: Path, text: TextTokenizer, source: str | None) -> ImageGenerator:
    """The trivial generator ``nearest-training`` over split "train"."""
    from cogview.evaluation.experiments.nearest import RetrievalBaseline

    return RetrievalBaseline(data, text, "train", source)
