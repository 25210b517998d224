"""Caption loss against a full forward pass of every pair alone; what is shared; memory that runs out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cogview.errors import CogViewError
from cogview.generation import decoder
from cogview.generation.caption_decoding import text_rows
from cogview.generation.decoder import pack
from cogview.generation.engine import Engine
from cogview.generation.scoring import Scorer
from cogview.sequences import SequenceFormat
from cogview.transformer.attention import Prefix
from cogview.transformer.cache import KVCache
from cogview.types import Ids
from tests.generation import tiny

TEXTS = [tiny.text_tokenizer().encode(text) for text in ("a", "红色的圆，像素风格", "a blue square, pixel")]
SHAPES: list[dict[str, str]] = [{}, {"visibility": "prefix"}, {"image_positions": "index"}]


def pictures(count: int = 4) -> list[Ids]:
    return list(np.random.default_rng(0).integers(0, tiny.CODES, (count, 16)))


def scorer(form: SequenceFormat | None = None, **options: Any) -> Scorer:
    form = form or tiny.caption_form()
    model = tiny.transformer(seed=3)
    return Scorer(Engine(pack(model, text_rows(form.vocabulary, model.config.vocab_size)), **options), form)


def by_hand(form: SequenceFormat, codes: Ids, text: list[int], released: bool = False) -> float:
    """The training sequence in one pass: -log p of the text's tokens, averaged, or log p added up."""
    whole, model = form.training(text, codes), tiny.transformer(seed=3)
    prefix = Prefix(whole.prefix) if whole.prefix else None
    ids, positions = torch.from_numpy(whole.ids)[None], torch.from_numpy(whole.positions)[None]
    with torch.no_grad():
        logits = model.logits(model(ids, positions, prefix))[0]
    logits[:, : form.vocabulary.texts.start] = -torch.inf
    if not released:
        logits[:, form.vocabulary.size :] = -torch.inf
    log_p = logits.log_softmax(-1)
    start = len(form.prompt(codes=codes).ids)
    told = [float(log_p[start + i - 1, whole.ids[start + i]]) for i in range(len(text))]
    return sum(told) if released else -sum(told) / len(told)


@pytest.mark.parametrize("changes", SHAPES)
@pytest.mark.parametrize("released", [False, True])
def test_every_pair_is_scored_as_alone(changes: dict[str, str], released: bool) -> None:
    """Texts of three lengths, the shortest a single token."""
    form = tiny.caption_form(**changes)
    expected = [by_hand(form, codes, text, released) for codes in pictures() for text in TEXTS]
    found = scorer(form).score(pictures(), TEXTS, released=released)
    assert found == pytest.approx(expected, abs=2e-5)


def test_only_the_pairs_asked_for_in_their_order() -> None:
    every: NDArray[np.float64] = scorer().score(pictures(), TEXTS).reshape(4, 3)
    pairs = [(3, 0), (0, 2), (3, 0), (1, 1), (0, 0)]
    assert scorer().score(pictures(), TEXTS, pairs) == pytest.approx(
        [every[pair] for pair in pairs], abs=1e-6
    )
    assert len(scorer().score([], TEXTS)) == 0


def test_a_score_does_not_depend_on_its_batch() -> None:
    expected = scorer().score(pictures(), TEXTS)
    for size in (1, 2, 5):
        reports: list[tuple[int, int]] = []
        found = scorer().score(
            pictures(), TEXTS, batch_size=size, progress=lambda *told, seen=reports: seen.append(told)
        )
        assert found == pytest.approx(expected, abs=1e-6)
        assert reports[-1] == (12, 12) and reports == sorted(reports)


def test_a_picture_is_read_once_for_all_its_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[int, ...]] = []
    original = decoder.prefill

    def counting(weights: Any, ids: torch.Tensor, *rest: Any) -> torch.Tensor:
        read.append(tuple(ids.shape))
        return original(weights, ids, *rest)

    monkeypatch.setattr(decoder, "prefill", counting)
    scorer().score(pictures(), TEXTS * 5, batch_size=2)
    assert read == [(2, 20), (2, 20)]


def test_when_memory_runs_out_the_batch_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    expected, allocate = scorer().score(pictures(), TEXTS), KVCache.allocate

    def limited(config: Any, batch: int, *rest: Any) -> KVCache:
        if batch > 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return allocate(config, batch, *rest)

    monkeypatch.setattr(KVCache, "allocate", limited)
    assert scorer().score(pictures(), TEXTS) == pytest.approx(expected, abs=1e-6)

    def never(*_: Any) -> KVCache:
        raise MemoryError

    monkeypatch.setattr(KVCache, "allocate", never)
    with pytest.raises(CogViewError, match="out of memory"):
        scorer().score(pictures(), TEXTS)


def test_a_planned_batch_grows_with_memory() -> None:
    sizes = [scorer(free=lambda _, free=free: free)._batch_size(None, 20) for free in (0, 3_000_000, 10**12)]
    assert sizes[0] == 1 < sizes[1] < sizes[2] == 16


def test_an_empty_text_is_refused() -> None:
    with pytest.raises(CogViewError, match="a text is empty"):
        scorer().score(pictures(), [TEXTS[0], []])
