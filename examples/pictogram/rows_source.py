"""The table of rows as a source of records: each is rendered when it is read, nothing is kept."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from captions import Shown, captions
from PIL import Image
from plan import WHOLE, Row
from sources.avatars import avatar_sprite
from sources.drawing import on_white
from sources.sprites import SIDE, Sprite
from variants import compose

from cogview.data.samples import Caption
from cogview.data.sources import Record, Source


class Sprites:
    """Drawings by key; avatars are made from their number."""

    def __init__(self, sprites: Sequence[Sprite]) -> None:
        self._known = {sprite.key: sprite for sprite in sprites}

    def __getitem__(self, key: str) -> Sprite:
        if key.startswith("dice/"):
            _, style, number = key.split("/")
            return avatar_sprite(style, int(number))
        return self._known[key]


def render(sprite: Sprite, row: Row, side: int = SIDE) -> Image.Image:
    """A row's picture, RGB, 256 x 256 pixels; ValueError where the drawing cannot be rendered.

    Avatars, which are whole pictures, are ``side`` pixels a side.
    """
    if row.variant == WHOLE:
        return on_white(sprite.picture.render(side, None))
    return compose(sprite, row.variant)


def captions_of(sprite: Sprite, row: Row) -> tuple[Caption, ...]:
    """A row's captions, from the table alone: nothing is rendered; none of a drawing without names."""
    return () if not sprite.names else captions(row.key, Shown(sprite, row.variant, row.colours))


class RowsSource:
    """The rows of a table; ``table`` is the file that they were read from, for error messages.

    side: pixels a side that will be used in the end; avatars are not rendered larger than that.
    """

    def __init__(self, rows: Sequence[Row], sprites: Sprites, table: Path, side: int = SIDE) -> None:
        self.rows, self.sprites, self.table, self.side = rows, sprites, table, side

    def __len__(self) -> int:
        return len(self.rows)

    def fingerprint(self) -> str:
        """Changes with any row and with the captions of the first of every source."""
        lines = (row.line() for row in self.rows)
        first = {row.source: row for row in reversed(self.rows)}
        said = (repr(captions_of(self.sprites[row.sprite], row)) for row in first.values())
        return hashlib.sha256("\n".join([str(self.side), *lines, *said]).encode()).hexdigest()

    def records(self, start: int = 0) -> Iterator[Record]:
        """The records from number ``start`` on; a drawing that fails is a record with a problem."""
        for number, row in enumerate(self.rows[start:], start):
            yield self._record(row, f"{self.table}, row {number + 1}")

    def _record(self, row: Row, place: str) -> Record:
        sprite = self.sprites[row.sprite]
        try:
            image, problem = uncompressed(render(sprite, row, self.side)), ""
        except ValueError as error:
            image, problem = b"", str(error).splitlines()[0]
        return Record(row.key, image, captions_of(sprite, row), row.source, row.split, place, problem)


class ChainSource:
    """Several sources, one after the other."""

    def __init__(self, parts: Sequence[Source]) -> None:
        self.parts = parts

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def fingerprint(self) -> str:
        """Changes with any of the sources."""
        return hashlib.sha256("\n".join(part.fingerprint() for part in self.parts).encode()).hexdigest()

    def records(self, start: int = 0) -> Iterator[Record]:
        """The records from number ``start`` on."""
        for part in self.parts:
            if start < len(part):
                yield from part.records(start)
            start = max(0, start - len(part))


def uncompressed(image: Image.Image) -> bytes:
    """An RGB picture as a PPM file: quick to write and to read."""
    file = io.BytesIO()
    image.save(file, "PPM")
    return file.getvalue()
