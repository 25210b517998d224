"""Models of other shapes without PyTorch: one's own from `train-on`, and the next default model's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import cogview
from cogview.checkpoints.bundle import FamilyConfig, Fingerprints, ModelBundle, Role
from cogview.checkpoints.family_writing import write_family
from cogview.cli.app import main as cogview_command
from cogview.config import load_yaml
from cogview.exporters.onnx_family import export_family
from cogview.onnx import load
from cogview.onnx.__main__ import main
from cogview.sequences import SequenceFormat
from cogview.tokenizers.vqvae import ImageTokenizer, ImageTokenizerConfig
from cogview.transformer.model import Transformer
from cogview.types import SamplingParams
from cogview.vocabulary import Vocabulary
from tests.generation import tiny
from tests.training.test_train_on import FEW, stranger

SLIM = Path(__file__).parents[2] / "packaging" / "onnx" / "slim.py"
RECIPES = Path(__file__).parents[2] / "recipes" / "pictogram"


def test_a_model_of_ones_own_in_two_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures, mine = stranger(tmp_path / "pictures", 20), str(tmp_path / "mine")
    few = [word for setting in FEW for word in ("--set", setting)]
    train = ["train-on", str(pictures), "--out", mine, "--size", "tiny", "--device", "cpu", *few]
    assert cogview_command(train) == 0
    assert cogview_command(["export", "onnx", mine, str(tmp_path / "onnx")]) == 0
    capsys.readouterr()
    words = ["generate", str(tmp_path / "onnx"), "a square", "红色的猫", "--seed", "3", "--threads", "1"]
    assert main([*words, "-o", str(tmp_path / "out")]) == 0
    expected = cogview.from_pretrained(mine).generate(["a square", "红色的猫"], seed=3)
    for path, image in zip(capsys.readouterr().out.split("\n"), expected, strict=False):
        apart = np.asarray(Image.open(path), dtype=int) - np.asarray(image.image, dtype=int)
        assert np.abs(apart).max() <= 1


def test_slim_deletes_what_is_never_loaded(tmp_path: Path) -> None:
    used = ["onnxruntime/capi/onnxruntime_pybind11_state.so", "numpy/_core/a.so", "numpy/random/_pcg64.so"]
    spare = ["onnxruntime/capi/libonnxruntime.so.1.2", "numpy/linalg/tests/test_a.py", "numpy/f2py/a.py"]
    for name in used + spare:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * 1000)
    command = [sys.executable, str(SLIM), "--target", str(tmp_path)]
    assert subprocess.run(command, check=True, capture_output=True, text=True).returncode == 0
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == set(used)
    (tmp_path / used[0]).unlink()
    assert subprocess.run(command, check=False, capture_output=True).returncode == 1


def default_shape(directory: Path) -> Path:
    """A family of the next default model's shape: 12 x 12 codes of 4,096, which a decoder of its own shows at
    256 px; the layers of its recipes, narrower."""
    torch.manual_seed(1)
    recipe: dict[str, Any] = load_yaml(RECIPES / "decoder.yaml")["model"]
    narrow = {"channels": [8, 16], "blocks": [1, 1], "decoder_channels": [8, 16, 24], "code_dim": 8}
    images = ImageTokenizer(ImageTokenizerConfig.model_validate({**recipe, **narrow}))
    text, shape = tiny.text_tokenizer(), load_yaml(RECIPES / "text_to_image.yaml")
    vocabulary = Vocabulary(image_codes=images.codes, text_pieces=text.pieces)
    form = SequenceFormat.model_validate({**shape["format"], "vocabulary": vocabulary, "grid": images.grid()})
    sizes = {"vocab_size": vocabulary.padded_size, "max_positions": form.max_positions}
    model = tiny.transformer(**sizes, **{**shape["model"], "layers": 1, "hidden": 56})
    assert isinstance(model, Transformer)
    parts = {name: directory / "parts" / name for name in ("image_tokenizer", "text.model", "base")}
    images.save(parts["image_tokenizer"])
    text.save(parts["text.model"])
    model.save(parts["base"])
    family = FamilyConfig(
        name="shape",
        vocabulary=vocabulary,
        roles={"base": Role(directory="base", sequences=form)},
        defaults=SamplingParams(top_k=50, guidance_scale=2.0),
        fingerprints=Fingerprints(
            image_tokenizer=ImageTokenizer.from_directory(parts["image_tokenizer"]).fingerprint,
            text_tokenizer=text.fingerprint,
        ),
    )
    return write_family(family, directory / "shape", parts).directory


def test_the_next_default_models_shape(tmp_path: Path) -> None:
    family = ModelBundle(default_shape(tmp_path))
    expected = cogview.from_pretrained(str(family.directory)).generate("a red circle", n=2, seed=5)
    for weights in ("fp32", "fp16", "int8"):
        manifest = export_family(family, tmp_path / weights, weights)  # type: ignore[arg-type]
        assert (manifest.image.grid, manifest.image.codes, manifest.image.image_size) == ((12, 12), 4096, 256)
        found = load(tmp_path / weights, 1).generate("a red circle", n=2, seed=5)
        assert [image.image.size for image in found] == [(256, 256)] * 2
        assert all(0 <= image.codes.min() <= image.codes.max() < 4096 for image in found)
        if weights == "fp32":
            assert [x.codes.tolist() for x in found] == [x.codes.tolist() for x in expected]
            apart = np.asarray(found[0].image, dtype=int) - np.asarray(expected[0].image, dtype=int)
            assert np.abs(apart).max() <= 1


def test_a_family_of_every_role(tmp_path: Path) -> None:
    """Each task by the role that does it in PyTorch: the same codes, losses and captions."""
    whole = {"upscaling": True, "editing": True, "enlarging": True}
    model = cogview.from_pretrained(tiny.write(tmp_path / "model", **whole))
    export_family(model.bundle, tmp_path / "onnx")
    other = load(tmp_path / "onnx", threads=1)
    assert set(other.tasks) == {"generate", "caption", "score", "upscale", "edit"}
    image = Image.fromarray(np.random.default_rng(3).integers(0, 256, (16, 16, 3), dtype=np.uint8))
    changes: dict[str, Any] = {"boxes": "25%,25%,75%,75%", "seed": 5}
    made = [
        [
            *one.generate("a red circle", seed=3),
            *one.edit(image, "blue", **changes),
            *one.upscale(image, "red", 3),
        ]
        for one in (model, other)
    ]
    for expected, found in zip(*made, strict=True):
        assert found.image.size == expected.image.size and (found.codes == expected.codes).all()
    [told] = model.generate("a doctor", seed=1, fairness="world")
    told.save(tmp_path / "told.png")
    captions = [one.upscale(tmp_path / "told.png", seed=3)[0].caption for one in (model, other)]
    assert captions == [told.caption, told.caption] and told.caption != "a doctor"
    texts = ["a red circle", "蓝色的方块"]
    assert np.allclose(other.score(image, texts), model.score(image, texts), atol=1e-4)
