"""OpenTelemetry traces of requests: time in the queue, computation. They contain no prompts and no keys.

Without a configured SDK (`cogview serve --traces` configures it) the spans do nothing and cost nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from fastapi.telemetry import TelemetryConfig
from opentelemetry import trace
from opentelemetry.context import Context

from cogview import __version__
from cogview.errors import CogViewError

TRACER = trace.get_tracer("cogview", __version__)
UNTRACED_PATHS = ("/healthz", "/readyz", "/metrics", "/studio/", "/favicon.ico")
TELEMETRY: TelemetryConfig = {  # for FastAPI, which opens a span for each request and continues client traces
    "exclude": lambda scope: str(scope["path"]).startswith(UNTRACED_PATHS),
    "metrics": False,
    "logs": False,
    "auto_configure": False,
}


def start_exporting() -> None:
    """Send traces by OTLP over HTTP, as environment variables (``OTEL_EXPORTER_OTLP_ENDPOINT``, …) configure.

    Raises:
        CogViewError: the libraries are not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise CogViewError("--traces needs the extra: pip install 'cogview[traces]'") from None
    resource = Resource.create({"service.name": "cogview", "service.version": __version__})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)


def record_wait(context: Context, since: int, until: int) -> None:
    """Record a span for a request's time in the queue; since, until: nanoseconds since the epoch."""
    TRACER.start_span("queue", context=context, start_time=since).end(until)


@contextmanager
def compute_spans(parts: list[tuple[Context, int]]) -> Iterator[None]:
    """Open a span in each request of a batch; parts: context and number of images of each request."""
    with ExitStack() as stack:
        for context, images in parts:
            attributes = {"cogview.pictures": images, "cogview.requests": len(parts)}
            span = TRACER.start_as_current_span("compute", context=context, attributes=attributes)
            stack.enter_context(span)
        yield
