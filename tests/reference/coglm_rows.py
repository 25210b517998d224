"""Rows of the published training script, token for token (released code, stage 1).

A row is so many text slots and a picture: one text or two in two languages, each followed by padding. Which
of three things is learnt from it is the caller's chance, as are text, patches and spans. The rows keep their
length, so everything that is not used is hidden, and there are three quirks: a row's labels are the row's own
tokens even where [BOI] stands in their place, the token after a patch's row counts as unpredicted even where
another patch begins there, and behind the last span of a text everything is masked.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cogview.errors import CogViewError
from cogview.sequences.coglm import CHINESE, ENGLISH, CogLMFormat, CogLMSequence
from cogview.sequences.masks import PATCH, patches
from cogview.types import Ids
from cogview.vocabulary import Vocabulary

PADDING_PIECE = 3
SPAN = 3.0  # expected tokens of a masked span of text
SPAN_SHARE = 0.15


def padding(vocabulary: Vocabulary) -> int:
    """icetk's ``<pad>``."""
    return vocabulary.piece(PADDING_PIECE)


def texts_of(row: Ids, form: CogLMFormat) -> list[tuple[int, int]]:
    """(first, end) of every text in a row's text slots; they are divided by padding."""
    slots = row[: len(row) - form.codes]
    present = np.concatenate([[False], slots != padding(form.vocabulary), [False]])
    edges = np.flatnonzero(present[1:] != present[:-1])
    return [(int(first), int(end)) for first, end in edges.reshape(-1, 2)]


def _checked(row: ArrayLike, form: CogLMFormat) -> tuple[Ids, int]:
    """The row, and how many text slots it has."""
    tokens = np.asarray(row, dtype=np.int64).ravel()
    slots = tokens.size - form.codes
    if slots < 1 or tokens[slots - 1] != padding(form.vocabulary):
        raise CogViewError(f"a row of {tokens.size} tokens: no padding before its {form.codes} codes")
    return tokens, slots


def _next(tokens: Ids) -> Ids:
    """Each token's successor; the last one's is itself."""
    return np.append(tokens[1:], tokens[-1])


def drawing(row: ArrayLike, form: CogLMFormat, chosen: int = 0) -> CogLMSequence:
    """Text-to-image from the text number ``chosen``; [BOI] takes the last text slot."""
    tokens, slots = _checked(row, form)
    ids, positions, order = tokens.copy(), np.zeros_like(tokens), np.full_like(tokens, -1)
    texts = texts_of(tokens, form)
    if texts:
        first, end = texts[chosen]
        positions[first:end], order[first:end] = np.arange(end - first), 0
    ids[slots - 1] = form.begin_id
    positions[slots - 1 :] = form.begin_position + np.arange(form.codes + 1)
    order[slots - 1 :] = np.arange(1, form.codes + 2)
    weights = np.zeros(tokens.size, dtype=np.float32)
    weights[slots - 1 : -1] = 1
    return CogLMSequence(ids, positions, _next(tokens), weights, order, np.zeros_like(tokens))


def captioning(row: ArrayLike, form: CogLMFormat, corners: ArrayLike) -> CogLMSequence:
    """Mask prediction in patches at ``corners`` (n, 2), and every text of the row as a caption."""
    tokens, slots = _checked(row, form)
    ids = np.concatenate([tokens[:1], tokens[: slots - 1], tokens[slots:]])  # texts one to the right
    positions, order = np.zeros_like(tokens), np.full_like(tokens, -1)
    streams, weights = np.zeros_like(tokens), np.zeros(tokens.size, dtype=np.float32)
    for number, (first, end) in enumerate(texts_of(tokens, form), 1):
        ids[first] = _separator(tokens[first:end], form)
        positions[first : end + 1] = np.arange(end + 1 - first)
        order[first : end + 1] = tokens.size + np.arange(end + 1 - first)  # behind all of the picture
        streams[first : end + 1], weights[first:end] = number, 1
    positions[slots:] = form.code_positions()
    mask = patches(form.grid, corners).ravel()
    order[slots:] = np.where(mask, mask.cumsum(), 0)
    weights[slots:] = patch_places(form.grid, corners).ravel()
    return CogLMSequence(ids, positions, _next(ids), weights, order, streams)


def patch_places(grid: tuple[int, int], corners: ArrayLike) -> NDArray[np.bool_]:
    """bool (rows, columns): tokens whose right neighbour lies in the same row of the same patch."""
    places = np.zeros(grid, dtype=np.bool_)
    for row, column in np.asarray(corners, dtype=np.int64).reshape(-1, 2).tolist():
        places[row : row + PATCH, column : column + PATCH - 1] = True
    return places


def _separator(text: Ids, form: CogLMFormat) -> int:
    """[BOE] where no piece stands behind the English ones, else [BOC]."""
    named = [name for name, _, _ in form.vocabulary.languages]
    limit = form.vocabulary.language("zh").start if "zh" in named else form.vocabulary.size
    return form.vocabulary.control(ENGLISH if (text < limit).all() else CHINESE)


def spans(row: ArrayLike, form: CogLMFormat, places: ArrayLike) -> CogLMSequence:
    """Text alone: places (n, 2) are spans as (first, predicted tokens), in order and apart.

    The token at ``first`` and the predicted ones after it are masked.
    """
    tokens = np.asarray(row, dtype=np.int64).ravel()
    masked, weights = np.zeros(tokens.size, dtype=np.bool_), np.zeros(tokens.size, dtype=np.float32)
    first = tokens.size
    for first, length in np.asarray(places, dtype=np.int64).reshape(-1, 2).tolist():
        masked[first : first + length + 1], weights[first : first + length] = True, 1
    masked[first:] = True
    order = np.where(masked, np.arange(1, tokens.size + 1), 0)
    positions = np.arange(tokens.size)
    return CogLMSequence(tokens, positions, _next(tokens), weights, order, np.zeros_like(tokens))


def sample_spans(length: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """(n, 2) spans of Poisson(3) tokens, at least 1, that together predict at most 15 % of a text."""
    lengths = np.maximum(1, rng.poisson(SPAN, size=length))
    lengths = lengths[lengths.cumsum() <= SPAN_SHARE * length]
    room = length - int((lengths + 1).sum())
    before = np.sort(rng.integers(0, room + 1, size=len(lengths)))  # free tokens in front of each span
    firsts = before + np.concatenate([[0], (lengths + 1).cumsum()[:-1]])[: len(lengths)]
    return np.stack([firsts, lengths], -1).astype(np.int64)
