"""A stranger's folder becomes a model in one command, whatever is in it and whenever it is stopped."""

from __future__ import annotations

import io
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from cogview.checkpoints.bundle import ModelBundle
from cogview.cli.app import main
from cogview.config import validate
from cogview.errors import CogViewError
from cogview.tokenizers.vqvae import ImageTokenizer
from cogview.training.recipe import Recipe
from cogview.training.train_on import measure
from cogview.training.train_on.filename_captions import name_caption
from cogview.training.train_on.model_sizes import (
    SIZES,
    codes_for,
    finish_recipes,
    tokenizer_recipe,
    transformer_recipe,
)
from cogview.training.train_on.settings import Settings
from cogview.training.train_on.stages import Stopped, TrainOn
from cogview.training.train_on.survey import Part, estimate, fit_text_tokenizer
from cogview.transformer.config import TransformerConfig
from cogview.transformer.model import Transformer
from tests.generation import tiny

FEW = (
    "image_tokenizer.steps=6",
    "image_tokenizer.warmup_steps=2",
    "image_tokenizer.batch_size=4",
    "image_tokenizer.model.channels=[8,8]",
    "image_tokenizer.model.blocks=[0,0]",
    "image_tokenizer.model.attention=false",
    "transformer.steps=6",
    "transformer.batch_size=4",
    "transformer.model.layers=1",
    "transformer.model.hidden=32",
    "image_tokenizer.intervals.log=2",
    "transformer.intervals.log=2",
)


def stranger(folder: Path, count: int = 40) -> Path:
    """Pictures as people have them: all modes and sizes, captioned or not, in two languages, some broken."""
    rng = np.random.default_rng(0)
    modes = ("RGB", "RGBA", "L", "P", "CMYK", "1")
    (folder / "red cats").mkdir(parents=True)
    for number in range(count):
        colour = tuple(int(x) for x in rng.integers(0, 255, 3))
        image = Image.new("RGB", (int(rng.integers(9, 90)), int(rng.integers(9, 90))), colour)
        place = folder / "red cats" if number % 5 == 4 else folder
        kind = "tiff" if modes[number % 6] == "CMYK" else "png"
        path = place / f"IMG_{number:04}.{kind}"
        image.convert(modes[number % 6]).save(path)
        if number % 5 == 0:
            path.with_suffix(".txt").write_text("a square\nsomething square\n一个方块\n", "utf-8")
        elif number % 5 == 1:
            path.with_suffix(".zh.txt").write_text("方块", "utf-8")
    (folder / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0 and no more")
    (folder / "empty.png").touch()
    (folder / "IMG_0001.txt").write_bytes(b"\xff\xfe\x00bad")
    (folder / "notes.docx").write_text("not a picture")
    return folder


def settings(source: Path, **fields: Any) -> Settings:
    given = {"source": str(source), "size": "tiny", "device": "cpu", "overrides": FEW, **fields}
    return validate(Settings, given, "test")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stranger(tmp_path_factory.mktemp("stranger") / "pictures")


@pytest.fixture(scope="module")
def made(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The model of an uninterrupted run, and what was said on the way."""
    out, said = tmp_path_factory.mktemp("made") / "mine", io.StringIO()
    assert TrainOn(settings(folder), out, console=Console(file=said)).run() is not None
    return out, said.getvalue()


def test_a_strangers_pictures_become_a_model_that_draws(
    made: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, said = made
    for words in (
        "39 usable images", "zh", "up to 3 per image",
        "1 left out, not an image", "1 left out, truncated", "1 left out, unreadable record",
        "converted: alpha over white", "without a caption: named after", "the smallest is 9 px",
        "36 x 36 px, 6 x 6 = 36 codes", "tokens of", "[ROI1] caption [BASE] [BOI1] codes [EOI1]", "cost",
        *(f"[{n}/7]" for n in range(1, 8)),
    ):  # fmt: skip
        assert words in said.replace("not an image: the file is empty", "not an image"), (words, said)
    assert (
        main(["generate", "a square", "红色的猫", "--model", str(out), "-o", str(tmp_path), "-n", "2"]) == 0
    )
    assert len(list(tmp_path.glob("*.png"))) == 4
    with Image.open(out / "samples.png") as sheet:
        assert sheet.width == 4 * 36 and sheet.height % 36 == 0
    card = (out / "card.md").read_text()
    assert "39 images" in card and "nats a token" in card and "PSNR" in card
    capsys.readouterr()


@pytest.mark.parametrize("until", ["text", "image_tokenizer", "tokens"])
def test_stopped_after_any_stage_it_goes_on_to_the_same_model(
    until: Any, folder: Path, made: tuple[Path, str], tmp_path: Path
) -> None:
    """A new object each time, as in a new process; weights are the uninterrupted run's, bit by bit."""
    out = tmp_path / "mine"
    quiet = Console(file=io.StringIO())
    assert TrainOn(settings(folder), out, console=quiet).run(until) is None
    assert not out.exists()
    family = TrainOn(settings(folder), out, console=quiet).run()
    assert family is not None and family.hash == ModelBundle(made[0]).hash


class Interrupting(io.StringIO):
    """Sends this process SIGTERM as soon as ``words`` are printed: a signal at a known moment."""

    def __init__(self, words: str) -> None:
        super().__init__()
        self.words = words

    def write(self, text: str) -> int:
        if self.words and self.words in text:
            self.words = ""
            os.kill(os.getpid(), signal.SIGTERM)
        return super().write(text)


def test_a_signal_in_either_training_keeps_everything(
    folder: Path, made: tuple[Path, str], tmp_path: Path
) -> None:
    """Once in the tokenizer's, once in the transformer's, and the result is still the same."""
    out = tmp_path / "mine"
    for stage in ("image_tokenizer", "transformer"):
        with pytest.raises(Stopped, match="SIGTERM"):
            TrainOn(settings(folder), out, console=Console(file=Interrupting("step 2/6"))).run()
        assert (tmp_path / "mine.work" / stage / "checkpoints" / "step-00000002").is_dir()
    said = io.StringIO()
    family = TrainOn(settings(folder), out, console=Console(file=said)).run()
    assert "resuming at step 3" in said.getvalue() and "[4/7]" not in said.getvalue()
    assert family is not None and family.hash == ModelBundle(made[0]).hash


def test_finished_changed_and_restarted(
    folder: Path, made: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = made
    said = io.StringIO()
    again = TrainOn(settings(folder), out, console=Console(file=said)).run()
    assert again is not None and "already finished" in said.getvalue()
    with pytest.raises(CogViewError, match="seed was 0 and is now 1"):
        TrainOn(settings(folder, seed=1), out)
    other = stranger(tmp_path / "pictures", 6)
    TrainOn(settings(other), tmp_path / "b", console=Console(file=said)).run("pictures")
    (other / "new.png").write_bytes((other / "IMG_0000.png").read_bytes())
    with pytest.raises(CogViewError, match="changed since"):
        TrainOn(settings(other), tmp_path / "b")
    words = ["train-on", str(other), "--out", str(tmp_path / "b"), "--size", "tiny"]
    assert main([*words, "--device", "cpu", "--set", "transformer.steps=6"]) == 2
    assert (
        "--set was " in (told := capsys.readouterr().err) and "now transformer.steps=6; use the same" in told
    )
    assert main([*words, "--plan", "--restart", "--set", "transformer.steps=5"]) == 0
    assert "5 steps" in capsys.readouterr().err


def test_looking_binds_to_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """After --plan everything may change still: size, steps, the pictures; a mistake is told at once."""
    data = stranger(tmp_path / "pictures", 6)
    words = ["train-on", str(data), "--out", str(tmp_path / "m"), "--plan", "--size"]
    for size, steps in (("tiny", 5), ("small", 7)):
        assert main([*words, size, "--set", f"transformer.steps={steps}"]) == 0
        assert f"{steps} steps" in capsys.readouterr().err
        (data / f"{size}.png").write_bytes((data / "IMG_0000.png").read_bytes())
    assert main([*words, "tiny", "--set", "transformer.stebs=5"]) == 2
    assert "stebs" in capsys.readouterr().err


def test_from_a_model_by_lora(tmp_path: Path) -> None:
    """The base keeps its weights but for the adapter's, which is merged; tokenizers stay."""
    start = ModelBundle(tiny.write(tmp_path))
    few = ("transformer.steps=4", "transformer.batch_size=4")
    pictures = stranger(tmp_path / "pictures", 8)
    given = settings(pictures, start=str(start.directory), lora=2, overrides=few)
    said = io.StringIO()
    family = TrainOn(given, tmp_path / "out", console=Console(file=said)).run()
    assert family is not None and family.config.fingerprints == start.config.fingerprints
    assert family.config.styles == start.config.styles and family.config.defaults == start.config.defaults
    before, after = (dict(f.transformer("base").named_parameters()) for f in (start, family))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and all(
        name.endswith(("qkv.weight", "out.weight", "up.weight", "down.weight")) for name in moved
    )
    assert "LoRA of rank 2" in said.getvalue() and "taken from" in said.getvalue()


def test_what_cannot_work_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"no")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    good = stranger(tmp_path / "good", 3)
    for words, said in (
        ([tmp_path / "none", "--out", tmp_path / "o"], "cannot be read"),
        ([tmp_path / "bad", "--out", tmp_path / "o"], "no usable image"),
        ([good, "--out", tmp_path / "full"], "already exists"),
        ([good, "--out", tmp_path / "full", "--restart"], "does not seem to be written by train-on"),
        (
            [good, "--out", tmp_path / "o", "--size", "huge"],
            "--size: must be 'tiny', 'small', 'base' or",
        ),
        ([good, "--out", tmp_path / "o", "--lora", "4"], "--from"),
        ([good, "--out", tmp_path / "o", "--from", "pictogramm"], "did you mean"),
        ([good, "--out", tmp_path / "p", "--set", "steps=3"], "transformer.steps"),
        ([good, "--out", tmp_path / "q", "--set", "transformer.stebs=3"], "stebs"),
        ([good, "--out", tmp_path / "r", "--caption", "en="], "empty"),
    ):
        assert main(["train-on", *map(str, words)]) == 2, words
        error = capsys.readouterr().err.splitlines()
        assert said in error[-1] and error[-1].startswith("error: "), (words, error)


@pytest.mark.parametrize(
    ("key", "caption", "language"),
    [
        ("red_apple-01.png", "red apple", "en"),
        ("cats/IMG_0012.JPG", "cats", "en"),
        ("红色的 苹果2.png", "红色的 苹果", "zh"),
        ("BlueBird3.webp", "blue bird", "en"),
        ("flowers/3fa9c0de77aa.png", "flowers", "en"),
        ("DSC0001.jpg", "my holidays", "en"),
        ("download (3).png", "my holidays", "en"),
        ("猫.png", "猫", "zh"),
    ],
)
def test_names_that_tell_something_become_captions(key: str, caption: str, language: str) -> None:
    found = name_caption(key, "my holidays")
    assert (found.text, found.language) == (caption, language)
    assert name_caption("0001.png", "img").text == "a picture"


@pytest.mark.parametrize(
    "texts", [["a"], ["a red circle", "一个红色的圆"], ["猫"] * 3, ["".join(map(chr, range(0x4E00, 0x5200)))]]
)
def test_the_text_tokenizer_fits_what_there_is(texts: list[str]) -> None:
    tokenizer = fit_text_tokenizer(texts, 1000)
    assert [tokenizer.decode(tokenizer.encode(text)) for text in texts] == texts


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("pictures", [1, 40, 200, 10**6])
def test_every_size_has_valid_recipes(name: str, pictures: int) -> None:
    size = SIZES[name]
    first = tokenizer_recipe(size, pictures, "p", 0)
    second = transformer_recipe(size, pictures, "t", 0, None, None)
    tokenizer, transformer = finish_recipes(first, second, ["transformer.steps=7"])
    assert tokenizer is not None and tokenizer.warmup_steps < tokenizer.steps and transformer.steps == 7
    assert 16 <= codes_for(size, pictures) <= size.tokenizer.codes
    assert codes_for(size, 10**6) == size.tokenizer.codes


def test_an_estimate_adds_up_steps_and_evaluations() -> None:
    shape = SIZES["tiny"].tokenizer
    config = TransformerConfig(layers=2, hidden=32, heads=2, vocab_size=100, max_positions=50)
    second = Part(steps=100, rows=8, seconds=0.5, evaluated=24, evaluations=4)
    cost = estimate(shape, Part(steps=10, rows=4, seconds=3.0), config, second, 40)
    assert cost.tokenizer_parameters == sum(p.numel() for p in ImageTokenizer(shape).parameters())
    assert cost.transformer_parameters == sum(p.numel() for p in Transformer(config).parameters())
    assert cost.tokenizer_seconds == 30 and cost.transformer_seconds == pytest.approx(50 + 4 * 0.5)
    assert cost.seconds == pytest.approx(82)


def test_steps_are_timed_as_they_will_be_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step whose time is known: a constant, and some seconds a row."""

    def step(make: object, recipe: Recipe, rows: int, count: int) -> float:
        done.append(rows)
        return 2.0 + 0.5 * rows

    done: list[int] = []
    monkeypatch.setattr(measure, "_step", step)
    _, recipe = finish_recipes(None, transformer_recipe(SIZES["base"], 100, "data", 0, None, None), ())
    for rows, accumulation in ((2, 1), (32, 1), (32, 4), (256, 1)):
        changed = recipe.model_copy(update={"batch_size": rows, "accumulation": accumulation})
        assert measure._seconds(lambda given: given, changed) == pytest.approx(2 + 0.5 * rows * accumulation)
    assert max(done) <= 32
