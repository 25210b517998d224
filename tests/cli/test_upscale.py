"""``cogview upscale`` and ``generate --upscale``: any picture file, one line for every mistake."""

from __future__ import annotations

import io
import json
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from pytest import CaptureFixture

from cogview import CogView
from cogview.checkpoints import provenance
from cogview.cli.app import main
from tests.generation import tiny


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write(tmp_path_factory.mktemp("family"), upscaling=True)


@pytest.fixture
def run(family: Path, tmp_path: Path) -> Callable[..., int]:
    def call(verb: str, *more: object) -> int:
        return main([verb, "--model", str(family), "-o", str(tmp_path / "out"), *map(str, more)])

    return call


def bomb(path: Path) -> None:
    """A PNG of 20,000 x 5,000 pixels (100 megapixels) in a few bytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 20_000, 5_000, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    )


def test_every_kind_of_picture(run: Callable[..., int], tmp_path: Path, capsys: CaptureFixture[str]) -> None:
    """Palette, alpha, grey, grey with alpha, CMYK, animation, 16 bits, one pixel, odd shapes."""
    base = Image.radial_gradient("L").resize((18, 16))
    files = {
        "palette.gif": base.convert("P"),
        "alpha.png": base.convert("RGBA"),
        "grey.png": base,
        "la.png": base.convert("LA"),
        "cmyk.jpg": base.convert("CMYK"),
        "deep.png": base.convert("I;16"),
        "bit.png": base.convert("1"),
        "pixel.png": base.crop((0, 0, 1, 1)),
    }
    for name, image in files.items():
        image.save(tmp_path / name)
    base.save(tmp_path / "moving.gif", save_all=True, append_images=[base.rotate(90)])
    names = [*files, "moving.gif"]
    assert run("upscale", *(tmp_path / name for name in names), "--seed", 3, "--batch-size", 64) == 0
    printed = capsys.readouterr()
    paths = [Path(line) for line in printed.out.splitlines()]
    assert [path.name for path in paths] == [f"{Path(name).stem}-x2.png" for name in names]
    for path, name in zip(paths, names, strict=True):
        with Image.open(path) as made:
            assert made.size == ((2, 2) if name == "pixel.png" else (36, 32))
    assert "9 images" in printed.err and "seed 3" in printed.err
    told = provenance.read(paths[0])
    assert told is not None and told.settings["times"] == 2


def test_json_and_the_same_file_again(
    run: Callable[..., int], tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    Image.new("RGB", (16, 16), "teal").save(tmp_path / "x.png")
    for _ in range(2):
        code = run(
            "upscale", tmp_path / "x.png", "--prompt", "蓝色", "--times", 4, "--seed", 1, "--free", "--json"
        )
        assert code == 0
    facts = json.loads(capsys.readouterr().out.split("\n}\n")[0] + "\n}")["pictures"][0]
    assert (facts["prompt"], facts["seed"], facts["width"]) == ("蓝色", 1, 64)
    assert facts["settings"]["faithful"] is False and facts["original"].endswith("x.png")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["x-x4.png"]


def test_generated_pictures_are_enlarged(
    run: Callable[..., int], tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    assert run("generate", "a red circle", "-n", 2, "--seed", 7, "--upscale", 2) == 0
    for line in capsys.readouterr().out.splitlines():
        told = provenance.read(line)
        assert told is not None and told.settings["task"] == "upscale" and told.prompt == "a red circle"
        assert Image.open(io.BytesIO(Path(line).read_bytes())).size == (32, 32)


def test_a_prompt_too_long_to_enlarge_is_refused_before_drawing(
    family: Path, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    """The model that enlarges may read fewer pieces than the one that draws."""
    shutil.copytree(family, tmp_path / "family")
    config = json.loads((tmp_path / "family" / "family.json").read_text())
    config["roles"]["super_resolution"]["sequences"]["text_slots"] -= 8
    (tmp_path / "family" / "family.json").write_text(json.dumps(config))
    cogview = CogView.from_pretrained(tmp_path / "family")
    less, more = cogview.super_resolution.upscaler.format.text_limit, cogview.text_to_image.format.text_limit
    prompt = next(p for p in ("a" * k for k in range(1, 99)) if len(cogview.text_tokenizer.encode(p)) > less)
    assert less < len(cogview.text_tokenizer.encode(prompt)) <= more
    words = ["generate", prompt, "--model", str(tmp_path / "family"), "-o", str(tmp_path / "out")]
    assert main([*words, "--upscale", "2"]) == 2
    assert f"the model reads {less}" in capsys.readouterr().err
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (None, (), "missing file"),
        (b"", (), "the file is empty"),
        (b"not a picture at all", (), "no known image format"),
        ("bomb", (), "too many pixels"),
        ((16, 16), ("--times", 3), "times is 3"),
        ((16, 16), ("--times", "two"), "--times"),
        ((16, 16), ("--size", 2), "size is 2; this model reads images of"),
        ((16, 16), ("--size", 0), "--size"),
        ((16, 16), ("--size", 10**12), "px"),
        ((16, 16), ("--size", 10**400), "px"),
        ((16, 16), ("--size", 65_536), "use size "),
        ((900, 700), (), "use size "),
        ((16, 16), ("--model", "nothing-like-it"), "no model"),
    ],
)
def test_one_line_for_what_is_refused(
    run: Callable[..., int],
    tmp_path: Path,
    capsys: CaptureFixture[str],
    content: object,
    options: tuple[object, ...],
    message: str,
) -> None:
    path = tmp_path / "x.png"
    if content == "bomb":
        bomb(path)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, tuple):
        Image.new("RGB", content).save(path)
    assert run("upscale", path, *options) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and message in said


def test_no_picture_and_no_role(run: Callable[..., int], tmp_path: Path, capsys: CaptureFixture[str]) -> None:
    assert run("upscale") == 2
    assert "give the images" in capsys.readouterr().err
    Image.new("RGB", (16, 16)).save(tmp_path / "x.png")
    plain = tiny.write(tmp_path)
    assert main(["upscale", str(tmp_path / "x.png"), "--model", str(plain), "-o", str(tmp_path / "out")]) == 2
    assert (
        main(["generate", "red", "--model", str(plain), "-o", str(tmp_path / "out"), "--upscale", "2"]) == 2
    )
    assert capsys.readouterr().err.count("the model tiny cannot upscale images; take --model pictogram") == 2
