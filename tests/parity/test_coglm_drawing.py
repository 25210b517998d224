"""CogLM draws, scores and fills what the release drew, scored and filled."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from cogview.generation.decoder import pack
from cogview.generation.engine import Engine
from cogview.generation.loop import SequenceRequest
from cogview.generation.sampling import by_cluster, keep_top_k
from cogview.transformer.attention import MaskRegions, Prefix, TextAttentionBias
from cogview.transformer.cache import KVCache
from cogview.types import SamplingParams
from tests.parity.cogview2 import coglm, facts, form, recorded, text_tokenizer

RUN, FACTS = recorded("coglm_text2image"), facts("coglm_text2image")
TEMPLATE = "{} 高清摄影 隔绝"
EMPHASIS: float = FACTS["attn_plus"]
CODES = slice(0, 20_000)


def pieces() -> list[int]:
    return text_tokenizer().encode(TEMPLATE.format(FACTS["raw_text"]))


@functools.cache
def engine() -> Engine:
    return Engine(pack(coglm(), CODES))


def pattern(emphasis: float) -> TextAttentionBias:
    return TextAttentionBias(Prefix(FACTS["txt_len"]), FACTS["txt_len"], emphasis)


def test_the_prompt() -> None:
    prompt = form().image_prompt(pieces())
    assert prompt.ids.tolist() == FACTS["ids"] and prompt.text_length == prompt.prefix == FACTS["txt_len"]
    places = np.concatenate([prompt.positions, prompt.decode_positions])
    assert np.array_equal(places, RUN["position_ids"][0].numpy())
    assert torch.equal(pattern(0).dense_mask(416, 416)[0, 0], RUN["attention_mask"].bool())
    row = pattern(EMPHASIS).bias(416, 416)[0, 0, 0]
    assert torch.equal(row, RUN["log_attention_weights_row"])


@torch.inference_mode()
def test_a_greedy_picture_token_for_token() -> None:
    """400 tokens through the cache."""
    [(_, codes)] = engine().generate(
        [SequenceRequest(form().image_prompt(pieces()), 0, 0)], SamplingParams(top_k=1, emphasis=EMPHASIS)
    )
    assert np.array_equal(codes, RUN["greedy_tokens"][0, 16:].numpy())


@torch.inference_mode()
@pytest.mark.parametrize(("emphasis", "name"), [(EMPHASIS, "final_hidden"), (0.0, "final_hidden_c0")])
def test_states_with_and_without_emphasis(emphasis: float, name: str) -> None:
    model, states = coglm(), list[torch.Tensor]()
    hidden = model(RUN["tokens"], RUN["position_ids"], pattern(emphasis), record=states)
    torch.testing.assert_close(hidden, RUN[name], rtol=0, atol=1e-5)
    if emphasis:
        torch.testing.assert_close(states[1], RUN["layer0_out"], rtol=0, atol=1e-5)
        logits = model.logits(hidden[0, RUN["logits_positions"]], CODES)
        torch.testing.assert_close(logits, RUN["logits"], rtol=0, atol=1e-5)


@torch.inference_mode()
def test_keys_and_values() -> None:
    model = coglm()
    cache = KVCache.allocate(model.config, 1, 416)
    model(RUN["tokens"], RUN["position_ids"], pattern(EMPHASIS), cache)
    held = torch.cat([part[0].transpose(1, 2).flatten(2) for part in cache.entries], -1)
    torch.testing.assert_close(held, RUN["mem_kv_layer0"], rtol=0, atol=1e-5)


@torch.inference_mode()
def test_the_caption_score() -> None:
    """The release asks for Chinese whatever the text; the score is the mean of its log-probabilities."""
    codes, text = RUN["cap_tokens"][0, :400], text_tokenizer().encode(FACTS["raw_text"])
    sequence = form().captioning(text, codes.numpy(), np.zeros(400, bool), "zh")
    assert np.array_equal(sequence.ids, RUN["cap_tokens"][0].numpy())
    assert np.array_equal(sequence.positions, RUN["cap_pos"].numpy())
    regions = MaskRegions(torch.from_numpy(sequence.order))
    assert torch.equal(regions.dense_mask(410, 410)[0, 0], RUN["cap_mask"].bool())
    model = coglm()
    hidden = model(RUN["cap_tokens"], torch.from_numpy(sequence.positions), regions)
    logp = model.logits(hidden)[0, :-1].log_softmax(-1)
    found = logp.gather(1, RUN["cap_tokens"][0, 1:, None])[:, 0]
    counted = torch.from_numpy(sequence.weights[:-1]) > 0
    torch.testing.assert_close(found[counted], RUN["cap_token_logp"][0][counted], rtol=0, atol=1e-5)
    assert found[counted].mean().item() == pytest.approx(RUN["cap_score"].item(), abs=1e-5)


# ---------------------------------------------------------------------------------------------- sampling

LOGITS = recorded("sampling_strategies")["coglm.logits"]


def members(run: str, row: int) -> torch.Tensor:
    return recorded("sampling_strategies")[f"{run}.token_ids_row{row}"]


@functools.cache
def labels() -> torch.Tensor:
    """The clusters that the record tells of (the label file is not ours to copy), the rest as one more each.

    Cluster 0 to 5 are recorded; a code in none of them is a cluster of its own.
    """
    found = torch.arange(20_000) + 6
    for number, (run, row) in enumerate((r, i) for r in ("coglm", "coglm_b", "dsr") for i in (0, 1)):
        found[members(run, row)] = number
    return found


@pytest.mark.parametrize("run", ["coglm", "coglm_b", "dsr"])
def test_tokens_inside_a_cluster(run: str) -> None:
    """The probabilities that the release hands to its second draw."""
    fact = facts("sampling_strategies")[run]
    chance = by_cluster(LOGITS / fact["temperature"], labels(), 0, fact["temp_cluster"])
    for row in range(2):
        ids = members(run, row)
        inside = chance[row, ids].softmax(-1)
        expected = recorded("sampling_strategies")[f"{run}.token_probs_row{row}"]
        torch.testing.assert_close(inside, expected, rtol=0, atol=1e-5)


def test_chances_of_clusters() -> None:
    """Those handed to the first draw are the clusters' sums, of which the record names one or two a row."""
    run = recorded("sampling_strategies")
    chance = by_cluster(LOGITS / 1.15, labels(), 0).softmax(-1)
    for row, rank in enumerate(facts("sampling_strategies")["coglm"]["forced_cluster_rank"]):
        told = run[f"coglm.cluster_probs_row{row}"].sort(descending=True).values
        named = chance[row, members("coglm", row)].sum()
        total = named / told[rank]  # of the 16 clusters that are kept
        others = {chance[row, members(r, row)].sum().item() for r in ("coglm_b", "dsr")}
        for other in others:
            assert (told - other / total).abs().min() < 1e-5
        assert 0 < total < 1


def test_top_k_of_the_iterative_stage() -> None:
    run = recorded("sampling_strategies")
    kept = keep_top_k(LOGITS, facts("sampling_strategies")["itersr"]["topk_tokens"]).softmax(-1)
    for row in range(2):
        ids = run[f"itersr.token_ids_row{row}"]
        assert set(ids.tolist()) == set(kept[row].nonzero()[:, 0].tolist())
        expected = run[f"itersr.token_probs_row{row}"]
        torch.testing.assert_close(kept[row, ids], expected, rtol=0, atol=1e-5)
