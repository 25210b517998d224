"""Experiment trackers in addition to ``metrics.jsonl``: TensorBoard and Weights & Biases.

A recipe names them (``trackers: [tensorboard]``); each is an extra (``pip install 'cogview[tensorboard]'``).
They receive every line of the metrics file and the sample images written since the previous line, so they
contain nothing else, and a run without them is the same run. Steps that a resumed run repeats are dropped
(TensorBoard) or appear twice at the same step (W&B).

W&B works offline unless ``WANDB_MODE`` is set: files in ``RUN/wandb`` that ``wandb sync`` uploads.
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
    """The interface of a tracker."""

    def log(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """Log the metrics of a step; ``kind`` is "train" or "evaluate"."""
        ...

    def image(self, name: str, step: int, image: Image.Image) -> None:
        """Log a sample image."""
        ...

    def close(self) -> None:
        """Flush and close the tracker."""
        ...


class TensorBoard:
    """Event files in ``RUN/tensorboard``; view them with ``tensorboard --logdir RUN``."""

    def __init__(self, directory: Path, after: int | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        purge = None if after is None else after + 1
        self._writer = SummaryWriter(str(directory / "tensorboard"), purge_step=purge, flush_secs=10)

    def log(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """Log one scalar per metric, such as ``train/loss``."""
        for name, value in values.items():
            self._writer.add_scalar(f"{kind}/{name}", value, step)
        self._writer.flush()

    def image(self, name: str, step: int, image: Image.Image) -> None:
        """Log an image under its file name without the step."""
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
        folder = directory / "wandb"
        folder.mkdir(parents=True, exist_ok=True)
        id_file = folder / "id.txt"
        if not id_file.is_file():
            id_file.write_text(os.urandom(4).hex(), encoding="utf-8")
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", "cogview"),
            name=directory.name,
            id=id_file.read_text("utf-8"),
            dir=str(directory),
            mode=os.environ.get("WANDB_MODE", "offline"),
            resume="allow" if os.environ.get("WANDB_MODE") == "online" else None,
            config=dict(config),
            settings=self._wandb.Settings(silent=True, console="off"),
        )
        self._run.define_metric("*", step_metric="step")

    def log(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """Log one row with the step, which W&B uses as the x axis."""
        self._run.log({"step": step, **{f"{kind}/{name}": value for name, value in values.items()}})

    def image(self, name: str, step: int, image: Image.Image) -> None:
        """Log an image in the row of its step."""
        self._run.log({"step": step, name: self._wandb.Image(image.convert("RGB"))})

    def close(self) -> None:
        """End the run."""
        self._run.finish()


def check_trackers(names: Sequence[TrackerName]) -> None:
    """Raise CogViewError if a tracker's package is not installed."""
    for name in names:
        if find_spec(PACKAGES[name]) is None:
            raise CogViewError(f"trackers: {name} is not installed; pip install 'cogview[{name}]'")


def open_tracker(name: TrackerName, directory: Path, after: int | None, config: Mapping[str, Any]) -> Tracker:
    """Open a tracker; ``after``: the step from which a run is resumed."""
    check_trackers([name])
    return TensorBoard(directory, after) if name == "tensorboard" else WandB(directory, after, config)


class TrackerGroup:
    """The trackers of a run's metrics file, opened with the first line."""

    def __init__(self, names: Sequence[TrackerName], directory: Path, config: Mapping[str, Any]) -> None:
        check_trackers(names)
        self.names, self.directory, self.config = tuple(dict.fromkeys(names)), directory, config
        self.after: int | None = None
        self._open: list[Tracker] | None = None
        self._logged = set(self._images())

    def line(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Log a line of the metrics file, and the sample images written since the previous one."""
        if not self.names:
            return
        if self._open is None:
            self._open = [open_tracker(n, self.directory, self.after, self.config) for n in self.names]
        numbers = {name: float(value) for name, value in values.items() if isinstance(value, int | float)}
        for tracker in self._open:
            tracker.log(kind, step, numbers)
        self._log_images(step)

    def close(self) -> None:
        """Close the open trackers."""
        for tracker in self._open or []:
            tracker.close()
        self._open = None

    def _images(self) -> list[Path]:
        return sorted((self.directory / "samples").glob("*.png")) if self.names else []

    def _log_images(self, step: int) -> None:
        for path in self._images():
            if path in self._logged:
                continue
            self._logged.add(path)
            name, _, number = path.stem.rpartition("-")
            image_step = int(number) if number.isdecimal() else step
            with open_image(path) as image:
                for tracker in self._open or []:
                    tracker.image(name or path.stem, image_step, image)
