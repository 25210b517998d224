"""The rows of a CSV, TSV, JSON or JSONL file, each with what is wrong with it.

JSON comes in the shapes people have: a list of objects; such a list under one key (``{"RECORDS": [...]}``);
picture to caption (``{"cat.png": "a cat"}``, a list of captions, or an object); COCO's ``images`` and
``annotations``.
"""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from cogview.errors import CogViewError

Row = tuple[dict[str, Any], str]
TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json")
MAX_BYTES = 2 << 30  # of a table, which is read whole


def read_rows(path: Path) -> list[Row]:
    """The rows of a table; CogViewError where it cannot be read at all."""
    if path.stat().st_size > MAX_BYTES:
        raise CogViewError(f"{path}: over 2 GiB is too large for a table of this kind; convert it to Parquet")
    return parse_rows(path.read_bytes(), path.suffix.lower(), str(path))


def parse_rows(data: bytes, suffix: str, place: str) -> list[Row]:
    """The rows in a table's bytes; ``suffix`` tells its kind, ``place`` what to call it in an error."""
    if suffix in (".jsonl", ".ndjson"):
        return _jsonl(data)
    return _json(data, place) if suffix == ".json" else _csv(data, suffix, place)


def _csv(data: bytes, suffix: str, place: str) -> list[Row]:
    delimiter = "\t" if suffix == ".tsv" else ","
    try:
        reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""), delimiter=delimiter)
        return [_csv_row(row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise CogViewError(f"{place} cannot be read as UTF-8 {suffix[1:].upper()}: {error}") from error


def _csv_row(row: dict[Any, Any]) -> Row:
    wrong = None in row or None in row.values()
    cells = {key: value for key, value in row.items() if key is not None and value is not None}
    return cells, "the row has more or fewer cells than the header" if wrong else ""


def _jsonl(data: bytes) -> list[Row]:
    rows: list[Row] = []
    for line in data.splitlines():
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            rows.append(({}, f"the line is not JSON: {error}"))
            continue
        rows.append(_object(row, "the line"))
    return rows


def _object(value: Any, what: str) -> Row:
    return (value, "") if isinstance(value, dict) else ({}, f"{what} is not a JSON object")


def _json(data: bytes, place: str) -> list[Row]:
    try:
        value = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise CogViewError(f"{place} cannot be read as JSON: {error}") from error
    if isinstance(value, dict) and isinstance(value.get("annotations"), list):
        return _coco(value)
    if isinstance(value, dict):
        lists = [item for item in value.values() if isinstance(item, list) and item and _all_objects(item)]
        if len(lists) != 1 or len(value) > 8:
            return [_entry(name, item) for name, item in value.items()]
        value = lists[0]
    if not isinstance(value, list):
        raise CogViewError(f"{place}: neither a list of objects nor pictures with captions")
    return [_object(item, "the entry") for item in value]


def _all_objects(items: list[Any]) -> bool:
    return all(isinstance(item, dict) for item in items)


def _entry(name: str, value: Any) -> Row:
    """One of ``{"cat.png": captions}``."""
    if isinstance(value, dict):
        return {"image": name, **value}, ""
    fine = isinstance(value, str) or (isinstance(value, list) and all(isinstance(x, str) for x in value))
    return {"image": name, "caption": value}, "" if fine else "its captions are no text"


def _coco(value: dict[str, Any]) -> list[Row]:
    """COCO's captions: every picture once, with all of its annotations."""
    captions: dict[Any, list[str]] = {}
    for annotation in value["annotations"]:
        if isinstance(annotation, dict) and isinstance(annotation.get("caption"), str):
            captions.setdefault(annotation.get("image_id"), []).append(annotation["caption"])
    images = value.get("images")
    rows: list[Row] = []
    for image in images if isinstance(images, list) else []:
        row, problem = _object(image, "the image")
        name, key = row.get("file_name"), row.get("id")
        rows.append(({"id": key, "image": name, "caption": captions.get(key, [])}, problem))
    return rows
