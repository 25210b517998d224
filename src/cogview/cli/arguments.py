"""Checks of what commands are given, made before PyTorch (seconds) and a model (more) are read.

Small files are read at most: a family's configuration, the head of a picture, a text of prompts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

from cogview.errors import CogViewError
from cogview.untrusted import read_text

if TYPE_CHECKING:
    from cogview.checkpoints.bundle import ModelBundle
    from cogview.transformer.config import ThreeRegionConfig

Ability = Literal["generate", "edit", "upscale", "caption", "score"]
MAX_PROMPTS = 64 << 20  # bytes of a file of prompts
NEAREST = "nearest-training"  # of evaluation/experiments/nearest.py: images of the training set, no model
DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")
WORDS = 5  # unfamiliar ones that are named


def existing(path: Path) -> Path:
    """The path; CogViewError where there is nothing."""
    if not path.exists():
        raise CogViewError(f"{path}: cannot be read (no such file or folder)")
    return path


def model_name(name: str) -> str:
    """The name or directory of a model; CogViewError where there is none."""
    from cogview.checkpoints.bundle import find

    find(name)
    return name


def generator_name(name: str) -> str:
    """As :func:`model_name`, where ``nearest-training`` counts too."""
    return name if name == NEAREST else model_name(name)


def check_device(name: str) -> str:
    """The name; CogViewError where it is none of a device."""
    if not DEVICE.fullmatch(name):
        raise CogViewError(f"--device {name}: give auto, cpu, cuda, cuda:N or mps")
    return name


def check_model(name: str, *abilities: Ability) -> ModelBundle:
    """The family of a name or directory, its configuration read; UnsupportedTask where it cannot do all of
    ``abilities``, with the models that can."""
    from cogview.checkpoints.bundle import ModelBundle

    bundle = ModelBundle.find(name)
    for ability in abilities:
        if ability not in bundle.config.abilities:
            raise bundle.config.unsupported(ability)
    return bundle


def check_wishes(bundle: ModelBundle, seed: int | None, style: str | None = None) -> None:
    """CogViewError for a seed out of range, or a style that the family does not have."""
    from cogview.types import check_seed

    if seed is not None:
        check_seed(seed)
    if style is not None:
        bundle.config.style(style)


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


def check_boxes(image: Path, boxes: Sequence[str]) -> None:
    """CogViewError for a box that is none, or does not lie in the picture."""
    from PIL import Image

    from cogview.generation.editing import mask_of_boxes, read_box

    if not boxes:
        return
    with Image.open(image) as file:
        turned = file.getexif().get(0x0112, 1) >= 5  # stored lying on its side
        size = file.size[::-1] if turned else file.size
    mask_of_boxes([read_box(box, size) for box in boxes], size)


def read_prompts(file: Path | None, what: str = "prompt") -> list[str]:
    """The lines of a UTF-8 file that are not empty."""
    if file is None:
        return []
    lines = read_text(file, MAX_PROMPTS, "utf-8-sig").splitlines()
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise CogViewError(f"{file}: there is no {what} in it; write one on each line")
    return found


def read_regions(text: str | None) -> ThreeRegionConfig | None:
    """``WINDOW,TIMES,PIVOTS`` as the sizes of three-region attention."""
    from cogview.config import validate
    from cogview.transformer.config import ThreeRegionConfig

    if text is None:
        return None
    names, values = ("window", "times", "pivots"), text.split(",")
    if len(values) != len(names) or not all(value.strip().isdigit() for value in values):
        raise CogViewError(
            f"--sparse {text}: write three whole numbers, WINDOW,TIMES,PIVOTS, such as 64,4,256"
        )
    numbers = {name: int(value) for name, value in zip(names, values, strict=True)}
    return validate(ThreeRegionConfig, numbers, "--sparse")


def tell_unfamiliar(family: ModelBundle, texts: Sequence[str]) -> None:
    """Say on stderr which words of the prompts the model hardly knows, and what near them it does know."""
    if family.prompt_help:
        unknown = {word: None for text in texts for word in family.prompt_help.unknown(text)}
        for word in islice(unknown, WORDS):
            typer.echo(f"{family.config.name}: {word}", err=True)
    tokenizer = family.text_tokenizer()
    words = dict.fromkeys(word for text in texts for word in tokenizer.unfamiliar(text))
    if words:
        shown = ", ".join([*words][:WORDS]) + (", …" if len(words) > WORDS else "")
        languages = " and ".join(
            {"en": "English", "zh": "Chinese"}.get(x, x) for x in family.config.templates
        )
        typer.echo(f"{family.config.name} reads {languages}; it hardly knows: {shown}", err=True)
