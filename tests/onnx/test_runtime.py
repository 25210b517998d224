"""An exported family does what the family itself does with PyTorch, and imports no PyTorch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

import cogview
from cogview.checkpoints.bundle import ModelBundle
from cogview.checkpoints.provenance import read
from cogview.cli.app import main as cogview_command
from cogview.errors import CogViewError
from cogview.exporters.onnx_family import export_family
from cogview.onnx import OnnxModel, load
from cogview.onnx.__main__ import main
from cogview.onnx.hierarchy import direct_mask, iterative_mask
from cogview.onnx.manifest import FILE, Manifest, PromptLayout
from cogview.onnx.upscaler import bicubic, corrected
from cogview.pipelines.base import GeneratedImage
from cogview.pipelines.model import Pipeline
from cogview.sequences.protocols import ImageFormat
from cogview.transformer.lora import LoRAConfig, adapter_parameters, attach, save_adapter
from cogview.transformer.model import Transformer
from tests.generation import tiny, tiny2

ROOT = Path(__file__).parents[2]
PROMPTS = ["a red circle", "蓝色的方块"]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> tuple[Pipeline, Path]:
    """A family with all of CogView's roles, and its export."""
    place = tmp_path_factory.mktemp("one")
    family = tiny.write(place, upscaling=True, captioning=True)
    export_family(ModelBundle(family), place / "onnx")
    return cogview.from_pretrained(str(family)), place / "onnx"


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Pipeline, Path]:
    """A CogLM family with clusters, and its export."""
    place = tmp_path_factory.mktemp("two")
    family = tiny2.write(place, enlarging=True)
    export_family(ModelBundle(family), place / "onnx")
    return cogview.from_pretrained(str(family)), place / "onnx"


SETTINGS: list[dict[str, Any]] = [
    {},
    {"guidance_scale": 2.5, "negative_prompt": "a blue square"},
    {"text_attention_bias": 1.4, "top_p": 0.9, "top_k": 0},
    {"style": "pixel", "temperature": 0.7, "guidance_scale": 0.4},
]


@pytest.mark.parametrize("decoding", ["sequential", "jacobi"])
@pytest.mark.parametrize("settings", SETTINGS)
def test_images_are_the_same(one: tuple[Pipeline, Path], settings: dict[str, Any], decoding: Any) -> None:
    torches, model = one[0], OnnxModel(one[1], 1, decoding)
    expected = torches.generate(PROMPTS, n=3, seed=11, **settings)
    found = model.generate(PROMPTS, n=3, seed=11, batch_size=4, **settings)
    assert [x.codes.tolist() for x in found] == [x.codes.tolist() for x in expected]
    for image, other in zip(found, expected, strict=True):
        apart = np.asarray(image.image, dtype=int) - np.asarray(other.image, dtype=int)
        assert np.abs(apart).max() <= 1
        assert (image.prompt, image.caption, image.model_hash) == (
            other.prompt,
            other.caption,
            other.model_hash,
        )
    last = model.generate(PROMPTS[0], n=1, first=2, seed=11, **settings)
    assert last[0].codes.tolist() == expected[2].codes.tolist()


@pytest.mark.parametrize("settings", [{}, {"clusters": 3, "cluster_temperature": 0.8}, *SETTINGS[1:3]])
def test_a_coglm_family_too(two: tuple[Pipeline, Path], settings: dict[str, Any]) -> None:
    expected = two[0].generate(PROMPTS, n=2, seed=5, first_stage_only=True, **settings)
    found = load(two[1], 1).generate(PROMPTS, n=2, seed=5, first_stage_only=True, **settings)
    assert [x.codes.tolist() for x in found] == [x.codes.tolist() for x in expected]
    assert load(two[1], 1).tasks == ("generate", "caption", "score", "upscale", "edit")


@pytest.mark.parametrize("settings", [{"best_of": 2}, {"style": "pixel", "clusters": 3}])
def test_two_stages_are_the_same(two: tuple[Pipeline, Path], settings: dict[str, Any]) -> None:
    told = list[tuple[int, int]]()
    prompts = ["red", "圆"]
    expected = two[0].generate(prompts, seed=5, **settings)
    found = load(two[1], 1).generate(prompts, seed=5, progress=lambda *x: told.append(x), **settings)
    assert told == sorted(told) and told[-1][0] == told[-1][1]
    _same_images(found, expected)


def _same_images(found: list[GeneratedImage], expected: list[GeneratedImage]) -> None:
    """Codes and pixels are the same, and what provenance says but for the runtime."""
    own = {"precision", "decoding", "runtime", "deterministic"}
    for image, other in zip(found, expected, strict=True):
        assert image.codes.tolist() == other.codes.tolist()
        apart = np.asarray(image.image, dtype=int) - np.asarray(other.image, dtype=int)
        assert apart.shape == np.asarray(image.image).shape and np.abs(apart).max() <= 1
        settings, wanted = (
            {name: value for name, value in one.settings.items() if name not in own} for one in (image, other)
        )
        assert settings == wanted
        assert (image.prompt, image.caption, image.seed) == (other.prompt, other.caption, other.seed)


def test_two_stages_upscale_any_image(two: tuple[Pipeline, Path]) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (22, 18, 3), dtype=np.uint8))
    small = two[0].generate(PROMPTS[0], seed=1, first_stage_only=True)[0]
    for image, words in ((noise, "a red circle"), (small, None)):
        found = load(two[1], 1).upscale(image, words, seed=4)[0]
        expected = two[0].upscale(image, words, seed=4)[0]
        assert found.codes.tolist() == expected.codes.tolist()
        assert found.image.size == (48, 48)
    with pytest.raises(CogViewError, match="upscales 3 times"):
        load(two[1], 1).upscale(noise, times=2)


EDITS: list[dict[str, Any]] = [
    {"boxes": "25%,0,75%,60%"},
    {"boxes": [(0, 0, 5, 5), (20, 9, 30, 30)], "order": "one_by_one", "n": 2, "guidance_scale": 2.0},
    {"boxes": (9, 9, 14, 16), "crop": "tight", "negative_prompt": "blue", "guidance_scale": 2.0},
    {"boxes": "0,0,90%,90%", "first_stage_only": True, "crop": "whole"},
]


@pytest.mark.parametrize("options", EDITS)
def test_edits_are_the_same(two: tuple[Pipeline, Path], options: dict[str, Any]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    expected = two[0].edit(image, "a red circle", seed=4, **options)
    found = load(two[1], 1).edit(image, "a red circle", seed=4, **options)
    _same_images(found, expected)
    assert all((np.asarray(one.image)[:, -1] == noise[:, -1]).all() for one in found)  # not masked


@pytest.mark.parametrize("empty", [0, 3, 24])
def test_who_sees_whom_in_two_stages(empty: int) -> None:
    direct, iterative = tiny2.large_forms()
    for window in ((3, 3), (4, 5)):
        given = min(empty, iterative.text_slots)
        for form, sight, places in ((direct, direct_mask, empty), (iterative, iterative_mask, given)):
            own = form.model_copy(update={"window": window})
            seen = sight(own, places)  # type: ignore[operator]
            expected = own.visibility(places).dense_mask(len(seen), len(seen))[0, 0]
            assert (seen == expected.numpy()).all()


def test_an_adapter_is_merged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    family = tiny.write(tmp_path)
    model, lora = tiny.transformer(), LoRAConfig(rank=2)
    model.load_state_dict(Transformer.from_directory(family / "base").state_dict())
    attach(model, lora)
    torch.manual_seed(4)
    with torch.no_grad():
        for _, parameter in adapter_parameters(model):
            parameter.normal_(std=0.3)
    save_adapter(model, lora, tmp_path / "mine")
    words = ["export", "onnx", str(family), str(tmp_path / "out")]
    adapter = ["--lora", str(tmp_path / "mine"), "--lora-strength", "0.5"]
    assert cogview_command([*words, *adapter]) == 0
    torches = cogview.from_pretrained(str(family), lora=tmp_path / "mine", lora_strength=0.5)
    found = load(tmp_path / "out", 1).generate(PROMPTS, n=2, seed=3)
    expected = torches.generate(PROMPTS, n=2, seed=3)
    _same_images(found, expected)
    assert found[0].settings["lora"]["strength"] == 0.5
    plain = cogview.from_pretrained(str(family)).generate(PROMPTS, n=2, seed=3)
    assert [x.codes.tolist() for x in plain] != [x.codes.tolist() for x in found]
    capsys.readouterr()
    assert cogview_command([*words[:3], str(tmp_path / "no"), "--lora-strength", "0.5"]) == 2
    assert "name one with --lora" in capsys.readouterr().err
    assert cogview_command([*words[:3], str(tmp_path / "no"), "--lora", "nobody"]) == 2
    assert "no adapter 'nobody'" in capsys.readouterr().err


@pytest.mark.parametrize("weights", ["fp16", "int8"])
def test_smaller_weights_do_every_task(
    one: tuple[Pipeline, Path], two: tuple[Pipeline, Path], weights: Any, tmp_path: Path
) -> None:
    for torches, name in ((one[0], "one"), (two[0], "two")):
        export_family(torches.bundle, tmp_path / name, weights)
        model = load(tmp_path / name, 1)
        images = model.generate(PROMPTS[0], n=2, seed=3, top_k=1)
        expected = torches.generate(PROMPTS[0], n=2, seed=3, top_k=1)
        pairs = zip(images, expected, strict=True)
        agree = np.mean([(image.codes == other.codes).mean() for image, other in pairs])
        assert agree > (0.9 if weights == "fp16" else 0.2)
        assert images[0].settings["precision"] == weights
        apart = model.score(expected, PROMPTS) - torches.score(expected, PROMPTS)
        assert np.abs(apart).max() < (0.01 if weights == "fp16" else 0.3)
        assert model.caption(images[0])[0]
        small = Image.new("RGB", (16, 16), "red")
        assert model.upscale(small, "a red circle", seed=1)[0].image.width in (32, 48)
        if "edit" in model.tasks:
            assert model.edit(images[0], "a red circle", boxes="0,0,50%,50%", seed=1)


def test_captions_are_the_same(one: tuple[Pipeline, Path], two: tuple[Pipeline, Path]) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8))
    for torches, folder in (one, two):
        model = load(folder, 1)
        for options in ({"n": 2}, {"n": 2, "seed": 3}, {"language": "zh", "beams": 1, "max_length": 5}):
            expected, found = torches.caption([image], **options), model.caption([image], **options)  # type: ignore[arg-type]
            assert [x.pieces.tolist() for x in found[0]] == [x.pieces.tolist() for x in expected[0]]
            assert [x.text for x in found[0]] == [x.text for x in expected[0]]
            assert [x.score or 0 for x in found[0]] == pytest.approx(
                [x.score or 0 for x in expected[0]], rel=1e-4
            )


def test_scores_and_ranks_are_the_same(one: tuple[Pipeline, Path], two: tuple[Pipeline, Path]) -> None:
    for torches, folder in (one, two):
        model = load(folder, 1)
        options = {"first_stage_only": True} if torches.bundle.config.two_stage else {}
        images = torches.generate(PROMPTS[0], n=3, seed=2, **options)  # type: ignore[arg-type]
        texts = ["a", "a red circle", "蓝色的方块"]
        np.testing.assert_allclose(model.score(images, texts), torches.score(images, texts), rtol=1e-4)
        expected = [one.number for one in torches.rerank(PROMPTS[0], images)]
        assert [one.number for one in model.rerank(PROMPTS[0], images)] == expected
        best = torches.generate(PROMPTS[0], n=1, seed=2, best_of=3, **options)  # type: ignore[arg-type]
        found = model.generate(PROMPTS[0], n=1, seed=2, best_of=3, **options)  # type: ignore[arg-type]
        assert found[0].index == best[0].index


@pytest.mark.parametrize(
    "options", [{}, {"times": 4}, {"faithful": False}, {"detail": 1.0, "guidance_scale": 2.0}]
)
def test_upscaled_images_are_the_same(one: tuple[Pipeline, Path], options: dict[str, Any]) -> None:
    torches, model = one[0], load(one[1], 1)
    noise = np.random.default_rng(0).integers(0, 256, (22, 18, 3), dtype=np.uint8)
    for image in (Image.fromarray(noise), torches.generate(PROMPTS[0], seed=1)[0]):
        expected = torches.upscale(image, "a red circle", seed=4, **options)[0]
        found = model.upscale(image, "a red circle", seed=4, **options)[0]
        assert found.codes.tolist() == expected.codes.tolist()
        assert found.image.size == expected.image.size
        apart = np.asarray(found.image, dtype=int) - np.asarray(expected.image, dtype=int)
        assert np.abs(apart).max() <= 1


@pytest.mark.parametrize("times", [2, 4])
def test_bicubic_enlargement_is_pytorchs(times: int) -> None:
    pixels = np.random.default_rng(0).random((3, 5, 7), dtype=np.float32)
    expected = F.interpolate(torch.from_numpy(pixels)[None], scale_factor=times, mode="bicubic")[0]
    np.testing.assert_allclose(bicubic(pixels, times), expected, atol=1e-5)
    large = bicubic(pixels, times) + 0.2
    near = corrected(large, pixels, 1.0, 4).reshape(3, 5, times, 7, times).mean((2, 4))
    assert (
        np.abs(near - pixels).max()
        < 0.2 * np.abs(large.reshape(3, 5, times, 7, times).mean((2, 4)) - pixels).max()
    )


def test_progress_and_codes_so_far(one: tuple[Pipeline, Path]) -> None:
    told, seen = list[tuple[int, int]](), list[list[int]]()
    for decoding in ("sequential", "jacobi"):
        told.clear(), seen.clear()
        image = OnnxModel(one[1], 1, decoding).generate(  # type: ignore[arg-type]
            PROMPTS[0], seed=1, progress=lambda *x: told.append(x),
            step_callback=lambda numbers, codes: seen.append(codes[0].tolist()),
        )[0]  # fmt: skip
        assert told[-1] == (16, 16) and told == sorted(told)
        assert all(codes == image.codes[: len(codes)].tolist() for codes in seen)


def test_a_file_says_what_made_it(one: tuple[Pipeline, Path], tmp_path: Path) -> None:
    image = load(one[1], 1).generate(PROMPTS[0], seed=9)[0]
    image.save(tmp_path / "a.png")
    told = read(tmp_path / "a.png")
    assert told is not None
    assert (told.prompt, told.seed, told.model, told.model_hash) == (
        "a red circle",
        9,
        "tiny",
        one[0].model_hash,
    )
    assert told.settings["runtime"].startswith("onnxruntime ") and told.settings["precision"] == "fp32"  # type: ignore[union-attr]
    entries = Image.open(tmp_path / "a.png").info
    assert json.loads(entries["AIGC"])["Label"] == "1"
    assert "trainedAlgorithmicMedia" in entries["XML:com.adobe.xmp"]


@pytest.mark.parametrize("positions", ["fixed", "index"])
def test_the_layout_of_prompts_in_numbers(positions: str) -> None:
    formats: list[ImageFormat] = [tiny.form(positions), tiny2.form()]
    for format in formats:
        layout = PromptLayout.of(format)
        for count in (0, 1, 5):
            text = list(range(count))
            prompt, moved = format.image_prompt(text), layout.shift * count
            ids = [*layout.before, *(layout.text_first + piece for piece in text), *layout.after]
            places = [
                *layout.before_positions,
                *(layout.text_position + i for i in range(count)),
                *(place + moved for place in layout.after_positions),
            ]
            assert (ids, places) == (prompt.ids.tolist(), prompt.positions.tolist())
            codes = [place + moved for place in layout.code_positions]
            assert codes == prompt.decode_positions.tolist()
            assert prompt.prefix == (0 if layout.two_way is None else layout.two_way + count)
            assert prompt.text_length == layout.biased + count


# ------------------------------------------------------------------------------------------- without PyTorch

SCRIPT = """
import pathlib, sys
sys.modules["torch"] = None  # importing it is an error
from cogview.onnx.__main__ import main
from cogview.onnx.hierarchy import direct_mask, iterative_mask
folder, out, two = sys.argv[1:]
assert main(["generate", folder, "a red circle", "--seed", "3", "-n", "2", "--best-of", "2", "-o", out]) == 0
first = str(min(pathlib.Path(out).iterdir()))
assert main(["caption", folder, first]) == 0
assert main(["score", folder, first, "--text", "a red circle"]) == 0
assert main(["upscale", folder, first, "-o", out]) == 0
assert main(["generate", folder, "", "-o", out]) == 2
assert main(["generate", two, "a red circle", "--seed", "4", "-o", out]) == 0
assert main(["edit", two, first, "a red circle", "--box", "0,0,50%,50%", "-o", out]) == 0
assert not [name for name in sys.modules if name.startswith("torch.")]
"""


def test_without_pytorch_from_the_wheels_files_alone(
    one: tuple[Pipeline, Path], two: tuple[Pipeline, Path], tmp_path: Path
) -> None:
    project = ROOT / "packaging" / "onnx"
    listed = tomllib.loads((project / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    for source, target in listed["wheel"]["force-include"].items():
        place = tmp_path / "site" / target
        place.parent.mkdir(parents=True, exist_ok=True)
        path = (project / source).resolve()
        (shutil.copytree if path.is_dir() else shutil.copyfile)(path, place)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(one[1]), str(tmp_path / "out"), str(two[1])],
        env={"PYTHONPATH": str(tmp_path / "site"), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "error: the prompt is empty" in done.stderr
    expected = one[0].generate("a red circle", seed=3, n=2, best_of=2)
    found = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "out").glob("00-3-?.png"))]
    assert len(found) == len({image.index for image in expected}) == 2
    wanted = {image.index: np.asarray(image.image, dtype=int) for image in expected}
    assert max(np.abs(a - wanted[i]).max() for a, i in zip(found, sorted(wanted), strict=True)) <= 1


# ------------------------------------------------------------------------------------------------- bad input


def test_the_verb(two: tuple[Pipeline, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    family = str(two[0].bundle.directory)
    assert cogview_command(["export", "onnx", family, str(tmp_path / "out"), "--weights", "int8"]) == 0
    told = capsys.readouterr()
    assert "generate, caption, score, upscale, edit" in told.out and "left out" not in told.err
    assert Manifest.read(tmp_path / "out").weights == "int8"
    assert cogview_command(["export", "onnx", family, str(tmp_path / "out")]) == 2
    assert "exists already" in capsys.readouterr().err
    assert cogview_command(["export", "onnx", family, str(tmp_path / "no"), "--weights", "int4"]) == 2
    assert "int4" in capsys.readouterr().err and not (tmp_path / "no").exists()


def test_nothing_is_left_where_an_export_fails(tmp_path: Path) -> None:
    family = tiny.write(tmp_path)
    facts = json.loads((family / "family.json").read_text())
    facts["fingerprints"]["text_tokenizer"] = "0" * 64
    (family / "family.json").write_text(json.dumps(facts))
    (tmp_path / "place").mkdir()
    with pytest.raises(CogViewError, match="not the tokenizer this family was trained with"):
        export_family(ModelBundle(family), tmp_path / "place" / "out")
    assert list((tmp_path / "place").iterdir()) == []


def test_a_damaged_export_is_one_line(
    one: tuple[Pipeline, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(one[1], tmp_path / "copy")
    content = bytearray((folder / "base" / "weights.bin").read_bytes())
    content[100] ^= 1
    (folder / "base" / "weights.bin").write_bytes(content)
    assert main(["generate", str(folder), "a red circle"]) == 2
    assert "weights.bin: damaged" in capsys.readouterr().err
    (folder / "base" / "weights.bin").write_bytes(content[:-1])
    assert main(["generate", str(folder), "a red circle"]) == 2
    assert "weights.bin: missing or incomplete" in capsys.readouterr().err
    facts = json.loads((folder / FILE).read_text())
    facts["image"]["decoder"] = "../../secret.onnx"
    (folder / FILE).write_text(json.dumps(facts))
    assert main(["generate", str(folder), "a red circle"]) == 2
    assert "image.decoder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["generate", "FOLDER", "a", "--style", "pixels"], "did you mean 'pixel'"),
        (["generate", "FOLDER", "a", "--temperature", "0"], "temperature"),
        (["generate", "FOLDER", "a", "-n", "0"], "n is 0"),
        (["generate", "FOLDER", "a", "--threads", "0"], "threads is 0"),
        (["generate", "FOLDER", "a", "--clusters", "3"], "no clusters"),
        (["generate", "FOLDER", "a " * 99], "shorten it"),
        (["generate", "nowhere", "a"], "no manifest.json"),
        (["caption", "FOLDER", "nothing.png"], "nothing.png"),
        (["score", "FOLDER", "PICTURE", "--text", " "], "nothing to score"),
        (["upscale", "FOLDER", "PICTURE", "--times", "3"], "upscales 2 or 4 times"),
    ],
)
def test_bad_input_is_one_line(
    one: tuple[Pipeline, Path],
    words: list[str],
    told: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    places = {"FOLDER": str(one[1]), "PICTURE": str(tmp_path / "a.png")}
    assert main([places.get(word, word) for word in words]) == 2
    said = capsys.readouterr()
    assert said.out == "" and told in said.err
    assert said.err.startswith("error: ") and said.err.count("\n") == 1
