"""Settings of the evaluations: one plan for each verb of ``cogview eval``.

A plan is the only place that defines a setting's name, type, default, bounds and help: the command line
derives its options from the fields (``cogview/cli/options.py``), and every report carries its plan. Nothing
here imports PyTorch, so that a wrong setting fails at once.
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
Rows = Annotated[str | None, BeforeValidator(lambda text: text or None)]  # rows of a corpus; "" for all

BLURS = (0.0, 1.0, 2.0, 4.0, 8.0)
BOTH = ("zh", "en")


class HeldOutPlan(Config):
    """Captions of attribute combinations that no training image shows, and the languages of the prompts."""

    count: int = option(200, "Number of held-out combinations.", "--n", "-n", ge=1)
    seed: int = option(0, "Seed of the combinations and the images.", ge=0)
    split: str = option("test_comp", "The held-out split.")
    source: Rows = option("dice", "Which rows of the corpus; '' for all.")
    languages: tuple[str, ...] = option(BOTH, "zh, en or both, separated by a comma.", min_length=1)


class AttributePlan(HeldOutPlan):
    """Images generated for held-out captions; a classifier reads their attributes."""

    count: int = option(500, "Number of held-out combinations.", "--n", "-n", ge=1)
    batch: int = option(20, "Prompts per batch.", ge=1)
    bootstrap: int = Field(2000, ge=0)
    sampling: Sampling = Field(default_factory=dict)


class AlignmentPlan(Config):
    """Retrieval between images and captions. languages: empty for every language of the captions."""

    languages: tuple[str, ...] = option(
        (), "Languages of the captions, separated by commas.", shown="all there are"
    )
    distractors: int = option(99, "Captions of other images for R-precision (at most all there are).", ge=1)
    bootstrap: int = Field(1000, ge=0)
    seed: int = option(0, "Seed of the distractors and the images.", ge=0)
    batch: int = option(20, "Prompts per batch.", ge=1)
    sampling: Sampling = Field(default_factory=dict)


class BestOfPlan(HeldOutPlan):
    """Candidate images that are generated and ranked; ``sizes``: the numbers of candidates to compare."""

    sizes: tuple[int, ...] = option((1, 4, 16), "Numbers of candidates, separated by commas.", min_length=1)
    sampling: Sampling = Field(default_factory=dict)
    bootstrap: int = Field(2000, ge=0)


class CaptionPlan(HeldOutPlan):
    """Captions of held-out images, by beam search, or by sampling if a sampling parameter is set."""

    beams: int = option(4, "Beams of the beam search.", ge=1)
    sampling: Beams = Field(default_factory=dict)
    bootstrap: int = Field(2000, ge=0)


class OrderPlan(Config):
    """Images of one prompt, sorted by their caption loss."""

    count: int = option(60, "Number of images.", "--n", "-n", ge=2)
    seed: int = option(0, "Seed of the images.", ge=0)
    sampling: Sampling = Field(default_factory=dict)


class PromptsPlan(Config):
    """Images generated for the package's prompts; a network reads them."""

    seed: int = option(0, "Seed of the images.", ge=0)
    languages: tuple[Language, ...] = option(
        ("en", "zh"), "Languages of the prompts, separated by a comma.", min_length=1
    )
    batch: int = option(20, "Prompts per batch.", ge=1)
    bootstrap: int = Field(2000, ge=1)
    sampling: Sampling = Field(default_factory=dict)


class ThingsPlan(PromptsPlan):
    """Images of things; the prompts are their bare names, the usual name of every thing first."""

    count: int = option(2000, "Number of prompts per language.", "--n", "-n", ge=2)


class ScenesPlan(PromptsPlan):
    """Images of scenes, with equal numbers for each of GenEval's six tasks."""

    count: int | None = option(None, "Number of prompts per language.", "--n", "-n", shown="all", ge=6)


class EditingPlan(Config):
    """Edits of held-out images; the prompts alternate between the languages.

    best_of: number of results per task, of which the one with the lowest caption loss is kept.
    """

    count: int | None = option(None, "Number of tasks, from the first.", "--n", "-n", shown="all", ge=1)
    seed: int = option(0, "Seed of the images.", ge=0)
    languages: tuple[str, ...] = option(
        BOTH,
        "Language of the prompts; may be repeated, prompts then alternate.",
        "--language",
        repeated=True,
        min_length=1,
    )
    order: Literal["together", "one_by_one"] = option("together", "As in cogview edit.")
    best_of: int = option(1, "As in cogview edit.", metavar="K", ge=1)
    sampling: Annotated[dict[str, float], OptionsOf(SamplingParams)] = Field(default_factory=dict)


class AuditPlan(Config):
    """Images of open prompts: ``count`` for each prompt set and condition."""

    count: int = option(
        200, "Images for each prompt set, with and without word replacing.", "--n", "-n", ge=1
    )
    seed: int = option(0, "Seed of the word replacing and the images.", ge=0)
    source: Rows = option("dice", "Which rows of the corpus; '' for all.")
    batch: int = option(20, "Images per batch.", ge=1)
    sampling: Sampling = Field(default_factory=dict)


class UpscalingPlan(Config):
    """Held-out images that are downscaled and upscaled again: ``limit`` images of a split (None: all)."""

    split: Rows = option("val", "The held-out split; '' for all.")
    limit: int | None = option(200, "Number of images, evenly spaced.", "--n", "-n", ge=1)
    captions: bool = option(
        True, "Condition the model on the captions of the images.", "--captions/--no-captions"
    )
    seed: int = option(0, "Seed of the images.", ge=0)
    resample: Resample = option("box", "Kernel of downscaling.")
    batch: int = option(64, "Windows per batch.", ge=1)
    detail: float = option(DETAIL, "How much generated detail to show (see cogview upscale).", ge=0, le=1)


class CocoPlan(Config):
    """Images generated for COCO's captions.

    distinct: at most one caption per image; best_of: candidates per caption, ranked by caption loss;
    contrast: factor for the selected image, 1 for no change; losses: number of selected images in the mean
    caption loss; translate: a command, "" for none.
    """

    count: int = option(30_000, "Number of captions.", "--n", "-n", ge=2)
    distinct: bool = False
    best_of: int = option(60, "Candidates, ranked by caption loss.", shown="the protocol's", ge=1)
    contrast: float = option(1.5, "Contrast factor for the selected images.", shown="the protocol's", gt=0)
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
    mean over this number of random subsets (of at most the smaller set); splits: splits of the Inception
    Score.
    """

    metrics: tuple[Metric, ...] = option(("fid", "kid"), "Any of fid, kid and is, separated by commas.")
    blurs: tuple[float, ...] = option(
        (0.0,),
        "Blur radii for both sets, separated by commas; the paper has 0,1,2,4,8.",
        "--blur",
    )
    canvas: int = option(256, "Side in pixels at which images are blurred.", ge=16)
    resample: Resample = option("bicubic", "Kernel of resizing.")
    subsets: int = Field(100, ge=1)
    subset_size: int = Field(1000, ge=2)
    splits: int = Field(10, ge=1)
    seed: int = option(0, "Seed of KID's subsets and of resampling.", ge=0)
    bootstrap: int = option(100, "Resampled sets for the 95 % intervals.", ge=0)


class DiversityPlan(Config):
    """How diversity is measured; ``canvas`` and ``resample`` as in ``DistributionPlan``."""

    canvas: int = Field(256, ge=16)
    resample: Resample = "bicubic"
    bootstrap: int = option(1000, "Resampled sets for the 95 % intervals.", ge=0)
    seed: int = option(0, "Seed of the resampling.", ge=0)


class SpeedPlan(Config):
    """Timing of generation: every batch size in ``batches``, ``repeats`` times each."""

    prompt: str = option(
        "a blue monster with round eyes, red background", "What to generate.", shown="a monster"
    )
    batches: tuple[int, ...] = option((1, 4), "Batch sizes, separated by commas.", min_length=1)
    repeats: int = option(3, "Number of timings per batch size.", ge=1)
    seed: int = Field(0, ge=0)


class ReconstructionPlan(Config):
    """Images that an image tokenizer encodes and decodes."""

    split: Rows = option("val", "Which split; '' for all.")
    limit: int | None = option(None, "Maximum number of images, evenly spaced.", shown="all", ge=1)
    resample: Resample = option("box", "Kernel of resizing.")


class ClassifierTraining(Config):
    """Training of the attribute classifier; ``rate`` is the peak of the one-cycle schedule."""

    epochs: float = option(5.0, "Passes over the training images.", gt=0)
    batch: int = option(128, "Images per step.", ge=2)
    rate: float = option(4e-3, "Peak learning rate.", gt=0)
    weight_decay: float = Field(0.05, ge=0)
    smoothing: float = Field(0.0, ge=0, lt=1)
    spoil: bool = True
    seed: int = option(0, "Seed of the weights and the order of the data.", ge=0)


class ScorerTraining(Config):
    """Training of the alignment scorer; ``rate`` is the peak of the one-cycle schedule."""

    epochs: float = option(3.0, "Passes over the training images.", gt=0)
    batch: int = option(256, "Images per step; each is compared with all captions of the batch.", ge=4)
    rate: float = option(2e-3, "Peak learning rate.", gt=0)
    weight_decay: float = Field(0.1, ge=0)
    spoil: bool = True
    seed: int = option(0, "Seed of the weights and the order of the data.", ge=0)
