"""Local attention against the release's operators: scores, weighted sums and gradients of five windows."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import Tensor

from cogview.transformer.attention import Window
from cogview.transformer.attention.halo import attend
from cogview.transformer.attention.window import Grid, Keys, Layout
from tests.parity.cogview2 import recorded
from tests.reference.neighbourhood_attention import similarity, weighting

RUN = recorded("local_attention_ops")
NAMES = sorted({name.partition(".")[0] for name in RUN})


def case(name: str) -> tuple[list[Tensor], Window]:
    rows, columns, causal, _ = RUN[f"{name}.params"].tolist()
    triple = [RUN[f"{name}.{x}"].clone().requires_grad_() for x in "qkv"]
    return triple, Window(rows, columns, bool(causal))


def check_gradients(name: str, out: Tensor, triple: list[Tensor]) -> None:
    torch.testing.assert_close(out, RUN[f"{name}.out"], atol=1e-5, rtol=1e-5)
    slopes = torch.autograd.grad(out, triple, RUN[f"{name}.grad_out"])
    for letter, slope in zip("qkv", slopes, strict=True):
        torch.testing.assert_close(slope, RUN[f"{name}.grad_{letter}"], atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_two_operators(name: str) -> None:
    (query, key, value), window = case(name)
    scores = similarity(query, key, window)
    torch.testing.assert_close(scores, RUN[f"{name}.scores"], atol=1e-5, rtol=1e-5)
    out = weighting(value, scores.softmax(-1), window)
    check_gradients(name, out, [query, key, value])


@pytest.mark.parametrize("name", NAMES)
def test_tiles(name: str) -> None:
    """The same attention without the scores, the key pictures repeated for the queries they serve."""
    triple, window = case(name)
    query, key, value = triple
    times = len(query) // len(key)
    grid, small = (cast(Grid, tuple(x.shape[-2:])) for x in (query, key))
    flat = [query, key.repeat_interleave(times, 0), value.repeat_interleave(times, 0)]
    rows = [x.flatten(2).mT[:, None] for x in flat]  # (b, 1, n, c)
    out = attend(rows[0], rows[1], rows[2], Layout(grid, (Keys(0, small, window),)), scale=1.0)
    check_gradients(name, out[:, 0].mT.reshape(query.shape), triple)
