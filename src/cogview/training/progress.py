"""A run's output (a live progress bar on a terminal, plain lines elsewhere) and its stop signals."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from types import FrameType, TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

SIGNALS = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGBREAK")  # SIGUSR1 is not on Windows, SIGBREAK only there


class Reporter:
    """A progress bar with loss, speed and remaining time on a terminal; else one plain line per log step."""

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
        """Update the bar after a step."""
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
        """Print a line without markup."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """Seconds as ``1:02:03``."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}"


class Signals:
    """A context in which signals only set ``received``; a second SIGINT interrupts immediately."""

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
