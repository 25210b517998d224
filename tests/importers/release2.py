"""A release of CogView2 at a tiny size, and what importing it gives."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import numpy as np
import torch

from tests.parity.hvqvae import recipe_weights

FIXTURES = Path(__file__).parents[1] / "fixtures" / "cogview2"


SHARD = Path("432000/mp_rank_00_model_states.pt")


CODES = 30


def sat_weights(seed: int, hidden: int = 8, layers: int = 2, rows: int = 390) -> dict[str, torch.Tensor]:
    """A CogLM under its released names, half precision."""
    torch.manual_seed(seed)
    layer = {
        "attention.query_key_value": (3 * hidden, hidden),
        "attention.dense": (hidden, hidden),
        "mlp.dense_h_to_4h": (4 * hidden, hidden),
        "mlp.dense_4h_to_h": (hidden, 4 * hidden),
        "input_layernorm": (hidden,),
        "post_attention_layernorm": (hidden,),
        "third_layernorm": (hidden,),
        "fourth_layernorm": (hidden,),
    }
    state = {
        "transformer.word_embeddings.weight": torch.randn(rows, hidden),
        "transformer.position_embeddings.weight": torch.randn(48, hidden),
    }
    for i in range(layers):
        for name, shape in layer.items():
            state[f"transformer.layers.{i}.{name}.weight"] = torch.randn(shape)
            state[f"transformer.layers.{i}.{name}.bias"] = torch.randn(shape[:1])
    state |= {f"transformer.final_layernorm.{kind}": torch.randn(hidden) for kind in ("weight", "bias")}
    return {name: x.half() for name, x in state.items()}


def direct_weights(seed: int) -> dict[str, torch.Tensor]:
    """The direct model's: 6 x 6 more positions, attention of a decoder."""
    torch.manual_seed(seed)
    more = {"mixins.extra_position_embedding.position_embeddings.weight": torch.randn(36, 8)}
    for i in range(2):
        for name, rows in (("query_key_value", 24), ("dense", 8)):
            more[f"mixins.attention_plus.{name}.{i}.weight"] = torch.randn(rows, 8)
            more[f"mixins.attention_plus.{name}.{i}.bias"] = torch.randn(rows)
    return sat_weights(seed) | {name: x.half() for name, x in more.items()}


def iterative_weights(seed: int) -> dict[str, torch.Tensor]:
    return {name: x for name, x in direct_weights(seed).items() if "attention_plus" not in name}


def save_sat(folder: Path, state: dict[str, torch.Tensor], heads: int = 2) -> None:
    """As the toolkit saves: tracker, facts, and a pickle with weights among a training run's bookkeeping."""
    (folder / SHARD).parent.mkdir(parents=True)
    (folder / "latest").write_text("432000")
    facts = {
        "model_class": "BaseModel",
        "num_layers": 2,
        "hidden_size": 8,
        "num_attention_heads": heads,
        "vocab_size": len(state["transformer.word_embeddings.weight"]),
        "layernorm_order": "sandwich",
        "model_parallel_size": 1,
    }
    (folder / "model_config.json").write_text(json.dumps(facts))
    content = {
        "module": state,
        "optimizer": None,
        "iteration": 432000,
        "client_lr_scheduler": {"warmup_iter": 5.0, "start_lr": 1e-4},
        "random_rng_state": random.getstate(),
        "np_rng_state": np.random.get_state(),
        "torch_rng_state": torch.get_rng_state(),
        "cuda_rng_state": torch.get_rng_state(),
    }
    torch.save(content, folder / SHARD)


def write_release(place: Path) -> Path:
    """30 codes, the synthetic text tokenizer's 349 pieces, 390 rows; 2 x 2 codes after position 20."""
    save_sat(place / "coglm", sat_weights(0))
    save_sat(place / "dsr", direct_weights(1))
    save_sat(place / "itersr", iterative_weights(2))
    keys = json.loads((FIXTURES / "keys_icetk_image_full.json").read_text())
    shrunk = {128: 32, 256: 64, 512: 128, 20_000: CODES}
    shapes = {key: [shrunk.get(size, size) for size in shape] for key, shape in keys.items()}
    torch.save({"module": recipe_weights(shapes)}, place / "ice_image.pt")
    shutil.copyfile(FIXTURES / "ice_text_synthetic.model", place / "ice_text.model")
    np.save(place / "cluster_label.npy", np.arange(CODES) % 7)
    return place


def options(release: Path, out: Path, **changes: object) -> list[str]:
    """The command, with some options changed or (None) left out."""
    given: dict[str, object] = {
        "coglm": release / "coglm",
        "image-tokenizer": release / "ice_image.pt",
        "text": release / "ice_text.model",
        "clusters": release / "cluster_label.npy",
        "grid": 2,
        "text-slots": 12,
        "image-start": 20,
        "direct": release / "dsr",
        "iterative": release / "itersr",
        "direct-slots": 7,
        "iterative-slots": 5,
        "out": out,
    }
    given |= {name.replace("_", "-"): value for name, value in changes.items()}
    return ["import", "cogview2", *(f"--{k}={value}" for k, value in given.items() if value is not None)]
