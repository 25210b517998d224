"""Runs of a CogLM and its super-resolution become one family that shares what is the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from cogview import CogView2, from_pretrained
from cogview.checkpoints.bundle import ModelBundle
from cogview.checkpoints.provenance import model_hash
from cogview.cli.app import main
from cogview.errors import CogViewError
from cogview.training.assembly import assemble
from cogview.transformer import storage
from cogview.transformer.model import Transformer
from tests.generation import tiny2

ROLES = ("base", "direct", "iterative")


def write_run(directory: Path, model: Transformer, sequences: object, prints: dict[str, str]) -> None:
    model.save(directory / "model")
    facts = {"recipe": "tiny", "data": "0" * 64, **prints, "sequences": sequences}
    (directory / "model" / "training.json").write_text(json.dumps(facts))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``models/mine`` with tokenizers, and runs of all three roles."""
    folder = tmp_path_factory.mktemp("runs")
    tiny2.write(folder / "made")
    shutil.copytree(folder / "made" / "tiny2", folder / "models" / "mine")
    prints = ModelBundle(folder / "models" / "mine").config.fingerprints.model_dump()
    direct, iterative = tiny2.large_forms()
    write_run(folder / "base", tiny2.transformer(), tiny2.form().model_dump(mode="json"), prints)
    write_run(folder / "direct", tiny2.enlarged(direct), direct.model_dump(mode="json"), prints)
    write_run(folder / "iterative", tiny2.enlarged(iterative), iterative.model_dump(mode="json"), prints)
    return folder


def command(runs: Path, out: Path, *more: str) -> int:
    roles = [f"{name}={runs / name}" for name in ROLES]
    given = ["--role", roles[0], "--role", roles[1], "--role", roles[2]]
    return main(["assemble", str(out), *given, "--tokenizers-of", str(runs / "models" / "mine"), *more])


def size(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*.safetensors"))


def test_a_family_of_three_roles_draws_large_pictures(runs: Path) -> None:
    out = runs / "models" / "mine-2"
    assert command(runs, out, "--clusters", "8") == 0
    family = ModelBundle(out)
    assert list(family.config.roles) == list(ROLES) and family.config.clusters == "clusters.safetensors"
    assert not (out / "text.model").exists() and not (out / "image_tokenizer").exists()
    model = from_pretrained(out)
    assert isinstance(model, CogView2)
    [picture] = model.generate("a red circle", 1, seed=1)
    assert picture.image.size == (48, 48) and len(picture.codes) == 144


def test_shared_weights_are_stored_once_and_read_back_the_same(runs: Path) -> None:
    whole, shared = runs / "models" / "whole", runs / "models" / "shared"
    small = [word for name in ROLES for word in ("--small", name)]
    assert command(runs, whole, *small) == 0 and command(runs, shared, *small, "--share") == 0
    assert size(shared) < 0.6 * size(whole)
    for name in ROLES:
        found, expected = (
            ModelBundle(shared).transformer(name).state_dict(),
            ModelBundle(whole).transformer(name),
        )
        assert list(found) == list(expected.state_dict())
        assert all(torch.equal(found[key], value) for key, value in expected.state_dict().items())
    assert storage.shares(shared / "direct") and not storage.shares(shared / "base")


def test_a_role_taken_over_keeps_what_it_shared(runs: Path) -> None:
    """With another base under it, its own weights are still those it was trained with."""
    shared, other = runs / "models" / "shared-before", runs / "models" / "other"
    assert command(runs, shared, "--share") == 0
    prints = ModelBundle(shared).config.fingerprints.model_dump()
    write_run(runs / "base-2", tiny2.transformer(seed=9), tiny2.form().model_dump(mode="json"), prints)
    family = assemble(other, {"base": runs / "base-2"}, start=ModelBundle(shared))
    before = Transformer.from_directory(runs / "direct" / "model").state_dict()
    after = family.transformer("direct").state_dict()
    # int8 rows: an error of half a step at most, a 254th of a row's largest number
    for name, value in before.items():
        step = value.abs().amax(-1, keepdim=True) / 254 if value.dim() == 2 else torch.tensor(1e-3)
        assert ((after[name] - value).abs() <= step * 1.01 + 1e-6).all(), name


def test_what_cannot_be_shared_is_refused(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(runs, tmp_path / "far") == 2
    assert "does not lie beside" in capsys.readouterr().err
    with pytest.raises(CogViewError, match="give --base too"):
        assemble(runs / "models" / "x", {"direct": runs / "direct"}, start=None, share=True)
    broken = runs / "models" / "broken"
    assert command(runs, broken, "--share") == 0
    shutil.rmtree(broken / "base")
    with pytest.raises(CogViewError, match="not complete"):
        ModelBundle(broken).check("direct")
    storage.save_without_shared(
        runs / "direct" / "model", runs / "base" / "model", tmp_path / "m", "../../../etc"
    )
    with pytest.raises(CogViewError, match="no directory beside it"):
        Transformer.inspect(tmp_path / "m")


def test_the_hash_is_of_the_tokenizers_beside_it_too(runs: Path) -> None:
    out = runs / "models" / "hashed"
    assert command(runs, out) == 0
    before = model_hash(out)
    weights = runs / "models" / "mine" / "image_tokenizer" / "model.safetensors"
    kept = weights.read_bytes()
    weights.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    assert model_hash(out) != before
    weights.write_bytes(kept)
    (runs / "models" / "mine" / "card.md").write_text("other words")
    (runs / "models" / "mine" / "base" / "config.json").touch()
    assert model_hash(out) == before
