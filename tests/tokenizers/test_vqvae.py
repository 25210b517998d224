"""Image tokenizers against the recorded original, closed forms and properties."""

from fractions import Fraction
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from cogview.errors import CogViewError
from cogview.importers.released_vqvae import import_vqvae
from cogview.tokenizers.loading import side_of
from cogview.tokenizers.vqvae import ImageTokenizer, ImageTokenizerConfig

FIXTURES = Path(__file__).parents[1] / "fixtures" / "cogview1"


def tiny(**changes: object) -> ImageTokenizer:
    settings = {
        "image_size": 12,
        "channels": (16, 16),
        "blocks": (1, 1),
        "codes": 32,
        "code_dim": 4,
    } | changes
    return ImageTokenizer(ImageTokenizerConfig(**settings))


@pytest.fixture
def released() -> tuple[ImageTokenizer, dict[str, torch.Tensor]]:
    data = load_file(FIXTURES / "vqvae_tiny.safetensors")
    state = {k.removeprefix("sd."): v for k, v in data.items() if k.startswith("sd.")}
    return import_vqvae(state, image_size=64), data


def test_released_encoding_and_decoding(released: tuple[ImageTokenizer, dict[str, torch.Tensor]]) -> None:
    model, data = released
    assert torch.equal(model.encode(data["image01"]), data["codes"])
    torch.testing.assert_close(model.features(data["image01"]), data["enc_out_nhwc"], rtol=0, atol=1e-5)
    torch.testing.assert_close(model.decode(data["codes"]), data["decoded"], rtol=0, atol=1e-5)
    alone = model.decode(data["codes"][:1])
    torch.testing.assert_close(alone, data["decoded_flat1"], rtol=0, atol=1e-5)
    normalised = (data["image01"] - model.mean) / model.std
    torch.testing.assert_close(normalised, data["x_normalised"], rtol=0, atol=1e-6)


def test_released_training_step(released: tuple[ImageTokenizer, dict[str, torch.Tensor]]) -> None:
    """Commitment loss, every gradient and the moving-average codebook after one step."""
    model, _ = released
    step = load_file(FIXTURES / "vqvae_train_step.safetensors")
    model.train()
    quantized = model.quantizer(model.encoder(step["x"]).permute(0, 2, 3, 1))
    out = model.decoder(quantized.vectors.permute(0, 3, 1, 2))
    torch.testing.assert_close(out, step["dec"], rtol=0, atol=1e-5)
    torch.testing.assert_close(quantized.loss.view(1), step["diff"], rtol=1e-5, atol=1e-7)
    (F.mse_loss(out, step["x"]) + RELEASED_COMMITMENT * quantized.loss).backward()
    for ours, theirs in (("encoder", "enc_b"), ("decoder", "dec")):
        for i in (0, 2, 4, 6):
            for kind in ("weight", "bias"):
                grad = model.get_parameter(f"{ours}.{i}.{kind}").grad
                torch.testing.assert_close(
                    grad, step[f"grad.{theirs}.blocks.{i}.{kind}"], rtol=1e-4, atol=1e-6
                )
    book = model.quantizer
    torch.testing.assert_close(book.codebook.t(), step["after.quantize_t.embed"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(book.average.t(), step["after.quantize_t.embed_avg"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(book.cluster_size, step["after.quantize_t.cluster_size"], rtol=1e-5, atol=1e-6)


RELEASED_COMMITMENT = 0.25  # the weight the fixture's loss was recorded with


def test_paper_size_has_the_released_number_of_values() -> None:
    with torch.device("meta"):
        model = ImageTokenizer(ImageTokenizerConfig.cogview())
    buffers = sum(
        b.numel() for n, b in model.named_buffers() if n.startswith("quantizer.") and "usage" not in n
    )
    assert sum(p.numel() for p in model.parameters()) + buffers == 23_237_379
    assert model.grid() == (32, 32)


@pytest.mark.parametrize("factors", [(3, 2), (2, 2), (2, 3)])
def test_shapes_follow_the_factors(factors: tuple[int, int]) -> None:
    model = tiny(factors=factors, image_size=24)
    images = torch.rand(2, 3, 24, 24)
    codes = model.encode(images)
    side = 24 // (factors[0] * factors[1])
    assert codes.shape == (2, side * side) and model.grid() == (side, side)
    assert model.decode(codes).shape == images.shape


def test_a_wide_picture_decodes_with_its_grid() -> None:
    model = tiny().eval()
    codes = model.encode(torch.rand(1, 3, 12, 24))
    assert codes.shape == (1, 8)
    assert model.decode(codes, (2, 4)).shape == (1, 3, 12, 24)
    with pytest.raises(CogViewError, match="do not fill a grid"):
        model.decode(codes, (3, 3))


def test_a_size_that_does_not_divide_is_one_clear_line() -> None:
    with pytest.raises(CogViewError, match=r"13x12 px.*codes of 6 px"):
        tiny().encode(torch.rand(1, 3, 12, 13))


def test_saving_keeps_codes_and_pictures(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = tiny().eval()
    model.half().float()  # float16 on disk: start from representable weights
    images = torch.rand(3, 3, 12, 12)
    model.save(tmp_path)
    again = ImageTokenizer.from_directory(tmp_path)
    assert torch.equal(model.encode(images), again.encode(images))
    torch.testing.assert_close(model.decode(model.encode(images)), again.decode(again.encode(images)))
    assert model.fingerprint == again.fingerprint


def test_int8_halves_a_tokenizer_and_keeps_what_it_is(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = tiny().eval()
    model.save(tmp_path / "half")
    model.save(tmp_path / "int8", torch.int8)
    small = ImageTokenizer.from_directory(tmp_path / "int8")
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("int8", "half")]
    assert sizes[0] < 0.75 * sizes[1]
    for name, found in small.state_dict().items():
        wanted = model.state_dict()[name]
        if wanted.ndim == 4:  # half of a 127th of the largest number that makes the same output
            step = wanted.flatten(1).abs().amax(1).view(-1, 1, 1, 1) / 127
            assert ((found - wanted).abs() <= 0.5001 * step).all()
        elif name.startswith(("encoder", "decoder")) or name.endswith("codebook"):
            torch.testing.assert_close(found, wanted.half().float())
    assert small.fingerprint == model.fingerprint
    small.save(tmp_path / "again")  # and so does a copy of it
    assert ImageTokenizer.from_directory(tmp_path / "again").fingerprint == model.fingerprint


def test_int8_without_its_scales_is_refused(tmp_path: Path) -> None:
    tiny().save(tmp_path, torch.int8)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith(".scale"))
    save_file({**tensors, name: tensors[name].to(torch.int8)}, path)
    with pytest.raises(CogViewError, match="does not hold floats"):
        ImageTokenizer.from_directory(tmp_path)
    del tensors[name]
    save_file(tensors, path)
    with pytest.raises(CogViewError, match="does not hold floats"):
        ImageTokenizer.from_directory(tmp_path)


def test_the_fingerprint_knows_the_encoder_and_forgets_the_decoder() -> None:
    model = tiny()
    before = model.fingerprint
    with torch.no_grad():
        model.decoder[0].weight.add_(1.0)
    assert model.fingerprint == before
    with torch.no_grad():
        model.encoder[1].weight.add_(1.0)
    assert model.fingerprint != before


@pytest.mark.parametrize("damage", ["missing", "truncated", "foreign", "shape"])
def test_damaged_files_are_named(tmp_path: Path, damage: str) -> None:
    tiny().save(tmp_path)
    weights = tmp_path / "model.safetensors"
    if damage == "missing":
        weights.unlink()
    elif damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:100])
    elif damage == "foreign":
        save_file({"other": torch.zeros(1)}, weights)
    else:
        state = load_file(weights)
        save_file(state | {"quantizer.codebook": torch.zeros(3, 3)}, weights)
    with pytest.raises(CogViewError, match=str(tmp_path)):
        ImageTokenizer.from_directory(tmp_path)


def test_a_small_tokenizer_learns_to_reconstruct() -> None:
    """One-colour pictures, codes set on their vectors: the error falls far below the mean picture's."""
    torch.manual_seed(0)
    model = tiny(codes=64, attention=False).train()
    images = torch.rand(16, 3, 1, 1).expand(16, 3, 12, 12).contiguous()
    with torch.no_grad():
        model.quantizer.assign(torch.arange(64), model.features(images).reshape(-1, 4))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(60):
        out, quantized = model(images)
        loss = F.mse_loss(out, images) + 0.25 * quantized.loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    baseline = F.mse_loss(images.mean(0, keepdim=True).expand_as(images), images)
    assert F.mse_loss(model.eval()(images)[0], images) < 0.3 * baseline


def test_an_encoder_may_read_less_than_the_decoder_returns() -> None:
    """Codes of an image are those of its box-reduced copy; the decoder returns the full size."""
    torch.manual_seed(0)
    wide = tiny(
        image_size=24, reduce=2, decoder_factors=(4, 3), decoder_channels=(8, 16), decoder_blocks=(0, 1)
    )
    assert wide.config.factor == 12 and wide.grid() == (2, 2)
    narrow = tiny()
    narrow.load_state_dict({k: v for k, v in wide.state_dict().items() if "decoder" not in k}, strict=False)
    images = torch.rand(3, 3, 24, 24)
    reduced = images.unflatten(2, (12, 2)).unflatten(4, (12, 2)).mean((3, 5))
    assert torch.equal(wide.encode(images), narrow.encode(reduced))
    assert wide.decode(wide.encode(images)).shape == images.shape
    assert wide.fingerprint == narrow.fingerprint


def test_a_code_grid_need_not_divide_the_image() -> None:
    """3 x 3 codes of 16 px where the steps alone would give 4 x 4; wider images keep the ratio."""
    torch.manual_seed(0)
    model = tiny(image_size=16, factors=(2, 2), resize=(3, 4))
    assert model.grid() == (3, 3) and model.config.factor == Fraction(16, 3)
    images = torch.rand(2, 3, 16, 32)
    codes = model.encode(images)
    assert codes.shape == (2, 18) and model.decode(codes, (3, 6)).shape == images.shape
    assert (side_of(model, 3), side_of(model, 6)) == images.shape[2:]
    with pytest.raises(CogViewError, match="multiples of 16"):
        model.encode(torch.rand(1, 3, 16, 24))
    plain = tiny(image_size=16, factors=(2, 2))
    for own, other in zip(plain.state_dict().values(), model.state_dict().values(), strict=True):
        own.copy_(other)
    assert model.fingerprint != plain.fingerprint and plain.grid() == (4, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 24, "reduce": 2}, "multiply to 6"),
        ({"resize": (2, 4)}, "lowest terms"),
        ({"resize": (3, 4)}, "not a multiple of 24"),
        ({"decoder_factors": (6,)}, "same length"),
        ({"architecture": "paper", "factors": (2, 2), "image_size": 16, "reduce": 2}, "mirrors"),
        ({"method": "finite_scalar"}, "code_dim"),
    ],
)
def test_decoders_that_do_not_fit_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(**changes)
