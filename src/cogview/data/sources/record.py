"""One entry of a data set as read, and the roles of a table's columns."""

from __future__ import annotations

import hashlib
import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pydantic import Field

from cogview.config import Config
from cogview.data.samples import Caption, CaptionKind
from cogview.errors import CogViewError
from cogview.files import readable

IMAGE_SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".jp2", ".ppm")
)
IMAGE_COLUMNS = ("image", "img", "image_bytes", "path", "file", "file_name", "filename", "image_path")
CAPTION_COLUMNS = ("caption", "captions", "text", "texts", "title", "description", "prompt")
MAX_TEXT = 1 << 20  # bytes of a caption file
MAX_NAME = 1000  # characters of a key, a source or a split
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
    "more": "wordings",
}
LANGUAGE_ROLES = ("captions", "keywords", "styles", "wordings")
LANGUAGES = "ar|de|en|es|fa|fr|he|hi|it|ja|ko|nl|pl|pt|ru|th|tr|uk|vi|zh"
LANGUAGE = re.compile(rf"^(?:(?:caption|text|title)_)?((?:{LANGUAGES})(?:-[A-Za-z]{{2,4}})?)$")


@dataclass(frozen=True)
class Record:
    """One entry as read; nothing is decoded or checked yet.

    ``image`` is bytes, a path or None if missing; ``split`` is empty if the data have none.
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
        """The number of records, good or bad."""
        ...

    def fingerprint(self) -> str:
        """Changes when the source's files change (names, sizes, times)."""
        ...

    def records(self, start: int = 0) -> Iterator[Record]:
        """The records from number ``start`` on."""
        ...


class Columns(Config):
    """The columns of a table by role. Empty fields are derived from the column names.

    ``captions``, ``keywords``, ``styles`` and ``wordings`` map a language ("en", or "" for unknown) to a
    column. A style is a phrase such as "flat"; ``templates`` turn it and a plain caption into another.
    Wordings are further captions that say the same, or less, in other words.
    """

    image: str | None = None
    key: str | None = None
    source: str | None = None
    split: str | None = None
    captions: dict[str, str] = Field(default_factory=dict)
    keywords: dict[str, str] = Field(default_factory=dict)
    styles: dict[str, str] = Field(default_factory=dict)
    wordings: dict[str, str] = Field(default_factory=dict)
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
                roles = ", ".join(ROLES)
                raise CogViewError(f"--column {text}: write ROLE=NAME or ROLE.LANGUAGE=NAME; roles: {roles}")
            if ROLES[role] in LANGUAGE_ROLES:
                fields.setdefault(ROLES[role], {})[language] = name
            else:
                fields[ROLES[role]] = name
        return cls(**fields)

    def completed(self, names: Sequence[str], place: str) -> Columns:
        """Complete these columns from a table's column names; raise CogViewError if one is missing."""
        image = self.image or _first(IMAGE_COLUMNS, names)
        captions = self.captions or caption_columns(names)
        if image is None or not captions:
            missing = "image" if image is None else "caption"
            hint = f"name it with --column {missing}=NAME"
            raise CogViewError(f"{place}: no {missing} column among {', '.join(names)[:1000]}; {hint}")
        completed = self.model_copy(
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
                "wordings": self.wordings
                or {lang: f"{lang}_more" for lang in captions if f"{lang}_more" in names},
            }
        )
        absent = [name for name in completed.all_names() if name not in names]
        if absent:
            raise CogViewError(f"{place}: no column {absent[0]!r}; there are {', '.join(names)[:1000]}")
        return completed

    def all_names(self) -> list[str]:
        """Every column that is read, without duplicates."""
        single = [self.image, self.key, self.source, self.split]
        maps = (self.captions, self.keywords, self.styles, self.wordings)
        named = [name for columns in maps for name in columns.values()]
        return list(dict.fromkeys(name for name in [*single, *named] if name))

    def read_captions(self, row: Mapping[str, Any]) -> tuple[Caption, ...]:
        """All captions of a row: plain, with the style phrase, keywords, and other wordings."""
        captions: list[Caption] = []
        for language, column in self.captions.items():
            plain = texts(row.get(column))
            captions += [Caption(text, language) for text in plain]
            template = self.templates.get(language, self.templates.get("", ""))
            for style in texts(row.get(self.styles.get(language, ""))) if template else []:
                styled = (template.format(caption=text, style=style) for text in plain)
                captions += [Caption(text, language, "styled") for text in styled]
        other: dict[CaptionKind, dict[str, str]] = {"keyword": self.keywords, "reworded": self.wordings}
        for kind, columns in other.items():
            for language, column in columns.items():
                captions += [Caption(text, language, kind) for text in texts(row.get(column))]
        return tuple(dict.fromkeys(captions))


def _first(candidates: Sequence[str], names: Sequence[str]) -> str | None:
    lower = {name.lower(): name for name in reversed(names)}
    return next((lower[name] for name in candidates if name in lower), None)


def caption_columns(names: Sequence[str]) -> dict[str, str]:
    languages: dict[str, str] = {}
    for name in names:
        match = LANGUAGE.match(name)
        if match:
            languages.setdefault(match[1], name)
    if languages:
        return languages
    plain = _first(CAPTION_COLUMNS, names)
    return {"": plain} if plain else {}


def texts(value: Any) -> list[str]:
    """The texts of a cell (a string or a list of strings), with whitespace trimmed and empty ones dropped."""
    values = value if isinstance(value, (list, tuple)) else [value]
    return [text for item in values if isinstance(item, str) and (text := " ".join(item.split()))]


def stamp(path: Path) -> str:
    info = path.stat()
    return f"{readable(path.name)}\t{info.st_size}\t{info.st_mtime_ns}"


def digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def table_record(
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
        if value is None or value == "":
            return default
        return str(value) if isinstance(value, str | int | float) else f"{reprlib.repr(value):.{MAX_NAME}}"

    captions = columns.read_captions(row)
    names = cell(columns.key, key), cell(columns.source, source), cell(columns.split, "")
    long = next((name for name in names if len(name) > MAX_NAME), None)
    if long is not None:
        problem = (
            problem or f"a key, source or split of {len(long):,} characters; at most {MAX_NAME} are read"
        )
        names = names[0][:MAX_NAME], names[1][:MAX_NAME], names[2][:MAX_NAME]
    return Record(names[0], image, captions, names[1], names[2], place, problem)
