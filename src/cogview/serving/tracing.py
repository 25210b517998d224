"""OpenTelemetry traces: a request, its time in the queue, its computation. Prompts and keys are in none.

Without an SDK set up (`cogview serve --traces` does it) the API's spans do nothing and cost nothing.
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
QUIET = ("/healthz", "/readyz", "/metrics", "/studio/", "/favicon.ico")  # of these there are no traces
TELEMETRY: TelemetryConfig = {  # of FastAPI, which makes the span of a request and continues a client's trace
    "exclude": lambda scope: str(scope["path"]).startswith(QUIET),
    "metrics": False,
    "logs": False,
    "auto_configure": False,
}


def start_exporting() -> None:
    """Send traces by OTLP over HTTP, as the environment says (``OTEL_EXPORTER_OTLP_ENDPOINT``, …).

    Raises CogViewError where the libraries are missing.
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


def waited(context: Context, since: int, until: int) -> None:
    """A span of a request's time in the queue; since, until: nanoseconds of the clock."""
    TRACER.start_span("queue", context=context, start_time=since).end(until)


@contextmanager
def computing(parts: list[tuple[Context, int]]) -> Iterator[None]:
    """A span in each of the requests that are computed together; parts: their contexts and images."""
    with ExitStack() as stack:
        for context, pictures in parts:
            told = {"cogview.pictures": pictures, "cogview.requests": len(parts)}
            stack.enter_context(TRACER.start_as_current_span("compute", context=context, attributes=told))
        yield
