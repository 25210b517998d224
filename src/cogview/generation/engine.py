"""Drawing token sequences: prompts are read once, their caches fanned out, tokens drawn step by step.

The engine knows no task: a :class:`Job` is what to read, at which positions new tokens stand, and a random
stream. It plans its batches by the memory there is, and when that still runs out, it halves the batch and
goes on; what was finished has been handed over already.

Job i gives the same tokens alone and in any batch, up to rounding that flips a near-tie. ``deterministic``
removes that: every batch has ``ROWS`` rows of one prompt, and image i is always in row i modulo ``ROWS``, so
each number is computed by the same operations on the same operands whatever else is drawn (on one machine,
with one number of threads).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cogview.errors import CogViewError
from cogview.generation import memory, sampling, step
from cogview.generation.sampling import Streams
from cogview.generation.settings import Sampling
from cogview.generation.sparse import Sparse
from cogview.generation.step import Decoder
from cogview.transformer.attention import Causal, Emphasis, Prefix, View, Visibility
from cogview.transformer.attention.causal import lower_triangle
from cogview.transformer.cache import KVCache

log = logging.getLogger(__name__)

ROWS = 4
BATCH = {"cpu": 16, "cuda": 64}  # more is hardly faster, and later to show its first picture

Ids = NDArray[np.int64]
Progress = Callable[[int, int], None]
Limit = Callable[[Tensor, int], Tensor]
Likelihoods = Callable[[int], Tensor]
Watch = Callable[[Sequence[int], Tensor], None]


@dataclass(frozen=True, eq=False)
class Prompt:
    """What is read before the first new token, and where the new tokens stand.

    ids, positions: (L,) int64; prefix: the first tokens, which see each other both ways; new: (n,) int64,
    positions of the n tokens to be drawn; words: the first tokens, which ``Sampling.emphasis`` is for;
    visibility: who sees whom while this is read, where a prefix does not say it.
    """

    ids: Ids
    positions: Ids
    new: Ids
    prefix: int = 0
    words: int = 0
    visibility: Visibility | None = None


@dataclass(frozen=True, eq=False)
class Job:
    """One sequence to draw.

    without: the prompt that guidance moves away from; given: (n,) int64, new tokens that are known already
    (ids of the vocabulary), -1 for those to be drawn; None: all are. likelihoods: what else is known of the
    new token i, as log-likelihoods (rows,) of the decoder's rows; the model's probabilities are multiplied
    by them.
    """

    prompt: Prompt
    seed: int
    index: int
    without: Prompt | None = None
    given: Ids | None = None
    likelihoods: Likelihoods | None = None


class LeftPadded(Visibility):
    """Causal, with the first tokens of each row hidden: prompts of several lengths end in one column.

    padding: (b,) int64. words: (b,) int64, the tokens after the padding whose scores get ``emphasis``.
    """

    def __init__(
        self, padding: Tensor, capacity: int, words: Tensor | None = None, emphasis: float = 0.0
    ) -> None:
        index = torch.arange(capacity, device=padding.device)
        self.seen = index >= padding[:, None]
        self.added = torch.zeros(self.seen.shape, device=padding.device)
        if words is not None:
            self.added.masked_fill_(self.seen & (index < (padding + words)[:, None]), emphasis)
        self.hidden = self.added.masked_fill(~self.seen, -torch.inf)

    def dense_mask(self, queries: int, keys: int, device: torch.device | None = None) -> Tensor:
        seen = self.seen[:, None, None, :keys]
        return (seen & lower_triangle(queries, keys, seen.device)).to(device)

    def bias(self, queries: int, keys: int, device: torch.device | None = None) -> Tensor:
        return self.added[:, None, None, :keys].to(device)

    def view(self, queries: int, keys: int, device: torch.device | None = None, layer: int = 0) -> View:
        if queries == 1:
            return View(bias=self.hidden[:, None, None, :keys])
        return self.dense_view(queries, keys, device)


@dataclass(frozen=True, eq=False)
class Writing:
    """What a text may consist of and how it ends, for tokens that are not a fixed number.

    allowed: (v,) bool over the decoder's rows, the tokens that may come; stop: the id (of the vocabulary)
    that ends a sequence, None: nothing does, all tokens are drawn; least: tokens before it may end.
    """

    allowed: Tensor
    stop: int | None = None
    least: int = 1

    def limit(self, rows: slice) -> Limit:
        """A function (logits (b, v) over ``rows``, which token) that puts what cannot come at -inf."""
        forbidden = ~self.allowed
        at_first = forbidden.clone()
        if self.stop is not None:
            at_first[self.stop - rows.start] = True
        return lambda logits, i: logits.masked_fill(at_first if i < self.least else forbidden, -torch.inf)

    def ended(self, ids: Ids) -> Ids:
        """The tokens (n,) before the one that ends them."""
        if self.stop is None or self.stop not in ids:
            return ids
        return ids[: int((ids == self.stop).argmax())]


@dataclass(frozen=True)
class Read:
    """A prompt that was read: its last hidden state (1, h) and its cache, batch 1."""

    hidden: Tensor
    cache: KVCache


@dataclass
class Engine:
    """Draws sequences with a decoder; only tokens of the decoder's ``rows`` can come.

    free: tells the free bytes of a device; for tests and for those who share a machine. clusters: (rows,)
    int64, the cluster of each of the decoder's rows, for cluster sampling. sparse: draw with three-region
    sparse attention; None: every token sees all before it.
    """

    decoder: Decoder
    deterministic: bool = False
    free: Callable[[torch.device], int] = memory.free_memory
    clusters: Tensor | None = None
    sparse: Sparse | None = None
    _read: dict[Prompt, Read] = field(default_factory=dict, init=False, repr=False)

    def draw(
        self,
        jobs: Sequence[Job],
        settings: Sampling,
        batch_size: int | None = None,
        progress: Progress | None = None,
        writing: Writing | None = None,
        first: int = 0,
        watch: Watch | None = None,
    ) -> Iterator[tuple[int, Ids]]:
        """The tokens of every job, as (its number in ``jobs``, ids (n,) of the vocabulary), in order.

        All jobs draw equally many tokens; with ``writing`` at most so many, and a result has those before
        its end. A result comes as soon as its batch is done. ``batch_size`` is the most jobs at a time
        (default: what fits, at most 16 on a CPU); ``progress`` is told how many tokens of how many were
        drawn; ``first`` is how many numbers of each random stream were used before. ``watch`` is called after
        each token with the numbers of the jobs being drawn and their tokens so far (jobs, drawn); what either
        of them raises ends the drawing.

        Raises CogViewError where the memory does not suffice for one job, or clusters are asked for and
        there are none.
        """
        if settings.emphasis and self.sparse:
            raise CogViewError("emphasis does not go with sparse attention; draw with emphasis 0")
        if settings.clusters and self.clusters is None:
            raise CogViewError("this model has no clusters of image codes; draw with clusters 0")
        waiting = self._batches(jobs, self._planned(jobs, batch_size))
        total, done = sum(len(job.prompt.new) for job in jobs), 0
        try:
            while waiting:
                rows = waiting.pop(0)
                numbers = [number for number in rows if number is not None]
                report = _reporter(progress, watch, rows, done, total)
                try:
                    tokens = self._draw_batch(
                        [jobs[i] for i in _filled(rows)], settings, report, writing, first
                    )
                except (RuntimeError, MemoryError) as error:
                    waiting = self._halved([rows, *waiting], error)
                    continue
                done += len(numbers) * tokens.shape[1]
                self._forget(jobs, waiting)
                present = zip(numbers, tokens[[row is not None for row in rows]], strict=True)
                yield from present if writing is None else ((i, writing.ended(ids)) for i, ids in present)
        finally:
            self._read.clear()

    def plan(self, jobs: Sequence[Job], batch_size: int | None = None) -> memory.Plan:
        """How much memory drawing ``jobs`` takes, and how many will be drawn at a time."""
        decoder = self.decoder
        longest = max(len(p.ids) + len(p.new) for job in jobs for p in _prompts(job))
        rows = max(len(_prompts(job)) for job in jobs)
        logits = decoder.rows.stop - decoder.rows.start
        row = memory.bytes_per_row(decoder.config, longest, logits, decoder.dtype)
        cache = KVCache.size_in_bytes(decoder.config, 1, longest, decoder.dtype)
        free = self.free(decoder.device)
        asked = batch_size or BATCH.get(decoder.device.type, BATCH["cpu"])
        batch = ROWS if self.deterministic else min(asked, memory.rows_that_fit(free, row * rows), len(jobs))
        return memory.Plan(decoder.size, cache * rows, (row - cache) * rows, free, batch)

    def _planned(self, jobs: Sequence[Job], batch_size: int | None) -> int:
        """Jobs at a time."""
        if not jobs:
            return 1
        plan = self.plan(jobs, batch_size)
        log.info("%s", plan)
        return plan.batch

    def _batches(self, jobs: Sequence[Job], size: int) -> list[list[int | None]]:
        """Job numbers in batches; in deterministic ones each has its row and some rows are empty."""
        if not self.deterministic:
            return [list(range(i, min(i + size, len(jobs)))) for i in range(0, len(jobs), size)]
        batches: dict[tuple[Prompt, Prompt | None, bytes, int, int], list[int | None]] = {}
        for number, job in enumerate(jobs):
            given = b"" if job.given is None else job.given.tobytes()
            key = (job.prompt, job.without, given, job.seed, job.index // ROWS)
            batches.setdefault(key, [None] * ROWS)[job.index % ROWS] = number
        return list(batches.values())

    def _halved(self, waiting: list[list[int | None]], error: Exception) -> list[list[int | None]]:
        """All that is waiting in batches of at most half of the first, for which there was no memory.

        Raises CogViewError where that cannot be, ``error`` itself where it is another.
        """
        if not memory.ran_out(error):
            raise error
        self._read.clear()
        size = len(waiting[0])
        if self.deterministic or size == 1:
            way = "leave the deterministic mode" if self.deterministic else "close other programs"
            here = f"out of memory on {self.decoder.device} with {size} at a time"
            raise CogViewError(f"{here}; {way}, or take a smaller model") from error
        half = (size + 1) // 2
        log.warning("out of memory with %d at a time; going on with %d", size, half)
        return [batch[i : i + half] for batch in waiting for i in range(0, len(batch), half)]

    def _forget(self, jobs: Sequence[Job], waiting: list[list[int | None]]) -> None:
        """Drop what was read of prompts that no waiting job needs."""
        needed = {p for batch in waiting for i in batch if i is not None for p in _prompts(jobs[i])}
        self._read = {prompt: read for prompt, read in self._read.items() if prompt in needed}

    @torch.inference_mode()
    def _draw_batch(
        self,
        jobs: Sequence[Job],
        settings: Sampling,
        report: Callable[[int, Tensor], None],
        writing: Writing | None = None,
        first: int = 0,
    ) -> Ids:
        """The tokens (jobs, n) of one batch. Rows: all prompts, then with guidance those without them."""
        prompts, guided = _rows(jobs, settings)
        decoder, steps = self.decoder, len(prompts[0].new)
        hidden, cache, visibility = self._gather(prompts, settings.emphasis)
        if self.sparse:
            visibility = self._sparsely(prompts, jobs, cache.capacity, visibility)
        positions = torch.from_numpy(np.stack([p.new for p in prompts], 1)).to(decoder.device)  # (n, rows)
        streams = Streams([(job.seed, job.index) for job in jobs], steps, decoder.device, first)
        given = _given(jobs, steps)
        tokens = torch.from_numpy(given).to(decoder.device)  # (n, jobs), -1 where a token is to be drawn
        limit = _weighed(jobs) if writing is None else writing.limit(decoder.rows)
        fed, i = 0, -1  # tokens that were read; the last one that was drawn
        for i in np.flatnonzero((given < 0).any(1)).tolist():
            if fed < i:  # one token, or several that were given
                ids = tokens[fed:i].repeat(1, 2 if guided else 1)
                hidden, fed = step.read(decoder, ids.T, positions[fed:i].T, cache, visibility), i
            drawn = _choose(decoder.head(hidden), guided, settings, streams, i, limit, self.clusters)
            drawn = drawn + decoder.rows.start
            tokens[i] = torch.where(tokens[i] < 0, drawn, tokens[i])
            report(i + 1, tokens)
            if writing is not None and writing.stop is not None and _all_ended(tokens[: i + 1], writing.stop):
                break
        if i + 1 < steps:
            report(steps, tokens)
        found: Ids = tokens.T.cpu().numpy()
        return found

    def _gather(
        self, prompts: Sequence[Prompt], emphasis: float = 0.0
    ) -> tuple[Tensor, KVCache, Visibility | None]:
        """Hidden states (b, h) and one cache for all prompts, each ending in the same column."""
        reads = [self._reading(prompt, emphasis) for prompt in prompts]
        lengths = [read.cache.length for read in reads]
        longest, capacity = max(lengths), max(lengths) + len(prompts[0].new) - 1
        decoder = self.decoder
        cache = KVCache.allocate(decoder.config, len(reads), capacity, decoder.dtype, decoder.device)
        for row, read in enumerate(reads):
            start = longest - read.cache.length
            for whole, part in ((cache.keys, read.cache.keys), (cache.values, read.cache.values)):
                whole[:, row, :, :start] = 0
                whole[:, row, :, start:longest] = part[:, 0]
        cache.advance(longest)
        padding = torch.tensor([longest - length for length in lengths], device=decoder.device)
        words = torch.tensor([prompt.words for prompt in prompts], device=decoder.device)
        plain = min(lengths) == longest and not (emphasis and words.any())
        visibility = None if plain else LeftPadded(padding, capacity, words, emphasis)
        return torch.cat([read.hidden for read in reads]), cache, visibility

    def _sparsely(
        self, prompts: Sequence[Prompt], jobs: Sequence[Job], capacity: int, base: Visibility | None
    ) -> Visibility:
        """The pattern of a batch that is drawn with sparse attention."""
        assert self.sparse is not None
        decoder, pairs = self.decoder, [(job.seed, job.index) for job in jobs]
        ids, base = [prompt.ids for prompt in prompts], base or Causal()
        return self.sparse.visibility(
            ids, pairs, decoder.rows, capacity, base, decoder.config, decoder.device
        )

    def _reading(self, prompt: Prompt, emphasis: float = 0.0) -> Read:
        """The prompt's cache, read now if it was not before."""
        if prompt not in self._read:
            self._read[prompt] = self.read(prompt, emphasis)
        return self._read[prompt]

    @torch.inference_mode()
    def read(self, prompt: Prompt, emphasis: float = 0.0) -> Read:
        """Read a prompt, with ``emphasis`` on its words."""
        decoder = self.decoder
        cache = KVCache.allocate(decoder.config, 1, len(prompt.ids), decoder.dtype, decoder.device)
        ids, positions = (
            torch.from_numpy(x)[None].to(decoder.device) for x in (prompt.ids, prompt.positions)
        )
        visibility = prompt.visibility or Prefix(prompt.prefix)
        if emphasis and prompt.words:
            visibility = Emphasis(visibility, prompt.words, emphasis)
        return Read(step.read(decoder, ids, positions, cache, visibility), cache)


def _prompts(job: Job) -> tuple[Prompt, ...]:
    return (job.prompt,) if job.without is None else (job.prompt, job.without)


def _rows(jobs: Sequence[Job], settings: Sampling) -> tuple[list[Prompt], bool]:
    """The prompts of a batch's rows, and whether the second half of them is for guidance."""
    prompts = [job.prompt for job in jobs]
    if settings.guidance == 1:
        return prompts, False
    without = [job.without for job in jobs if job.without is not None]
    assert len(without) == len(jobs), "guidance needs a prompt to move away from"
    return prompts + without, True


def _choose(
    logits: Tensor,
    guided: bool,
    settings: Sampling,
    streams: Streams,
    i: int,
    limit: Limit | None = None,
    clusters: Tensor | None = None,
) -> Tensor:
    """Token numbers (b,) among the logits' rows."""
    logits = logits.float()
    if guided:
        conditional, unconditional = logits.chunk(2)
        logits = sampling.guide(conditional, unconditional, settings.guidance)
    if limit is not None:
        logits = limit(logits, i)
    logits = sampling.restrict(logits, settings, clusters)
    return sampling.draw(logits, streams.gumbel(i, logits.shape[-1]))


def _weighed(jobs: Sequence[Job]) -> Limit | None:
    """A function (logits (jobs, v), which token) that adds what else is known of the tokens."""
    if all(job.likelihoods is None for job in jobs):
        return None

    def add(logits: Tensor, i: int) -> Tensor:
        known = [
            torch.zeros_like(logits[0]) if job.likelihoods is None else job.likelihoods(i) for job in jobs
        ]
        return logits + torch.stack(known)

    return add


def _all_ended(tokens: Tensor, stop: int) -> bool:
    """Whether every column of tokens (n, jobs) has the token ``stop``."""
    return bool((tokens == stop).any(0).all())


def _given(jobs: Sequence[Job], steps: int) -> Ids:
    """The known tokens (steps, jobs), -1 for the others."""
    blank = np.full(steps, -1, dtype=np.int64)
    return np.stack([blank if job.given is None else job.given for job in jobs], 1)


def _filled(batch: list[int | None]) -> list[int]:
    """A job for every row: rows without one repeat another's, whose tokens are dropped."""
    present = next(number for number in batch if number is not None)
    return [present if number is None else number for number in batch]


def _reporter(
    progress: Progress | None, watch: Watch | None, rows: Sequence[int | None], done: int, total: int
) -> Callable[[int, Tensor], None]:
    """Tells both of a batch after ``steps`` of its tokens (n, rows) are known."""
    numbers = [number for number in rows if number is not None]
    kept = [place for place, number in enumerate(rows) if number is not None]

    def report(steps: int, tokens: Tensor) -> None:
        if progress is not None:
            progress(done + steps * len(numbers), total)
        if watch is not None:
            watch(numbers, tokens[:steps, kept].T)

    return report
