"""The benchmarks' own arithmetic and baselines, at small sizes; what they measure belongs to no test."""

import runpy
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from cogview.transformer.cache import KVCache
from cogview.transformer.config import TransformerConfig
from cogview.transformer.model import Transformer

ROOT = Path(__file__).parents[1]


def test_the_released_loop_computes_what_a_model_with_a_cache_does() -> None:
    """The baseline of decode_released.py, with a memory that grows and a plain LayerNorm."""
    script = runpy.run_path(str(ROOT / "benchmarks" / "decode_released.py"))
    loop_class = script["ReleasedLoop"]
    config = TransformerConfig(
        layers=2, hidden=32, heads=8, vocab_size=128, max_positions=20, norm_relax="none"
    )
    torch.manual_seed(0)
    model = Transformer(config).eval()
    ids, positions = torch.randint(128, (2, 9)), torch.arange(9).expand(2, -1)
    memory: list[torch.Tensor] = []
    cache = KVCache.allocate(config, 2, 9)
    with torch.inference_mode():
        for a, b in pairwise([0, 4, 5, 6, 9]):
            logits, memory = loop_class(model).read(ids[:, a:b], positions[:, a:b], memory)
            expected = model.logits(model(ids[:, a:b], positions[:, a:b], cache=cache)[:, -1])
            torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    assert [state.shape for state in memory] == [(2, 9, 32)] * 2


def test_the_time_of_a_picture_is_the_area_under_its_steps() -> None:
    """A step that grows linearly from 1 to 3 over the places takes 2 on average."""
    picture = runpy.run_path(str(ROOT / "benchmarks" / "decode_released.py"))["picture"]
    assert picture([1.0, 2.0, 3.0], [0, 511, 1022]) == pytest.approx(2 * 1024)


def test_loss_curves_are_smoothed_and_compared_where_both_have_steps() -> None:
    script = runpy.run_path(str(ROOT / "examples" / "sparse_attention" / "run.py"))
    assert script["smooth"]([(1, 1.0), (2, 2.0), (3, 6.0)], 1) == [(1, 1.5), (2, 3.0), (3, 4.0)]
    lines = [{"kind": "train", "step": step, "loss": 2.0} for step in (10, 20)]
    worse = [{**line, "loss": 2.2} for line in lines[:1]]
    said = script["compare"]({"dense": lines, "sparse": worse})
    assert said.startswith("step 10:") and "10.0% at most" in said


def test_the_hierarchy_takes_one_forward_and_six() -> None:
    """hierarchical.py draws the same size both ways; the hierarchy takes 1 + 6 forwards over large codes."""
    script = runpy.run_path(str(ROOT / "benchmarks" / "hierarchical.py"))
    clock = iter(range(1000))
    ways = {name: script[name](24, 1, 32, lambda: float(next(clock))) for name in ("sliding", "hierarchical")}
    times = script["measure"](ways, images=2, rounds=1)
    assert ways["hierarchical"].forwards == {"direct": 2, "iterative": 12}  # and the turn for warming up
    assert ways["sliding"].forwards == {"large codes drawn one by one": 576, "windows": 9}
    found = script["report"](times, 2)
    assert found["seconds_a_picture"] == {"sliding": 1.0, "hierarchical": 1.5}  # the clock ticks at each step
    assert found["as_fast"] == pytest.approx(2 / 3) and found["as_fast_after_the_first_stage"] == 0.5
    clock = iter(range(10_000))
    with torch.inference_mode():  # every step takes a tick: the base's 144 tokens and the 576 of the windows
        assert script["released"](24, 1, 32, lambda: float(next(clock)), 1) == 144 + 576
