"""``cogview caption``, ``score``, ``rerank`` and ``generate --best-of``, as they are typed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pytest import CaptureFixture

from cogview import CogView
from cogview.checkpoints import provenance
from cogview.cli.app import main
from tests.generation import tiny


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write(tmp_path_factory.mktemp("family"), captioning=True)


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Pictures as users have them: grey, transparent, not square, a single pixel, black and white in CMYK."""
    made = []
    for name, mode, size in (
        ("grey.png", "L", (16, 16)),
        ("clear.png", "RGBA", (20, 31)),
        ("wide.jpg", "CMYK", (90, 12)),
        ("dot.gif", "P", (1, 1)),
    ):
        made.append(tmp_path / name)
        Image.new(mode, size).save(made[-1])
    return made


@pytest.fixture
def run(family: Path, capsys: CaptureFixture[str]) -> Callable[..., list[str]]:
    """The lines a command prints."""

    def command(verb: str, *more: Any) -> list[str]:
        assert main([verb, "--model", str(family), *map(str, more)]) == 0, capsys.readouterr().err
        return capsys.readouterr().out.splitlines()

    return command


def test_captions_with_their_pictures(run: Callable[..., list[str]], images: list[Path]) -> None:
    lines = run("caption", *images, "--lang", "en", "-n", 2, "--max-length", 5)
    assert [line.partition("\t")[0] for line in lines] == [str(path) for path in images for _ in range(2)]
    assert run("caption", images[0], "--lang", "en", "-n", 2, "--max-length", 5) == [
        line.partition("\t")[2] for line in lines[:2]
    ]


def test_captions_as_json(run: Callable[..., list[str]], images: list[Path], family: Path) -> None:
    options = ("--seed", 4, "--temperature", 0.5, "--max-length", 6, "--json")
    facts = json.loads("\n".join(run("caption", *images[:2], "-n", 2, *options)))
    assert facts["settings"] == {"seed": 4, "temperature": 0.5, "max_length": 6}
    expected = CogView.from_pretrained(family).caption(images[1], 2, seed=4, temperature=0.5, max_length=6)[0]
    assert [c["text"] for c in facts["pictures"][1]["captions"]] == [c.text for c in expected]
    assert facts["pictures"][1]["captions"][1]["pieces"] == expected[1].pieces.tolist()


def test_scores_of_all_pairs(
    run: Callable[..., list[str]], images: list[Path], tmp_path: Path, family: Path
) -> None:
    """Texts of unequal length, from options and from a file."""
    (tmp_path / "texts.txt").write_text("a blue square, pixel style\n\n红色的圆\n", encoding="utf-8")
    lines = run("score", *images, "--text", "a", "--texts", tmp_path / "texts.txt")
    words = ["a", "a blue square, pixel style", "红色的圆"]
    table = CogView.from_pretrained(family).score(list(images), words)
    rows = [line.split("\t") for line in lines]
    assert [(row[0], row[2]) for row in rows] == [(str(path), text) for path in images for text in words]
    assert [float(row[1]) for row in rows] == pytest.approx(table.ravel().tolist(), abs=1e-4)
    told = json.loads("\n".join(run("score", *images, "--text", "a", "--json", "--released")))
    assert told["measure"].startswith("sum of log p") and len(told["scores"]) == 4


def test_rerank_sorts_and_keeps(run: Callable[..., list[str]], tmp_path: Path) -> None:
    run("generate", "a red circle", "-n", 5, "--seed", 3, "-o", tmp_path / "drawn")
    drawn = sorted((tmp_path / "drawn").glob("*.png"))
    lines = run("rerank", "a red circle", *drawn, "--keep", 2, "-o", tmp_path / "best")
    losses = [float(line.split("\t")[1]) for line in lines[:5]]
    assert losses == sorted(losses) and {line.split("\t")[2] for line in lines[:5]} == set(map(str, drawn))
    kept = sorted((tmp_path / "best").iterdir())
    assert [f"kept\t{path}" for path in kept] == lines[5:]
    for rank, path in enumerate(kept, 1):
        original = Path(lines[rank - 1].split("\t")[2])
        assert path.name == f"{rank:02d}-{original.name}" and path.read_bytes() == original.read_bytes()


def test_rerank_of_many_prompts(run: Callable[..., list[str]], images: list[Path], tmp_path: Path) -> None:
    """The released input: a prompt and its pictures on a line, tabs between them."""
    first, second = "\t".join(map(str, images[:3])), "\t".join(map(str, images[2:]))
    (tmp_path / "lines.tsv").write_text(f"a red circle\t{first}\n红色的圆\t{second}\n", encoding="utf-8")
    options = ("--lines", tmp_path / "lines.tsv", "--json", "--keep", 1, "-o", tmp_path / "best")
    facts = json.loads("\n".join(run("rerank", *options)))
    assert [len(order["pictures"]) for order in facts["prompts"]] == [3, 2]
    assert [Path(order["kept"][0]).parent.name for order in facts["prompts"]] == ["001", "002"]


def test_best_of_is_told_in_the_file(run: Callable[..., list[str]], tmp_path: Path) -> None:
    options = ("--best-of", 3, "-n", 2, "--seed", 3, "-o", tmp_path / "out", "--json")
    facts = json.loads("\n".join(run("generate", "a red circle", *options)))
    assert "best_of" not in facts["settings"] and len(facts["pictures"]) == 2
    for rank, picture in enumerate(facts["pictures"]):
        told = provenance.read(picture["path"])
        assert told is not None and told.settings["best_of"] == picture["best_of"]
        assert picture["best_of"]["of"] == 6 and picture["best_of"]["rank"] == rank
        assert told.index == picture["index"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["caption"], "give the images"),
        (["caption", "none.png"], "none.png: "),
        (["caption", "IMAGE", "--beams", "2", "--seed", "1"], "cannot be combined"),
        (["caption", "IMAGE", "--max-length", "99"], "99 tokens; this model writes 1 to 30"),
        (["caption", "TEXT"], "text.txt: "),
        (["score", "IMAGE"], "give a text"),
        (["score", "--text", "a"], "give the images"),
        (["score", "IMAGE", "--text", " "], "the text ' ' is empty"),
        (["score", "IMAGE", "--texts", "none.txt"], "none.txt: cannot be read"),
        (["rerank", "a cat"], "give a prompt in quotes and its images"),
        (["rerank", "IMAGE", "IMAGE"], "the prompt comes first"),
        (["caption", "FOLDER"], "a folder; name the images in it"),
        (["rerank", "--lines", "TEXT"], "line 1: expected a prompt and its images"),
        (["rerank", "a cat", "IMAGE", "--lines", "TEXT"], "not both"),
        (["rerank", "a cat", "IMAGE", "none.png"], "none.png: "),
        (["rerank", "circle " * 40, "IMAGE"], "the model reads 30"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str],
    message: str,
    family: Path,
    images: list[Path],
    tmp_path: Path,
    capsys: CaptureFixture[str],
) -> None:
    (tmp_path / "text.txt").write_text("no tab here\n")
    places = {"IMAGE": str(images[0]), "TEXT": str(tmp_path / "text.txt"), "FOLDER": str(tmp_path)}
    words = [places.get(word, word) for word in arguments]
    assert main([words[0], "--model", str(family), *words[1:]]) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1


def test_a_model_that_cannot_says_so(images: list[Path], tmp_path: Path, capsys: CaptureFixture[str]) -> None:
    silent = str(tiny.write(tmp_path))
    for does, words in (
        ("caption", ["caption", str(images[0])]),
        ("score", ["score", str(images[0]), "--text", "a"]),
        ("score", ["rerank", "a", str(images[0])]),
        ("score", ["generate", "a", "--best-of", "2", "-o", str(tmp_path / "out")]),
    ):
        assert main([words[0], "--model", silent, *words[1:]]) == 2
        said = capsys.readouterr().err
        assert f"the model tiny cannot {does} images; take --model pictogram or pictogram-2" in said
