"""Prometheus metrics of the server."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

disable_created_metrics()  # type: ignore[no-untyped-call]
SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
COUNTS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
COUNTERS = {
    "cogview_requests_total": ("Responses, by path and status.", ("path", "status")),
    "cogview_asked_total": ("Requested images, by the name of the API key.", ("key",)),
    "cogview_pictures_total": ("Generated images, by model.", ("model",)),
    "cogview_tokens_total": ("Generated tokens, by model.", ("model",)),
    "cogview_cancelled_total": ("Cancelled requests, by reason: client or timeout.", ("reason",)),
    "cogview_failures_total": ("Computations that failed through no fault of the request.", ()),
}
HISTOGRAMS = {
    "cogview_wait_seconds": ("Time from a request's arrival to the start of its computation.", SECONDS),
    "cogview_run_seconds": ("Duration of a computation, which several requests may share.", SECONDS),
    "cogview_batch_pictures": ("Images in a batch.", COUNTS),
}
GAUGES = {
    "cogview_waiting_requests": "Requests in the queue.",
    "cogview_running_requests": "Requests being computed.",
}


class Metrics:
    """All metrics of one server; may be used from any thread."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._counters = {
            name: Counter(name, text, labels, registry=self.registry)
            for name, (text, labels) in COUNTERS.items()
        }
        self._histograms = {
            name: Histogram(name, text, buckets=bounds, registry=self.registry)
            for name, (text, bounds) in HISTOGRAMS.items()
        }

    def add(self, name: str, value: float = 1, **labels: str) -> None:
        """Add to a counter."""
        counter = self._counters[name]
        (counter.labels(**labels) if labels else counter).inc(value)

    def observe(self, name: str, value: float) -> None:
        """Add a value to a histogram."""
        self._histograms[name].observe(value)

    def gauge(self, name: str, read: Callable[[], float]) -> None:
        """Add a gauge whose value is read by calling ``read``."""
        Gauge(name, GAUGES[name], registry=self.registry).set_function(read)

    def value(self, name: str, **labels: str) -> float:
        """A counter's value; 0 if nothing was ever added to it."""
        return self.registry.get_sample_value(name, labels) or 0

    def text(self) -> str:
        """All metrics in Prometheus' text format, version 0.0.4."""
        return generate_latest(self.registry).decode()
