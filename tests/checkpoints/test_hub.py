"""Families pushed to a local hub by the hub's own client, and fetched from it again; never the network."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import cogview
from cogview.checkpoints.hub import check, is_repository
from cogview.cli.app import main
from cogview.errors import CogViewError
from tests.generation import tiny, tiny2

huggingface_hub = pytest.importorskip("huggingface_hub", reason="the extra `hub` is not installed")
from tests.checkpoints.hub_server import Hub, hub_server  # noqa: E402

TOKEN = "hf_a_token_of_the_test"


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tiny.write(tmp_path_factory.mktemp("family"), upscaling=True, captioning=True)
    (found / "card.md").write_text("# tiny\n\nA model for tests.\n")
    return found


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, Hub]]:
    with hub_server(TOKEN) as found:
        yield found


@pytest.fixture
def hub(server: tuple[str, Hub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The hub, asked for with an empty cache."""
    monkeypatch.setenv("HF_ENDPOINT", server[0])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    return server[1]


def test_a_model_that_is_pushed_draws_the_same_when_fetched(hub: Hub, family: Path, tmp_path: Path) -> None:
    model = cogview.from_pretrained(family)
    address = model.push_to_hub("someone/tiny", token=TOKEN, license="apache-2.0")
    commit = address.rpartition("/")[2]
    found = cogview.from_pretrained("someone/tiny")
    assert found.bundle.directory != family and found.model_hash == model.model_hash
    assert found.generate("a red circle", seed=7)[0].png() == model.generate("a red circle", seed=7)[0].png()
    assert commit in str(found.bundle.directory)


def test_revisions_and_the_cache_without_a_hub(
    hub: Hub, family: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = cogview.from_pretrained(family)
    model.push_to_hub("someone/versions", token=TOKEN)
    model.push_to_hub("someone/versions", token=TOKEN, branch="next", license="mit")
    main_one = cogview.from_pretrained("someone/versions").bundle.directory
    next_one = cogview.from_pretrained("someone/versions", revision="next").bundle.directory
    assert "license: other" in (main_one / "README.md").read_text()
    assert "license: mit" in (next_one / "README.md").read_text()
    assert cogview.from_pretrained("someone/versions@next").bundle.directory == next_one
    before = len(hub.asked)
    again = cogview.from_pretrained("someone/versions", local_files_only=True)
    assert again.bundle.directory == main_one and len(hub.asked) == before
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert cogview.from_pretrained("someone/versions").bundle.directory == main_one
    with pytest.raises(CogViewError, match="not in the cache"):
        cogview.from_pretrained("someone/else", local_files_only=True)


def test_the_command_line_takes_a_repository(hub: Hub, family: Path, tmp_path: Path) -> None:
    cogview.from_pretrained(family).push_to_hub("someone/cli", token=TOKEN)
    asked = ["generate", "a red circle", "--model", "someone/cli", "--seed", "7", "-o", str(tmp_path / "out")]
    assert main(asked) == 0
    [made] = cogview.from_pretrained(family).generate("a red circle", seed=7)
    assert [path.read_bytes() for path in (tmp_path / "out").glob("*.png")] == [made.png()]


def test_a_changed_file_is_refused(hub: Hub, family: Path) -> None:
    cogview.from_pretrained(family).push_to_hub("someone/changed", token=TOKEN)
    files = hub.find("someone/changed", "main")
    assert files is not None
    data = bytearray(files[1]["base/model.safetensors"])
    data[-1] ^= 1
    hub.commit("someone/changed", "main", {"base/model.safetensors": bytes(data)})
    with pytest.raises(CogViewError, match=r"base/model.safetensors differs from its checksum"):
        cogview.from_pretrained("someone/changed")


def test_nothing_but_what_belongs_to_a_model_is_fetched(hub: Hub, family: Path) -> None:
    cogview.from_pretrained(family).push_to_hub("someone/more", token=TOKEN)
    hub.commit("someone/more", "main", {"evil.py": b"raise SystemExit", "big.bin": b"x", "weights.pkl": b"x"})
    found = cogview.from_pretrained("someone/more").bundle.directory
    assert {path.suffix for path in found.rglob("*") if path.is_file()} <= {
        ".json",
        ".model",
        ".safetensors",
        ".md",
        "",
    }


def test_the_card_has_what_the_hub_checks(family: Path, hub: Hub, tmp_path: Path) -> None:
    place = cogview.from_pretrained(family).save_pretrained(
        tmp_path / "made", license="mit", datasets=["a/b"]
    )
    text = (place / "README.md").read_text()
    told = yaml.safe_load(text.split("---\n")[1])
    assert told["pipeline_tag"] == "text-to-image" and told["library_name"] == "cogview"
    assert told["license"] == "mit" and told["language"] == ["zh", "en"] and told["datasets"] == ["a/b"]
    loaded = huggingface_hub.ModelCard(text)  # the client's own reader
    assert loaded.data.license == "mit" and "A model for tests." in loaded.text


def test_checksums_are_those_of_sha256sum(family: Path, tmp_path: Path) -> None:
    place = cogview.from_pretrained(family).save_pretrained(tmp_path / "made")
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=place, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    listed = [line.split("  ")[1] for line in (place / "SHA256SUMS").read_text().splitlines()]
    present = [path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()]
    assert set(listed) == set(present) - {"SHA256SUMS"}


def test_tokenizers_of_a_neighbour_come_along(tmp_path: Path) -> None:
    """As of the shipped pictogram-2, which uses those of pictogram."""
    place = cogview.from_pretrained("pictogram-2").save_pretrained(tmp_path / "elsewhere" / "made")
    assert (place / "text.model").is_file() and (place / "image_tokenizer" / "model.safetensors").is_file()
    asked = {"seed": 7, "first_stage_only": True}
    images = [
        cogview.from_pretrained(name).generate("a red apple", **asked)[0].codes.tolist()
        for name in (place, "pictogram-2")
    ]
    assert images[0] == images[1]


def test_a_list_of_checksums_cannot_name_files_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    name = hashlib.sha256(b"x").hexdigest()
    inside = tmp_path / "inside"
    inside.mkdir()
    for line in (f"{name}  ../x", f"{name}  {tmp_path / 'x'}", "nonsense"):
        (inside / "SHA256SUMS").write_text(line + "\n")
        with pytest.raises(CogViewError, match="not a line of checksums"):
            check(inside)


def test_what_is_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_repository("someone/tiny") and is_repository("someone/tiny@v1.0")
    for name in ("pictogram", "./models/mine", "/models/mine", "a/b/c", "../a", "a/", Path("someone/tiny")):
        assert not is_repository(name)
    (tmp_path / "models").mkdir()
    assert not is_repository("models/mine")  # a path with a mistake in it


def test_what_is_wrong_is_one_line(hub: Hub, family: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = cogview.from_pretrained(family)
    model.push_to_hub("someone/there", token=TOKEN)
    with pytest.raises(CogViewError, match=r"someone/none: there is no such repository"):
        cogview.from_pretrained("someone/none")
    with pytest.raises(CogViewError, match=r"there is no such revision"):
        cogview.from_pretrained("someone/there", revision="v9")
    with pytest.raises(CogViewError, match="someone/there: "):
        model.push_to_hub("someone/there", token="hf_wrong")
    with pytest.raises(CogViewError, match="not a repository"):
        model.push_to_hub("there", token=TOKEN)


def test_both_kinds_of_family_can_be_written(tmp_path: Path) -> None:
    editor = tiny2.write(tmp_path / "editor", enlarging=True)
    place = cogview.from_pretrained(editor).save_pretrained(tmp_path / "made")
    assert cogview.from_pretrained(place).capabilities == cogview.from_pretrained(editor).capabilities
