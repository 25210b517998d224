"""Models on disk: what is written is read back, and what is wrong is said in one line."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cogview.errors import CogViewError
from cogview.transformer import storage
from cogview.transformer.model import Transformer
from tests.transformer.tiny import tiny_model, tokens


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    tiny_model().save(tmp_path / "base")
    return tmp_path / "base"


def test_float32_comes_back_bit_for_bit(tmp_path: Path) -> None:
    model = tiny_model(norm="post", embedding_gradient=0.1, attention_relax=32.0, numerics="written")
    model.save(tmp_path, torch.float32)
    again = Transformer.from_directory(tmp_path)
    assert again.config == model.config
    assert not again.training
    ids, positions = tokens()
    assert torch.equal(again(ids, positions), model(ids, positions))
    assert all(parameter.requires_grad for parameter in again.parameters())


def test_what_did_nothing_in_an_earlier_config_is_dropped(saved: Path) -> None:
    path = saved / "config.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps({**told, "attention_relax": 32.0, "norm": "pre", "branch_gain": 0.5}))
    config = storage.read_config(saved)
    assert (config.attention_relax, config.branch_gain, config.norm) == (None, 1.0, "pre")
    path.write_text(json.dumps({**told, "attention_relax": 32.0, "numerics": "written"}))
    assert storage.read_config(saved).attention_relax == 32.0


def test_half_on_disk_is_float32_in_memory(saved: Path) -> None:
    stored = load_file(saved / "model.safetensors")
    model, again = tiny_model(), Transformer.from_directory(saved)
    for name, parameter in model.state_dict().items():
        assert stored[name].dtype == torch.float16
        assert torch.equal(again.state_dict()[name], parameter.half().float())
    assert Transformer.from_directory(saved, torch.bfloat16).tokens.weight.dtype == torch.bfloat16


def test_the_output_matrix_is_stored_once(saved: Path) -> None:
    names = set(load_file(saved / "model.safetensors"))
    assert names == {name for name, _ in tiny_model().named_parameters()}


def test_saving_over_a_model_replaces_it(saved: Path) -> None:
    tiny_model(seed=1, layers=1).save(saved)
    assert Transformer.from_directory(saved).config.layers == 1
    assert sorted(path.name for path in saved.iterdir()) == ["config.json", "model.safetensors"]


def test_a_save_that_stops_half_way_leaves_the_old_model(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Transformer.from_directory(saved).state_dict()

    def stopped(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage, "_flush", stopped)
    with pytest.raises(CogViewError, match=r"cannot be written \(No space left"):
        tiny_model(seed=1).save(saved)
    after = Transformer.from_directory(saved).state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)


def change(**tensors: torch.Tensor | None) -> Callable[[Path], None]:
    """Rewrite some tensors of the file; None takes one out."""

    def apply(directory: Path) -> None:
        path = directory / "model.safetensors"
        new = load_file(path) | {name.replace("__", "."): x for name, x in tensors.items()}
        save_file({name: x for name, x in new.items() if x is not None}, path)

    return apply


def rewrite(name: str, content: bytes) -> Callable[[Path], None]:
    def apply(directory: Path) -> None:
        (directory / name).write_bytes(content)

    return apply


def truncate(directory: Path) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def damage_config(**changes: object) -> Callable[[Path], None]:
    def apply(directory: Path) -> None:
        path = directory / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return apply


WRONG: dict[str, tuple[Callable[[Path], None], str]] = {
    "no directory": (shutil.rmtree, "no config.json"),
    "no weights": (lambda d: (d / "model.safetensors").unlink(), "no model.safetensors"),
    "truncated": (truncate, "damaged, or not a safetensors file"),
    "empty": (rewrite("model.safetensors", b""), "damaged, or not a safetensors file"),
    "a pickle": (rewrite("model.safetensors", pickle.dumps({"a": 1})), "damaged, or not a safetensors file"),
    "a header of 8 EiB": (rewrite("model.safetensors", b"\xff" * 8 + b"{}"), "damaged, or not"),
    "missing tensor": (change(norm__bias=None), "the tensor norm.bias is missing"),
    "extra tensor": (change(extra=torch.zeros(2)), "the tensor extra does not belong there"),
    "wrong shape": (change(norm__bias=torch.zeros(25)), r"norm.bias is \(25,\), config.json says \(24,\)"),
    "integers": (change(norm__bias=torch.zeros(24, dtype=torch.int64)), "norm.bias has the type I64"),
    "not JSON": (rewrite("config.json", b"{"), "config.json: not valid JSON"),
    "another model": (rewrite("config.json", b'{"kind": "image_tokenizer"}'), "config.json: kind"),
    "unknown key": (damage_config(width=3), "width: no such key"),
    "other sizes": (damage_config(hidden=48), "config.json says"),
    "other depth": (damage_config(layers=3), "the tensor blocks.2.* is missing"),
    "beyond memory": (damage_config(hidden=49152), "config.json says"),
    "beyond reason": (damage_config(hidden=3 * 2**30), "hidden: must be at most"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_in_one_line(name: str, saved: Path) -> None:
    spoil, message = WRONG[name]
    spoil(saved)
    with pytest.raises(CogViewError, match=message) as caught:
        Transformer.from_directory(saved)
    assert str(saved) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_int8_rows_are_within_half_a_step_and_half_the_size(tmp_path: Path) -> None:
    model = tiny_model()
    model.save(tmp_path / "half")
    model.save(tmp_path / "small", torch.int8)
    again = Transformer.from_directory(tmp_path / "small").state_dict()
    for name, weight in model.state_dict().items():
        if weight.ndim == 2:
            step = weight.abs().amax(1, keepdim=True) / 127
            assert bool(((again[name] - weight).abs() <= 0.5001 * step).all())
        else:
            assert torch.equal(again[name], weight.half().float())
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("small", "half")]
    assert sizes[0] < 0.7 * sizes[1]  # names and scales count here; half of it at 256 columns
    assert Transformer.inspect(tmp_path / "small") == model.config


def test_int8_rows_need_their_scales_and_readers_that_know_them(tmp_path: Path) -> None:
    model = tiny_model()
    model.save(tmp_path, torch.int8)
    with (
        pytest.raises(CogViewError, match="int8 rows; use the float weights"),
        storage.open_weights(tmp_path, model.state_dict()),
    ):
        pass
    tensors = load_file(tmp_path / "model.safetensors")
    scale = tensors.pop("tokens.weight.scale")
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CogViewError, match=r"tokens\.weight\.scale is missing"):
        Transformer.from_directory(tmp_path)
    save_file(tensors | {"tokens.weight.scale": scale[:-1]}, tmp_path / "model.safetensors")
    with pytest.raises(CogViewError, match=r"tokens\.weight\.scale is"):
        Transformer.from_directory(tmp_path)
