"""Progress in notebooks."""

from __future__ import annotations

import time
from typing import Any

from cogview.errors import CogViewError

SECONDS = 0.1  # between two updates


class NotebookProgress:
    """A progress bar in a notebook: ``model.generate(..., progress=NotebookProgress())``.

    Shows the percentage done and the seconds left; each call gets a new bar. Raises CogViewError outside of
    IPython.
    """

    def __init__(self) -> None:
        try:
            from IPython.display import display
        except ImportError:
            raise CogViewError("IPython is not installed; leave out progress, or pass a function") from None
        self._display: Any = display
        self._handle: Any = None
        self._started = self._shown = 0.0
        self._done = 0

    def __call__(self, done: int, total: int) -> None:
        """The progress callback: ``done`` of ``total`` tokens."""
        now = time.monotonic()
        if done < self._done:  # a new call
            self._handle = None
        self._done = done
        if self._handle is None:
            self._started = now
        elif now - self._shown < SECONDS and done < total:
            return
        self._shown = now
        left = (now - self._started) * (total - done) / max(done, 1)
        text = f"{round(100 * done / total)} %" + (f", {left:.0f} s left" if done < total else "")
        bar = {
            "text/plain": text,
            "text/html": f'<progress value="{done}" max="{total}" style="width:20em"></progress> {text}',
        }
        if self._handle is None:
            self._handle = self._display(bar, raw=True, display_id=True)
        else:
            self._handle.update(bar, raw=True)
