"""Parts that need no server: kept pictures, counts."""

from __future__ import annotations

import numpy as np
import pytest

from cogview.serving.metrics import SECONDS, Metrics
from cogview.serving.pictures import ImageStore


def test_kept_pictures_make_room_and_expire(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("cogview.serving.pictures.time.monotonic", lambda: now[0])
    shelf = ImageStore(max_bytes=100, seconds=60)
    names = [shelf.put(bytes([i]) * 40, "png") for i in range(3)]
    assert len(set(names)) == 3 and min(map(len, names)) > 22
    assert shelf.get(names[0]) is None and shelf.get(names[2]) == (bytes([2]) * 40, "image/png")
    large = shelf.put(b"x" * 500, "webp")
    assert shelf.get(large) == (b"x" * 500, "image/webp") and shelf.get(names[2]) is None
    now[0] += 61
    assert shelf.get(large) is None


def test_histograms_count_up_to_each_bound() -> None:
    metrics, values = Metrics(), np.random.default_rng(0).exponential(20, 200).tolist()
    for value in [*values, 0.1, 300.0]:  # a bound counts for itself
        metrics.observe("cogview_run_seconds", value)
    lines = dict(line.rsplit(" ", 1) for line in metrics.text().splitlines() if not line.startswith("#"))
    for bound in SECONDS:
        expected = sum(value <= bound for value in [*values, 0.1, 300.0])
        assert float(lines[f'cogview_run_seconds_bucket{{le="{bound}"}}']) == expected
    assert (
        float(lines['cogview_run_seconds_bucket{le="+Inf"}'])
        == float(lines["cogview_run_seconds_count"])
        == 202
    )
    assert float(lines["cogview_run_seconds_sum"]) == pytest.approx(sum(values) + 300.1)


def test_labels_are_quoted() -> None:
    metrics = Metrics()
    metrics.add("cogview_pictures_total", 2, model='a "b"\n\\')
    metrics.add("cogview_pictures_total", model='a "b"\n\\')
    assert 'cogview_pictures_total{model="a \\"b\\"\\n\\\\"} 3.0' in metrics.text().splitlines()
