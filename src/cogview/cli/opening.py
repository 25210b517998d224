"""What commands that compute with a model share: options, checks that need no PyTorch, and opening the model.

A mistake in an argument is found by reading small files, before PyTorch (seconds) and the model (more) are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cogview.cli.precision import Precision
from cogview.errors import CogViewError

if TYPE_CHECKING:
    from cogview.checkpoints.bundle import ModelBundle
    from cogview.pipelines.model import Pipeline
    from cogview.types import SamplingParams

Ability = Literal["generate", "edit", "upscale", "caption", "score"]
DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")

ThreadsOption = Annotated[
    int | None,
    typer.Option(
        "--threads",
        min=1,
        max=1024,
        help="Threads to compute with (see cogview doctor).",
        show_default="what the container and other programs leave",
    ),
]
DeviceOption = Annotated[
    str, typer.Option("--device", help="auto (a GPU if there is one), cpu, cuda, cuda:N or mps.")
]
DecodingOption = Annotated[
    Literal["auto", "sequential", "jacobi"],
    typer.Option(
        help="Token by token, or several in one forward; auto takes the faster one. The same tokens."
    ),
]


@dataclass(frozen=True)
class Place:
    """Where and how to compute, as the options say."""

    device: str = "auto"
    threads: int | None = None
    precision: Precision = "fp32"
    decoding: Literal["auto", "sequential", "jacobi"] = "auto"

    def __post_init__(self) -> None:
        if not DEVICE.fullmatch(self.device):
            raise CogViewError(f"--device {self.device}: give auto, cpu, cuda, cuda:N or mps")


def check_model(name: str, *abilities: Ability) -> ModelBundle:
    """The family of a name or directory, its configuration read; UnsupportedTask where it cannot do all of
    ``abilities``, with the models that can."""
    from cogview.checkpoints.bundle import ModelBundle

    bundle = ModelBundle.find(name)
    for ability in abilities:
        if ability not in bundle.config.abilities:
            raise bundle.config.unsupported(ability)
    return bundle


def check_sampling(
    bundle: ModelBundle, given: dict[str, float | None], seed: int | None, style: str | None = None
) -> SamplingParams:
    """The parameters that are given; CogViewError for one or a seed out of range, or an unknown style."""
    from cogview.types import SamplingParams, check_seed

    params = SamplingParams.given(**given)
    if seed is not None:
        check_seed(seed)
    if style is not None:
        bundle.config.style(style)
    return params


def check_prompts(prompts: Iterable[str]) -> None:
    """CogViewError for a prompt without a word in it."""
    if not all(prompt.strip() for prompt in prompts):
        raise CogViewError("the prompt is empty; say what to draw")


def check_pictures(paths: Iterable[Path]) -> None:
    """CogViewError for a file that is not there or does not begin as a picture does; pixels are not read."""
    from cogview.data.images import BadImage, check_header

    for path in paths:
        try:
            check_header(path)
        except BadImage as error:
            raise CogViewError(f"{path}: {error}") from None


def check_times(bundle: ModelBundle, times: int) -> None:
    """CogViewError where the family's super-resolution model does not enlarge ``times`` as much."""
    form = bundle.role("super_resolution").sequences
    small = getattr(form, "context_grid", None)
    scale = form.grid[0] // small[0] if small else 2
    if times not in (scale, scale**2):
        raise CogViewError(f"times is {times}; this model enlarges {scale} or {scale**2} times")


def open_model(bundle: ModelBundle, place: Place, **options: Any) -> Pipeline:
    """The pipeline of a family on the device, computing with the threads that ``place`` says."""
    from cogview.pipelines.model import Pipeline

    device = torch_device(place)
    use_threads(place.threads, bundle.directory)
    return Pipeline.from_pretrained(
        bundle.directory, device=device, precision=place.precision, decoding=place.decoding, **options
    )


def torch_device(place: Place) -> str | None:
    """The device for PyTorch, None for its own choice; CogViewError where there is none of that kind."""
    import torch

    name = place.device
    if name == "auto":
        return None
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError):
        raise CogViewError(f"--device {name} is not available here; use auto or cpu") from None
    return name


def use_threads(threads: int | None, *models: Path) -> None:
    """Make PyTorch compute with ``threads``, or with as many as fit the machine and the models."""
    import torch

    from cogview.threads import choose

    if threads is None:
        sizes = [file.stat().st_size for model in models for file in model.glob("*/*.safetensors")]
        threads = choose(sum(sizes)).threads
    torch.set_num_threads(threads)
