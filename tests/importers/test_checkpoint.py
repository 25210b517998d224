"""Reading released checkpoint directories: safe, whole, or refused in one line."""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cogview.errors import CogViewError
from cogview.importers.checkpoint import load_pickle, load_weights, model_config, shards
from cogview.importers.cogview1 import (
    import_transformer,
    infer_config,
    merge_shards,
    read_released,
    rename,
)
from cogview.transformer.model import Transformer
from tests.transformer.tiny import tiny_model, tokens

FIXTURES = Path(__file__).parents[1] / "fixtures" / "cogview1"
FIRST = "mp_rank_00_model_states.pt"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    shutil.copytree(FIXTURES / "ckpt_b", tmp_path / "ckpt_b")
    return tmp_path / "ckpt_b"


def test_a_training_checkpoint_is_read_without_running_it(checkpoint: Path) -> None:
    """Its NumPy random state is outside torch's own list; its tensors are views of one flat buffer."""
    with pytest.raises(pickle.UnpicklingError):
        torch.load(checkpoint / "20" / FIRST, weights_only=True)
    content = load_pickle(checkpoint / "20" / FIRST)
    assert content["iteration"] == 20
    assert isinstance(content["np_rng_state"][1], np.ndarray)
    assert len({x.untyped_storage().data_ptr() for x in content["module"].values()}) == 1
    weights = load_weights(checkpoint / "20" / FIRST)
    assert len({x.untyped_storage().data_ptr() for x in weights.values()}) == len(weights)
    assert all(x.untyped_storage().nbytes() == x.nbytes for x in weights.values())


def test_its_weights_are_the_models(checkpoint: Path) -> None:
    config, state = read_released(checkpoint, heads=4)
    expected = {rename(key): x for key, x in load_file(FIXTURES / "model_b.safetensors").items()}
    assert set(state) == set(expected)
    for name, tensor in state.items():
        assert torch.equal(tensor, expected[name].half())
    assert (config.layers, config.hidden, config.vocab_size, config.max_positions) == (2, 32, 256, 1089)
    assert (config.norm, config.norm_relax, config.numerics) == ("sandwich", "none", "fused")


def test_imported_it_is_a_model_directory(checkpoint: Path, tmp_path: Path) -> None:
    config = import_transformer(checkpoint, tmp_path / "base", heads=4, released=True)
    model = Transformer.from_directory(tmp_path / "base")
    assert model.config == config
    assert (config.norm_relax, config.numerics) == ("tensor", "released")
    ids, positions = tokens()
    assert model(ids, positions).isfinite().all()


def test_the_shards_may_be_named_directly_and_trackers_differ(checkpoint: Path) -> None:
    direct = shards(checkpoint / "20")
    assert direct == shards(checkpoint) == [checkpoint / "20" / FIRST]
    (checkpoint / "latest_checkpointed_iteration.txt").rename(checkpoint / "latest")
    assert shards(checkpoint) == direct
    (checkpoint / "20").rename(checkpoint / "release")
    (checkpoint / "latest").write_text("release\n")
    assert shards(checkpoint) == [checkpoint / "release" / FIRST]


def test_heads_come_from_the_later_releases_config(checkpoint: Path) -> None:
    assert model_config(checkpoint) == {}
    (checkpoint / "model_config.json").write_text('{"num_attention_heads": 8, "num_layers": 2}')
    assert read_released(checkpoint)[0].heads == 8
    assert read_released(checkpoint, heads=2)[0].heads == 2


def test_heads_of_64_are_assumed_of_the_released_models() -> None:
    state = {rename(key): x for key, x in load_file(FIXTURES / "model_a.safetensors").items()}
    assert infer_config(state).heads == 1  # hidden 64


class Evil:
    """Unpickled, it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_code_in_a_checkpoint_is_refused_and_not_run(checkpoint: Path, tmp_path: Path) -> None:
    shard = checkpoint / "20" / FIRST
    for content in ({"module": Evil(tmp_path / "ran")}, {"module": {}, "note": Evil(tmp_path / "ran")}):
        for zipped in (True, False):
            torch.save(content, shard, _use_new_zipfile_serialization=zipped)
            with pytest.raises(CogViewError, match="refused") as caught:
                read_released(checkpoint)
            assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def tracker(text: str) -> Callable[[Path], None]:
    def apply(checkpoint: Path) -> None:
        (checkpoint / "latest_checkpointed_iteration.txt").write_text(text)

    return apply


def content(data: object) -> Callable[[Path], None]:
    return lambda checkpoint: torch.save(data, checkpoint / "20" / FIRST)


def raw(data: bytes) -> Callable[[Path], None]:
    def apply(checkpoint: Path) -> None:
        (checkpoint / "20" / FIRST).write_bytes(data)

    return apply


def renamed(name: str) -> Callable[[Path], None]:
    def apply(checkpoint: Path) -> None:
        (checkpoint / "20" / FIRST).rename(checkpoint / "20" / name)

    return apply


def config(text: str) -> Callable[[Path], None]:
    def apply(checkpoint: Path) -> None:
        (checkpoint / "model_config.json").write_text(text)

    return apply


def truncate(checkpoint: Path) -> None:
    path = checkpoint / "20" / FIRST
    path.write_bytes(path.read_bytes()[:90_000])


def without(key: str, extra: str | None = None) -> Callable[[Path], None]:
    def apply(checkpoint: Path) -> None:
        weights = load_weights(checkpoint / "20" / FIRST)
        kept = {k: x for k, x in weights.items() if k != key}
        torch.save({"module": kept | ({extra: torch.zeros(2)} if extra else {})}, checkpoint / "20" / FIRST)

    return apply


def resized(key: str) -> Callable[[Path], None]:
    def apply(checkpoint: Path) -> None:
        weights = load_weights(checkpoint / "20" / FIRST)
        torch.save({"module": weights | {key: torch.zeros(7)}}, checkpoint / "20" / FIRST)

    return apply


WRONG: dict[str, tuple[Callable[[Path], None], str]] = {
    "nothing there": (shutil.rmtree, "neither latest_checkpointed_iteration.txt nor mp_rank"),
    "no shard": (tracker("30"), "it has no mp_rank_00_model_states.pt"),
    "tracker leads elsewhere": (tracker("../../etc"), "expected an iteration or 'release', found"),
    "second shard only": (
        renamed("mp_rank_01_model_states.pt"),
        "mp_rank_00_model_states.pt is missing",
    ),
    "truncated": (truncate, "damaged, or not a PyTorch checkpoint"),
    "empty": (raw(b""), "damaged, or not a PyTorch checkpoint"),
    "not a checkpoint": (raw(b"hello " * 100), "refused|damaged"),
    "no weights": (content({"module": {"a": 3}}), "it has no weights"),
    "a list": (content([torch.zeros(2)]), "it has no weights"),
    "foreign keys": (
        content({"module": {"encoder.weight": torch.zeros(2)}}),
        "unexpected key 'encoder.weight'",
    ),
    "a foreign layer": (without("", "transformer.layers.x.mlp.dense_h_to_4h.bias"), "unexpected key"),
    "no embeddings": (without("word_embeddings.weight"), "not a CogView transformer"),
    "a norm is missing": (without("transformer.final_layernorm.bias"), "norm.bias is missing"),
    "half a sandwich": (
        without("transformer.layers.1.third_layernorm.bias"),
        "blocks.1.attention_branch.norm_out.bias is missing",
    ),
    "wrong shape": (resized("transformer.final_layernorm.bias"), r"norm.bias is \(7,\), expected \(32,\)"),
    "config is a list": (config("[]"), "expected a JSON object"),
    "config's heads do not divide": (config('{"num_attention_heads": 5}'), "multiple of heads 5"),
    "config's heads are a word": (config('{"num_attention_heads": "many"}'), "heads: .*'many'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_in_one_line(name: str, checkpoint: Path) -> None:
    spoil, message = WRONG[name]
    spoil(checkpoint)
    with pytest.raises(CogViewError, match=message) as caught:
        read_released(checkpoint, heads=None if "config" in name else 4)
    assert "\n" not in str(caught.value)


RELEASED_NAMES = {
    "tokens": "word_embeddings",
    "positions": "transformer.position_embeddings",
    "norm": "transformer.final_layernorm",
    "blocks.0.attention_branch.norm_in": "transformer.layers.0.input_layernorm",
    "blocks.0.attention.qkv": "transformer.layers.0.attention.query_key_value",
    "blocks.0.attention.out": "transformer.layers.0.attention.dense",
    "blocks.0.mlp_branch.norm_in": "transformer.layers.0.post_attention_layernorm",
    "blocks.0.attention_branch.norm_out": "transformer.layers.0.third_layernorm",
    "blocks.0.mlp_branch.norm_out": "transformer.layers.0.fourth_layernorm",
    "blocks.0.mlp.up": "transformer.layers.0.mlp.dense_h_to_4h",
    "blocks.0.mlp.down": "transformer.layers.0.mlp.dense_4h_to_h",
}


def test_every_name_of_a_model_has_a_released_one() -> None:
    state = tiny_model(layers=1).state_dict()
    for name in state:
        module, kind = name.rsplit(".", 1)
        assert rename(f"{RELEASED_NAMES[module]}.{kind}") == name
    assert rename("transformer.word_embeddings.weight") == "tokens.weight"
    assert len(state) == 16 + 4


@pytest.mark.parametrize("ranks", [2, 3])
def test_shards_merge_to_what_was_split(ranks: int) -> None:
    """Split here by the rules, head by head, then merged."""
    whole = tiny_model(heads=6, vocab_size=42).state_dict()
    parts: list[dict[str, torch.Tensor]] = [{} for _ in range(ranks)]
    for name, x in whole.items():
        for rank in range(ranks):
            share = {0: x.shape[0] // ranks, 1: x.shape[-1] // ranks}
            if name.startswith("tokens") or ".mlp.up." in name:
                piece = x[rank * share[0] : (rank + 1) * share[0]]
            elif name.endswith((".out.weight", ".down.weight")):
                piece = x[:, rank * share[1] : (rank + 1) * share[1]]
            elif ".qkv." in name:
                per_head = x.view(3, 6, 4, *x.shape[1:])  # (q k v, heads, head_dim, ...)
                heads = slice(rank * 6 // ranks, (rank + 1) * 6 // ranks)
                piece = per_head[:, heads].reshape(-1, *x.shape[1:])
            else:
                piece = x
            parts[rank][name] = piece
    merged = merge_shards(parts)
    assert set(merged) == set(whole)
    assert all(torch.equal(merged[name], x) for name, x in whole.items())


def test_shards_of_different_models_do_not_merge() -> None:
    state = tiny_model().state_dict()
    with pytest.raises(CogViewError, match="do not hold the same tensors"):
        merge_shards([state, {name: x for name, x in state.items() if name != "norm.bias"}])
