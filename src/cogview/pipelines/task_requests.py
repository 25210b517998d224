"""Command-line options of the pipelines: the device to compute on, and the options of each task.

The fields of each request are keyword arguments of the corresponding method of
:class:`~cogview.pipelines.model.Pipeline`. PyTorch is not imported until a model is loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cogview.checkpoints.bundle import ModelBundle
from cogview.config import Check, Config, Fields, option
from cogview.data.images import check_picture
from cogview.errors import CogViewError
from cogview.sequences import SequenceFormat, of_type
from cogview.threads import choose
from cogview.types import DETAIL, FEATHER, Decoding, Device, Precision, SamplingParams, Seed

if TYPE_CHECKING:
    import torch

    from cogview.pipelines.model import Pipeline

NONE_GIVEN = SamplingParams()
AllParams = Annotated[SamplingParams, Fields(shown="the model's")]
UpscaleParams = Annotated[
    SamplingParams, Fields("temperature", "top_k", "top_p", "guidance_scale", shown="the model's")
]
CaptionParams = Annotated[SamplingParams, Fields("temperature", "top_k", "top_p", shown="beams")]

BEST_OF = option(
    1,
    "Generate K candidates for each image and keep those that the prompt describes best.",
    metavar="K",
    ge=1,
)
STYLE = option(None, "A style of the model (see cogview models).")
SEED = option(None, "Image i of a seed is always the same.", shown="a new one each time")
THREADS = option(
    None,
    "Threads to compute with (see cogview doctor).",
    shown="what the container and other programs leave",
    ge=1,
    le=1024,
)


class ComputeOptions(Config):
    """Device, precision and threads."""

    precision: Precision = option(
        "fp32",
        "fp32; bf16, fp16: half the memory, for GPUs (bf16 also for CPUs that have it); int8: for CPUs. "
        "All but fp32 are faster and slightly different.",
    )
    threads: int | None = THREADS
    device: Device = option("auto", "auto (a GPU if there is one), cpu, cuda, cuda:N or mps.")

    def open(self, bundle: ModelBundle, **options: Any) -> Pipeline:
        """Load the pipeline of a family with these options."""
        from cogview.pipelines.model import Pipeline

        device = self.torch_device()
        use_threads(self.threads, bundle.directory)
        return Pipeline.from_pretrained(bundle.directory, device=device, precision=self.precision, **options)

    def chosen_device(self) -> torch.device:
        """The device, with ``auto`` resolved as in pipelines."""
        import torch

        return torch.device(self.torch_device() or ("cuda" if torch.cuda.is_available() else "cpu"))

    def torch_device(self) -> str | None:
        """The device for PyTorch, None for ``auto``; raises CogViewError if it is not available."""
        import torch

        if self.device == "auto":
            return None
        try:
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError):
            raise CogViewError(f"--device {self.device} is not available here; use auto or cpu") from None
        return self.device


DeviceOptions = Annotated[ComputeOptions, Fields("threads", "device")]  # for networks that run only in fp32


class DecodeOptions(ComputeOptions):
    """Device, precision, threads and decoding strategy, for autoregressive models."""

    decoding: Decoding = option(
        "auto", "Token by token, or several in one forward; auto takes the faster. The tokens are the same."
    )

    def open(self, bundle: ModelBundle, **options: Any) -> Pipeline:
        """Load the pipeline of a family with these options."""
        return super().open(bundle, decoding=self.decoding, **options)


def use_threads(threads: int | None, *models: Path) -> None:
    """Set PyTorch's number of threads; default: a number that suits the machine and the models."""
    import torch

    if threads is None:
        sizes = [file.stat().st_size for model in models for file in model.glob("*/*.safetensors")]
        threads = choose(sum(sizes)).threads
    torch.set_num_threads(threads)


class GenerateRequest(Config):
    """Options for generating images from prompts."""

    n: int = option(1, "Images for each prompt.", "-n", ge=1, le=10_000)
    seed: Seed = SEED
    style: str | None = STYLE
    params: AllParams = NONE_GIVEN
    best_of: int = BEST_OF
    fairness: str | None = option(
        None, "Add words about people by a table's proportions: a YAML file, or world.", metavar="TABLE"
    )
    first_stage_only: bool = option(
        False,
        "Models of several stages: return the small images of the first.",
        "--first-stage-only",
        "--no-upscale",
    )
    truncate: bool = option(False, "Models of several stages: cut a prompt that is too long for one.")

    def check(self, model: str, upscale: int | None) -> ModelBundle:
        """The family of a model; raises CogViewError if it cannot generate with these options, or upscale by
        this factor."""
        from cogview.generation.fairness import read_table

        tasks = [*(["score"] if self.best_of > 1 else []), *(["upscale"] if upscale is not None else [])]
        family = ModelBundle.find(model, "generate", *tasks)
        family.config.style(self.style)
        if upscale is not None:
            check_times(family, upscale)
        if self.fairness is not None:
            read_table(self.fairness)
        if self.first_stage_only and not family.config.two_stage:
            raise CogViewError(f"{model} generates in one step; leave out --first-stage-only")
        return family


class ResultsRequest(Config):
    """Options for the results of an edit or a variation."""

    n: int = option(1, "Number of results.", "-n", ge=1)
    seed: Seed = SEED
    style: str | None = STYLE
    params: AllParams = NONE_GIVEN
    first_stage_only: bool = option(False, "Do not upscale the generated part: faster, less sharp.")


class EditRequest(Config):
    """Options for inpainting: the masked part, and how it is generated."""

    mask: Annotated[Path | None, Check(check_picture)] = option(
        None, "An image of the same size: white is replaced, black stays.", metavar="FILE"
    )
    boxes: tuple[str, ...] = option(
        (),
        "A rectangle to replace, in pixels or %; may be repeated.",
        "--box",
        metavar="X0,Y0,X1,Y1",
        repeated=True,
    )
    order: Literal["together", "one_by_one"] = option(
        "together", "All regions at once, or one by one, each conditioned on all other pixels; slower."
    )
    crop: Literal["auto", "whole", "tight"] = option(
        "auto",
        "What the model sees: a crop at its original size (auto), the whole image, or an upscaled crop for "
        "small regions (tight).",
    )
    feather: int = option(FEATHER, "Pixels inside the mask over which old and new are blended.", ge=0, le=256)
    best_of: int = BEST_OF

    def check(self, prompt: str) -> None:
        """Raise CogViewError if nothing is masked or the prompt is empty."""
        if not (self.mask or self.boxes):
            raise CogViewError("say what to replace: --mask FILE, --box X0,Y0,X1,Y1 or --vary SHARE")
        if not prompt.strip():
            raise CogViewError("the prompt is empty; describe what the whole image should show")

    def check_unused(self) -> None:
        """Raise CogViewError for an option that variations do not support."""
        if self.mask or self.boxes:
            raise CogViewError("--vary chooses what to replace; leave out --mask and --box")
        usual = {"order": "together", "crop": "auto", "feather": FEATHER}
        names = [f"--{name}" for name, value in usual.items() if getattr(self, name) != value]
        if names:
            raise CogViewError(f"{', '.join(names)} need a mask or a box; leave them out with --vary")
        if self.best_of > 1:
            raise CogViewError("--best-of ranks images by a prompt; leave it out with --vary")


class UpscaleRequest(Config):
    """Options for upscaling images."""

    prompt: str | None = option(None, "What they show.", shown="the prompt stored in the image, if any")
    times: int = option(2, "Scale factor of the sides: 2 or 4.")
    seed: Seed = option(
        None, "The same image, prompt and seed give the same result.", shown="a new one each time"
    )
    size: int | None = option(
        None,
        "Resize the image first: pixels of its shorter side.",
        shown="its own size, or the model's if that is larger",
        ge=1,
    )
    faithful: bool = option(
        True,
        "Use the input pixels as well and correct the result to match them when downscaled, or use the codes "
        "alone.",
        "--faithful/--free",
    )
    detail: float = option(
        DETAIL, "With --faithful: how much generated detail to show, 0 (bicubic) to 1.", ge=0, le=1
    )
    params: UpscaleParams = NONE_GIVEN


class CaptionRequest(Config):
    """Options for captions: sampled if a seed or a sampling option is given, else found by beam search."""

    language: Literal["zh", "en"] | None = option(
        None, "Only captions in this language.", "--lang", shown="any"
    )
    n: int = option(1, "Captions for each image.", "-n", ge=1)
    beams: int | None = option(None, "Width of the beam search.", shown="4, or n", ge=1)
    seed: Seed = option(None, "Sample; caption i of a seed is always the same.", shown="beams")
    params: CaptionParams = NONE_GIVEN
    max_length: int | None = option(None, "Largest number of tokens.", shown="the model's limit", ge=1)


def check_times(family: ModelBundle, times: int) -> None:
    """Raise CogViewError if the family's super-resolution model does not support this scale factor."""
    from cogview.generation.windows import stages_of

    format = of_type(family.role("super_resolution").sequences, SequenceFormat)
    assert format is not None
    stages_of(format, times)
