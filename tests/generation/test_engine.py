"""The engine: the same tokens in any company, and nothing lost when memory runs out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cogview.errors import CogViewError
from cogview.generation import decoder as decoder_module
from cogview.generation.decoder import pack
from cogview.generation.engine import ROWS, Engine
from cogview.generation.loop import SequenceRequest
from cogview.generation.strategies import sequential
from cogview.transformer.attention import LeftPadded
from cogview.transformer.cache import KVCache
from cogview.types import SamplingParams
from tests.generation import tiny
from tests.generation.engines import CODES, SETTINGS, by_hand, make_engine, prompts, tokens


@pytest.mark.parametrize("positions", ["fixed", "index"])
@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_tokens_are_those_of_a_full_recompute(positions: str, guidance: float) -> None:
    """Prompts of four lengths in one batch, with and without guidance."""
    texts = prompts(positions)
    without = texts[2] if guidance != 1 else None
    jobs = [SequenceRequest(prompt, 7, i, without) for i, prompt in enumerate(texts)]
    settings = SamplingParams(top_k=30, guidance=guidance)
    expected = [by_hand(tiny.transformer(), job, settings) for job in jobs]
    assert tokens(make_engine(), jobs, settings).tolist() == expected


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_known_tokens_are_kept_and_seen(guidance: float) -> None:
    """At the beginning, in runs, at the end, and another pattern in each row of a batch."""
    texts, rng = prompts(), np.random.default_rng(4)
    patterns = [rng.random(16) < share for share in (0.0, 0.3, 0.9, 1.0)]
    patterns[1][:5], patterns[2][6] = True, False
    jobs = [
        SequenceRequest(
            text,
            7,
            i,
            texts[2] if guidance != 1 else None,
            np.where(known, rng.integers(0, tiny.CODES, 16), -1),
        )
        for i, (text, known) in enumerate(zip(texts, patterns, strict=True))
    ]
    settings = SamplingParams(top_k=30, guidance=guidance)
    expected = [by_hand(tiny.transformer(), job, settings) for job in jobs]
    for size in (1, 4):
        assert tokens(make_engine(), jobs, settings, batch_size=size).tolist() == expected
    exact = make_engine(deterministic=True)
    assert tokens(exact, jobs, settings).tolist() == expected


def test_an_image_is_the_same_in_any_batch() -> None:
    """Images in batches of 1, 5 and all; at most one near-tie may flip (here none does)."""
    jobs = [SequenceRequest(prompt, 7, i) for prompt in prompts() for i in range(6)]
    alone = tokens(make_engine(), jobs, batch_size=1)
    for size in (5, 24):
        assert (tokens(make_engine(), jobs, batch_size=size) != alone).any(1).sum() <= 1
    assert len(np.unique(alone, axis=0)) == len(jobs)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_deterministic_is_exact_in_any_company(precision: Any) -> None:
    engine = Engine(pack(tiny.transformer(), CODES, precision), deterministic=True)
    texts = prompts()
    together = tokens(
        engine, [SequenceRequest(text, 7, i) for text in texts[:2] for i in range(6)], batch_size=5
    )
    for row, (text, i) in enumerate((text, i) for text in texts[:2] for i in range(6)):
        assert (tokens(engine, [SequenceRequest(text, 7, i)]) == together[row]).all()


def test_deterministic_batches_have_one_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = set()
    allocate = KVCache.allocate

    def recording(config: Any, batch: int, *rest: Any) -> KVCache:
        shapes.add(batch)
        return allocate(config, batch, *rest)

    monkeypatch.setattr(KVCache, "allocate", recording)
    jobs = [SequenceRequest(text, seed, i) for text in prompts()[:2] for seed in (1, 2) for i in (0, 3, 5)]
    tokens(make_engine(deterministic=True), jobs)
    assert shapes == {1, ROWS}  # one row to read the prompt, ROWS to draw


def test_a_prompt_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    original = decoder_module.prefill

    def counting(decoder: Any, ids: torch.Tensor, *rest: Any) -> torch.Tensor:
        if ids.shape[1] > 1:
            read.append(ids.shape[1])
        return original(decoder, ids, *rest)

    monkeypatch.setattr(decoder_module, "prefill", counting)
    texts = prompts()
    engine = make_engine()
    tokens(
        engine, [SequenceRequest(text, 7, i, texts[2]) for text in texts[:2] for i in range(5)], batch_size=3
    )
    assert sorted(read) == sorted(len(text.ids) for text in texts[:2])  # no guidance: the empty one is not
    assert not engine._prefilled


class Small:
    """A machine that can hold ``rows`` sequences."""

    def __init__(self, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[int] = []
        allocate = KVCache.allocate

        def limited(config: Any, batch: int, *rest: Any) -> KVCache:
            self.asked.append(batch)
            if batch > rows:
                raise RuntimeError(
                    "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"
                )
            return allocate(config, batch, *rest)

        monkeypatch.setattr(KVCache, "allocate", limited)


def test_when_memory_runs_out_the_batch_halves_and_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [SequenceRequest(prompt, 7, i) for prompt in prompts() for i in range(4)]
    expected = tokens(make_engine(), jobs)
    small = Small(5, monkeypatch)
    reports: list[tuple[int, int]] = []
    found = list(
        make_engine().generate(jobs, SETTINGS, 16, lambda done, total: reports.append((done, total)))
    )
    assert [number for number, _ in found] == list(range(16))
    assert np.array_equal(np.stack([ids for _, ids in found]), expected)
    assert max(small.asked) == 16 and small.asked.count(4) == 4
    assert small.asked.count(16) == small.asked.count(8) == 1
    assert reports[-1] == (16 * 16, 16 * 16) and reports == sorted(reports)


def test_what_did_not_fit_once_is_not_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Three batches of 8 on a machine for 3: all of them are cut, not one after the other; it is told."""
    jobs = [SequenceRequest(prompt, 7, i) for prompt in prompts()[:4] for i in range(6)]
    expected = tokens(make_engine(), jobs)
    small = Small(3, monkeypatch)
    assert np.array_equal(tokens(make_engine(), jobs, batch_size=8), expected)
    assert [small.asked.count(size) for size in (8, 4, 3, 2)] == [1, 1, 0, 12]
    said = [record.getMessage() for record in caplog.records]
    assert said == [f"out of memory with {a} at a time; continuing with {b}" for a, b in ((8, 4), (4, 2))]


@pytest.mark.parametrize("where", ["half way through a picture", "reading a prompt"])
def test_wherever_memory_runs_out_pictures_are_the_same(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The allocation fails once, late; what was drawn until then is drawn again."""
    jobs = [SequenceRequest(prompt, 7, i) for prompt in prompts()[:2] for i in range(4)]
    expected = tokens(make_engine(), jobs)
    calls, original = 0, decoder_module.prefill

    def failing(*arguments: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == (2 if where == "reading a prompt" else 9):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return original(*arguments)

    monkeypatch.setattr(decoder_module, "prefill", failing)
    found = list(make_engine().generate(jobs, SETTINGS, 8))
    assert [number for number, _ in found] == list(range(8))
    assert np.array_equal(np.stack([ids for _, ids in found]), expected)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_the_plan_tells_weights_cache_and_batch(precision: Any, caplog: pytest.LogCaptureFixture) -> None:
    model = tiny.transformer()
    engine = Engine(pack(model, CODES, precision), free=lambda device: 10**9)
    jobs = [SequenceRequest(prompts()[0], 7, i, prompts()[1]) for i in range(40)]
    plan = engine.plan(jobs)
    longest = max(len(p.ids) + len(p.decode_positions) for p in (prompts()[0], prompts()[1]))
    layer, head, number = {"fp32": (4, 4, 4), "bf16": (2, 4, 2), "int8": (1, 1, 4)}[precision]  # bytes
    assert (
        plan.cache == 2 * KVCache.size_in_bytes(tiny.config(), 1, longest) * number // 4
    )  # with and without
    assert (plan.batch, plan.free) == (16, 10**9) and plan.work > 0
    tables = 4 * (model.tokens.weight.numel() + model.positions.weight.numel())
    inside = sum(x.numel() for x in model.blocks.parameters())
    assert plan.weights == tables + inside * layer + tiny.CODES * model.config.hidden * head
    assert engine.plan(jobs[:3]).batch == 3 and engine.plan(jobs, 5).batch == 5
    poor = Engine(engine.decoder, free=lambda device: 3 * (plan.cache + plan.work))
    assert poor.plan(jobs).batch == 2  # a fifth is kept for what is not counted
    with caplog.at_level("INFO", "cogview.generation"):
        next(poor.generate(jobs, SETTINGS))
    assert caplog.messages == [str(poor.plan(jobs))]


@pytest.mark.parametrize("deterministic", [False, True])
def test_memory_for_not_even_one(monkeypatch: pytest.MonkeyPatch, deterministic: bool) -> None:
    Small(0, monkeypatch)
    with pytest.raises(CogViewError, match="out of memory on cpu"):
        tokens(make_engine(deterministic=deterministic), [SequenceRequest(prompts()[0], 7, 0)])


def test_another_error_is_not_taken_for_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> KVCache:
        raise RuntimeError("something else")

    monkeypatch.setattr(KVCache, "allocate", broken)
    with pytest.raises(RuntimeError, match="something else"):
        tokens(make_engine(), [SequenceRequest(prompts()[0], 7, 0)])


def test_batches_are_planned_by_the_free_memory() -> None:
    """Planned sizes grow with memory, stay within what was asked, and what is planned for really fits."""
    jobs = [SequenceRequest(prompts()[0], 7, i) for i in range(64)]
    sizes = [
        make_engine(free=lambda _, free=free: free)._batch_size(jobs, None) for free in (0, 150_000, 10**12)
    ]
    assert sizes[0] == 1 < sizes[1] < sizes[2] == 16
    assert make_engine(free=lambda _: 10**12)._batch_size(jobs, 5) == 5
    length = len(jobs[0].prompt.ids) + 16
    assert KVCache.size_in_bytes(tiny.config(), sizes[1], length) <= 0.8 * 150_000


def test_what_is_finished_comes_before_the_rest_is_drawn() -> None:
    seen: list[int] = []
    results = make_engine().generate(
        [SequenceRequest(prompts()[0], 7, i) for i in range(6)],
        SETTINGS,
        2,
        lambda done, _: seen.append(done),
    )
    next(results)
    assert max(seen) == 2 * 16


@pytest.mark.parametrize("deterministic", [False, True])
def test_tokens_can_be_watched_as_they_come(deterministic: bool) -> None:
    """After each token its batch's jobs and what they have; whatever batches there are."""
    engine = make_engine(deterministic=deterministic, strategy=sequential)
    jobs = [SequenceRequest(prompts()[i % 2], 7, index) for i, index in enumerate((0, 1, 6))]
    seen: list[tuple[list[int], NDArray[np.int64]]] = []
    drawn = tokens(
        engine, jobs, step_callback=lambda numbers, found: seen.append((list(numbers), found.numpy().copy()))
    )
    assert {number: sum(number in numbers for numbers, _ in seen) for number in range(3)} == dict.fromkeys(
        range(3), 16
    )
    for numbers, found in seen:
        assert np.array_equal(found, drawn[numbers, : found.shape[1]])


def test_only_the_decoders_rows_come() -> None:
    rows = slice(5, 25)
    engine = Engine(pack(tiny.transformer(), rows))
    drawn = tokens(engine, [SequenceRequest(prompts()[0], 7, i) for i in range(8)], SamplingParams())
    assert drawn.min() >= 5 and drawn.max() < 25 and len(np.unique(drawn)) > 10


def test_left_padding_hides_the_same_in_both_forms() -> None:
    pattern = LeftPadded(torch.tensor([0, 2, 5]), capacity=9)
    bias = pattern.view(1, 7).bias
    assert bias is not None
    assert torch.equal(bias == 0, pattern.dense_mask(1, 7))
    expected = [[[k >= pad and k <= 3 + q for k in range(7)] for q in range(4)] for pad in (0, 2, 5)]
    assert pattern.dense_mask(4, 7)[:, 0].tolist() == expected
