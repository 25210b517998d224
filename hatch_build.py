"""Puts the manual pages into the wheel, where `make dist` has written them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PAGES = Path("build", "man")


class ManualPages(BuildHookInterface):  # type: ignore[type-arg]
    """share/man/man1/*.1 of the environment that the wheel is installed into."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called before each build; an editable one has no pages."""
        pages = Path(self.root, PAGES)
        if version == "standard" and pages.is_dir():
            build_data["shared_data"][str(pages)] = "share/man/man1"
