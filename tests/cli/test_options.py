"""Every option of ``generate``, ``edit``, ``upscale``, ``caption`` and ``rerank`` changes what it says.

A table names for each option what is added to a plain command and what must differ then. An option without a
row fails, so that a new one comes with its effect.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from cogview.checkpoints.provenance import read
from cogview.cli.app import VERBS, load, main
from cogview.transformer.lora import LoRAConfig, adapter_parameters, attach, save_adapter
from tests.generation import tiny, tiny2

WORDS = "a red circle"
PLAIN: dict[str, list[str]] = {
    "generate": [WORDS, "--seed", "7"],
    "edit": ["cat.png", "red", "--box", "0,0,12,10", "--seed", "7"],
    "upscale": ["small.png", "--seed", "7"],
    "caption": ["cat.png"],
    "rerank": [WORDS, "cat.png", "small.png", "dark.png"],
}
MODEL = {"generate": "tiny", "edit": "tiny2", "upscale": "tiny", "caption": "tiny", "rerank": "tiny"}


@dataclass(frozen=True)
class Ran:
    """A command that ended with 0: what it printed, and the pictures it wrote, by name."""

    out: str
    err: str
    pixels: dict[str, tuple[tuple[int, int], bytes]]
    facts: list[dict[str, Any]]
    prompts: list[str]

    @property
    def first(self) -> tuple[tuple[int, int], bytes]:
        return next(iter(self.pixels.values()))


Effect = Callable[[Ran, Ran], bool]


def other_pixels(plain: Ran, changed: Ran) -> bool:
    return plain.first[0] == changed.first[0] and plain.first[1] != changed.first[1]


def same_pixels(plain: Ran, changed: Ran) -> bool:
    return plain.first == changed.first


def other_words(plain: Ran, changed: Ran) -> bool:
    return plain.out != changed.out and changed.out.strip() != ""


def told(**facts: Any) -> Effect:
    """The picture says so itself."""
    return lambda plain, changed: all(
        changed.facts[0][name] == value != plain.facts[0].get(name) for name, value in facts.items()
    )


def both(*effects: Effect) -> Effect:
    return lambda plain, changed: all(effect(plain, changed) for effect in effects)


def is_json(plain: Ran, changed: Ran) -> bool:
    with contextlib.suppress(json.JSONDecodeError):
        json.loads(plain.out)
        return False
    return isinstance(json.loads(changed.out), dict)


def pictures(count: int) -> Effect:
    return lambda plain, changed: (len(plain.pixels), len(changed.pixels)) == (1, count)


def wider(times: int) -> Effect:
    return lambda plain, changed: changed.first[0] == tuple(times * side for side in plain.first[0])


def lines(count: int) -> Effect:
    return lambda plain, changed: len(changed.out.splitlines()) == count != len(plain.out.splitlines())


def warns(text: str) -> Effect:
    return lambda plain, changed: text in changed.err and text not in plain.err


# option: (what is added, what differs, another plain command or None)
Row = tuple[list[str], Effect, list[str] | None]
SAMPLING: dict[str, Row] = {
    "temperature": (["--temperature", "9"], both(other_pixels, told(temperature=9.0)), None),
    "top_k": (["--top-k", "2"], both(other_pixels, told(top_k=2)), None),
    "top_p": (["--top-p", "0.1"], both(other_pixels, told(top_p=0.1)), None),
    "guidance": (["--guidance", "4"], both(other_pixels, told(guidance=4.0)), None),
}
COGLM: dict[str, Row] = {
    "clusters": (["--clusters", "1"], both(other_pixels, told(clusters=1)), ["--model", "tiny2"]),
    "emphasis": (["--emphasis", "-10"], both(other_pixels, told(emphasis=-10.0)), ["--model", "tiny2"]),
    "first_stage_only": (["--first-stage-only"], lambda a, b: b.first[0] < a.first[0], ["--model", "tiny2"]),
}
WAYS: dict[str, Row] = {
    "out": (["-o", "elsewhere"], lambda a, b: "elsewhere" in b.out and "elsewhere" not in a.out, None),
    "seed": (["--seed", "8"], other_pixels, None),
    "precision": (["--precision", "int8"], told(precision="int8"), None),
    "deterministic": (["--deterministic"], told(deterministic=True), None),
    "decoding": (["--decoding", "sequential"], both(same_pixels, told(decoding="sequential")), None),
    "as_json": (["--json"], is_json, None),
    "max_batch": (["--max-batch", "auto"], both(same_pixels, warns("memory: ")), None),
    "model": (["--model", "other"], warns("model other"), None),
}
COMPUTING: dict[str, Row] = {
    "threads": (["--threads", "3"], warns("<3 threads>"), None),
    "device": (["--device", "cpu"], lambda a, b: (a.out, a.pixels) == (b.out, b.pixels), None),
}
ROWS: dict[str, dict[str, Row]] = {
    "generate": {
        **SAMPLING,
        **COGLM,
        **WAYS,
        **COMPUTING,
        "prompts": (["a blue square"], pictures(2), None),
        "file": (["--prompts", "prompts.txt"], pictures(3), None),
        "n": (["-n", "3"], pictures(3), None),
        "style": (
            ["--style", "pixel"],
            both(other_pixels, told(style="pixel")),
            None,
        ),
        "upscale": (["--upscale", "2"], wider(2), None),
        "best_of": (["--best-of", "3"], lambda a, b: b.facts[0]["best_of"]["of"] == 3, None),
        "fairness": (
            ["--fairness", "world"],
            lambda a, b: b.facts[0]["fairness"]["text"] != "a doctor" and other_pixels(a, b),
            ["a doctor", "--seed", "7"],
        ),
        "truncate": (["--truncate"], lambda a, b: a.pixels == b.pixels, ["--model", "tiny2"]),
        "grid": (["--grid"], lambda a, b: set(b.pixels) - set(a.pixels) == {"grid-7.png"}, None),
        "lora": (["--lora", "adapter"], other_pixels, None),
        "lora_strength": (["--lora-strength", "0"], other_pixels, ["--lora", "adapter"]),
        "sparse": (["--sparse", "1,1,1"], other_pixels, None),
    },
    "edit": {
        **SAMPLING,
        **{name: (row[0], row[1], None) for name, row in COGLM.items()},
        "first_stage_only": (["--first-stage-only"], other_pixels, None),
        **WAYS,
        **COMPUTING,
        "model": (
            ["--model", "other2"],
            lambda a, b: "model other2" in b.err and "model tiny2" in a.err,
            None,
        ),
        "image": (["dark.png"], other_pixels, []),
        "prompt": (["一个蓝色的方块"], other_pixels, []),
        "mask": (["--mask", "mask.png"], other_pixels, None),
        "boxes": (["--box", "15,2,22,18"], other_pixels, None),
        "vary": (["--vary", "0.5"], told(task="vary"), []),
        "n": (["-n", "2"], pictures(2), None),
        "style": (["--style", "pixel"], both(other_pixels, told(style="pixel")), None),
        "best_of": (["--best-of", "2"], lambda a, b: b.facts[0]["best_of"]["of"] == 2, None),
        "order": (
            ["--order", "one_by_one"],
            both(other_pixels, told(order="one_by_one")),
            ["--box", "18,0,24,20"],
        ),
        "crop": (["--crop", "whole"], both(other_pixels, told(crop="whole")), None),
        "feather": (["--feather", "0"], both(other_pixels, told(feather=0)), None),
        "grid": (["--grid"], lambda a, b: set(b.pixels) - set(a.pixels) == {"grid-7.png"}, None),
    },
    "upscale": {
        **SAMPLING,
        "guidance": (["--guidance", "4"], both(other_pixels, told(guidance=4.0)), ["--prompt", WORDS]),
        **WAYS,
        **COMPUTING,
        "images": (["dark.png"], pictures(2), None),
        "prompt": (
            ["--prompt", WORDS],
            both(other_pixels, lambda a, b: a.prompts != b.prompts == [WORDS]),
            None,
        ),
        "times": (["--times", "4"], wider(2), None),
        "size": (["--size", "24"], both(told(size=24), lambda a, b: min(b.first[0]) == 48), None),
        "faithful": (["--free"], both(other_pixels, told(faithful=False)), None),
        "detail": (["--detail", "0.1"], both(other_pixels, told(detail=0.1)), None),
    },
    "caption": {
        **{name: (row[0], row[1], None) for name, row in COMPUTING.items()},
        "images": (["small.png"], lines(2), None),
        "language": (
            ["--lang", "zh"],
            lambda a, b: letters(a) and not letters(b),
            None,
        ),
        "n": (["-n", "3"], lines(3), None),
        "beams": (["--beams", "1"], other_words, None),
        "seed": (["--seed", "3"], other_words, None),
        "temperature": (["--temperature", "3"], other_words, ["--seed", "3"]),
        "top_k": (["--top-k", "1"], other_words, ["--seed", "3"]),
        "top_p": (["--top-p", "0.05"], other_words, ["--seed", "3"]),
        "max_length": (["--max-length", "1"], lambda a, b: 0 < len(b.out) < len(a.out), None),
        "model": (["--model", "tiny2"], other_words, None),
        "as_json": (["--json"], is_json, None),
        "precision": (["--precision", "int8", "--json"], lambda a, b: scores(a) != scores(b), ["--json"]),
        "decoding": (
            ["--decoding", "sequential"],
            lambda a, b: settings(b) == settings(a) | {"decoding": "sequential"} and words(a) == words(b),
            ["--json", "--seed", "3"],
        ),
        "max_batch": (["--max-batch", "auto"], warns("memory: "), ["--seed", "3"]),
    },
    "rerank": {
        **COMPUTING,
        "prompt": (["蓝色的方块", "cat.png", "small.png", "dark.png"], other_words, []),
        "images": (["mask.png"], lines(4), None),
        "file": (["--lines", "lines.tsv"], lines(4), []),
        "keep": (["--keep", "2"], lambda a, b: b.out.count("kept\t") == 2 and len(b.pixels) == 2, None),
        "out": (["-o", "elsewhere"], lambda a, b: "elsewhere" in b.out and "out" in a.out, ["--keep", "1"]),
        "released": (["--released"], other_words, None),
        "model": (["--model", "tiny2"], other_words, None),
        "as_json": (["--json"], is_json, None),
        "precision": (["--precision", "int8"], other_words, None),
        "max_batch": (["--max-batch", "auto"], warns("memory: "), None),
    },
}


def letters(ran: Ran) -> list[str]:
    """The Latin ones."""
    return [letter for letter in ran.out if letter.isascii() and letter.isalpha()]


def settings(ran: Ran) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ran.out)["settings"]
    return found


def words(ran: Ran) -> list[str]:
    return [one["text"] for picture in json.loads(ran.out)["pictures"] for one in picture["captions"]]


def scores(ran: Ran) -> list[float]:
    return [one["score"] for picture in json.loads(ran.out)["pictures"] for one in picture["captions"]]


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models, pictures and files, as the table names them."""
    place = tmp_path_factory.mktemp("things")
    tiny.write(place, upscaling=True, captioning=True)
    tiny2.write(place, enlarging=True)
    for name, copied in (("tiny", "other"), ("tiny2", "other2")):
        shutil.copytree(place / name, place / copied)
        file = place / copied / "family.json"
        file.write_text(file.read_text().replace(f'"name": "{name}"', f'"name": "{copied}"'))
    model = tiny.transformer()
    config = LoRAConfig(rank=2)
    attach(model, config)
    for _, parameter in adapter_parameters(model):
        nn.init.normal_(parameter, std=0.3)
    save_adapter(model, config, place / "adapter")
    noise = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    Image.fromarray(noise).save(place / "cat.png")
    Image.fromarray(noise[:16, :16] // 2).save(place / "small.png")
    Image.fromarray(noise // 8).save(place / "dark.png")
    mask = Image.new("L", (24, 20))
    mask.paste(255, (15, 2, 22, 18))
    mask.save(place / "mask.png")
    (place / "prompts.txt").write_text("a blue square\n蓝色的方块\n", encoding="utf-8")
    (place / "lines.tsv").write_text(
        f"{WORDS}\tcat.png\tdark.png\n蓝色的方块\tcat.png\tdark.png\n", encoding="utf-8"
    )
    return place


@pytest.fixture
def ran(things: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """Run a command in a folder of its own."""
    number = iter(range(100))
    monkeypatch.setattr(torch, "set_num_threads", lambda n: print(f"<{n} threads>", file=sys.stderr))

    def run(verb: str, words: list[str]) -> Ran:
        folder = tmp_path / str(next(number))
        folder.mkdir()
        for path in things.iterdir():
            (folder / path.name).symlink_to(path)
        monkeypatch.chdir(folder)
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([verb, *words])
        assert code == 0, err.getvalue()
        files = sorted(path for path in folder.rglob("*.png") if path.parent != folder)
        read_back = [read(path) for path in files]
        made = [provenance for provenance in read_back if provenance is not None]
        pixels = {}
        for path in files:
            with Image.open(path) as image:
                pixels[path.name] = (image.size, image.convert("RGB").tobytes())
        return Ran(
            out.getvalue(),
            err.getvalue(),
            pixels,
            [dict(provenance.settings) for provenance in made],
            [provenance.prompt for provenance in made],
        )

    return run


OTHERS = {"generate": {"ray", "ray_workers"}}  # in tests/test_ray_cluster.py, which starts a cluster
CASES = [(verb, option) for verb, rows in ROWS.items() for option in rows]


@pytest.mark.parametrize(("verb", "option"), CASES, ids=[f"{verb} {option}" for verb, option in CASES])
def test_an_option_changes_what_it_says(ran: Callable[..., Ran], verb: str, option: str) -> None:
    added, effect, beside = ROWS[verb][option]
    plain, changed = commands(verb, option, added, beside)
    assert effect(ran(verb, plain), ran(verb, changed)), (plain, changed)


def commands(
    verb: str, option: str, added: list[str], beside: list[str] | None
) -> tuple[list[str], list[str]]:
    """The plain command and the changed one."""
    model = ["--model", MODEL[verb]]
    plain = [*model, *PLAIN[verb], *(beside or [])]
    if (verb, option) == ("generate", "fairness"):
        plain = [*model, *(beside or [])]
    if (verb, option) == ("edit", "image"):
        return plain, [*model, *added, *PLAIN[verb][1:]]
    if (verb, option) == ("edit", "prompt"):
        return plain, [*model, "cat.png", *added, *PLAIN[verb][2:]]
    if (verb, option) == ("edit", "vary"):
        return plain, [*model, "cat.png", WORDS, "--seed", "7", *added]
    if verb == "rerank" and option in ("prompt", "file"):
        return plain, [*model, *added]
    return plain, [*plain, *added]


@pytest.mark.parametrize("verb", ROWS)
def test_every_option_has_a_row(verb: str) -> None:
    [command] = [load(entry) for entry in VERBS if entry.name == verb]
    own = {option.name for option in command.params} - {"help"}
    assert own - OTHERS.get(verb, set()) == set(ROWS[verb])


def test_a_prompt_that_is_cut_was_too_long(
    things: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["generate", "a red circle " * 20, "--model", str(things / "tiny2"), "--seed", "7"]
    assert main(words) == 2 and "shorten it" in capsys.readouterr().err
    assert main([*words, "--truncate"]) == 0
