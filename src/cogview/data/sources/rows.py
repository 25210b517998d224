"""Reads the rows of a CSV, TSV, JSON or JSONL file; a row that cannot be used carries its problem.

JSON may be a list of objects; such a list under one key (``{"RECORDS": [...]}``); a map of images to captions
(``{"cat.png": "a cat"}``, a list of captions, or an object); or COCO's ``images`` and ``annotations``.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from cogview.errors import CogViewError
from cogview.files import check_regular, open_regular, parse_json

Row = tuple[dict[str, Any], str]
TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json")
MAX_JSON = 256 << 20  # bytes of a JSON table, which is parsed whole
MAX_BYTES = 2 << 30  # of the others, which are read row by row
MAX_LINE = 16 << 20
MAX_COLUMNS = 4096
MAX_MEMORY = 1 << 30  # estimated bytes that all rows may take
ROW, CELL = 400, 120  # bytes of a row and of a cell, without its text


def read_rows(path: Path) -> list[Row]:
    """Read the rows of a table; raise CogViewError if it cannot be read at all."""
    if check_regular(path) > MAX_BYTES:
        raise CogViewError(f"{path}: over 2 GiB is too large for a table of this kind; convert it to Parquet")
    with open_regular(path) as file:
        return parse_rows(file, path.suffix.lower(), str(path))


def parse_rows(data: bytes | BinaryIO, suffix: str, place: str) -> list[Row]:
    """Parse the rows of a table; ``suffix`` gives its kind, ``place`` its name in error messages."""
    file = io.BytesIO(data) if isinstance(data, bytes) else data
    if suffix == ".json":
        content = file.read(MAX_JSON + 1)
        if len(content) > MAX_JSON:
            raise CogViewError(f"{place}: over {MAX_JSON >> 20} MiB of JSON; convert it to JSONL or Parquet")
        return _json(content, place)
    rows = _jsonl(file, place) if suffix in (".jsonl", ".ndjson") else _csv(file, suffix, place)
    return list(_within_memory(rows, place))


def _within_memory(rows: Iterable[Row], place: str) -> Iterator[Row]:
    """Yield the rows; raise CogViewError if together they would take over a gigabyte."""
    taken = 0
    for row in rows:
        taken += ROW + sum(CELL + _text_bytes(value) for value in row[0].values())
        if taken > MAX_MEMORY:
            raise CogViewError(
                f"{place}: too large for a table of this kind, its rows take over a gigabyte of memory; "
                "convert it to Parquet"
            )
        yield row


def _text_bytes(value: Any) -> int:
    """Estimate how much memory a cell's content takes."""
    taken, pending = 0, [value]
    while pending:  # no recursion: JSON may be nested arbitrarily deep
        item = pending.pop()
        if isinstance(item, str):
            taken += len(item) * (1 if item.isascii() else 4)
        children = item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
        taken += CELL * len(children)
        pending += children
    return taken


def _csv(file: BinaryIO, suffix: str, place: str) -> Iterator[Row]:
    delimiter = "\t" if suffix == ".tsv" else ","
    try:
        lines = _decoded(file, place)
        reader = csv.DictReader(lines, delimiter=delimiter)
        if len(reader.fieldnames or ()) > MAX_COLUMNS:
            raise CogViewError(f"{place}: over {MAX_COLUMNS} columns; is it a table?")
        yield from map(_csv_row, reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise CogViewError(f"{place} cannot be read as UTF-8 {suffix[1:].upper()}: {error}") from error


def _decoded(file: BinaryIO, place: str) -> Iterator[str]:
    """The lines of a UTF-8 file, with their line ends unchanged."""
    text = io.TextIOWrapper(file, "utf-8-sig", newline="")
    while line := text.readline(MAX_LINE):
        if len(line) == MAX_LINE:
            raise CogViewError(f"{place}: a line of over {MAX_LINE >> 20} million characters; is it a table?")
        yield line


def _csv_row(row: dict[Any, Any]) -> Row:
    uneven = None in row or None in row.values()
    cells = {key: value for key, value in row.items() if key is not None and value is not None}
    return cells, "the row has more or fewer cells than the header" if uneven else ""


def _jsonl(file: BinaryIO, place: str) -> Iterator[Row]:
    while line := file.readline(MAX_LINE):
        if len(line) == MAX_LINE:
            raise CogViewError(f"{place}: a line of over {MAX_LINE >> 20} MiB; is it a table?")
        if not line.strip():
            continue
        try:
            yield _object(parse_json(line, "the line"), "the line")
        except CogViewError as error:
            yield {}, str(error)


def _object(value: Any, what: str) -> Row:
    return (value, "") if isinstance(value, dict) else ({}, f"{what} is not a JSON object")


def _json(data: bytes, place: str) -> list[Row]:
    value = parse_json(data, place)
    if isinstance(value, dict) and isinstance(value.get("annotations"), list):
        return _coco(value)
    if isinstance(value, dict):
        lists = [item for item in value.values() if isinstance(item, list) and item and _all_objects(item)]
        if len(lists) != 1 or len(value) > 8:
            return [_entry(name, item) for name, item in value.items()]
        value = lists[0]
    if not isinstance(value, list):
        raise CogViewError(f"{place}: neither a list of objects nor images with captions")
    return [_object(item, "the entry") for item in value]


def _all_objects(items: list[Any]) -> bool:
    return all(isinstance(item, dict) for item in items)


def _entry(name: str, value: Any) -> Row:
    """The row of one entry of ``{"cat.png": captions}``."""
    if isinstance(value, dict):
        return {"image": name, **value}, ""
    valid = isinstance(value, str) or (isinstance(value, list) and all(isinstance(x, str) for x in value))
    return {"image": name, "caption": value}, "" if valid else "its captions are not text"


def _coco(value: dict[str, Any]) -> list[Row]:
    """The rows of COCO captions: one per image, with all of its annotations."""
    captions: dict[Any, list[str]] = {}
    for annotation in value["annotations"]:
        if isinstance(annotation, dict) and isinstance(annotation.get("caption"), str):
            key = annotation.get("image_id")
            if isinstance(key, int | str):
                captions.setdefault(key, []).append(annotation["caption"])
    images = value.get("images")
    rows: list[Row] = []
    for image in images if isinstance(images, list) else []:
        row, problem = _object(image, "the image")
        name, key = row.get("file_name"), row.get("id")
        if not problem and not isinstance(key, int | str):
            row, problem, key = {}, "the image's id is neither a number nor a text", None
        rows.append(({"id": key, "image": name, "caption": captions.get(key, [])}, problem))
    return rows
