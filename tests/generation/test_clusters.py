"""Cluster sampling and emphasis in the engine, against two draws written out and a plain loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cogview.errors import CogViewError
from cogview.generation.decoder import pack
from cogview.generation.engine import Engine
from cogview.generation.loop import SequenceRequest
from cogview.generation.sampling import Streams, by_cluster, filter_logits, gumbel_sample
from cogview.transformer.attention import Prefix, TextAttentionBias
from cogview.types import SamplingParams
from tests.generation import tiny, tiny2

LABELS = torch.arange(tiny.CODES) * 7 % 10


@given(seed=st.integers(0, 999), k=st.integers(0, 12), temperature=st.floats(0.2, 3))
@settings(max_examples=60, deadline=None)
def test_one_draw_has_the_chances_of_two(seed: int, k: int, temperature: float) -> None:
    """P(cluster) among the k likeliest, times P(token in it)."""
    logits = 3 * torch.randn(2, 64, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = by_cluster(logits, LABELS, k, temperature).softmax(-1)
    for row, chance in zip(logits, found, strict=True):
        probabilities = row.softmax(-1)
        masses = torch.stack([probabilities[c == LABELS].sum() for c in range(10)])
        kept = masses.topk(k).indices.tolist() if 0 < k < 10 else list(range(10))
        for c in range(10):
            inside = (row[c == LABELS] / temperature).softmax(-1)
            expected = masses[c] / masses[kept].sum() * inside * (c in kept)
            torch.testing.assert_close(chance[c == LABELS], expected, rtol=1e-6, atol=1e-12)


def test_tokens_that_cannot_come_stay_out() -> None:
    logits = torch.zeros(1, 64).masked_fill(LABELS == 3, -torch.inf)
    logits[0, 0] = -torch.inf
    found = by_cluster(logits, LABELS, 0).softmax(-1)[0]
    assert found.isfinite().all() and found[LABELS == 3].sum() == 0 and found[0] == 0
    extreme = by_cluster(torch.tensor([[1e4, -1e4, 0.0, 0.0]]), torch.tensor([0, 0, 1, 1]), 0)
    assert extreme.softmax(-1)[0].tolist() == [1, 0, 0, 0]


@torch.inference_mode()
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_drawing_with_clusters_and_emphasis(guidance: float) -> None:
    """Prompts of several lengths in one batch give what each gives in a plain loop, read anew every time."""
    form, model = tiny2.form(), tiny2.transformer()
    asked = SamplingParams(
        temperature=1.1, clusters=4, cluster_temperature=0.9, emphasis=1.4, guidance=guidance
    )
    texts = [tiny.text_tokenizer().encode(text) for text in ("a red circle", "", "蓝色的方块")]
    without = form.image_prompt(()) if guidance != 1 else None
    jobs = [SequenceRequest(form.image_prompt(text), 3, i, without) for i, text in enumerate(texts)]
    engine = Engine(pack(model, slice(0, tiny.CODES)), clusters=LABELS)
    found = dict(engine.generate(jobs, asked))
    for number, text in enumerate(texts):
        codes: list[int] = []
        streams = Streams([(3, number)], 16, "cpu")
        for step in range(16):
            logits = [scores(model, words, codes, 1.4) for words in (text, [])]
            mixed = logits[1] + guidance * (logits[0] - logits[1])
            codes.append(
                int(gumbel_sample(filter_logits(mixed, asked, LABELS), streams.gumbel(step, tiny.CODES)))
            )
        assert found[number].tolist() == codes


def scores(model: torch.nn.Module, text: list[int], codes: list[int], emphasis: float) -> torch.Tensor:
    prompt = tiny2.form().prompt(text)
    ids = torch.tensor([[*prompt.ids, *codes]])
    positions = torch.tensor([[*prompt.positions, *tiny2.form().code_positions()[: len(codes)]]])
    hidden = model(ids, positions, TextAttentionBias(Prefix(len(text)), len(text), emphasis))
    return model.logits(hidden[:, -1], slice(0, tiny.CODES))  # type: ignore[operator, no-any-return]


def test_emphasis_changes_pictures_and_streams_go_on() -> None:
    form = tiny2.form()
    engine = Engine(pack(tiny2.transformer(), slice(0, tiny.CODES)))
    job = SequenceRequest(form.image_prompt(tiny.text_tokenizer().encode("a red circle")), 3, 0)

    def codes(first: int = 0, **given: float) -> list[int]:
        return next(engine.generate([job], SamplingParams(**given), first=first))[1].tolist()

    assert codes() == codes(emphasis=0) != codes(emphasis=2)
    assert codes(first=5) != codes()
    ahead = Streams([(3, 0)], 4, "cpu", first=5)
    assert torch.equal(ahead.gumbel(0, 9), Streams([(3, 0)], 9, "cpu").gumbel(5, 9))


def test_clusters_are_needed_for_cluster_sampling() -> None:
    engine = Engine(pack(tiny2.transformer(), slice(0, tiny.CODES)))
    with pytest.raises(CogViewError, match="no clusters"):
        next(
            engine.generate(
                [SequenceRequest(tiny2.form().image_prompt(()), 0, 0)], SamplingParams(clusters=3)
            )
        )
    assert np.array_equal(np.unique(LABELS), np.arange(10))
