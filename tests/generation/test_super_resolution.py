"""Super-resolution of codes: the released nine windows, each cell drawn once, and a slow plain reference."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cogview.errors import CogViewError
from cogview.generation.decoder import pack
from cogview.generation.engine import Engine
from cogview.generation.sampling import Streams, filter_logits, guide, gumbel_sample
from cogview.generation.window_super_resolution import SmallImage, upscale_codes
from cogview.generation.windows import STREAMS, Size, sliding_windows
from cogview.sequences import SequenceFormat
from cogview.transformer.config import TransformerConfig
from cogview.transformer.model import Transformer
from cogview.types import SamplingParams
from cogview.vocabulary import Vocabulary
from tests.reference.cogview_sampling import fill

VOCABULARY = Vocabulary(image_codes=32, text_pieces=40)
GREEDY = SamplingParams(top_k=1)
# (row, column, rows) of a 64 x 64 picture's windows, corners at multiples of 16, and what each draws anew
TOP, MIDDLE = ((0, 0, 18), (0, 1, 30), (0, 2, 30)), ((1, 1, 30), (1, 0, 30), (1, 2, 30))
BOTTOM = ((2, 0, 32), (2, 1, 32), (2, 2, 32))
RELEASED_NEW = (576, 672, 480, 512, 448, 256, 576, 288, 288)


@functools.cache
def form(positions: str = "index", grid: Size = (4, 4), context: Size = (2, 2)) -> SequenceFormat:
    values = {"grid": grid, "context_grid": context, "image_positions": positions, "text_slots": 8}
    return SequenceFormat.model_validate(
        {"kind": "super_resolution", "vocabulary": VOCABULARY, "recount": "inference", **values}
    )


@functools.cache
def model(max_positions: int = 160) -> Transformer:
    """Random weights, large ones, so that every token of the context counts."""
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCABULARY.padded_size, "max_positions": max_positions}
    made = Transformer(TransformerConfig.model_validate({"layers": 2, "hidden": 32, "heads": 4, **sizes}))
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=0.2)
    return made.eval()


def engine(**options: Any) -> Engine:
    return Engine(pack(model(), slice(0, VOCABULARY.image_codes)), **options)


def picture(rows: int, columns: int, index: int = 0, text: Sequence[int] = (3, 9)) -> SmallImage:
    codes = np.random.default_rng([rows, columns, index]).integers(0, VOCABULARY.image_codes, (rows, columns))
    return SmallImage(text, codes, 7, index)


def enlarged(
    pictures: Sequence[SmallImage],
    sampling: SamplingParams,
    wanted: SequenceFormat | None = None,
    **options: Any,
) -> list[NDArray[np.int64]]:
    batch = options.pop("batch_size", None)
    found = dict(upscale_codes(engine(**options), wanted or form(), pictures, sampling, batch))
    return [found[number] for number in range(len(pictures))]


# ---------------------------------------------------------------------------------------------- the windows


def test_the_released_windows() -> None:
    """Their order, their rows, and how many codes each draws."""
    windows = sliding_windows((64, 64), (32, 32))
    assert tuple((w.top // 16, w.left // 16, w.rows) for w in windows) == (*TOP, *MIDDLE, *BOTTOM)
    known = np.zeros((64, 64), dtype=bool)
    for window, new in zip(windows, RELEASED_NEW, strict=True):
        part = known[window.top : window.top + window.rows, window.left : window.left + 32]
        assert (~part).sum() == new
        part[:] = True


def test_the_middle_is_drawn_with_all_around_it() -> None:
    """For pictogram: the centre of the top and of the picture come before the lower left and right."""
    order = [(w.top, w.left) for w in sliding_windows((24, 24), (12, 12))]
    assert order == [(0, 0), (0, 6), (0, 12), (6, 6), (6, 0), (6, 12), (12, 0), (12, 6), (12, 12)]


sides = st.integers(1, 6)


@given(sides, sides, st.integers(1, 4), st.integers(0, 30), st.integers(0, 30))
def test_every_code_is_drawn_once_and_seen_in_time(
    rows: int, columns: int, scale: int, more_rows: int, more_columns: int
) -> None:
    """Any window, scale and size: nothing left, nothing drawn before what stands in its window."""
    window = (rows * scale, columns * scale)
    target = (window[0] + more_rows * scale, window[1] + more_columns * scale)
    turn_of = np.full(target, -1)
    for number, w in enumerate(sliding_windows(target, window, scale)):
        assert w.number == number and w.top % scale == 0 and w.left % scale == 0
        assert w.top + window[0] <= target[0] and w.left + window[1] <= target[1]
        part = turn_of[w.top : w.top + w.rows, w.left : w.left + window[1]]
        assert (part < 0).any()  # no idle window
        assert (part < w.turn).all()  # what it is given was drawn in an earlier turn
        part[part < 0] = w.turn
    assert (turn_of >= 0).all()


@given(st.integers(2, 8), st.integers(0, 8), st.integers(0, 8))
def test_windows_see_what_is_above_them(half: int, rows: int, columns: int) -> None:
    """But for the top, no window draws its first row without half a window above it."""
    side = 2 * half
    drawn = np.zeros((side + rows * half // 2 * 2, side + columns * half // 2 * 2), dtype=bool)
    for w in sliding_windows((drawn.shape[0], drawn.shape[1]), (side, side)):
        if w.top:
            assert drawn[w.top, w.left : w.left + side].all()
        drawn[w.top : w.top + w.rows, w.left : w.left + side] = True


def test_few_turns() -> None:
    """Seven for nine windows; a picture four times as large takes far fewer turns than windows."""
    turns = {times: [w.turn for w in sliding_windows((12 * times,) * 2, (12, 12))] for times in (1, 2, 4)}
    assert [1 + max(turns[times]) for times in (1, 2)] == [1, 7]
    assert len(turns[4]) == 49 and max(turns[4]) < 30


# ---------------------------------------------------------------------------------------------- references


def magnified(small: SmallImage, order: Sequence[tuple[int, int, int]], step: int) -> NDArray[np.int64]:
    """The released ``magnify`` written plainly: one sequence with blanks a window, each filled on its own."""
    control, side = VOCABULARY.control, form().grid[0]
    begin = [control("[ROI1]"), *(np.array(small.text) + VOCABULARY.texts.start), control("[BASE]")]
    middle = [control(name) for name in ("[EOI1]", "[ROI2]", "[POS0]", "[BASE]", "[BOI2]")]
    out = np.full((2 * small.codes.shape[0], 2 * small.codes.shape[1]), -1)
    for i, j, rows in order:
        top, left = i * step, j * step
        context = small.codes[top // 2 : (top + side) // 2, left // 2 : (left + side) // 2].ravel()
        window = out[top : top + rows, left : left + side]
        sequence = [*begin, control("[BOI1]"), *context, *middle, *window.ravel()]
        filled = fill(model(), VOCABULARY, sequence, GREEDY)[0, -window.size :]
        window[...] = filled.numpy().reshape(window.shape)
    return out


def test_greedy_is_the_released_magnification() -> None:
    """8 x 8 from 4 x 4 codes, windows of 4 x 4: the released loop and filling rules, window by window."""
    order = (
        (0, 0, 3),
        (0, 1, 3),
        (0, 2, 3),
        (1, 1, 3),
        (1, 0, 3),
        (1, 2, 3),
        (2, 0, 4),
        (2, 1, 4),
        (2, 2, 4),
    )
    small = picture(4, 4)
    assert np.array_equal(enlarged([small], GREEDY)[0], magnified(small, order, 2))


@torch.inference_mode()
def plain(small: SmallImage, sampling: SamplingParams, form: SequenceFormat) -> NDArray[np.int64]:
    """Window after window, token after token, the whole sequence read anew for each."""
    scale, (height, width) = form.grid[0] // form.context_grid[0], form.grid  # type: ignore[index]
    out = np.full((scale * small.codes.shape[0], scale * small.codes.shape[1]), -1)
    for w in sliding_windows((out.shape[0], out.shape[1]), form.grid, scale):
        rows, columns = height // scale, width // scale
        part = small.codes[w.top // scale :, w.left // scale :][:rows, :columns]
        stream = small.index * STREAMS + 2**16 + w.number
        for place in range(w.rows * width):
            at = (w.top + place // width, w.left + place % width)
            if out[at] >= 0:
                continue
            before = out[w.top : w.top + w.rows, w.left : w.left + width].ravel()[:place]
            scores = []
            for text in (small.text, ()):
                prompt = form.image_prompt(text, part, w.rows * width)
                ids = torch.tensor([[*prompt.ids, *before]])
                positions = torch.tensor([[*prompt.positions, *prompt.decode_positions[:place]]])
                hidden = model()(ids, positions)[:, -1]
                scores.append(model().logits(hidden, slice(0, VOCABULARY.image_codes)))
            noise = Streams([(small.seed, stream)], w.rows * width, "cpu").gumbel(place, 32)
            guided = guide(scores[0], scores[1], sampling.guidance_scale)
            out[at] = int(gumbel_sample(filter_logits(guided, sampling), noise))
    return out


@pytest.mark.parametrize(
    ("given_form", "shape"),
    [
        (form("fixed"), (2, 2)),  # one window
        (form("index"), (3, 4)),
        (form("fixed", (4, 6), (2, 3)), (4, 5)),  # windows that are not square
        (form("index", (6, 6), (2, 2)), (3, 3)),  # the model enlarges three times
        (form("fixed"), (6, 8)),  # a target three and four times as large as a window
    ],
    ids=["one", "oblong", "wide", "thrice", "large"],
)
@pytest.mark.parametrize("guidance", [1.0, 1.5])
def test_sampling_is_that_of_a_plain_loop(given_form: SequenceFormat, shape: Size, guidance: float) -> None:
    sampling = SamplingParams(top_k=9, temperature=1.1, guidance=guidance)
    small = picture(*shape, index=5)
    assert np.array_equal(enlarged([small], sampling, given_form)[0], plain(small, sampling, given_form))


def test_pictures_do_not_depend_on_their_company() -> None:
    """Sizes and texts mixed, in batches of any size, and deterministic: the same codes as alone."""
    sampling, shapes = SamplingParams(top_k=9), ((4, 4), (2, 2), (3, 6), (4, 4), (2, 5))
    small = [picture(*shape, index, range(index)) for index, shape in enumerate(shapes)]
    alone = [enlarged([one], sampling)[0] for one in small]
    for options in ({}, {"batch_size": 1}, {"batch_size": 3}, {"deterministic": True}):
        together = enlarged(small, sampling, **options)
        assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True)), options
    assert [codes.shape for codes in alone] == [(2 * rows, 2 * columns) for rows, columns in shapes]


def test_an_index_and_a_stage_are_streams_of_their_own() -> None:
    sampling, codes = SamplingParams(), picture(4, 4).codes
    by_index = [enlarged([SmallImage((), codes, 7, index)], sampling)[0] for index in (0, 1)]
    second = dict(upscale_codes(engine(), form(), [SmallImage((), codes, 7, 0)], sampling, stage=1))[0]
    assert not np.array_equal(by_index[0], by_index[1])
    assert not np.array_equal(by_index[0], second)


def test_progress_reaches_its_total() -> None:
    seen: list[tuple[int, int]] = []
    small = [picture(4, 4), picture(2, 2)]
    list(upscale_codes(engine(), form(), small, SamplingParams(), 1, lambda *now: seen.append(now)))
    assert seen == sorted(seen) and seen[-1][0] == seen[-1][1]


@pytest.mark.parametrize(
    ("small", "given_form", "message"),
    [
        (picture(1, 4), form(), "1 x 4 codes"),
        (picture(4, 4, text=range(9)), form(), "9 tokens and 7 fit"),
        (SmallImage((), np.full((2, 2), 99), 0, 0), form(), "outside the vocabulary"),
        (picture(4, 4), form(grid=(4, 5)), "the same integer factor"),
        (picture(4, 4), SequenceFormat(vocabulary=VOCABULARY, grid=(4, 4)), "does not upscale"),
    ],
)
def test_what_cannot_be_enlarged(small: SmallImage, given_form: SequenceFormat, message: str) -> None:
    with pytest.raises(CogViewError, match=message):
        list(upscale_codes(engine(), given_form, [small], GREEDY))
