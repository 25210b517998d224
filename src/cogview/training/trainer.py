"""The training loop for any task: accumulate, clip, step, log, checkpoint, evaluate, stop, resume.

One step takes ``accumulation`` micro-batches; for each, every phase's loss is computed and its gradients
added; then every phase's optimizer moves its own parameters. An update whose loss runs away or whose gradient
is not finite is left out; after many in a row the run rolls back, or ends (``guard.py``).

A run directory holds ``recipe.yaml`` (resolved), ``metrics.jsonl``, ``checkpoints/``, ``samples/``,
``plots/`` and ``model/``, the exported result. A resumed run continues bit for bit on the same machine and
settings.

On many processes each runs this same loop on its rows of every batch (``parallel.py``): they agree on what
to do after a step, rank 0 alone writes logs, samples and model, and all write checkpoints together.
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
from cogview.training.divergence import Watch
from cogview.training.ema import MovingAverage
from cogview.training.launch import make_strategy, meet
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
    """How a run ended: the steps done, and why it stopped before the last ("" if it did not)."""

    step: int
    stopped: str


class Trainer:
    """One run of one task in one directory. ``fit`` does it all and may be called once."""

    def __init__(
        self,
        task: Task,
        recipe: Recipe,
        directory: Path,
        console: Console | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        self.ranks = task.ranks = ranks or meet(task, recipe)
        self.device = task.device = self.ranks.device
        precision = self.ranks.lead(lambda: resolve(recipe.precision, self.device))
        recipe = task.recipe = recipe.model_copy(update={"precision": precision})
        self.task, self.recipe, self.directory = task, recipe, directory
        self.strategy = make_strategy(self.ranks, recipe.parallel)
        self.console = console or Console(stderr=True)
        if not self.ranks.first:
            self.console = Console(quiet=True)
        followers = TrackerGroup(recipe.trackers, directory, recipe.model_dump(mode="json"))
        self.metrics = MetricsFile(directory / "metrics.jsonl", followers)
        if self.device.type == "cpu":
            keep_freed_memory()
        if recipe.threads:
            torch.set_num_threads(recipe.threads)
        seed_all(recipe.seed)
        self.model = self.ranks.together(self._build)
        place = (lambda model: None) if not recipe.compile else task.compile
        self.ranks.together(lambda: self.strategy.place(self.model.train(), place))
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
        self.watch = Watch(factor if recipe.guard.spike is None else recipe.guard.spike, margin)
        self._why = ""  # the last update was left out
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
            switches = [m for m in model.modules() if hasattr(m, "checkpointing")]
            if not switches:
                raise CogViewError(
                    "activation_checkpointing: this task's model has no such switch; leave it off"
                )
            for module in switches:
                module.checkpointing = True  # type: ignore[assignment]
        return model.half() if self.recipe.precision == ALL_HALF else model

    def _check_start(self, model: nn.Module, init: Path) -> None:
        """Compare the first batch's loss with that of the model in ``init``; CogViewError far above it."""
        with preserved(), torch.no_grad():
            found = self.task.first_losses(model.eval())
        if found is not None:
            found.check(str(init))
            self._say(str(found))

    # ------------------------------------------------------------------------------------------ the run

    def fit(self, resume: bool = False) -> Outcome:
        """Train to the last step, or until a signal or ``max_minutes``; leaves a checkpoint either way."""
        began, intervals = time.monotonic(), self.recipe.intervals
        seed_rank(self.recipe.seed, 0, self.ranks.share[0])
        if resume:
            self._restore(self.ranks.together(self._latest))
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
                    stopped, overdue = self._agree(signals, began)
                    last = self.step == self.recipe.steps
                    if self.step % intervals.log == 0 or last:
                        self._log(reporter)
                    due = (overdue or _due(self.step, intervals.checkpoint)) and not self.skipped
                    if stopped or last or due:  # amid bad losses, good checkpoints are not pushed out
                        self.save()
                    if not stopped or last:
                        self._evaluate_if_due()
        finally:
            batches.close()
        self._finish()
        self.ranks.leave()
        return Outcome(self.step, stopped if self.step < self.recipe.steps else "")

    def _agree(self, signals: Signals, began: float) -> tuple[str, bool]:
        """Why to stop ("": do not), and whether a checkpoint is overdue; what one rank finds, all do."""
        limit, minutes, now = self.recipe.max_minutes, self.recipe.intervals.minutes, time.monotonic()
        received = int(signal.Signals[signals.received]) if signals.received else 0
        over = int(limit is not None and now - began > 60 * limit)
        overdue = int(minutes is not None and now - self._saved_at > 60 * minutes)
        received, over, overdue = self.ranks.highest((received, over, overdue))
        if received:
            return f"received {signal.Signals(received).name}", bool(overdue)
        return ("max_minutes is over" if over else ""), bool(overdue)

    def _finish(self) -> None:
        if self._saved_step != self.step:
            self.save()
        self.writer.wait()
        if self.step == self.recipe.steps:
            self.watch.check_end(self.step, self.skipped, self._why)
        self.outputs.export(self.step)
        self.outputs.plot(last=True)
        self.metrics.close()

    # ------------------------------------------------------------------------------------------ bad endings

    def _roll_back(self) -> None:
        """Go on from the last checkpoint with good losses after it, with the data that come next.

        Raises TrainingDiverged where there is none, or that was tried often enough.
        """
        self.writer.wait()
        guard, state, came = self.recipe.guard, self.watch.state, self.step
        found = self.ranks.together(lambda: self._latest(state.sound)) if state.sound > 0 else None
        if found is None or state.rollbacks == guard.rollbacks:
            raise TrainingDiverged(f"step {came}: {self.watch.story(guard, self._why, found is not None)}")
        kept = self.loader_state, self.seen, self.seconds
        self._restore(found)
        self.loader_state, self.seen, self.seconds = kept
        self._logged, self.skipped = (self.seen, self.seconds), 0
        known = {"rollbacks": state.rollbacks + 1, "sound": self.step}
        self.watch.state = self.watch.state.model_copy(update=known)
        if self.ranks.first:
            self.metrics.append("rollback", self.step, {"from": came, "why": self._why})
        self._say(
            f"step {came}: {self._why}, {guard.patience} times in a row: back to step {self.step}, "
            "on with the data that come next"
        )

    # ------------------------------------------------------------------------------------------ one step

    def train_step(self, batches: Iterator[Any]) -> None:
        """Add up the gradients of ``accumulation`` micro-batches and update every phase."""
        began, before = time.monotonic(), self.loader_state
        factor = self.recipe.schedule.factor(self.step, self.recipe.steps)
        rates = [phase.optimizer.set_rate(factor) for phase in self.phases]
        for phase in self.phases:
            phase.active = False
            phase.optimizer.zero_grad()
        losses = list[Tensor]()  # of the first phase
        for number in range(1, self.recipe.accumulation + 1):
            with self.strategy.exchanging(number == self.recipe.accumulation):
                batch, factors = self._next(batches)
                for phase in self.phases:
                    with only(phase, self.phases):
                        loss = self._backward(phase, batch, factors)
                    if loss is not None and phase is self.phases[0]:
                        losses.append(loss)
        moved, seeking = self._update(losses)
        self.skipped = 0 if all(moved) else self.skipped + (not seeking)
        if not all(moved) and self.ranks.first:
            keys = self.task.sample_keys(before, self.recipe.accumulation)
            told = {"loader": before, "keys": keys, "why": self._why}
            self.metrics.append("skipped", self.step + 1, told)
        self.window.add({"lr": rates[0], "skipped": float(not all(moved))})
        self.window.add(self.task.after_step(self.model, self.step))
        if self.average and all(moved):
            self.average.update()
        self.step += 1
        self.seconds += time.monotonic() - began

    def _backward(self, phase: Phase, batch: Any, factors: dict[str, Tensor]) -> Tensor | None:
        """Add a micro-batch's gradients; its share of the step's loss, None where the phase sits it out."""
        with autocast(self.recipe.precision, self.device):
            result = self.strategy.loss(batch, self.step, phase.name)
        if result is None:
            return None
        loss, metrics = result
        share = loss * (1 / self.recipe.accumulation)
        if factors:  # gradients are averaged over ranks, so that N shares of 1/N count 1 each
            share = share * (factors["loss"] * self.ranks.world)
        self.strategy.backward(share, phase.scale)
        if self.ranks.world == 1:  # micro-batches add up in fp32; between ranks they are exchanged first
            phase.optimizer.collect()
        phase.active = True
        self._note({f"{phase.prefix}loss": loss, **metrics}, factors)
        return loss.detach().float() * (factors["loss"] if factors else 1.0) / self.recipe.accumulation

    def _update(self, losses: list[Tensor]) -> tuple[list[bool], bool]:
        """Update every phase unless the loss ran away; whether each was updated.

        And whether one was not for its loss scale alone: the loss is good, gradients overflow, and the scale
        can still fall. That is how a scale is found, and nothing that the guard should count.
        """
        loss = float(self.ranks.total(torch.stack(losses).sum())) if losses else None
        # With a loss scaler a loss that is not finite has such gradients, and the scale has to fall.
        scaled = self.phases[0].scaler is not None
        if loss is not None and not self.watch.good(loss) and self.strategy.leaves_out:
            high = f"the loss is {loss:.4g}, more than {self.watch.limit():.4g}"
            self._why = high if math.isfinite(loss) else "the loss is not finite"
            if math.isfinite(loss) or not scaled:
                return [False], False
        active = [phase for phase in self.phases if phase.active]
        seeking = (loss is None or math.isfinite(loss)) and all(phase.seeks_scale for phase in active)
        moved = [phase.update(self.strategy, self.recipe.clip, self.window) for phase in active]
        if not all(moved):
            self._why = "the gradient is not finite"
        elif loss is not None:
            self.watch.accept(loss, self.step)
        return moved, seeking

    def _next(self, batches: Iterator[Any]) -> tuple[Any, dict[str, Tensor]]:
        """This rank's next rows, and what their means count in the sum over ranks (empty: one rank)."""
        try:
            batch, self.loader_state = self.meter.wait(batches)
        except StopIteration:
            raise CogViewError(
                "the data ended before the last step; the task's loader must be endless"
            ) from None
        if self.ranks.world == 1:
            self.seen += self.task.num_items(batch)
            return self.task.prepare(batch, self.device), {}
        shares = self.task.loss_weights(batch)
        self._unsummed_items += self.task.num_items(batch) if shares["loss"] and self.ranks.counts else 0
        return self.task.prepare(batch, self.device), self.strategy.factors(shares)

    def _note(self, metrics: Mapping[str, float | Tensor], factors: dict[str, Tensor]) -> None:
        """Keep a micro-batch's metrics; those of many ranks are added up before they are read."""
        if not factors:
            self.window.add(metrics)
        for name, value in metrics.items() if factors else ():
            held = torch.as_tensor(value, device=self.device).detach().reshape(()).float()
            self._unsummed.append((name, held * factors.get(name, factors["loss"])))

    def _sum_metrics(self) -> None:
        """Add the ranks' metrics and counts up; all ranks call it together."""
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
        timed = self.meter.line(seconds)
        speed = seen / max(seconds, 1e-9)
        line = {**self.window.means(), "items": self.seen, "items_per_second": round(speed, 2)}
        if self.ranks.first:
            self.metrics.append("train", self.step, {**line, **timed, "seconds": round(self.seconds, 3)})
        left = (self.recipe.steps - self.step) * self.seconds / self.step
        reporter.log(self.step, line, left)

    def _catch_up(self) -> None:
        """Do what was due at the checkpoint's step and was cut short."""
        if not self.ranks.lead(lambda: self.metrics.has("evaluate", self.step)):
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
        """Write a checkpoint of this step, or begin to, and remove those beyond ``keep``."""
        self._sum_metrics()
        plain, generators = random_states()
        state = TrainState(
            step=self.step,
            seconds=self.seconds,
            items=self.seen,
            skipped=self.skipped,
            guard=self.watch.state,
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
            "ema": self.strategy.stored(self.average.tensors()) if self.average else {},
            "rng": generators,
            "task": self.task.tensors(),
        }

    def _latest(self, upto: int | None = None) -> Checkpoint | None:
        directory = self.directory / "checkpoints"
        if self.ranks.world == 1:
            return latest_checkpoint(directory, self._say, upto=upto)
        from cogview.training.checkpoint.sharded import inspect_together

        return latest_checkpoint(directory, self._say, lambda path: inspect_together(path, self.ranks), upto)

    def _restore(self, found: Checkpoint | None) -> None:
        if found is None:
            self._say(f"{self.directory} has no checkpoint yet: starting at step 0")
            self.ranks.lead(lambda: self.metrics.truncate(-1))
            return
        state = found.state
        generators = self._restore_tensors(found)
        for phase in self.phases:
            if phase.scaler and phase.name in state.scalers:
                phase.scaler = phase.scaler.at(state.scalers[phase.name])
        self.step, self.skipped, self.watch.state = state.step, state.skipped, state.guard
        self.seconds, self.seen = state.seconds, state.items
        self.loader_state, self.window = state.loader, Window(state.window)
        self._logged, self._saved_step = (state.items, state.seconds), state.step
        self.ranks.lead(lambda: self.metrics.truncate(state.step))
        self.ranks.lead(lambda: set_aside(self.directory / "checkpoints", state.step))
        if generators:
            restore_random_states(state.random, generators)
        else:
            seed_rank(self.recipe.seed, state.step, self.ranks.share[0])
        self._say(f"resuming at step {self.step}")

    def _restore_tensors(self, found: Checkpoint) -> dict[str, Tensor]:
        """Put a checkpoint's tensors in their places, whoever wrote it; gives this rank's generators.

        They are empty where another number of ranks wrote it.
        """
        if found.sharded or self.ranks.world > 1:
            from cogview.training.checkpoint.restore import restore

            return restore(found, self.ranks, self.strategy, self.average, self.task)
        tensors = found.tensors
        self.model.load_state_dict(tensors["model"])
        for phase in self.phases:
            phase.optimizer.load_masters(tensors["model"])
            phase.optimizer.load(_below(phase.name, tensors.get("optimizer", {})))
        if self.average:
            self.average.load(tensors["ema"])
        self.task.restore(tensors.get("task", {}))
        return tensors["rng"]


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    start = f"{prefix}/"
    return {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}


def _due(step: int, interval: int) -> bool:
    return interval > 0 and step > 0 and step % interval == 0
