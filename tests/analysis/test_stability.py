"""Ranges against a plain forward pass, and headroom that says when fp16 overflows."""

import json
import math

import pytest
import torch

from cogview.analysis.stability import headroom, largest_score, layer_ranges
from cogview.cli.app import main
from cogview.transformer.attention import View
from tests.transformer.tiny import tiny_model

IDS = torch.randint(0, 10, (2, 9), generator=torch.Generator().manual_seed(0))


def test_headroom_is_the_doublings_that_fp16_takes() -> None:
    for size in (1.0, 300.0, 40000.0):
        left = headroom(size)
        fits, bursts = (torch.tensor(size * 2.0 ** math.floor(left + extra)).half() for extra in (0, 1))
        assert torch.isfinite(fits) and torch.isinf(bursts)
    assert headroom(1e6) < 0 and headroom(float("nan")) == -math.inf and headroom(0) == math.inf


def test_the_stream_is_what_the_model_records() -> None:
    model = tiny_model().eval()
    record: list[torch.Tensor] = []
    with torch.no_grad():
        model(IDS, torch.arange(9), record=record)
    found = layer_ranges(model, IDS, torch.arange(9))
    assert [r.stream for r in found] == pytest.approx([float(x.abs().max()) for x in record[1:]], rel=1e-6)
    assert all(r.largest >= r.stream > 0 for r in found)


def test_scores_are_the_largest_that_a_query_sees() -> None:
    model = tiny_model().eval()
    module, x = model.blocks[0].attention, torch.randn(2, 9, model.config.hidden)
    query, key, _ = (
        part.view(2, 9, model.config.heads, -1).transpose(1, 2) for part in module.qkv(x).chunk(3, -1)
    )
    scores = (query @ key.mT / math.sqrt(model.config.head_dim)).abs()
    assert largest_score(module, x, View(causal=True)) == pytest.approx(float(scores.tril().max()), rel=1e-6)
    seen = torch.zeros(1, 1, 9, 9, dtype=torch.bool)
    seen[..., 0] = True
    first = largest_score(module, x, View(allowed=seen))
    assert first == pytest.approx(float(scores[..., 0].max()), rel=1e-6)


def test_a_larger_branch_is_seen_where_it_is() -> None:
    """Sandwich-LN's point: a branch a thousand times larger does not reach the residual stream."""
    model = tiny_model().eval()
    before = layer_ranges(model, IDS, torch.arange(9))
    with torch.no_grad():
        model.blocks[0].mlp.down.weight *= 1000
    after = layer_ranges(model, IDS, torch.arange(9))
    assert after[0].feed_forward > 100 * before[0].feed_forward
    assert after[0].stream < 10 * before[0].stream


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "stability", "--prompt", "flag", "--json"]) == 0
    layers = json.loads(capsys.readouterr().out)
    assert [layer["layer"] for layer in layers] == list(range(8))
    assert all(0 < layer["headroom"] < 16 for layer in layers)
