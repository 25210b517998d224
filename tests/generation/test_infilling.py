"""Infilling against a plain loop that reads everything anew for every token, its masks cell by cell."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cogview.errors import CogViewError
from cogview.generation.decoder import pack
from cogview.generation.engine import Engine
from cogview.generation.infilling import InfillRequest, Order, Style, arrange, fill, prompt_of
from cogview.generation.sampling import Streams, filter_logits, gumbel_sample
from cogview.sequences.masks import runs
from cogview.transformer.attention import Dense
from cogview.types import SamplingParams
from tests.generation import tiny, tiny2

FORM = tiny2.form()
CODES = np.arange(16) * 3
SETTINGS = SamplingParams(top_k=20, emphasis=1.4)
MASKS = {
    "middle": "0000 0110 0110 0000",
    "corner": "1100 1100 0000 0000",
    "borders": "1001 0000 0000 1001",
    "rows": "0000 1111 1111 0000",
    "all": "1111 1111 1111 1111",
}


def mask_of(text: str) -> np.ndarray:
    return np.array([[cell == "1" for cell in row] for row in text.split()])


@functools.cache
def engine() -> Engine:
    return Engine(pack(tiny2.transformer(), slice(0, tiny.CODES)))


def text() -> np.ndarray:
    return FORM.text_ids(tiny.text_tokenizer().encode("a red circle"))


@torch.inference_mode()
def by_hand(mask: np.ndarray, order: Order, style: Style, seed: int, emphasis: float) -> list[int]:
    """Regions in turn; for every token the whole sequence again, who sees whom cell by cell."""
    model, codes, flat = tiny2.transformer(), CODES.copy(), mask.ravel()
    drawn, done = 0, np.zeros(16, bool)
    for region in [[*np.flatnonzero(flat)]] if order == "together" else [range(*run) for run in runs(flat)]:
        now = np.isin(np.arange(16), list(region))
        absent = flat & ~now & ~done
        before = [i + 1 < 16 and now[i + 1] and (style == "paper" or i % 4 < 3) for i in range(16)]
        moved = [i for i in range(16) if before[i] and not now[i] and not absent[i]]
        tail = sorted([*np.flatnonzero(now), *moved])
        context = [i for i in range(16) if i not in tail and not absent[i]]
        late = style == "paper" and 0 in tail and now[0]  # [BOI] starts the picture's first region
        words, boi = text(), [("boi", 24, FORM.begin_id)]
        items = [("text", i, int(word)) for i, word in enumerate(words)]
        known = [("context", 25 + i, int(codes[i])) for i in context]
        items += known + boi if late else boi + known
        length = len(items)
        streams = Streams([(seed, 0)], 16 + 8, "cpu")
        for step, place in enumerate(tail):
            if now[place]:
                kinds = [kind for kind, _, _ in items]
                seen = torch.ones(len(items), len(items), dtype=torch.bool).tril()
                for i in range(length):
                    for j in range(length):
                        if style == "released":
                            seen[i, j] |= kinds[j] == "text" or (kinds[i] == kinds[j] == "context")
                        elif kinds[i] != "boi" or not late:
                            seen[i, j] |= kinds[j] != "boi" or not late
                bias = torch.tensor([emphasis * (kind == "text") for kind in kinds]).expand(len(items), -1)
                ids, positions = (torch.tensor([item[k] for item in items]) for k in (2, 1))
                hidden = model(ids[None], positions[None], Dense(seen, bias))
                logits = model.logits(hidden[:, -1], slice(0, tiny.CODES))
                noise = streams.gumbel(drawn + step, tiny.CODES)
                codes[place] = int(gumbel_sample(filter_logits(logits, SETTINGS), noise))
            items.append(("new", 25 + place, int(codes[place])))
        drawn, done = drawn + len(tail), done | now
    return [int(code) for code in codes]


@pytest.mark.parametrize("style", ["paper", "released"])
@pytest.mark.parametrize("order", ["together", "one_by_one"])
@pytest.mark.parametrize("name", MASKS)
def test_filling_is_that_of_a_plain_loop(name: str, order: Order, style: Style) -> None:
    mask = mask_of(MASKS[name])
    [found] = fill(engine(), FORM, [InfillRequest(text(), CODES, 5, 0)], mask, SETTINGS, order, style)
    assert found.tolist() == by_hand(mask, order, style, 5, 1.4)
    assert (found[~mask.ravel()] == CODES[~mask.ravel()]).all()


@given(
    cells=st.lists(st.booleans(), min_size=16, max_size=16).filter(any),
    style=st.sampled_from(["paper", "released"]),
)
@settings(max_examples=80, deadline=None)
def test_every_place_is_read_once(cells: list[bool], style: Style) -> None:
    mask = np.array(cells).reshape(4, 4)
    order = arrange(mask, style)
    assert sorted([*order.context, *order.filled]) == list(range(16))
    assert set(order.filled[~order.moved]) == set(np.flatnonzero(mask))
    prompt, known = prompt_of(FORM, text(), CODES, order, style)
    assert len(prompt.ids) + len(known) == len(text()) + 17
    assert np.array_equal(known[order.moved], CODES[order.filled[order.moved]])
    if style == "paper":  # every region is started by a known token, and [BOI] the picture
        for first, _ in runs(mask):
            assert first - 1 in order.filled[order.moved] if first else order.begins


def test_an_empty_prompt_and_several_pictures() -> None:
    """Results do not depend on what else is filled; without a text it works too."""
    mask = mask_of(MASKS["middle"])
    holes = [
        InfillRequest(text(), CODES, 5, 0),
        InfillRequest(text()[:0], CODES[::-1].copy(), 5, 1),
        InfillRequest(text(), CODES, 5, 2),
    ]
    together = fill(engine(), FORM, holes, mask, SETTINGS)
    for hole, expected in zip(holes, together, strict=True):
        assert fill(engine(), FORM, [hole], mask, SETTINGS)[0].tolist() == expected.tolist()
    assert len({tuple(codes[mask.ravel()]) for codes in together}) == 3


def test_guidance_and_progress() -> None:
    told: list[tuple[int, int]] = []
    mask = mask_of(MASKS["borders"])
    guided = SETTINGS.model_copy(update={"guidance": 2.0})
    fill(
        engine(),
        FORM,
        [InfillRequest(text(), CODES, 5, 0)],
        mask,
        guided,
        "one_by_one",
        progress=lambda *x: told.append(x),
    )
    assert told[-1] == (4, 4) and told == sorted(told)


def test_nothing_to_fill_is_refused() -> None:
    with pytest.raises(CogViewError, match="no part of the image is masked"):
        fill(engine(), FORM, [InfillRequest(text(), CODES, 5, 0)], np.zeros(16), SETTINGS)
    with pytest.raises(CogViewError, match="mask of 9 codes"):
        fill(engine(), FORM, [InfillRequest(text(), CODES, 5, 0)], np.ones(9), SETTINGS)
