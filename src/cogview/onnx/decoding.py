"""Generates tokens with an exported transformer, token by token or in Jacobi windows.

The counterpart of ``generation.engine`` without PyTorch: each prompt is prefilled once, noise is a function
of (seed, image, step, token), and both strategies generate the same tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cogview.errors import CogViewError
from cogview.generation.without_model import SMALL, Guesses, window_size
from cogview.onnx import draws
from cogview.onnx.cached_rows import Rows, prefill
from cogview.onnx.draws import Floats, Streams
from cogview.onnx.sessions import TransformerSession
from cogview.sequences.protocols import Prompt
from cogview.types import Decoding, Ids, ProgressCallback, SamplingParams

TOKENS, MOST = 32, 16  # tokens in one forward, over all rows; largest window of one request
BATCH = 8  # requests at a time

Filter = Callable[[Floats, Sequence[int], Sequence[int]], Floats]  # logits (m, v), requests, steps -> logits
OnStep = Callable[[int, Ids], None]  # number of known tokens, all tokens (n, requests)
StepCallback = Callable[[Sequence[int], Ids], None]  # numbers of the requests, tokens so far (b, tokens)


@dataclass(frozen=True, eq=False)
class Request:
    """One sequence to generate; like :class:`cogview.generation.loop.SequenceRequest`, with NumPy arrays."""

    prompt: Prompt
    seed: int
    index: int
    negative_prompt: Prompt | None = None
    known_tokens: Ids | None = None
    likelihoods: Callable[[int], Floats] | None = None


@dataclass(frozen=True)
class Constraint:
    """Allowed tokens and stop token of a text.

    allowed: (v,) bool over a head's columns; stop: the id that ends a text, if any; first_id: that of the
    first column.
    """

    allowed: NDArray[np.bool_]
    stop: int | None
    first_id: int

    def filter(self, logits: Floats, requests: Sequence[int], steps: Sequence[int]) -> Floats:
        """Set the logits (m, v) of disallowed tokens to -inf; a text has at least one token."""
        allowed = np.repeat(self.allowed[None], len(logits), 0)
        if self.stop is not None:
            allowed[np.array(steps) < 1, self.stop - self.first_id] = False
        return np.where(allowed, logits, np.float32(-np.inf))

    def ended(self, ids: Ids) -> Ids:
        """The tokens (n,) before the stop token."""
        if self.stop is None or self.stop not in ids:
            return ids
        return ids[: int((ids == self.stop).argmax())]


@dataclass
class Batch:
    """The state of a batch during decoding.

    tokens: (n, requests), -1 where one is to be generated; positions: (n, rows); hidden: (rows, h); start:
    (rows,), lengths of the prompts; present: the requests in ``rows``, which with guidance are followed by
    the rows of their negative prompts.
    """

    session: TransformerSession
    head: str
    params: SamplingParams
    tokens: Ids
    positions: Ids
    hidden: Floats
    rows: Rows
    noise: Streams
    guided: bool
    filter: Filter | None
    clusters: Ids | None
    stop: int | None
    start: Ids = field(init=False)
    present: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.start, self.present = self.rows.lengths.copy(), list(range(self.tokens.shape[1]))

    def rows_of(self, requests: Sequence[int]) -> list[int]:
        """The rows of requests, with guidance followed by those of their negative prompts."""
        rows = list(requests)
        return rows + [number + self.tokens.shape[1] for number in rows] if self.guided else rows

    def keep(self, requests: Sequence[int]) -> None:
        """Drop the rows of all other requests."""
        if list(requests) != self.present:
            rows = [self.present.index(number) for number in requests]
            negative = [row + len(self.present) for row in rows] if self.guided else []
            self.rows, self.present = self.rows.select(rows + negative), list(requests)

    def sample(self, hidden: Floats, requests: Sequence[int], steps: Sequence[int]) -> Ids:
        """Sample the ids (m,) that follow hidden states (m, h), with guidance (2m, h).

        The head is linear, so guidance is applied to hidden states instead of logits.
        """
        if self.guided:
            conditional, unconditional = np.split(hidden, 2)
            hidden = draws.guide(conditional, unconditional, self.params.guidance_scale)
        logits = self.session.logits(self.head, hidden)
        if self.filter is not None:
            logits = self.filter(logits, requests, steps)
        noise = self.noise.gumbel_of(requests, steps, logits.shape[-1])
        return draws.sample(logits, noise, self.params, self.clusters) + self.session.first_id(self.head)


def sequential(batch: Batch, on_step: OnStep) -> None:
    """Decode token by token; runs of known tokens are read in one forward."""
    tokens, read, step = batch.tokens, 0, -1
    requests = range(tokens.shape[1])
    repeats = 1 + batch.guided
    for step in np.flatnonzero((tokens < 0).any(1)).tolist():
        if read < step:
            ids = np.tile(tokens[read:step].T, (repeats, 1))
            batch.hidden = batch.rows.read(ids, batch.positions[read:step].T)[:, -1]
            read = step
        sampled = batch.sample(batch.hidden, requests, [step] * len(requests))
        tokens[step] = np.where(tokens[step] < 0, sampled, tokens[step])
        on_step(step + 1, tokens)
        if batch.stop is not None and bool((tokens[: step + 1] == batch.stop).any(0).all()):
            break
    if step + 1 < len(tokens):
        on_step(len(tokens), tokens)


Window = tuple[Guesses, list[int]]  # a request, and its next steps to sample


def jacobi(batch: Batch, on_step: OnStep) -> None:
    """Decode in windows of guesses, which are sampled again until they are correct
    (``generation.strategies``)."""
    count, known = batch.tokens.shape[1], 0
    requests = [Guesses(number, batch.tokens[:, number].tolist(), batch.stop) for number in range(count)]
    ready = [one for one in requests if one.open[:1] == [0]]
    if ready:  # the first token follows the prompt, which has been read
        hidden = batch.hidden[batch.rows_of([one.number for one in ready])]
        _sample(batch, hidden, [(one, [0]) for one in ready])
    while known < len(batch.tokens):
        before, known = known, min(one.known for one in requests)
        if known > before:
            on_step(known, batch.tokens)
        waiting = [one for one in requests if not one.done]
        if waiting:
            size = window_size(len(waiting) * (1 + batch.guided), batch.stop is not None, TOKENS, MOST)
            windows = [(one, one.guess(size)) for one in waiting]
            _sample(batch, _read(batch, windows), windows)


def _read(batch: Batch, windows: Sequence[Window]) -> Floats:
    """Read windows in one forward; returns the states (m, h) before the steps to sample, with guidance
    (2m, h)."""
    numbers, repeats = [one.number for one, _ in windows], 1 + batch.guided
    batch.keep(numbers)
    rows = batch.rows_of(numbers)
    spans = [(one.read, steps[-1]) for one, steps in windows] * repeats
    longest = max(end - first for first, end in spans)
    ids, positions = (np.zeros((len(rows), longest), dtype=np.int64) for _ in range(2))
    for place, (row, (first, end)) in enumerate(zip(rows, spans, strict=True)):
        ids[place, : end - first] = windows[place % len(windows)][0].tokens[first:end]
        positions[place, : end - first] = batch.positions[first:end, row]
    batch.rows.lengths = batch.start[rows] + np.array([first for first, _ in spans])
    hidden = batch.rows.read(ids, positions, np.array([end - first for first, end in spans]))
    outputs = [
        (place, step - 1 - first)
        for place, (first, _) in enumerate(spans)
        for step in windows[place % len(windows)][1]
    ]
    return hidden[tuple(zip(*outputs, strict=True))]


def _sample(batch: Batch, hidden: Floats, windows: Sequence[Window]) -> None:
    """Sample the steps of windows from the states before them; accepted tokens are stored in the batch."""
    requests = [one.number for one, steps in windows for _ in steps]
    flat = [step for _, steps in windows for step in steps]
    sampled = batch.sample(hidden, requests, flat).tolist()
    first = 0
    for one, steps in windows:
        tokens = sampled[first : first + len(steps)]
        count = one.accept(steps, tokens)
        batch.tokens[steps[:count], one.number] = tokens[:count]
        first += len(steps)


@dataclass
class Engine:
    """Generates sequences with one head of an exported transformer."""

    session: TransformerSession
    head: str
    clusters: Ids | None = None
    decoding: Decoding = "auto"

    def generate(
        self,
        requests: Sequence[Request],
        params: SamplingParams,
        batch_size: int | None = None,
        progress: ProgressCallback | None = None,
        constraint: Constraint | None = None,
        first: int = 0,
        step_callback: StepCallback | None = None,
    ) -> Iterator[tuple[int, Ids]]:
        """Generate; yields (number, ids (n,)) of every request by batch.

        Arguments as for :meth:`cogview.generation.engine.Engine.generate`.
        """
        if params.clusters and self.clusters is None:
            raise CogViewError("this model has no clusters of image codes; use clusters 0", field="clusters")
        total, size = sum(len(one.prompt.decode_positions) for one in requests), batch_size or BATCH
        done = 0
        for start in range(0, len(requests), size):
            numbers = range(start, min(start + size, len(requests)))

            def report(steps: int, tokens: Ids, numbers: range = numbers, before: int = done) -> None:
                if progress is not None:
                    progress(before + steps * len(numbers), total)
                if step_callback is not None:
                    step_callback(numbers, tokens[:steps].T)

            tokens = self._run([requests[number] for number in numbers], params, constraint, report, first)
            done += tokens.size
            for number, ids in zip(numbers, tokens.T, strict=True):
                yield number, ids if constraint is None else constraint.ended(ids)

    def _run(
        self,
        requests: Sequence[Request],
        params: SamplingParams,
        constraint: Constraint | None,
        on_step: OnStep,
        first: int,
    ) -> Ids:
        """The tokens (n, requests) of one batch."""
        guided, steps = params.guidance_scale != 1, len(requests[0].prompt.decode_positions)
        prompts = [one.prompt for one in requests]
        if guided:
            prompts += [one.negative_prompt for one in requests if one.negative_prompt is not None]
        unique = list(dict.fromkeys(prompts))
        hidden, rows = prefill(self.session, unique, steps - 1, params.text_attention_bias)
        places = [unique.index(prompt) for prompt in prompts]
        blank = np.full(steps, -1, dtype=np.int64)
        known = [blank if one.known_tokens is None else one.known_tokens for one in requests]
        batch = Batch(
            self.session, self.head, params,
            tokens=np.stack(known, 1),
            positions=np.stack([prompt.decode_positions for prompt in prompts], 1),
            hidden=hidden[places],
            rows=rows.select(places),
            noise=Streams([(one.seed, one.index) for one in requests], steps, first),
            guided=guided,
            filter=_likelihoods(requests) if constraint is None else constraint.filter,
            clusters=self.clusters,
            stop=None if constraint is None else constraint.stop,
        )  # fmt: skip
        windows = self.decoding == "jacobi" or (self.decoding == "auto" and len(prompts) <= SMALL)
        (jacobi if windows else sequential)(batch, on_step)
        return batch.tokens


def _likelihoods(requests: Sequence[Request]) -> Filter | None:
    """A filter that adds the requests' log-likelihoods to the logits; None if no request has any."""
    if all(one.likelihoods is None for one in requests):
        return None

    def add(logits: Floats, numbers: Sequence[int], steps: Sequence[int]) -> Floats:
        total = logits.copy()
        for row, (number, step) in enumerate(zip(numbers, steps, strict=True)):
            likelihoods = requests[number].likelihoods
            if likelihoods is not None:
                total[row] += likelihoods(step)
        return total

    return add
