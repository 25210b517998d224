"""The progress of several pieces of work as that of one."""

from __future__ import annotations

from cogview.generation.engine import Progress


class Parts:
    """Parts of one piece of work that is ``total`` large, in any unit, done one after the other or in turns.

    What is told of each part, done of its own total, is passed on to ``progress`` with all of the others.
    """

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total = progress, total
        self.done: list[float] = []

    def part(self, size: float) -> Progress | None:
        """The progress of a part that is ``size`` large; None where nobody listens."""
        if self.progress is None:
            return None
        number, told = len(self.done), self.progress
        self.done.append(0.0)

        def report(done: int, total: int) -> None:
            self.done[number] = size * done / total
            told(min(round(sum(self.done)), self.total), self.total)

        return report
