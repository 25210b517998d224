"""What a run shows: a live bar on a terminal, plain lines elsewhere, and the signals it stops at."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from types import FrameType, TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

SIGNALS = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGBREAK")  # the last is Windows', the third is not


class Reporter:
    """A bar with loss, speed and time left on a terminal; else one plain line a log step."""

    def __init__(self, console: Console, steps: int, done: int, unit: str) -> None:
        self.console, self.steps, self.unit = console, steps, unit
        columns = (
            TextColumn("step"), MofNCompleteColumn(), BarColumn(), TextColumn("{task.fields[facts]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
        )  # fmt: skip
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("", total=steps, completed=done, facts="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._bar.stop()

    def step(self, step: int) -> None:
        """A step is done."""
        self._bar.update(self._task, completed=step)

    def log(self, step: int, line: Mapping[str, Any], seconds_left: float) -> None:
        """Show a log line."""
        speed = f"{line['items_per_second']:.1f} {self.unit}/s"
        losses = {name: value for name, value in line.items() if name == "loss" or name.endswith("_loss")}
        facts = "  ".join([*(f"{name} {value:.4f}" for name, value in losses.items()), speed])
        self._bar.update(self._task, completed=step, facts=facts)
        if not self.console.is_terminal:
            self.say(f"step {step}/{self.steps}  {facts}  {duration(seconds_left)} left")

    def say(self, text: str) -> None:
        """Print a line as it is."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """Seconds as ``1:02:03``."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}"


class Signals:
    """Within, the signals only set ``received``; a second SIGINT interrupts at once."""

    def __init__(self) -> None:
        self.received: str | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for name in SIGNALS:
            if hasattr(signal, name):
                number = getattr(signal, name)
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received == "SIGINT" and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number).name
