"""What evaluations read: the data, the model, the networks that judge, and which share a process does.

A plan (:mod:`cogview.evaluation.plans`) says how something is measured; these say on what. Both are the
options of ``cogview eval``. PyTorch is imported when something is opened, not before.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cogview.checkpoints.bundle import MaybeModelName, ModelBundle, ModelName, find
from cogview.config import Check, Config, Existing, MaybeExisting, existing, option
from cogview.evaluation.plans import InceptionInput
from cogview.evaluation.plans import Rows as CorpusRows
from cogview.pipelines.task_requests import THREADS, Computing, Place, use_threads

if TYPE_CHECKING:
    from cogview.evaluation.experiments.coco import CocoFiles
    from cogview.evaluation.experiments.image_generator import ModelGenerator
    from cogview.evaluation.judges.classifier import AttributeClassifier
    from cogview.evaluation.judges.scorer import DualEncoder
    from cogview.evaluation.metrics.fid import Extractor
    from cogview.evaluation.sample_store import ImageGenerator
    from cogview.pipelines.model import Pipeline
    from cogview.tokenizers.text import TextTokenizer

PLACE = "A folder of pictures, or a corpus of Parquet files."
MODEL = option(..., "A model's name or directory.", "--model", "-m")
DATA = partial(
    option,
    help="A folder of pictures (with captions, where they count), a table or a folder of Parquet files.",
)
CORPUS = option(..., "The folder of Parquet files with avatars and their attributes.")
CLASSIFIER = option(..., "Directory that `cogview eval train-classifier` wrote.")
READER = option(..., "Model that `cogview train` made from a reader's recipe.")
FEATURES = option(..., "File that `cogview import lite0` or `cogview import inception` wrote.", "--weights")
SCORER = option(None, "Also judge by the network of `cogview eval train-scorer`, in place of CLIP.")
SOURCE = option("dice", "Which rows of the corpus; '' for all.")
PLOT = option(None, "Write a plot of it (PNG, SVG or PDF).")
WORK = option(Path("runs/eval"), "Where images are kept, so that stopped runs go on.")

NEAREST = "nearest-training"  # of evaluation/experiments/nearest.py: images of the training set, no model


def generator(name: str) -> None:
    """CogViewError where a name is neither a model's nor ``nearest-training``."""
    if name != NEAREST:
        find(name)


GeneratorName = Annotated[str, Check(generator)]


class Generation(Config):
    """How images are generated, and where they are kept."""

    first_stage_only: bool = option(False, "Models of several stages: the small images of the first.")
    work: Path = WORK
    place: Place = Place()

    def by(self, model: str) -> ModelGenerator:
        """A model for the experiments, read at first use."""
        return open_generator(model, self.place, self.first_stage_only)


class Judged(Generation):
    """The model whose images are judged, and how they are generated."""

    model: ModelName = MODEL

    def generator(self) -> ModelGenerator:
        """The model for the experiments, read at first use."""
        return self.by(self.model)


def open_generator(model: str, place: Place, first_stage_only: bool = False) -> ModelGenerator:
    """A model for the experiments, read at first use."""
    from cogview.evaluation.experiments.image_generator import ModelGenerator

    found = ModelGenerator(model, place.precision, first_stage_only, place.torch_device())
    use_threads(place.threads, found.directory)
    return found


def open_model(model: str, place: Place) -> Pipeline:
    """A model, read now."""
    return place.open(ModelBundle.find(model))


def open_classifier(directory: Path) -> AttributeClassifier:
    """The attribute classifier in a directory."""
    from cogview.evaluation.judges.classifier import AttributeClassifier

    return AttributeClassifier.from_directory(directory)


def open_scorer(directory: Path | None) -> DualEncoder | None:
    """The alignment scorer, if one is given."""
    from cogview.evaluation.judges.scorer import DualEncoder

    return DualEncoder.from_directory(directory) if directory else None


def nearest(data: Path, text: TextTokenizer, source: str | None) -> ImageGenerator:
    """The trivial generator ``nearest-training`` over split "train"."""
    from cogview.evaluation.experiments.nearest import RetrievalBaseline

    return RetrievalBaseline(data, text, "train", source)


class Rows(Config):
    """Which images of a folder or corpus count."""

    split: str | None = option(None, "Of a corpus: only this split.", shown="all")
    source: str | None = option(None, "Of a corpus: only rows of this source.", shown="all")
    count: int | None = option(None, "Number of images.", "--count", "--n", "-n", shown="all", ge=2)


class Share(Config):
    """Which images this process generates."""

    rank: str = option("1/1", "I/N: generate the I-th of N shares only; the last one reports.", metavar="I/N")

    @property
    def part(self) -> tuple[int, int]:
        """(0-based number, of how many)."""
        from cogview.evaluation.sample_store import parse_rank

        return parse_rank(self.rank)

    @property
    def waiting(self) -> str:
        """What to say while the shares of other processes are missing."""
        return f"share {self.rank} is generated; the same command reports when all shares are"


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


class Things(Config):
    """What reads the images."""

    reader: Existing = READER
    drawings: MaybeExisting = option(
        None, "A labelled cache of training images: measures how often generated images copy them."
    )


class Scenes(Config):
    """What reads the images."""

    reader: Existing = READER
    real: MaybeExisting = option(None, "A cache of the true scenes, for the ceiling.")


class Captioned(Config):
    """The images whose captions are used, and what judges whether they fit."""

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


class Edits(Config):
    """What is edited, and what reads it."""

    tasks: Existing = option(
        ..., "A folder with edits.jsonl, as edits.py writes it.", argument=True, metavar="TASKS"
    )
    classifier: Existing = CLASSIFIER


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


class Captions(Config):
    """What is captioned, and by whom."""

    model: ModelName = MODEL
    corpus: Existing = CORPUS
    rare: int = option(20, "Skip values with fewer training pictures.", ge=1)
    work: Path = WORK
    place: Place = Place()


class Candidates(Config):
    """What the images are of, and what else ranks and reads them."""

    corpus: Existing = CORPUS
    classifier: Existing = CLASSIFIER
    scorer: MaybeExisting = SCORER
    weights: MaybeExisting = option(None, "What `cogview import lite0` wrote: FID, KID, IS too.")
    plot: Path | None = PLOT


class Prompt(Config):
    """What is generated, by what, and where it is shown."""

    prompt: str = option(..., "What to generate.", argument=True, metavar="PROMPT")
    model: ModelName = MODEL
    scorer: MaybeExisting = SCORER
    sheet: Path = option(Path("order.png"), "The sheet of all images, the best first (PNG).")
    work: Path = WORK
    place: Place = Place()


class Tokenizer(Config):
    """What is measured, on what."""

    directory: Existing = option(..., "The image tokenizer's directory.", "--tokenizer")
    data: Existing = DATA(...)
    lpips: MaybeExisting = option(None, "LPIPS weights (VGG16), as `cogview import lpips` writes them.")
    columns: int = option(16, "Pictures a line of the sheet.", ge=1)
    shown: int = option(48, "Pictures on the sheet.", ge=1)
    place: Computing = Place()


class Features(Config):
    """The network whose features are compared, and where they are kept."""

    weights: Existing = FEATURES
    preprocessing: InceptionInput = option("pytorch-fid", "How Inception's input is resized.")
    work: Path = WORK
    place: Computing = Place()

    def open(self, canvas: int = 256) -> Extractor:
        """The network."""
        from cogview.evaluation.metrics.fid import open_extractor

        use_threads(self.place.threads)
        device = self.place.chosen_device()
        return open_extractor(self.weights, canvas, self.preprocessing, device)


class Sets(Config):
    """The images that are compared."""

    reference: Existing = option(..., f"The real pictures. {PLACE}", argument=True, metavar="REFERENCE")
    drawn: Existing = option(..., f"The pictures to judge. {PLACE}", argument=True, metavar="DRAWN")
    part: str = option(
        "1/1",
        "I/N: only the I-th of N shares of the network's work; run once more without it to finish.",
        metavar="I/N",
    )
    any_size: bool = option(False, "Judge pictures of several sizes as one set.")


class Reports(Config):
    """What is compared."""

    reports: Annotated[tuple[Path, ...], Check(existing)] = option(
        ...,
        "What --out of `eval pictures`, `coco` or `alignment` wrote.",
        argument=True,
        metavar="REPORTS...",
    )


class Coco(Config):
    """COCO as its user has it, the model or the systems' images, and whose evaluation is repeated."""

    captions: Existing = option(..., "captions_val2014.json, or a file in its format.")
    images: Existing = option(..., "The folder of its pictures.")
    model: MaybeModelName = option(None, "A model's name or directory.", "--model", "-m")
    pictures: tuple[str, ...] = option(
        (), "A system's images, instead of a model; for each system.", metavar="NAME=DIR", repeated=True
    )
    judge: MaybeModelName = option(None, "The model whose caption loss judges all systems.")
    listed: Path | None = option(None, "Only write the chosen captions, for other systems.", "--list")
    protocol: Literal["cogview", "cogview2"] = option(
        "cogview", "cogview: best of 60, contrast 1.5. cogview2: best of 16, one a picture."
    )
    place: Place = Place()

    @property
    def files(self) -> CocoFiles:
        from cogview.evaluation.experiments.coco import CocoFiles

        return CocoFiles(self.captions, self.images)


class Spread(Config):
    """The images whose diversity is measured."""

    pictures: Existing = option(
        ...,
        "A folder of pictures, best made here (they hold their prompts), or a corpus of Parquet.",
        argument=True,
        metavar="PICTURES",
    )
    prompts: str | None = option(
        None,
        "Of a corpus: pictures are of the same prompt that have the same text here.",
        metavar="COLUMN",
    )


class Upscaling(Config):
    """What is upscaled, by what, and what compares the results."""

    data: Existing = DATA(...)
    model: ModelName = MODEL
    lpips: Existing = option(..., "LPIPS weights, as `cogview import lpips` writes them.")
    network: Literal["vgg16", "alexnet"] = option(
        "vgg16", "Which network's weights those are; alexnet is 13 times cheaper."
    )
    order: tuple[Literal["released", "paper", "diagonal", "confidence"], ...] = option(
        (),
        "Of iterative super-resolution, several with commas; a family that has both kinds is measured in two "
        "stages with it.",
        shown="released, where it is the only kind",
    )
    shown: int = option(10, "Pictures on the sheet.", ge=1)
    place: Place = Place()


class Timed(Config):
    """The model that is timed."""

    model: ModelName = MODEL
    place: Place = Place()


class Network(Config):
    """The network that is trained."""

    out: Path = option(..., "The network's directory.")
    size: int = option(72, "Side of the pictures it reads, in pixels.", ge=16)
    force: bool = option(False, "Train even if it is already there.")
    threads: int | None = THREADS


class Corpus(Config):
    """What the classifier learns from."""

    corpus: Existing = CORPUS
    source: CorpusRows = SOURCE
    rare: int = option(20, "Skip values with fewer training pictures.", ge=1)


class ScorerCorpus(Config):
    """What the scorer learns from, and how it reads text."""

    data: Existing = DATA(...)
    split: str = option("train", "What it learns from; keep what you measure out of it.")
    limit: int | None = option(None, "Largest number of pictures, of all sources.", shown="all", ge=4)
    model: ModelName = option("pictogram", "The family whose text tokenizer it uses: a name or a directory.")
    text_tokenizer: MaybeExisting = option(None, "A SentencePiece model instead of the family's.")

    def tokenizer(self) -> TextTokenizer:
        """The text tokenizer."""
        from cogview.tokenizers.text import TextTokenizer

        if self.text_tokenizer:
            return TextTokenizer.from_file(self.text_tokenizer)
        return ModelBundle.find(self.model).text_tokenizer()
