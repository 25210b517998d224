"""CogView2's image tokenizer: released names and sizes, its arithmetic written out, what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from cogview.cli.app import main
from cogview.config import validate
from cogview.errors import CogViewError
from cogview.importers.released_hvqvae import (
    BUFFERS,
    PARTS,
    import_hvqvae,
    read_hvqvae,
    released_config,
    rename,
)
from cogview.tokenizers.hvqvae import HierarchicalConfig, HierarchicalTokenizer
from cogview.tokenizers.loading import read_image_tokenizer
from cogview.tokenizers.vqvae import ImageTokenizer, ImageTokenizerConfig
from tests.parity.hvqvae import State, code_vectors, nearest, paint, recipe_weights

KEYS = Path(__file__).parents[1] / "fixtures/cogview2/keys_icetk_image_full.json"
RELEASED: dict[str, list[int]] = json.loads(KEYS.read_text())
SHRUNK = {128: 32, 256: 64, 512: 128, 20_000: 50}  # widths and codes; norms keep their 32 groups


def tiny_released() -> State:
    """A released state dict, four times narrower and of 50 codes."""
    shapes = {key: [SHRUNK.get(size, size) for size in shape] for key, shape in RELEASED.items()}
    return recipe_weights(shapes)


@pytest.fixture(scope="module")
def released() -> State:
    return tiny_released()


@pytest.fixture(scope="module")
def tiny(released: State) -> HierarchicalTokenizer:
    return import_hvqvae(released)


def test_the_full_size_has_every_released_tensor() -> None:
    with torch.device("meta"):
        model = HierarchicalTokenizer()
    state = {name: list(x.shape) for name, x in model.state_dict().items() if name != "quantizer.usage"}
    assert {rename(key): shape for key, shape in RELEASED.items()} == state
    assert len(state) == 329
    assert sum(torch.Size(shape).numel() for shape in state.values()) == 102_579_497  # 102.6 M


def test_its_sizes_are_read_from_the_weights() -> None:
    meta = {key: torch.empty(shape, device="meta") for key, shape in RELEASED.items()}
    assert released_config({rename(key): x for key, x in meta.items()}) == HierarchicalConfig()


@pytest.mark.parametrize("rate", [4, 8, 16])
@pytest.mark.parametrize("size", [(32, 32), (16, 48)])
def test_codes_and_pictures_are_what_the_written_out_arithmetic_says(
    rate: int, size: tuple[int, int], released: State, tiny: HierarchicalTokenizer
) -> None:
    torch.manual_seed(1)
    images, scale = torch.rand(2, 3, *size), {4: 0, 8: 1, 16: 2}[rate]
    grid = (size[0] // rate, size[1] // rate)
    wanted = code_vectors(released, images, scale)
    vectors = tiny.features(images, rate)
    assert vectors.shape == (2, *grid, 64)
    torch.testing.assert_close(vectors, wanted, rtol=1e-5, atol=1e-5)
    codes = tiny.encode(images, rate)
    assert torch.equal(codes, nearest(released, wanted))
    painted = tiny.decode(codes, grid, rate)
    torch.testing.assert_close(painted, paint(released, codes, grid, scale), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(tiny.all_features(images)[scale], vectors)


def test_the_first_of_equal_codes_is_taken(released: State) -> None:
    twins = dict(released)
    book = twins["quantize.embed.weight"].clone()
    book[25:] = book[:25]
    model = import_hvqvae(twins | {"quantize.embed.weight": book})
    assert int(model.encode(torch.rand(1, 3, 64, 64), 4).max()) < 25


def test_saved_and_read_back_it_gives_the_same_codes(tmp_path: Path, tiny: HierarchicalTokenizer) -> None:
    images = torch.rand(1, 3, 32, 32)
    tiny.save(tmp_path / "a", torch.float32)
    again = HierarchicalTokenizer.from_directory(tmp_path / "a")
    assert torch.equal(again.encode(images), tiny.encode(images))
    codes = tiny.encode(images)
    torch.testing.assert_close(again.decode(codes), tiny.decode(codes))
    assert again.fingerprint == tiny.fingerprint
    tiny.save(tmp_path / "b")
    assert HierarchicalTokenizer.from_directory(tmp_path / "b").fingerprint == tiny.fingerprint
    assert (tmp_path / "b/model.safetensors").stat().st_size < (
        tmp_path / "a/model.safetensors"
    ).stat().st_size


def test_the_fingerprint_is_the_codes_not_the_pictures(released: State, tiny: HierarchicalTokenizer) -> None:
    changed = lambda key: import_hvqvae(released | {key: released[key] + 1}).fingerprint  # noqa: E731
    assert changed("decs.1.conv_out.bias") == tiny.fingerprint
    for key in ("enc.conv_in.bias", "quantize.proj.bias", "quantize.embed.weight"):
        assert changed(key) != tiny.fingerprint


def test_averages_of_training_may_be_missing(released: State, tiny: HierarchicalTokenizer) -> None:
    kept = {k: x for k, x in released.items() if k not in ("quantize.embed_avg", "quantize.cluster_size")}
    model = import_hvqvae(kept)
    assert model.fingerprint == tiny.fingerprint
    assert torch.equal(model.quantizer.average, model.quantizer.codebook)


def test_the_names_in_both_directions() -> None:
    assert len({rename(key) for key in RELEASED}) == len(RELEASED)
    assert set(PARTS) == {key.split(".")[0] for key in RELEASED}
    assert all(f"quantize.{name}" in RELEASED for name in BUFFERS)


def without(key: str) -> Callable[[State], State]:
    return lambda state: {k: x for k, x in state.items() if k != key}


def with_(key: str, tensor: torch.Tensor) -> Callable[[State], State]:
    return lambda state: state | {key: tensor}


WRONG: dict[str, tuple[Callable[[State], State], str]] = {
    "foreign": (with_("vit.weight", torch.zeros(2)), "unexpected key 'vit.weight'"),
    "extra": (with_("enc.extra.weight", torch.zeros(2)), "one tensor too many, encoder.extra.weight"),
    "no codebook": (without("quantize.embed.weight"), "lacks quantizer.codebook"),
    "no input": (without("enc.conv_in.weight"), "lacks encoder.conv_in.weight"),
    "no bias": (without("decs.2.norm_out.bias"), "lacks decoders.2.norm_out.bias"),
    "no level": (without("decs.0.up.3.block.0.conv1.weight"), "lacks decoders.0.up.3"),
    "wrong shape": (
        with_("enc.norm_out.bias", torch.zeros(7)),
        r"norm_out.bias is \(7,\), expected \(128,\)",
    ),
    "flat": (with_("quantize.embed.weight", torch.zeros(7)), "number of dimensions"),
    "not a number": (with_("quantize.proj.bias", torch.full((64,), torch.nan)), "not finite"),
    "nothing": (lambda state: {}, "lacks encoder.conv_in.weight"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_file_is_one_line_with_its_name(name: str, released: State, tmp_path: Path) -> None:
    spoil, message = WRONG[name]
    torch.save({"module": spoil(released)}, tmp_path / "ice_image.pt")
    with pytest.raises(CogViewError, match=message) as caught:
        read_hvqvae(tmp_path / "ice_image.pt")
    assert str(caught.value).startswith(str(tmp_path)) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"rate": 5}, "rate 5 is none of 4, 8, 16"),
        ({"image_size": 100}, "not a multiple of the rate"),
        ({"groups": 48}, "groups 48"),
        ({"decoders": ((1, 2), (1, 2, 4))}, "each before it one more"),
        ({"attention": ((4,),)}, "of every decoder"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(facts: dict[str, object], message: str) -> None:
    with pytest.raises(CogViewError, match=message):
        validate(HierarchicalConfig, facts, "test")


def test_pictures_and_codes_that_do_not_fit_are_refused(tiny: HierarchicalTokenizer) -> None:
    with pytest.raises(CogViewError, match="36x32 px does not divide into codes of 8 px"):
        tiny.encode(torch.rand(1, 3, 32, 36))
    with pytest.raises(CogViewError, match="no codes of 32 px"):
        tiny.encode(torch.rand(1, 3, 32, 32), 32)
    with pytest.raises(CogViewError, match="6 codes do not fill a grid of 2 x 2"):
        tiny.decode(torch.zeros(1, 6, dtype=torch.int64))


def test_a_directory_of_another_model_is_refused(tmp_path: Path, tiny: HierarchicalTokenizer) -> None:
    tiny.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"codes": 51}))
    with pytest.raises(CogViewError, match=r"does not fit its config.json: quantizer.codebook"):
        HierarchicalTokenizer.from_directory(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"hello")
    with pytest.raises(CogViewError, match=r"cannot be read|damaged"):
        HierarchicalTokenizer.from_directory(tmp_path)


def test_a_directory_says_which_kind_it_holds(tmp_path: Path, tiny: HierarchicalTokenizer) -> None:
    tiny.save(tmp_path / "several")
    small = ImageTokenizerConfig(image_size=12, factors=(3,), channels=(8,), blocks=(0,), codes=8, code_dim=4)
    ImageTokenizer(small).save(tmp_path / "one")
    assert type(read_image_tokenizer(tmp_path / "several")) is HierarchicalTokenizer
    assert type(read_image_tokenizer(tmp_path / "one")) is ImageTokenizer
    (tmp_path / "one/config.json").write_text("[]")
    with pytest.raises(CogViewError, match=r"config\.json"):
        read_image_tokenizer(tmp_path / "one")


def test_eval_tokenizer_measures_it(
    tmp_path: Path, tiny: HierarchicalTokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.save(tmp_path / "tokenizer")
    config = json.loads((tmp_path / "tokenizer/config.json").read_text())
    (tmp_path / "tokenizer/config.json").write_text(json.dumps(config | {"image_size": 32}))
    (tmp_path / "pictures").mkdir()
    for i in range(2):
        Image.new("RGB", (40, 32), (90 * i, 0, 0)).save(tmp_path / f"pictures/{i}.png")
    command = ["eval", "tokenizer", "--tokenizer", str(tmp_path / "tokenizer"), "--split", "", "--json"]
    assert main([*command, "--data", str(tmp_path / "pictures")]) == 0, capsys.readouterr().err
    assert f'"{tiny.fingerprint}"' in capsys.readouterr().out
