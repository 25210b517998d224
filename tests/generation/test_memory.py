"""Free memory, and what running out of it looks like in PyTorch's, Python's and our own words."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cogview.generation import engine
from cogview.transformer.cache import KVCache
from tests.generation import tiny


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="Linux tells it there")
def test_free_memory_is_what_the_system_says() -> None:
    free = engine.free_memory(torch.device("cpu"))
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    assert 0 < free <= int(lines["MemTotal"].split()[0]) * 1024


@pytest.mark.parametrize(
    ("limit", "used", "free"),
    [("1000", "400", 600), ("1000", "1200", 0), ("max", "400", 1 << 62), (None, "", 1 << 62)],
)
def test_a_containers_limit_counts(tmp_path: Path, limit: str | None, used: str, free: int) -> None:
    if limit is not None:
        (tmp_path / "memory.max").write_text(limit + "\n")
        (tmp_path / "memory.current").write_text(used + "\n")
    assert engine._container(tmp_path) == free


def test_a_row_takes_its_cache_and_more() -> None:
    shape = tiny.config()
    sizes = [engine.bytes_per_row(shape, length, 64, torch.float32) for length in (10, 20)]
    assert sizes[1] - sizes[0] == KVCache.size_in_bytes(shape, 1, 10)
    assert sizes[0] > KVCache.size_in_bytes(shape, 1, 10)
    assert engine.rows_that_fit(10 * sizes[0], sizes[0]) == 8


def test_pytorch_really_running_out_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60)
    assert engine.ran_out(caught.value)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_other_errors(error: Exception, expected: bool) -> None:
    assert engine.ran_out(error) is expected
