"""Counts and times of the server in Prometheus' text format; no library needed for so little."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import accumulate

SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
COUNTS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
HELP = {
    "cogview_requests_total": "Answers by path and status.",
    "cogview_pictures_total": "Pictures made, by model.",
    "cogview_tokens_total": "Tokens drawn, by model.",
    "cogview_cancelled_total": "Requests given up, by reason: client or timeout.",
    "cogview_failures_total": "Computations that failed without the request being at fault.",
    "cogview_wait_seconds": "Time from a request's arrival to the start of its computation.",
    "cogview_run_seconds": "Time a computation took; several requests may share one.",
    "cogview_batch_pictures": "Pictures that were drawn together.",
    "cogview_waiting_requests": "Requests in the queue.",
    "cogview_running_requests": "Requests being computed.",
}
Labels = tuple[tuple[str, str], ...]


class _Histogram:
    """Counts of values up to each bound, their sum."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds, self.sum = bounds, 0.0
        self.counts = [0] * (len(bounds) + 1)

    def add(self, value: float) -> None:
        place = sum(value > bound for bound in self.bounds)
        self.counts[place] += 1
        self.sum += value

    def lines(self, name: str) -> list[str]:
        running = list(accumulate(self.counts))
        ends = [f"{bound:g}" for bound in self.bounds] + ["+Inf"]
        buckets = [f'{name}_bucket{{le="{end}"}} {count}' for end, count in zip(ends, running, strict=True)]
        return [*buckets, f"{name}_sum {self.sum:.6f}", f"{name}_count {running[-1]}"]


class Metrics:
    """All that is counted; may be used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counters: dict[str, dict[Labels, float]] = {}
        self._gauges: dict[str, Callable[[], float]] = {}
        self._histograms = {
            "cogview_wait_seconds": _Histogram(SECONDS),
            "cogview_run_seconds": _Histogram(SECONDS),
            "cogview_batch_pictures": _Histogram(COUNTS),
        }

    def add(self, name: str, value: float = 1, **labels: str) -> None:
        """Add to a counter."""
        with self._lock:
            own = self._counters.setdefault(name, {})
            key = tuple(sorted(labels.items()))
            own[key] = own.get(key, 0) + value

    def observe(self, name: str, value: float) -> None:
        """Add a value to a histogram."""
        with self._lock:
            self._histograms[name].add(value)

    def gauge(self, name: str, read: Callable[[], float]) -> None:
        """What is read when it is asked for."""
        self._gauges[name] = read

    def value(self, name: str, **labels: str) -> float:
        """A counter's value; 0 for one that was never added to."""
        with self._lock:
            return self._counters.get(name, {}).get(tuple(sorted(labels.items())), 0)

    def text(self) -> str:
        """Everything in Prometheus' text format, version 0.0.4."""
        with self._lock:
            parts = [
                (name, "counter", [f"{name}{_labels(key)} {value:g}" for key, value in sorted(own.items())])
                for name, own in self._counters.items()
            ]
            parts += [(name, "histogram", own.lines(name)) for name, own in self._histograms.items()]
        parts += [(name, "gauge", [f"{name} {read():g}"]) for name, read in self._gauges.items()]
        lines = []
        for name, kind, own_lines in sorted(parts):
            lines += [f"# HELP {name} {HELP[name]}", f"# TYPE {name} {kind}", *own_lines]
        return "\n".join(lines) + "\n"


def _labels(key: Labels) -> str:
    def escaped(value: str) -> str:
        return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")

    return "{" + ",".join(f'{name}="{escaped(value)}"' for name, value in key) + "}" if key else ""
