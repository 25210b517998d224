"""Infilling is the release's: the order of the tokens, their positions and mask, and what fills the hole."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cogview.generation.decoder import pack
from cogview.generation.editing import released_crop_region
from cogview.generation.engine import Engine
from cogview.generation.infilling import InfillRequest, arrange, fill, prompt_of
from cogview.transformer.attention import BlockCausal, TextAttentionBias
from cogview.types import SamplingParams
from tests.parity.cogview2 import coglm, facts, form, recorded

RUN, FACTS = recorded("coglm_infill"), facts("coglm_infill")
MASK = RUN["block.mask"].bool().numpy()
TEXT = RUN["block.txt"].numpy()
CODES = RUN["img"][0].numpy()


def test_order_positions_and_mask() -> None:
    prompt, known = prompt_of(form(), TEXT, CODES, arrange(MASK, "released"), "released")
    assert np.array_equal(np.concatenate([prompt.ids, known]), RUN["block.seq"].numpy())
    assert np.array_equal(
        np.concatenate([prompt.positions, prompt.decode_positions]), RUN["block.pos"].numpy()
    )
    assert (known < 0).sum() == FACTS["block"]["n_gen"]
    assert torch.equal(whole_pattern().dense_mask(416, 416)[0, 0], RUN["block.attn_mask"].bool())
    row = TextAttentionBias(whole_pattern(), prompt.text_length, 1.4).bias(416, 416)[0, 0, 0]
    assert torch.equal(row, RUN["block.law_row"])


def whole_pattern() -> BlockCausal:
    """The prompt's blocks, and what is filled one by one."""
    context = len(arrange(MASK, "released").context)
    return BlockCausal.of_blocks(len(TEXT), 1, context, *[1] * (400 - context))


@torch.inference_mode()
def test_the_hole_is_filled_as_the_release_fills_it() -> None:
    engine = Engine(pack(coglm(), slice(0, 20_000)))
    settings = SamplingParams(top_k=1, emphasis=1.4)
    [codes] = fill(engine, form(), [InfillRequest(TEXT, CODES, 0, 0)], MASK, settings, style="released")
    assert np.array_equal(codes, RUN["block.image_tokens"][0].numpy())


@torch.inference_mode()
def test_states_of_the_filled_sequence() -> None:
    pattern = TextAttentionBias(whole_pattern(), len(TEXT), 1.4)
    hidden = coglm()(RUN["block.filled_seq"], RUN["block.pos"], pattern)
    torch.testing.assert_close(hidden, RUN["block.final_hidden"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", FACTS["geometry"], ids=["large", "small"])
def test_what_is_cut_out(case: dict[str, object]) -> None:
    """Of a 480 px picture, a rectangle as the script takes it: rows first."""
    frame = released_crop_region(case["coords"], size=480)  # type: ignore[arg-type]
    assert int(frame.mask.sum()) == case["mask_nonzero"]
    assert list(frame.box) == case["crop_box"]
    rows = ["".join(str(int(cell)) for cell in row) for row in frame.grid_mask((20, 20), "released")]
    assert rows == case["small_mask_rows"]
    assert int(frame.grid_mask((60, 60), "released").sum()) == case["big_mask_count"]
    assert list(frame.inner) == case["inner_box"]
