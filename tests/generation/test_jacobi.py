"""Decoding several tokens in one forward gives the tokens of decoding one after another."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cogview.errors import CogViewError
from cogview.generation import without_model
from cogview.generation.decoder import Segment, pack, prefill, read_segments, segment
from cogview.generation.engine import Engine, TokenConstraint
from cogview.generation.loop import SequenceRequest
from cogview.generation.strategies import STRATEGIES, jacobi, sequential
from cogview.pipelines.model import Pipeline
from cogview.transformer.attention import Causal, LeftPadded, Visibility
from cogview.transformer.cache import KVCache
from cogview.transformer.config import ThreeRegionConfig
from cogview.types import SamplingParams
from tests.generation import tiny, tiny2
from tests.generation.engines import CODES, by_hand, make_engine, prompts, tokens

MODULE = sys.modules["cogview.generation.strategies"]
STEPS = 16


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> list[list[Segment]]:
    """The segments of every forward of the strategy."""
    seen: list[list[Segment]] = []

    def counting(*arguments: Any) -> torch.Tensor:
        seen.append(list(arguments[4]))
        return read_segments(*arguments)

    monkeypatch.setattr(MODULE, "read_segments", counting)
    return seen


def engine_of(seed: int, precision: Any = "fp32", **options: Any) -> Engine:
    return Engine(pack(tiny.transformer(seed), CODES, precision), **options)


@st.composite
def problems(draw: Any) -> tuple[list[SequenceRequest], SamplingParams]:
    """Requests of several prompts, with or without guidance, some with known tokens or likelihoods."""
    texts, guidance = prompts(draw(st.sampled_from(["fixed", "index"]))), draw(st.sampled_from([1.0, 2.5]))
    rng, jobs = np.random.default_rng(draw(st.integers(0, 99))), []
    for index in range(draw(st.integers(1, 5))):
        known = np.where(
            rng.random(STEPS) < draw(st.sampled_from([0.0, 0.4, 1.0])), rng.integers(0, tiny.CODES, STEPS), -1
        )
        likely = torch.from_numpy(rng.normal(size=(STEPS, tiny.CODES)).astype(np.float32))
        jobs.append(
            SequenceRequest(
                texts[rng.integers(4)],
                7,
                index,
                None if guidance == 1 else texts[2],
                known,
                draw(st.sampled_from([None, likely.__getitem__])),
            )
        )
    params = SamplingParams(
        temperature=draw(st.sampled_from([0.3, 1.0])),
        top_k=draw(st.sampled_from([0, 1, 5, 30])),
        top_p=draw(st.sampled_from([0.0, 0.8])),
        guidance=guidance,
        text_attention_bias=draw(st.sampled_from([0.0, 1.4])),
    )
    return jobs, params


@settings(max_examples=40, deadline=None)
@given(
    problems(),
    st.integers(0, 3),
    st.sampled_from(["fp32", "int8", "bf16"]),
    st.sampled_from([2, 5, 32]),
    st.booleans(),
    st.data(),
)
def test_the_tokens_are_those_of_one_after_another(
    problem: tuple[list[SequenceRequest], SamplingParams],
    seed: int,
    precision: str,
    window: int,
    deterministic: bool,
    data: Any,
) -> None:
    jobs, params = problem
    size = data.draw(st.sampled_from([1, 2, 5]))
    expected = tokens(
        engine_of(seed, precision, strategy=sequential, deterministic=deterministic), jobs, params
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(without_model, "LEAST", window)
        patch.setitem(MODULE.MOST, "cpu", window)
        engine = engine_of(seed, precision, strategy=jacobi, deterministic=deterministic)
        assert np.array_equal(tokens(engine, jobs, params, batch_size=size), expected)


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_the_tokens_are_those_of_a_full_recompute(guidance: float) -> None:
    texts = prompts()
    jobs = [SequenceRequest(text, 7, i, None if guidance == 1 else texts[2]) for i, text in enumerate(texts)]
    params = SamplingParams(top_k=30, guidance=guidance)
    expected = [by_hand(tiny.transformer(), job, params) for job in jobs]
    assert tokens(make_engine(strategy=jacobi), jobs, params).tolist() == expected


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("padding", [0, 3])
def test_exact_windows_give_the_same_numbers_bit_for_bit(precision: Any, padding: int) -> None:
    """The states of 13 tokens read one by one, and in windows of two lengths at once."""
    decoder = pack(tiny.transformer(hidden=64), CODES, precision)
    torch.manual_seed(0)
    ids, positions = torch.randint(0, tiny.CODES, (2, 16)), torch.arange(16).expand(2, 16)
    visibility: Visibility = LeftPadded(torch.tensor([0, padding]), 17) if padding else Causal()

    def start() -> KVCache:
        cache = KVCache.allocate(decoder.config, 2, 17, decoder.dtype)
        prefill(decoder, ids[:, :4], positions[:, :4], cache, visibility, True)
        return cache

    with torch.inference_mode():
        cache = start()
        alone = [
            prefill(decoder, ids[:, [i]], positions[:, [i]], cache, visibility, True) for i in range(4, 16)
        ]
        cache, found = start(), dict[tuple[int, int], torch.Tensor]()
        for windows in (((4, 3), (4, 9)), ((7, 9), (13, 3))):  # of each row: the first token, how many
            parts = [
                segment(decoder, cache, visibility, length, True, slice(row, None, 2), first)
                for row, (first, length) in enumerate(windows)
            ]
            places = [(row, first + i) for row, (first, length) in enumerate(windows) for i in range(length)]
            fed, at = torch.stack([ids[place] for place in places]), torch.tensor([i for _, i in places])
            states = read_segments(decoder, fed, at, cache, parts, torch.arange(len(places)))
            found |= dict(zip(places, states, strict=True))
    assert len(found) == 2 * len(alone)
    for (row, place), state in found.items():
        assert torch.equal(state, alone[place - 4][row])


def independent() -> Engine:
    """A model whose tokens hardly depend on those before them: every guess is right once it was sampled."""
    model = tiny.transformer()
    with torch.no_grad():
        model.positions.weight *= 10_000
    return Engine(pack(model, CODES), strategy=jacobi)


def test_a_window_is_accepted_where_its_guesses_are_right(
    forwards: list[list[Segment]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guesses are sampled in one forward and confirmed in the next, which reads further."""
    monkeypatch.setattr(without_model, "LEAST", 5)
    monkeypatch.setitem(MODULE.MOST, "cpu", 5)
    jobs = [SequenceRequest(prompts()[0], 7, i) for i in range(2)]
    expected = tokens(make_engine(strategy=sequential), jobs)
    found = tokens(independent(), jobs)
    assert found.shape == expected.shape and len(forwards) < STEPS - 1
    assert all(part.queries <= 5 for parts in forwards for part in parts)


def test_never_more_forwards_than_tokens(forwards: list[list[Segment]]) -> None:
    """However bad the guesses are, here those of random models at a high temperature."""
    for seed in range(3):
        forwards.clear()
        tokens(engine_of(seed, strategy=jacobi), [SequenceRequest(prompts()[0], 7, 0)], SamplingParams())
        assert len(forwards) <= STEPS - 1


def test_a_request_that_is_done_is_not_read_again(forwards: list[list[Segment]]) -> None:
    known = np.arange(STEPS)
    known[-2:] = -1
    jobs = [SequenceRequest(prompts()[0], 7, 0, known_tokens=known), SequenceRequest(prompts()[0], 7, 1)]
    tokens(make_engine(strategy=jacobi), jobs)
    assert len(forwards[0]) == 2 and len(forwards[-1]) == 1


def test_partial_results_are_growing_and_true() -> None:
    jobs = [SequenceRequest(prompts()[i % 2], 7, i) for i in range(3)]
    seen: list[tuple[list[int], np.ndarray[Any, Any]]] = []
    reports: list[tuple[int, int]] = []
    drawn = tokens(
        make_engine(strategy=jacobi),
        jobs,
        progress=lambda done, total: reports.append((done, total)),
        step_callback=lambda numbers, found: seen.append((list(numbers), found.numpy().copy())),
    )
    lengths = [found.shape[1] for _, found in seen]
    assert lengths == sorted(set(lengths)) and lengths[-1] == STEPS
    for numbers, found in seen:
        assert np.array_equal(found, drawn[numbers, : found.shape[1]])
    assert reports == [(3 * length, 3 * STEPS) for length in lengths]


def test_what_a_callback_raises_ends_the_generation(forwards: list[list[Segment]]) -> None:
    def cancel(numbers: Any, found: torch.Tensor) -> None:
        if found.shape[1] >= 4:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        tokens(make_engine(strategy=jacobi), [SequenceRequest(prompts()[0], 7, 0)], step_callback=cancel)
    assert 0 < len(forwards) <= 4


def test_when_memory_runs_out_half_way_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [SequenceRequest(prompts()[i % 2], 7, i) for i in range(6)]
    expected, calls = tokens(make_engine(strategy=jacobi), jobs), 0

    def failing(*arguments: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return read_segments(*arguments)

    monkeypatch.setattr(MODULE, "read_segments", failing)
    found = list(make_engine(strategy=jacobi).generate(jobs, SamplingParams(top_k=30), 6))
    assert [number for number, _ in found] == list(range(6))
    assert np.array_equal(np.stack([ids for _, ids in found]), expected)


@pytest.mark.parametrize("stop", [None, 3])
def test_texts_end_where_they_end_one_after_another(stop: int | None) -> None:
    allowed = torch.zeros(tiny.CODES, dtype=torch.bool)
    allowed[:12] = True
    constraint = TokenConstraint(allowed, stop, least=2)
    jobs = [SequenceRequest(prompts()[i % 4], 7, i) for i in range(12)]
    expected, found = (
        dict(make_engine(strategy=strategy).generate(jobs, SamplingParams(), 5, constraint=constraint))
        for strategy in (sequential, jacobi)
    )
    assert {number: ids.tolist() for number, ids in found.items()} == {
        number: ids.tolist() for number, ids in expected.items()
    }
    assert (min(map(len, found.values())) < STEPS) == (stop is not None)


def test_sparse_attention_is_decoded_token_by_token(forwards: list[list[Segment]], tmp_path: Path) -> None:
    """Its pivots are drawn token by token."""
    family, sparse = tiny.write(tmp_path), ThreeRegionConfig(window=1, times=1, pivots=1)
    Pipeline.from_pretrained(family, sparse=sparse).generate("a red circle", seed=1)
    assert not forwards
    with pytest.raises(CogViewError, match="token by token"):
        Pipeline.from_pretrained(family, sparse=sparse, decoding="jacobi")
    with pytest.raises(CogViewError, match="unknown decoding"):
        Pipeline.from_pretrained(family, decoding="fast")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["tiny", "tiny2"])
def test_both_families_give_the_same_images(kind: str, tmp_path: Path) -> None:
    family = tiny.write(tmp_path) if kind == "tiny" else tiny2.write(tmp_path)
    ways = [Pipeline.from_pretrained(family, decoding=decoding) for decoding in STRATEGIES]
    made = [way.generate(["a red circle", "蓝色的方块"], 2, 7, guidance_scale=2.0) for way in ways]
    codes = [[image.codes.tolist() for image in images] for images in made]
    assert codes[0] == codes[1] == codes[2]
    assert [images[0].settings["decoding"] for images in made] == list(STRATEGIES)
