"""Token shards: the data set as the transformer reads it, memory-mapped from disk.

A data set is a directory::

    index.json            ShardIndex: counts, types, grid, fingerprints, vocabulary, names, sizes and hashes
    shard-00000/
        codes.bin         (items, h * w)  image codes, smallest unsigned integer type that holds the codebook
        context.bin       the same for the small images, if the data set is for super-resolution
        texts.bin         the text tokens of all captions, concatenated, smallest type for the text tokenizer
        captions.bin      CAPTION records: position of a caption's tokens, its language and kind
        items.bin         ITEM records: position of an item's captions, its source and split
        keys.bin          the items' keys in UTF-8, one per line

Nothing is parsed when a batch is read. Captions of an item are contiguous, sorted by language, then kind.
Numbers are little-endian. Text tokens are 0-based ids of the text tokenizer, codes those of the image
tokenizer; the vocabulary combines them when sequences are built, so shards survive a change of vocabulary.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from cogview.config import Config, read_json
from cogview.data.samples import KINDS, CaptionKind
from cogview.errors import CogViewError
from cogview.files import is_regular, naming, read_bytes, write_file
from cogview.types import Resample
from cogview.vocabulary import Vocabulary

INDEX = "index.json"
TRANSLATIONS = "translations"  # folder of captions that were translated for a build
IntegerType = Literal["uint8", "uint16", "uint32"]

ITEM = np.dtype([("first", "<u4"), ("captions", "<u2"), ("source", "<u2"), ("split", "u1")])
CAPTION = np.dtype([("first", "<u8"), ("length", "<u2"), ("language", "u1"), ("kind", "u1")])


def smallest_type(values: int) -> IntegerType:
    """The smallest unsigned integer type that holds the ids 0 … ``values`` - 1."""
    if values <= 1 << 8:
        return "uint8"
    return "uint16" if values <= 1 << 16 else "uint32"


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class ShardFile(Config):
    """Size and hash of one file, for integrity checks."""

    bytes: int = Field(ge=0)
    sha256: str


FileName = Annotated[str, Field(pattern=r"^[a-z_]+$")]
Side = Annotated[int, Field(ge=1, le=1 << 12)]


class ShardEntry(Config):
    """One shard: its directory, its counts and its files."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    items: int = Field(ge=0)
    captions: int = Field(ge=0)
    pieces: int = Field(ge=0)
    files: dict[FileName, ShardFile]


class Preprocessing(Config):
    """How images are made square: the shorter side is resized to ``size``, then the centre is cropped.

    crop: ``random`` crops a square of ``size`` without resizing, at a random position seeded by the image.
    """

    size: int = Field(ge=1, le=1 << 14)
    resample: Resample = "bilinear"
    crop: Literal["centre", "random"] = "centre"


class ShardIndex(Config):
    """The metadata of a data set (``index.json``).

    context_grid: of the small images of a super-resolution data set.
    """

    version: Literal[1] = 1
    items: int = Field(ge=0)
    captions: int = Field(ge=0)
    grid: tuple[Side, Side]
    context_grid: tuple[Side, Side] | None = None
    codes_type: IntegerType
    texts_type: IntegerType
    vocabulary: Vocabulary
    preprocessing: Preprocessing
    image_tokenizer: str
    text_tokenizer: str
    languages: tuple[str, ...]
    kinds: tuple[str, ...] = KINDS
    sources: dict[str, int]
    splits: dict[str, int]
    shards: tuple[ShardEntry, ...]

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        for field in ("items", "captions"):
            if sum(getattr(entry, field) for entry in self.shards) != getattr(self, field):
                raise ValueError(f"{field}: the shards hold another number")
        if len(set(self.languages)) != len(self.languages) or tuple(self.kinds) != KINDS[: len(self.kinds)]:
            raise ValueError("languages or kinds: a name twice, or an unknown one")
        for entry in self.shards:
            for name, size in self.sizes(entry).items():
                if name not in entry.files or size not in (None, entry.files[name].bytes):
                    raise ValueError(f"shards: {entry.name}/{name} has another size than its items take")
        return self

    def sizes(self, entry: ShardEntry) -> dict[str, int | None]:
        """The sizes of a shard's files in bytes, computed from its counts; None if any size is valid."""
        code, text = np.dtype(self.codes_type).itemsize, np.dtype(self.texts_type).itemsize
        small = self.context_grid
        return {
            "codes": entry.items * self.grid[0] * self.grid[1] * code,
            **({"context": entry.items * small[0] * small[1] * code} if small else {}),
            "texts": entry.pieces * text,
            "captions": entry.captions * CAPTION.itemsize,
            "items": entry.items * ITEM.itemsize,
            "keys": None,
        }

    @property
    def fingerprint(self) -> str:
        """A hash of the data set's content: equal if all tokens, tags and keys are equal, in the same
        order."""
        files = [entry.files[name].sha256 for entry in self.shards for name in sorted(entry.files)]
        return hashlib.sha256("\n".join(files).encode()).hexdigest()


@dataclass(frozen=True)
class TokenCaption:
    """A caption as text tokens."""

    pieces: tuple[int, ...]
    language: str
    kind: CaptionKind


@dataclass(frozen=True)
class TokenItem:
    """One tokenised sample: ``codes`` is (h * w,) int64, ``context`` (if any) those of the small image."""

    key: str
    codes: NDArray[np.int64]
    captions: tuple[TokenCaption, ...]
    source: str
    split: str
    context: NDArray[np.int64] | None = None


def write_atomically(path: Path, text: str) -> None:
    """Write a text file under a temporary name, flush it to disk, then rename it into place."""
    write_file(path, text, durable=True)


# ---------------------------------------------------------------------------------------------- writing


@dataclass(frozen=True)
class ShardLayout:
    """The names and types all shards of a data set share."""

    grid: tuple[int, int]
    codes_type: IntegerType
    texts_type: IntegerType
    languages: tuple[str, ...]
    sources: tuple[str, ...]
    splits: tuple[str, ...]


def _sorted_captions(item: TokenItem, layout: ShardLayout) -> list[TokenCaption]:
    return sorted(item.captions, key=lambda c: (layout.languages.index(c.language), KINDS.index(c.kind)))


def _arrays(items: Sequence[TokenItem], layout: ShardLayout) -> dict[str, NDArray[Any]]:
    captions = [_sorted_captions(item, layout) for item in items]
    flat = [caption for group in captions for caption in group]
    lengths = np.array([len(caption.pieces) for caption in flat], dtype=np.int64)
    table = np.zeros(len(flat), CAPTION)
    table["first"] = np.cumsum(lengths) - lengths
    table["length"] = lengths
    table["language"] = [layout.languages.index(caption.language) for caption in flat]
    table["kind"] = [KINDS.index(caption.kind) for caption in flat]
    counts = np.array([len(group) for group in captions], dtype=np.int64)
    rows = np.zeros(len(items), ITEM)
    rows["first"] = np.cumsum(counts) - counts
    rows["captions"] = counts
    rows["source"] = [layout.sources.index(item.source) for item in items]
    rows["split"] = [layout.splits.index(item.split) for item in items]
    tokens = [token for caption in flat for token in caption.pieces]
    codes = np.stack([item.codes for item in items]) if items else np.zeros((0, 0))
    small = [item.context for item in items if item.context is not None]
    return {
        "codes": codes.astype(layout.codes_type),
        **({"context": np.stack(small).astype(layout.codes_type)} if small else {}),
        "texts": np.array(tokens, dtype=layout.texts_type),
        "captions": table,
        "items": rows,
    }


def write_shard(directory: Path, name: str, items: Sequence[TokenItem], layout: ShardLayout) -> ShardEntry:
    """Write one shard under a temporary name, flush it to disk and rename it into place.

    Raises CogViewError if a key contains a line break.
    """
    keys = [item.key for item in items]
    if any("\n" in key for key in keys):
        raise CogViewError("a sample's key contains a line break; give it another key")
    arrays = _arrays(items, layout)
    part = directory / (name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    contents = {file: array.tobytes() for file, array in arrays.items()}
    contents["keys"] = "".join(key + "\n" for key in keys).encode()
    files = {file: _write_file(part / f"{file}.bin", data) for file, data in contents.items()}
    shutil.rmtree(directory / name, ignore_errors=True)
    part.replace(directory / name)
    return ShardEntry(
        name=name,
        items=len(items),
        captions=len(arrays["captions"]),
        pieces=len(arrays["texts"]),
        files=files,
    )


def _write_file(path: Path, data: bytes) -> ShardFile:
    with naming(path), path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return ShardFile(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


# ---------------------------------------------------------------------------------------------- reading


def read_index(directory: Path) -> ShardIndex:
    """Read ``index.json``; raises CogViewError if it is missing or invalid."""
    path = directory / INDEX
    if not path.is_file():
        unfinished = (directory / "build.json").is_file()
        hint = (
            "the build is not finished: run the same build again"
            if unfinished
            else "make it with `cogview data build`"
        )
        raise CogViewError(f"no token shards in {directory}; {hint}")
    try:
        return read_json(ShardIndex, path)
    except CogViewError as error:
        raise CogViewError(f"{error}; build the shards again") from error


def check_sizes(directory: Path, index: ShardIndex, hashes: bool = False) -> None:
    """Compare every shard file's size (and, if asked, SHA-256) with the index; raises CogViewError."""
    for entry in index.shards:
        for name, expected in entry.files.items():
            path = directory / entry.name / f"{name}.bin"
            if not is_regular(path):
                raise CogViewError(f"{path} is missing; build the shards again")
            size = path.stat().st_size
            if size != expected.bytes:
                verb = "truncated" if size < expected.bytes else "too long"
                message = f"{path} is {verb}: {size} bytes instead of {expected.bytes}"
                raise CogViewError(f"{message}; copy it again or build the shards again")
            if hashes and file_hash(path) != expected.sha256:
                raise CogViewError(f"{path} is damaged (its SHA-256 differs from the index); build again")


class TokenShards:
    """Random access to a built data set: ``len(shards)`` items, numbered across all shards.

    Opening checks every file's size, and with ``hashes`` its content. Public arrays, one entry per item:
    ``item_sources`` and ``item_splits`` (numbers into ``sources`` and ``splits``), ``first_caption`` and
    ``caption_count`` (rows of the caption table ``lengths`` / ``languages_of`` / ``kinds_of``).
    """

    def __init__(self, directory: str | Path, hashes: bool = False) -> None:
        self.directory = Path(directory)
        self.index = read_index(self.directory)
        check_sizes(self.directory, self.index, hashes)
        self.sources = tuple(self.index.sources)
        self.splits = tuple(self.index.splits)
        self.languages = self.index.languages
        self._codes = [self._map(entry, "codes", self.index.codes_type) for entry in self.index.shards]
        entries = self.index.shards if self.index.context_grid else ()
        self._context = [self._map(entry, "context", self.index.codes_type) for entry in entries]
        self._texts = [self._map(entry, "texts", self.index.texts_type) for entry in self.index.shards]
        items = [self._map(entry, "items", ITEM) for entry in self.index.shards]
        captions = [self._map(entry, "captions", CAPTION) for entry in self.index.shards]
        self._item_starts = _starts([len(part) for part in items])
        self._caption_starts = _starts([len(part) for part in captions])
        offsets = self._caption_starts[:-1]
        firsts = [part["first"].astype(np.int64) + start for part, start in zip(items, offsets, strict=True)]
        self.first_caption: NDArray[np.int64] = _join(firsts, np.int64)
        self.caption_count: NDArray[np.int64] = _join([part["captions"] for part in items], np.int64)
        self.item_sources: NDArray[np.int64] = _join([part["source"] for part in items], np.int64)
        self.item_splits: NDArray[np.int64] = _join([part["split"] for part in items], np.int64)
        self.lengths: NDArray[np.int64] = _join([part["length"] for part in captions], np.int64)
        self.languages_of: NDArray[np.int64] = _join([part["language"] for part in captions], np.int64)
        self.kinds_of: NDArray[np.int64] = _join([part["kind"] for part in captions], np.int64)
        self._caption_firsts: NDArray[np.int64] = _join([part["first"] for part in captions], np.int64)
        self._check(offsets)

    def _check(self, offsets: NDArray[np.int64]) -> None:
        """Raise CogViewError for an index out of range in the tables, which hashes do not detect."""
        shards, texts = self.index.shards, [len(part) for part in self._texts]
        ends = np.repeat(np.array(texts, np.int64), [entry.captions for entry in shards])
        last = np.repeat(offsets + [entry.captions for entry in shards], [entry.items for entry in shards])
        first = np.repeat(offsets, [entry.items for entry in shards])
        for what, valid in (
            (
                "a caption's pieces",
                (self._caption_firsts >= 0) & (self._caption_firsts + self.lengths <= ends),
            ),
            ("a caption's language", self.languages_of < len(self.languages)),
            ("a caption's kind", self.kinds_of < len(self.index.kinds)),
            ("an item's source", self.item_sources < len(self.sources)),
            ("an item's split", self.item_splits < len(self.splits)),
            (
                "an item's captions",
                (self.first_caption >= first) & (self.first_caption + self.caption_count <= last),
            ),
        ):
            if not valid.all():
                raise CogViewError(
                    f"{self.directory}: {what} is not there; the shards are damaged, build again"
                )
        for counts, numbers in (
            (self.index.sources, self.item_sources),
            (self.index.splits, self.item_splits),
        ):
            if np.bincount(numbers, minlength=len(counts)).tolist() != list(counts.values()):
                raise CogViewError(
                    f"{self.directory}: {INDEX} counts other items than the shards hold, or in another "
                    f"order of {', '.join(counts)}; build again"
                )
        if int(self.caption_count.sum()) != len(self.lengths):
            raise CogViewError(
                f"{self.directory}: captions without an item; the shards are damaged, build again"
            )

    def _map(self, entry: ShardEntry, name: str, dtype: Any) -> NDArray[Any]:
        path = self.directory / entry.name / f"{name}.bin"
        shape: tuple[int, ...] = (entry.files[name].bytes // np.dtype(dtype).itemsize,)
        grid = {"codes": self.index.grid, "context": self.index.context_grid}.get(name)
        if grid:
            shape = (entry.items, grid[0] * grid[1])
        if shape[0] == 0:
            return np.zeros(shape, dtype)
        try:
            return np.memmap(path, dtype, "r", shape=shape)
        except (OSError, ValueError) as error:
            raise CogViewError(f"{path} cannot be mapped ({error}); build the shards again") from error

    def __len__(self) -> int:
        return self.index.items

    @cached_property
    def keys(self) -> list[str]:
        """The items' keys, in order (read from disk at first use)."""
        parts = [
            read_bytes(self.directory / entry.name / "keys.bin", entry.files["keys"].bytes)
            for entry in self.index.shards
        ]
        try:
            keys = b"".join(parts).decode("utf-8").split("\n")[:-1]
        except UnicodeDecodeError as error:
            raise CogViewError(
                f"{self.directory}: keys that are not UTF-8; the shards are damaged"
            ) from error
        if len(keys) != len(self):
            raise CogViewError(f"{self.directory}: {len(keys):,} keys of {len(self):,} items; build again")
        return keys

    def select(
        self, splits: Sequence[str] | None = None, sources: Sequence[str] | None = None
    ) -> NDArray[np.int64]:
        """Numbers of the items in the given splits and sources (None = all), ascending, int64."""
        selected = np.ones(len(self), dtype=bool)
        for requested, names, values in (
            (splits, self.splits, self.item_splits),
            (sources, self.sources, self.item_sources),
        ):
            if requested is not None:
                selected &= np.isin(values, name_positions(requested, names, self.directory))
        return np.flatnonzero(selected)

    def codes(self, items: NDArray[np.int64] | Sequence[int]) -> NDArray[np.int64]:
        """Image codes of the given items: (len(items), h * w) int64."""
        return self._gather(self._codes, items)

    def context(self, items: NDArray[np.int64] | Sequence[int]) -> NDArray[np.int64]:
        """Codes of the items' small images (len(items), h * w) int64; raises CogViewError without any."""
        if self.index.context_grid is None:
            raise CogViewError(
                f"{self.directory} has no small images; build it again with --super-resolution"
            )
        return self._gather(self._context, items)

    def _gather(
        self, parts: Sequence[NDArray[Any]], items: NDArray[np.int64] | Sequence[int]
    ) -> NDArray[np.int64]:
        """Rows of the shards' arrays."""
        numbers = np.asarray(items, dtype=np.int64)
        shards = np.searchsorted(self._item_starts, numbers, side="right") - 1
        out = np.empty((len(numbers), parts[0].shape[1]), dtype=np.int64)
        for shard in np.unique(shards):
            rows = shards == shard
            out[rows] = parts[shard][numbers[rows] - self._item_starts[shard]]
        if out.size and out.max() >= self.index.vocabulary.image_codes:
            raise CogViewError(
                f"{self.directory}: an image code outside the codebook; the shards are damaged"
            )
        return out

    def pieces(self, caption: int) -> list[int]:
        """Text tokens of one row of the caption table."""
        shard = int(np.searchsorted(self._caption_starts, caption, side="right")) - 1
        first = int(self._caption_firsts[caption])
        ids: list[int] = self._texts[shard][first : first + int(self.lengths[caption])].tolist()
        if ids and max(ids) >= self.index.vocabulary.text_pieces:
            raise CogViewError(
                f"{self.directory}: a text token outside the tokenizer's range; the shards are damaged"
            )
        return ids

    def captions(self, item: int) -> tuple[TokenCaption, ...]:
        """All captions of one item."""
        first = int(self.first_caption[item])
        rows = range(first, first + int(self.caption_count[item]))
        return tuple(
            TokenCaption(
                tuple(self.pieces(row)), self.languages[self.languages_of[row]], KINDS[self.kinds_of[row]]
            )
            for row in rows
        )

    def __getitem__(self, item: int) -> TokenItem:
        if not 0 <= item < len(self):
            raise IndexError(item)
        source, split = self.sources[self.item_sources[item]], self.splits[self.item_splits[item]]
        small = self.context([item])[0] if self.index.context_grid else None
        return TokenItem(self.keys[item], self.codes([item])[0], self.captions(item), source, split, small)

    def __iter__(self) -> Iterator[TokenItem]:
        return (self[item] for item in range(len(self)))

    def require(self, image_tokenizer: str | None = None, text_tokenizer: str | None = None) -> None:
        """Raise CogViewError unless the shards were built with the tokenizers of these fingerprints."""
        for name, required, built in (
            ("image", image_tokenizer, self.index.image_tokenizer),
            ("text", text_tokenizer, self.index.text_tokenizer),
        ):
            if required is not None and required != built:
                raise CogViewError(
                    f"{self.directory} was built with another {name} tokenizer ({built[:12]}, "
                    f"not {required[:12]}); use that tokenizer or build the shards again"
                )


def name_positions(requested: Sequence[str], names: Sequence[str], directory: Path) -> list[int]:
    """Numbers of the requested sources or splits; raises CogViewError for an unknown one."""
    for name in requested:
        if name not in names:
            raise CogViewError(f"{directory} has no {name!r}; it has {', '.join(names)}")
    return [names.index(name) for name in requested]


def _starts(lengths: Sequence[int]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _join(parts: Sequence[NDArray[Any]], dtype: type[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(0, dtype), *parts]).astype(dtype)
