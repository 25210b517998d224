"""Mistakes in arguments are answered before PyTorch is imported, each in one line."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

CHILD = """
import contextlib, io, json, sys
from cogview.cli.app import main

answers = []
for arguments in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(arguments)
    answers.append([code, out.getvalue(), err.getvalue(), "torch" in sys.modules])
json.dump(answers, sys.stdout)
"""
Answer = tuple[int, str, str, bool]


def answers(cases: list[list[str]], folder: Path) -> list[Answer]:
    """(exit code, output, errors, whether PyTorch is imported by then) of each command line, in one child."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        cwd=folder,
        check=True,
    )
    return [tuple(answer) for answer in json.loads(done.stdout)]


MISTAKES: list[tuple[list[str], str]] = [
    # commands and options
    (["genrate", "a cat"], "No such command 'genrate'; did you mean generate? (see cogview --help)"),
    (["data", "chekc", "x"], "No such command 'chekc'; did you mean check? (see cogview data --help)"),
    (["generate", "x", "--tempreature", "1"], "No such option: --tempreature; did you mean --temperature?"),
    (["nonsense"], "No such command 'nonsense' (see cogview --help)"),
    # files
    (["generate", "--prompts", "none.txt"], "none.txt: cannot be read"),
    (["edit", "none.png", "a cat", "--vary", "0.5"], "none.png: missing file"),
    (["edit", "some.png", "a cat", "--mask", "none.png"], "none.png: missing file"),
    (["upscale", "none.png"], "none.png: missing file"),
    (["upscale", "text.txt"], "text.txt: not an image"),
    (["upscale", "."], ".: missing file: a folder; name the images in it"),
    (["caption", "some.png", "none.png"], "none.png: missing file"),
    (["score", "none.png", "--text", "a cat"], "none.png: missing file"),
    (["rerank", "a cat", "none.png"], "none.png: missing file"),
    (["data", "check", "none"], "none does not exist"),
    (["data", "build", "none", "out", "--tokenizers", "pictogram"], "none does not exist"),
    (["data", "cache", "none", "out", "--size", "8"], "none does not exist"),
    (["train", "none.yaml"], "none.yaml: cannot be read"),
    (["train", "text.txt", "--set", "x"], "text.txt: expected keys and values"),
    (["train-on", "none", "--out", "out"], "none: cannot be read (no such"),
    (["plan", "none.yaml"], "none.yaml: cannot be read (no such"),
    (["sweep", "none.yaml", "--over", "lr=1"], "none.yaml: cannot be read (no such"),
    (["report", "none"], "none: cannot be read (no such"),
    (["study", "serve", "none"], "none: no study there"),
    (
        ["import", "lpips", "none", "out", "--network", "vgg16"],
        "none: cannot be read (no such",
    ),
    (
        ["eval", "tokenizer", "--tokenizer", "none", "--data", "."],
        "none: cannot be read (no such",
    ),
    (
        ["eval", "upscaling", "--data", "none", "--lpips", "text.txt"],
        "none: cannot be read (no such",
    ),
    (["serve", "--host", "0.0.0.0", "--api-key-file", "none"], "not a key file"),
    # models and styles
    (["generate", "a cat", "--model", "pictogran"], "no model 'pictogran'; did you mean 'pictogram'?"),
    (["generate", "a cat", "--style", "glosy"], "no style 'glosy'; did you mean 'glossy'?"),
    (["generate", "a cat", "--lora", "none"], "no adapter 'none'"),
    (["generate", "a cat", "--fairness", "none.yaml"], "none.yaml: no such table"),
    (["generate", "a cat", "--first-stage-only"], "generates in one step"),
    (
        ["generate", "a cat", "--upscale", "2", "--model", "pictogram-2"],
        "cannot upscale images; take --model",
    ),
    (["upscale", "some.png", "--model", "pictogram-2"], "cannot upscale images; take --model pictogram"),
    (
        ["edit", "some.png", "a cat", "--vary", "0.5", "--model", "pictogram"],
        "cannot edit images; take --model",
    ),
    (["caption", "some.png", "--model", "text.txt"], "no model 'text.txt'"),
    (["serve", "pictogran"], "no model 'pictogran'"),
    (["inspect", "attention", "a cat", "--model", "pictogran"], "no model 'pictogran'"),
    (["assemble", "out", "--from", "pictogran"], "no model 'pictogran'"),
    (["train-on", ".", "--out", "out", "--from", "pictogran"], "no model 'pictogran'"),
    (["eval", "speed", "--model", "pictogran"], "no model 'pictogran'"),
    # numbers, devices, addresses
    (["generate", "a cat", "--temperature", "0"], "temperature"),
    (["generate", "a cat", "--top-p", "1.5"], "top_p"),
    (["generate", "a cat", "--seed", "-1"], "the seed -1 is out of range"),
    (["generate", "a cat", "-n", "0"], "-n"),
    (["generate", "a cat", "--upscale", "3"], "times is 3; this model upscales 2 or 4 times"),
    (["generate", "a cat", "--sparse", "1,2"], "--sparse 1,2"),
    (["generate", "a cat", "--threads", "0"], "--threads"),
    (["generate", "a cat", "--device", "tpu"], "--device tpu: give auto, cpu, cuda, cuda:N or mps"),
    (["train", "recipe.yaml", "--device", "tpu"], "--device tpu: give auto, cpu, cuda, cuda:N or mps"),
    (["generate", "  "], "the prompt is empty"),
    (["upscale", "some.png", "--times", "5"], "times is 5"),
    (["upscale", "some.png", "--detail", "2"], "--detail"),
    (["edit", "some.png", "a cat", "--box", "1,2,3"], "the box '1,2,3' is not x0,y0,x1,y1"),
    (["edit", "some.png", "a cat", "--box", "0,0,9,99"], "is not inside the image"),
    (["caption", "some.png", "--top-p", "7"], "top_p"),
    (["serve", "--port", "99999"], "--port"),
    (["serve", "--host", "0.0.0.0"], "lets other machines in"),
    (["serve", "--host", "203.0.113.7", "--without-key"], "cannot listen at 203.0.113.7:8000"),
    (["train-on", ".", "--out", "out", "--size", "huge"], "--size"),
]


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> list[Answer]:
    folder = tmp_path_factory.mktemp("mistakes")
    Image.new("RGB", (32, 32)).save(folder / "some.png")
    (folder / "text.txt").write_text("a cat")
    return answers([words for words, _ in MISTAKES], folder)


@pytest.mark.parametrize("number", range(len(MISTAKES)), ids=[" ".join(words) for words, _ in MISTAKES])
def test_a_mistake_is_answered_in_one_line_without_pytorch(answered: list[Answer], number: int) -> None:
    code, out, error, imported = answered[number]
    assert MISTAKES[number][1] in error
    assert (code, out) == (2, "") and error.startswith("error: ") and error.count("\n") == 1
    assert not imported, f"imported by {next(m for m, a in zip(MISTAKES, answered, strict=True) if a[3])}"


def test_a_port_in_use_is_found_before_pytorch_is_imported(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        [(code, _, error, imported)] = answers([["serve", "--port", port]], tmp_path)
    assert (code, imported) == (2, False) and f"cannot listen at 127.0.0.1:{port}" in error
