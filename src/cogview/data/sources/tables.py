"""Tables on disk: CSV, TSV, JSON and JSONL with image paths; Parquet with the images themselves."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from cogview.data.sources.record import Columns, Record, digest, stamp, table_record
from cogview.data.sources.rows import Row, read_rows
from cogview.errors import CogViewError
from cogview.files import check_regular, readable

BATCH = 32  # rows of an Arrow file that are read together


class TableSource:
    """A CSV, TSV, JSON or JSONL file; images are paths relative to the file (or to ``images``).

    Rows of the same image become one record with all their captions, unless a column gives keys.
    """

    def __init__(self, path: Path, columns: Columns, images: Path | None = None) -> None:
        self.path, self.images = path, images or path.parent
        self.rows = read_rows(path)
        names = list(dict.fromkeys(name for row, _ in self.rows for name in row))
        self.columns = columns.completed(names, str(path)) if names else columns
        self.groups = group_rows(self.rows, self.columns)

    def __len__(self) -> int:
        return len(self.groups)

    def fingerprint(self) -> str:
        """Changes when the table or the roles of its columns change."""
        return digest([stamp(self.path), self.columns.model_dump_json()])

    def records(self, start: int = 0) -> Iterator[Record]:
        """The records from number ``start`` on, in the order of their first rows."""
        return (join_records([self._record(n) for n in group]) for group in self.groups[start:])

    def _record(self, number: int) -> Record:
        row, problem = self.rows[number]
        place = f"{self.path}, row {number + 1}"
        name = row.get(self.columns.image or "")
        image = self.images / name if isinstance(name, str) and name else None
        return table_record(row, self.columns, image, str(name or number), self.path.stem, place, problem)


def group_rows(rows: list[Row], columns: Columns) -> list[list[int]]:
    """Group row numbers into records: a row by itself, or all good rows of one image."""
    groups: dict[Any, list[int]] = {}
    for number, (row, problem) in enumerate(rows):
        name = row.get(columns.image or "")
        alone = bool(problem) or columns.key is not None or not isinstance(name, str)
        groups.setdefault(number if alone else name, []).append(number)
    return list(groups.values())


def join_records(records: list[Record]) -> Record:
    """Merge the records of one image; every caption appears once."""
    captions = dict.fromkeys(caption for record in records for caption in record.captions)
    return records[0] if len(records) == 1 else replace(records[0], captions=tuple(captions))


class ParquetSource:
    """A Parquet file or a folder of them; images are bytes, ``{"bytes", "path"}`` structs or paths."""

    def __init__(self, path: Path, columns: Columns, images: Path | None = None) -> None:
        self._parquet = import_arrow("pyarrow.parquet")
        self.paths = [path] if path.is_file() else sorted(path.glob("*.parquet"))
        self.images = images or (path if path.is_dir() else path.parent)
        files = [self._open(path) for path in self.paths]
        self.counts = [file.metadata.num_rows for file in files]
        with damage(self.paths[0]):
            names = [str(name) for name in files[0].schema_arrow.names]
        self.columns = columns.completed(names, str(self.paths[0]))

    def _open(self, path: Path) -> Any:
        check_regular(path)
        with damage(path):
            file = self._parquet.ParquetFile(path)
            if file.metadata.num_rows < 0:
                raise ValueError("a negative number of rows")
            return file

    def __len__(self) -> int:
        return sum(self.counts)

    def fingerprint(self) -> str:
        return digest([*map(stamp, self.paths), self.columns.model_dump_json()])

    def records(self, start: int = 0) -> Iterator[Record]:
        for path, count in zip(self.paths, self.counts, strict=True):
            if start >= count:
                start -= count
                continue
            yield from self._file_records(path, start)
            start = 0

    def _file_records(self, path: Path, start: int) -> Iterator[Record]:
        number = 0
        with damage(path):
            batches = self._open(path).iter_batches(BATCH, columns=self.columns.all_names())
        while (batch := _next(batches, path)) is not None:
            for offset in range(max(0, start - number), batch.num_rows):
                yield self._record(path, number + offset, *arrow_row(batch, offset))
            number += batch.num_rows

    def _record(self, path: Path, number: int, row: dict[str, Any], problem: str) -> Record:
        place, stem = f"{readable(str(path))}, row {number + 1}", readable(path.stem)
        return arrow_record(row, self.columns, self.images, f"{stem}/{number}", stem, place, problem)


@contextmanager
def damage(path: Path) -> Iterator[None]:
    """Turn whatever Arrow raises for a damaged file into a CogViewError."""
    try:
        yield
    except (CogViewError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise CogViewError(
            f"{path} is not a readable Parquet or Arrow file: {reason}; copy it again"
        ) from error


def _next(batches: Iterator[Any], path: Path) -> Any:
    """Return the next batch, or None after the last."""
    with damage(path):
        return next(batches, None)


def arrow_row(batch: Any, number: int) -> tuple[dict[str, Any], str]:
    """Return one row of a batch and its problem, such as text that is not UTF-8 or a date out of range."""
    try:
        return batch.slice(number, 1).to_pylist()[0], ""
    except MemoryError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        return {}, f"the row cannot be read: {reason}"


def arrow_record(
    row: Mapping[str, Any],
    columns: Columns,
    images: Path,
    name: str,
    source: str,
    place: str,
    problem: str = "",
) -> Record:
    """The record of a row whose image is bytes, ``{"bytes", "path"}`` or a path below ``images``."""
    image = row.get(columns.image or "")
    if isinstance(image, dict):
        path = image.get("path")
        name = path if isinstance(path, str) and path else name
        image = image.get("bytes") or path
    if isinstance(image, str):
        name, image = image, images / image
    image = image if isinstance(image, (bytes, Path)) else None
    return table_record(row, columns, image, name, source, place, problem)


def import_arrow(module: str) -> Any:
    """Import a module of pyarrow; the CogViewError raised without it says how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise CogViewError(
            "reading Parquet and Arrow needs pyarrow; install it with `pip install 'cogview[data]'`"
        ) from error
