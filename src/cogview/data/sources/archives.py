"""Zip and tar archives and WebDataset shards, read in place: nothing is unpacked to disk.

Captions are found as in a folder (``cat.txt`` or ``cat.zh.txt`` beside ``cat.png``), in a ``cat.json`` with
caption keys as in WebDataset, or in one table (``metadata.csv``, ``.tsv``, ``.json``, ``.jsonl``) that
names the images. A WebDataset sample's key ends at the first dot of the file name.

Members are never written to disk, so a name like ``../../x`` is harmless; it is refused anyway, as are
encrypted members and members over a fixed size. The sizes an archive declares are added up before anything
is unpacked; an archive that would unpack to far more than its own size (a decompression bomb) is refused.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, cast

from cogview.data.samples import Caption
from cogview.data.sources.record import (
    IMAGE_SUFFIXES,
    MAX_TEXT,
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
from cogview.files import open_regular, parse_json, readable

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
MAX_MEMBER = 256 << 20  # bytes of an image or table inside an archive
MAX_MEMBERS = 500_000
MAX_KEPT = 512 << 20  # bytes of captions and tables of a compressed tar, all held in memory
MAX_HEADER = 1 << 20  # bytes of a header inside a tar
MAX_UNPACKED = 256 << 20  # bytes an archive may unpack to, or, if that is more,
MAX_RATIO = 100  # this many times its own size
CHUNK = 1 << 20
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # others unpack any amount in one step
MAGIC = {b"\x1f\x8b": "gz", b"BZh": "bz2", b"\xfd7zXZ": "xz", b"]\x00\x00": "xz"}


@dataclass(frozen=True)
class Member:
    """One file in an archive; ``problem`` says why it cannot be read."""

    name: str
    size: int
    offset: int = 0
    problem: str = ""


class Archive(Protocol):
    """An archive: its members and their contents."""

    path: Path
    members: list[Member]

    def read(self, member: Member) -> bytes:
        """Return a member's bytes; raise OSError if the archive is damaged there."""
        ...


def _problem(name: str, size: int) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name.split("/")[0]:
        return "its name leads out of the archive; pack it again with plain relative names"
    return f"{size:,} bytes, at most {MAX_MEMBER:,} inside an archive" if size > MAX_MEMBER else ""


def _check_total(path: Path, unpacked: int, packed: int) -> None:
    """Raise CogViewError for an archive that would unpack to far more than its own size."""
    if unpacked > max(MAX_UNPACKED, MAX_RATIO * packed):
        raise CogViewError(
            f"{path}: refused, its {packed:,} bytes would unpack to {unpacked:,} (a decompression bomb?); "
            "unpack it yourself if you trust it"
        )


def _check_count(path: Path, count: int) -> None:
    if count > MAX_MEMBERS:
        raise CogViewError(f"{path} holds over {MAX_MEMBERS:,} files; split it")


@contextmanager
def _damage(path: Path, kind: str) -> Iterator[None]:
    """Turn whatever a damaged archive makes its reader raise into a CogViewError."""
    try:
        yield
    except (CogViewError, MemoryError):
        raise
    except Exception as error:
        raise CogViewError(f"{path} is not a readable {kind} file: {_line(error)}; copy it again") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


class ZipArchive:
    """A zip file; its members can be read in any order."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: zipfile.ZipFile | None = None
        with _damage(path, "zip"):
            entries = self._open().infolist()
        _check_count(path, len(entries))
        _check_total(path, sum(info.file_size for info in entries), path.stat().st_size)
        self.members = [
            self._member(number, info) for number, info in enumerate(entries) if not info.is_dir()
        ]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}

    def _open(self) -> zipfile.ZipFile:
        if self._file is None:
            self._file = zipfile.ZipFile(open_regular(self.path))
        return self._file

    def _member(self, number: int, info: zipfile.ZipInfo) -> Member:
        name, problem = _zip_name(info), ""
        if info.flag_bits & 1:
            problem = "it is encrypted; unpack it with its password"
        elif info.compress_type not in METHODS:
            problem = "its compression method is not supported; pack the archive again with deflate"
        return Member(name, info.file_size, number, _problem(name, info.file_size) or problem)

    def read(self, member: Member) -> bytes:
        """Return a member's bytes, at most as many as its entry declares."""
        try:
            with self._open().open(self._open().infolist()[member.offset]) as file:
                return file.read(member.size)
        except MemoryError:
            raise
        except Exception as error:  # zlib.error, BadZipFile, struct.error, RuntimeError, …
            raise OSError(_line(error)) from error


def _zip_name(info: zipfile.ZipInfo) -> str:
    """Return a member's name; without a declared encoding it is read as UTF-8, GB 18030 or code page 437."""
    if info.flag_bits & 0x800 or info.filename.isascii():
        return info.filename
    try:
        raw = info.filename.encode("cp437")
    except UnicodeEncodeError:
        return info.filename
    for encoding in ("utf-8", "gb18030"):
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError:
            continue
    return info.filename


class _Bounded(io.RawIOBase):
    """The uncompressed bytes of a tar; at most ``left`` are read before the caller has to allow more.

    Headers declare the length of further headers; a forged one would make the reader read without end.
    """

    def __init__(self, stream: Any) -> None:
        super().__init__()
        self.stream, self.left = stream, MAX_HEADER

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return int(self.stream.tell())

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= self.left:
            raise tarfile.ReadError("a header that is too long")
        self.left -= size
        return bytes(self.stream.read(size))

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self.stream.seek(offset, whence))


@contextmanager
def _opened_tar(path: Path) -> Iterator[tuple[tarfile.TarFile, _Bounded, bool]]:
    """Open a tar file; yield it, its byte stream, and whether the file is compressed."""
    with open_regular(path) as file:
        head = file.read(8)
        file.seek(0)
        kind = next((kind for magic, kind in MAGIC.items() if head.startswith(magic)), "")
        stream: Any = file
        if kind == "gz":
            stream = gzip.GzipFile(fileobj=file)
        elif kind:
            stream = bz2.BZ2File(file) if kind == "bz2" else lzma.LZMAFile(file)  # noqa: SIM115
        bounded = _Bounded(stream)
        with tarfile.TarFile(fileobj=cast(Any, bounded), errorlevel=0) as tar:
            yield tar, bounded, bool(kind)


def _entries(path: Path, tar: tarfile.TarFile, bounded: _Bounded) -> Iterator[tarfile.TarInfo]:
    """Yield the files in a tar without keeping them; raise CogViewError for too many or for a bomb."""
    packed, last, count = path.stat().st_size, -1, 0
    while (info := tar.next()) is not None:
        cast(Any, tar).members, bounded.left = [], MAX_HEADER  # tarfile would keep a list of all
        if info.size < 0 or info.offset <= last:
            raise tarfile.ReadError("a header with a negative size")
        last, count = info.offset, count + 1
        _check_count(path, count)
        _check_total(path, info.offset_data + (0 if info.issparse() else info.size), packed)
        if info.isreg() and not info.issparse():
            yield info


class TarArchive:
    """A tar file: a plain one is read in any order, a compressed one is scanned once when it is opened.

    Of a compressed one, captions and tables are held in memory; for images only the position is stored, and
    they are read again in order.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.members: list[Member] = []
        self._kept: dict[int, bytes] = {}
        self._stream: Iterator[tuple[int, bytes]] | None = None
        kept = 0
        with _damage(path, "tar"), _opened_tar(path) as (tar, bounded, packed):
            self.plain = not packed
            for info in _entries(path, tar, bounded):
                member = self._add(info)
                if packed and _is_text(member):
                    self._kept[member.offset] = content = _content(tar, bounded, info)
                    kept += len(content)
                    if kept > MAX_KEPT:
                        raise CogViewError(f"{path}: over {MAX_KEPT >> 20} MiB of texts in it; unpack it")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_stream": None}

    def _add(self, info: tarfile.TarInfo) -> Member:
        offset = info.offset_data if self.plain else len(self.members)
        name = readable(info.name.removeprefix("./"))
        self.members.append(Member(name, info.size, offset, _problem(name, info.size)))
        return self.members[-1]

    def read(self, member: Member) -> bytes:
        """Return a member's bytes. Reading the images of a compressed archive is fastest in order."""
        if not self.plain:
            return self._kept[member.offset] if member.offset in self._kept else self._next(member.offset)
        with open_regular(self.path) as file:
            file.seek(member.offset)
            data = file.read(member.size)
        if len(data) < member.size:
            raise OSError("the archive ends inside this file")
        return data

    def _next(self, number: int) -> bytes:
        """Return the bytes of member ``number``, reading on from the last one if possible."""
        for restart in (False, True):
            if self._stream is None or restart:
                self._stream = self._contents()
            for current, data in self._stream:
                if current == number:
                    return data
                if current > number:
                    break
        raise OSError("the archive changed while it was read")

    def _contents(self) -> Iterator[tuple[int, bytes]]:
        """Yield the number and bytes of every image."""
        try:
            with _opened_tar(self.path) as (tar, bounded, _):
                for number, info in enumerate(_entries(self.path, tar, bounded)):
                    if number >= len(self.members) or self.members[number].size != info.size:
                        raise OSError("the archive changed while it was read")
                    member = self.members[number]
                    if not member.problem and number not in self._kept and _is_image(member.name):
                        yield number, _content(tar, bounded, info)
        except MemoryError:
            raise
        except Exception as error:
            raise OSError(_line(error)) from error


def _is_image(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES


def _is_text(member: Member) -> bool:
    """Whether a member may hold captions."""
    suffix = PurePosixPath(member.name).suffix.lower()
    small = suffix in (".txt", ".json") and member.size <= MAX_TEXT
    return not member.problem and (small or suffix in TABLE_SUFFIXES) and _visible(member.name)


def _content(tar: tarfile.TarFile, bounded: _Bounded, info: tarfile.TarInfo) -> bytes:
    """Read a member a megabyte at a time, so memory use follows its real size, not its declared one."""
    file, parts, left = tar.extractfile(info), list[bytes](), info.size
    bounded.left = info.size + 2 * tarfile.RECORDSIZE
    while file and left and (part := file.read(min(CHUNK, left))):
        parts.append(part)
        left -= len(part)
    bounded.left = MAX_HEADER
    if left:
        raise tarfile.ReadError("the archive ends inside a file")
    return b"".join(parts)


def open_archive(path: Path) -> Archive:
    """Open an archive file."""
    return ZipArchive(path) if path.suffix.lower() == ".zip" else TarArchive(path)


def is_archive(path: Path) -> bool:
    """Whether a file name is that of an archive."""
    return path.name.lower().endswith(ARCHIVE_SUFFIXES)


class ArchiveSource:
    """Images and captions in one archive; ``prefix`` is put before every key."""

    def __init__(self, path: Path, columns: Columns, prefix: str = "") -> None:
        self.path, self.prefix = path, prefix
        self.archive = open_archive(path)
        files = [m for m in self.archive.members if _visible(m.name)]
        self.by_name = {member.name: member for member in files}
        self.images = [m for m in files if _is_image(m.name)]
        self._beside = _captions_beside(files)
        self._stems = {_stem(m.name) for m in self.images}
        self.images = [m for m in self.images if not self._belongs_to_another(m.name)]
        self.columns, self.table, self.rows, self.groups = columns, "", list[Row](), list[list[int]]()
        tables = [
            m for m in files if m.name.lower().endswith(TABLE_SUFFIXES) and _stem(m.name) not in self._stems
        ]
        if not self._captioned() and len(tables) == 1:
            self._read_table(tables[0])

    def _captioned(self) -> bool:
        return any(self._texts_of(member.name) for member in self.images)

    def _belongs_to_another(self, name: str) -> bool:
        """In WebDataset, ``0001.mask.png`` is part of the sample ``0001``, whose image is ``0001.jpg``."""
        return _stem(name) != _key(name) and _key(name) in self._stems and _stem(name) not in self._beside

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
        self.columns = self.columns.completed(names, f"{self.path}: {table.name}")
        self.groups = group_rows(self.rows, self.columns)

    def __len__(self) -> int:
        return len(self.groups) if self.table else len(self.images)

    def fingerprint(self) -> str:
        """Changes when the archive changes."""
        return digest([stamp(self.path), self.columns.model_dump_json()])

    def records(self, start: int = 0) -> Iterator[Record]:
        """The records from number ``start`` on, in the archive's order."""
        if self.table:
            return (join_records([self._row(n) for n in group]) for group in self.groups[start:])
        return (self._image(member) for member in self.images[start:])

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

    def _image(self, member: Member) -> Record:
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
    """The key in WebDataset: the name up to the first dot of its last part."""
    path = PurePosixPath(name)
    return (path.parent / path.name.split(".")[0]).as_posix()


def _captions_beside(files: list[Member]) -> dict[str, list[tuple[str, Member]]]:
    """Caption files with their languages, by the image name (without suffix) they may belong to."""
    captions: dict[str, list[tuple[str, Member]]] = {}
    for member in sorted(files, key=lambda member: member.name):
        path = PurePosixPath(member.name)
        if path.suffix not in (".txt", ".json"):
            continue
        stem = path.with_suffix("")
        captions.setdefault(stem.as_posix(), []).append(("", member))
        if TEXT_LANGUAGE.fullmatch(stem.suffix):
            captions.setdefault(stem.with_suffix("").as_posix(), []).append((stem.suffix[1:], member))
        elif stem.suffix in (".caption", ".captions", ".text"):
            captions.setdefault(stem.with_suffix("").as_posix(), []).append(("", member))
    return captions


def _json_captions(data: str, columns: Columns) -> tuple[Caption, ...]:
    """Captions in a sample's JSON: those of the named keys, or of keys that look like captions."""
    try:
        row = parse_json(data, "the JSON beside it")
    except CogViewError:
        return ()
    if isinstance(row, str):
        row = {"caption": row}
    if not isinstance(row, dict):
        return ()
    keys = columns.captions or caption_columns(list(row))
    return columns.model_copy(update={"captions": keys}).read_captions(row)


class ShardsSource:
    """A folder of archives as one source, in the order of their names (WebDataset shards)."""

    def __init__(self, paths: list[Path], columns: Columns) -> None:
        self.parts = [ArchiveSource(path, columns, f"{path.name.split('.')[0]}/") for path in paths]
        self.counts = [len(part) for part in self.parts]

    def __len__(self) -> int:
        return sum(self.counts)

    def fingerprint(self) -> str:
        """Changes when any of the archives changes."""
        return digest(part.fingerprint() for part in self.parts)

    def records(self, start: int = 0) -> Iterator[Record]:
        """The records from number ``start`` on, archive by archive."""
        for part, count in zip(self.parts, self.counts, strict=True):
            if start < count:
                yield from part.records(start)
            start = max(0, start - count)
