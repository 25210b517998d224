"""What people have on disk, as one stream of records.

A source is a folder of pictures with captions beside them (``cat.png`` and ``cat.txt``, several captions =
several lines), or a CSV, TSV, JSONL or Parquet file (or a folder of Parquet files) with a picture column (a
path, or in Parquet the bytes) and one or more caption columns. Languages come from the columns' names
(``en``, ``caption_zh``) or from :class:`Columns`; beside a picture from ``cat.en.txt`` and ``cat.zh.txt``.

The order of a source's records is fixed, so a build can stop and go on.
"""

from __future__ import annotations

import csv
import hashlib
import importlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

from pydantic import Field

from cogview.config import Config
from cogview.data.samples import Caption
from cogview.errors import CogViewError

IMAGE_SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".jp2", ".ppm")
)
IMAGE_COLUMNS = ("image", "img", "image_bytes", "path", "file", "file_name", "filename", "image_path")
CAPTION_COLUMNS = ("caption", "captions", "text", "texts", "title", "description", "prompt")
KEY_COLUMNS = ("key", "id", "uid")
TEXT_LANGUAGE = re.compile(r"\.[A-Za-z]{2,3}(-[A-Za-z]{2,4})?")
ROLES = {
    "image": "image",
    "key": "key",
    "source": "source",
    "split": "split",
    "caption": "captions",
    "keyword": "keywords",
    "style": "styles",
}
VALIDATION = 0.02
LANGUAGE_ROLES = ("captions", "keywords", "styles")
LANGUAGES = "ar|de|en|es|fa|fr|he|hi|it|ja|ko|nl|pl|pt|ru|th|tr|uk|vi|zh"
LANGUAGE = re.compile(rf"^(?:(?:caption|text|title)_)?((?:{LANGUAGES})(?:-[A-Za-z]{{2,4}})?)$")


@dataclass(frozen=True)
class Record:
    """One entry as found: nothing is decoded or checked yet.

    ``image`` is bytes, a path or missing; ``split`` is empty where the data have none.
    """

    key: str
    image: bytes | Path | None
    captions: tuple[Caption, ...]
    source: str
    split: str
    place: str
    problem: str = ""


class Source(Protocol):
    """A stream of records in a fixed order."""

    def __len__(self) -> int:
        """How many records there are, good or bad."""
        ...

    def fingerprint(self) -> str:
        """Changes when the source's files change (names, sizes, times)."""
        ...

    def records(self, start: int = 0) -> Iterator[Record]:
        """The records from number ``start`` on."""
        ...


class Columns(Config):
    """Which columns hold what. Empty fields are found from the columns' names.

    ``captions``, ``keywords`` and ``styles`` map a language ("en", or "" for unknown) to a column. A style
    is a phrase such as "flat"; it makes a second caption of every plain one by ``templates``.
    """

    image: str | None = None
    key: str | None = None
    source: str | None = None
    split: str | None = None
    captions: dict[str, str] = Field(default_factory=dict)
    keywords: dict[str, str] = Field(default_factory=dict)
    styles: dict[str, str] = Field(default_factory=dict)
    templates: dict[str, str] = Field(
        default={"": "{caption}, {style} style", "zh": "{caption}，{style}风格"}, validate_default=False
    )

    @classmethod
    def parse(cls, assignments: Sequence[str]) -> Columns:
        """Columns from texts ``ROLE[.LANGUAGE]=NAME``, such as ``image=photo`` and ``caption.zh=title``."""
        fields: dict[str, Any] = {}
        for text in assignments:
            role, _, name = text.partition("=")
            role, _, language = role.partition(".")
            if not name or role not in ROLES or (language and ROLES[role] not in LANGUAGE_ROLES):
                wanted = ", ".join(ROLES)
                raise CogViewError(f"--column {text}: write ROLE=NAME or ROLE.LANGUAGE=NAME; roles: {wanted}")
            if ROLES[role] in LANGUAGE_ROLES:
                fields.setdefault(ROLES[role], {})[language] = name
            else:
                fields[ROLES[role]] = name
        return cls(**fields)

    def found(self, names: Sequence[str], place: str) -> Columns:
        """These columns completed from a table's column names; raises CogViewError where one is missing."""
        image = self.image or _first(IMAGE_COLUMNS, names)
        captions = self.captions or _caption_columns(names)
        if image is None or not captions:
            missing = "picture" if image is None else "caption"
            hint = f"name it with --column {'image' if image is None else 'caption'}=NAME"
            raise CogViewError(f"{place}: no {missing} column among {', '.join(names)}; {hint}")
        done = self.model_copy(
            update={
                "image": image,
                "captions": captions,
                "key": self.key or _first(KEY_COLUMNS, names),
                "source": self.source or _first(("source",), names),
                "split": self.split or _first(("split",), names),
                "keywords": self.keywords
                or {lang: f"{lang}_kw" for lang in captions if f"{lang}_kw" in names},
                "styles": self.styles
                or {lang: f"style_{lang}" for lang in captions if f"style_{lang}" in names},
            }
        )
        absent = [name for name in done.all_names() if name not in names]
        if absent:
            raise CogViewError(f"{place}: no column {absent[0]!r}; there are {', '.join(names)}")
        return done

    def all_names(self) -> list[str]:
        """Every column that is read, each once."""
        single = [self.image, self.key, self.source, self.split]
        maps = [*self.captions.values(), *self.keywords.values(), *self.styles.values()]
        return list(dict.fromkeys(name for name in [*single, *maps] if name))

    def read_captions(self, row: Mapping[str, Any]) -> tuple[Caption, ...]:
        """All captions of a row: plain ones, with the style phrase, and keywords."""
        found: list[Caption] = []
        for language, column in self.captions.items():
            plain = _texts(row.get(column))
            found += [Caption(text, language) for text in plain]
            template = self.templates.get(language, self.templates.get("", ""))
            for style in _texts(row.get(self.styles.get(language, ""))) if template else []:
                styled = (template.format(caption=text, style=style) for text in plain)
                found += [Caption(text, language, "styled") for text in styled]
        for language, column in self.keywords.items():
            found += [Caption(text, language, "keyword") for text in _texts(row.get(column))]
        return tuple(dict.fromkeys(found))


def _first(wanted: Sequence[str], names: Sequence[str]) -> str | None:
    lower = {name.lower(): name for name in reversed(names)}
    return next((lower[name] for name in wanted if name in lower), None)


def _caption_columns(names: Sequence[str]) -> dict[str, str]:
    languages: dict[str, str] = {}
    for name in names:
        match = LANGUAGE.match(name)
        if match:
            languages.setdefault(match[1], name)
    if languages:
        return languages
    plain = _first(CAPTION_COLUMNS, names)
    return {"": plain} if plain else {}


def _texts(value: Any) -> list[str]:
    """A cell's texts: a string, or a list of strings; whitespace is trimmed, empty ones are dropped."""
    values = value if isinstance(value, (list, tuple)) else [value]
    return [text for item in values if isinstance(item, str) and (text := " ".join(item.split()))]


def _stamp(path: Path) -> str:
    info = path.stat()
    return f"{path.name}\t{info.st_size}\t{info.st_mtime_ns}"


def _digest(lines: Iterator[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


# ---------------------------------------------------------------------------------------------- folder


class FolderSource:
    """Pictures in a folder (and below), captions in ``NAME.txt`` or ``NAME.LANGUAGE.txt`` beside them.

    The key is the path below the folder, the source the folder's name. A file that is no picture but has a
    caption is a record too (a check then says what is wrong with it); hidden files are not looked at.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        files = [path for path in root.rglob("*") if not path.name.startswith(".") and path.is_file()]
        self._texts: dict[Path, list[tuple[str, Path]]] = {}
        for path in sorted(file for file in files if file.suffix == ".txt"):
            self._add_text(path)
        others = (path for path in files if path.suffix != ".txt")
        self.paths = sorted(path for path in others if self._is_record(path))

    def _add_text(self, path: Path) -> None:
        stem = path.with_suffix("")
        self._texts.setdefault(stem, []).append(("", path))
        if TEXT_LANGUAGE.fullmatch(stem.suffix):
            self._texts.setdefault(stem.with_suffix(""), []).append((stem.suffix[1:], path))

    def _is_record(self, path: Path) -> bool:
        return path.suffix.lower() in IMAGE_SUFFIXES or path.with_suffix("") in self._texts

    def __len__(self) -> int:
        return len(self.paths)

    def fingerprint(self) -> str:
        """Changes with the pictures and captions: their names, sizes and times."""
        texts = (text for path in self.paths for _, text in self._texts.get(path.with_suffix(""), []))
        return _digest(f"{path.relative_to(self.root)}\t{_stamp(path)}" for path in chain(self.paths, texts))

    def records(self, start: int = 0) -> Iterator[Record]:
        """The records from number ``start`` on, by path."""
        return (self._record(path) for path in self.paths[start:])

    def _record(self, path: Path) -> Record:
        key = path.relative_to(self.root).as_posix()
        try:
            captions, problem = tuple(self._captions(path)), ""
        except (OSError, UnicodeDecodeError) as error:
            captions, problem = (), f"the caption file cannot be read as UTF-8: {error}"
        return Record(key, path, captions, self.root.resolve().name, "", str(path), problem)

    def _captions(self, path: Path) -> Iterator[Caption]:
        for language, text in self._texts.get(path.with_suffix(""), []):
            for line in text.read_text("utf-8-sig").splitlines():
                yield from (Caption(trimmed, language) for trimmed in _texts(line))


# ---------------------------------------------------------------------------------------------- tables


class TableSource:
    """A CSV, TSV or JSONL file; pictures are paths relative to the file (or to ``images``)."""

    def __init__(self, path: Path, columns: Columns, images: Path | None = None) -> None:
        self.path, self.images = path, images or path.parent
        self.rows = _read_jsonl(path) if path.suffix.lower() in (".jsonl", ".ndjson") else _read_csv(path)
        names = list(dict.fromkeys(name for row, _ in self.rows for name in row))
        self.columns = columns.found(names, str(path))

    def __len__(self) -> int:
        return len(self.rows)

    def fingerprint(self) -> str:
        return _digest(iter([_stamp(self.path), self.columns.model_dump_json()]))

    def records(self, start: int = 0) -> Iterator[Record]:
        return (self._record(number) for number in range(start, len(self.rows)))

    def _record(self, number: int) -> Record:
        row, problem = self.rows[number]
        place = f"{self.path}, row {number + 1}"
        name = row.get(self.columns.image or "")
        image = self.images / name if isinstance(name, str) and name else None
        return _record(row, self.columns, image, str(name or number), self.path.stem, place, problem)


def _record(
    row: Mapping[str, Any],
    columns: Columns,
    image: bytes | Path | None,
    key: str,
    source: str,
    place: str,
    problem: str = "",
) -> Record:
    def cell(column: str | None, default: str) -> str:
        value = row.get(column) if column else None
        return default if value is None or value == "" else str(value)

    captions = columns.read_captions(row)
    names = cell(columns.key, key), cell(columns.source, source), cell(columns.split, "")
    return Record(names[0], image, captions, names[1], names[2], place, problem)


def _read_csv(path: Path) -> list[tuple[dict[str, Any], str]]:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter=delimiter)
            return [_csv_row(row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise CogViewError(f"{path} cannot be read as UTF-8 {path.suffix[1:].upper()}: {error}") from error


def _csv_row(row: dict[Any, Any]) -> tuple[dict[str, Any], str]:
    wrong = None in row or None in row.values()
    cells = {key: value for key, value in row.items() if key is not None and value is not None}
    return cells, "the row has more or fewer cells than the header" if wrong else ""


def _read_jsonl(path: Path) -> list[tuple[dict[str, Any], str]]:
    rows: list[tuple[dict[str, Any], str]] = []
    for line in path.read_bytes().splitlines():
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            rows.append(({}, f"the line is not JSON: {error}"))
            continue
        rows.append((row, "") if isinstance(row, dict) else ({}, "the line is not a JSON object"))
    return rows


class ParquetSource:
    """One Parquet file or a folder of them; pictures are bytes, ``{"bytes", "path"}`` structs or paths."""

    def __init__(self, path: Path, columns: Columns, images: Path | None = None) -> None:
        self._parquet = _import_parquet()
        self.paths = [path] if path.is_file() else sorted(path.glob("*.parquet"))
        self.images = images or (path if path.is_dir() else path.parent)
        self.counts = [self._open(file).metadata.num_rows for file in self.paths]
        self.columns = columns.found(list(self._open(self.paths[0]).schema_arrow.names), str(self.paths[0]))

    def _open(self, path: Path) -> Any:
        try:
            return self._parquet.ParquetFile(path)
        except (OSError, ValueError) as error:
            raise CogViewError(
                f"{path} is not a readable Parquet file: {str(error).splitlines()[0]}"
            ) from error

    def __len__(self) -> int:
        return sum(self.counts)

    def fingerprint(self) -> str:
        return _digest(iter([*map(_stamp, self.paths), self.columns.model_dump_json()]))

    def records(self, start: int = 0) -> Iterator[Record]:
        for path, count in zip(self.paths, self.counts, strict=True):
            if start >= count:
                start -= count
                continue
            yield from self._file_records(path, start)
            start = 0

    def _file_records(self, path: Path, start: int) -> Iterator[Record]:
        number = 0
        for batch in self._open(path).iter_batches(256, columns=self.columns.all_names()):
            if number + batch.num_rows > start:
                for offset, row in enumerate(batch.to_pylist()):
                    if number + offset >= start:
                        yield self._record(path, number + offset, row)
            number += batch.num_rows

    def _record(self, path: Path, number: int, row: dict[str, Any]) -> Record:
        image = row.get(self.columns.image or "")
        name = f"{path.stem}/{number}"
        if isinstance(image, dict):
            name, image = image.get("path") or name, image.get("bytes") or image.get("path")
        if isinstance(image, str):
            name, image = image, self.images / image
        found = image if isinstance(image, (bytes, Path)) else None
        return _record(row, self.columns, found, name, path.stem, f"{path}, row {number + 1}")


def _import_parquet() -> Any:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise CogViewError(
            "reading Parquet needs pyarrow; install it with `pip install 'cogview[data]'`"
        ) from error
    return parquet


class SplitSource:
    """A source whose records without a split get one: "val" for a share of the keys, else "train".

    It hangs on a hash of the key alone, so a picture stays on its side when others come and go.
    """

    def __init__(self, source: Source, validation: float) -> None:
        self.source, self.validation = source, validation

    def __len__(self) -> int:
        return len(self.source)

    def fingerprint(self) -> str:
        """Changes with the source's files and with the share."""
        return _digest(iter([self.source.fingerprint(), repr(self.validation)]))

    def records(self, start: int = 0) -> Iterator[Record]:
        """The source's records from number ``start`` on."""
        return map(self._split, self.source.records(start))

    def _split(self, record: Record) -> Record:
        if record.split:
            return record
        fraction = int.from_bytes(hashlib.sha256(record.key.encode()).digest()[:6], "big") / 2**48
        return replace(record, split="val" if fraction < self.validation else "train")


def open_source(
    path: str | Path,
    columns: Columns | None = None,
    images: str | Path | None = None,
    validation: float = VALIDATION,
) -> Source:
    """The source at ``path``: a folder of pictures, a CSV, TSV, JSONL or Parquet file or folder of them.

    ``images`` is the folder that picture paths in a table are relative to (default: the table's own).
    Without a split column, ``validation`` is the share of records that go to the split "val"; the others
    are "train". Raises CogViewError where there is nothing to read.
    """
    root = Path(path)
    columns = columns or Columns()
    base = Path(images) if images else None
    if not root.exists():
        raise CogViewError(
            f"{root} does not exist; give a folder of pictures or a CSV, TSV, JSONL or Parquet file"
        )
    suffix = root.suffix.lower()
    if root.is_dir():
        tables = any(root.glob("*.parquet"))
        source: Source = ParquetSource(root, columns, base) if tables else FolderSource(root)
    elif suffix in (".csv", ".tsv", ".jsonl", ".ndjson"):
        source = TableSource(root, columns, base)
    elif suffix == ".parquet":
        source = ParquetSource(root, columns, base)
    else:
        raise CogViewError(f"{root}: unknown kind of data; give a folder, .csv, .tsv, .jsonl or .parquet")
    if len(source) == 0:
        raise CogViewError(
            f"{root} holds no samples; a folder needs pictures ({' '.join(sorted(IMAGE_SUFFIXES))})"
        )
    return SplitSource(source, validation)
