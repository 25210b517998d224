"""The packed decoder against ``Transformer.forward`` over the whole sequence."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cogview.errors import CogViewError
from cogview.generation import decoder as inference
from cogview.generation.decoder import Decoder, decode_step, pack, prefill
from cogview.transformer.attention import Prefix, Visibility
from cogview.transformer.cache import KVCache
from cogview.transformer.model import Transformer
from tests.generation import tiny

LENGTH, GIVEN = 14, 6
ROWS = slice(0, tiny.CODES)


@torch.inference_mode()
def stepwise(decoder: Decoder, ids: Tensor, visibility: Visibility | None = None) -> Tensor:
    """Logits (b, LENGTH - GIVEN + 1, rows) after the first ``GIVEN`` tokens and each one after them."""
    positions = torch.arange(LENGTH).expand(len(ids), -1)
    cache = KVCache.allocate(decoder.config, len(ids), LENGTH, decoder.dtype)
    hidden = prefill(decoder, ids[:, :GIVEN], positions[:, :GIVEN], cache, visibility)
    logits = [decoder.head(hidden)]
    for i in range(GIVEN, LENGTH):
        logits.append(decode_step(decoder, ids[:, i], positions[:, i], cache))
    return torch.stack(logits, 1)


def random_ids(batch: int = 3) -> Tensor:
    return torch.randint(0, tiny.form().vocabulary.size, (batch, LENGTH))


@pytest.mark.parametrize(
    "changes",
    [
        {"norm": norm, "norm_relax": relax}
        for norm in ("pre", "post", "sandwich")
        for relax in ("none", "token")
    ]
    + [{"attention_relax": 32.0, "numerics": "written"}, {"ffn_multiple": 2, "heads": 1}],
)
def test_a_cache_and_packed_weights_change_nothing(changes: dict[str, Any]) -> None:
    model = tiny.transformer(**changes)
    ids = random_ids()
    with torch.inference_mode():
        whole = model.logits(model(ids, torch.arange(LENGTH)), ROWS)[:, GIVEN - 1 :]
    torch.testing.assert_close(stepwise(pack(model, ROWS), ids), whole, atol=2e-5, rtol=1e-5)


def test_a_prefix_is_seen_both_ways() -> None:
    model, ids, prefix = tiny.transformer(), random_ids(), Prefix(4)
    with torch.inference_mode():
        whole = model.logits(model(ids, torch.arange(LENGTH), prefix), ROWS)[:, GIVEN - 1 :]
    torch.testing.assert_close(stepwise(pack(model, ROWS), ids, prefix), whole, atol=2e-5, rtol=1e-5)


def test_the_released_norm_over_the_whole_tensor() -> None:
    """One row, read at once: what is cut into steps has other maxima, which is the released rule's doing."""
    model = tiny.transformer(norm_relax="tensor", numerics="released")
    ids, positions = random_ids(1), torch.arange(LENGTH)
    decoder = pack(model)
    cache = KVCache.allocate(model.config, 1, LENGTH)
    with torch.inference_mode():
        logits = decoder.head(prefill(decoder, ids, positions[None], cache))
        torch.testing.assert_close(logits, model.logits(model(ids, positions))[:, -1], atol=2e-5, rtol=1e-5)


def test_int8_is_close_and_its_rows_are_independent() -> None:
    model, ids = tiny.transformer(), random_ids(8)
    exact, rounded = (stepwise(pack(model, ROWS, precision), ids) for precision in ("fp32", "int8"))
    correlation = torch.corrcoef(torch.stack([exact.flatten(), rounded.flatten()]))[0, 1]
    assert correlation > 0.99
    decoder = pack(model, ROWS, "int8")
    for row in range(8):
        torch.testing.assert_close(
            stepwise(decoder, ids[row : row + 1])[0], rounded[row], atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize(("precision", "digits"), [("bf16", 2**-8), ("fp16", 2**-11)])
@pytest.mark.parametrize("changes", [{}, {"norm": "post"}, {"norm": "sandwich", "norm_relax": "token"}])
def test_half_precision_errs_by_its_digits(precision: Any, digits: float, changes: dict[str, Any]) -> None:
    """As far from float64 as rounding goes, and twice as light; what layers add up stays float32."""
    model, ids = tiny.transformer(**changes), random_ids(8)
    decoder = pack(model, ROWS, precision)
    found, again = stepwise(decoder, ids), pack(model, ROWS)
    with torch.inference_mode():
        double = deepcopy(model).double()
        whole = double.logits(double(ids, torch.arange(LENGTH)), ROWS)[:, GIVEN - 1 :]
    error = (found - whole).norm() / whole.norm()
    assert found.dtype == torch.float32 and digits / 50 < error < 4 * digits
    assert decoder.dtype.itemsize == 2 and decoder.tokens.dtype == torch.float32
    layers = sum(parameter.numel() for parameter in model.blocks.parameters())
    assert again.size - decoder.size == 2 * layers
    alone = stepwise(decoder, ids[:1])[0]
    torch.testing.assert_close(alone, found[0], atol=4 * digits * found.abs().max().item(), rtol=0)


def test_a_model_whose_layers_are_half_already_is_packed_alike(tmp_path: Path) -> None:
    """As it is read for ``--precision fp16``: no float32 copy of the layers is ever made."""
    model, ids = tiny.transformer(), random_ids(2)
    model.save(tmp_path / "m")
    whole, half = (Transformer.from_directory(tmp_path / "m", layers=x) for x in (None, torch.float16))
    kinds = {name: x.dtype for name, x in half.named_parameters()}
    low = {name for name, dtype in kinds.items() if dtype == torch.float16}
    assert low == {name for name in kinds if name.startswith("blocks.") and "norm" not in name}
    assert torch.equal(stepwise(pack(half, ROWS, "fp16"), ids), stepwise(pack(whole, ROWS, "fp16"), ids))


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_int8_against_its_definition(gelu: bool, biased: bool) -> None:
    """Weights on 255 levels by output, inputs on 255 (or 127) by row, products summed exactly."""
    weight, x = torch.randn(48, 32), torch.randn(5, 32) * torch.tensor([[1.0], [1e-4], [30.0], [0.0], [2.0]])
    bias = torch.randn(48) if biased else None
    levels = inference._levels()
    by_output = weight.double().abs().amax(1, keepdim=True) / 127
    by_row = x.double().abs().amax(1, keepdim=True).clamp(min=1e-30) / levels
    sums = (x / by_row).round() @ (weight / by_output).round().T
    expected = sums * by_row * by_output.T + (0 if bias is None else bias)
    if gelu:
        expected = torch.nn.functional.gelu(expected, approximate="tanh")
    found = inference.int8(weight, bias, gelu)(x)
    # a value half-way between two levels may go either way
    torch.testing.assert_close(found.double(), expected, atol=0.02, rtol=1e-2)
    torch.testing.assert_close(found[3], expected[3].float(), atol=1e-6, rtol=1e-6)  # a row of zeros


def test_only_the_rows_asked_for_come() -> None:
    model, ids = tiny.transformer(), random_ids()
    some, every = stepwise(pack(model, slice(10, 30)), ids), stepwise(pack(model), ids)
    assert some.shape[-1] == 20
    torch.testing.assert_close(some, every[..., 10:30], atol=1e-5, rtol=1e-5)


def test_int8_needs_onednn() -> None:
    with pytest.raises(CogViewError, match="int8 needs an x86 CPU"):
        inference.choose_linear("int8", torch.device("cuda"), torch.float32)
