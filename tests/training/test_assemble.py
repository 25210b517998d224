"""One's own runs become a family; parts that do not belong together are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from cogview.checkpoints.bundle import ModelBundle
from cogview.cli.app import main
from cogview.errors import CogViewError
from cogview.tokenizers.loading import read_image_tokenizer
from cogview.tokenizers.text import TextTokenizer
from cogview.tokenizers.vqvae import ImageTokenizer
from cogview.training.assembly import FamilySettings, assemble
from tests.generation import tiny


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer's run, a text tokenizer and a transformer's run, as `cogview train` leaves them."""
    folder = tmp_path_factory.mktemp("parts")
    family = ModelBundle(tiny.write(folder / "made"))
    shutil.copytree(family.directory / "image_tokenizer", folder / "tokenizer" / "model")
    shutil.copyfile(family.directory / "text.model", folder / "text.model")
    tiny.transformer(seed=5).save(folder / "run" / "model")
    facts = {
        "recipe": "tiny",
        "data": "0" * 64,
        "image_tokenizer": family.config.fingerprints.image_tokenizer,
        "text_tokenizer": family.config.fingerprints.text_tokenizer,
        "sequences": tiny.form().model_dump(mode="json"),
    }
    (folder / "run" / "model" / "training.json").write_text(json.dumps(facts))
    return folder


def command(parts: Path, out: Path, *more: str) -> int:
    words = ["--base", "run", "--image-tokenizer", "tokenizer", "--text-tokenizer", "text.model"]
    return main(["assemble", str(out), *(str(parts / w) if w[0] != "-" else w for w in words), *more])


def test_a_family_of_runs_draws(parts: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    assert command(parts, out, "--style", "flat.en=flat", "--style", "flat.zh=扁平", "--top-k", "5") == 0
    family = ModelBundle(out)
    assert family.config.name == "mine" and family.config.styles == {"flat": {"en": "flat", "zh": "扁平"}}
    assert family.config.defaults.top_k == 5 and family.config.templates["en"].startswith("{caption}")
    stored = tiny.transformer(seed=5).blocks[0].mlp.up.weight.half().float()
    assert torch.equal(family.transformer("base").blocks[0].mlp.up.weight, stored)
    assert (
        main(["generate", "a red circle", "--model", str(out), "-o", str(tmp_path / "o"), "--seed", "1"]) == 0
    )
    assert len(list((tmp_path / "o").glob("*.png"))) == 1


def test_from_a_family_only_what_is_given_changes(parts: Path, tmp_path: Path) -> None:
    before = ModelBundle(tiny.write(tmp_path))
    out = tmp_path / "styled"
    words = ["--from", str(before.directory), "--base", str(parts / "run"), "--style", "ink.en=ink"]
    assert main(["assemble", str(out), *words, "--template", "en={caption} of {style}"]) == 0
    config = ModelBundle(out).config
    assert set(config.styles) == {*before.config.styles, "ink"} and config.defaults == before.config.defaults
    assert config.templates == {**before.config.templates, "en": "{caption} of {style}"}
    assert config.fingerprints == before.config.fingerprints
    assert ModelBundle(out).hash != before.hash


def test_a_role_can_be_stored_small(parts: Path, tmp_path: Path) -> None:
    out = tmp_path / "small"
    assert command(parts, out, "--small", "base") == 0
    packed, whole = out / "base" / "model.safetensors", parts / "run" / "model" / "model.safetensors"
    assert packed.stat().st_size < 0.7 * whole.stat().st_size
    weight = ModelBundle(out).transformer("base").blocks[0].mlp.up.weight
    assert torch.allclose(weight, tiny.transformer(seed=5).blocks[0].mlp.up.weight, atol=0.01)
    with pytest.raises(CogViewError, match="no 'caption' that could be stored small"):
        assemble(out, {"base": parts / "run"}, parts / "tokenizer", parts / "text.model", small=["caption"])


def test_the_image_tokenizer_can_be_stored_small(parts: Path, tmp_path: Path) -> None:
    out, again = tmp_path / "small", tmp_path / "again"
    assert command(parts, out, "--small", "image_tokenizer") == 0
    packed, whole = out / "image_tokenizer", parts / "tokenizer" / "model"
    sizes = [(place / "model.safetensors").stat().st_size for place in (packed, whole)]
    assert sizes[0] < 0.7 * sizes[1]
    assert main(["assemble", str(again), "--from", str(out), "--base", str(parts / "run")]) == 0
    assert ModelBundle(again).image_tokenizer().fingerprint == read_image_tokenizer(whole).fingerprint
    with pytest.raises(CogViewError, match="no 'image_tokenizer' that could be stored small"):
        assemble(again, {"base": parts / "run"}, beside=ModelBundle(out), small=["image_tokenizer"])


def test_a_table_of_words_goes_along(parts: Path, tmp_path: Path) -> None:
    words = {"version": 1, "things": {"dog": ["dog", "狗"]}, "known": {"en": ["dog"], "zh": []}}
    (tmp_path / "words.json").write_text(
        json.dumps({**words, "near": {"en": {"poodle": ["dog"]}, "zh": {}}}), "utf-8"
    )
    (tmp_path / "settings.yaml").write_text("words: words.json\nediting: {top_k: 3}\n")
    out, again = tmp_path / "told", tmp_path / "again"
    assert command(parts, out, "--settings", str(tmp_path / "settings.yaml")) == 0
    assert main(["assemble", str(again), "--from", str(out), "--base", str(parts / "run")]) == 0
    for family in map(ModelBundle, (out, again)):
        assert family.prompt_help and family.config.editing.top_k == 3
        assert [word.near for word in family.prompt_help.unknown("a poodle")] == [("dog",)]
    (tmp_path / "words.json").write_text("{}", "utf-8")
    assert command(parts, tmp_path / "other", "--settings", str(tmp_path / "settings.yaml")) == 2


def test_the_card_stays_when_a_family_is_made_again(parts: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    assert command(parts, out) == 0
    (out / "card.md").write_text("# mine\n")
    assert command(parts, out) == 0
    assert (out / "card.md").read_text() == "# mine\n"


def test_parts_that_do_not_belong_are_refused(
    parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = ImageTokenizer(ImageTokenizer.from_directory(parts / "tokenizer" / "model").config)
    other.save(tmp_path / "other")
    TextTokenizer.train(["another text entirely"] * 9, pieces=270).save(tmp_path / "other.model")
    (tmp_path / "bare").mkdir()
    shutil.copytree(parts / "tokenizer" / "model", tmp_path / "nofacts")
    text, images = parts / "text.model", parts / "tokenizer"
    for words, said in (
        (
            ["--base", parts / "run", "--image-tokenizer", tmp_path / "other", "--text-tokenizer", text],
            "image",
        ),
        (
            [
                "--base",
                parts / "run",
                "--image-tokenizer",
                images,
                "--text-tokenizer",
                tmp_path / "other.model",
            ],
            "text",
        ),
        (["--base", tmp_path / "bare", "--image-tokenizer", images, "--text-tokenizer", text], "no trained"),
        (
            ["--base", tmp_path / "nofacts", "--image-tokenizer", images, "--text-tokenizer", text],
            "training.json",
        ),
        (["--base", parts / "run", "--image-tokenizer", images], "--text-tokenizer"),
        (["--image-tokenizer", images, "--text-tokenizer", text], "--base"),
        (["--role", "base", "--image-tokenizer", images, "--text-tokenizer", text], "NAME=VALUE"),
        (["--base", parts / "run", "--from", "pictogramm"], "did you mean"),
    ):
        assert main(["assemble", str(tmp_path / "x"), *map(str, words)]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
    assert not (tmp_path / "x").exists()


def test_roles_of_a_family_do_not_take_other_tokenizers(parts: Path, tmp_path: Path) -> None:
    start = ModelBundle(tiny.write(tmp_path))
    config = ImageTokenizer.from_directory(parts / "tokenizer" / "model").config
    torch.manual_seed(8)
    ImageTokenizer(config).save(tmp_path / "other")
    with pytest.raises(CogViewError, match="its own"):
        assemble(tmp_path / "x", {}, tmp_path / "other", start=start, settings=FamilySettings())
