"""CogView2's two-stage super-resolution with exported models (section 3.3): all codes of the large image in
one forward, then most of them again in the six turns of the released order.

The counterpart of ``generation.hierarchical`` and ``generation.local_parallel`` without PyTorch.
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
ROWS = 256  # places whose logits are in memory at a time

Mask = NDArray[np.bool_]
Likelihoods = Callable[[Ids], Floats]  # places (m,) -> log-likelihoods (m, codes)
Settings = Callable[[str, SamplingParams | None], SamplingParams]  # stage, default -> sampling parameters


@dataclass(frozen=True)
class TwoStages:
    """The direct model and, if the family has one, the iterative model."""

    exported: Exported
    direct: TransformerSession
    format: DirectFormat
    iterative: TransformerSession | None
    iterative_format: IterativeFormat | None

    @property
    def scale(self) -> int:
        """The scale factor of the sides."""
        return self.format.grid[0] // self.format.small[0]

    @property
    def stages(self) -> int:
        """The number of stages."""
        return 1 if self.iterative is None else 2

    @property
    def facts(self) -> dict[str, str]:
        """The provenance entries."""
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
        """Generate the codes (n,) of the large image from those of the small one (rows * columns,).

        Args:
            text: tokens of the caption, from 0.
            region: bool (n,); outside of it the large image keeps the codes ``known`` (n,).
            progress: called with the number of finished turns, and their total.
        """
        turns = 1 if self.iterative is None else 1 + len(_turns())
        report = progress or (lambda done, total: None)
        likelihoods = self._likelihoods(codes)
        large = self._run_direct(codes, text, stage_stream(seed, index, "direct"), settings, likelihoods)
        if region is not None and known is not None:
            large = np.where(region, large, known)
        report(1, turns)
        if self.iterative is not None and self.iterative_format is not None:
            state = _Turns(self.iterative, self.iterative_format, self.exported.clusters, likelihoods)
            stream = Streams([stage_stream(seed, index, "iterative")], turns * len(large))
            for turn, top_k in enumerate(_turns()):
                params = settings("iterative", SamplingParams(top_k=top_k))
                large = state.step(large, text, turn, stream, params, region)
                report(2 + turn, turns)
        return large

    def _run_direct(
        self,
        codes: Ids,
        text: Sequence[int],
        stream: tuple[int, int],
        settings: Settings,
        likelihoods: Likelihoods,
    ) -> Ids:
        """Sample all codes of the large image independently."""
        format = self.format
        text_ids, text_positions, empty = format.padded_texts([list(text)])
        large = np.full(format.codes, format.mask_id)
        small_positions = np.arange(len(codes)) + format.image_start + 1
        ids = np.concatenate([text_ids[0], codes, large])
        positions = np.concatenate([text_positions[0], small_positions, _large_positions(format)])
        states = self.direct.forward(ids, positions, direct_mask(format, int(empty[0])))[-format.codes :]
        params = settings("direct", None if self.exported.clusters is None else RELEASED_DIRECT)
        return _sample(
            self.direct, states, np.arange(format.codes), 0, Streams([stream], format.codes), params,
            self.exported.clusters, likelihoods,
        )  # fmt: skip

    def _likelihoods(self, small: Ids) -> Likelihoods:
        """The likelihoods of the large image's codes, given the decoded small image
        (``generation.pixel_prior``)."""
        facts = self.exported.manifest.image.upscaling
        pixels = np.clip(self.exported.decode(small.reshape(self.format.small)), 0, 1)
        vectors, _ = self.exported.encode(np.clip(bicubic(pixels, self.scale), 0, 1))
        flat, slope = vectors.reshape(-1, vectors.shape[-1]), np.float32(facts.painted)

        def at(places: Ids) -> Floats:
            distances = np.maximum(self.exported.distances(flat[places]), 0)
            log_likelihoods: Floats = -slope * np.log(distances + np.float32(facts.width))
            return log_likelihoods

        return at


@dataclass(frozen=True)
class _Turns:
    """Runs the turns of the iterative model."""

    session: TransformerSession
    format: IterativeFormat
    clusters: Ids | None
    likelihoods: Likelihoods

    def step(
        self,
        codes: Ids,
        text: Sequence[int],
        turn: int,
        stream: Streams,
        params: SamplingParams,
        region: Mask | None,
    ) -> Ids:
        """The codes (n,) after a turn (counted from 0): those of this turn and later ones are sampled."""
        format = self.format
        hidden = turns_over(format.grid) > turn
        hidden = hidden if region is None else hidden & region
        places = np.flatnonzero(hidden)
        if not len(places):
            return codes
        text_ids, text_positions, empty = format.padded_texts([list(text)[: format.text_slots]])
        ids = np.concatenate([text_ids[0], np.where(hidden, format.mask_id, codes)])
        positions = np.concatenate([text_positions[0], _large_positions(format)])
        mask = iterative_mask(format, int(empty[0]))
        states = self.session.forward(ids, positions, mask)[-format.codes :]
        result = codes.copy()
        result[places] = _sample(
            self.session,
            states[places],
            places,
            turn * format.codes,
            stream,
            params,
            self.clusters,
            self.likelihoods,
        )
        return result


def _turns() -> list[int]:
    """The released top-k of each turn."""
    turns = max(map(max, RELEASED_TURNS))
    return [top_k_of(turn + 1, turns) for turn in range(turns)]


def turns_over(grid: Sides) -> Ids:
    """The turn (rows * columns,) in which each code of a grid becomes final; 0 and less: it is kept."""
    matrix = np.array(RELEASED_TURNS)
    down, across = (-(-side // size) for side, size in zip(grid, matrix.shape, strict=True))
    turns: Ids = np.tile(matrix, (down, across))[: grid[0], : grid[1]].ravel()
    return turns


def _large_positions(format: DirectFormat | IterativeFormat) -> Ids:
    return np.arange(format.first_position, format.first_position + format.codes)


def _sample(
    session: TransformerSession,
    states: Floats,
    places: Ids,
    first: int,
    stream: Streams,
    params: SamplingParams,
    clusters: Ids | None,
    likelihoods: Likelihoods,
) -> Ids:
    """Sample codes (m,) at places (m,) from hidden states (m, h); first: stream numbers used so far."""
    sampled = []
    for start in range(0, len(places), ROWS):
        part = places[start : start + ROWS]
        logits = session.logits("image", states[start : start + ROWS]) + likelihoods(part)
        noise = stream.gumbel_of([0] * len(part), (first + part).tolist(), logits.shape[1])
        sampled.append(draws.sample(logits, noise, params, clusters))
    return np.concatenate(sampled)


# ---------------------------------------------------------------------------------------- attention masks


def direct_mask(format: DirectFormat, empty: int) -> Mask:
    """The mask bool (tokens, tokens) of :class:`cogview.transformer.attention.CrossResolution`; empty: number
    of padding tokens before the text."""
    text, head = format.text_slots, format.decoder_from
    index = np.arange(head)
    row, column = index[:, None], index
    mask = np.zeros((head + format.codes, head + format.codes), dtype=np.bool_)
    mask[:head, :head] = ((row >= text) | (column < text)) & ((row < empty) | (column >= empty))
    mask[head:, text:head] = _local(format.grid, format.small, format.across)
    mask[head:, head:] = _local(format.grid, format.grid, format.window)
    return mask


def iterative_mask(format: IterativeFormat, empty: int) -> Mask:
    """The mask bool (tokens, tokens) of :class:`cogview.transformer.attention.Local`; empty: number of
    padding tokens before the text."""
    text = format.text_slots
    visible = np.arange(text) >= empty
    mask = np.zeros((text + format.codes, text + format.codes), dtype=np.bool_)
    mask[:text, :text] = visible | (not visible.any())  # an empty row would make the text's states NaN
    mask[text:, :text] = visible
    mask[text:, text:] = _local(format.grid, format.grid, format.window)
    return mask


def _local(queries: Sides, keys: Sides, window: Sides) -> Mask:
    """The mask bool (queries, keys) of local attention between two grids: a window around the corresponding
    position."""
    axes = []
    for count, others, size in zip(queries, keys, window, strict=True):
        offset = np.arange(others) - (np.arange(count) * others // count)[:, None]
        axes.append((offset >= -(size // 2)) & (offset <= size - 1 - size // 2))
    mask = axes[0][:, None, :, None] & axes[1][None, :, None, :]
    return mask.reshape(queries[0] * queries[1], keys[0] * keys[1])
