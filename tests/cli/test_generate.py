"""``cogview generate`` and ``cogview models``: files, names, one line for every mistake."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from pytest import CaptureFixture, MonkeyPatch

from cogview import contact_sheet
from cogview.checkpoints import provenance
from cogview.checkpoints.bundle import ModelBundle
from cogview.cli import generate as verb
from cogview.cli import output
from cogview.cli.app import main
from cogview.tokenizers.vqvae import ImageTokenizer
from cogview.transformer.cache import KVCache
from tests.generation import tiny
from tests.privileges import unprivileged


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write(tmp_path_factory.mktemp("family"))


@pytest.fixture
def run(family: Path, tmp_path: Path) -> Callable[..., int]:
    """``cogview generate`` with the tiny model, into the folder ``out``."""
    return lambda *more: main(
        ["generate", "--model", str(family), "-o", str(tmp_path / "out"), *map(str, more)]
    )


def test_pictures_with_their_facts_and_a_sheet(
    run: Callable[..., int], tmp_path: Path, family: Path, capsys: CaptureFixture[str]
) -> None:
    assert run("a red circle", "红色的圆", "-n", 2, "--seed", 7, "--style", "pixel", "--grid") == 0
    printed = capsys.readouterr()
    names = ["a-red-circle-7-00", "a-red-circle-7-01", "红色的圆-7-00", "红色的圆-7-01", "grid-7"]
    paths = [tmp_path / "out" / f"{name}.png" for name in names]
    assert printed.out.splitlines() == [str(path) for path in paths]
    assert "4 images" in printed.err and "seed 7" in printed.err
    told = provenance.read(paths[3])
    assert told is not None
    assert (told.prompt, told.seed, told.index, told.model_hash) == (
        "红色的圆",
        7,
        1,
        ModelBundle(family).hash,
    )
    assert told.settings["style"] == "pixel" and told.settings["top_k"] == 20
    with Image.open(paths[4]) as sheet, Image.open(paths[1]) as second, Image.open(paths[2]) as third:
        assert sheet.size == (2 * 18 + 2, 2 * 18 + 2)
        assert sheet.crop((20, 2, 36, 18)).tobytes() == second.tobytes()
        assert sheet.crop((2, 20, 18, 36)).tobytes() == third.tobytes()


def test_a_sheet_of_single_images_is_square(run: Callable[..., int], tmp_path: Path) -> None:
    assert run("a", "b", "c", "d", "--seed", 7, "--grid") == 0
    with Image.open(tmp_path / "out/grid-7.png") as sheet, Image.open(tmp_path / "out/d-7-00.png") as last:
        assert sheet.size == (2 * 18 + 2, 2 * 18 + 2)
        assert sheet.crop((20, 20, 36, 36)).tobytes() == last.tobytes()


def test_json_names_every_file(run: Callable[..., int], capsys: CaptureFixture[str], tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\ufeffa red circle\n\n  蓝色的方块  \n", encoding="utf-8")
    assert run("--prompts", prompts, "--json", "--seed", 1, "--precision", "int8", "--deterministic") == 0
    facts = json.loads(capsys.readouterr().out)
    assert [picture["prompt"] for picture in facts["pictures"]] == ["a red circle", "蓝色的方块"]
    assert all(Path(picture["path"]).is_file() for picture in facts["pictures"])
    assert facts["settings"]["precision"] == "int8" and facts["settings"]["deterministic"] is True


def test_names_never_collide_and_the_same_picture_is_one_file(
    run: Callable[..., int], tmp_path: Path
) -> None:
    for temperature in (1.0, 2.0, 1.0):
        assert run("a red circle", "a/red:circle?", "--seed", 7, "--temperature", temperature) == 0
    found = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert sorted(found) == [f"a-red-circle-7-00{end}.png" for end in ("-2", "-3", "-4", "")]
    assert len(set(found.values())) == 4


@pytest.mark.parametrize("prompt", ["🐱🐶", "../../etc/passwd", "一" * 100, "con. ", "-x- y"])
def test_any_prompt_makes_a_plain_file_name(prompt: str) -> None:
    name = verb.name_for(_Named(prompt))  # type: ignore[arg-type]
    assert not set(name) & set('/\\:*?"<>|. ') and len(name.encode()) < 200 and name[0] not in "-."


class _Named:
    seed, index = 2**63 - 1, 10**6

    def __init__(self, prompt: str) -> None:
        self.prompt = prompt


def test_stopped_early_what_is_finished_is_there(
    run: Callable[..., int], tmp_path: Path, monkeypatch: MonkeyPatch, capsys: CaptureFixture[str]
) -> None:
    @contextlib.contextmanager
    def pressing_ctrl_c() -> Iterator[Callable[[float, float], None]]:
        def show(done: float, total: float) -> None:
            if done / total > (2 * 16 + 5) / (4 * 16):
                raise KeyboardInterrupt

        yield show

    monkeypatch.setattr(verb, "bar", pressing_ctrl_c)
    assert run("a red circle", "-n", 4, "--seed", 7, "--batch-size", 1) == 130
    assert "2 finished" in capsys.readouterr().err
    whole = sorted((tmp_path / "out").iterdir())
    assert [path.name for path in whole] == ["a-red-circle-7-00.png", "a-red-circle-7-01.png"]
    for path in whole:
        assert provenance.read(path) is not None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a prompt"),
        ([""], "the prompt is empty"),
        (["a red circle " * 30], "tokens and the model reads 31"),
        (["x", "--style", "pixle"], "did you mean 'pixel'"),
        (["x", "--model", "tinny"], "no model 'tinny'"),
        (["x", "--model", "."], "a directory without family.json"),
        (["x", "-n", "0"], "-n"),
        (["x", "--seed", "-5"], "the seed -5 is out of range"),
        (["x", "--temperature", "0"], "temperature"),
        (["x", "--top-p", "7"], "top_p"),
        (["x", "--precision", "fp8"], "fp8"),
        (["x", "--max-batch", "0"], "--max-batch 0: give a number from 1, or auto"),
        (["x", "--max-batch", "many"], "--max-batch many: give a number from 1, or auto"),
        (["x", "--prompts", "nowhere.txt"], "nowhere.txt: cannot be read"),
    ],
)
def test_a_mistake_is_one_line(
    run: Callable[..., int], capsys: CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(*arguments) == 2
    printed = capsys.readouterr()
    assert message in printed.err and printed.err.count("\n") == 1 and not printed.out


@pytest.mark.parametrize(("content", "message"), [(b"\n \n", "no prompt in it"), (b"\xff\xfe", "UTF-8")])
def test_a_useless_file_of_prompts(
    run: Callable[..., int], tmp_path: Path, capsys: CaptureFixture[str], content: bytes, message: str
) -> None:
    (tmp_path / "p.txt").write_bytes(content)
    assert run("--prompts", tmp_path / "p.txt") == 2
    assert message in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_found_before_any_work(
    tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    """The model does not exist either, and is not looked for."""
    (tmp_path / "file").write_text("")
    assert main(["generate", "x", "-o", str(tmp_path / "file" / "out"), "--model", "nowhere"]) == 2
    assert "choose another -o" in capsys.readouterr().err


def test_max_batch_auto_tells_the_plan_and_what_did_not_fit(
    run: Callable[..., int], tmp_path: Path, capsys: CaptureFixture[str], monkeypatch: MonkeyPatch
) -> None:
    """On a machine for two pictures: the plan, two halvings, and the same files as with room for all."""
    assert run("a red circle", "-n", 7, "--seed", 7, "-o", tmp_path / "room") == 0
    assert "memory" not in capsys.readouterr().err  # nothing is told that was not asked for
    allocate = KVCache.allocate

    def limited(config: Any, batch: int, *rest: Any) -> KVCache:
        if batch > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return allocate(config, batch, *rest)

    monkeypatch.setattr(KVCache, "allocate", limited)
    assert run("a red circle", "-n", 7, "--seed", 7, "--max-batch", "auto", "-o", tmp_path / "none") == 0
    plan, *halved, _ = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"memory: weights .+ free; 7 at a time, .+ MB each \(.+ of it cache\)", plan)
    assert halved == [
        "out of memory with 7 at a time; continuing with 4",
        "out of memory with 4 at a time; continuing with 2",
    ]
    before, after = (sorted((tmp_path / name).glob("*.png")) for name in ("room", "none"))
    assert [path.name for path in before] == [path.name for path in after]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(before, after, strict=True))


def test_memory_that_runs_out_while_painting_loses_no_finished_picture(
    run: Callable[..., int], tmp_path: Path, capsys: CaptureFixture[str], monkeypatch: MonkeyPatch
) -> None:
    decode, painted = ImageTokenizer.decode, list[int]()

    def limited(self: ImageTokenizer, *rest: Any) -> torch.Tensor:
        painted.append(1)
        if len(painted) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return decode(self, *rest)

    monkeypatch.setattr(ImageTokenizer, "decode", limited)
    assert run("a red circle", "-n", 4, "--seed", 7) == 2
    assert "out of memory on cpu while decoding 4 x 4 codes" in capsys.readouterr().err
    assert len(list((tmp_path / "out").glob("*.png"))) == 2


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o555)
    done = unprivileged(["-m", "cogview.cli", "generate", "x", "-o", str(tmp_path / "locked")])
    assert done.returncode == 2 and "cannot be written to" in done.stderr


def test_models_are_listed(home: Path, capsys: CaptureFixture[str]) -> None:
    tiny.write(home / "models")
    (home / "models" / "broken").mkdir()
    (home / "models" / "broken" / "family.json").write_text("{}")
    assert main(["models", "--json"]) == 0
    entries: dict[str, Any] = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    directory = home / "models" / "tiny"
    assert entries["tiny"]["hash"] == ModelBundle(directory).hash
    assert entries["tiny"]["bytes"] == sum(p.stat().st_size for p in directory.rglob("*") if p.is_file())
    assert entries["tiny"]["roles"]["base"] == {"kind": "text_to_image", "grid": [4, 4], "text_limit": 31}
    assert "missing" in entries["broken"]["error"]
    assert main(["models"]) == 0
    printed = capsys.readouterr().out
    assert "4 x 4 codes" in printed and "pixel (pixel, 像素)" in printed and "broken: " in printed


def test_a_sheet_leaves_the_rest_of_its_last_row_white() -> None:
    images = [Image.new("RGB", (3, 2), (i, 0, 0)) for i in range(5)]
    sheet = contact_sheet(images, 3, gap=output.GAP)
    assert sheet.size == (3 * 5 + 2, 2 * 4 + 2)
    assert sheet.getpixel((2 + 5, 2 + 4)) == (4, 0, 0)
    assert sheet.getpixel((2 + 10, 2 + 4)) == (255, 255, 255)


def test_sparse_attention_is_another_picture_and_told(
    run: Callable[..., int], tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    """A window that holds everything is the dense picture; a small one is not; both say what they were."""
    codes, words = [], ["a red circle", "--seed", 3, "--json"]
    for more in ([], ["--sparse", "128,6,768"], ["--sparse", "1,1,1"]):
        assert run(*words, *more) == 0
        printed = json.loads(capsys.readouterr().out)
        with Image.open(printed["pictures"][0]["path"]) as picture:
            codes.append(picture.tobytes())
        sizes = (
            [printed["settings"]["sparse"][name] for name in ("window", "times", "pivots")] if more else []
        )
        assert ",".join(map(str, sizes)) == (more[1] if more else "")
    assert codes[0] == codes[1] != codes[2]
    for wrong in ("1,2", "a,b,c", "0,1,1", "64;4;256"):
        assert run(*words, "--sparse", wrong) == 2
        assert "--sparse" in capsys.readouterr().err


def test_threads_and_device_are_those_asked_for(
    run: Callable[..., int], capsys: CaptureFixture[str], monkeypatch: MonkeyPatch
) -> None:
    before, asked = torch.get_num_threads(), []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    for given in (3, 1):
        assert run("a red circle", "--seed", 7, "--threads", given, "--device", "cpu") == 0
    assert run("a red circle", "--seed", 7) == 0
    assert asked[:2] == [3, 1] and 1 <= asked[2] <= max(before, os.cpu_count() or 1)
    assert run("a red circle", "--device", "cuda:63") == 2
    assert "--device cuda:63 is not available here; use auto or cpu" in capsys.readouterr().err


def test_words_that_the_model_hardly_knows_are_told(capsys: CaptureFixture[str]) -> None:
    family = ModelBundle.find("pictogram")
    said = "pictogram reads English and Chinese; it hardly knows: rouge"
    assert family.unfamiliar(["a red apple", "un chat rouge", "rouge"]) == [said]
    assert family.unfamiliar(["a red apple", "一只红色的猫"]) == []
