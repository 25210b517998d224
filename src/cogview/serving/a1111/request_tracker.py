"""Tracks requests by owner, for progress, partial images and interruption.

A1111 has a single user; here each API key sees and interrupts only its own requests.
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
class TrackedRequest:
    """A request that waits or is being computed; image: its latest partial image."""

    owner: str
    ticket: Ticket
    started: float = field(default_factory=time.monotonic)
    image: Image.Image | None = None


class RequestTracker:
    """Current requests, and the model that each owner has selected."""

    def __init__(self) -> None:
        self._requests: list[TrackedRequest] = []
        self.selected_models: dict[str, str] = {}

    @contextmanager
    def track(self, owner: str, ticket: Ticket) -> Iterator[TrackedRequest]:
        """Track a request inside the ``with`` block."""
        request = TrackedRequest(owner, ticket)
        self._requests.append(request)
        try:
            yield request
        finally:
            self._requests.remove(request)

    def interrupt(self, owner: str) -> None:
        """End an owner's requests; their responses contain the images finished so far."""
        for request in self._requests:
            if request.owner == owner:
                request.ticket.end()

    def progress(self, owner: str) -> tuple[dict[str, Any], Image.Image | None]:
        """A1111's progress object of an owner's oldest request, and its latest partial image."""
        requests = [request for request in self._requests if request.owner == owner]
        state = {"skipped": False, "interrupted": False, "job": "", "job_count": len(requests), "job_no": 0}
        if not requests:
            return {"progress": 0.0, "eta_relative": 0.0, "state": _steps(state, 0), "textinfo": None}, None
        oldest = requests[0]
        done = oldest.ticket.progress
        elapsed = time.monotonic() - oldest.started
        left = elapsed * (1 - done) / done if done else 0.0
        state["job"] = "generate"
        return (
            {"progress": done, "eta_relative": left, "state": _steps(state, done), "textinfo": None},
            oldest.image,
        )


def _steps(state: dict[str, Any], done: float) -> dict[str, Any]:
    """Add progress as 100 sampling steps, which clients show as a progress bar."""
    return {**state, "job_timestamp": "0", "sampling_step": round(100 * done), "sampling_steps": 100}
