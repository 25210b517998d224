"""CogView2's super-resolution in two stages with exported models (section 3.3): all codes of the large image
at once, then most of them again in the six turns of the released order.

What ``generation.hierarchical`` and ``generation.local_parallel`` do with PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cogview.generation.two_stages import DIRECT as RELEASED_DIRECT
from cogview.generation.two_stages import RELEASED_TURNS, stage_stream, top_k_of
from cogview.onnx import draws
from cogview.onnx.draws import Floats, Streams
from cogview.onnx.sessions import Exported, TransformerSession
from cogview.onnx.upscaler import bicubic
from cogview.sequences.super_resolution import DirectFormat, IterativeFormat, Sides
from cogview.types import Ids, ProgressCallback, SamplingParams

ORDER = "released"
ROWS = 256  # places whose logits are held at a time

Mask = NDArray[np.bool_]
Likelihoods = Callable[[Ids], Floats]  # of places (m,): (m, codes)
Settings = Callable[[str, SamplingParams | None], SamplingParams]  # of a stage, and what else is the default


@dataclass(frozen=True)
class TwoStages:
    """The direct model and, where a family has one, the iterative model."""

    exported: Exported
    direct: TransformerSession
    form: DirectFormat
    iterative: TransformerSession | None
    iterative_form: IterativeFormat | None

    @property
    def scale(self) -> int:
        """How many times longer sides get."""
        return self.form.grid[0] // self.form.small[0]

    @property
    def stages(self) -> int:
        """How many there are."""
        return 1 if self.iterative is None else 2

    @property
    def facts(self) -> dict[str, str]:
        """What provenance says."""
        if self.iterative is None:
            return {"super_resolution": "direct"}
        return {"super_resolution": "direct and iterative", "order": ORDER}

    def run(
        self,
        codes: Ids,
        text: Sequence[int],
        seed: int,
        index: int,
        settings: Settings,
        region: Mask | None = None,
        known: Ids | None = None,
        progress: ProgressCallback | None = None,
    ) -> Ids:
        """Codes (n,) of the large image of small ones (rows * columns,).

        Args:
            text: tokens of the caption, from 0.
            region: bool (n,); outside of it the large image keeps the codes ``known`` (n,).
            progress: told the turns that are done, and all.
        """
        turns = 1 if self.iterative is None else 1 + len(_turns())
        report = progress or (lambda done, total: None)
        likely = self._likelihoods(codes)
        large = self._directly(codes, text, stage_stream(seed, index, "direct"), settings, likely)
        if region is not None and known is not None:
            large = np.where(region, large, known)
        report(1, turns)
        if self.iterative is not None and self.iterative_form is not None:
            state = _Turns(self.iterative, self.iterative_form, self.exported.clusters, likely)
            stream = Streams([stage_stream(seed, index, "iterative")], turns * len(large))
            for turn, top_k in enumerate(_turns()):
                own = settings("iterative", SamplingParams(top_k=top_k))
                large = state.step(large, text, turn, stream, own, region)
                report(2 + turn, turns)
        return large

    def _directly(
        self,
        codes: Ids,
        text: Sequence[int],
        stream: tuple[int, int],
        settings: Settings,
        likely: Likelihoods,
    ) -> Ids:
        """All codes of the large image, each by itself."""
        form = self.form
        words, at_words, empty = form.padded_texts([list(text)])
        large = np.full(form.codes, form.mask_id)
        at_small = np.arange(len(codes)) + form.image_start + 1
        ids = np.concatenate([words[0], codes, large])
        positions = np.concatenate([at_words[0], at_small, _large_positions(form)])
        states = self.direct.whole(ids, positions, direct_sight(form, int(empty[0])))[-form.codes :]
        params = settings("direct", None if self.exported.clusters is None else RELEASED_DIRECT)
        return _sampled(
            self.direct, states, np.arange(form.codes), 0, Streams([stream], form.codes), params,
            self.exported.clusters, likely,
        )  # fmt: skip

    def _likelihoods(self, small: Ids) -> Likelihoods:
        """What the small image, as its codes decode, says of the large one's codes
        (``generation.pixel_prior``)."""
        facts = self.exported.manifest.image.upscaling
        pixels = np.clip(self.exported.decode(small.reshape(self.form.small)), 0, 1)
        vectors, _ = self.exported.encode(np.clip(bicubic(pixels, self.scale), 0, 1))
        flat, slope = vectors.reshape(-1, vectors.shape[-1]), np.float32(facts.painted)

        def at(places: Ids) -> Floats:
            distances = np.maximum(self.exported.distances(flat[places]), 0)
            found: Floats = -slope * np.log(distances + np.float32(facts.width))
            return found

        return at


@dataclass(frozen=True)
class _Turns:
    """The iterative model at work."""

    session: TransformerSession
    form: IterativeFormat
    clusters: Ids | None
    likely: Likelihoods

    def step(
        self,
        codes: Ids,
        text: Sequence[int],
        turn: int,
        stream: Streams,
        params: SamplingParams,
        region: Mask | None,
    ) -> Ids:
        """The codes (n,) after a turn, counted from 0: those whose turn it is, or comes, are sampled."""
        form = self.form
        hidden = turns_over(form.grid) > turn
        hidden = hidden if region is None else hidden & region
        places = np.flatnonzero(hidden)
        if not len(places):
            return codes
        words, at_words, empty = form.padded_texts([list(text)[: form.text_slots]])
        ids = np.concatenate([words[0], np.where(hidden, form.mask_id, codes)])
        positions = np.concatenate([at_words[0], _large_positions(form)])
        states = self.session.whole(ids, positions, iterative_sight(form, int(empty[0])))[-form.codes :]
        found = codes.copy()
        found[places] = _sampled(
            self.session,
            states[places],
            places,
            turn * form.codes,
            stream,
            params,
            self.clusters,
            self.likely,
        )
        return found


def _turns() -> list[int]:
    """The released top-k of every turn."""
    turns = max(map(max, RELEASED_TURNS))
    return [top_k_of(turn + 1, turns) for turn in range(turns)]


def turns_over(grid: Sides) -> Ids:
    """The turn (rows * columns,) in which each code of a grid is fixed; 0 and less for those that stay."""
    matrix = np.array(RELEASED_TURNS)
    down, across = (-(-side // size) for side, size in zip(grid, matrix.shape, strict=True))
    found: Ids = np.tile(matrix, (down, across))[: grid[0], : grid[1]].ravel()
    return found


def _large_positions(form: DirectFormat | IterativeFormat) -> Ids:
    return np.arange(form.first_position, form.first_position + form.codes)


def _sampled(
    session: TransformerSession,
    states: Floats,
    places: Ids,
    first: int,
    stream: Streams,
    params: SamplingParams,
    clusters: Ids | None,
    likely: Likelihoods,
) -> Ids:
    """Codes (m,) at places (m,) from their states (m, h); first: numbers of the stream before these."""
    made = []
    for start in range(0, len(places), ROWS):
        part = places[start : start + ROWS]
        logits = session.logits("image", states[start : start + ROWS]) + likely(part)
        noise = stream.gumbel_of([0] * len(part), (first + part).tolist(), logits.shape[1])
        made.append(draws.sample(logits, noise, params, clusters))
    return np.concatenate(made)


# ------------------------------------------------------------------------------------------ who sees whom


def direct_sight(form: DirectFormat, empty: int) -> Mask:
    """bool (tokens, tokens) of :class:`cogview.transformer.attention.CrossResolution`; empty: places before
    the text."""
    text, head = form.text_slots, form.decoder_from
    place = np.arange(head)
    row, column = place[:, None], place
    seen = np.zeros((head + form.codes, head + form.codes), dtype=np.bool_)
    seen[:head, :head] = ((row >= text) | (column < text)) & ((row < empty) | (column >= empty))
    seen[head:, text:head] = _through(form.grid, form.small, form.across)
    seen[head:, head:] = _through(form.grid, form.grid, form.window)
    return seen


def iterative_sight(form: IterativeFormat, empty: int) -> Mask:
    """bool (tokens, tokens) of :class:`cogview.transformer.attention.Local`; empty: places before the
    text."""
    text = form.text_slots
    shown = np.arange(text) >= empty
    seen = np.zeros((text + form.codes, text + form.codes), dtype=np.bool_)
    seen[:text, :text] = shown | (not shown.any())  # or the states of the text would be no numbers
    seen[text:, :text] = shown
    seen[text:, text:] = _through(form.grid, form.grid, form.window)
    return seen


def _through(queries: Sides, keys: Sides, window: Sides) -> Mask:
    """bool (queries, keys): codes of one grid that see those of another through a window around the place
    under them."""
    axes = []
    for count, among, size in zip(queries, keys, window, strict=True):
        away = np.arange(among) - (np.arange(count) * among // count)[:, None]
        axes.append((away >= -(size // 2)) & (away <= size - 1 - size // 2))
    whole = axes[0][:, None, :, None] & axes[1][None, :, None, :]
    return whole.reshape(queries[0] * queries[1], keys[0] * keys[1])
