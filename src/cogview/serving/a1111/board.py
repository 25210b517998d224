"""What runs for whom: progress, the image on its way, and the end of it on request.

A1111 has one user; here each key has what its own requests do.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from cogview.serving.worker import Ticket


@dataclass(eq=False)
class Running:
    """A request that is waiting or being computed."""

    owner: str
    ticket: Ticket
    started: float = field(default_factory=time.monotonic)
    image: Image.Image | None = None


class Board:
    """Requests by owner, and the model that each has chosen."""

    def __init__(self) -> None:
        self._running: list[Running] = []
        self.chosen: dict[str, str] = {}

    @contextmanager
    def following(self, owner: str, ticket: Ticket) -> Iterator[Running]:
        """Show a request while it is waited for."""
        entry = Running(owner, ticket)
        self._running.append(entry)
        try:
            yield entry
        finally:
            self._running.remove(entry)

    def interrupt(self, owner: str) -> None:
        """End an owner's requests; they answer with what is finished."""
        for entry in self._running:
            if entry.owner == owner:
                entry.ticket.end()

    def progress(self, owner: str) -> tuple[dict[str, Any], Image.Image | None]:
        """How far the oldest request of an owner is, and its image so far."""
        mine = [entry for entry in self._running if entry.owner == owner]
        state = {"skipped": False, "interrupted": False, "job": "", "job_count": len(mine), "job_no": 0}
        if not mine:
            return {"progress": 0.0, "eta_relative": 0.0, "state": _steps(state, 0), "textinfo": None}, None
        first = mine[0]
        done = first.ticket.progress
        took = time.monotonic() - first.started
        left = took * (1 - done) / done if done else 0.0
        state["job"] = "generate"
        return (
            {"progress": done, "eta_relative": left, "state": _steps(state, done), "textinfo": None},
            first.image,
        )


def _steps(state: dict[str, Any], done: float) -> dict[str, Any]:
    """With steps in per cent, as clients draw bars of them."""
    return {**state, "job_timestamp": "0", "sampling_step": round(100 * done), "sampling_steps": 100}
