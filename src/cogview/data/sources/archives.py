"""Zip and tar archives and WebDataset shards, read in place: nothing is unpacked to disk.

Captions are found as in a folder (``cat.txt`` or ``cat.zh.txt`` beside ``cat.png``), in a ``cat.json`` with
caption keys as WebDataset has them, or in one table (``metadata.csv``, ``.tsv``, ``.json``, ``.jsonl``) that
names the pictures. A WebDataset sample's key ends at the first dot of the file's name.

Members are never written anywhere, so a name like ``../../x`` can do no harm; it is refused all the same, as
are encrypted members and those over a fixed size (a decompression bomb is read no further than that).
"""

from __future__ import annotations

import json
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from cogview.data.samples import Caption
from cogview.data.sources.record import (
    IMAGE_SUFFIXES,
    TEXT_LANGUAGE,
    Columns,
    Record,
    caption_columns,
    digest,
    stamp,
    table_record,
    texts,
)
from cogview.data.sources.rows import TABLE_SUFFIXES, Row, parse_rows
from cogview.data.sources.tables import group_rows, join_records
from cogview.errors import CogViewError

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
MAX_MEMBER = 256 << 20  # bytes of a picture or table inside an archive
MAX_TEXT = 1 << 20  # of a caption file
MAX_MEMBERS = 20_000_000
DAMAGE = (EOFError, ValueError, zlib.error, lzma.LZMAError)


@dataclass(frozen=True)
class Member:
    """One file in an archive; ``problem`` says why it cannot be read."""

    name: str
    size: int
    offset: int = 0
    problem: str = ""


class Archive(Protocol):
    """An archive's members, and their bytes."""

    path: Path
    members: list[Member]

    def read(self, member: Member) -> bytes:
        """A member's bytes; OSError where the archive is damaged there."""
        ...


def _problem(name: str, size: int) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name.split("/")[0]:
        return "its name leads out of the archive; pack it anew with plain relative names"
    return f"{size:,} bytes, at most {MAX_MEMBER:,} inside an archive" if size > MAX_MEMBER else ""


class ZipArchive:
    """A zip file; members are read at random."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: zipfile.ZipFile | None = None
        try:
            entries = [info for info in self._open().infolist() if not info.is_dir()]
        except (OSError, zipfile.BadZipFile, ValueError) as error:
            raise CogViewError(f"{path} is not a readable zip file: {error}") from error
        self.members = [self._member(info) for info in entries]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}

    def _open(self) -> zipfile.ZipFile:
        if self._file is None:
            self._file = zipfile.ZipFile(self.path)
        return self._file

    def _member(self, info: zipfile.ZipInfo) -> Member:
        locked = "it is encrypted; unpack it with its password" if info.flag_bits & 1 else ""
        return Member(
            info.filename, info.file_size, problem=_problem(info.filename, info.file_size) or locked
        )

    def read(self, member: Member) -> bytes:
        """A member's bytes, at most as many as its entry says."""
        try:
            with self._open().open(member.name) as file:
                return file.read(member.size)
        except (
            zipfile.BadZipFile,
            zlib.error,
            EOFError,
            NotImplementedError,
            RuntimeError,
            KeyError,
        ) as error:
            raise OSError(f"{error}") from error


class TarArchive:
    """A tar file: plain ones are read at random, compressed ones once from end to end when opened.

    What a compressed one holds of pictures is kept by position only and read again in order.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.members: list[Member] = []
        self._small: dict[int, bytes] = {}
        self._stream: Iterator[tuple[int, bytes]] | None = None
        try:
            with tarfile.open(path) as file:
                self.plain = path.suffix.lower() == ".tar" and _is_plain(path)
                for info in file:
                    if info.isreg():
                        self._add(file, info)
        except (OSError, tarfile.TarError, *DAMAGE) as error:
            reason = str(error).splitlines()[0]
            raise CogViewError(f"{path} is not a readable tar file: {reason}; copy it again") from error

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_stream": None}

    def _add(self, file: tarfile.TarFile, info: tarfile.TarInfo) -> None:
        if len(self.members) >= MAX_MEMBERS:
            raise CogViewError(f"{self.path} holds over {MAX_MEMBERS:,} files; split it")
        offset = info.offset_data if self.plain else len(self.members)
        member = Member(info.name.removeprefix("./"), info.size, offset, _problem(info.name, info.size))
        picture = PurePosixPath(info.name).suffix.lower() in IMAGE_SUFFIXES
        if not self.plain and not picture and not member.problem:
            content = file.extractfile(info)
            self._small[offset] = content.read(info.size) if content else b""
        self.members.append(member)

    def read(self, member: Member) -> bytes:
        """A member's bytes. Of a compressed archive, pictures are best read in order."""
        if not self.plain:
            return self._small[member.offset] if member.offset in self._small else self._next(member.offset)
        with self.path.open("rb") as file:
            file.seek(member.offset)
            data = file.read(member.size)
        if len(data) < member.size:
            raise OSError("the archive ends inside this file")
        return data

    def _next(self, number: int) -> bytes:
        """The bytes of member ``number``, from where the last one was read if that is possible."""
        for again in (False, True):
            if self._stream is None or again:
                self._stream = self._contents()
            for found, data in self._stream:
                if found == number:
                    return data
                if found > number:
                    break
        raise OSError("the archive changed while it was read")

    def _contents(self) -> Iterator[tuple[int, bytes]]:
        try:
            with tarfile.open(self.path) as file:
                for number, info in enumerate(info for info in file if info.isreg()):
                    content = file.extractfile(info) if info.size <= MAX_MEMBER else None
                    yield number, content.read(info.size) if content else b""
        except (tarfile.TarError, *DAMAGE) as error:
            raise OSError(f"{error}") from error


def _is_plain(path: Path) -> bool:
    """Whether a tar file is one: compressed ones may be named .tar too."""
    with path.open("rb") as file:
        return file.read(6)[:2] not in (b"\x1f\x8b", b"BZ", b"\xfd7", b"(\xb5")


def open_archive(path: Path) -> Archive:
    """The archive in a file."""
    return ZipArchive(path) if path.suffix.lower() == ".zip" else TarArchive(path)


def is_archive(path: Path) -> bool:
    """Whether a file's name is an archive's."""
    return path.name.lower().endswith(ARCHIVE_SUFFIXES)


class ArchiveSource:
    """Pictures and captions in one archive; ``prefix`` goes before every key."""

    def __init__(self, path: Path, columns: Columns, prefix: str = "") -> None:
        self.path, self.prefix = path, prefix
        self.archive = open_archive(path)
        files = [m for m in self.archive.members if _visible(m.name)]
        self.by_name = {member.name: member for member in files}
        self.pictures = [m for m in files if PurePosixPath(m.name).suffix.lower() in IMAGE_SUFFIXES]
        self._beside = _captions_beside(files)
        self._whole = {_stem(m.name) for m in self.pictures}
        self.pictures = [m for m in self.pictures if not self._belongs_to_another(m.name)]
        self.columns, self.table, self.rows, self.groups = columns, "", list[Row](), list[list[int]]()
        tables = [
            m for m in files if m.name.lower().endswith(TABLE_SUFFIXES) and _stem(m.name) not in self._whole
        ]
        if not self._captioned() and len(tables) == 1:
            self._read_table(tables[0])

    def _captioned(self) -> bool:
        return any(self._texts_of(member.name) for member in self.pictures)

    def _belongs_to_another(self, name: str) -> bool:
        """In WebDataset, ``0001.mask.png`` is a part of the sample ``0001`` that ``0001.jpg`` shows."""
        return _stem(name) != _key(name) and _key(name) in self._whole and _stem(name) not in self._beside

    def _texts_of(self, name: str) -> list[tuple[str, Member]]:
        return self._beside.get(_stem(name)) or self._beside.get(_key(name)) or []

    def _read_table(self, table: Member) -> None:
        try:
            data = self.archive.read(table)
        except OSError as error:
            raise CogViewError(f"{self.path}: {table.name} cannot be read: {error}") from error
        self.table = table.name
        self.rows = parse_rows(data, PurePosixPath(table.name.lower()).suffix, f"{self.path}: {table.name}")
        names = list(dict.fromkeys(name for row, _ in self.rows for name in row))
        self.columns = self.columns.found(names, f"{self.path}: {table.name}")
        self.groups = group_rows(self.rows, self.columns)

    def __len__(self) -> int:
        return len(self.groups) if self.table else len(self.pictures)

    def fingerprint(self) -> str:
        """Changes with the archive."""
        return digest([stamp(self.path), self.columns.model_dump_json()])

    def records(self, start: int = 0) -> Iterator[Record]:
        """The records from number ``start`` on, in the archive's order."""
        if self.table:
            return (join_records([self._row(n) for n in group]) for group in self.groups[start:])
        return (self._picture(member) for member in self.pictures[start:])

    def _row(self, number: int) -> Record:
        row, problem = self.rows[number]
        name = row.get(self.columns.image or "")
        place = f"{self.path}: {self.table}, row {number + 1}"
        image: bytes | Path | None = None
        if isinstance(name, str) and name:
            inside = (PurePosixPath(self.table).parent / name).as_posix()
            member = self.by_name.get(inside) or self.by_name.get(name)
            image = self.path / inside
            if member and not problem:
                image, problem = self._bytes(member)
        key = f"{self.prefix}{name or number}"
        return table_record(row, self.columns, image, key, self.path.stem, place, problem)

    def _picture(self, member: Member) -> Record:
        image, problem = self._bytes(member)
        captions: tuple[Caption, ...] = ()
        if not problem:
            try:
                captions = tuple(dict.fromkeys(self._captions(member.name)))
            except (OSError, UnicodeDecodeError) as error:
                problem = f"the captions cannot be read as UTF-8: {error}"
        key, place = f"{self.prefix}{member.name}", f"{self.path}: {member.name}"
        return Record(key, image, captions, self.path.stem, "", place, problem)

    def _bytes(self, member: Member) -> tuple[bytes | None, str]:
        if member.problem:
            return None, member.problem
        try:
            return self.archive.read(member), ""
        except OSError as error:
            return None, f"it cannot be read from the archive: {error}"

    def _captions(self, name: str) -> Iterator[Caption]:
        for language, member in self._texts_of(name):
            if member.problem or member.size > MAX_TEXT:
                raise OSError(member.problem or f"{member.name} is over {MAX_TEXT:,} bytes")
            data = self.archive.read(member).decode("utf-8-sig")
            if member.name.endswith(".json"):
                yield from _json_captions(data, self.columns)
            else:
                for line in data.splitlines():
                    yield from (Caption(text, language) for text in texts(line))


def _visible(name: str) -> bool:
    return not any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts if part != "..")


def _stem(name: str) -> str:
    """The name without its last suffix."""
    return PurePosixPath(name).with_suffix("").as_posix()


def _key(name: str) -> str:
    """WebDataset's key: the name up to the first dot of its last part."""
    path = PurePosixPath(name)
    return (path.parent / path.name.split(".")[0]).as_posix()


def _captions_beside(files: list[Member]) -> dict[str, list[tuple[str, Member]]]:
    """Caption files by the names they may stand beside, each with its language."""
    found: dict[str, list[tuple[str, Member]]] = {}
    for member in sorted(files, key=lambda member: member.name):
        path = PurePosixPath(member.name)
        if path.suffix not in (".txt", ".json"):
            continue
        stem = path.with_suffix("")
        found.setdefault(stem.as_posix(), []).append(("", member))
        if TEXT_LANGUAGE.fullmatch(stem.suffix):
            found.setdefault(stem.with_suffix("").as_posix(), []).append((stem.suffix[1:], member))
        elif stem.suffix in (".caption", ".captions", ".text"):
            found.setdefault(stem.with_suffix("").as_posix(), []).append(("", member))
    return found


def _json_captions(data: str, columns: Columns) -> tuple[Caption, ...]:
    """Captions in a sample's JSON: the named keys, or those that look like captions; else none."""
    try:
        row = json.loads(data)
    except (ValueError, RecursionError):
        return ()
    if isinstance(row, str):
        row = {"caption": row}
    if not isinstance(row, dict):
        return ()
    known = columns.captions or caption_columns(list(row))
    return columns.model_copy(update={"captions": known}).read_captions(row)


class ShardsSource:
    """A folder of archives as one source, in the order of their names (WebDataset shards)."""

    def __init__(self, paths: list[Path], columns: Columns) -> None:
        self.parts = [ArchiveSource(path, columns, f"{path.name.split('.')[0]}/") for path in paths]
        self.counts = [len(part) for part in self.parts]

    def __len__(self) -> int:
        return sum(self.counts)

    def fingerprint(self) -> str:
        """Changes with any of the archives."""
        return digest(part.fingerprint() for part in self.parts)

    def records(self, start: int = 0) -> Iterator[Record]:
        """The records from number ``start`` on, archive by archive."""
        for part, count in zip(self.parts, self.counts, strict=True):
            if start < count:
                yield from part.records(start)
            start = max(0, start - count)
