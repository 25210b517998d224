"""A picture's facts survive in its file; foreign and damaged files are told apart."""

import hashlib
import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from cogview.checkpoints.provenance import KEY, Provenance, model_hash, png_bytes, read, save_png
from cogview.errors import CogViewError

FACTS = Provenance(
    software="cogview 0.1.0",
    prompt="一个蓝色的小怪物，圆眼睛",
    seed=7,
    index=3,
    model="pictogram",
    model_hash="ab" * 32,
    settings={"temperature": 1.0, "top_k": 200, "style": None, "guidance": [1, 2]},
)
PIXELS = Image.frombytes("RGB", (2, 2), bytes(range(12)))


def png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """The chunks of a PNG file, read by the format's specification."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = [], 8
    while at < len(data):
        length, name = struct.unpack(">I4s", data[at : at + 8])
        chunks.append((name, data[at + 8 : at + 8 + length]))
        at += 12 + length
    return chunks


prompts = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)


@given(
    prompts,
    st.integers(0, 2**64 - 1),
    st.dictionaries(st.text(max_size=5), st.integers(-(2**63), 2**63) | st.none()),
)
def test_facts_come_back_and_pixels_stay(prompt: str, seed: int, settings: dict[str, int | None]) -> None:
    facts = FACTS.model_copy(update={"prompt": prompt, "seed": seed, "settings": settings})
    data = png_bytes(PIXELS, facts)
    assert read(data) == facts
    assert Image.open(io.BytesIO(data)).tobytes() == PIXELS.tobytes()


def test_the_file_is_readable_by_others_and_the_same_every_time(tmp_path: Path) -> None:
    save_png(PIXELS, tmp_path / "a.png", FACTS)
    data = (tmp_path / "a.png").read_bytes()
    assert data == png_bytes(PIXELS, FACTS)
    texts = dict(body.split(b"\0", 1) for name, body in png_chunks(data) if name == b"iTXt")
    assert texts[b"Description"].endswith(FACTS.prompt.encode())
    assert b"cogview 0.1.0" in texts[b"Software"]
    assert read(tmp_path / "a.png") == FACTS


def entry(text: str) -> bytes:
    info, buffer = PngImagePlugin.PngInfo(), io.BytesIO()
    info.add_itxt(KEY, text)
    PIXELS.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def bomb() -> bytes:
    """A PNG whose text entry unpacks to 64 MiB."""
    body = KEY.encode() + b"\0\0" + zlib.compress(b" " * (64 << 20))
    chunk = struct.pack(">I", len(body)) + b"zTXt" + body + struct.pack(">I", zlib.crc32(b"zTXt" + body))
    plain = png_bytes(PIXELS, FACTS)
    return plain[:33] + chunk + plain[33:]


def test_pictures_without_facts_have_none() -> None:
    buffer = io.BytesIO()
    PIXELS.save(buffer, "PNG")
    assert read(buffer.getvalue()) is None
    buffer = io.BytesIO()
    PIXELS.save(buffer, "JPEG")
    assert read(buffer.getvalue()) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no picture",
        png_bytes(PIXELS, FACTS)[:40],
        entry("{"),
        entry("[" * 5000),
        entry("{}"),
        entry(FACTS.model_dump_json().replace('"format":1', '"format":2')),
        entry(FACTS.model_dump_json().replace('"seed"', '"sede"')),
        bomb(),
    ],
    ids=["empty", "text", "cut", "no json", "deep", "no fields", "newer", "misspelt", "bomb"],
)
def test_what_is_damaged_is_one_line(data: bytes) -> None:
    with pytest.raises(CogViewError) as caught:
        read(data)
    assert "\n" not in str(caught.value)


def test_unwritable_and_absent_places(tmp_path: Path) -> None:
    with pytest.raises(CogViewError, match="cannot be written"):
        save_png(PIXELS, tmp_path / "absent" / "a.png", FACTS)
    with pytest.raises(CogViewError, match="absent"):
        read(tmp_path / "absent.png")


def make_model(root: Path) -> Path:
    (root / "base").mkdir(parents=True)
    (root / "family.json").write_text("{}")
    (root / "base/model.safetensors").write_bytes(b"weights")
    (root / "card.md").write_text("a card")
    return root


def test_model_hash_is_of_names_and_weights(tmp_path: Path) -> None:
    root = make_model(tmp_path / "a")
    lines = "".join(
        f"{name}\0{hashlib.sha256(content).hexdigest()}\n"
        for name, content in (("base/model.safetensors", b"weights"), ("family.json", b"{}"))
    )
    first = model_hash(root)
    assert first == hashlib.sha256(lines.encode()).hexdigest()
    assert model_hash(make_model(tmp_path / "b")) == first
    (root / "card.md").write_text("another card")
    assert model_hash(root) == first
    (root / "base/model.safetensors").rename(root / "base/other.safetensors")
    assert model_hash(root) != first


def test_it_imports_no_torch() -> None:
    code = "import sys, cogview.checkpoints.provenance; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
