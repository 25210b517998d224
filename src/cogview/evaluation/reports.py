"""Common parts of reports: the versions of the software behind the numbers, and writing to a file."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import cogview
from cogview.config import Config
from cogview.errors import CogViewError
from cogview.files import write_file

PACKAGES = ("torch", "numpy", "pillow")


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that affect the numbers."""
    packages = {"python": platform.python_version(), "cogview": cogview.__version__}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "not installed"
    return packages


def write_report(report: Config, path: Path) -> None:
    """Write a report as JSON, atomically.

    Raises:
        CogViewError: ``path`` cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, report.model_dump_json(indent=2) + "\n")
    except OSError as error:
        raise CogViewError(f"{path}: cannot be written ({error.strerror})") from None
