"""Inputs of evaluations: the data, the model, the judges, and the share of the work of this process.

A plan (:mod:`cogview.evaluation.plans`) defines how something is measured; inputs define what is measured.
Both become options of ``cogview eval``. PyTorch is only imported when an input is opened.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cogview.checkpoints.bundle import MaybeModelName, ModelBundle, ModelName, find
from cogview.config import Check, Config, Existing, MaybeExisting, existing, option
from cogview.evaluation.plans import InceptionInput
from cogview.evaluation.plans import Rows as CorpusRows
from cogview.pipelines.task_requests import THREADS, ComputeOptions, DeviceOptions, use_threads

if TYPE_CHECKING:
    from cogview.evaluation.experiments.coco import CocoFiles
    from cogview.evaluation.experiments.image_generator import ModelGenerator
    from cogview.evaluation.judges.classifier import AttributeClassifier
    from cogview.evaluation.judges.scorer import DualEncoder
    from cogview.evaluation.metrics.fid import Extractor
    from cogview.evaluation.sample_store import ImageGenerator
    from cogview.pipelines.model import Pipeline
    from cogview.tokenizers.text import TextTokenizer

PLACE = "A folder of images, or a corpus of Parquet files."
MODEL = option(..., "A model's name or directory.", "--model", "-m")
DATA = partial(
    option,
    help="A folder of images (with captions, where they are used), a table or a folder of Parquet files.",
)
CORPUS = option(..., "The folder of Parquet files with avatars and their attributes.")
CLASSIFIER = option(..., "Directory that `cogview eval train-classifier` wrote.")
READER = option(..., "Model that `cogview train` wrote from a reader's recipe.")
FEATURES = option(..., "File that `cogview import lite0` or `cogview import inception` wrote.", "--weights")
SCORER = option(None, "Also rank with the network of `cogview eval train-scorer`, in place of CLIP.")
SOURCE = option("dice", "Which rows of the corpus; '' for all.")
PLOT = option(None, "Write a plot of the results (PNG, SVG or PDF).")
WORK = option(Path("runs/eval"), "Folder for intermediate results, so that an interrupted run resumes.")

NEAREST = "nearest-training"  # the retrieval baseline of evaluation/experiments/nearest.py


def generator(name: str) -> None:
    """Raise CogViewError unless ``name`` is a model's or ``nearest-training``."""
    if name != NEAREST:
        find(name)


GeneratorName = Annotated[str, Check(generator)]


class Generation(Config):
    """How images are generated, and where they are stored."""

    first_stage_only: bool = option(False, "For multi-stage models: use the small images of the first stage.")
    work: Path = WORK
    place: ComputeOptions = ComputeOptions()

    def by(self, model: str) -> ModelGenerator:
        """A generator for the experiments; the model is loaded at first use."""
        return open_generator(model, self.place, self.first_stage_only)


class Judged(Generation):
    """The model under evaluation, and how its images are generated."""

    model: ModelName = MODEL

    def generator(self) -> ModelGenerator:
        """A generator for the experiments; the model is loaded at first use."""
        return self.by(self.model)


def open_generator(model: str, place: ComputeOptions, first_stage_only: bool = False) -> ModelGenerator:
    """A generator for the experiments; the model is loaded at first use."""
    from cogview.evaluation.experiments.image_generator import ModelGenerator

    generator = ModelGenerator(model, place.precision, first_stage_only, place.torch_device())
    use_threads(place.threads, generator.directory)
    return generator


def open_model(model: str, place: ComputeOptions) -> Pipeline:
    """Load a model."""
    return place.open(ModelBundle.find(model))


def open_classifier(directory: Path) -> AttributeClassifier:
    """Load the attribute classifier from a directory."""
    from cogview.evaluation.judges.classifier import AttributeClassifier

    return AttributeClassifier.from_directory(directory)


def open_scorer(directory: Path | None) -> DualEncoder | None:
    """Load the alignment scorer from a directory; None for None."""
    from cogview.evaluation.judges.scorer import DualEncoder

    return DualEncoder.from_directory(directory) if directory else None


def nearest(data: Path, text: TextTokenizer, source: str | None) -> ImageGenerator:
    """The retrieval baseline ``nearest-training`` over split "train"."""
    from cogview.evaluation.experiments.nearest import RetrievalBaseline

    return RetrievalBaseline(data, text, "train", source)


class Rows(Config):
    """Which images of a folder or corpus are used."""

    split: str | None = option(None, "For a corpus: only this split.", shown="all")
    source: str | None = option(None, "For a corpus: only rows of this source.", shown="all")
    count: int | None = option(None, "Number of images.", "--count", "--n", "-n", shown="all", ge=2)


class Share(Config):
    """The share of the images that this process generates."""

    rank: str = option(
        "1/1", "I/N: generate only the I-th of N shares; the last to finish reports.", metavar="I/N"
    )

    @property
    def part(self) -> tuple[int, int]:
        """(0-based rank, number of ranks)."""
        from cogview.evaluation.sample_store import parse_rank

        return parse_rank(self.rank)

    @property
    def waiting(self) -> str:
        """The message while the shares of other processes are missing."""
        return f"share {self.rank} is generated; run the same command again when all shares are generated"


class Attributes(Config):
    """The captions of the images, and the classifier that reads them."""

    model: GeneratorName = option(
        ..., "A model's name or directory; nearest-training: the training image with the nearest caption."
    )
    corpus: Existing = CORPUS
    classifier: Existing = CLASSIFIER
    tokenizer: MaybeExisting = option(
        None, "Image tokenizer whose reconstructions are also read.", shown="the model's"
    )


class Things(Config):
    """The network that reads the images."""

    reader: Existing = READER
    drawings: MaybeExisting = option(
        None, "A labelled cache of training images: measures how often generated images copy them."
    )


class Scenes(Config):
    """The network that reads the images."""

    reader: Existing = READER
    real: MaybeExisting = option(None, "A cache of the true scenes, for the ceiling.")


class Captioned(Config):
    """The captioned images, and the network that scores how well captions and images match."""

    scorer: Existing = option(..., "Directory that `cogview eval train-scorer` wrote.")
    data: Existing = DATA(...)
    models: Annotated[tuple[str, ...], Check(generator)] = option(
        (),
        "Also generate images for the captions with this model (name or directory); nearest-training takes "
        "the training image with the nearest caption. May be repeated.",
        "--model",
        repeated=True,
        shown="only the images of --data",
    )


class Edits(Config):
    """The edits, and the classifier that reads the results."""

    tasks: Existing = option(
        ..., "A folder with edits.jsonl, as edits.py writes it.", argument=True, metavar="TASKS"
    )
    classifier: Existing = CLASSIFIER


class Open(Config):
    """The prompt sets of an audit, and the classifier that reads the images."""

    audit: Existing = option(
        ...,
        "A YAML file of prompt sets, such as recipes/fairness/avatars.yaml.",
        argument=True,
        metavar="AUDIT",
    )
    classifier: Existing = CLASSIFIER
    corpus: MaybeExisting = option(
        None, "Also report the shares among its training images, and check the classifier on it."
    )
    plot: Path | None = PLOT


class Captions(Config):
    """The images to caption, and the model that captions them."""

    model: ModelName = MODEL
    corpus: Existing = CORPUS
    rare: int = option(20, "Skip attribute values with fewer training images.", ge=1)
    work: Path = WORK
    place: ComputeOptions = ComputeOptions()


class Candidates(Config):
    """The captions of the images, and the networks that rank and read them."""

    corpus: Existing = CORPUS
    classifier: Existing = CLASSIFIER
    scorer: MaybeExisting = SCORER
    weights: MaybeExisting = option(
        None, "File that `cogview import lite0` wrote: also compute FID, KID, IS."
    )
    plot: Path | None = PLOT


class Prompt(Config):
    """The prompt, the model, and where the images are shown."""

    prompt: str = option(..., "What to generate.", argument=True, metavar="PROMPT")
    model: ModelName = MODEL
    scorer: MaybeExisting = SCORER
    sheet: Path = option(Path("order.png"), "Contact sheet of all images, the best first (PNG).")
    work: Path = WORK
    place: ComputeOptions = ComputeOptions()


class Tokenizer(Config):
    """The image tokenizer, and the images it reconstructs."""

    directory: Existing = option(..., "The image tokenizer's directory.", "--tokenizer")
    data: Existing = DATA(...)
    lpips: MaybeExisting = option(None, "LPIPS weights (VGG16), as `cogview import lpips` writes them.")
    columns: int = option(16, "Images per row of the contact sheet.", ge=1)
    shown: int = option(48, "Images on the contact sheet.", ge=1)
    place: DeviceOptions = ComputeOptions()


class Features(Config):
    """The network whose features are compared, and where they are stored."""

    weights: Existing = FEATURES
    preprocessing: InceptionInput = option("pytorch-fid", "How Inception's input is resized.")
    work: Path = WORK
    place: DeviceOptions = ComputeOptions()

    def open(self, canvas: int = 256) -> Extractor:
        """Load the network."""
        from cogview.evaluation.metrics.fid import open_extractor

        use_threads(self.place.threads)
        device = self.place.chosen_device()
        return open_extractor(self.weights, canvas, self.preprocessing, device)


class Sets(Config):
    """The two sets of images to compare."""

    reference: Existing = option(..., f"The real images. {PLACE}", argument=True, metavar="REFERENCE")
    drawn: Existing = option(..., f"The images to judge. {PLACE}", argument=True, metavar="DRAWN")
    part: str = option(
        "1/1",
        "I/N: compute only the I-th of N shares of the features; run again without --part to finish.",
        metavar="I/N",
    )
    any_size: bool = option(False, "Allow images of several sizes in one set.")


class Reports(Config):
    """The reports to compare."""

    reports: Annotated[tuple[Path, ...], Check(existing)] = option(
        ...,
        "Reports that `eval pictures`, `coco` or `alignment` wrote with --out.",
        argument=True,
        metavar="REPORTS...",
    )


class Coco(Config):
    """The user's copy of COCO, the model or the systems' images, and the paper whose protocol is repeated."""

    captions: Existing = option(..., "captions_val2014.json, or a file in the same format.")
    images: Existing = option(..., "The folder of COCO's images.")
    model: MaybeModelName = option(None, "A model's name or directory.", "--model", "-m")
    pictures: tuple[str, ...] = option(
        (),
        "A system's images, instead of a model; repeat for each system.",
        metavar="NAME=DIR",
        repeated=True,
    )
    judge: MaybeModelName = option(None, "The model whose caption loss scores all systems.")
    listed: Path | None = option(None, "Only write the selected captions, for other systems.", "--list")
    protocol: Literal["cogview", "cogview2"] = option(
        "cogview", "cogview: best of 60, contrast 1.5. cogview2: best of 16, one caption per image."
    )
    place: ComputeOptions = ComputeOptions()

    @property
    def files(self) -> CocoFiles:
        from cogview.evaluation.experiments.coco import CocoFiles

        return CocoFiles(self.captions, self.images)


class Spread(Config):
    """The images whose diversity is measured."""

    pictures: Existing = option(
        ...,
        "A folder of images, preferably generated by cogview (they hold their prompts), or a Parquet corpus.",
        argument=True,
        metavar="PICTURES",
    )
    prompts: str | None = option(
        None,
        "For a corpus: the column whose text is the prompt; equal texts are the same prompt.",
        metavar="COLUMN",
    )


class Upscaling(Config):
    """The images to upscale, the model, and the network that compares the results."""

    data: Existing = DATA(...)
    model: ModelName = MODEL
    lpips: Existing = option(..., "LPIPS weights, as `cogview import lpips` writes them.")
    network: Literal["vgg16", "alexnet"] = option(
        "vgg16", "The network of the LPIPS weights; alexnet is 13 times cheaper."
    )
    order: tuple[Literal["released", "paper", "diagonal", "confidence"], ...] = option(
        (),
        "Order of iterative super-resolution, several separated by commas; a family that has both kinds of "
        "super-resolution is then measured in two stages.",
        shown="released, where it is the only kind",
    )
    shown: int = option(10, "Images on the contact sheet.", ge=1)
    place: ComputeOptions = ComputeOptions()


class Timed(Config):
    """The model to time."""

    model: ModelName = MODEL
    place: ComputeOptions = ComputeOptions()


class Network(Config):
    """The network to train."""

    out: Path = option(..., "The network's directory.")
    size: int = option(72, "Side of its input images, in pixels.", ge=16)
    force: bool = option(False, "Train even if an up-to-date network exists.")
    threads: int | None = THREADS


class Corpus(Config):
    """The training data of the classifier."""

    corpus: Existing = CORPUS
    source: CorpusRows = SOURCE
    rare: int = option(20, "Skip attribute values with fewer training images.", ge=1)


class ScorerCorpus(Config):
    """The training data and the text tokenizer of the scorer."""

    data: Existing = DATA(...)
    split: str = option("train", "The training split; it must not contain what you evaluate on.")
    limit: int | None = option(None, "Maximum number of images, over all sources.", shown="all", ge=4)
    model: ModelName = option("pictogram", "The family whose text tokenizer is used: a name or a directory.")
    text_tokenizer: MaybeExisting = option(None, "A SentencePiece model instead of the family's.")

    def tokenizer(self) -> TextTokenizer:
        """Load the text tokenizer."""
        from cogview.tokenizers.text import TextTokenizer

        if self.text_tokenizer:
            return TextTokenizer.from_file(self.text_tokenizer)
        return ModelBundle.find(self.model).text_tokenizer()
