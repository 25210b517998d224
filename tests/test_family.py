"""ModelBundle directories: what is written is read back, and what does not belong is named."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from cogview.checkpoints.bundle import FamilyConfig, Fingerprints, ModelBundle, Role, find, installed
from cogview.checkpoints.family_writing import write_family
from cogview.cli.app import main
from cogview.errors import CogViewError
from cogview.files import replace_directory
from cogview.sequences import SequenceFormat
from cogview.tokenizers.text import TextTokenizer
from cogview.tokenizers.vqvae import ImageTokenizer, ImageTokenizerConfig
from cogview.transformer.config import TransformerConfig
from cogview.transformer.model import Transformer
from cogview.vocabulary import Vocabulary

TEXTS = ["a red circle", "a blue square", "红色的圆", "蓝色的方块"] * 20


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny real tokenizer of each kind and a transformer, saved."""
    root = tmp_path_factory.mktemp("parts")
    torch.manual_seed(0)
    small = ImageTokenizerConfig(
        image_size=12, channels=(8, 8), blocks=(0, 0), codes=16, code_dim=4, attention=False
    )
    ImageTokenizer(small).save(root / "image")
    text = TextTokenizer.train(TEXTS, pieces=279)
    text.save(root / "text.model")
    vocabulary = Vocabulary(image_codes=16, text_pieces=text.pieces)
    sequences = SequenceFormat(vocabulary=vocabulary, text_slots=8, grid=(2, 2))
    shape = TransformerConfig(
        layers=1,
        hidden=16,
        heads=2,
        vocab_size=vocabulary.padded_size,
        max_positions=sequences.max_positions,
    )
    Transformer(shape).save(root / "base")
    config = FamilyConfig(
        name="tiny",
        vocabulary=vocabulary,
        roles={"base": Role(directory="base", sequences=sequences)},
        fingerprints=Fingerprints(
            image_tokenizer=ImageTokenizer.from_directory(root / "image").fingerprint,
            text_tokenizer=text.fingerprint,
        ),
    )
    write_family(
        config,
        root / "tiny",
        {"image_tokenizer": root / "image", "text.model": root / "text.model", "base": root / "base"},
    )
    return root


@pytest.fixture
def tiny(parts: Path, tmp_path: Path) -> Path:
    """A copy of the family to damage."""
    return Path(shutil.copytree(parts / "tiny", tmp_path / "tiny"))


def test_everything_is_read_back(parts: Path) -> None:
    family = ModelBundle(parts / "tiny")
    assert family.text_tokenizer().encode("a red circle") == TextTokenizer.from_file(
        parts / "text.model"
    ).encode("a red circle")
    images = torch.rand(2, 3, 12, 12)
    before, after = ImageTokenizer.from_directory(parts / "image"), family.image_tokenizer()
    assert torch.equal(before.encode(images), after.encode(images))
    saved = Transformer.from_directory(parts / "base").state_dict()
    for name, value in family.transformer("base").state_dict().items():
        assert torch.equal(value, saved[name])


def test_the_hash_follows_the_weights_only(tiny: Path) -> None:
    before = ModelBundle(tiny).hash
    (tiny / "card.md").write_text("anything")
    assert ModelBundle(tiny).hash == before
    Transformer(ModelBundle(tiny).transformer("base").config).save(tiny / "base")
    assert ModelBundle(tiny).hash != before


def test_a_foreign_image_tokenizer_is_named(tiny: Path) -> None:
    torch.manual_seed(1)
    ImageTokenizer(ModelBundle(tiny).image_tokenizer().config).save(tiny / "image_tokenizer")
    with pytest.raises(CogViewError, match="image_tokenizer is not the tokenizer"):
        ModelBundle(tiny).image_tokenizer()


def test_a_foreign_text_tokenizer_is_named(tiny: Path) -> None:
    TextTokenizer.train(TEXTS, pieces=277).save(tiny / "text.model")
    with pytest.raises(CogViewError, match=r"text\.model is not the tokenizer"):
        ModelBundle(tiny).text_tokenizer()


def test_an_unknown_role_lists_the_known(tiny: Path) -> None:
    with pytest.raises(CogViewError, match="no 'caption' role; it has base"):
        ModelBundle(tiny).transformer("caption")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [("nmae", 1, "nmae: no such key"), ("format", 2, "format"), ("roles", {}, "roles")],
)
def test_a_wrong_configuration_names_the_field(tiny: Path, key: str, value: object, message: str) -> None:
    path = tiny / "family.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(CogViewError, match=message):
        ModelBundle(tiny)


def test_names_are_found_and_near_ones_offered(parts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cogview.checkpoints.bundle.places", lambda: [parts])
    assert installed() == {"tiny": parts / "tiny"}
    assert find("tiny") == parts / "tiny" == find(parts / "tiny")
    with pytest.raises(CogViewError, match="did you mean 'tiny'"):
        find("tinny")
    with pytest.raises(CogViewError, match=r"directory without family\.json"):
        find(parts)


def test_other_names_are_found_after_own_ones(
    tmp_path: Path, parts: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A family that has the name as its own comes first, wherever it is; a damaged one is passed over."""
    monkeypatch.setattr("cogview.checkpoints.bundle.places", lambda: [tmp_path])
    first = Path(shutil.copytree(parts / "tiny", tmp_path / "one"))
    told = json.loads((first / "family.json").read_text())
    (first / "family.json").write_text(json.dumps(told | {"name": "one", "also": ["two", "zero"]}))
    Path(shutil.copytree(parts / "tiny", tmp_path / "a-broken") / "family.json").write_text("{")
    assert find("two") == first == find("zero")
    assert main(["models"]) == 0 and "one, also two, also zero  " in capsys.readouterr().out
    second = Path(shutil.copytree(parts / "tiny", tmp_path / "two"))
    assert find("two") == second and find("zero") == first
    with pytest.raises(CogViewError, match="no model 'three'"):
        find("three")


def test_a_failed_write_leaves_the_old_family(tiny: Path, parts: Path) -> None:
    config, before = ModelBundle(tiny).config, ModelBundle(tiny).hash
    wrong = config.model_copy(update={"fingerprints": Fingerprints(image_tokenizer="0", text_tokenizer="0")})
    sources = {
        "image_tokenizer": parts / "image",
        "text.model": parts / "text.model",
        "base": parts / "base",
    }
    with pytest.raises(CogViewError, match="not the tokenizer"):
        write_family(wrong, tiny, sources)
    assert ModelBundle(tiny).hash == before


def sources(parts: Path) -> dict[str, Path]:
    return {"image_tokenizer": parts / "image", "text.model": parts / "text.model", "base": parts / "base"}


@pytest.mark.parametrize("what", ["folder", "file", "hidden"])
def test_what_is_no_family_is_never_replaced(what: str, tiny: Path, parts: Path, tmp_path: Path) -> None:
    place = tmp_path / "photos"
    if what == "file":
        place.write_text("x")
    else:
        place.mkdir()
        (place / (".thesis" if what == "hidden" else "thesis.txt")).write_text("x")
    with pytest.raises(CogViewError, match=r"photos (is|exists)"):
        write_family(ModelBundle(tiny).config, place, sources(parts))
    kept = place if what == "file" else next(place.iterdir())
    assert kept.read_text() == "x" and list(tmp_path.glob("*.old")) == list(tmp_path.glob(".*")) == []


def test_assemble_refuses_a_users_folder_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("photos", "photos.new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.txt").write_text("x")
    assert main(["assemble", "photos", "--from", "pictogram"]) == 2
    said = capsys.readouterr().err
    assert (
        "photos is not empty and not a model family (it holds thesis.txt)" in said and said.count("\n") == 1
    )
    assert {path.parent.name for path in tmp_path.rglob("thesis.txt")} == {"photos", "photos.new"}


def test_files_of_the_users_own_stay_beside_a_new_family(tiny: Path, parts: Path) -> None:
    """What the old family had and the new one has not goes; anything else stays."""
    (tiny / "notes.txt").write_text("mine")
    (tiny / "more").mkdir()
    (tiny / "more" / "a.png").write_text("mine")
    config = ModelBundle(tiny).config
    moved = {"base": Role(directory="first", sequences=config.roles["base"].sequences)}
    new = sources(parts) | {"first": parts / "base"}
    del new["base"]
    write_family(config.model_copy(update={"roles": moved}), tiny, new)
    assert (tiny / "notes.txt").read_text() == (tiny / "more" / "a.png").read_text() == "mine"
    assert not (tiny / "base").exists() and (tiny / "first").is_dir()
    assert [path.name for path in tiny.parent.iterdir() if path.suffix in (".old", ".part")] == []


def test_two_at_once_do_not_break_each_other(tiny: Path, parts: Path) -> None:
    config = ModelBundle(tiny).config
    (tiny / "notes.txt").write_text("mine")

    def write(number: int) -> None:
        write_family(config, tiny, sources(parts))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(16)))
    ModelBundle(tiny).transformer("base")
    assert (tiny / "notes.txt").read_text() == "mine"
    assert [path.name for path in tiny.parent.iterdir() if path.suffix in (".old", ".part")] == []


def test_a_rename_that_fails_leaves_the_old_family(tiny: Path, tmp_path: Path) -> None:
    before = ModelBundle(tiny).hash
    with pytest.raises(OSError):
        replace_directory(tiny.with_name("nothing"), tiny)
    assert ModelBundle(tiny).hash == before


def test_where_names_cannot_be_exchanged_the_old_one_goes_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cogview.files._exchange", lambda one, other: False)
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "what").write_text(name)
    [aside] = replace_directory(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old" / "what").read_text() == "new" and (aside / "what").read_text() == "old"
    with pytest.raises(OSError):
        replace_directory(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old" / "what").read_text() == "new"
