"""Direct and iterative super-resolution against the release's runs: positions, masks, layers, last states."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cogview.errors import CogViewError
from cogview.importers.upsamplers import (
    super_resolution_config,
    super_resolution_name,
)
from cogview.sequences.super_resolution import DirectFormat, Inputs, IterativeFormat, upscaler_config
from cogview.transformer.config import TransformerConfig
from cogview.transformer.model import Transformer
from tests.parity.cogview2 import HEADS, form, recorded

VOCABULARY = form().vocabulary
DIRECT = DirectFormat(
    vocabulary=VOCABULARY,
    text_slots=8,
    small=(4, 4),
    grid=(12, 12),
    window=(9, 5),
    image_start=512,
    first_position=1024,
)
ITERATIVE = IterativeFormat(
    vocabulary=VOCABULARY, text_slots=6, grid=(12, 12), window=(9, 5), first_position=1024
)


def model(name: str, decoder_from: int | None = None) -> tuple[Transformer, dict[str, Tensor]]:
    run = recorded(name)
    extra = {key: tensor for key, tensor in run.items() if key.startswith("mixins.")}
    given = recorded("coglm_tiny") | extra
    state = {super_resolution_name(name): tensor for name, tensor in given.items()}
    built = Transformer(super_resolution_config(state, HEADS, decoder_from)).eval()
    built.load_state_dict(state)
    return built, run


def forward(built: Transformer, run: dict[str, Tensor], made: Inputs) -> tuple[Tensor, dict[str, Tensor]]:
    """The last states, and what went into and came out of the first layer's projections."""
    seen: dict[str, Tensor] = {}
    attention = built.blocks[0].attention
    for name in ("qkv", "out", "decoder_qkv", "decoder_out"):
        if getattr(attention, name) is not None:
            getattr(attention, name).register_forward_hook(
                lambda _, given, result, name=name: seen.update({f"{name}.in": given[0], name: result})
            )
    with torch.no_grad():
        hidden = built(run["tokens"], made.positions, made.visibility)
    return hidden, seen


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_direct_super_resolution_is_the_releases() -> None:
    built, run = model("dsr_small_layout", DIRECT.decoder_from)
    tokens = run["tokens"]
    made = DIRECT.inputs([range(5)] * 2, tokens[:, 8:24])  # 5 pieces, whichever: 3 places are empty
    assert torch.equal(made.positions, run["position_ids"].expand(2, -1))
    assert torch.equal(made.ids[:, 8:], tokens[:, 8:])
    mask = made.visibility.dense_mask(168, 168)[:, 0, :24, :24]
    assert torch.equal(mask, run["attention_mask"].bool().expand(2, -1, -1))
    hidden, seen = forward(built, run, made)
    for letter, part in zip("qkv", seen["qkv"].chunk(3, -1), strict=True):
        close(part, run[f"layer0.{letter}0"])
    for letter, part in zip("qkv", seen["decoder_qkv"].chunk(3, -1), strict=True):
        close(part, run[f"layer0.{letter}1"])
    close(seen["out.in"], run["layer0.ctx0"])
    close(seen["decoder_out.in"], run["layer0.ctx1"])
    close(hidden, run["final_hidden"])


def test_iterative_super_resolution_is_the_releases() -> None:
    built, run = model("itersr_small_layout")
    tokens = run["tokens"]
    masked = tokens[:, 6:] == ITERATIVE.mask_id
    made = ITERATIVE.inputs([range(4)] * 2, tokens[:, 6:].masked_fill(masked, 7), masked)
    assert torch.equal(made.positions, run["position_ids"].expand(2, -1))
    assert torch.equal(made.ids[:, 6:], tokens[:, 6:])
    mask = made.visibility.dense_mask(150, 150)[:, 0]
    assert torch.equal(mask[:, :, :6], run["attention_mask"].bool().expand(2, 150, -1))
    hidden, seen = forward(built, run, made)
    for letter, part in zip("qkv", seen["qkv"].chunk(3, -1), strict=True):
        close(part, torch.cat([run[f"layer0.{letter}0"], run[f"layer0.{letter}1"]], 1))
    close(seen["out.in"], run["layer0.ctx"])
    close(hidden, run["final_hidden"])


@pytest.mark.parametrize("name", ["direct", "iterative"])
def test_the_releases_sizes(name: str) -> None:
    """965 tensors of 7,725,895,680 numbers, 773 of 5,913,366,528."""
    forms: dict[str, DirectFormat | IterativeFormat] = {
        "direct": DirectFormat.cogview2(),
        "iterative": IterativeFormat.cogview2(),
    }
    base = Transformer.shapes(upscaler_config(TransformerConfig.cogview2_6b(), forms[name]))
    sizes = {"direct": (965, 7_725_895_680), "iterative": (773, 5_913_366_528)}
    assert (len(base), sum(x.numel() for x in base.values())) == sizes[name]
    assert forms[name].large_positions()[[0, -1]].tolist() == [1024, 4623]


def test_foreign_keys_and_the_other_model_are_refused() -> None:
    with pytest.raises(CogViewError, match="unexpected key"):
        super_resolution_name("mixins.attention_plus.other.0.weight")
    state = {super_resolution_name(name): tensor for name, tensor in recorded("coglm_tiny").items()}
    with pytest.raises(CogViewError, match="not a super-resolution model"):
        super_resolution_config(state, HEADS)
    found = recorded("dsr_small_layout").items()
    direct = {super_resolution_name(key): x for key, x in found if key.startswith("mixins.")}
    with pytest.raises(CogViewError, match="the other super-resolution"):
        super_resolution_config(state | direct, HEADS)
