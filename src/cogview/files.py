"""File access: untrusted files are read within limits, output files are written atomically.

Only regular files are read (a FIFO would block, a device never ends), and at most the number of bytes that
the caller allows. All JSON is parsed here: invalid JSON, integers over 64 bits and unpaired surrogates raise
a :class:`~cogview.errors.CogViewError`.

Output (images, reports, models) is written to a temporary name and then renamed, so that a full disk, a kill
or a second process leaves the previous file in place and never a partial new one.
"""

from __future__ import annotations

import ctypes
import io
import json
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from cogview.errors import CogViewError

if TYPE_CHECKING:
    from PIL.Image import Image

HOLES_FROM = 1 << 30  # bytes; larger files are checked for being sparse
MAX_INTEGER = (1 << 64) - 1
MAX_INTEGER_TEXT = 21  # characters of the longest 64-bit number with a sign
MAX_NODES = 6_000_000  # values of a JSON text; each takes some 100 bytes of memory
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def _refuse(path: Path | str, error: OSError | ValueError) -> NoReturn:
    reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
    name = str(path)[:1000]
    raise CogViewError(f"{name if name.isprintable() else repr(name)}: cannot be read ({reason})") from error


def is_regular(path: Path | str) -> bool:
    """Whether ``path`` is a regular file or a link to one."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def check_regular(path: Path | str) -> int:
    """The size of a regular file in bytes; raises CogViewError if ``path`` is anything else.

    For libraries that open the path themselves.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        _refuse(path, error)
    _check(path, status)
    return status.st_size


def _check(path: Path | str, status: os.stat_result) -> None:
    """Raise CogViewError if it is not a regular file, or a large file that consists of holes."""
    if not stat.S_ISREG(status.st_mode):
        raise CogViewError(f"{path}: cannot be read ({_kind(status.st_mode)}, not a file)")
    allocated = getattr(status, "st_blocks", status.st_size) * 512
    if status.st_size > HOLES_FROM and allocated * 8 < status.st_size:
        raise CogViewError(f"{path}: cannot be read ({status.st_size:,} bytes, nearly all of them holes)")


def _kind(mode: int) -> str:
    for test, name in (
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    ):
        if test(mode):
            return name
    return "something else"


def open_regular(path: Path | str) -> io.BufferedReader:
    """Open a regular file for reading bytes; raises CogViewError if ``path`` is anything else."""
    flags = (
        os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    )
    try:
        handle = os.open(path, flags)  # O_NONBLOCK: does not wait for a pipe's other end
    except (OSError, ValueError) as error:
        _refuse(path, error)
    try:
        _check(path, os.fstat(handle))
    except CogViewError:
        os.close(handle)
        raise
    return io.open(handle, "rb")  # noqa: UP020 - returns a BufferedReader


def read_bytes(path: Path | str, limit: int) -> bytes:
    """Read a regular file; raises CogViewError if it cannot be read or has more than ``limit`` bytes."""
    try:
        with open_regular(path) as file:
            data = file.read(limit + 1)
    except OSError as error:
        _refuse(path, error)
    if len(data) > limit:
        raise CogViewError(f"{path}: too large, over the limit of {limit:,} bytes for such a file")
    return data


def read_text(path: Path | str, limit: int, encoding: str = "utf-8") -> str:
    """Read a regular text file (UTF-8; ``utf-8-sig`` skips a byte-order mark); raises CogViewError."""
    return decode(read_bytes(path, limit), str(path), encoding)


def read_lines(path: Path | str, limit: int, what: str = "line") -> list[str]:
    """The non-empty lines of a UTF-8 file; raises CogViewError if there are none. ``what`` names an entry."""
    lines = [line.strip() for line in read_text(path, limit, "utf-8-sig").splitlines()]
    entries = [line for line in lines if line]
    if not entries:
        raise CogViewError(f"{path}: there is no {what} in it; write one on each line")
    return entries


def decode(data: bytes, where: str, encoding: str = "utf-8") -> str:
    """Decode bytes, with line ends as ``\\n``; raises a CogViewError with ``where``."""
    try:
        return data.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise CogViewError(f"{where}: not a UTF-8 text file") from error


def _integer(text: str) -> int:
    if len(text) > MAX_INTEGER_TEXT or abs(number := int(text)) > MAX_INTEGER:
        raise ValueError(f"a whole number of {len(text)} digits; at most 64 bits are read")
    return number


def parse_json(text: str | bytes, where: str) -> Any:
    """Parse JSON; raises a CogViewError that names ``where``.

    Rejects invalid JSON or UTF-8, integers over 64 bits, unpaired surrogates, nesting beyond the recursion
    limit, and texts with more values than fit in a few gigabytes.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8-sig")
        if text.count(",") + text.count("[") + text.count("{") > MAX_NODES:
            raise ValueError(f"over {MAX_NODES:,} values")
        value = json.loads(text, parse_int=_integer)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise CogViewError(f"{where}: not valid JSON (half of a surrogate pair)") from error
    except UnicodeDecodeError as error:
        raise CogViewError(f"{where}: not a UTF-8 text file") from error
    except (ValueError, RecursionError) as error:
        raise CogViewError(f"{where}: not valid JSON ({str(error).splitlines()[0]})") from error
    return value


def load_json(path: Path | str, limit: int) -> Any:
    """Load a JSON file of at most ``limit`` bytes; raises CogViewError."""
    return parse_json(read_bytes(path, limit), str(path))


def readable(name: str) -> str:
    """A file name as text that can be printed, stored and hashed.

    A name that is not UTF-8 (from an archive made on a Chinese or a western Windows) is decoded as GB 18030,
    or else as Latin-1; the file itself is still opened by its original name.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        raw = os.fsencode(name) if _is_escaped(name) else name.encode("utf-8", "replace")
        for encoding in ("gb18030", "latin-1"):
            try:
                return raw.decode(encoding)
            except UnicodeDecodeError:
                continue
    return name


def _is_escaped(name: str) -> bool:
    """Whether every surrogate in a name stands for a byte (PEP 383)."""
    return all(not 0xD800 <= ord(c) <= 0xDFFF or 0xDC80 <= ord(c) <= 0xDCFF for c in name)


AT_FDCWD, RENAME_EXCHANGE = -100, 2  # from Linux's fcntl.h and fs.h


def remove_entry(path: Path) -> None:
    """Remove a file, a link or a directory tree, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


TRIES = 20  # to rename to a name that other processes take at the same time


def spare_name(path: Path) -> Path:
    """An unused temporary name in the same directory."""
    return path.with_name(f".{secrets.token_hex(8)}.part")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add ``path`` to an OSError without a file name, such as that of a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name to write to, which replaces ``path`` on exit and is removed on any error.

    For a symbolic link, its target is replaced. Raises CogViewError for a device, a pipe or a socket, which
    root would otherwise replace with a file.
    """
    final = Path(os.path.realpath(path)) if path.is_symlink() else path
    with suppress(OSError):
        mode = final.stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise CogViewError(f"{path}: cannot be written ({_kind(mode)}, not a file)")
    part = spare_name(final)
    try:
        with naming(path):
            yield part
            part.replace(final)
    finally:
        part.unlink(missing_ok=True)


def write_file(path: Path, content: bytes | str, durable: bool = False) -> None:
    """Write a file (text as UTF-8) atomically; raises OSError and leaves ``path`` unchanged if that fails.

    durable: flush to disk before renaming.
    """
    with replacing(path) as part, part.open("xb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        if durable:
            file.flush()
            os.fsync(file.fileno())


def write_image(path: Path, image: Image) -> None:
    """Write a Pillow image as a PNG, atomically as :func:`write_file`."""
    with replacing(path) as part:
        image.save(part, "PNG")


def write_new(name: Callable[[int], Path], content: bytes) -> Path:
    """Write to the first free name of ``name(1)``, ``name(2)``, … and return it.

    An existing file with the same content is returned instead. Raises OSError if it cannot be written.
    """
    number, part = 1, spare_name(name(1))
    try:
        while True:
            path = name(number)
            if path.is_file() and path.read_bytes() == content:
                return path
            if not os.path.lexists(path):
                if not part.exists():
                    part.write_bytes(content)
                if _take(part, path):
                    return path
            number += 1
    finally:
        part.unlink(missing_ok=True)


def _take(part: Path, path: Path) -> bool:
    """Rename ``part`` to a free name; False if another process has taken the name."""
    try:
        os.link(part, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links
        if os.path.lexists(path):
            return False
        part.replace(path)
    return True


def replace_directory(fresh: Path, final: Path) -> list[Path]:
    """Rename ``fresh`` to ``final`` in the same directory; returns the new paths of what it replaced.

    Linux exchanges the two names atomically, so that ``final`` always exists. Elsewhere the old directory is
    moved aside first, and moved back if the new one cannot take its place. Raises OSError then.
    """
    asides: list[Path] = []
    while True:
        try:
            fresh.rename(final)
        except OSError:
            if not fresh.exists() or not final.is_dir() or len(asides) == TRIES:
                if asides and not final.exists():
                    asides[-1].rename(final)
                raise
        else:
            return asides
        if _exchange(fresh, final):
            return [*asides, fresh]
        aside = final.with_name(f"{final.name}.{secrets.token_hex(4)}.old")
        with suppress(FileNotFoundError):  # another process has just moved it
            final.rename(aside)
            asides.append(aside)


def _exchange(one: Path, other: Path) -> bool:
    """Swap the names of two directories with Linux's ``renameat2``; False if it is not available."""
    if sys.platform != "linux":  # no renameat2, and CDLL(None) fails on Windows
        return False
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    if rename is None:
        return False
    status: int = rename(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE)
    return status == 0
