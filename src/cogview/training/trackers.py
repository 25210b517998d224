"""Runs reported to experiment trackers beside ``metrics.jsonl``: TensorBoard and Weights & Biases.

A recipe names them (``trackers: [tensorboard]``); each is an extra (``pip install 'cogview[tensorboard]'``).
They follow the metrics file: every line it gets they get, with the sample images that appeared since, so
that they know nothing the file does not and a run without them is the same run. What a resumed run repeats is
dropped (TensorBoard) or stands there twice, at the same step (W&B).

W&B works offline unless ``WANDB_MODE`` says otherwise: files in ``RUN/wandb`` that ``wandb sync`` uploads.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from PIL import Image

from cogview.errors import CogViewError
from cogview.image_files import open_image

TrackerName = Literal["tensorboard", "wandb"]
PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb"}


class Tracker(Protocol):
    """What a tracker receives."""

    def log(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """Numbers of a step: ``kind`` is "train" or "evaluate"."""
        ...

    def picture(self, name: str, step: int, image: Image.Image) -> None:
        """A sample image."""
        ...

    def close(self) -> None:
        """Write what is left."""
        ...


class TensorBoard:
    """Event files in ``RUN/tensorboard``; look at them with ``tensorboard --logdir RUN``."""

    def __init__(self, directory: Path, after: int | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        purge = None if after is None else after + 1
        self._writer = SummaryWriter(str(directory / "tensorboard"), purge_step=purge, flush_secs=10)

    def log(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """One scalar a number, ``train/loss`` and so on."""
        for name, value in values.items():
            self._writer.add_scalar(f"{kind}/{name}", value, step)
        self._writer.flush()

    def picture(self, name: str, step: int, image: Image.Image) -> None:
        """An image under its file's name without the step."""
        pixels = np.asarray(image.convert("RGB"))
        self._writer.add_image(name, pixels, step, dataformats="HWC")

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()


class WandB:
    """A W&B run in ``RUN/wandb``, named after the directory; resumed under the same id."""

    def __init__(self, directory: Path, after: int | None, config: Mapping[str, Any]) -> None:
        import wandb

        self._wandb: Any = wandb
        place = directory / "wandb"
        place.mkdir(parents=True, exist_ok=True)
        name = place / "id.txt"
        if not name.is_file():
            name.write_text(os.urandom(4).hex(), encoding="utf-8")
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", "cogview"),
            name=directory.name,
            id=name.read_text("utf-8"),
            dir=str(directory),
            mode=os.environ.get("WANDB_MODE", "offline"),
            resume="allow" if os.environ.get("WANDB_MODE") == "online" else None,
            config=dict(config),
            settings=self._wandb.Settings(silent=True, console="off"),
        )
        self._run.define_metric("*", step_metric="step")

    def log(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """One row with the step in it, by which W&B draws it."""
        self._run.log({"step": step, **{f"{kind}/{name}": value for name, value in values.items()}})

    def picture(self, name: str, step: int, image: Image.Image) -> None:
        """An image in the row of its step."""
        self._run.log({"step": step, name: self._wandb.Image(image.convert("RGB"))})

    def close(self) -> None:
        """End the run."""
        self._run.finish()


def check_trackers(names: Sequence[TrackerName]) -> None:
    """Raise CogViewError where a tracker's package is not installed."""
    for name in names:
        if find_spec(PACKAGES[name]) is None:
            raise CogViewError(f"trackers: {name} is not installed; pip install 'cogview[{name}]'")


def open_tracker(name: TrackerName, directory: Path, after: int | None, config: Mapping[str, Any]) -> Tracker:
    """Open a tracker; ``after``: the step a resumed run goes on from."""
    check_trackers([name])
    return TensorBoard(directory, after) if name == "tensorboard" else WandB(directory, after, config)


class TrackerGroup:
    """Trackers that follow a run's metrics file; opened when the first line comes."""

    def __init__(self, names: Sequence[TrackerName], directory: Path, config: Mapping[str, Any]) -> None:
        check_trackers(names)
        self.names, self.directory, self.config = tuple(dict.fromkeys(names)), directory, config
        self.after: int | None = None
        self._open: list[Tracker] | None = None
        self._shown = set(self._pictures())

    def line(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """A line was written; sample images made since the last one are reported as well."""
        if not self.names:
            return
        if self._open is None:
            self._open = [open_tracker(n, self.directory, self.after, self.config) for n in self.names]
        numbers = {name: float(value) for name, value in values.items() if isinstance(value, int | float)}
        for tracker in self._open:
            tracker.log(kind, step, numbers)
        self._tell_pictures(step)

    def close(self) -> None:
        """Close what was opened."""
        for tracker in self._open or []:
            tracker.close()
        self._open = None

    def _pictures(self) -> list[Path]:
        return sorted((self.directory / "samples").glob("*.png")) if self.names else []

    def _tell_pictures(self, step: int) -> None:
        for path in self._pictures():
            if path in self._shown:
                continue
            self._shown.add(path)
            name, _, number = path.stem.rpartition("-")
            at = int(number) if number.isdecimal() else step
            with open_image(path) as image:
                for tracker in self._open or []:
                    tracker.picture(name or path.stem, at, image)
