"""Files: those that come from elsewhere are read within limits, our own are whole or not there.

Only regular files are read (a FIFO would wait for ever, a device never ends), and no more bytes than the
caller allows. JSON is parsed here and nowhere else: whole numbers over 64 bits, half surrogates and anything
that is not JSON are one :class:`~cogview.errors.CogViewError`.

What is written (images, reports, models) is made under a name of its own, then renamed, so that a full
disk, a kill or a second process leaves what was there before, and never a part of something new.
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

HOLES_FROM = 1 << 30  # bytes of a file from which holes are looked for
MAX_INTEGER = (1 << 64) - 1
MAX_INTEGER_TEXT = 21  # characters of the longest 64-bit number with a sign
MAX_NODES = 6_000_000  # values of a JSON text; each takes some 100 bytes of memory
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def _refuse(path: Path | str, error: OSError | ValueError) -> NoReturn:
    reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
    name = str(path)[:1000]
    raise CogViewError(f"{name if name.isprintable() else repr(name)}: cannot be read ({reason})") from error


def is_regular(path: Path | str) -> bool:
    """Whether there is a regular file (or a link to one); False for anything else."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def check_regular(path: Path | str) -> int:
    """The size of a regular file in bytes; CogViewError where there is none, or something else.

    For libraries that open a path themselves.
    """
    try:
        found = os.stat(path)
    except (OSError, ValueError) as error:
        _refuse(path, error)
    _check(path, found)
    return found.st_size


def _check(path: Path | str, found: os.stat_result) -> None:
    """CogViewError for what is no file, and for terabytes that are nearly nothing but holes."""
    if not stat.S_ISREG(found.st_mode):
        raise CogViewError(f"{path}: cannot be read ({_kind(found.st_mode)}, not a file)")
    held = getattr(found, "st_blocks", found.st_size) * 512
    if found.st_size > HOLES_FROM and held * 8 < found.st_size:
        raise CogViewError(f"{path}: cannot be read ({found.st_size:,} bytes, nearly all of them holes)")


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
    """A regular file, open for reading bytes; CogViewError where there is none, or something else."""
    flags = (
        os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    )
    try:
        handle = os.open(path, flags)  # without waiting for a pipe's other end
    except (OSError, ValueError) as error:
        _refuse(path, error)
    try:
        _check(path, os.fstat(handle))
    except CogViewError:
        os.close(handle)
        raise
    return io.open(handle, "rb")  # noqa: UP020 - of this very type


def read_bytes(path: Path | str, limit: int) -> bytes:
    """The bytes of a regular file; CogViewError where it cannot be read or holds more than ``limit``."""
    try:
        with open_regular(path) as file:
            data = file.read(limit + 1)
    except OSError as error:
        _refuse(path, error)
    if len(data) > limit:
        raise CogViewError(f"{path}: too large, over the {limit:,} bytes that are read of such a file")
    return data


def read_text(path: Path | str, limit: int, encoding: str = "utf-8") -> str:
    """The text of a regular file (UTF-8; ``utf-8-sig`` skips a mark at the start); CogViewError."""
    return decode(read_bytes(path, limit), str(path), encoding)


def read_lines(path: Path | str, limit: int, what: str = "line") -> list[str]:
    """The lines of a UTF-8 file that are not empty; CogViewError where there is no ``what`` in it."""
    lines = read_text(path, limit, "utf-8-sig").splitlines()
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise CogViewError(f"{path}: there is no {what} in it; write one on each line")
    return found


def decode(data: bytes, where: str, encoding: str = "utf-8") -> str:
    """Bytes as text, line ends as ``\\n``; CogViewError with ``where``."""
    try:
        return data.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise CogViewError(f"{where}: not a UTF-8 text file") from error


def _integer(text: str) -> int:
    if len(text) > MAX_INTEGER_TEXT or abs(number := int(text)) > MAX_INTEGER:
        raise ValueError(f"a whole number of {len(text)} digits; at most 64 bits are read")
    return number


def parse_json(text: str | bytes, where: str) -> Any:
    """The data in a JSON text; CogViewError names ``where``.

    Refused: what is not JSON or UTF-8, whole numbers over 64 bits, halves of surrogate pairs, nesting too
    deep to read, and texts with more values than fit a few gigabytes.
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
    """The data in a JSON file of at most ``limit`` bytes; CogViewError."""
    return parse_json(read_bytes(path, limit), str(path))


def readable(name: str) -> str:
    """A file's name as text that can be printed, stored and hashed.

    Names that are not UTF-8 (as archives made on a Chinese or a western Windows have them) are taken for
    GB 18030, else for Latin-1; the file itself is still opened by the name it has.
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
    """Whether every half surrogate in a name stands for a byte (PEP 383)."""
    return all(not 0xD800 <= ord(c) <= 0xDFFF or 0xDC80 <= ord(c) <= 0xDCFF for c in name)


AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of Linux's fcntl.h and fs.h


def remove_entry(path: Path) -> None:
    """Remove a file, a link or a directory with all that is in it; nothing where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


TRIES = 20  # at a name that other processes take at the same moment


def spare_name(path: Path) -> Path:
    """A name in the same directory that nothing else has."""
    return path.with_name(f".{secrets.token_hex(8)}.part")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Have an OSError that names no file, such as that of a full disk, name ``path``."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name to write a file under, which takes the place of ``path`` at the end; on any error it goes.

    A link stays one: what it leads to is replaced. CogViewError for a device, a pipe or a socket, which root
    would replace by a file.
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
    """Write a file (text as UTF-8) in one piece; OSError where that fails, with ``path`` as it was.

    durable: wait until it is on the disk.
    """
    with replacing(path) as part, part.open("xb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        if durable:
            file.flush()
            os.fsync(file.fileno())


def write_image(path: Path, image: Image) -> None:
    """:func:`write_file` for a Pillow image, as a PNG."""
    with replacing(path) as part:
        image.save(part, "PNG")


def write_new(name: Callable[[int], Path], content: bytes) -> Path:
    """Write under the first of ``name(1)``, ``name(2)``, … that is free; returns it.

    A file with this very content stays and is returned. OSError where it cannot be written.
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
    """Give a file a name that is free; False where it was taken meanwhile."""
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
    """Give ``fresh`` the name ``final``, beside which it lies; returns where what was there lies now.

    Linux exchanges the two names in one step, so that one of them is there at any moment. Elsewhere the old
    one is moved aside first, and back where the new one cannot take its place. OSError then.
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
    """Swap the names of two directories by Linux's ``renameat2``; False where that is not to be had."""
    if sys.platform != "linux":  # elsewhere there is none, and Windows has no library of the process itself
        return False
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    if rename is None:
        return False
    done: int = rename(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE)
    return done == 0
