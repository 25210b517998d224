"""What every report carries: hashes of what was judged, versions of what judged it; and how it is written."""

from __future__ import annotations

import hashlib
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import cogview
from cogview.config import Config
from cogview.errors import CogViewError

PACKAGES = ("torch", "numpy", "pillow")


def directory_fingerprint(directory: Path) -> str:
    """16 hex digits over the names and contents of all files in ``directory`` except prose (``*.md``)."""
    digest = hashlib.sha256()
    for path in sorted(p for p in directory.rglob("*") if p.is_file() and p.suffix != ".md"):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.relative_to(directory).as_posix()}\t{content}\n".encode())
    return digest.hexdigest()[:16]


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that decide the numbers."""
    found = {"python": platform.python_version(), "cogview": cogview.__version__}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def write_report(report: Config, path: Path) -> None:
    """Write a report as JSON, whole or not at all.

    Raises:
        CogViewError: the place cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        part.write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        raise CogViewError(f"{path}: cannot be written ({error.strerror})") from None
