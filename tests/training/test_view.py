"""A run seen from its files alone."""

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from cogview.cli.app import main
from cogview.errors import CogViewError
from cogview.training.checkpoint.directory import list_checkpoints
from cogview.training.view import facts, loss_names, read_run, render, sparkline
from tests.training.runs import VOCABULARY, caption, write_data
from tests.training.tiny import TinyRecipe, run


def write(directory: Path, lines: list[dict[str, object]], steps: int = 100) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "recipe.yaml").write_text(f"name: birds\ntask: transformer\nsteps: {steps}\n")
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return directory


LINES: list[dict[str, object]] = [
    {"kind": "train", "step": 10, "loss": 4.0, "image_loss": 4.5, "text_loss": 3.0, "seconds": 20.0},
    {"kind": "train", "step": 20, "loss": 3.0, "image_loss": 3.5, "text_loss": 2.0, "seconds": 30.0,
     "items_per_second": 12.5, "tokens_per_second": 2500.0, "utilisation": 0.62, "stalls": 0.004,
     "memory": 2**30, "lr": 3e-4, "loss_scale": 65536.0},
    {"kind": "skipped", "step": 15, "items": ["a.png"]},
    {"kind": "evaluate", "step": 20, "loss": 3.25},
]  # fmt: skip


def text(directory: Path) -> str:
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(render(read_run(directory)))
    return console.export_text()


def test_everything_that_is_known_is_shown(tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    for step in (5, 10, 15, 20):
        (tmp_path / "samples" / f"samples-{step:08d}.png").touch()
    (tmp_path / "checkpoints" / "step-00000020").mkdir(parents=True)
    view = read_run(write(tmp_path, LINES))
    assert (view.step, view.steps, view.skipped, view.checkpoint, view.state) == (20, 100, 1, 20, "running")
    assert view.left == 80.0  # ten steps took ten seconds, eighty are left
    assert [path.name for path in view.samples] == [f"samples-{step:08d}.png" for step in (10, 15, 20)]
    assert loss_names(view) == [
        ("train", "loss"), ("train", "image_loss"), ("train", "text_loss"), ("evaluate", "loss"),
    ]  # fmt: skip
    told = facts(view)
    assert told["speed"] == "2,500 tokens/s, 12.5 items/s"
    assert told["utilisation"].startswith("62%") and told["waiting for data"] == "0.4% of the time"
    assert (told["memory"], told["skipped updates"]) == ("1.00 GiB", "1, the last at step 15")
    shown = text(tmp_path)
    for part in (
        "birds",
        "step 20 of 100",
        "0:01:20 left",
        "image_loss",
        "loss (validation)",
        "samples-00000020.png",
    ):
        assert part in shown


def test_a_run_that_has_hardly_begun(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("name: new\nsteps: 5\n")
    view = read_run(tmp_path)
    assert (view.step, view.left, view.state) == (0, None, "beginning")
    assert "step 0 of 5" in text(tmp_path)
    with pytest.raises(CogViewError, match="holds no run"):
        read_run(tmp_path / "none")


def test_a_line_that_is_being_written_is_waited_for(tmp_path: Path) -> None:
    write(tmp_path, LINES)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "step": 30, "lo')
    assert read_run(tmp_path).step == 20


@pytest.mark.parametrize(
    ("values", "expected"),
    [([], ""), ([1.0], "▁"), ([1.0, 1.0], "▁▁"), ([0.0, 7.0], "▁█"), ([3.0, 2.0, 1.0, 0.0], "█▆▃▁")],
)
def test_a_curve_in_a_line(values: list[float], expected: str) -> None:
    assert sparkline(values) == expected


def test_a_long_curve_is_as_wide_as_asked(tmp_path: Path) -> None:
    assert sparkline([float(n) for n in range(1000)], 8) == "▁▂▃▄▅▆▇█"


def test_a_real_run_is_watched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path / "run", TinyRecipe(steps=6, device="cpu", intervals={"log": 2, "evaluate": 3}))  # type: ignore[arg-type]
    assert main(["watch", str(tmp_path / "run"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["state"], found["step"], found["steps"]) == ("done", 6, 6)
    assert found["train"]["loss"] > 0 and found["evaluate"]["step"] == 6
    assert main(["watch", str(tmp_path / "run"), "--once"]) == 0
    assert "step 6 of 6" in capsys.readouterr().out
    assert main(["watch", str(tmp_path / "nowhere")]) == 2
    assert "nowhere: cannot be read" in capsys.readouterr().err


def test_live_on_a_terminal_and_ctrl_c(tmp_path: Path) -> None:
    """On a pseudo-terminal: the view appears; Ctrl-C leaves a checkpoint and says how to go on."""
    write_data(tmp_path / "tokens", caption, VOCABULARY, "1" * 16, "2" * 64)
    recipe = {
        "task": "transformer", "name": "seen", "data": str(tmp_path / "tokens"), "steps": 1_000_000,
        "model": {"layers": 1, "hidden": 16, "heads": 2}, "format": {"text_slots": 6}, "device": "cpu",
        "intervals": {"log": 1, "evaluate": 0, "sample": 0, "checkpoint": 0}, "batch_size": 4, "threads": 1,
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    command = ["train", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "run"), "--live"]
    process, terminal = on_a_terminal(command)
    try:
        shown = read_until(terminal, rb"seen \xc2\xb7 transformer \xc2\xb7 running[^$]*?step [1-9]").decode(
            errors="replace"
        )
        shown += read_until(terminal, rb"minimum[^$]*?items/s").decode(errors="replace")
        os.write(terminal, b"\x03")
        said = read_until(terminal, rb"--out [^\n]* --resume\r?\n").decode(errors="replace")
        assert process.wait(60) == 0
    finally:
        process.kill()
        os.close(terminal)
    assert "minimum" in shown and "items/s" in shown
    stopped = re.search(r"received SIGINT: stopped after step (\d+); go on with: cogview train", said)
    assert stopped is not None
    (checkpoint,) = list_checkpoints(tmp_path / "run" / "checkpoints")
    assert int(checkpoint.name[5:]) == int(stopped[1]) >= 1
    assert read_run(tmp_path / "run").step == int(stopped[1])
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()


def on_a_terminal(command: list[str]) -> tuple[subprocess.Popen[bytes], int]:
    """``cogview`` with a terminal of its own, which Ctrl-C goes through; and the terminal's other end."""
    begin = """import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from cogview.cli.app import main
sys.exit(main(sys.argv[1:]))"""
    ours, theirs = pty.openpty()
    facts = {"TERM": "xterm", "COLUMNS": "120", "LINES": "40"}
    process = subprocess.Popen(
        [sys.executable, "-c", begin, *command],
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, env={**os.environ, **facts},
    )  # fmt: skip
    os.close(theirs)
    return process, ours


def read_until(terminal: int, pattern: bytes, limit: float = 240) -> bytes:
    """What comes from the terminal up to a pattern."""
    found, end = b"", time.monotonic() + limit
    while not re.search(pattern, found):
        ready, _, _ = select.select([terminal], [], [], max(0.0, end - time.monotonic()))
        assert ready, f"the terminal said only {found[-2000:]!r}"
        try:
            found += os.read(terminal, 65536)
        except OSError:  # the other end is closed
            raise AssertionError(f"it ended with {found[-2000:]!r}") from None
    return found
