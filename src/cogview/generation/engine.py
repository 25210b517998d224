"""The generation engine: runs sequence requests in batches that fit into memory.

The engine is independent of the task. It plans batches by free memory, prefills each prompt once, and runs a
decoding strategy (``strategies.py``). If memory runs out nevertheless, it continues with half the batch size;
finished results have been yielded before.

Request i generates the same tokens alone and in any batch, up to rounding that flips a near-tie.
``deterministic`` excludes that: every batch has ``ROWS`` rows of one prompt, image i is always in row i
modulo ``ROWS``, and attention is computed for each query separately. So each number results from the same
operations on the same operands whatever else is generated, with every strategy (on one machine, with one
number of threads).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from cogview.errors import CogViewError, OutOfMemory, ran_out
from cogview.generation import loop
from cogview.generation.decoder import Decoder
from cogview.generation.loop import Batch, Filter, OnStep, Prefilled, SequenceRequest, Strategy
from cogview.generation.next_tokens import NextTokens
from cogview.generation.sampling import Streams
from cogview.generation.sparse import Sparse
from cogview.generation.strategies import auto
from cogview.sequences.protocols import Prompt
from cogview.transformer.attention import Causal
from cogview.transformer.cache import KVCache
from cogview.transformer.config import TransformerConfig
from cogview.types import Ids, ProgressCallback, SamplingParams, StepCallback

T = TypeVar("T")
R = TypeVar("R")

BATCH = {"cpu": 16, "cuda": 64}  # larger batches are hardly faster and delay the first image
SHARE = 0.8  # of the free memory; the rest is reserved for allocations that are not counted
UNKNOWN = 1 << 30  # free bytes assumed if the system does not report them


@dataclass(frozen=True)
class MemoryPlan:
    """How images (or texts) are generated within the available memory.

    weights: bytes of the model; cache, work: bytes per image, for the KV cache and for everything else; free:
    available bytes; batch: images at a time.
    """

    weights: int
    cache: int
    work: int
    free: int
    batch: int

    def __str__(self) -> str:
        each = f"{_bytes(self.cache + self.work)} each ({_bytes(self.cache)} of it cache)"
        return (
            f"memory: weights {_bytes(self.weights)}, {_bytes(self.free)} free; "
            f"{self.batch} at a time, {each}"
        )


def _bytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def free_memory(device: torch.device) -> int:
    """Bytes that can be allocated on ``device`` now."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return min(_system(), _container())


def _system() -> int:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return UNKNOWN


def _container(root: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes left in the control group; /proc/meminfo does not show a container's limit."""
    try:
        limit, used = ((root / name).read_text(encoding="ascii") for name in ("memory.max", "memory.current"))
        return max(0, int(limit) - int(used))
    except (OSError, ValueError):  # no such group, or "max"
        return 1 << 62


def bytes_per_row(config: TransformerConfig, length: int, logits: int, dtype: torch.dtype) -> int:
    """Bytes that one sequence of ``length`` tokens needs: its cache, and its share of the largest step."""
    hidden = config.hidden * (4 + 2 * config.ffn_multiple)
    return KVCache.size_in_bytes(config, 1, length, dtype) + 4 * hidden + 40 * logits


def rows_that_fit(free: int, per_row: int) -> int:
    """How many sequences fit into ``free`` bytes; at least one, which is tried in any case."""
    return max(1, int(free * SHARE) // per_row)


def halving(
    items: Sequence[T], size: int, run: Callable[[Sequence[T], int], R], device: torch.device, advice: str
) -> Iterator[tuple[Sequence[T], R]]:
    """Run batches of at most ``size`` items; yields each batch with its result.

    After running out of memory the size is halved. ``run`` is called with the batch and the size. Raises
    OutOfMemory with ``advice`` if not even one item fits.
    """
    first = 0
    while first < len(items):
        batch = items[first : first + size]
        try:
            result = run(batch, size)
        except (RuntimeError, MemoryError) as error:
            if not ran_out(error):
                raise
            size = min(size, len(batch))
            if size == 1:
                raise OutOfMemory(f"out of memory on {device} with one at a time", advice) from error
            half = (size + 1) // 2
            log.warning("out of memory with %d at a time; continuing with %d", size, half)
            size = half
        else:
            first += len(batch)
            yield batch, result
            continue
        if device.type == "cuda":
            torch.cuda.empty_cache()


log = logging.getLogger(__name__)

ROWS = 4
Numbers = list[int | None]  # numbers of the requests of a batch, None for a padding row


@dataclass(frozen=True, eq=False)
class TokenConstraint:
    """Allowed tokens and stop token of a text, whose length is not fixed.

    allowed: (v,) bool over the decoder's rows; stop: the id (of the vocabulary) that ends a sequence, None:
    all tokens are generated; least: minimum number of tokens before the stop token.
    """

    allowed: Tensor
    stop: int | None = None
    least: int = 1

    def filter(self, rows: slice) -> Filter:
        """A function that sets the logits (b, v) of disallowed tokens to -inf."""
        forbidden = ~self.allowed
        at_first = forbidden.clone()
        if self.stop is not None:
            at_first[self.stop - rows.start] = True

        def forbid(logits: Tensor, requests: Sequence[int], steps: Sequence[int]) -> Tensor:
            early = torch.tensor([[step < self.least] for step in steps], device=logits.device)
            return logits.masked_fill(torch.where(early, at_first, forbidden), -torch.inf)

        return forbid

    def ended(self, ids: Ids) -> Ids:
        """The tokens (n,) before the stop token."""
        if self.stop is None or self.stop not in ids:
            return ids
        return ids[: int((ids == self.stop).argmax())]


@dataclass
class Engine:
    """Generates sequences with a decoder; only tokens of the decoder's ``rows`` are generated.

    free: returns the free bytes of a device; replaced in tests and on shared machines. clusters: (rows,)
    int64, the cluster of each of the decoder's rows, for cluster sampling. sparse: three-region sparse
    attention; None: causal attention. strategy: how a batch is decoded; all strategies generate the same
    tokens. next_tokens: guesses for texts, which only affect speed.
    """

    decoder: Decoder
    deterministic: bool = False
    free: Callable[[torch.device], int] = free_memory
    clusters: Tensor | None = None
    sparse: Sparse | None = None
    strategy: Strategy = auto
    next_tokens: NextTokens | None = None
    _prefilled: dict[Prompt, Prefilled] = field(default_factory=dict, init=False, repr=False)

    def generate(
        self,
        requests: Sequence[SequenceRequest],
        params: SamplingParams,
        batch_size: int | None = None,
        progress: ProgressCallback | None = None,
        constraint: TokenConstraint | None = None,
        first: int = 0,
        step_callback: StepCallback | None = None,
    ) -> Iterator[tuple[int, Ids]]:
        """Generate the tokens of every request; yields (its number, ids (n,) of the vocabulary) by batch.

        All requests have the same number of tokens; with ``constraint`` it is the maximum.

        Args:
            batch_size: the largest batch (default: what fits into memory, at most 16 on a CPU).
            progress: called with the tokens generated so far and their total.
            first: how many numbers of each random stream were used before.
            step_callback: called after each token with the numbers of the requests in the batch and their
                tokens so far (requests, tokens). An exception in either callback ends the generation.

        Raises:
            OutOfMemory: even one request does not fit.
            CogViewError: cluster sampling is requested for a model without clusters, or a text attention bias
                with sparse attention.
        """
        if params.text_attention_bias and self.sparse:
            raise CogViewError("emphasis cannot be combined with sparse attention; use emphasis 0")
        if params.clusters and self.clusters is None:
            raise CogViewError("this model has no clusters of image codes; use clusters 0", field="clusters")
        total, done = sum(len(one.prompt.decode_positions) for one in requests), 0
        waiting = set(range(len(requests)))

        def run(batch: Sequence[Numbers], size: int) -> tuple[Numbers, Ids]:
            rows = [number for group in batch for number in group]
            report = _reporter(progress, step_callback, rows, done, total)
            try:
                batch_requests = [requests[i] for i in _padded(rows)]
                tokens = self._run(batch_requests, params, report, constraint, first)
                return rows, tokens.T.cpu().numpy()
            except (RuntimeError, MemoryError):
                self._prefilled.clear()
                raise

        remedy = "turn off deterministic mode" if self.deterministic else "close other programs"
        advice, groups = f"{remedy}, or use a smaller model", self._groups(requests)
        size = 1 if self.deterministic else self._batch_size(requests, batch_size)
        try:
            for _, (rows, tokens) in halving(groups, size, run, self.decoder.device, advice):
                present = [(row, number) for row, number in enumerate(rows) if number is not None]
                done += len(present) * tokens.shape[1]
                waiting -= {number for _, number in present}
                self._forget([requests[number] for number in waiting])
                for row, number in present:
                    yield number, tokens[row] if constraint is None else constraint.ended(tokens[row])
        finally:
            self._prefilled.clear()

    @torch.inference_mode()
    def _run(
        self,
        requests: Sequence[SequenceRequest],
        params: SamplingParams,
        on_step: OnStep,
        constraint: TokenConstraint | None,
        first: int,
    ) -> Tensor:
        """The tokens (n, requests) of one batch."""
        decoder, guided, bias = self.decoder, params.guidance_scale != 1, params.text_attention_bias
        prompts = [one.prompt for one in requests]
        if guided:
            negative = [one.negative_prompt for one in requests if one.negative_prompt is not None]
            assert len(negative) == len(requests), "guidance needs a negative prompt for every request"
            prompts += negative
        hidden, cache, visibility = loop.fan_out(
            decoder, prompts, [self._prefill(p, bias) for p in prompts], bias
        )
        streams, ids = [(one.seed, one.index) for one in requests], [prompt.ids for prompt in prompts]
        if self.sparse:
            base = visibility or Causal()
            visibility = self.sparse.visibility(
                ids, streams, decoder.rows, cache.capacity, base, decoder.config, decoder.device
            )
        tokens = torch.from_numpy(loop.known_tokens(requests)).to(decoder.device)
        positions = torch.stack([torch.from_numpy(p.decode_positions) for p in prompts], 1).to(decoder.device)
        likelihoods = loop.likelihood_filter(requests)
        batch = Batch(
            decoder, params, tokens, positions, hidden, cache, visibility,
            noise=Streams(streams, len(tokens), decoder.device, first),
            guided=guided,
            filter=likelihoods if constraint is None else constraint.filter(decoder.rows),
            clusters=self.clusters,
            stop=None if constraint is None else constraint.stop,
            exact=self.sparse is None and (self.deterministic or decoder.rounds),
            ordered=self.sparse is not None,
            next_tokens=self.next_tokens,
        )  # fmt: skip
        self.strategy(batch, on_step)
        return batch.tokens

    def prefill(self, prompt: Prompt) -> Prefilled:
        """A prompt's hidden state and cache, for callers with their own decoding loop."""
        return loop.prefill(self.decoder, prompt)

    def _prefill(self, prompt: Prompt, bias: float) -> Prefilled:
        """The same, cached for each prompt."""
        if prompt not in self._prefilled:
            self._prefilled[prompt] = loop.prefill(self.decoder, prompt, bias)
        return self._prefilled[prompt]

    def _forget(self, waiting: Sequence[SequenceRequest]) -> None:
        """Drop the caches of prompts that no waiting request needs."""
        needed = {prompt for one in waiting for prompt in one.prompts}
        self._prefilled = {prompt: done for prompt, done in self._prefilled.items() if prompt in needed}

    def plan(self, requests: Sequence[SequenceRequest], batch_size: int | None = None) -> MemoryPlan:
        """How much memory the requests need, and how many of them run at a time."""
        decoder = self.decoder
        longest = max(len(p.ids) + len(p.decode_positions) for one in requests for p in one.prompts)
        rows = max(len(one.prompts) for one in requests)
        logits = decoder.rows.stop - decoder.rows.start
        row = bytes_per_row(decoder.config, longest, logits, decoder.dtype)
        cache = KVCache.size_in_bytes(decoder.config, 1, longest, decoder.dtype)
        free = self.free(decoder.device)
        largest = batch_size or BATCH.get(decoder.device.type, BATCH["cpu"])
        fitting = min(largest, rows_that_fit(free, row * rows), len(requests))
        batch = ROWS if self.deterministic else fitting
        return MemoryPlan(decoder.size, cache * rows, (row - cache) * rows, free, batch)

    def _batch_size(self, requests: Sequence[SequenceRequest], batch_size: int | None) -> int:
        if not requests:
            return 1
        plan = self.plan(requests, batch_size)
        log.info("%s", plan)
        return plan.batch

    def _groups(self, requests: Sequence[SequenceRequest]) -> list[Numbers]:
        """Requests that must run together: single requests; in deterministic mode whole batches, with each
        request in its row."""
        if not self.deterministic:
            return [[number] for number in range(len(requests))]
        batches: dict[tuple[Prompt, Prompt | None, bytes, int, int], Numbers] = {}
        for number, one in enumerate(requests):
            known = b"" if one.known_tokens is None else one.known_tokens.tobytes()
            key = (one.prompt, one.negative_prompt, known, one.seed, one.index // ROWS)
            batches.setdefault(key, [None] * ROWS)[one.index % ROWS] = number
        return list(batches.values())


def _padded(rows: Numbers) -> list[int]:
    """A request for every row; padding rows repeat another request, and their tokens are dropped."""
    present = next(number for number in rows if number is not None)
    return [present if number is None else number for number in rows]


def _reporter(
    progress: ProgressCallback | None, callback: StepCallback | None, rows: Numbers, done: int, total: int
) -> OnStep:
    """Calls both callbacks once ``steps`` tokens of a batch (n, rows) are known."""
    numbers = [number for number in rows if number is not None]
    kept = [row for row, number in enumerate(rows) if number is not None]

    def report(steps: int, tokens: Tensor) -> None:
        if progress is not None:
            progress(done + steps * len(numbers), total)
        if callback is not None:
            callback(numbers, tokens[:steps, kept].T)

    return report
