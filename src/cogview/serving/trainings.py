"""Training from the studio: one ``cogview train-on`` process for each model.

::

    DIR/runs/NAME/     request.json, pictures/, work/ (of train-on), log.txt, ended.json, lock
    DIR/models/NAME/   the finished model, served at once and after a restart

A separate process cannot crash the server, and files are written atomically. The process holds a file lock,
by which a restarted server finds a training that is still running. A server that is stopped stops its
training at a checkpoint.
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

from pydantic import Field

from cogview.checkpoints.bundle import FILE
from cogview.config import Config, read_json
from cogview.data.sources import IMAGE_SUFFIXES
from cogview.errors import CogViewError
from cogview.files import write_file
from cogview.serving.api_errors import SERVER_ERROR, ApiError
from cogview.serving.pictures import decode_upload
from cogview.serving.schema import TRAINING_NAME, NewTraining
from cogview.serving.served import Models
from cogview.serving.training_progress import plan_summary, run_progress
from cogview.training.train_on.model_sizes import MAX_WARMUP
from cogview.training.train_on.state import STAGES, STATE, State

log = logging.getLogger(__name__)

MAX_TRAININGS = 50
MAX_FILES = 20_000  # per training
MAX_BYTES = 2 << 30  # per training
MAX_CAPTION_BYTES = 64 << 10  # per caption file
LOG_LINES = 40  # lines of the log in a response
POLL_SECONDS = 2.0
NICENESS = 10  # training has a lower priority than requests
IMAGE_TYPES = frozenset({".png", ".jpg", ".jpeg", ".webp"} & IMAGE_SUFFIXES)
STOP_SIGNAL = getattr(signal, "CTRL_BREAK_EVENT", signal.SIGTERM)  # stops train-on at a checkpoint
STOPPED_CODES = (130, -signal.SIGTERM, -signal.SIGINT, 128 + signal.SIGTERM)
TRAINING_STAGES = {
    "image_tokenizer": "reconstructions",
    "transformer": "samples",
}  # with names of their sheets
_PROBING = threading.Lock()  # so that one probe of a file lock does not see another as a running process
Status = Literal["new", "planned", "running", "stopped", "failed", "done"]
Action = Literal["plan", "train"]


class Started(Config):
    """``started.json``: the process id, and whether it plans or trains."""

    pid: int = Field(gt=1)
    doing: Action


class Ended(Config):
    """``ended.json``: exit code of the last process."""

    code: int


@dataclass(frozen=True)
class Run:
    """The files of one training."""

    root: Path
    name: str

    @property
    def folder(self) -> Path:
        """Everything except the model."""
        return self.root / "runs" / self.name

    @property
    def pictures(self) -> Path:
        """Uploaded images and captions."""
        return self.folder / "pictures"

    @property
    def work(self) -> Path:
        """The work folder of ``train-on``."""
        return self.folder / "work"

    @property
    def model(self) -> Path:
        """The finished model."""
        return self.root / "models" / self.name

    @property
    def log(self) -> Path:
        """Output of the process."""
        return self.folder / "log.txt"

    def state(self) -> State | None:
        """State of ``train-on``; None before the plan."""
        path = self.work / STATE
        return read_json(State, path) if path.is_file() else None

    @property
    def complete(self) -> bool:
        """Whether the model is finished."""
        state = self.state()
        return state is not None and "model" in state.done and (self.model / FILE).is_file()

    def files(self) -> list[Path]:
        """The uploaded images and captions."""
        return [path for path in self.pictures.rglob("*") if path.is_file()]

    @property
    def busy(self) -> bool:
        """Whether a process is running, started by this server or an earlier one."""
        with _lock(self.folder) as file:
            return file is None

    @property
    def request(self) -> NewTraining:
        """The request that created this training."""
        return NewTraining.model_validate_json((self.folder / "request.json").read_bytes())

    def command(self, start: Path | None, action: Action) -> list[str]:
        """The ``train-on`` command. Plan and training have to be run with the same settings.

        start: directory of the model to start from.
        """
        request = self.request
        options: dict[str, object] = {
            "--out": self.model,
            "--work": self.work,
            "--size": request.size,
            "--from": start,
            "--lora": request.lora,
        }
        given = [(name, str(value)) for name, value in options.items() if value is not None]
        arguments = [word for option in given for word in option]
        for stage in TRAINING_STAGES:
            if (steps := getattr(request, f"{stage}_steps")) is not None:
                arguments += ["--set", f"{stage}.steps={steps}"]
        if (steps := request.image_tokenizer_steps) is not None:
            arguments += ["--set", f"image_tokenizer.warmup_steps={min(MAX_WARMUP, steps // 8)}"]
        plan = ["--plan"] if action == "plan" else []
        return [sys.executable, "-m", "cogview.cli", "train-on", str(self.pictures), *arguments, *plan]


class Trainings:
    """All trainings under one directory, at most one of them running."""

    def __init__(self, root: Path) -> None:
        """Raises CogViewError if the directory cannot be created."""
        self.root = root.resolve()
        self.models: Models | None = None
        self._processes: dict[str, subprocess.Popen[bytes]] = {}  # started by this server
        self._mutex, self._closed = threading.RLock(), False
        try:
            for name in ("runs", "models"):
                (self.root / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CogViewError(f"--train {root}: cannot be written ({error.strerror})") from error

    def serve_in(self, models: Models) -> None:
        """Serve the finished models, and further ones as soon as they are finished."""
        self.models = models
        for run in self.runs():
            if run.busy:
                self._in_background(self._wait_for_earlier, run)
            elif run.complete:
                self._serve(run)

    def close(self) -> None:
        """Stop the running training at a checkpoint and wait for its process; it can be resumed."""
        with self._mutex:
            self._closed, processes = True, list(self._processes.values())
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()

    # ------------------------------------------------------------------------------------------ one training

    def runs(self) -> list[Run]:
        """All trainings, the newest first."""
        folders = [path for path in (self.root / "runs").iterdir() if (path / "request.json").is_file()]
        folders.sort(key=lambda path: (path / "request.json").stat().st_mtime, reverse=True)
        return [Run(self.root, path.name) for path in folders]

    def find(self, name: str) -> Run:
        """The training of this name; raises ApiError 404 if there is none."""
        run = Run(self.root, name)
        if not re.fullmatch(TRAINING_NAME, name) or not (run.folder / "request.json").is_file():
            raise ApiError(404, f"no training {name!r}", code="training_not_found")
        return run

    def create(self, request: NewTraining) -> Run:
        """Create a training without images; raises ApiError 409 for a taken name or too many trainings."""
        run = Run(self.root, request.name)
        with self._mutex:
            served = self.models is not None and request.name in {*self.models.by_name, *self.models.aliases}
            if served or run.folder.exists() or run.model.exists():
                raise ApiError(
                    409, f"there is a model {request.name!r} already", code="name_taken", param="name"
                )
            if len(self.runs()) >= MAX_TRAININGS:
                message = f"there are {MAX_TRAININGS} trainings, the maximum; remove one first"
                raise ApiError(409, message, code="too_many")
            run.pictures.mkdir(parents=True)
            write_file(run.folder / "request.json", request.model_dump_json())
        return run

    def add_files(self, run: Run, files: list[tuple[str, bytes]]) -> list[dict[str, str]]:
        """Store uploaded images and captions; returns the refused files with the reasons.

        Raises:
            ApiError: 409 if the training has begun.
        """
        with self._mutex:
            if run.busy or ((state := run.state()) is not None and len(state.done) > 2):
                raise ApiError(409, "this training has begun; no images can be added", code="begun")
            stored = run.files()
            count, size = len(stored), sum(path.stat().st_size for path in stored)
            refused = []
            for name, data in files:
                try:
                    count, size = count + 1, size + len(data)
                    if count > MAX_FILES or size > MAX_BYTES:
                        message = f"at most {MAX_FILES:,} files and {MAX_BYTES >> 30} GB"
                        raise ApiError(413, message, code="too_large")
                    path = run.pictures / _upload_path(name)
                    _check_upload(path, data)
                    path.parent.mkdir(exist_ok=True)
                    write_file(path, data)
                except ApiError as error:
                    count, size = count - 1, size - len(data)
                    refused.append({"file": name[:200], "code": error.code or "", "message": error.message})
        return refused

    def start(self, run: Run, action: Action) -> None:
        """Start a process that plans, or that trains or resumes training.

        Raises:
            ApiError: the model is finished, there are no images, another training is running, or the server
                is stopping.
        """
        with self._mutex:
            if self._closed:
                raise ApiError(503, "the server is stopping", kind=SERVER_ERROR, code="stopping")
            if run.complete:
                raise ApiError(409, f"the model {run.name!r} is finished", code="finished")
            if not any(path.suffix.lower() in IMAGE_TYPES for path in run.files()):
                raise ApiError(400, "there are no images yet; upload some", code="no_pictures")
            if busy := next((other.name for other in self.runs() if other.busy), None):
                message = f"{busy!r} is being trained; only one training runs at a time"
                raise ApiError(409, message, code="training_running")
            (run.folder / "ended.json").unlink(missing_ok=True)
            process = _spawn(run, run.command(self._start_of(run), action))
            self._processes[run.name] = process
            write_file(run.folder / "started.json", Started(pid=process.pid, doing=action).model_dump_json())
        self._in_background(self._watch, run, process)

    def _start_of(self, run: Run) -> Path | None:
        """The directory of the served model that a training starts from."""
        if run.request.start is None or self.models is None:
            return None
        return Path(self.models.find(run.request.start).cogview.bundle.directory)

    def stop(self, run: Run) -> None:
        """Ask the process to stop at a checkpoint; it can be resumed."""
        process = self._processes.get(run.name)
        if process is not None:
            process.send_signal(STOP_SIGNAL)
        elif run.busy:  # started by an earlier server; its file lock shows that it is running
            os.kill(read_json(Started, run.folder / "started.json").pid, signal.SIGTERM)

    def remove(self, run: Run) -> None:
        """Remove images, work folder and model; raises ApiError 409 while it is running."""
        with self._mutex:
            if run.busy or run.name in self._processes:
                raise ApiError(409, f"{run.name!r} is being trained; stop it first", code="training_running")
            if self.models is not None:
                self.models.remove(run.name)
            for folder in (run.model, run.folder):
                if folder.is_dir():
                    shutil.rmtree(folder)

    def _watch(self, run: Run, process: subprocess.Popen[bytes]) -> None:
        """Wait for a process, record its exit code, and serve its model if it is finished."""
        code = process.wait()
        with self._mutex:
            write_file(run.folder / "ended.json", Ended(code=code).model_dump_json())
            if run.complete:
                self._serve(run)
            self._processes.pop(run.name, None)

    def _wait_for_earlier(self, run: Run) -> None:
        """Wait for a process that an earlier server started, and serve its model if it is finished."""
        while run.busy:
            time.sleep(POLL_SECONDS)
        if run.folder.is_dir() and run.complete:
            self._serve(run)

    @staticmethod
    def _in_background(work: Callable[..., None], *arguments: object) -> None:
        threading.Thread(target=work, args=arguments, name="cogview-training", daemon=True).start()

    def _serve(self, run: Run) -> None:
        try:
            if self.models is not None:
                self.models.add(run.model)
        except CogViewError as error:
            log.warning("%s cannot be served: %s", run.model, error)

    # ------------------------------------------------------------------------------------------ responses

    def describe(self, run: Run) -> dict[str, Any]:
        """The JSON object of a training: settings, status, data, cost, progress, the end of its log."""
        state, status = run.state(), self.status(run)
        log_text = run.log.read_text("utf-8", "replace") if run.log.is_file() else ""
        lines = log_text.replace(str(self.root), "DIR").splitlines()
        return {
            "object": "training",
            **run.request.model_dump(),
            "status": status,
            "doing": self._action(run),
            "files": _counts(run.files()) if status in ("new", "planned") else None,
            "stages": list(STAGES),
            "done": [] if state is None else list(state.done),
            "plan": None if state is None else plan_summary(state),
            "progress": {stage: run_progress(run.work / stage) for stage in TRAINING_STAGES},
            "sheets": _sheets(run),
            "prompts": [] if state is None or state.survey is None else list(state.survey.examples),
            "log": [line for line in lines if line.strip()][-LOG_LINES:],
            "served": self.models is not None and run.name in self.models.by_name,
        }

    def summary(self, run: Run) -> dict[str, Any]:
        """The entry of a training in the list of all."""
        request = run.request
        return {"object": "training", "name": run.name, "size": request.size, "status": self.status(run)}

    def status(self, run: Run) -> Status:
        """The status of a training."""
        if run.busy or run.name in self._processes:
            return "running"
        if run.complete:
            return "done"
        ended = run.folder / "ended.json"
        state = run.state()
        if ended.is_file() and read_json(Ended, ended).code not in (0, *STOPPED_CODES):
            return "failed"
        if state is None or "text" not in state.done:
            return "new"
        return "planned" if state.done[-1] == "text" else "stopped"

    @staticmethod
    def _action(run: Run) -> str | None:
        path = run.folder / "started.json"
        return read_json(Started, path).doing if path.is_file() else None

    def sheet(self, run: Run, name: str) -> Path:
        """Path of a sheet of samples by its name in :meth:`describe`; raises ApiError 404 if unknown."""
        if name not in _sheets(run):
            raise ApiError(404, f"no sheet {name!r}", code="not_found")
        return run.model / "samples.png" if name == "samples.png" else run.work / name


# ---------------------------------------------------------------------------------------------- files


def _upload_path(name: str) -> Path:
    """Relative path for an uploaded file: its file and folder name, with special characters replaced."""
    parts = PurePosixPath(name.replace("\\", "/")).parts[-2:]
    suffix = PurePosixPath(name).suffix.lower()
    if suffix not in IMAGE_TYPES and suffix != ".txt":
        types = ", ".join(sorted(suffix[1:] for suffix in IMAGE_TYPES))
        raise ApiError(400, f"only {types} and txt are accepted", code="bad_file")
    stems = [
        re.sub(r"[^\w .-]+", "_", part)[:100].strip(" .") for part in (*parts[:-1], Path(parts[-1]).stem)
    ]
    if not all(stems):
        raise ApiError(400, "the file has no name", code="bad_file")
    return Path(*stems[:-1], stems[-1] + suffix)


def _check_upload(path: Path, data: bytes) -> None:
    """Raises ApiError if a file is neither a valid image nor a short UTF-8 text."""
    if path.suffix != ".txt":
        decode_upload(data, "image")
    elif len(data) > MAX_CAPTION_BYTES:
        raise ApiError(413, f"captions have at most {MAX_CAPTION_BYTES >> 10} KB", code="too_large")
    else:
        try:
            data.decode()
        except UnicodeDecodeError:
            raise ApiError(400, "captions have to be UTF-8", code="bad_file") from None


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[IO[bytes] | None]:
    """Holds the training's file lock; yields None if a process has it."""
    try:
        import fcntl
    except ImportError:  # Windows: only processes that this server started are known
        with (folder / "lock").open("ab") as file:
            yield file
        return
    with _PROBING, (folder / "lock").open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        yield file


def _spawn(run: Run, command: list[str]) -> subprocess.Popen[bytes]:
    """Start the process, which inherits the lock and so holds it until it ends in any way."""
    with _lock(run.folder) as lock, run.log.open("ab") as output:
        assert lock is not None
        options: dict[str, Any]
        if sys.platform == "win32":  # in a new group it gets STOP_SIGNAL only, and no Ctrl-C of this console
            options = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        else:
            options = {"pass_fds": (lock.fileno(),)}
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, **options)
    if hasattr(os, "setpriority"):
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, process.pid, NICENESS)
    return process


# ---------------------------------------------------------------------------------------------- responses


def _counts(files: list[Path]) -> dict[str, int]:
    """Numbers of uploaded images and captions, and their total bytes."""
    return {
        "pictures": sum(path.suffix.lower() in IMAGE_TYPES for path in files),
        "captions": sum(path.suffix.lower() == ".txt" for path in files),
        "bytes": sum(path.stat().st_size for path in files),
    }


def _sheets(run: Run) -> list[str]:
    """Names of the sheets of samples so far, in order."""
    names = [
        path.relative_to(run.work).as_posix()
        for stage, sheet in TRAINING_STAGES.items()
        for path in sorted((run.work / stage / "samples").glob(f"{sheet}-*.png"))
    ]
    return names + (["samples.png"] if (run.model / "samples.png").is_file() else [])
