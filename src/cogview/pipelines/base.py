"""What all pipelines share: what they return, checks of their arguments, captions from prompts.

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
MOST_IMAGES, MOST_CAPTIONS = 100_000, 1_024  # of one call; captions of an image, or beams


@dataclass(frozen=True)
class GeneratedImage:
    """A generated image and what made it.

    codes: (rows * columns,) int64, of the image tokenizer; prompt: as it was given; caption: what the model
    read, with the style; index: which image of its prompt (0-based); settings: all else that matters.
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
        """What is written into the file."""
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
        """The PNG file, with the provenance inside."""
        return png_bytes(self.image, self.provenance)

    def _repr_png_(self) -> bytes:
        """As notebooks show it."""
        return self.png()

    def save(self, path: str | Path) -> None:
        """Write a PNG file with the provenance inside; CogViewError where the place is not writable."""
        save_png(self.image, path, self.provenance)


@dataclass(frozen=True)
class Caption:
    """A caption of an image.

    pieces: (n,) int64, tokens of the text tokenizer; score: mean log-probability of a token where beams found
    it; seed and index: its random stream where it was sampled.
    """

    text: str
    pieces: Ids
    score: float | None = None
    seed: int | None = None
    index: int = 0


@dataclass(frozen=True)
class Ranked:
    """An image's place in an order: its number as it was given, and its caption loss (or released score)."""

    number: int
    score: float


def check_output(kind: str) -> None:
    """CogViewError for an output type that there is not."""
    if kind not in get_args(OutputType):
        known = ", ".join(get_args(OutputType))
        raise CogViewError(f"unknown output_type {kind!r}; there are {known}", field="output_type")


def as_output(images: Sequence[GeneratedImage], kind: OutputType) -> Any:
    """The images as they are (``image``), as Pillow images (``pil``), as float32 in [0, 1], (n, height,
    width, 3) NumPy (``np``) or (n, 3, height, width) PyTorch (``pt``), or as their ``codes`` (n, rows *
    columns) int64."""
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


def collected(
    made: Iterable[GeneratedImage], callback: ImageCallback | None, kind: OutputType
) -> list[GeneratedImage]:
    """All images as ``output_type`` says, each given to ``callback`` as soon as it is ready."""
    images = []
    for image in made:
        images.append(image)
        if callback is not None:
            callback(image)
    found: list[GeneratedImage] = as_output(images, kind)  # what the other types are, callers know
    return found


AnyImage = GeneratedImage | Image.Image | str | Path


def pipeline_class(bundle: ModelBundle) -> Any:
    """The class that runs a family: CogView2 where its base model is a CogLM, else CogView."""
    base = bundle.config.roles.get(BASE)
    name = "CogView2" if base is not None and base.sequences.kind == "coglm" else "CogView"
    return getattr(import_module(f"cogview.pipelines.{name.lower()}"), name)


class HasTextTokenizer(Protocol):
    """What has a family's text tokenizer."""

    @property
    def text_tokenizer(self) -> TextTokenizer: ...


class ProgressParts:
    """Parts of one piece of work that is ``total`` large, in any unit, done one after the other or in turns.

    What is reported of each part, done of its own total, is passed on to ``progress`` with all of the others.
    """

    def __init__(self, progress: ProgressCallback | None, total: int) -> None:
        self.progress, self.total = progress, total
        self.done: list[float] = []

    def part(self, size: float) -> ProgressCallback | None:
        """The callback of a part that is ``size`` large; None where nobody listens."""
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
    """One image or several as a list; CogViewError for none, and for what is none."""
    items = [images] if isinstance(images, AnyImage) else _items(images, "picture")
    if not items:
        raise CogViewError("there is no picture", field="image")
    for item in items:
        if not isinstance(item, AnyImage):
            raise CogViewError(f"{item!r:.60} is no picture; give a file or a Pillow image", field="image")
    return items


def text_list(texts: str | Sequence[str], what: str = "prompt") -> list[str]:
    """One text or several as a list; CogViewError for none, and for what is none."""
    items = [texts] if isinstance(texts, str) else _items(texts, what)
    if not items:
        raise CogViewError(f"there is no {what}", field="prompt")
    for item in items:
        if not isinstance(item, str):
            raise CogViewError(f"{item!r:.60} is no text; give a {what}, or a list of them", field="prompt")
    return items


def text_for_each(texts: str | Sequence[str] | None, count: int) -> list[str | None]:
    """One text for each of ``count`` images."""
    if texts is None or isinstance(texts, str):
        return [texts] * count
    if len(texts) != count:
        raise CogViewError(f"there are {count} pictures and {len(texts)} prompts; give one, or one for each")
    return list(texts)


def _items(given: Any, what: str) -> list[Any]:
    try:
        return list(given)
    except TypeError:
        raise CogViewError(f"{given!r:.60} is no {what}, nor a list of them") from None


def whole_number(name: str, value: int) -> int:
    """A whole number; CogViewError for anything else."""
    try:
        return operator.index(value)
    except TypeError:
        raise CogViewError(f"{name} is {value!r:.60}; give a whole number", field=name) from None


def at_least_one(**counts: int | None) -> None:
    """CogViewError for a number below 1; None is no number asked for."""
    for name, value in counts.items():
        if value is not None and whole_number(name, value) < 1:
            raise CogViewError(f"{name} is {value}; it must be at least 1", field=name)


def not_too_many(what: str, count: int, most: int) -> None:
    """CogViewError for more results (``what``) than one call may have."""
    if count > most:
        raise CogViewError(f"{count:,} {what} are asked for; at most {most:,} at a time", field="n")


def check_first(first: int, n: int) -> None:
    """CogViewError for indices of images that are out of range."""
    if not 0 <= whole_number("first", first) <= MAX_SEED - n:
        raise CogViewError(f"first is {first}; pictures are counted from 0", field="first")


def checked_seed(seed: int | None) -> int:
    """The seed, a new one for None; CogViewError out of range."""
    return secrets.randbits(32) if seed is None else check_seed(whole_number("seed", seed))


def opened(item: Image.Image | str | Path) -> tuple[Image.Image, str]:
    """The image in RGB, and what to call it in an error."""
    if isinstance(item, Image.Image):
        return to_rgb(item)[0], "picture"
    try:
        return decode(Path(item)).image, str(item)
    except BadImage as error:
        raise CogViewError(f"{item}: {error}", field="image") from error


def pixels_of(image: Image.Image) -> dict[str, Any]:
    """What provenance says of an image that was given."""
    digest = hashlib.sha256(image.tobytes()).hexdigest()
    return {"sha256": digest, "width": image.width, "height": image.height}


# ---------------------------------------------------------------------------------------------- prompts


def caption_for(config: FamilyConfig, prompt: str, style: str | None = None) -> str:
    """What the model reads for a prompt, a style in the prompt's language (CogView, section 4.2).

    CogViewError for an empty prompt, an unknown style, or one without words in that language.
    """
    [prompt] = text_list(prompt)
    prompt = prompt.strip()
    if not prompt:
        raise CogViewError("the prompt is empty; say what to draw", field="prompt")
    if style is None:
        return prompt
    phrases, templates, spoken = config.style(style), config.templates, language(prompt)
    if spoken not in phrases or spoken not in templates:
        message = f"this style has no words in the prompt's language ({spoken})"
        raise CogViewError(message, field="style")
    return templates[spoken].replace("{style}", phrases[spoken]).replace("{caption}", prompt)


def described(config: FamilyConfig, item: AnyImage, prompt: str | None = None) -> tuple[str, str]:
    """Prompt and caption of an image: ``prompt`` where it is given, else those that it was generated with, as
    far as its file says so; empty for any other image."""
    if prompt is not None:
        return prompt, prompt.strip()
    if isinstance(item, GeneratedImage):
        return item.prompt, item.caption
    try:
        found = None if isinstance(item, Image.Image) else read_provenance(item)
    except CogViewError:  # an image with a damaged entry is an image
        found = None
    if found is None or not found.prompt.strip():
        return "", ""
    style, words = found.settings.get("style"), found.settings.get("fairness")
    text = words.get("text") if isinstance(words, dict) else None
    known = style if isinstance(style, str) and style in config.styles else None
    return found.prompt, caption_for(config, text if isinstance(text, str) else found.prompt, known)


def encode_caption(components: HasTextTokenizer, caption: str, limit: int) -> list[int]:
    """A caption's text tokens; CogViewError where they are more than ``limit``."""
    tokens = components.text_tokenizer.encode(caption)
    if len(tokens) > limit:
        shown = caption if len(caption) <= 40 else caption[:40] + "…"
        raise CogViewError(
            f"the prompt {shown!r} has {len(tokens)} tokens and the model reads {limit}; shorten it",
            field="prompt",
        )
    return tokens


def check_captions(components: HasTextTokenizer, captions: Iterable[str], limit: int) -> None:
    """CogViewError for a caption that is longer than what super-resolution reads."""
    for caption in captions:
        found = len(components.text_tokenizer.encode(caption))
        if found > limit:
            raise CogViewError(
                f"the prompt has {found} tokens and super-resolution reads {limit}; "
                "shorten it, have it cut (--truncate), or leave pictures small (--first-stage-only)",
                field="prompt",
            )
