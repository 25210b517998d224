"""``cogview data`` as a user types it."""

import json
from pathlib import Path

import pytest

from cogview.cli.app import main
from cogview.data.image_cache import ImageCache
from cogview.data.shards import TokenShards
from cogview.tokenizers.text import TextTokenizer
from cogview.tokenizers.vqvae import ImageTokenizer, ImageTokenizerConfig

from .test_images import encoded, noise


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "pets"
    root.mkdir()
    for number in range(5):
        (root / f"{number}.png").write_bytes(encoded(noise(20, 24, number)))
        (root / f"{number}.txt").write_text(f"a pet with the number {number}\n宠物{number}号", "utf-8")
    return root


@pytest.fixture
def tokenizers(tmp_path: Path) -> list[str]:
    config = ImageTokenizerConfig(
        image_size=12, factors=(3, 2), channels=(8, 8), blocks=(0, 0), attention=False, codes=16, code_dim=4
    )
    ImageTokenizer(config).save(tmp_path / "image")
    TextTokenizer.train([f"a pet with the number {n} 宠物号" for n in range(99)], 290).save(
        tmp_path / "text.model"
    )
    return ["--image-tokenizer", str(tmp_path / "image"), "--text-tokenizer", str(tmp_path / "text.model")]


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


def test_check_passes_a_good_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(folder)]) == 0
    assert "5 records: 5 good, 0 rejected" in capsys.readouterr().out


def test_check_reports_everything_and_ends_with_2(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "0.png").write_bytes(b"nothing")
    (folder / "1.txt").unlink()
    report = tmp_path / "report.json"
    assert main(["data", "check", str(folder), "--json", "--report", str(report)]) == 2
    captured = capsys.readouterr()
    assert json.loads(captured.out) == json.loads(report.read_text())
    assert json.loads(captured.out)["rejected"] == {"not an image": 1, "missing caption": 1}
    assert captured.err.strip().endswith("2 of 5 records cannot be used: 1 not an image, 1 missing caption")


def test_pictures_without_a_caption_are_no_fault(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`train-on` takes them."""
    (folder / "1.txt").unlink()
    assert main(["data", "check", str(folder)]) == 0
    printed = capsys.readouterr()
    assert "5 records: 4 good, 1 rejected" in printed.out
    assert "1 images have no caption: build leaves them out, train-on captions them by" in printed.err


def test_build_makes_shards_and_counts_what_is_broken(
    folder: Path, tmp_path: Path, tokenizers: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "3.png").write_bytes(encoded(noise(20, 20))[:100])
    assert main(["data", "build", str(folder), str(tmp_path / "out"), *tokenizers]) == 0
    assert "4 good, 1 rejected" in capsys.readouterr().out
    assert len(TokenShards(tmp_path / "out")) == 4
    assert main(["data", "build", str(folder), str(tmp_path / "out"), *tokenizers, "--size", "18"]) == 2
    assert "--restart" in one_line(capsys)


def test_cache_and_text_tokenizer(folder: Path, tmp_path: Path) -> None:
    assert (
        main(["data", "cache", str(folder), str(tmp_path / "cache"), "--size", "12", "--resample", "box"])
        == 0
    )
    assert ImageCache(tmp_path / "cache").pixels.shape == (5, 12, 12, 3)
    model = tmp_path / "made" / "text.model"
    assert main(["data", "text-tokenizer", str(folder), str(model), "--pieces", "280"]) == 0
    tokenizer = TextTokenizer.from_file(model)
    assert tokenizer.decode(tokenizer.encode("宠物3号")) == "宠物3号"


def test_columns_are_named_by_role(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "t.tsv"
    table.write_text("photo\twords\n" + "".join(f"{n}.png\tpet {n}\n" for n in range(5)))
    assert main(["data", "check", str(table)]) == 2
    assert "name it with --column image=NAME" in one_line(capsys)
    columns = ["--column", "image=photo", "--column", "caption.en=words"]
    assert main(["data", "check", str(table), "--images", str(folder), "--json", *columns]) == 0
    assert json.loads(capsys.readouterr().out)["captions"] == {"en": 5}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "nowhere"], "does not exist"),
        (["check", ".", "--column", "picture=x"], "roles: image"),
        (["check", ".", "--column", "image.en=x"], "roles: image"),
        (["check", ".", "--max-pixels", "0"], "--max-pixels"),
        (["cache", ".", "out", "--size", "8", "--resample", "cubic"], "resample"),
        (["cache", ".", "out", "--size", "20000"], "size: must be at most 16384 (got 20000)"),
        (["text-tokenizer", ".", "out", "--pieces", "0"], "--pieces"),
        (["text-tokenizer", ".", "out", "--pieces", "1000000000000"], "give 1 to 16,777,216"),
        (["build", ".", "out", "--image-tokenizer", "nowhere", "--text-tokenizer", "t"], "nowhere"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str],
    message: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    assert main(["data", *arguments]) == 2
    assert message in one_line(capsys)


def test_build_for_super_resolution(
    folder: Path, tokenizers: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pictures of twice the tokenizer's size unless told otherwise; smaller ones are none."""
    out = str(tmp_path / "sr")
    assert main(["data", "build", str(folder), out, *tokenizers, "--super-resolution"]) == 2
    assert "too small" in one_line(capsys)
    for number in range(5):
        (folder / f"{number}.png").write_bytes(encoded(noise(24, 30, number)))
    out = str(tmp_path / "larger")
    assert main(["data", "build", str(folder), out, *tokenizers, "--super-resolution"]) == 0
    index = TokenShards(out, hashes=True).index
    assert (index.preprocessing.size, index.grid, index.context_grid) == (24, (4, 4), (2, 2))
    out = str(tmp_path / "paper")
    assert main(["data", "build", str(folder), out, *tokenizers, "--super-resolution", "--size", "12"]) == 0
    assert TokenShards(out).index.context_grid == (1, 1)


def test_one_caption_for_all_and_a_familys_tokenizers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As style learning builds its data: pictures without captions of their own."""
    from cogview.checkpoints.bundle import ModelBundle
    from cogview.data.shards import TokenShards
    from tests.generation import tiny

    family = ModelBundle(tiny.write(tmp_path))
    (tmp_path / "ink").mkdir()
    for number in range(4):
        noise(16, 16, number).save(tmp_path / "ink" / f"{number}.png")
    words = ["--caption", "en=An image of ink style", "--caption", "zh=水墨风格"]
    words += ["--tokenizers", str(family.directory)]
    assert main(["data", "build", str(tmp_path / "ink"), str(tmp_path / "out"), *words]) == 0
    shards, text = TokenShards(tmp_path / "out"), family.text_tokenizer()
    shards.require(family.config.fingerprints.image_tokenizer, text.fingerprint)
    said = {(caption.language, text.decode(caption.pieces)) for item in shards for caption in item.captions}
    assert len(shards) == 4 and said == {("en", "An image of ink style"), ("zh", "水墨风格")}
    capsys.readouterr()
    assert main(["data", "build", str(tmp_path / "ink"), str(tmp_path / "x")]) == 2
    assert "--tokenizers FAMILY" in capsys.readouterr().err
    assert main(["data", "check", str(tmp_path / "ink"), "--caption", "en="]) == 2
    assert "the text is empty" in capsys.readouterr().err


def test_translation_is_a_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pets").mkdir()
    noise(4, 4).save(tmp_path / "pets" / "a.png")
    (tmp_path / "pets" / "a.txt").write_text("a cat")
    assert main(["data", "check", str(tmp_path / "pets"), "--translate", "sed s/.*/猫/"]) == 0
    assert "untagged 1, zh 1" in capsys.readouterr().out
