"""The training loop for any task: accumulate, clip, step, log, checkpoint, evaluate, stop, resume.

One step processes ``accumulation`` micro-batches; for each, every phase's loss is computed and its gradients
are accumulated; then every phase's optimizer updates its parameters. An update whose loss diverges or whose
gradient is not finite is skipped; after many skipped updates in a row the run rolls back or stops
(``divergence.py``).

A run directory contains ``recipe.yaml`` (resolved), ``metrics.jsonl``, ``checkpoints/``, ``samples/``,
``plots/`` and ``model/``, the exported model. A resumed run continues bit for bit on the same machine with
the same settings.

On many processes each runs this loop on its rows of every batch (``parallel/``): after each step they agree
on what to do, rank 0 writes logs, samples and model, and all write checkpoints together.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from cogview.errors import CogViewError, TrainingDiverged
from cogview.training.allocator import keep_freed_memory
from cogview.training.checkpoint.directory import (
    Checkpoint,
    TrainState,
    flush,
    latest_checkpoint,
    list_checkpoints,
    set_aside,
)
from cogview.training.checkpoint.writer import CheckpointWriter
from cogview.training.divergence import LossMonitor
from cogview.training.ema import MovingAverage
from cogview.training.launch import join_ranks, make_strategy
from cogview.training.metrics_file import MetricsFile, Window
from cogview.training.outputs import Outputs
from cogview.training.parallel.ranks import Ranks
from cogview.training.phase import Phase, make_phases, only
from cogview.training.precision import ALL_HALF, DTYPES, autocast, resolve
from cogview.training.prefetch import Prefetch
from cogview.training.progress import Reporter, Signals
from cogview.training.recipe import Recipe
from cogview.training.rng import preserved, random_states, restore_random_states, seed_all, seed_rank
from cogview.training.task import Task
from cogview.training.throughput import Throughput
from cogview.training.trackers import TrackerGroup


@dataclass(frozen=True)
class Outcome:
    """How a run ended: the steps done, and the reason if it stopped before the last step (else "")."""

    step: int
    stopped: str


class Trainer:
    """One run of a task in a directory; ``fit`` runs it and may be called once."""

    def __init__(
        self,
        task: Task,
        recipe: Recipe,
        directory: Path,
        console: Console | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        self.ranks = task.ranks = ranks or join_ranks(task, recipe)
        self.device = task.device = self.ranks.device
        precision = self.ranks.on_first(lambda: resolve(recipe.precision, self.device))
        recipe = task.recipe = recipe.model_copy(update={"precision": precision})
        self.task, self.recipe, self.directory = task, recipe, directory
        self.strategy = make_strategy(self.ranks, recipe.parallel)
        self.console = console or Console(stderr=True)
        if not self.ranks.first:
            self.console = Console(quiet=True)
        trackers = TrackerGroup(recipe.trackers, directory, recipe.model_dump(mode="json"))
        self.metrics = MetricsFile(directory / "metrics.jsonl", trackers)
        if self.device.type == "cpu":
            keep_freed_memory()
        if recipe.threads:
            torch.set_num_threads(recipe.threads)
        seed_all(recipe.seed)
        self.model = self.ranks.on_all(self._build)
        compile_model = (lambda model: None) if not recipe.compile else task.compile
        self.ranks.on_all(lambda: self.strategy.place(self.model.train(), compile_model))
        self.phases = make_phases(task, self.model, recipe, not self.strategy.keeps_masters)
        self.strategy.prepare(self.model, task, {phase.name: phase.optimizer for phase in self.phases})
        self.average = MovingAverage(self.phases[0].optimizer, recipe.ema) if recipe.ema else None
        self.writer = CheckpointWriter(
            directory / "checkpoints",
            self.ranks,
            sharded=self.ranks.world > 1,
            background=recipe.async_checkpoints,
            keep=recipe.keep,
            every=recipe.keep_every,
        )
        self.step, self.seconds, self.seen, self.skipped = 0, 0.0, 0, 0
        factor, margin = task.spike
        self.monitor = LossMonitor(factor if recipe.guard.spike is None else recipe.guard.spike, margin)
        self._skip_reason = ""  # of the last skipped update
        self.loader_state: dict[str, Any] | None = None
        self.window = Window()
        dtype, split = DTYPES.get(recipe.precision, torch.float32), self.ranks.tensor
        self.meter = Throughput(task, self.model, self.device, dtype, split)
        self._unsummed, self._unsummed_items = list[tuple[str, Tensor]](), 0
        self.outputs = Outputs(
            directory, task, self.model, self.strategy, self.average, self.metrics, self._say
        )
        self._saved_step, self._saved_at, self._logged = -1, time.monotonic(), (0, 0.0)

    def _build(self) -> nn.Module:
        model = self.task.build()
        if self.recipe.init:
            self.task.initialize(model, self.recipe.init)
            if self.ranks.first and not list_checkpoints(self.directory / "checkpoints"):
                self._check_start(model, self.recipe.init)
        if self.recipe.activation_checkpointing:
            modules = [m for m in model.modules() if hasattr(m, "checkpointing")]
            if not modules:
                raise CogViewError(
                    "activation_checkpointing: this task's model does not support it; leave it off"
                )
            for module in modules:
                module.checkpointing = True  # type: ignore[assignment]
        return model.half() if self.recipe.precision == ALL_HALF else model

    def _check_start(self, model: nn.Module, init: Path) -> None:
        """Compare the first loss with that of the model in ``init``; raises CogViewError if far above."""
        with preserved(), torch.no_grad():
            losses = self.task.first_losses(model.eval())
        if losses is not None:
            losses.check(str(init))
            self._say(str(losses))

    # ------------------------------------------------------------------------------------------ the run

    def fit(self, resume: bool = False) -> Outcome:
        """Train to the last step, or until a signal or ``max_minutes``; always leaves a checkpoint."""
        start, intervals = time.monotonic(), self.recipe.intervals
        seed_rank(self.recipe.seed, 0, self.ranks.share[0])
        if resume:
            self._restore(self.ranks.on_all(self._latest))
        reporter = Reporter(self.console, self.recipe.steps, self.step, self.task.unit)
        rank, world = self.ranks.share
        loader = self.task.loader(self.loader_state, rank=rank, world=world)
        batches = Prefetch(iter(loader), self.recipe.prefetch)
        try:
            with Signals() as signals, reporter:
                if resume:
                    self._catch_up()
                stopped = ""
                while self.step < self.recipe.steps and not stopped:
                    self.train_step(batches)
                    if self.skipped >= self.recipe.guard.patience:
                        self._roll_back()
                        continue
                    stopped, overdue = self._agree(signals, start)
                    last = self.step == self.recipe.steps
                    if self.step % intervals.log == 0 or last:
                        self._log(reporter)
                    due = (overdue or _due(self.step, intervals.checkpoint)) and not self.skipped
                    if stopped or last or due:  # during bad losses good checkpoints are not replaced
                        self.save()
                    if not stopped or last:
                        self._evaluate_if_due()
        finally:
            batches.close()
        self._finish()
        self.ranks.leave()
        return Outcome(self.step, stopped if self.step < self.recipe.steps else "")

    def _agree(self, signals: Signals, start: float) -> tuple[str, bool]:
        """The reason to stop ("" to continue), and whether a checkpoint is overdue, on any of the ranks."""
        limit, minutes, now = self.recipe.max_minutes, self.recipe.intervals.minutes, time.monotonic()
        received = int(signal.Signals[signals.received]) if signals.received else 0
        over = int(limit is not None and now - start > 60 * limit)
        overdue = int(minutes is not None and now - self._saved_at > 60 * minutes)
        received, over, overdue = self.ranks.maximum((received, over, overdue))
        if received:
            return f"received {signal.Signals(received).name}", bool(overdue)
        return ("max_minutes is over" if over else ""), bool(overdue)

    def _finish(self) -> None:
        if self._saved_step != self.step:
            self.save()
        self.writer.wait()
        if self.step == self.recipe.steps:
            self.monitor.check_end(self.step, self.skipped, self._skip_reason)
        self.outputs.export(self.step)
        self.outputs.plot(last=True)
        self.metrics.close()

    # ------------------------------------------------------------------------------------------ divergence

    def _roll_back(self) -> None:
        """Restore the last checkpoint that was followed by good losses and continue with the next data.

        Raises TrainingDiverged if there is none, or the maximum number of rollbacks is reached.
        """
        self.writer.wait()
        guard, state, failed = self.recipe.guard, self.monitor.state, self.step
        checkpoint = self.ranks.on_all(lambda: self._latest(state.sound)) if state.sound > 0 else None
        if checkpoint is None or state.rollbacks == guard.rollbacks:
            explanation = self.monitor.explain(guard, self._skip_reason, checkpoint is not None)
            raise TrainingDiverged(f"step {failed}: {explanation}")
        progress = self.loader_state, self.seen, self.seconds
        self._restore(checkpoint)
        self.loader_state, self.seen, self.seconds = progress
        self._logged, self.skipped = (self.seen, self.seconds), 0
        changes = {"rollbacks": state.rollbacks + 1, "sound": self.step}
        self.monitor.state = self.monitor.state.model_copy(update=changes)
        if self.ranks.first:
            self.metrics.append("rollback", self.step, {"from": failed, "why": self._skip_reason})
        self._say(
            f"step {failed}: {self._skip_reason}, {guard.patience} times in a row: back to step {self.step}, "
            "continuing with the next data"
        )

    # ------------------------------------------------------------------------------------------ one step

    def train_step(self, batches: Iterator[Any]) -> None:
        """Accumulate the gradients of ``accumulation`` micro-batches and update every phase."""
        start, before = time.monotonic(), self.loader_state
        factor = self.recipe.schedule.factor(self.step, self.recipe.steps)
        rates = [phase.optimizer.set_rate(factor) for phase in self.phases]
        for phase in self.phases:
            phase.active = False
            phase.optimizer.zero_grad()
        losses = list[Tensor]()  # of the first phase
        for number in range(1, self.recipe.accumulation + 1):
            with self.strategy.gradient_sync(number == self.recipe.accumulation):
                batch, factors = self._next(batches)
                for phase in self.phases:
                    with only(phase, self.phases):
                        loss = self._backward(phase, batch, factors)
                    if loss is not None and phase is self.phases[0]:
                        losses.append(loss)
        updated, seeking = self._update(losses)
        self.skipped = 0 if all(updated) else self.skipped + (not seeking)
        if not all(updated) and self.ranks.first:
            keys = self.task.sample_keys(before, self.recipe.accumulation)
            details = {"loader": before, "keys": keys, "why": self._skip_reason}
            self.metrics.append("skipped", self.step + 1, details)
        self.window.add({"lr": rates[0], "skipped": float(not all(updated))})
        self.window.add(self.task.after_step(self.model, self.step))
        if self.average and all(updated):
            self.average.update()
        self.step += 1
        self.seconds += time.monotonic() - start

    def _backward(self, phase: Phase, batch: Any, factors: dict[str, Tensor]) -> Tensor | None:
        """Accumulate a micro-batch's gradients; returns its part of the step's loss, None if skipped."""
        with autocast(self.recipe.precision, self.device):
            result = self.strategy.loss(batch, self.step, phase.name)
        if result is None:
            return None
        loss, metrics = result
        part = loss * (1 / self.recipe.accumulation)
        if factors:  # gradients are averaged over ranks, which the factor world compensates
            part = part * (factors["loss"] * self.ranks.world)
        self.strategy.backward(part, phase.scale)
        if self.ranks.world == 1:  # accumulate in fp32; with several ranks gradients are exchanged first
            phase.optimizer.collect()
        phase.active = True
        self._add_metrics({f"{phase.prefix}loss": loss, **metrics}, factors)
        return loss.detach().float() * (factors["loss"] if factors else 1.0) / self.recipe.accumulation

    def _update(self, losses: list[Tensor]) -> tuple[list[bool], bool]:
        """Update every phase unless the loss diverges; returns whether each phase was updated.

        Also returns whether an overflow is only due to the loss scale: the loss is good, gradients overflow,
        and the scale can still fall. The guard does not count these overflows.
        """
        loss = float(self.ranks.total(torch.stack(losses).sum())) if losses else None
        # With a loss scaler the gradients of a non-finite loss overflow, too, and the scale has to fall.
        scaled = self.phases[0].scaler is not None
        if loss is not None and not self.monitor.is_good(loss) and self.strategy.can_skip_update:
            high = f"the loss is {loss:.4g}, more than {self.monitor.limit():.4g}"
            self._skip_reason = high if math.isfinite(loss) else "the loss is not finite"
            if math.isfinite(loss) or not scaled:
                return [False], False
        active = [phase for phase in self.phases if phase.active]
        seeking = (loss is None or math.isfinite(loss)) and all(phase.seeks_scale for phase in active)
        updated = [phase.update(self.strategy, self.recipe.clip, self.window) for phase in active]
        if not all(updated):
            self._skip_reason = "the gradient is not finite"
        elif loss is not None:
            self.monitor.accept(loss, self.step)
        return updated, seeking

    def _next(self, batches: Iterator[Any]) -> tuple[Any, dict[str, Tensor]]:
        """This rank's next rows, and the factors of their means in the sum over ranks (empty: one rank)."""
        try:
            batch, self.loader_state = self.meter.wait(batches)
        except StopIteration:
            raise CogViewError(
                "the data ended before the last step; the task's loader must be endless"
            ) from None
        if self.ranks.world == 1:
            self.seen += self.task.num_items(batch)
            return self.task.prepare(batch, self.device), {}
        weights = self.task.loss_weights(batch)
        self._unsummed_items += self.task.num_items(batch) if weights["loss"] and self.ranks.counts else 0
        return self.task.prepare(batch, self.device), self.strategy.factors(weights)

    def _add_metrics(self, metrics: Mapping[str, float | Tensor], factors: dict[str, Tensor]) -> None:
        """Record a micro-batch's metrics; those of several ranks are summed before they are read."""
        if not factors:
            self.window.add(metrics)
        for name, value in metrics.items() if factors else ():
            scalar = torch.as_tensor(value, device=self.device).detach().reshape(()).float()
            self._unsummed.append((name, scalar * factors.get(name, factors["loss"])))

    def _sum_metrics(self) -> None:
        """Sum the metrics and counts over ranks; all ranks call it together."""
        if self.ranks.world == 1:
            return
        values = [value.double() for _, value in self._unsummed]
        counts = torch.tensor(self._unsummed_items, dtype=torch.float64, device=self.device)
        total = self.ranks.total(torch.stack([counts, *values])).tolist()
        self.seen += round(total[0])
        for (name, _), value in zip(self._unsummed, total[1:], strict=True):
            self.window.add({name: value})
        self._unsummed, self._unsummed_items = [], 0

    # ------------------------------------------------------------------------------------------ log, evaluate

    def _log(self, reporter: Reporter) -> None:
        self._sum_metrics()
        seen, seconds = self.seen - self._logged[0], self.seconds - self._logged[1]
        self._logged = (self.seen, self.seconds)
        throughput = self.meter.line(seconds)
        speed = seen / max(seconds, 1e-9)
        line = {**self.window.means(), "items": self.seen, "items_per_second": round(speed, 2)}
        if self.ranks.first:
            values = {**line, **throughput, "seconds": round(self.seconds, 3)}
            self.metrics.append("train", self.step, values)
        left = (self.recipe.steps - self.step) * self.seconds / self.step
        reporter.log(self.step, line, left)

    def _catch_up(self) -> None:
        """Repeat an evaluation that was due at the checkpoint's step and was interrupted."""
        if not self.ranks.on_first(lambda: self.metrics.has("evaluate", self.step)):
            self._evaluate_if_due()

    def _evaluate_if_due(self) -> None:
        intervals, last = self.recipe.intervals, self.step == self.recipe.steps
        if intervals.evaluate and (last or _due(self.step, intervals.evaluate)):
            self.outputs.evaluate(self.step)
            if not last:
                self.outputs.export(self.step)
                self.outputs.plot(last=False)
        if intervals.sample and (last or _due(self.step, intervals.sample)):
            self.outputs.sample(self.step)

    def _say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    # ------------------------------------------------------------------------------------------ checkpoints

    def save(self) -> None:
        """Write a checkpoint of this step, or begin to, and remove old ones."""
        self._sum_metrics()
        plain, generators = random_states()
        state = TrainState(
            step=self.step,
            seconds=self.seconds,
            items=self.seen,
            skipped=self.skipped,
            guard=self.monitor.state,
            loader=self.loader_state,
            random=plain,
            scalers={phase.name: phase.scaler for phase in self.phases if phase.scaler},
            window=self.window.values(),
            ranks=self.ranks.world,
            tensor=self.ranks.tensor,
        )
        if self.ranks.first and self.metrics.path.exists():
            flush(self.metrics.path)
        self.writer.save(state, self._tensors(generators))
        self._saved_step, self._saved_at = self.step, time.monotonic()

    def _tensors(self, generators: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        if self.ranks.world > 1:
            generators = {f"{self.ranks.rank}/{name}": value for name, value in generators.items()}
        return {
            **self.strategy.tensors(),
            "ema": self.strategy.to_checkpoint(self.average.tensors()) if self.average else {},
            "rng": generators,
            "task": self.task.tensors(),
        }

    def _latest(self, upto: int | None = None) -> Checkpoint | None:
        directory = self.directory / "checkpoints"
        if self.ranks.world == 1:
            return latest_checkpoint(directory, self._say, upto=upto)
        from cogview.training.checkpoint.sharded import inspect_together

        return latest_checkpoint(directory, self._say, lambda path: inspect_together(path, self.ranks), upto)

    def _restore(self, checkpoint: Checkpoint | None) -> None:
        if checkpoint is None:
            self._say(f"{self.directory} has no checkpoint yet: starting at step 0")
            self.ranks.on_first(lambda: self.metrics.truncate(-1))
            return
        state = checkpoint.state
        generators = self._restore_tensors(checkpoint)
        for phase in self.phases:
            if phase.scaler and phase.name in state.scalers:
                phase.scaler = phase.scaler.at(state.scalers[phase.name])
        self.step, self.skipped, self.monitor.state = state.step, state.skipped, state.guard
        self.seconds, self.seen = state.seconds, state.items
        self.loader_state, self.window = state.loader, Window(state.window)
        self._logged, self._saved_step = (state.items, state.seconds), state.step
        self.ranks.on_first(lambda: self.metrics.truncate(state.step))
        self.ranks.on_first(lambda: set_aside(self.directory / "checkpoints", state.step))
        if generators:
            restore_random_states(state.random, generators)
        else:
            seed_rank(self.recipe.seed, state.step, self.ranks.share[0])
        self._say(f"resuming at step {self.step}")

    def _restore_tensors(self, checkpoint: Checkpoint) -> dict[str, Tensor]:
        """Load a checkpoint's tensors; returns this rank's generators, empty if another number of ranks wrote
        it."""
        if checkpoint.sharded or self.ranks.world > 1:
            from cogview.training.checkpoint.restore import restore

            return restore(checkpoint, self.ranks, self.strategy, self.average, self.task)
        tensors = checkpoint.tensors
        self.model.load_state_dict(tensors["model"])
        for phase in self.phases:
            phase.optimizer.load_masters(tensors["model"])
            phase.optimizer.load(_with_prefix(phase.name, tensors.get("optimizer", {})))
        if self.average:
            self.average.load(tensors["ema"])
        self.task.restore(tensors.get("task", {}))
        return tensors["rng"]


def _with_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    start = f"{prefix}/"
    return {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}


def _due(step: int, interval: int) -> bool:
    return interval > 0 and step > 0 and step % interval == 0
