"""``cogview import cogview``: the release's files become a family that draws, or one clear line."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cogview import CogView
from cogview.checkpoints.bundle import ModelBundle
from cogview.cli.app import main
from cogview.errors import CogViewError
from cogview.generation.loop import SequenceRequest
from cogview.importers.checkpoint import load_weights
from cogview.importers.family import released_format
from cogview.tokenizers.text import TextTokenizer
from cogview.types import SamplingParams
from cogview.vocabulary import Vocabulary
from tests.importers.release1 import FIXTURES, SHARD, options, write_release

Spoil = Callable[[Path], Mapping[str, str | None]]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_release(tmp_path_factory.mktemp("release"))


@pytest.fixture(scope="module")
def imported(release: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All three roles, from the same weights."""
    out = tmp_path_factory.mktemp("models") / "cogview"
    base = str(release / "cogview-base")
    assert main(options(release, out, caption=base, super_resolution=base)) == 0
    return out


def test_the_family_is_whole(imported: Path, release: Path) -> None:
    family = ModelBundle(imported)
    assert family.config.name == "cogview"
    assert family.config.vocabulary == Vocabulary(image_codes=64, text_pieces=100)
    kinds = {role: family.role(role).sequences.kind for role in family.config.roles}
    assert kinds == {
        "base": "text_to_image",
        "caption": "image_to_text",
        "super_resolution": "super_resolution",
    }
    assert set(family.config.styles) == {"chinese-painting", "oil-painting", "sketch", "cartoon"}
    assert (family.config.defaults.top_k, family.config.defaults.temperature) == (200, 1.0)
    assert not list(imported.parent.glob("*.new"))
    weights = load_weights(release / "cogview-base" / SHARD)
    for role in kinds:
        stored = load_file(imported / role / "model.safetensors")
        assert stored["tokens.weight"].dtype == torch.float16
        assert torch.equal(stored["tokens.weight"], weights["word_embeddings.weight"])
        assert family.transformer(role).config.norm_relax == "none"


def test_the_image_tokenizer_gives_the_recorded_codes(imported: Path) -> None:
    recorded, tokenizer = (
        load_file(FIXTURES / "vqvae_tiny.safetensors"),
        ModelBundle(imported).image_tokenizer(),
    )
    assert torch.equal(tokenizer.encode(recorded["image01"]), recorded["codes"])
    with torch.no_grad():
        torch.testing.assert_close(
            tokenizer.decode(recorded["codes"]), recorded["decoded"], rtol=0, atol=1e-5
        )
    assert tokenizer.grid() == (8, 8)


@pytest.mark.parametrize("released", [False, True])
def test_it_draws_the_recorded_codes(release: Path, tmp_path: Path, released: bool) -> None:
    """The greedy run of the released code, through the engine, in plain and in released numerics."""
    arguments = options(release, tmp_path / "x") + ["--released"] * released
    assert main(arguments) == 0
    model = CogView.from_pretrained(tmp_path / "x")
    assert model.text_to_image.engine.decoder.config.numerics == ("released" if released else "fused")
    run = load_file(FIXTURES / "fill_t2i_greedy.safetensors")
    context, drawn = run["output"][0, :9], run["output"][0, 9:]
    pieces = (context[1:-2] - model.bundle.config.vocabulary.texts.start).tolist()
    assert model.text_to_image.format.prompt(pieces).ids.tolist() == context.tolist()
    request = SequenceRequest(model.text_to_image.format.image_prompt(pieces), 0, 0)
    [(_, codes)] = model.text_to_image.engine.generate([request], SamplingParams(top_k=1))
    assert codes.tolist() == drawn.tolist()


def test_it_draws_from_a_prompt(imported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["generate", "a red bird", "--model", str(imported), "--style", "sketch", "--seed", "1"]
    assert main([*arguments, "-o", str(tmp_path)]) == 0
    [picture] = CogView.from_pretrained(imported).generate("a red bird", seed=1, style="sketch")
    assert picture.caption == "a red bird of sketch style" and picture.image.size == (64, 64)
    assert Path(capsys.readouterr().out.strip()).read_bytes() == picture.png()


def test_all_its_roles_work(imported: Path) -> None:
    """Drawn, enlarged over windows of the released format, described in 20 tokens, scored."""
    model = CogView.from_pretrained(imported)
    [picture] = model.generate("a red bird", seed=1)
    [large] = model.upscale([picture], times=2, seed=1)
    assert large.image.size == (128, 128)
    [[caption]] = model.caption([picture.image], n=1)
    assert caption.text and len(caption.pieces) == 20
    assert np.isfinite(model.score(picture.image, "a red bird")).all()


def test_other_layouts_give_the_same_family(release: Path, imported: Path, tmp_path: Path) -> None:
    """The later toolkit's names and tracker, a lone file of floats, an old file, a prefixed VQ-VAE."""
    weights = load_weights(release / "cogview-base" / SHARD)
    later = tmp_path / "later"
    (later / "1").mkdir(parents=True)
    (later / "latest").write_text("1")
    (later / "model_config.json").write_text('{"num_layers": 2, "hidden_size": 32, "num_attention_heads": 4}')
    renamed = {name.replace("word_emb", "transformer.word_emb", 1): x for name, x in weights.items()}
    torch.save({"module": renamed}, later / "1" / SHARD.name)
    torch.save({name: x.float() for name, x in weights.items()}, tmp_path / "floats.pt")
    old = tmp_path / "old.pt"
    torch.save({"module": weights}, old, _use_new_zipfile_serialization=False)
    prefixed = str(release / "vqvae_prefixed.pt")
    expected = load_file(imported / "base" / "model.safetensors")
    variants: list[dict[str, str | None]] = [
        {"base": str(later), "heads": None, "image_tokenizer": prefixed},
        {"base": str(tmp_path / "floats.pt")},
        {"base": str(old)},
    ]
    for number, changes in enumerate(variants):
        out = tmp_path / f"out{number}"
        assert main(options(release, out, **changes)) == 0
        found = load_file(out / "base" / "model.safetensors")
        assert list(found) == list(expected)
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_file_without_checksums_is_read(release: Path, imported: Path, tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(load_weights(release / "cogview-base" / SHARD), tmp_path / "plain.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert main(options(release, tmp_path / "x", base=str(tmp_path / "plain.pt"))) == 0
    found = load_file(tmp_path / "x/base/model.safetensors")["tokens.weight"]
    assert torch.equal(found, load_file(imported / "base/model.safetensors")["tokens.weight"])


def test_rows_that_only_model_parallelism_needs_are_left_out(
    release: Path, imported: Path, tmp_path: Path
) -> None:
    """Over three ranks the released vocabulary is padded to 384 rows; 256 hold everything."""
    weights = load_weights(release / "cogview-base" / SHARD)
    table = weights["word_embeddings.weight"]
    weights["word_embeddings.weight"] = torch.cat([table, torch.ones(128, 32, dtype=table.dtype)])
    torch.save(weights, tmp_path / "padded.pt")
    assert main(options(release, tmp_path / "x", base=str(tmp_path / "padded.pt"))) == 0
    found = load_file(tmp_path / "x/base/model.safetensors")["tokens.weight"]
    assert torch.equal(found, load_file(imported / "base/model.safetensors")["tokens.weight"])


@pytest.mark.parametrize(
    ("role", "text_limit", "length"),
    [("base", 61, 1089), ("caption", 61, 1089), ("super_resolution", 56, 1345)],
)
def test_the_released_formats(role: str, text_limit: int, length: int) -> None:
    """Lengths as in the released scripts; positions never leave the table of 1089."""
    form = released_format(role, Vocabulary.cogview(), positions=1089)
    assert (form.text_limit, form.max_length) == (text_limit, length)
    assert form.image_positions == "index" and form.max_positions <= 1089
    whole = form.training([5] * text_limit, [1] * 1024, [2] * form.context_codes)
    assert len(whole) == length and whole.positions.max() < 1089
    if role == "super_resolution":
        restart = whole.ids.tolist().index(form.vocabulary.control("[ROI2]"))
        assert whole.positions[restart : restart + 3].tolist() == [restart, 1, 2]


def test_the_papers_own_sizes() -> None:
    """SequenceFormat.cogview() is the base format that the release's own sizes give."""
    from cogview.sequences import SequenceFormat

    assert released_format("base", Vocabulary.cogview(), 1089) == SequenceFormat.cogview()


# ---------------------------------------------------------------------------------------------- what is wrong


def without(name: str) -> Spoil:
    """The image tokenizer without one of its tensors."""

    def make(place: Path) -> dict[str, str]:
        recorded = load_file(FIXTURES / "vqvae_tiny.safetensors")
        weights = {k.removeprefix("sd."): x for k, x in recorded.items() if k.startswith("sd.")}
        torch.save({k: x for k, x in weights.items() if k != name}, place / "vqvae.pt")
        return {"image_tokenizer": str(place / "vqvae.pt")}

    return make


def saved(option: str, content: Any) -> Spoil:
    def make(place: Path) -> dict[str, str]:
        torch.save(content, place / "file.pt")
        return {option: str(place / "file.pt")}

    return make


def model_with(**tensors: torch.Tensor | None) -> Spoil:
    """The checkpoint with tensors put in or (None) taken out."""

    def make(place: Path) -> dict[str, str]:
        weights: dict[str, torch.Tensor | None] = {**load_weights(FIXTURES / "ckpt_b" / SHARD)}
        weights |= {name.replace("__", "."): x for name, x in tensors.items()}
        torch.save({k: x for k, x in weights.items() if x is not None}, place / "base.pt")
        return {"base": str(place / "base.pt")}

    return make


def truncated(place: Path) -> dict[str, str]:
    content = (FIXTURES / "ckpt_b" / SHARD).read_bytes()
    (place / "base.pt").write_bytes(content[: len(content) // 2])
    return {"base": str(place / "base.pt")}


def flipped(option: str) -> Spoil:
    """One bit in the middle of the file's numbers is another."""

    def make(place: Path) -> dict[str, str]:
        source = FIXTURES / "ckpt_b" / SHARD
        if option == "image_tokenizer":
            source = Path(without("nothing")(place)[option] or "")
        content = bytearray(source.read_bytes())
        with zipfile.ZipFile(source) as file:
            largest = max(file.infolist(), key=lambda entry: entry.file_size)
            start = content.index(file.read(largest))
        content[start + largest.file_size // 2] ^= 4
        (place / "flipped.pt").write_bytes(content)
        return {option: str(place / "flipped.pt")}

    return make


def compressed(place: Path) -> dict[str, str]:
    with (
        zipfile.ZipFile(FIXTURES / "ckpt_b" / SHARD) as old,
        zipfile.ZipFile(place / "base.pt", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return {"base": str(place / "base.pt")}


def occupied(place: Path) -> dict[str, str]:
    (place / "mine").mkdir()
    (place / "mine" / "thesis.txt").write_text("years of work")
    return {"out": str(place / "mine")}


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("ran"),)


FINAL = "transformer.final_layernorm.bias"
WRONG: dict[str, tuple[Spoil, str]] = {
    "no transformer": (lambda place: {"base": None}, "give a transformer"),
    "no such folder": (
        lambda place: {"base": str(place / "nowhere")},
        "nowhere: cannot be read",
    ),
    "no such file": (lambda place: {"image_tokenizer": str(place / "no.pt")}, "no.pt: cannot be read"),
    "hostile": (saved("base", {"module": {}, "x": Evil()}), "refused, it loads"),
    "hostile image tokenizer": (saved("image_tokenizer", Evil()), "refused, it loads"),
    "truncated": (truncated, "damaged, or not a PyTorch checkpoint"),
    "a bit flipped": (flipped("base"), "is not what was written"),
    "a bit of the VQ-VAE": (flipped("image_tokenizer"), "is not what was written"),
    "compressed": (compressed, "its content is compressed"),
    "missing key": (model_with(**{FINAL.replace(".", "__"): None}), "norm.bias is missing"),
    "extra key": (model_with(lm_head=torch.zeros(2)), "unexpected key 'lm_head'"),
    "wrong shape": (model_with(**{FINAL: torch.zeros(7)}), r"norm.bias is (7,), expected (32,)"),
    "a scalar": (model_with(**{FINAL: torch.zeros(())}), r"norm.bias is (), expected (32,)"),
    "integers": (model_with(**{FINAL: torch.zeros(32, dtype=torch.int8)}), "is not a plain tensor of floats"),
    "sparse": (model_with(**{FINAL: torch.zeros(32).to_sparse()}), "is not a plain tensor of floats"),
    "not a number": (model_with(**{FINAL: torch.full((32,), torch.nan)}), "norm.bias holds a number"),
    "too large": (model_with(**{FINAL: torch.full((32,), 1e6)}), "not finite in torch.float16"),
    "no width": (model_with(word_embeddings__weight=torch.zeros(256, 0)), "hidden: "),
    "VQ-VAE lacks a key": (without("dec.blocks.6.bias"), "do not fit its architecture"),
    "VQ-VAE lacks its codebook": (without("quantize_t.embed"), "lacks 'quantizer.codebook'"),
    "VQ-VAE is a transformer": (saved("image_tokenizer", {FINAL: torch.zeros(2)}), "CogView's vqvae file?"),
    "VQ-VAE with a flat codebook": (
        saved("image_tokenizer", {f"quantize_t.{x}": torch.zeros(8) for x in ("embed", "embed_avg")}),
        "do not fit its architecture",
    ),
    "text is no tokenizer": (
        lambda place: {"text": str(FIXTURES / "ckpt_b.json")},
        "not a SentencePiece model",
    ),
    "picture too large": (lambda place: {"grid": "64"}, "1089 positions are too few for 64 x 64 codes"),
    "occupied": (occupied, "exists already"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_one_line(
    name: str,
    release: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    make, message = WRONG[name]
    arguments = options(release, tmp_path / "out", **make(tmp_path))
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.new").exists()
    assert not (tmp_path / "mine").exists() or (tmp_path / "mine" / "thesis.txt").exists()


def test_tokenizers_of_another_model_are_refused(release: Path, tmp_path: Path) -> None:
    """400 pieces and 64 codes make 491 ids, more than the 256 rows there are."""
    words = ["".join(map(chr, range(start, start + 90))) for start in range(0x4E00, 0x4E00 + 360, 90)]
    TextTokenizer.train(words * 20, pieces=400, algorithm="bpe", byte_fallback=False).save(tmp_path / "other")
    from cogview.importers.family import import_release
    from cogview.importers.releases import Release

    files = {
        "base": release / "cogview-base",
        "image_tokenizer": release / "vqvae.pt",
        "text_tokenizer": tmp_path / "other",
    }
    with pytest.raises(
        CogViewError, match="vocabulary of 256 rows; 64 image codes and 400 text pieces make 512"
    ):
        import_release(Release(**files, grid=8, heads=4), tmp_path / "out")


def test_a_full_disk_is_foreseen(
    release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=1000))
    assert main(options(release, tmp_path / "out")) == 2
    assert "0.0 GB are free" in capsys.readouterr().err


def test_a_write_that_fails_leaves_nothing(
    release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cogview.transformer import storage

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage, "_flush", full)
    assert main(options(release, tmp_path / "out")) == 2
    assert list(tmp_path.iterdir()) == []


def test_the_card_names_the_files(imported: Path) -> None:
    text = (imported / "card.md").read_text()
    assert "cogview-base" in text and "vqvae.pt" in text and "2 layers of 32" in text
    assert json.loads((imported / "family.json").read_text())["name"] == "cogview"
