"""The command line's front door: help without PyTorch, one line and the right exit code for every mistake."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import pytest
import typer

from cogview import __version__
from cogview.cli import app as front
from cogview.cli.app import VERBS, Verb, load, main
from cogview.errors import CogViewError
from cogview.types import SamplingParams

START = "import sys; from cogview.cli.app import main; sys.exit(main())"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", START, *arguments], capture_output=True, text=True, check=False
    )


def shout(
    word: Annotated[str, typer.Argument(help="What to shout.")],
    times: Annotated[int, typer.Option(min=1)] = 1,
) -> None:
    """Say a word loudly."""
    if word == "bad":
        raise CogViewError("the word is bad\n  say another")
    if word == "full":
        raise OSError(28, "No space left on device", "out/a.png")
    if word == "stop":
        raise KeyboardInterrupt
    if word == "wrong":
        SamplingParams(top_p=2.0)
    if word == "odd":
        raise typer.Exit(3)
    typer.echo(word.upper() * times)


family = typer.Typer(no_args_is_help=True, help="Verbs of its own.")
family.command("shout")(shout)


@family.command("other")
def other() -> None:
    """Another."""


@pytest.fixture
def verbs(monkeypatch: pytest.MonkeyPatch) -> None:
    here = f"cogview.cli.{__name__}"
    monkeypatch.setitem(sys.modules, here, sys.modules[__name__])
    target = __name__
    table = (
        Verb("shout", f"{target}:shout", "Say it.", "Talk"),
        Verb("many", f"{target}:family", "More.", "Talk"),
    )
    monkeypatch.setattr(front, "VERBS", table)


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (["shout", "ah", "--times", "2"], 0, ""),
        (["many", "shout", "ah", "--times", "2"], 0, ""),
        (["shout", "bad"], 2, "error: the word is bad   say another\n"),
        (["shout", "full"], 2, "error: out/a.png: No space left on device\n"),
        (["shout", "stop"], 130, "error: interrupted\n"),
        (["shout", "wrong"], 2, "error: top_p: must be at most 1.0 (got 2.0)\n"),
        (["shout", "odd"], 3, ""),
        (["shout"], 2, None),
        (["shout", "a", "--times", "0"], 2, None),
        (["shout", "a", "--loud"], 2, "error: No such option: --loud (see cogview shout --help)\n"),
        (["shuot"], 2, None),
        (["many", "shout", "bad"], 2, "error: the word is bad   say another\n"),
        (["--nonsense"], 2, "error: No such option: --nonsense (see cogview --help)\n"),
    ],
)
def test_exit_codes_and_lines(
    verbs: None, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, error: str | None
) -> None:
    assert main(arguments) == code
    out, err = capsys.readouterr()
    assert out == ("AHAH\n" if code == 0 else "")
    if error is None:
        assert err.startswith("error: ") and err.count("\n") == 1
    else:
        assert err == error


def test_every_exit_code_is_documented() -> None:
    """Those of errors, and those with which verbs end; the page names no other."""
    root = Path(__file__).parents[2]
    source = root / "src" / "cogview"
    errors = (source / "errors.py").read_text(encoding="utf-8")
    ended = {0, 130, *re.findall(r"\bexit_code(?:: int)? = (\d+)", errors)}
    for path in (source / "cli").rglob("*.py"):
        for line in re.findall(r"Exit\((.*)\)", path.read_text(encoding="utf-8")):
            ended |= {*re.findall(r"\b\d+\b", line)}
    page = (root / "docs" / "drawing.md").read_text(encoding="utf-8")
    table = page.split("## Exit codes")[1].split("\n## ")[0]
    assert [*map(int, re.findall(r"^\| (\d+) \|", table, re.MULTILINE))] == sorted({*map(int, ended)})


def test_no_arguments_print_the_help(verbs: None, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--help"]):
        assert main(arguments) == 0
        out = capsys.readouterr().out
        assert "cogview generate" in out and "Say it." in out and "More." in out
    for arguments in (["many"], ["many", "--help"]):
        assert main(arguments) == 0
        assert "Say a word loudly." in capsys.readouterr().out


def test_every_verb_loads_and_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in VERBS:
        assert load(verb).name == verb.name
        assert main([verb.name, "--help"]) == 0
        assert f"cogview {verb.name}" in capsys.readouterr().out


@pytest.mark.parametrize("module", ["cogview", "cogview.cli"])
def test_the_command_line_is_a_module_too(module: str) -> None:
    """For where scripts are not on the path, and for launchers such as torchrun."""
    command = [sys.executable, "-m", module, "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("cogview ")


def test_help_and_version_import_no_torch() -> None:
    code = (
        "import sys; from cogview.cli.app import main\n"
        "for arguments in (['--help'], ['--version'], ['nonsense']): main(arguments)\n"
        "print([m for m in ('torch', 'numpy', 'cogview.config') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("[]")
    assert f"cogview {__version__}\n" in done.stdout


def test_colour_only_where_it_is_seen() -> None:
    done = run("nonsense")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and "\x1b" not in done.stderr


def test_characters_the_terminal_lacks_do_no_harm() -> None:
    environment = os.environ | {"PYTHONIOENCODING": "latin-1"}
    done = subprocess.run(
        [sys.executable, "-c", START, "猫"], capture_output=True, env=environment, check=False
    )
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1 and b"\\u732b" in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_control_c_is_one_line(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    code = (
        "import signal, sys, time, types, pathlib; from cogview.cli import app\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # else ignored in the background
        f"def wait(): pathlib.Path({str(ready)!r}).touch(); time.sleep(20)\n"
        "sys.modules['cogview.cli.wait'] = types.SimpleNamespace(wait=wait)\n"
        "app.VERBS = (app.Verb('wait', 'wait:wait', '', ''),)\n"
        "sys.exit(app.main(['wait']))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as process:
        for _ in range(400):
            if ready.exists():
                break
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=15)
    assert (process.returncode, error) == (130, "error: interrupted\n")
