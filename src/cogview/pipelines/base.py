"""Shared by all pipelines: result types, argument checks, and the conversion of prompts to captions.

Nothing here imports PyTorch: the runtime without it (``cogview.onnx``) checks the same arguments.
"""

from __future__ import annotations

import hashlib
import operator
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import numpy as np
from PIL import Image

from cogview.checkpoints.bundle import BASE, FamilyConfig, ModelBundle
from cogview.checkpoints.provenance import Provenance, png_bytes, save_png, software
from cogview.checkpoints.provenance import read as read_provenance
from cogview.data.images import BadImage, decode, to_rgb
from cogview.errors import CogViewError
from cogview.generation.languages import language
from cogview.types import MAX_SEED, Ids, ProgressCallback, check_seed

if TYPE_CHECKING:
    from cogview.tokenizers.text import TextTokenizer

ImageCallback = Callable[["GeneratedImage"], None]
OutputType = Literal["image", "pil", "np", "pt", "codes"]
MAX_IMAGES, MAX_CAPTIONS = 100_000, 1_024  # limits of one call; captions: per image, also of beams


@dataclass(frozen=True)
class GeneratedImage:
    """A generated image and everything that determines it.

    codes: (rows * columns,) int64, of the image tokenizer; prompt: as passed by the caller; caption: the text
    that the model read, style included; index: number of the image among those of its prompt (0-based);
    settings: all other inputs that affect the result.
    """

    image: Image.Image
    codes: Ids
    prompt: str
    caption: str
    seed: int
    index: int
    settings: dict[str, Any]
    model: str
    model_hash: str

    @property
    def provenance(self) -> Provenance:
        """The metadata that is written into the file."""
        return Provenance(
            software=software(),
            prompt=self.prompt,
            seed=self.seed,
            index=self.index,
            model=self.model,
            model_hash=self.model_hash,
            settings=self.settings,
        )

    def png(self) -> bytes:
        """The PNG file, with the provenance in its metadata."""
        return png_bytes(self.image, self.provenance)

    def _repr_png_(self) -> bytes:
        """The PNG that notebooks display."""
        return self.png()

    def save(self, path: str | Path) -> None:
        """Write a PNG file with the provenance in its metadata; raises CogViewError if that fails."""
        save_png(self.image, path, self.provenance)


@dataclass(frozen=True)
class Caption:
    """A caption of an image.

    pieces: (n,) int64, tokens of the text tokenizer; score: mean log-probability per token, if it was found
    by beam search; seed, index: its random stream, if it was sampled.
    """

    text: str
    pieces: Ids
    score: float | None = None
    seed: int | None = None
    index: int = 0


@dataclass(frozen=True)
class Ranked:
    """An entry of a ranking: the image's position in the input, and its caption loss (or released score)."""

    number: int
    score: float


def check_output(kind: str) -> None:
    """Raise CogViewError for an unknown output type."""
    if kind not in get_args(OutputType):
        known = ", ".join(get_args(OutputType))
        raise CogViewError(f"unknown output_type {kind!r}; use one of {known}", field="output_type")


def as_output(images: Sequence[GeneratedImage], kind: OutputType) -> Any:
    """Convert images: unchanged (``image``), Pillow images (``pil``), float32 in [0, 1] as NumPy (n, height,
    width, 3) (``np``) or PyTorch (n, 3, height, width) (``pt``), or their ``codes`` (n, rows * columns)
    int64."""
    if kind == "image":
        return list(images)
    if kind == "pil":
        return [one.image for one in images]
    if kind == "codes":
        return np.stack([one.codes for one in images])
    pixels = np.stack([np.asarray(one.image.convert("RGB"), dtype=np.float32) / 255 for one in images])
    if kind == "np":
        return pixels
    import torch

    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def collect(
    generated: Iterable[GeneratedImage], callback: ImageCallback | None, kind: OutputType
) -> list[GeneratedImage]:
    """All images, converted to the output type; ``callback`` is called with each as soon as it is ready."""
    images = []
    for image in generated:
        images.append(image)
        if callback is not None:
            callback(image)
    output: list[GeneratedImage] = as_output(images, kind)  # callers know the types of the other kinds
    return output


AnyImage = GeneratedImage | Image.Image | str | Path


def pipeline_class(bundle: ModelBundle) -> Any:
    """The pipeline class of a family: CogView2 if its base model is a CogLM, else CogView."""
    base = bundle.config.roles.get(BASE)
    name = "CogView2" if base is not None and base.sequences.kind == "coglm" else "CogView"
    return getattr(import_module(f"cogview.pipelines.{name.lower()}"), name)


class HasTextTokenizer(Protocol):
    """Anything that provides a family's text tokenizer."""

    @property
    def text_tokenizer(self) -> TextTokenizer: ...


class ProgressParts:
    """Combines the progress of several parts of a task into one; ``total`` is the size of the whole task.

    Parts may run in sequence or interleaved, and report in units of their own; ``progress`` is called with
    the sum over all parts.
    """

    def __init__(self, progress: ProgressCallback | None, total: int) -> None:
        self.progress, self.total = progress, total
        self.done: list[float] = []

    def part(self, size: float) -> ProgressCallback | None:
        """A callback for a part of this size; None if there is no ``progress``."""
        if self.progress is None:
            return None
        number, callback = len(self.done), self.progress
        self.done.append(0.0)

        def report(done: int, total: int) -> None:
            self.done[number] = size * done / total
            callback(min(round(sum(self.done)), self.total), self.total)

        return report


# ---------------------------------------------------------------------------------------------- arguments


def image_list(images: AnyImage | Sequence[AnyImage]) -> list[AnyImage]:
    """One or several images as a list; raises CogViewError for an empty list or anything but images."""
    items = [images] if isinstance(images, AnyImage) else _items(images, "image")
    if not items:
        raise CogViewError("there is no image; pass at least one", field="image")
    for item in items:
        if not isinstance(item, AnyImage):
            raise CogViewError(f"{item!r:.60} is not an image; pass a file or a Pillow image", field="image")
    return items


def text_list(texts: str | Sequence[str], what: str = "prompt") -> list[str]:
    """One or several texts as a list; raises CogViewError for an empty list or anything but texts."""
    items = [texts] if isinstance(texts, str) else _items(texts, what)
    if not items:
        raise CogViewError(f"there is no {what}; pass at least one", field="prompt")
    for item in items:
        if not isinstance(item, str):
            raise CogViewError(f"{item!r:.60} is not a text; pass a {what} or a list of them", field="prompt")
    return items


def text_for_each(texts: str | Sequence[str] | None, count: int) -> list[str | None]:
    """One text for each of ``count`` images; a single text is repeated."""
    if texts is None or isinstance(texts, str):
        return [texts] * count
    if len(texts) != count:
        raise CogViewError(f"there are {count} images and {len(texts)} prompts; pass one, or one per image")
    return list(texts)


def _items(value: Any, what: str) -> list[Any]:
    try:
        return list(value)
    except TypeError:
        raise CogViewError(f"{value!r:.60} is not a valid {what}; pass one or a list of them") from None


def as_integer(name: str, value: int) -> int:
    """The value as an int; raises CogViewError for anything but an integer."""
    try:
        return operator.index(value)
    except TypeError:
        raise CogViewError(f"{name} is {value!r:.60}; give a whole number", field=name) from None


def check_positive(**counts: int | None) -> None:
    """Raise CogViewError for a number below 1; None is allowed."""
    for name, value in counts.items():
        if value is not None and as_integer(name, value) < 1:
            raise CogViewError(f"{name} is {value}; it must be at least 1", field=name)


def check_count(what: str, count: int, most: int) -> None:
    """Raise CogViewError for more results (``what``) than one call may return."""
    if count > most:
        raise CogViewError(f"{count:,} {what} requested; at most {most:,} at a time", field="n")


def check_first(first: int, n: int) -> None:
    """Raise CogViewError for image indices out of range."""
    if not 0 <= as_integer("first", first) <= MAX_SEED - n:
        raise CogViewError(f"first is {first}; images are counted from 0", field="first")


def checked_seed(seed: int | None) -> int:
    """The seed, or a random one for None; raises CogViewError if it is out of range."""
    return secrets.randbits(32) if seed is None else check_seed(as_integer("seed", seed))


def open_rgb(item: Image.Image | str | Path) -> tuple[Image.Image, str]:
    """The image in RGB, and its name for error messages."""
    if isinstance(item, Image.Image):
        return to_rgb(item)[0], "image"
    try:
        return decode(Path(item)).image, str(item)
    except BadImage as error:
        raise CogViewError(f"{item}: {error}", field="image") from error


def image_facts(image: Image.Image) -> dict[str, Any]:
    """The provenance entry of an input image: hash and size."""
    digest = hashlib.sha256(image.tobytes()).hexdigest()
    return {"sha256": digest, "width": image.width, "height": image.height}


# ---------------------------------------------------------------------------------------------- prompts


def caption_for(config: FamilyConfig, prompt: str, style: str | None = None) -> str:
    """The caption that the model reads for a prompt, with the style's words in the prompt's language
    (CogView, section 4.2).

    Raises CogViewError for an empty prompt, an unknown style, or a style without words in that language.
    """
    [prompt] = text_list(prompt)
    prompt = prompt.strip()
    if not prompt:
        raise CogViewError("the prompt is empty; describe the image", field="prompt")
    if style is None:
        return prompt
    phrases, templates, code = config.style(style), config.templates, language(prompt)
    if code not in phrases or code not in templates:
        message = f"this style has no words in the prompt's language ({code})"
        raise CogViewError(message, field="style")
    return templates[code].replace("{style}", phrases[code]).replace("{caption}", prompt)


def prompt_and_caption(config: FamilyConfig, item: AnyImage, prompt: str | None = None) -> tuple[str, str]:
    """Prompt and caption of an image: from ``prompt`` if there is one, else those the image was generated
    with, if its metadata has them; empty strings for any other image."""
    if prompt is not None:
        return prompt, prompt.strip()
    if isinstance(item, GeneratedImage):
        return item.prompt, item.caption
    try:
        provenance = None if isinstance(item, Image.Image) else read_provenance(item)
    except CogViewError:  # an image with damaged metadata is still an image
        provenance = None
    if provenance is None or not provenance.prompt.strip():
        return "", ""
    style, fairness = provenance.settings.get("style"), provenance.settings.get("fairness")
    text = fairness.get("text") if isinstance(fairness, dict) else None
    known = style if isinstance(style, str) and style in config.styles else None
    return provenance.prompt, caption_for(config, text if isinstance(text, str) else provenance.prompt, known)


def encode_caption(components: HasTextTokenizer, caption: str, limit: int) -> list[int]:
    """A caption's text tokens; raises CogViewError if there are more than ``limit``."""
    tokens = components.text_tokenizer.encode(caption)
    if len(tokens) > limit:
        shown = caption if len(caption) <= 40 else caption[:40] + "…"
        raise CogViewError(
            f"the prompt {shown!r} has {len(tokens)} tokens and the model reads {limit}; shorten it",
            field="prompt",
        )
    return tokens


def check_captions(components: HasTextTokenizer, captions: Iterable[str], limit: int) -> None:
    """Raise CogViewError for a caption that is too long for super-resolution."""
    for caption in captions:
        count = len(components.text_tokenizer.encode(caption))
        if count > limit:
            raise CogViewError(
                f"the prompt has {count} tokens and super-resolution reads {limit}; "
                "shorten it, have it cut (--truncate), or keep the images small (--first-stage-only)",
                field="prompt",
            )
