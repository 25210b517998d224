"""``cogview export cogview``: what was imported goes back to the released layout, bit for bit."""

from __future__ import annotations

import argparse
import json
import runpy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from cogview.checkpoints.bundle import ModelBundle
from cogview.cli.app import main
from cogview.importers.checkpoint import load_pickle, load_weights
from cogview.importers.cogview1 import import_transformer, merge_shards, open_released, read_released, rename
from cogview.transformer.config import TransformerConfig
from cogview.transformer.model import Transformer
from tests.generation import tiny

ROOT = Path(__file__).parents[2]
FIXTURES = ROOT / "tests" / "fixtures" / "cogview1"


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A family whose base is the recorded model_b in half precision."""
    place = tmp_path_factory.mktemp("family")
    directory = tiny.write(place)
    import_transformer(FIXTURES / "ckpt_b", directory / "base", heads=4)
    as_recorded(directory)
    return directory


def as_recorded(directory: Path) -> None:
    """Let the tiny family take the recorded models, whose vocabulary has 256 rows."""
    facts = json.loads((directory / "family.json").read_text())
    sizes = {"image_codes": 64, "text_pieces": 100}
    facts["vocabulary"] |= sizes
    facts["roles"]["base"]["sequences"]["vocabulary"] |= sizes
    (directory / "family.json").write_text(json.dumps(facts))


def export(family: Path, out: Path, *options: str) -> list[Path]:
    assert main(["export", "cogview", str(family), "-o", str(out), *options]) == 0
    return sorted(out.rglob("*.pt"))


def recorded() -> dict[str, Tensor]:
    return load_weights(FIXTURES / "ckpt_b/20/mp_rank_00_model_states.pt")


def test_the_original_layout_comes_back(family: Path, tmp_path: Path) -> None:
    [file] = export(family, tmp_path / "out")
    assert (tmp_path / "out/latest_checkpointed_iteration.txt").read_text() == "1"
    assert file == tmp_path / "out/1/mp_rank_00_model_states.pt"
    module = torch.load(file, weights_only=True)["module"]  # with PyTorch's own reader, as the original does
    assert set(module) == set(recorded())
    assert all(
        torch.equal(module[name], x) and module[name].dtype == x.dtype for name, x in recorded().items()
    )


def test_names_come_in_the_original_order(family: Path, tmp_path: Path) -> None:
    """Of model_b as it was recorded from the released code, where ``load_state_dict`` does not care."""
    [file] = export(family, tmp_path / "out")
    assert list(load_pickle(file)["module"]) == list(
        json.loads((FIXTURES / "model_b.json").read_text())["tensors"]
    )


def test_the_later_layout(family: Path, tmp_path: Path) -> None:
    export(family, tmp_path / "out", "--layout", "sat")
    assert (tmp_path / "out/latest").read_text() == "1"
    said = json.loads((tmp_path / "out/model_config.json").read_text())
    assert (said["num_layers"], said["hidden_size"], said["num_attention_heads"]) == (2, 32, 4)
    assert (said["vocab_size"], said["max_sequence_length"], said["sandwich_ln"]) == (256, 1089, True)
    opened = open_released(tmp_path / "out")  # heads are told there
    assert opened.config == ModelBundle(family).check("base")


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("layout", ["megatron", "sat"])
def test_shards_merge_to_the_same_weights(family: Path, tmp_path: Path, ranks: int, layout: str) -> None:
    files = export(family, tmp_path / "out", "--layout", layout, "--model-parallel", str(ranks))
    assert len(files) == ranks
    _, state = read_released(tmp_path / "out", heads=4)
    expected = load_file(family / "base" / "model.safetensors")
    rows = len(expected["tokens.weight"])
    table = state.pop("tokens.weight")
    assert len(table) == -(-rows // (128 * ranks)) * 128 * ranks
    assert torch.equal(table[:rows], expected.pop("tokens.weight"))
    assert torch.equal(table[rows:], table[rows - 1].expand(len(table) - rows, -1))
    assert set(state) == set(expected)
    assert all(torch.equal(state[name], x) for name, x in expected.items())


def test_the_split_is_the_recorded_one(tmp_path: Path) -> None:
    """model_a in two shards, as the released code had it on two ranks."""
    directory = tiny.write(tmp_path / "parts")
    whole = load_file(FIXTURES / "model_a.safetensors")
    torch.save(whole, tmp_path / "a.pt")
    import_transformer(tmp_path / "a.pt", directory / "base", heads=4, dtype=torch.float32)
    as_recorded(directory)
    files = export(directory, tmp_path / "out", "--model-parallel", "2")
    for rank, file in enumerate(files):
        shard = load_file(FIXTURES / f"model_a_mp2_rank{rank:02d}.safetensors")
        found = load_weights(file)
        assert set(found) == set(shard)
        assert all(torch.equal(found[name], x) for name, x in shard.items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--role", "caption"], "no 'caption' role"),
        (["--model-parallel", "3"], "4 heads do not divide into 3 shards"),
        (["--layout", "gguf"], "--layout"),
        (["--model-parallel", "0"], "--model-parallel"),
    ],
)
def test_what_cannot_be_is_one_line(
    family: Path, tmp_path: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "cogview", str(family), "-o", str(tmp_path / "out"), *options]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_in_it_is_left_alone(
    family: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    assert main(["export", "cogview", str(family), "-o", str(tmp_path)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_model_the_original_code_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = tiny.write(tmp_path)
    tiny.transformer(norm="post").save(directory / "base")
    assert main(["export", "cogview", str(directory), "-o", str(tmp_path / "out")]) == 2
    assert "does not support norm post" in capsys.readouterr().err


def test_pre_norm_models_go_back_too(tmp_path: Path) -> None:
    directory = tiny.write(tmp_path)
    tiny.transformer(norm="pre").save(directory / "base")
    export(directory, tmp_path / "out")
    config, state = read_released(tmp_path / "out", heads=4)
    assert config.norm == "pre"
    assert all(torch.equal(state[k], x) for k, x in load_file(directory / "base/model.safetensors").items())


def test_every_released_name_is_an_inverse() -> None:
    from cogview.importers.export import released_names

    config = TransformerConfig.cogview_4b()
    names = released_names(config, "sat")
    assert len(names) == 772 and set(names.values()) == set(Transformer.shapes(config))
    assert all(rename(released) == ours for released, ours in names.items())


def test_merging_undoes_splitting_at_the_papers_widths() -> None:
    """Shapes only: 58,240 rows are padded to 58,368 over two ranks."""
    from cogview.importers.cogview1 import _merged_shape

    shape = torch.Size((58368 // 2, 2560))
    assert _merged_shape("tokens.weight", shape, 2) == (58368, 2560)
    assert merge_shards([{"tokens.weight": torch.zeros(2, 3)}] * 2)["tokens.weight"].shape == (4, 3)


@pytest.mark.parametrize(("layout", "ranks"), [("megatron", 1), ("sat", 2)])
def test_the_benchmarks_round_trip_is_identical(tmp_path: Path, layout: str, ranks: int) -> None:
    """The script that does it with a 4B-shaped checkpoint, at a toy's width and in this process."""
    script = runpy.run_path(str(ROOT / "benchmarks" / "import_memory.py"))
    options = argparse.Namespace(layers=1, tiny=True, layout=layout, model_parallel=ranks)
    for step in script["STEPS"]:
        script["run_step"](step, tmp_path, options)
    assert script["different"](tmp_path) == []
    weights = tmp_path / "second/family/base/model.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    weights.write_bytes(damaged)
    assert script["different"](tmp_path) == ["base/model.safetensors"]
