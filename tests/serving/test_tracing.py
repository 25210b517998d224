"""Traces: a request, its wait and its computation are one tree, and no prompt is in it."""

from __future__ import annotations

import pytest

pytest.importorskip("opentelemetry.sdk.trace", reason="the extra `traces` is not installed")
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from cogview.serving.served import Models
from tests.serving.conftest import serving, until

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(scope="module")
def spans() -> InMemorySpanExporter:
    """What is traced in this process from here on."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


def test_a_request_is_one_tree_of_spans(spans: InMemorySpanExporter, plain: Models) -> None:
    with serving(plain) as site:
        spans.clear()
        assert site.draw("a red circle", n=2).status == 200
        body = {"prompt": "a green circle"}
        assert site.ask("/v1/images/generations", body, traceparent=PARENT).status == 200
        assert site.ask("/healthz").status == 200
        until(lambda: sum(one.kind is SpanKind.SERVER for one in spans.get_finished_spans()) == 2)
    found = spans.get_finished_spans()
    requests = [one for one in found if one.kind is SpanKind.SERVER]
    assert [one.name for one in requests] == ["POST /v1/images/generations"] * 2
    traces = [one.get_span_context().trace_id for one in requests]
    for name in ("queue", "compute"):
        assert [one.get_span_context().trace_id for one in found if one.name == name] == traces
        assert all(one.parent for one in found if one.name == name)
    assert [one.attributes["cogview.pictures"] for one in found if one.name == "compute"] == [2, 1]
    assert f"{traces[1]:032x}" == PARENT.split("-")[1] and f"{traces[0]:032x}" not in PARENT
    assert "circle" not in " ".join(one.to_json() for one in found)
