"""Training from the studio: ``cogview train-on`` as a process of its own for every model.

::

    DIR/runs/NAME/     request.json, pictures/, work/ (train-on's), log.txt, ended.json, lock
    DIR/models/NAME/   the finished model, served at once and after a restart

A process of its own cannot take the server down, and what it leaves is whole or not there. It holds a lock,
by which a server finds the training that one before it left running when it was killed. A server that is told
to stop stops its training at a checkpoint.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal

from pydantic import Field, JsonValue

from cogview.checkpoints.bundle import FILE
from cogview.config import Config, load_yaml, read_json
from cogview.data.sources import IMAGE_SUFFIXES
from cogview.errors import CogViewError
from cogview.files import write_file
from cogview.serving.api_errors import OURS, ApiError
from cogview.serving.pictures import opened
from cogview.serving.schema import TRAINING_NAME, NewTraining
from cogview.serving.served import Models
from cogview.training.metric_lines import read_lines
from cogview.training.train_on.model_sizes import MAX_WARMUP
from cogview.training.train_on.state import STAGES, STATE, State

log = logging.getLogger(__name__)

MOST_TRAININGS = 50
MOST_FILES = 20_000  # of one training
MOST_BYTES = 2 << 30  # of one training
MOST_TEXT = 64 << 10  # bytes of a caption file
TOLD = 40  # lines of the log that are sent
POINTS = 200  # of a curve, at most twice as many
LOOK_SECONDS = 2.0
NICE = 10  # training yields to requests
SAVED = frozenset({".png", ".jpg", ".jpeg", ".webp"} & IMAGE_SUFFIXES)
STOP = getattr(signal, "CTRL_BREAK_EVENT", signal.SIGTERM)  # what stops a training at a checkpoint
STOPPED = (130, -signal.SIGTERM, -signal.SIGINT, 128 + signal.SIGTERM)
RUNS = {"image_tokenizer": "reconstructions", "transformer": "samples"}  # stages that train, and their sheets
_LOOKING = threading.Lock()  # so that a look at a lock is never taken for a process that has it
Status = Literal["new", "planned", "running", "stopped", "failed", "done"]
Doing = Literal["plan", "train"]


class Started(Config):
    """``started.json``: the process, and what it does."""

    pid: int = Field(gt=1)
    doing: Doing


class Ended(Config):
    """``ended.json``: how the last process ended."""

    code: int


@dataclass(frozen=True)
class Run:
    """The files of one training."""

    root: Path
    name: str

    @property
    def folder(self) -> Path:
        """All but the model."""
        return self.root / "runs" / self.name

    @property
    def pictures(self) -> Path:
        """What was uploaded."""
        return self.folder / "pictures"

    @property
    def work(self) -> Path:
        """``train-on``'s own."""
        return self.folder / "work"

    @property
    def model(self) -> Path:
        """The finished model."""
        return self.root / "models" / self.name

    @property
    def log(self) -> Path:
        """What the process said."""
        return self.folder / "log.txt"

    def state(self) -> State | None:
        """How far it is; None before the plan."""
        path = self.work / STATE
        return read_json(State, path) if path.is_file() else None

    @property
    def complete(self) -> bool:
        """Whether there is a model, and nothing is left to do for it."""
        state = self.state()
        return state is not None and "model" in state.done and (self.model / FILE).is_file()

    def files(self) -> list[Path]:
        """The uploaded images and captions."""
        return [path for path in self.pictures.rglob("*") if path.is_file()]

    @property
    def busy(self) -> bool:
        """Whether a process is at work, of this server or of one before it."""
        with _lock(self.folder) as file:
            return file is None

    @property
    def request(self) -> NewTraining:
        """What was asked for."""
        return NewTraining.model_validate_json((self.folder / "request.json").read_bytes())

    def command(self, start: Path | None, doing: Doing) -> list[str]:
        """What is run. The settings of a plan and of the training have to be the same.

        start: the family to start from.
        """
        request = self.request
        given: dict[str, object] = {
            "--out": self.model,
            "--work": self.work,
            "--size": request.size,
            "--from": start,
            "--lora": request.lora,
        }
        words = [word for name, value in given.items() if value is not None for word in (name, str(value))]
        for stage in RUNS:
            if (steps := getattr(request, f"{stage}_steps")) is not None:
                words += ["--set", f"{stage}.steps={steps}"]
        if (steps := request.image_tokenizer_steps) is not None:
            words += ["--set", f"image_tokenizer.warmup_steps={min(MAX_WARMUP, steps // 8)}"]
        plan = ["--plan"] if doing == "plan" else []
        return [sys.executable, "-m", "cogview.cli", "train-on", str(self.pictures), *words, *plan]


class Trainings:
    """All trainings under one directory, at most one of them running."""

    def __init__(self, root: Path) -> None:
        """CogViewError where the directory cannot be made."""
        self.root = root.resolve()
        self.models: Models | None = None
        self._own: dict[str, subprocess.Popen[bytes]] = {}
        self._guard, self._closed = threading.RLock(), False
        try:
            for name in ("runs", "models"):
                (self.root / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CogViewError(f"--train {root}: cannot be written ({error.strerror})") from error

    def serve_in(self, models: Models) -> None:
        """Add the finished models to those that are served, now and as they come."""
        self.models = models
        for run in self.runs():
            if run.busy:
                self._in_background(self._await, run)
            elif run.complete:
                self._serve(run)

    def close(self) -> None:
        """Stop what runs, at a checkpoint, and wait for it; it can be resumed."""
        with self._guard:
            self._closed, own = True, list(self._own.values())
        for process in own:
            process.terminate()
        for process in own:
            process.wait()

    # ------------------------------------------------------------------------------------------ one of them

    def runs(self) -> list[Run]:
        """All of them, the newest first."""
        found = [path for path in (self.root / "runs").iterdir() if (path / "request.json").is_file()]
        found.sort(key=lambda path: (path / "request.json").stat().st_mtime, reverse=True)
        return [Run(self.root, path.name) for path in found]

    def find(self, name: str) -> Run:
        """ApiError 404 where there is none."""
        run = Run(self.root, name)
        if not re.fullmatch(TRAINING_NAME, name) or not (run.folder / "request.json").is_file():
            raise ApiError(404, f"no training {name!r}", code="training_not_found")
        return run

    def new(self, request: NewTraining) -> Run:
        """Begin one, without images yet; ApiError for a name that is taken."""
        run = Run(self.root, request.name)
        with self._guard:
            served = self.models is not None and request.name in {*self.models.by_name, *self.models.aliases}
            if served or run.folder.exists() or run.model.exists():
                raise ApiError(
                    409, f"there is a model {request.name!r} already", code="name_taken", param="name"
                )
            if len(self.runs()) >= MOST_TRAININGS:
                raise ApiError(409, f"there are {MOST_TRAININGS} trainings, as many as may", code="too_many")
            run.pictures.mkdir(parents=True)
            write_file(run.folder / "request.json", request.model_dump_json())
        return run

    def take(self, run: Run, files: list[tuple[str, bytes]]) -> list[dict[str, str]]:
        """Keep images and captions that were uploaded; what is not kept, and why."""
        with self._guard:
            if run.busy or ((state := run.state()) is not None and len(state.done) > 2):
                raise ApiError(409, "this training has begun; its pictures stay as they are", code="begun")
            there = run.files()
            count, size = len(there), sum(path.stat().st_size for path in there)
            refused = []
            for name, data in files:
                try:
                    count, size = count + 1, size + len(data)
                    if count > MOST_FILES or size > MOST_BYTES:
                        message = f"at most {MOST_FILES:,} files and {MOST_BYTES >> 30} GB"
                        raise ApiError(413, message, code="too_large")
                    path = run.pictures / _place(name)
                    _check(path, data)
                    path.parent.mkdir(exist_ok=True)
                    write_file(path, data)
                except ApiError as error:
                    count, size = count - 1, size - len(data)
                    refused.append({"file": name[:200], "code": error.code or "", "message": error.message})
        return refused

    def start(self, run: Run, doing: Doing) -> None:
        """Plan, or train and go on with it, in a process of its own."""
        with self._guard:
            if self._closed:
                raise ApiError(503, "the server is stopping", kind=OURS, code="stopping")
            if run.complete:
                raise ApiError(409, f"the model {run.name!r} is finished", code="finished")
            if not any(path.suffix.lower() in SAVED for path in run.files()):
                raise ApiError(400, "there are no pictures yet", code="no_pictures")
            if busy := next((one.name for one in self.runs() if one.busy), None):
                message = f"{busy!r} is being trained; one at a time"
                raise ApiError(409, message, code="training_running")
            (run.folder / "ended.json").unlink(missing_ok=True)
            process = _spawn(run, run.command(self._start_of(run), doing))
            self._own[run.name] = process
            write_file(run.folder / "started.json", Started(pid=process.pid, doing=doing).model_dump_json())
        self._in_background(self._watch, run, process)

    def _start_of(self, run: Run) -> Path | None:
        """The directory of the served model that a training starts from."""
        if run.request.start is None or self.models is None:
            return None
        return Path(self.models.find(run.request.start).cogview.bundle.directory)

    def stop(self, run: Run) -> None:
        """Ask the process to stop at a checkpoint; it can be resumed."""
        process = self._own.get(run.name)
        if process is not None:
            process.send_signal(STOP)
        elif run.busy:  # started by a server before this one; the lock says that it lives
            os.kill(read_json(Started, run.folder / "started.json").pid, signal.SIGTERM)

    def remove(self, run: Run) -> None:
        """Remove images, work and model; ApiError while it runs."""
        with self._guard:
            if run.busy or run.name in self._own:
                raise ApiError(409, f"{run.name!r} is being trained; stop it first", code="training_running")
            if self.models is not None:
                self.models.remove(run.name)
            for folder in (run.model, run.folder):
                if folder.is_dir():
                    shutil.rmtree(folder)

    def _watch(self, run: Run, process: subprocess.Popen[bytes]) -> None:
        code = process.wait()
        with self._guard:
            write_file(run.folder / "ended.json", Ended(code=code).model_dump_json())
            if run.complete:
                self._serve(run)
            self._own.pop(run.name, None)

    def _await(self, run: Run) -> None:
        """Serve the model of a process that a server before this one started, when it is done."""
        while run.busy:
            time.sleep(LOOK_SECONDS)
        if run.folder.is_dir() and run.complete:
            self._serve(run)

    @staticmethod
    def _in_background(work: Callable[..., None], *given: object) -> None:
        threading.Thread(target=work, args=given, name="cogview-training", daemon=True).start()

    def _serve(self, run: Run) -> None:
        try:
            if self.models is not None:
                self.models.add(run.model)
        except CogViewError as error:
            log.warning("%s cannot be served: %s", run.model, error)

    # ------------------------------------------------------------------------------------------ what is told

    def describe(self, run: Run) -> dict[str, Any]:
        """One of them, for people: its settings, status, data, cost, progress and the end of its log."""
        state, status = run.state(), self.status(run)
        said = run.log.read_text("utf-8", "replace") if run.log.is_file() else ""
        lines = said.replace(str(self.root), "DIR").splitlines()
        return {
            "object": "training",
            **run.request.model_dump(),
            "status": status,
            "doing": self._doing(run),
            "files": _counts(run.files()) if status in ("new", "planned") else None,
            "stages": list(STAGES),
            "done": [] if state is None else list(state.done),
            "plan": None if state is None else _plan(state),
            "progress": {stage: _progress(run.work / stage) for stage in RUNS},
            "sheets": _sheets(run),
            "prompts": [] if state is None or state.survey is None else list(state.survey.examples),
            "log": [line for line in lines if line.strip()][-TOLD:],
            "served": self.models is not None and run.name in self.models.by_name,
        }

    def brief(self, run: Run) -> dict[str, Any]:
        """Its entry in the list of all."""
        request = run.request
        return {"object": "training", "name": run.name, "size": request.size, "status": self.status(run)}

    def status(self, run: Run) -> Status:
        """How it stands."""
        if run.busy or run.name in self._own:
            return "running"
        if run.complete:
            return "done"
        ended = run.folder / "ended.json"
        state = run.state()
        if ended.is_file() and read_json(Ended, ended).code not in (0, *STOPPED):
            return "failed"
        if state is None or "text" not in state.done:
            return "new"
        return "planned" if state.done[-1] == "text" else "stopped"

    @staticmethod
    def _doing(run: Run) -> str | None:
        path = run.folder / "started.json"
        return read_json(Started, path).doing if path.is_file() else None

    def sheet(self, run: Run, name: str) -> Path:
        """A sheet of samples by its name in :meth:`describe`; ApiError 404 where there is none."""
        if name not in _sheets(run):
            raise ApiError(404, f"no sheet {name!r}", code="not_found")
        return run.model / "samples.png" if name == "samples.png" else run.work / name


# ---------------------------------------------------------------------------------------------- files


def _place(name: str) -> Path:
    """Where an uploaded file goes: its name and its folder's, both without anything but words."""
    parts = PurePosixPath(name.replace("\\", "/")).parts[-2:]
    suffix = PurePosixPath(name).suffix.lower()
    if suffix not in SAVED and suffix != ".txt":
        kinds = ", ".join(sorted(kind[1:] for kind in SAVED))
        raise ApiError(400, f"only {kinds} and txt are taken", code="bad_file")
    stems = [
        re.sub(r"[^\w .-]+", "_", part)[:100].strip(" .") for part in (*parts[:-1], Path(parts[-1]).stem)
    ]
    if not all(stems):
        raise ApiError(400, "the file has no name", code="bad_file")
    return Path(*stems[:-1], stems[-1] + suffix)


def _check(path: Path, data: bytes) -> None:
    """ApiError for what is neither an image within limits nor a short text."""
    if path.suffix != ".txt":
        opened(data, "image")
    elif len(data) > MOST_TEXT:
        raise ApiError(413, f"captions of more than {MOST_TEXT >> 10} KB", code="too_large")
    else:
        try:
            data.decode()
        except UnicodeDecodeError:
            raise ApiError(400, "captions have to be UTF-8", code="bad_file") from None


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[IO[bytes] | None]:
    """The training's lock; None where a process has it."""
    try:
        import fcntl
    except ImportError:  # Windows: only this server's own processes are known
        with (folder / "lock").open("ab") as file:
            yield file
        return
    with _LOOKING, (folder / "lock").open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        yield file


def _spawn(run: Run, command: list[str]) -> subprocess.Popen[bytes]:
    """Start the process; it has the lock until it ends, however that is."""
    with _lock(run.folder) as lock, run.log.open("ab") as said:
        assert lock is not None
        more: dict[str, Any]
        if sys.platform == "win32":  # a group of its own gets STOP alone, and no Ctrl-C of this console
            more = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        else:
            more = {"pass_fds": (lock.fileno(),)}
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, **more)
    if hasattr(os, "setpriority"):
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, process.pid, NICE)
    return process


# ---------------------------------------------------------------------------------------------- telling


def _counts(files: list[Path]) -> dict[str, int]:
    """What was uploaded."""
    return {
        "pictures": sum(path.suffix.lower() in SAVED for path in files),
        "captions": sum(path.suffix.lower() == ".txt" for path in files),
        "bytes": sum(path.stat().st_size for path in files),
    }


def _plan(state: State) -> dict[str, Any] | None:
    """What was found and what it will cost; None before that is known."""
    if state.survey is None or state.cost is None:
        return None
    report, cost = state.survey.report, state.cost
    return {
        "pictures": state.survey.pictures,
        "captions": report.captions,
        "left_out": report.rejected,
        "unnamed": state.survey.unnamed,
        "parameters": cost.tokenizer_parameters + cost.transformer_parameters,
        "seconds": round(cost.seconds),
        "memory": cost.memory,
    }


def _progress(folder: Path) -> dict[str, JsonValue] | None:
    """How far a run of ``cogview train`` is, with its curve; None before it begins."""
    recipe, metrics = folder / "recipe.yaml", folder / "metrics.jsonl"
    if not recipe.is_file() or not metrics.is_file():
        return None
    lines = [
        line for line in read_lines(metrics) if line.get("kind") == "train" and line.get("loss") is not None
    ]
    if not lines:
        return None
    steps, last = int(load_yaml(recipe)["steps"]), lines[-1]
    kept = lines[:: max(1, len(lines) // POINTS)]
    return {
        "step": last["step"],
        "steps": steps,
        "loss": last["loss"],
        "seconds_left": round((steps - last["step"]) * last.get("seconds", 0) / max(1, last["step"])),
        "curve": [[line["step"], line["loss"]] for line in kept],
    }


def _sheets(run: Run) -> list[str]:
    """The sheets of samples so far, in order."""
    found = [
        path.relative_to(run.work).as_posix()
        for stage, kind in RUNS.items()
        for path in sorted((run.work / stage / "samples").glob(f"{kind}-*.png"))
    ]
    return found + (["samples.png"] if (run.model / "samples.png").is_file() else [])
