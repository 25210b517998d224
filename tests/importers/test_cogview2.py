"""``cogview import cogview2``: the release's files become a family, or one clear line."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cogview.checkpoints.bundle import ModelBundle
from cogview.cli.app import main
from cogview.errors import CogViewError
from cogview.importers.cogview1 import (
    NO_EXTRAS,
    Extras,
    Released,
    infer_config,
    open_released,
    read_released,
)
from cogview.importers.cogview2_release import (
    released_format,
    released_vocabulary,
    super_resolution_format,
)
from cogview.importers.releases import Release2
from cogview.importers.upsamplers import extras
from cogview.pipelines.base import caption_for
from cogview.sequences import CogLMFormat
from cogview.sequences.super_resolution import DirectFormat, IterativeFormat
from cogview.transformer.config import TransformerConfig
from cogview.transformer.model import Transformer
from cogview.vocabulary import Vocabulary
from tests.importers.release2 import (
    CODES,
    FIXTURES,
    SHARD,
    direct_weights,
    iterative_weights,
    options,
    sat_weights,
)

# ----------------------------------------------------------------------------------- the recorded layout


def test_a_folder_as_the_toolkit_saved_it_is_read() -> None:
    """With the random states of Python, NumPy and PyTorch in the pickle, which are not run and not kept."""
    config, state = read_released(FIXTURES / "ckpt_layout_tiny/coglm")
    sizes = (config.layers, config.hidden, config.heads, config.vocab_size, config.max_positions)
    assert sizes == (1, 8, 2, 40, 16)
    assert (config.norm, config.norm_relax, config.numerics) == ("sandwich", "none", "fused")
    whole = torch.load(FIXTURES / "ckpt_layout_tiny/coglm" / SHARD, weights_only=False)["module"]
    assert torch.equal(state["tokens.weight"], whole["transformer.word_embeddings.weight"])
    assert sum(x.numel() for x in state.values()) == sum(x.numel() for x in whole.values())


@pytest.mark.parametrize(
    ("kind", "more"), [("coglm", NO_EXTRAS), ("dsr", extras(496)), ("itersr", extras(None))]
)
def test_every_key_of_the_released_sizes(kind: str, more: Extras) -> None:
    """On the meta device: 6 billion parameters, and what super-resolution adds to them."""
    facts = json.loads((FIXTURES / "keys_full_template.json").read_text())
    shapes = dict[str, list[int]]()
    for key, shape in facts["keys"][kind].items():
        if layer := re.search(r"(?<=layers\.|_value\.)0(?=\.)|(?<=plus\.dense\.)0(?=\.)", key):
            first, end = layer.span()
            shapes |= {f"{key[:first]}{i}{key[end:]}": shape for i in range(48)}
        else:
            shapes[key] = shape
    assert len(shapes) == facts["n_tensors"][kind]
    names = {more.rename(key): torch.Size(shape) for key, shape in shapes.items()}
    config = infer_config({name: torch.empty(shape, device="meta") for name, shape in names.items()})
    sizes = ("layers", "hidden", "heads", "vocab_size", "max_positions", "norm", "norm_relax")
    release = TransformerConfig.cogview2_6b()
    assert [getattr(config, name) for name in sizes] == [getattr(release, name) for name in sizes]
    assert names == {name: x.shape for name, x in Transformer.shapes(more.configure(config, names)).items()}
    assert sum(shape.numel() for shape in names.values()) == facts["param_counts"][kind]


# ----------------------------------------------------------------------------------- a tiny release


def test_the_family_is_whole(imported: Path) -> None:
    family = ModelBundle(imported)
    vocabulary = family.config.vocabulary
    assert (vocabulary.image_codes, vocabulary.text_pieces, vocabulary.padded_size) == (CODES, 349, 390)
    assert vocabulary.control("<start_of_image>") == CODES + 349
    form = family.role("base").sequences
    assert isinstance(form, CogLMFormat)
    assert (form.grid, form.begin_position, form.text_limit) == ((2, 2), 20, 11)
    assert family.image_tokenizer().codes == CODES
    text = family.text_tokenizer()
    assert text.decode(text.encode("line1\nline2", keep_newlines=True)) == "line1\nline2"


def test_the_weights_are_the_checkpoints(imported: Path) -> None:
    model, state = ModelBundle(imported).transformer("base"), sat_weights(0)
    assert torch.equal(model.tokens.weight, state["transformer.word_embeddings.weight"].float())
    qkv = state["transformer.layers.1.attention.query_key_value.weight"].float()
    assert torch.equal(model.state_dict()["blocks.1.attention.qkv.weight"], qkv)


def test_super_resolution_knows_its_sequences(imported: Path) -> None:
    family, direct, iterative = ModelBundle(imported), direct_weights(1), iterative_weights(2)
    form = family.role("direct").sequences
    assert isinstance(form, DirectFormat)
    assert (form.small, form.grid, form.window, form.across) == ((2, 2), (6, 6), (9, 5), (5, 5))
    assert (form.text_slots, form.image_start, form.first_position) == (7, 20, 48)
    large = family.role("iterative").sequences
    assert isinstance(large, IterativeFormat)
    assert (large.grid, large.window, large.text_slots, large.first_position) == ((6, 6), (9, 5), 5, 48)
    state = family.transformer("direct").state_dict()
    plus = direct["mixins.attention_plus.dense.1.weight"].float()
    assert torch.equal(state["blocks.1.attention.decoder_out.weight"], plus)
    where = "mixins.extra_position_embedding.position_embeddings.weight"
    state = family.transformer("iterative").state_dict()
    assert torch.equal(state["extra_positions.weight"], iterative[where].float())
    assert len(state) == len(iterative)


def test_the_released_sequences_are_those_of_full_size(release: Path) -> None:
    files = ("coglm", "direct", "iterative", "image_tokenizer", "text_tokenizer")
    given = Release2(**dict.fromkeys(files, release))
    config = TransformerConfig.cogview2_6b()
    vocabulary = released_vocabulary(20_000, 130_000, config.vocab_size)
    assert released_format(given, vocabulary, config.max_positions) == CogLMFormat.cogview2()
    opened = Released((), config.model_copy(update={"extra_positions": 3600}), {})
    assert super_resolution_format(given, "direct", opened, vocabulary) == DirectFormat.cogview2()
    assert super_resolution_format(given, "iterative", opened, vocabulary) == IterativeFormat.cogview2()


def test_the_clusters_are_the_given_ones_or_made_anew(imported: Path, release: Path, tmp_path: Path) -> None:
    labels = load_file(imported / "clusters.safetensors")["labels"]
    assert labels.tolist() == [code % 7 for code in range(CODES)]
    assert main(options(release, tmp_path / "new", clusters=None)) == 0
    made = load_file(tmp_path / "new/clusters.safetensors")["labels"]
    assert sorted(made.tolist()) == list(range(CODES))  # fewer codes than 500 clusters: one each


def test_the_ten_styles_are_the_released_templates(imported: Path) -> None:

    config = ModelBundle(imported).config
    released = {
        "none": "{}",
        "mainbody": "{} 高清摄影 隔绝",
        "photo": "{} 高清摄影",
        "flat": "{} 平面风格",
        "comics": "{} 漫画 隔绝",
        "oil": "{} 油画风格",
        "sketch": "{} 素描风格",
        "isometric": "{} 等距矢量图",
        "chinese": "{} 水墨国画",
        "watercolor": "{} 水彩画风格",
    }
    assert set(config.styles) == set(released)
    for name, template in released.items():
        for prompt in ("a cat", "一只猫"):
            said = caption_for(config, prompt, name)
            assert said.strip() == template.format(prompt)
    temperatures = {name: x.temperature for name, x in config.style_defaults.items()}
    assert temperatures == {"flat": 1.1, "comics": 1.1, "sketch": 1.1, "isometric": 1.1, "chinese": 1.12}
    assert (config.defaults.temperature, config.defaults.clusters, config.defaults.text_attention_bias) == (
        1.15,
        16,
        1.4,
    )


def test_the_released_arrangement_of_ids() -> None:
    assert released_vocabulary(20_000, 130_000, 150_010) == Vocabulary.cogview2()
    assert released_vocabulary(20_000, 349, 20_352).padded_size == 20_352
    with pytest.raises(CogViewError, match="too few"):
        released_vocabulary(20_000, 130_000, 150_000)


# ----------------------------------------------------------------------------------- what is wrong


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


Spoil = Callable[[Path], dict[str, object] | None]


def shard(change: Callable[[dict[str, Any]], object]) -> Spoil:
    """Save the checkpoint's content again, changed."""

    def apply(place: Path) -> None:
        path = place / "coglm" / SHARD
        content = torch.load(path, weights_only=False)
        change(content)
        torch.save(content, path)

    return apply


def hostile(name: str) -> Spoil:
    def apply(place: Path) -> None:
        path = place / name
        torch.save({"module": {"x": torch.zeros(2)}, "note": Evil(place / "ran")}, path)

    return apply


def cut(name: str) -> Spoil:
    def apply(place: Path) -> None:
        path = place / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return apply


def other(**changes: object) -> Spoil:
    return lambda place: changes


def pickled_labels(place: Path) -> None:
    np.save(place / "cluster_label.npy", np.array([Evil(place / "ran")], dtype=object), allow_pickle=True)


def with_module(**changes: torch.Tensor | None) -> Spoil:
    def change(content: dict[str, Any]) -> None:
        for name, tensor in changes.items():
            key = name.replace("__", ".")
            if tensor is None:
                del content["module"][key]
            else:
                content["module"][key] = tensor

    return shard(change)


WRONG: dict[str, tuple[Spoil, str]] = {
    "hostile checkpoint": (hostile(f"coglm/{SHARD}"), "refused"),
    "hostile tokenizer": (hostile("ice_image.pt"), "refused"),
    "hostile labels": (pickled_labels, "not a file of cluster labels"),
    "truncated checkpoint": (cut(f"coglm/{SHARD}"), "damaged"),
    "truncated tokenizer": (cut("ice_image.pt"), "damaged"),
    "truncated text": (cut("ice_text.model"), "not a SentencePiece model|no piece|too few"),
    "truncated labels": (cut("cluster_label.npy"), "not a file of cluster labels"),
    "no checkpoint": (other(coglm="nowhere"), "nowhere"),
    "no text": (other(text="nowhere"), "nowhere: cannot be read"),
    "missing key": (
        with_module(transformer__final_layernorm__bias=None),
        "norm.bias is missing",
    ),
    "extra key": (with_module(mixins__x__weight=torch.zeros(2)), "unexpected key 'mixins.x.weight'"),
    "wrong shape": (
        with_module(transformer__final_layernorm__bias=torch.zeros(7)),
        r"\(7,\), expected \(8,\)",
    ),
    "not a number": (
        with_module(transformer__final_layernorm__bias=torch.full((8,), torch.nan)),
        "not finite",
    ),
    "grid": (other(grid=9), "is --grid right"),
    "slots": (other(text_slots=30), "lies in the text's 30 slots"),
    "direct for iterative": (lambda place: {"iterative": place / "dsr"}, "is it the other super-resolution"),
    "iterative for direct": (lambda place: {"direct": place / "itersr"}, "is it the other super-resolution"),
    "CogLM for iterative": (lambda place: {"iterative": place / "coglm"}, "not a super-resolution model"),
    "direct for CogLM": (lambda place: {"coglm": place / "dsr"}, "unexpected key 'mixins"),
    "another direct text": (other(direct_slots=0), "direct-slots"),
    "heads": (other(heads=3), "multiple of heads 3"),
    "labels of another codebook": (
        lambda place: np.save(place / "cluster_label.npy", np.zeros(5, dtype=np.int64)),
        "do not fit 30 image codes",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_one_line_and_leaves_nothing(
    name: str, release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, message = WRONG[name]
    place = tmp_path / "release"
    shutil.copytree(release, place)
    changes = spoil(place) or {}
    code = main(options(place, tmp_path / "family", **changes))
    said = capsys.readouterr().err.strip()
    assert code == 2 and "\n" not in said, said
    assert re.search(message, said), said
    assert not (place / "ran").exists()
    assert not (tmp_path / "family").exists() and not (tmp_path / "family.new").exists()


def test_what_is_there_already_stays(
    imported: Path, release: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(options(release, imported)) == 2
    assert "exists already" in capsys.readouterr().err
    assert ModelBundle(imported).transformer("base")


def test_a_bare_pickle_is_refused_too(release: Path, tmp_path: Path) -> None:
    path = tmp_path / "evil.pt"
    path.write_bytes(pickle.dumps({"module": Evil(tmp_path / "ran")}))
    with pytest.raises(CogViewError, match=r"refused|damaged"):
        open_released(path)
    assert not (tmp_path / "ran").exists()
