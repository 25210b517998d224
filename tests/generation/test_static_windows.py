"""Decoding with static buffers, as in a CUDA graph, gives the tokens of decoding one after another."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cogview.generation import static_windows
from cogview.generation.decoder import pack
from cogview.generation.engine import Engine
from cogview.generation.loop import Batch, OnStep, SequenceRequest
from cogview.generation.static_windows import suits, windowed
from cogview.generation.strategies import sequential
from cogview.types import SamplingParams
from tests.generation import tiny
from tests.generation.engines import CODES, make_engine, prompts, tokens

STEPS = 16


def request(index: int, text: int, guided: bool, known: float, rng: np.random.Generator) -> SequenceRequest:
    given_tokens = np.where(rng.random(STEPS) < known, rng.integers(0, tiny.CODES, STEPS), -1)
    texts = prompts()
    return SequenceRequest(texts[text], 7, index, texts[2] if guided else None, given_tokens)


@settings(max_examples=40, deadline=None)
@given(
    texts=st.lists(st.integers(0, 3), min_size=1, max_size=5),
    guided=st.booleans(),
    known=st.sampled_from([0.0, 0.4, 1.0]),
    size=st.sampled_from([1, 2, 7, 16, 40]),
    span=st.sampled_from([1, 8, 256]),
    top=st.sampled_from([(0, 0.0), (5, 0.0), (30, 0.8)]),
    bias=st.sampled_from([0.0, 1.4]),
    seed=st.integers(0, 99),
)
def test_windows_on_the_device_give_the_same_tokens(
    texts: list[int],
    guided: bool,
    known: float,
    size: int,
    span: int,
    top: tuple[int, float],
    bias: float,
    seed: int,
) -> None:
    """Prompts of several lengths, guidance, known tokens, any window and any step of the attended length."""
    rng = np.random.default_rng(seed)
    jobs = [request(index, text, guided, known, rng) for index, text in enumerate(texts)]
    params = SamplingParams(
        top_k=top[0], top_p=top[1], guidance=2.5 if guided else 1.0, text_attention_bias=bias, temperature=0.7
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(static_windows, "SPAN", span)
        found = tokens(make_engine(strategy=partial(windowed, size=size)), jobs, params)
    np.testing.assert_array_equal(found, tokens(make_engine(strategy=sequential), jobs, params))


def test_clusters_are_sampled_in_windows_too() -> None:
    labels, jobs = (
        torch.arange(tiny.CODES) % 9,
        [request(i, 0, True, 0.2, np.random.default_rng(i)) for i in (0, 1)],
    )
    params = SamplingParams(clusters=3, guidance=2.0)
    engines = (
        make_engine(strategy=strategy, clusters=labels)
        for strategy in (partial(windowed, size=4), sequential)
    )
    np.testing.assert_array_equal(*(tokens(engine, jobs, params) for engine in engines))


def test_wide_windows_need_fewer_steps_and_progress_is_told_in_order() -> None:
    """A model that hardly looks at its input repeats itself, so that nearly all guesses are right."""
    reported: list[int] = []

    def run(size: int) -> list[int]:
        reported.clear()
        engine = Engine(pack(tiny.transformer(), CODES), strategy=partial(windowed, size=size))
        job = SequenceRequest(prompts()[0], 7, 0)
        list(
            engine.generate(
                [job], SamplingParams(top_k=1), progress=lambda done, total: reported.append(done)
            )
        )
        return list(reported)

    one, eight = run(1), run(8)
    assert one == list(range(1, STEPS + 1))
    assert eight == sorted(set(eight)) and eight[-1] == STEPS
    assert len(eight) < len(one)


def test_what_the_cache_held_before_does_not_matter() -> None:
    """Memory that was never written may hold what is no number."""

    def poisoned(batch: Batch, on_step: OnStep) -> None:
        batch.cache.entries[..., batch.cache.length :, :] = torch.nan
        windowed(batch, on_step, 4)

    jobs = [request(i, i, False, 0.0, np.random.default_rng(0)) for i in range(3)]
    found = tokens(make_engine(strategy=poisoned), jobs)
    np.testing.assert_array_equal(found, tokens(make_engine(strategy=sequential), jobs))


def test_batches_whose_steps_differ_are_left_to_the_host() -> None:
    seen: list[bool] = []

    def looking(batch: Batch, on_step: OnStep) -> None:
        seen.append(suits(batch))
        sequential(batch, on_step)

    job = SequenceRequest(prompts()[0], 7, 0)
    likely = SequenceRequest(prompts()[0], 7, 0, likelihoods=lambda step: torch.zeros(tiny.CODES))
    tokens(make_engine(strategy=looking), [job])
    tokens(make_engine(strategy=looking), [likely])
    tokens(make_engine(strategy=looking, deterministic=True), [job])
    assert seen == [True, False, False]
