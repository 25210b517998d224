"""The transformer against runs of the released code, recorded in float32 on a CPU.

Differences are measured against the scale of what is compared: the logits reach 24. Other vector kernels than
those of the recording change the last bits; with the same ones the dense runs are reproduced exactly.
"""

from itertools import pairwise

import pytest
import torch

from cogview.importers.cogview1 import merge_shards
from cogview.transformer.attention.pattern import attend_fused, attend_released, attend_written
from cogview.transformer.cache import KVCache
from cogview.vocabulary import CONTROLS, Vocabulary
from tests.parity.cogview1 import (
    DENSE,
    build,
    dense,
    facts,
    largest_difference,
    recorded,
    released_logits,
    sparse,
    state_dict,
)
from tests.reference.cogview_loss import released_loss

RELATIVE = 1e-6  # of the largest number; other kernels than the recording's round differently
VOCABULARY = Vocabulary(image_codes=64, text_pieces=100, controls=CONTROLS)


@pytest.mark.parametrize("name", DENSE)
def test_dense(name: str) -> None:
    logits, states = dense(name)
    run = recorded(name)
    allowed = RELATIVE if logits.dtype == torch.float32 else 4 * 2**-11
    assert largest_difference(logits, run["logits"]) <= allowed * run["logits"].abs().max().item()
    for i, state in enumerate(states):
        if f"hidden.{i}" in run:
            largest = run[f"hidden.{i}"].abs().max().item()
            assert largest_difference(state, run[f"hidden.{i}"]) <= allowed * largest


@pytest.mark.parametrize("name", ["dense_a", "dense_a_single", "dense_a_nosandwich", "dense_a_fp16cpu"])
def test_dense_is_the_released_algorithm_to_the_bit(name: str) -> None:
    """Its operations in its order: with the same kernels on both sides, whichever, no bit differs."""
    state, inputs = state_dict("model_a"), recorded(name)
    if name == "dense_a_nosandwich":
        state = {key: tensor for key, tensor in state.items() if "norm_out" not in key}
    if name == "dense_a_fp16cpu":
        state = {key: tensor.half() for key, tensor in state.items()}
    with torch.no_grad():
        expected = released_logits(state, inputs["input_ids"], inputs["position_ids"])
    found, _ = dense(name)
    assert torch.equal(found, expected)


def test_plain_norms_and_fused_kernels_stay_near_the_released_ones() -> None:
    """The default for imported weights: only epsilon differs."""
    run, model = recorded("dense_a"), build(state_dict("model_a"), released=False)
    with torch.no_grad():
        logits = model.logits(model(run["input_ids"], run["position_ids"]))
    assert largest_difference(logits, run["logits"]) < 5e-4


def test_decoding_with_a_cache() -> None:
    """Step by step, within what the released code's own full pass differs from its steps: its norm sees other
    tokens there."""
    run, settings = recorded("incremental_a"), facts("incremental_a")
    ids, start, allowed = run["input_ids"], settings["prefill"], settings["max_abs_diff"]
    assert isinstance(start, int) and isinstance(allowed, float)
    model, positions = build(state_dict("model_a")), torch.arange(ids.shape[1])
    cache = KVCache.allocate(model.config, 1, ids.shape[1])
    cuts = [0, *range(start, ids.shape[1] + 1)]
    with torch.no_grad():
        parts = [model(ids[:, a:b], positions[a:b], cache=cache) for a, b in pairwise(cuts)]
        stepwise = model.logits(torch.cat(parts, 1))
        whole = model.logits(model(ids, positions))
    assert largest_difference(stepwise, run["logits_incremental"]) <= allowed
    assert largest_difference(whole, run["logits_full"]) <= RELATIVE * whole.abs().max().item()


def test_loss_and_every_gradient() -> None:
    run, model = recorded("train_loss_a"), build(state_dict("model_a"))
    logits = model.logits(model(run["input_ids"], run["position_ids"]))
    scale = facts("train_loss_a")["txt_loss_scale"]
    assert isinstance(scale, float)
    loss, parts = released_loss(logits, run["input_ids"], run["labels"], run["loss_mask"], VOCABULARY, scale)
    torch.autograd.backward(loss)
    assert loss.item() == pytest.approx(run["loss"].item(), abs=1e-5)
    assert parts["image_loss"].item() == pytest.approx(run["img_loss"].item(), abs=1e-5)
    assert parts["text_loss"].item() == pytest.approx(run["txt_loss"].item(), abs=1e-5)
    gradients = {key.removeprefix("grad."): tensor for key, tensor in run.items() if key.startswith("grad.")}
    names = dict(zip(recorded("model_a"), state_dict("model_a"), strict=True))
    assert set(gradients) == set(names)
    parameters = dict(model.named_parameters())
    for key, expected in gradients.items():
        got = parameters[names[key]].grad
        assert got is not None
        assert largest_difference(got, expected) <= 2e-5 * expected.abs().max().item(), key


def test_three_region_attention() -> None:
    run, settings = recorded("sparse_attention_op"), facts("sparse_attention_op")
    pattern = sparse()[0]
    assert (pattern.window, pattern.times) == (settings["query_window"], settings["key_window_times"])
    pattern.pivots = run["pivot_idx"]
    view = pattern.dense_view(96, 96)
    assert view.allowed is not None and view.bias is not None
    assert torch.equal(view.allowed[:, 0], run["dense_allow"])
    assert torch.equal(view.bias, run["dense_bias"])
    query, key, value = run["q"], run["k"], run["v"]
    for out in (
        attend_fused(query, key, value, pattern.view(96, 96)),
        attend_fused(query, key, value, view),
        attend_written(query, key, value, view, alpha=32.0),
        attend_released(query, key, value, view),
    ):
        assert largest_difference(out, run["out"]) <= 2e-6


@pytest.mark.parametrize("numerics", ["fused", "released"])
def test_sparse_training(numerics: str) -> None:
    pattern, run = sparse()
    assert torch.equal(pattern.far(96, 96), run["rmask"].bool())
    model = build(state_dict("model_a"), numerics=numerics)
    with torch.no_grad():
        logits = model.logits(model(run["input_ids"], run["position_ids"], pattern))
    assert largest_difference(logits, run["logits"]) <= RELATIVE * run["logits"].abs().max().item()
    dense_logits = model.logits(model(run["input_ids"], run["position_ids"]))
    assert largest_difference(dense_logits, run["logits"]) > 0.1  # the pattern matters


def test_recorded_pivots_hold_all_the_text() -> None:
    pattern, run = sparse()
    for layer in pattern.pivots:
        for row, pivots in enumerate(layer):
            text = set(torch.nonzero(run["txt_indices_bool"][row])[:, 0].tolist())
            assert text <= set(pivots.tolist())
            assert len(set(pivots.tolist())) == len(pivots)


def test_model_parallel_shards_merge_to_the_model() -> None:
    merged = merge_shards([state_dict(f"model_a_mp2_rank{rank:02d}") for rank in range(2)])
    whole = state_dict("model_a")
    assert set(merged) == set(whole)
    assert all(torch.equal(merged[name], whole[name]) for name in whole)


def test_caption_score() -> None:
    """The sum of log-probabilities of the text after [ROI1], image codes left out of the softmax."""
    run, model = recorded("caption_score"), build(state_dict("model_b"))
    ids, start = run["seq"], 1027
    assert (ids[:, start] == VOCABULARY.control("[ROI1]")).all()
    with torch.no_grad():
        hidden = model(ids, torch.arange(ids.shape[1]))
        logits = model.logits(hidden[:, start:-1], slice(VOCABULARY.image_codes, None))
    targets = ids[:, start + 1 :] - VOCABULARY.image_codes
    scores = logits.log_softmax(-1).gather(-1, targets[..., None]).sum((1, 2))
    torch.testing.assert_close(scores, run["scores"], rtol=1e-6, atol=0)
