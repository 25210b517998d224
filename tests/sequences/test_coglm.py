"""CogLM's sequences: equation 1 and 2, written down once more, and the region sampling of section 3.2."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from cogview.errors import CogViewError
from cogview.sequences import CogLMFormat, CogLMSequence
from cogview.sequences.coglm import END, collate
from cogview.sequences.masks import released_corners, runs, sample_boxes, sample_mask
from cogview.transformer.attention import MaskRegions
from cogview.vocabulary import COGVIEW2_CONTROLS, Vocabulary
from tests.reference import coglm_rows as released

VOCABULARY = Vocabulary(image_codes=30, text_pieces=20, controls=(*COGVIEW2_CONTROLS, END))
FORM = CogLMFormat(vocabulary=VOCABULARY, text_slots=8, grid=(3, 4), end=END)
CODES = np.arange(12) + 7
MASKS = st.lists(st.booleans(), min_size=12, max_size=12)


def mask_of(sequence: CogLMSequence) -> np.ndarray:
    pattern = MaskRegions(torch.from_numpy(sequence.order), torch.from_numpy(sequence.streams))
    return pattern.dense_mask(len(sequence), len(sequence))[0, 0].numpy()


def equation_1(masked: np.ndarray) -> np.ndarray:
    length = len(masked)
    return np.array([[not masked[j] or (masked[i] and j <= i) for j in range(length)] for i in range(length)])


def equation_2(regions: list[tuple[int, int]], length: int) -> set[int]:
    """Places from which a token is predicted: l <= i < r of regions [l, r]."""
    return {i for first, end in regions for i in range(first, end - 1)}


@given(mask=MASKS, words=st.lists(st.integers(0, 19), max_size=6))
@settings(max_examples=60, deadline=None)
def test_equations_hold_for_every_strategy(mask: list[bool], words: list[int]) -> None:
    n, hidden = len(words), np.array(mask)
    boi = np.array([hidden[0]])
    drawn = [np.zeros(n, bool), np.ones(13, bool)]
    edited = [np.zeros(n, bool), boi, hidden]
    caption = [hidden, np.ones(n + 2 if n else 0, bool)]
    for made, parts in (
        (FORM.drawing(words, CODES), drawn),
        (FORM.editing(words, CODES, mask), edited),
        (FORM.captioning(words, CODES, mask, "en"), caption),
    ):
        masked = np.concatenate(parts)
        assert np.array_equal(mask_of(made), equation_1(masked))
        regions = runs(masked)
        if made.ids[0] < 30 and n:  # the caption is a region of its own
            regions = [*runs(hidden), (12, len(masked))]
        assert set(np.flatnonzero(made.weights)) == equation_2(regions, len(masked))
        assert np.array_equal(made.targets[:-1], made.ids[1:])


def test_a_drawing_by_hand() -> None:
    made = FORM.drawing([3, 5], CODES)
    begin = VOCABULARY.control("<start_of_image>")
    assert made.ids.tolist() == [33, 35, begin, *CODES]
    assert made.positions.tolist() == [0, 1, 8, *range(9, 21)]
    assert made.weights.tolist() == [0, 0, *[1] * 12, 0]


@pytest.mark.parametrize(("language", "name"), [("en", "<start_of_english>"), ("zh", "<start_of_chinese>")])
def test_a_caption_by_hand(language: str, name: str) -> None:
    made = FORM.captioning([3, 5], CODES, np.zeros(12, bool), language)
    assert made.ids.tolist() == [*CODES, VOCABULARY.control(name), 33, 35, VOCABULARY.control(END)]
    assert made.positions.tolist() == [*range(9, 21), 0, 1, 2, 3]
    assert made.weights.tolist() == [*[0] * 12, 1, 1, 1, 0]


def test_prompts_are_the_beginning_of_what_was_learnt() -> None:
    prompt, whole = FORM.prompt([3, 5]), FORM.drawing([3, 5], CODES)
    assert np.array_equal(prompt.ids, whole.ids[:3]) and np.array_equal(prompt.positions, whole.positions[:3])
    assert prompt.prefix == 2
    asked, whole = FORM.caption_prompt(CODES, "zh"), FORM.captioning([3], CODES, np.zeros(12, bool), "zh")
    assert np.array_equal(asked.ids, whole.ids[:13]) and np.array_equal(asked.positions, whole.positions[:13])
    assert FORM.caption_positions()[0] == whole.positions[13]


def test_padding_is_seen_by_nobody_and_harms_nobody() -> None:
    batch = collate([FORM.drawing([], CODES), FORM.drawing([1, 2, 3], CODES)], pad_id=50)
    pattern = MaskRegions(batch["order"], batch["streams"])
    mask = pattern.dense_mask(16, 16)
    assert not mask[0, 0, :, 13:].any() and mask.shape == (2, 1, 16, 16)
    used = pattern.view(16, 16).allowed
    assert used is not None and used.any(-1).all()
    assert torch.equal(used[0, 0, :13], mask[0, 0, :13])


@pytest.mark.parametrize("grid", [(12, 12), (20, 20), (5, 9), (2, 2)])
def test_the_papers_patches_cover_three_quarters(grid: tuple[int, int]) -> None:
    for seed in range(5):
        mask = sample_mask(grid, np.random.default_rng(seed))
        one_patch = min(16, grid[0] * grid[1])
        assert 0.75 <= mask.mean() < 0.75 + one_patch / mask.size
    edges = np.mean([sample_mask((12, 12), np.random.default_rng(i))[-1].any() for i in range(20)])
    assert edges > 0.5  # the last row is reached too


@pytest.mark.parametrize("grid", [(12, 12), (20, 20), (5, 9), (1, 2)])
def test_boxes_for_editing_lie_anywhere_and_leave_a_picture_around_them(grid: tuple[int, int]) -> None:
    masks = np.stack([sample_boxes(grid, np.random.default_rng(seed), 1) for seed in range(400)])
    for mask in masks[:50]:  # one rectangle: its rows times its columns
        high, wide = mask.any(1).sum(), mask.any(0).sum()
        assert mask.sum() == high * wide
        sides = zip(grid, (high, wide), strict=True)
        assert all(min(2, side) <= own <= max(2 * side / 3, 2) for side, own in sides)
    assert masks.any(0).all()  # corners too
    share = np.mean([sample_boxes(grid, np.random.default_rng(seed)).mean() for seed in range(400)])
    assert min(grid) < 5 or 0.2 < share < 0.4


def test_the_releases_patches_are_fewer() -> None:
    corners = released_corners((20, 20), random.Random(1))
    assert (
        corners.shape == (20, 2) and corners.max() <= 15 and len({tuple(c) for c in corners.tolist()}) == 20
    )


def test_spans_are_apart_and_few() -> None:
    for seed in range(30):
        places = released.sample_spans(200, np.random.default_rng(seed))
        assert 1 <= places[:, 1].sum() <= 30 and places.min() >= 0
        ends = places.sum(1) + 1
        assert (ends[:-1] <= places[1:, 0]).all() and ends[-1] <= 200


def test_two_languages_learn_apart_in_the_released_rows() -> None:
    """A row with Chinese and English: both captions see the picture, neither the other."""
    languages = (("common", 0, 4), ("en", 4, 10), ("zh", 10, 20))
    vocabulary = Vocabulary(image_codes=30, text_pieces=20, controls=COGVIEW2_CONTROLS, languages=languages)
    form = CogLMFormat(vocabulary=vocabulary, text_slots=8, grid=(8, 8), image_start=9)
    row = np.array([45, 46, 33, 35, 36, 37, 33, 33, *range(64)])
    row[8:] %= 30
    made = released.captioning(row, form, [[0, 0]])
    english, chinese = map(vocabulary.control, ("<start_of_english>", "<start_of_chinese>"))
    assert made.ids[:7].tolist() == [chinese, 45, 46, english, 35, 36, 37]
    mask = mask_of(made)
    assert mask[:7, 8:].all() and not mask[3:7, :3].any() and not mask[:3, 3:7].any()
    assert not mask[8:, :8].any()
    with pytest.raises(CogViewError, match="padding"):
        released.drawing(np.zeros(72, dtype=int), form)


def test_wrong_input_is_one_line() -> None:
    with pytest.raises(CogViewError, match="7 tokens and 6 fit"):
        FORM.drawing(range(7), CODES)
    with pytest.raises(CogViewError, match="vocabulary's 20"):
        FORM.drawing([20], CODES)
    with pytest.raises(CogViewError, match="11 codes"):
        FORM.drawing([], CODES[1:])
    with pytest.raises(CogViewError, match="mask of 11"):
        FORM.editing([], CODES, np.ones(11))
    with pytest.raises(CogViewError, match="no language 'fr'; this model has en, zh"):
        FORM.caption_prompt(CODES, "fr")
    with pytest.raises(ValidationError, match="no control token"):
        CogLMFormat(vocabulary=Vocabulary.cogview(), grid=(2, 2))
    with pytest.raises(ValidationError, match="image_start 3"):
        CogLMFormat(vocabulary=VOCABULARY, grid=(2, 2), image_start=3)


def test_the_releases_own_sizes() -> None:
    form = CogLMFormat.cogview2()
    assert form.begin_id == 150_000 and form.text_limit == 111
    assert form.code_positions()[[0, -1]].tolist() == [513, 912] and form.max_positions == 913
