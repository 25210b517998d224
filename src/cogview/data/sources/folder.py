"""A folder of images with captions in text files beside them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from cogview.data.samples import Caption
from cogview.data.sources.record import (
    IMAGE_SUFFIXES,
    MAX_TEXT,
    TEXT_LANGUAGE,
    Record,
    digest,
    stamp,
    texts,
)
from cogview.errors import CogViewError
from cogview.files import is_regular, read_text, readable


class FolderSource:
    """Images in a folder and its subfolders, with captions in ``NAME.txt`` or ``NAME.LANGUAGE.txt``.

    The key is the path below the folder, the source the folder's name. A file that is not an image but has a
    caption is a record too (a check then reports the problem); hidden files are ignored.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        files = [path for path in root.rglob("*") if not path.name.startswith(".") and is_regular(path)]
        self._beside: dict[Path, list[tuple[str, Path]]] = {}
        for path in sorted(file for file in files if file.suffix == ".txt"):
            self._add_text(path)
        others = (path for path in files if path.suffix != ".txt")
        self.paths = sorted(path for path in others if self._is_record(path))

    def _add_text(self, path: Path) -> None:
        stem = path.with_suffix("")
        self._beside.setdefault(stem, []).append(("", path))
        if TEXT_LANGUAGE.fullmatch(stem.suffix):
            self._beside.setdefault(stem.with_suffix(""), []).append((stem.suffix[1:], path))

    def _is_record(self, path: Path) -> bool:
        return path.suffix.lower() in IMAGE_SUFFIXES or path.with_suffix("") in self._beside

    @property
    def orphans(self) -> list[Path]:
        """Caption files that have no image beside them."""
        stems = {path.with_suffix("") for path in self.paths}
        used = {text for stem in stems for _, text in self._beside.get(stem, [])}
        return sorted({text for files in self._beside.values() for _, text in files} - used)

    @property
    def captioned(self) -> bool:
        """Whether any image has a caption file beside it."""
        return any(path.with_suffix("") in self._beside for path in self.paths)

    def __len__(self) -> int:
        return len(self.paths)

    def fingerprint(self) -> str:
        """Changes when the name, size or time of an image or caption file changes."""
        beside = (text for path in self.paths for _, text in self._beside.get(path.with_suffix(""), []))
        return digest(f"{self._name(path)}\t{stamp(path)}" for path in chain(self.paths, beside))

    def _name(self, path: Path) -> str:
        return readable(path.relative_to(self.root).as_posix())

    def records(self, start: int = 0) -> Iterator[Record]:
        """The records from number ``start`` on, in the order of their paths."""
        return (self._record(path) for path in self.paths[start:])

    def _record(self, path: Path) -> Record:
        try:
            captions, problem = tuple(self._captions(path)), ""
        except CogViewError as error:
            captions, problem = (), f"the caption file cannot be read: {error}{_hint(error)}"
        source = readable(self.root.resolve().name)
        return Record(self._name(path), path, captions, source, "", readable(str(path)), readable(problem))

    def _captions(self, path: Path) -> Iterator[Caption]:
        for language, text in self._beside.get(path.with_suffix(""), []):
            for line in read_text(text, MAX_TEXT, "utf-8-sig").splitlines():
                yield from (Caption(trimmed, language) for trimmed in texts(line))


def _hint(error: CogViewError) -> str:
    """How to convert a caption file that is not UTF-8; empty for other errors."""
    return (
        "; save it as UTF-8, for example with iconv -f ISO-8859-1 -t UTF-8" if "UTF-8" in str(error) else ""
    )
