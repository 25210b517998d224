"""What each evaluation measures: one plan for each verb of ``cogview eval``.

A plan is the only place where a setting has its name, type, default, bounds and help: the command line makes
its options from the fields (``cogview/cli/options.py``), and every report carries its plan. Nothing here
imports PyTorch, so a wrong setting is answered at once.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from cogview.config import Config, OptionsOf, option
from cogview.types import DETAIL, Resample, SamplingParams

Sampling = Annotated[dict[str, int | float | str], OptionsOf(SamplingParams)]
Numbers = Annotated[dict[str, int | float], OptionsOf(SamplingParams)]
Beams = Annotated[dict[str, int | float], OptionsOf(SamplingParams, "temperature", "top_k", "top_p")]
Language = Literal["en", "zh"]
Metric = Literal["fid", "kid", "is"]
InceptionInput = Literal["pytorch-fid", "tensorflow"]
Rows = Annotated[str | None, BeforeValidator(lambda text: text or None)]  # of a corpus; "" for all

BLURS = (0.0, 1.0, 2.0, 4.0, 8.0)
BOTH = ("zh", "en")


class HeldOutPlan(Config):
    """Captions of combinations that no training image shows, and the languages they are asked for in."""

    count: int = option(200, "How many held-out combinations.", "--n", "-n", ge=1)
    seed: int = option(0, "Seed of the combinations and the images.", ge=0)
    split: str = option("test_comp", "The held-out split.")
    source: Rows = option("dice", "Which rows of the corpus; '' for all.")
    languages: tuple[str, ...] = option(BOTH, "Of zh and en, with a comma.", min_length=1)


class AttributePlan(HeldOutPlan):
    """Images of held-out captions, whose attributes a classifier reads."""

    count: int = option(500, "How many held-out combinations.", "--n", "-n", ge=1)
    batch: int = option(20, "Prompts generated together.", ge=1)
    bootstrap: int = Field(2000, ge=0)
    sampling: Sampling = Field(default_factory=dict)


class AlignmentPlan(Config):
    """Images and captions that should find each other. languages: none for all that there are."""

    languages: tuple[str, ...] = option((), "Of the captions, with commas.", shown="all there are")
    distractors: int = option(99, "Texts of others for R-precision (fewer, if there are).", ge=1)
    bootstrap: int = Field(1000, ge=0)
    seed: int = option(0, "Seed of these and of the images.", ge=0)
    batch: int = option(20, "Prompts generated together.", ge=1)
    sampling: Sampling = Field(default_factory=dict)


class BestOfPlan(HeldOutPlan):
    """Images that are generated and ranked; ``sizes``: the numbers of candidates that are compared."""

    sizes: tuple[int, ...] = option((1, 4, 16), "Numbers of candidates, with commas.", min_length=1)
    sampling: Sampling = Field(default_factory=dict)
    bootstrap: int = Field(2000, ge=0)


class CaptionPlan(HeldOutPlan):
    """Held-out images that are captioned: by beam search, or by sampling where a parameter of it is given."""

    beams: int = option(4, "Beams of the search.", ge=1)
    sampling: Beams = Field(default_factory=dict)
    bootstrap: int = Field(2000, ge=0)


class OrderPlan(Config):
    """Images of one prompt, in the order of their caption loss."""

    count: int = option(60, "How many images.", "--n", "-n", ge=2)
    seed: int = option(0, "Seed of the images.", ge=0)
    sampling: Sampling = Field(default_factory=dict)


class PromptsPlan(Config):
    """Images of the package's prompts, read by a network."""

    seed: int = option(0, "Seed of the images.", ge=0)
    languages: tuple[Language, ...] = option(("en", "zh"), "Of the prompts, with a comma.", min_length=1)
    batch: int = option(20, "Prompts generated together.", ge=1)
    bootstrap: int = Field(2000, ge=1)
    sampling: Sampling = Field(default_factory=dict)


class ThingsPlan(PromptsPlan):
    """Images of things by their bare names, the usual name of every thing first."""

    count: int = option(2000, "How many prompts a language.", "--n", "-n", ge=2)


class ScenesPlan(PromptsPlan):
    """Images of scenes, of GenEval's six tasks alike."""

    count: int | None = option(None, "How many prompts a language.", "--n", "-n", shown="all", ge=6)


class EditingPlan(Config):
    """Edits of held-out images. Tasks take turns with the languages.

    best_of: results for each task, of which the one is taken that the prompt describes best.
    """

    count: int | None = option(None, "The first n tasks.", "--n", "-n", shown="all", ge=1)
    seed: int = option(0, "Seed of the images.", ge=0)
    languages: tuple[str, ...] = option(
        BOTH, "Of the prompts; may be repeated, they take turns.", "--language", repeated=True, min_length=1
    )
    order: Literal["together", "one_by_one"] = option("together", "As of cogview edit.")
    best_of: int = option(1, "As of cogview edit.", metavar="K", ge=1)
    sampling: Annotated[dict[str, float], OptionsOf(SamplingParams)] = Field(default_factory=dict)


class AuditPlan(Config):
    """Images of open prompts: ``count`` for each set and way."""

    count: int = option(
        200, "Images for each prompt set, with and without word replacing.", "--n", "-n", ge=1
    )
    seed: int = option(0, "Seed of words and images.", ge=0)
    source: Rows = option("dice", "Which rows of the corpus; '' for all.")
    batch: int = option(20, "Images generated together.", ge=1)
    sampling: Sampling = Field(default_factory=dict)


class UpscalingPlan(Config):
    """Held-out images that are shrunk and upscaled: ``limit`` of a split (None: all)."""

    split: Rows = option("val", "The held-out split; '' for all.")
    limit: int | None = option(200, "How many images, evenly spaced.", "--n", "-n", ge=1)
    captions: bool = option(True, "Give the model the captions of the images.", "--captions/--no-captions")
    seed: int = option(0, "Seed of the images.", ge=0)
    resample: Resample = option("box", "How images are shrunk.")
    batch: int = option(64, "Windows generated together.", ge=1)
    detail: float = option(DETAIL, "How much generated detail to show (see cogview upscale).", ge=0, le=1)


class CocoPlan(Config):
    """Images of COCO's captions. distinct: captions of different images only.

    best_of: candidates, by caption loss; contrast: of the chosen image, 1 leaves it; losses: of how many
    chosen images the mean is given; translate: a command, "" for none.
    """

    count: int = option(30_000, "How many captions.", "--n", "-n", ge=2)
    distinct: bool = False
    best_of: int = option(60, "Candidates, ranked by caption loss.", shown="the protocol's", ge=1)
    contrast: float = option(1.5, "Of the chosen images.", shown="the protocol's", gt=0)
    losses: int = Field(5_000, ge=1)
    seed: int = option(0, "Seed of the captions and the images.", ge=0)
    translate: str = option(
        "", "A command that reads captions and writes translations, line by line.", shown="none"
    )
    sampling: Numbers = Field(default_factory=dict)


PROTOCOLS: dict[str, dict[str, Any]] = {
    "cogview": {"distinct": False, "best_of": 60, "contrast": 1.5},
    "cogview2": {"distinct": True, "best_of": 16, "contrast": 1.0},
}


class DistributionPlan(Config):
    """How two sets of images are compared.

    blurs: radii in pixels of the canvas; resample: the kernel of resizing; subsets, subset_size: KID is the
    mean over this number of random subsets (cut to the smaller set); splits: of the Inception Score.
    """

    metrics: tuple[Metric, ...] = option(("fid", "kid"), "Of fid, kid and is, with commas.")
    blurs: tuple[float, ...] = option(
        (0.0,),
        "Radii of the blur of both sides, with commas: 0,1,2,4,8 is the paper's.",
        "--blur",
    )
    canvas: int = option(256, "Pixels a side at which images are blurred.", ge=16)
    resample: Resample = option("bicubic", "Kernel of resizing.")
    subsets: int = Field(100, ge=1)
    subset_size: int = Field(1000, ge=2)
    splits: int = Field(10, ge=1)
    seed: int = option(0, "Seed of KID's subsets and the resampled sets.", ge=0)
    bootstrap: int = option(100, "Resampled sets for the 95 % intervals.", ge=0)


class DiversityPlan(Config):
    """How diversity is measured; ``canvas`` and ``resample``: of the features, as in ``DistributionPlan``."""

    canvas: int = Field(256, ge=16)
    resample: Resample = "bicubic"
    bootstrap: int = option(1000, "Resampled sets for the 95 % intervals.", ge=0)
    seed: int = option(0, "Seed of the resampling.", ge=0)


class SpeedPlan(Config):
    """What is timed; each of ``batches`` images at a time, ``repeats`` times."""

    prompt: str = option(
        "a blue monster with round eyes, red background", "What to generate.", shown="a monster"
    )
    batches: tuple[int, ...] = option((1, 4), "Images generated at a time, with commas.", min_length=1)
    repeats: int = option(3, "How often each is timed.", ge=1)
    seed: int = Field(0, ge=0)


class ReconstructionPlan(Config):
    """Images that an image tokenizer encodes and decodes."""

    split: Rows = option("val", "Which split; '' for all.")
    limit: int | None = option(None, "Largest number of images, evenly spaced.", shown="all", ge=1)
    resample: Resample = option("box", "How images are resized.")


class ClassifierTraining(Config):
    """Training of the attribute classifier; ``rate`` is the peak of the one-cycle schedule."""

    epochs: float = option(5.0, "Passes over the training images.", gt=0)
    batch: int = option(128, "Images a step.", ge=2)
    rate: float = option(4e-3, "Peak learning rate.", gt=0)
    weight_decay: float = Field(0.05, ge=0)
    smoothing: float = Field(0.0, ge=0, lt=1)
    spoil: bool = True
    seed: int = option(0, "Seed of the weights and the order of the data.", ge=0)


class ScorerTraining(Config):
    """Training of the alignment scorer; ``rate`` is the peak of the one-cycle schedule."""

    epochs: float = option(3.0, "Passes over the training images.", gt=0)
    batch: int = option(256, "Images compared with each other.", ge=4)
    rate: float = option(2e-3, "Peak learning rate.", gt=0)
    weight_decay: float = Field(0.1, ge=0)
    spoil: bool = True
    seed: int = option(0, "Seed of the weights and the order of the data.", ge=0)
