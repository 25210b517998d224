"""``manifest.json`` of an exported family: the contents of its files and the layout of sequences.

It contains everything that a program in another language needs to generate: the id ranges of image codes,
text tokens and control tokens, the prompt around a text, positions, sampling defaults, the names and shapes
of all graphs, and the size and hash of every file.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from cogview.checkpoints.bundle import FamilyConfig
from cogview.config import Config, read_json
from cogview.errors import CogViewError
from cogview.files import open_regular
from cogview.generation.languages import allowed_tokens
from cogview.sequences.protocols import CaptionFormat, ImageFormat, caption_length
from cogview.tokenizers.text import TextTokenizer
from cogview.types import Resample

FILE = "manifest.json"
Weights = Literal["fp32", "fp16", "int8"]
Task = Literal["generate", "caption", "score", "upscale", "edit"]
Inside = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*(/[A-Za-z0-9][A-Za-z0-9_.-]*)?$")]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class FileFacts(Config):
    """Size and SHA-256 of a file."""

    bytes: int = Field(ge=0)
    sha256: Sha256


class Head(Config):
    """A graph that computes logits of the ids from ``first`` to ``end`` (exclusive)."""

    graph: Inside
    first: int = Field(ge=0)
    end: int = Field(ge=1)


class TransformerFiles(Config):
    """A transformer's graphs, the file with their weights, and its shape.

    capacity: length of the longest sequence; positions: number of position embeddings.
    """

    graph: Inside
    weights: Inside
    heads: dict[str, Head] = Field(min_length=1)
    layers: int = Field(ge=1, le=1024)
    attention_heads: int = Field(ge=1, le=1 << 12)
    head_dim: int = Field(ge=1, le=1 << 17)
    hidden: int = Field(ge=1, le=1 << 17)
    positions: int = Field(ge=1, le=1 << 24)
    capacity: int = Field(ge=1, le=1 << 24)


class UpscalingFacts(Config):
    """Constants of upscaling: the pixel prior (``generation.pixel_prior``) for known and for decoded pixels,
    and the rounds of back-projection."""

    known: float
    painted: float
    width: float
    rounds: int = Field(ge=0, le=100)


class ImageFiles(Config):
    """An image tokenizer's graphs; the weights of each are in a file beside it, with ``.bin`` for ``.onnx``.

    factor: pixels per code and side, as numerator and denominator; multiple: an image's sides must be
    multiples of it.
    """

    decoder: Inside
    encoder: Inside
    distances: Inside
    image_size: int = Field(ge=1, le=4096)
    grid: tuple[int, int]
    factor: tuple[int, int]
    multiple: int = Field(ge=1)
    codes: int = Field(ge=2)
    upscaling: UpscalingFacts


class Fitting(Config):
    """How an image is converted to the square that the caption model reads: optionally cropped to its centre,
    then resized to ``size`` pixels."""

    size: int = Field(ge=1, le=1 << 14)
    crop: bool
    resample: Resample


class PromptLayout(Config):
    """The prompt for an image as ids: ``before``, the text tokens plus ``text_first``, ``after``.

    Positions: those of ``before``; of the first text token, from which they increase by one; of ``after`` and
    of the image's codes, which increase by ``shift`` with each text token. two_way: None for causal
    attention; otherwise the text tokens and this many more have bidirectional attention. biased: the text
    attention bias (emphasis) applies to the first tokens, as many as the text has and this many more.
    """

    before: tuple[int, ...]
    before_positions: tuple[int, ...]
    text_first: int
    text_limit: int
    text_position: int
    after: tuple[int, ...]
    after_positions: tuple[int, ...]
    code_positions: tuple[int, ...]
    shift: int
    two_way: int | None = None
    biased: int = 0

    @classmethod
    def of(cls, format: ImageFormat) -> PromptLayout:
        """The layout of a format, inferred from two prompts."""
        empty, one = format.image_prompt([]), format.image_prompt([0])
        first = format.vocabulary.texts.start
        at = int(np.flatnonzero(one.ids == first)[0])
        return cls(
            before=one.ids[:at].tolist(),
            before_positions=one.positions[:at].tolist(),
            text_first=first,
            text_limit=format.text_limit,
            text_position=int(one.positions[at]),
            after=one.ids[at + 1 :].tolist(),
            after_positions=empty.positions[at:].tolist(),
            code_positions=empty.decode_positions.tolist(),
            shift=int(one.positions[at + 1] - empty.positions[at]),
            two_way=empty.prefix if one.prefix > empty.prefix else None,
            biased=empty.text_length,
        )


class CaptionLayout(Config):
    """The prompt for a caption as ids: ``before``, an image's codes, ``after``.

    after: by language; under "" if the prompt does not depend on it. text_positions: of the caption's tokens;
    text_limit: largest number of tokens of a text to score; length: largest number of tokens of a caption,
    including its end token; two_way: number of leading tokens with bidirectional attention; end: the id of
    the end token, if any. pieces: by language ("": any), the allowed text tokens, as ranges (end exclusive).
    """

    before: tuple[int, ...]
    before_positions: tuple[int, ...]
    code_positions: tuple[int, ...]
    after: dict[str, tuple[int, ...]]
    after_positions: tuple[int, ...]
    text_first: int
    text_limit: int
    text_positions: tuple[int, ...]
    length: int
    two_way: int
    end: int | None
    pieces: dict[str, tuple[tuple[int, int], ...]]

    @classmethod
    def of(cls, format: CaptionFormat, text: TextTokenizer) -> CaptionLayout:
        """The layout of a format, inferred from prompts."""
        codes, vocabulary = np.zeros(format.codes, dtype=np.int64), format.vocabulary
        languages: tuple[str | None, ...] = tuple(format.languages) or (None,)
        zeros, ones = (format.caption_prompt(codes + i, languages[0]) for i in (0, 1))
        [*places] = np.flatnonzero(zeros.ids != ones.ids).tolist()
        first, end = places[0], places[-1] + 1
        assert end - first == format.codes
        names = (*(() if format.languages else (None,)), "en", "zh")
        return cls(
            before=zeros.ids[:first].tolist(),
            before_positions=zeros.positions[:first].tolist(),
            code_positions=zeros.positions[first:end].tolist(),
            after={name or "": format.caption_prompt(codes, name).ids[end:].tolist() for name in languages},
            after_positions=zeros.positions[end:].tolist(),
            text_first=vocabulary.texts.start,
            text_limit=format.text_limit,
            text_positions=zeros.decode_positions.tolist(),
            length=min(caption_length(format, None), len(zeros.decode_positions)),
            two_way=zeros.prefix,
            end=None if format.end is None else vocabulary.control(format.end),
            pieces={name or "": _runs(allowed_tokens(text, vocabulary, name)) for name in names},
        )


def _runs(allowed: NDArray[np.bool_]) -> tuple[tuple[int, int], ...]:
    """The ranges of True values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], allowed, [False]])))
    return tuple((int(first), int(end)) for first, end in edges.reshape(-1, 2))


class Manifest(Config):
    """The contents of ``manifest.json``.

    model_hash: of the exported family; weights: precision of matrices; family: its ``family.json``, with the
    exported roles; clusters: the cluster of each image code, if there are any; lora: name, hash and strength
    of the adapter that was merged into the base model.
    """

    format: Literal[1] = 1
    kind: Literal["cogview-onnx"] = "cogview-onnx"
    software: str
    opset: int
    model_hash: str
    weights: Weights
    tasks: tuple[Task, ...]
    family: FamilyConfig
    prompt: PromptLayout | None
    captions: CaptionLayout | None
    fitting: Fitting | None
    transformers: dict[str, TransformerFiles]
    image: ImageFiles
    text: Inside
    clusters: tuple[int, ...] | None = None
    lora: dict[str, str | float] | None = None
    files: dict[Inside, FileFacts]

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read the manifest of an exported folder; raises CogViewError if it or other files are missing."""
        if not (folder / FILE).is_file():
            raise CogViewError(
                f"{folder} is not an exported model, it has no {FILE}; create one with `cogview export onnx`"
            )
        manifest = read_json(cls, folder / FILE)
        for name, facts in manifest.files.items():
            path = folder / name
            if not path.is_file() or path.stat().st_size != facts.bytes:
                raise CogViewError(f"{path}: missing or incomplete; export the model again")
        return manifest

    def checked(self, folder: Path, *names: str) -> Path:
        """Verify the hashes of files; returns the path of the first. Raises CogViewError if one differs."""
        for name in names:
            facts = self.files.get(name)
            if facts is None or facts_of(folder / name) != facts:
                raise CogViewError(f"{folder / name}: damaged, it differs from its hash; export it again")
        return folder / names[0]


def facts_of(path: Path) -> FileFacts:
    """Size and hash of a file; raises CogViewError if it cannot be read."""
    try:
        with open_regular(path) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return FileFacts(bytes=file.tell(), sha256=digest)
    except OSError as error:
        raise CogViewError(f"{path}: cannot be read ({error.strerror})") from error
