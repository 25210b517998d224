"""Files and directories that are whole or not there: made under a name of their own, then renamed.

All writers of pictures, reports and models use these, so that a full disk, a kill or a second process leaves
what was there before, and never a part of something new.
"""

from __future__ import annotations

import ctypes
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of Linux's fcntl.h and fs.h
TRIES = 20  # at a name that other processes take at the same moment


def spare_name(path: Path) -> Path:
    """A name in the same directory that nothing else has."""
    return path.with_name(f".{secrets.token_hex(8)}.part")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name to write a file under, which takes the place of ``path`` at the end; on any error it goes."""
    part = spare_name(path)
    try:
        yield part
        part.replace(path)
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
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    if rename is None:
        return False
    done: int = rename(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE)
    return done == 0
