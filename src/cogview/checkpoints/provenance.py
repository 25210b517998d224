"""Provenance of generated images, written into their files: prompt, seed, settings, model and its hash.

It is stored in a PNG's text chunks: one ``cogview`` entry in JSON, which is read back, and a few entries that
viewers display. There is no date, so the same image is the same file.

Labels mark an image as generated, as required by laws and platforms (docs/safety.md). In the file: the
``AIGC`` entry of GB 45438-2025, as a text chunk in PNG and in XMP in every format, and IPTC's digital source
type. On the image, optionally, in a corner: AI生成. All of them are functions of the image's provenance.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import escape

from PIL import Image, ImageDraw, PngImagePlugin, UnidentifiedImageError
from pydantic import Field, JsonValue

from cogview.config import Config, load_json, validate
from cogview.errors import CogViewError
from cogview.files import is_regular, open_regular, parse_json, write_file
from cogview.image_files import open_image

AIGC = "AIGC"
XMP = "XML:com.adobe.xmp"  # the key of XMP in a PNG's text chunks
PRODUCER = "COGVIEW_CONTENT_PRODUCER"  # environment variable: who is responsible for generated content
SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
SHARE, LEGIBLE = 0.05, 10  # height of a visible label: share of the shorter side, minimum in pixels
SMALLEST = 128  # pixels of the shorter side; smaller images have no visible label


@dataclass(frozen=True)
class Label:
    """The parties named in labels.

    producer: name or registration of the service that generates; propagator, propagate_id: name of a service
    that distributes images, and its identifier for them.
    """

    producer: str = field(default_factory=lambda: os.environ.get(PRODUCER, ""))
    propagator: str = ""
    propagate_id: str = ""

    def aigc(self, software: str, facts: str) -> str:
        """The ``AIGC`` entry as JSON; the image's identifier is a hash of ``facts``."""
        entry = {
            "Label": "1",  # generated, not only possibly so (2) or suspected (3)
            "ContentProducer": self.producer or software,
            "ProduceID": hashlib.sha256(facts.encode()).hexdigest()[:32],
            "ReservedCode1": "",
            "ContentPropagator": self.propagator,
            "PropagateID": self.propagate_id,
            "ReservedCode2": "",
        }
        return json.dumps(entry, ensure_ascii=False, separators=(",", ":"))


def source_type(edited: bool) -> str:
    """IPTC's digital source type: entirely generated, or an input image with generated parts."""
    kind = "compositeWithTrainedAlgorithmicMedia" if edited else "trainedAlgorithmicMedia"
    return SOURCE_TYPES + kind


def xmp(aigc: str, software: str, edited: bool = False) -> str:
    """The XMP packet."""
    name, _, version = software.partition(" ")
    return f"""<?xpacket begin="\N{ZERO WIDTH NO-BREAK SPACE}" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
    xmlns:TC260="http://www.tc260.org.cn/ns/AIGC/1.0/">
   <xmp:CreatorTool>{escape(software)}</xmp:CreatorTool>
   <Iptc4xmpExt:DigitalSourceType>{source_type(edited)}</Iptc4xmpExt:DigitalSourceType>
   <Iptc4xmpExt:AISystemUsed>{escape(name)}</Iptc4xmpExt:AISystemUsed>
   <Iptc4xmpExt:AISystemVersionUsed>{escape(version)}</Iptc4xmpExt:AISystemVersionUsed>
   <TC260:AIGC>{escape(aigc)}</TC260:AIGC>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>"""


# ---------------------------------------------------------------------------------------------- visible

Stroke = tuple[tuple[int, int], ...]  # points of a polyline in a square of 100 units
_GLYPHS: tuple[tuple[int, tuple[Stroke, ...]], ...] = (  # width and strokes of each character
    (84, (((4, 96), (42, 4), (80, 96)), ((19, 64), (65, 64)))),  # A
    (24, (((12, 4), (12, 96)),)),  # I
    (100, (  # 生
        ((30, 4), (22, 22), (8, 40)), ((24, 26), (88, 26)), ((16, 60), (84, 60)), ((52, 2), (52, 96)),
        ((4, 96), (96, 96)),
    )),
    (100, (  # 成
        ((14, 24), (94, 24)), ((16, 24), (16, 56), (12, 78), (4, 96)),
        ((16, 50), (44, 50), (42, 82), (30, 78)),
        ((54, 2), (57, 46), (70, 82), (86, 95), (95, 93), (96, 76)), ((82, 40), (68, 72), (46, 94)),
        ((70, 4), (82, 13)),
    )),
)  # fmt: skip
_GAP, _STROKE, _TIMES = 14, 9, 4


def with_visible_label(image: Image.Image) -> Image.Image:
    """The image with AI生成 in its lower right corner; the height of the letters is 5 % of the shorter side.

    An image with a shorter side below 128 pixels is returned unchanged, since letters of that size would not
    be legible.
    """
    shorter = min(image.size)
    if shorter < SMALLEST:
        return image
    height = max(LEGIBLE, math.ceil(SHARE * shorter))
    letters = _letters(height)
    pad = max(2, height // 4)
    plate = Image.new("RGBA", (letters.width + 2 * pad, letters.height + 2 * pad), (0, 0, 0, 150))
    plate.paste((255, 255, 255, 255), (pad, pad), letters)
    labelled = image.convert("RGBA")
    labelled.alpha_composite(plate, (image.width - plate.width - pad, image.height - plate.height - pad))
    return labelled if image.mode == "RGBA" else labelled.convert(image.mode)


def _letters(height: int) -> Image.Image:
    """The characters as a mask (L) of this height."""
    unit = height * _TIMES / 100
    total = sum(width for width, _ in _GLYPHS) + _GAP * (len(_GLYPHS) - 1)
    mask = Image.new("L", (round(total * unit), height * _TIMES))
    draw, left = ImageDraw.Draw(mask), 0
    for width, strokes in _GLYPHS:
        for stroke in strokes:
            points = [((left + x) * unit, y * unit) for x, y in stroke]
            draw.line(points, fill=255, width=max(_TIMES, round(_STROKE * unit)), joint="curve")
        left += width + _GAP
    return mask.resize((max(1, mask.width // _TIMES), height), Image.Resampling.BOX)


KEY = "cogview"
EDITING = ("edit", "upscale")  # tasks whose results contain parts of an input image
MODEL_FILES = (".json", ".model", ".safetensors")


class Provenance(Config):
    """Everything needed to generate an image again.

    index: number of the image in its request (0-based), which selects its random stream; model_hash:
    :func:`model_hash` of the model's directory; settings: all other inputs that affect the result.
    """

    format: int = Field(1, ge=1, le=1)
    software: str
    prompt: str
    seed: int
    index: int = Field(0, ge=0)
    model: str
    model_hash: str
    settings: dict[str, JsonValue] = Field(default_factory=dict)


def model_hash(directory: Path | str) -> str:
    """SHA-256, in hexadecimal, over the names and contents of a model's weights and configurations.

    The model card and other texts are excluded; tokenizers that a family shares with another are included.
    Raises CogViewError if a file cannot be read.
    """
    root, digest = Path(directory), hashlib.sha256()
    try:
        files = {path.relative_to(root).as_posix(): path for path in root.rglob("*")}
        for name, path in [*sorted(files.items()), *_shared_tokenizers(root)]:
            if path.suffix in MODEL_FILES and is_regular(path):
                with open_regular(path) as file:
                    content = hashlib.file_digest(file, "sha256").hexdigest()
                digest.update(f"{name}\0{content}\n".encode(errors="surrogateescape"))
    except OSError as error:
        raise CogViewError(f"{error.filename or root}: cannot be read ({error.strerror})") from error
    return digest.hexdigest()


def _shared_tokenizers(root: Path) -> list[tuple[str, Path]]:
    """Name and path of every file of the tokenizers outside of ``root`` that its family.json names."""
    try:
        facts = load_json(root / "family.json")
    except CogViewError:
        return []
    fields = ("image_tokenizer", "text_tokenizer")
    names = [str(facts.get(field, "")) for field in fields] if isinstance(facts, dict) else []
    entries = []
    for name in names:
        if name.startswith("../") and "\0" not in name:
            files = [root / name, *(root / name).rglob("*")]
            entries += sorted((f"{name}/{path.relative_to(root / name).as_posix()}", path) for path in files)
    return entries


def png_bytes(image: Image.Image, provenance: Provenance, label: Label | None = None) -> bytes:
    """The image as a PNG file with its provenance and label in the metadata."""
    metadata = PngImagePlugin.PngInfo()
    aigc, packet = label_texts(provenance, label)
    metadata.add_itxt(AIGC, aigc)
    metadata.add_itxt(XMP, packet)
    metadata.add_itxt(KEY, provenance.model_dump_json(), zip=False)
    metadata.add_itxt("Software", provenance.software)
    metadata.add_itxt("Description", provenance.prompt)
    metadata.add_itxt("Source", f"generated by the model {provenance.model} ({provenance.model_hash[:12]})")
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=metadata)
    return buffer.getvalue()


def label_texts(provenance: Provenance, label: Label | None = None) -> tuple[str, str]:
    """The ``AIGC`` entry and the XMP packet of an image."""
    facts = provenance.model_dump_json()
    aigc = (label or Label()).aigc(provenance.software, facts)
    return aigc, xmp(aigc, provenance.software, provenance.settings.get("task") in EDITING)


def save_png(image: Image.Image, path: Path | str, provenance: Provenance) -> None:
    """Write :func:`png_bytes` to a file; raises CogViewError if that fails."""
    try:
        write_file(Path(path), png_bytes(image, provenance))
    except OSError as error:
        raise CogViewError(f"{path}: cannot be written ({error.strerror or error})") from error


def read(file: Path | str | bytes) -> Provenance | None:
    """The provenance in an image (a path, or the bytes of a file); None if it has none.

    Raises CogViewError if the file is not an image, or the entry is damaged.
    """
    where = "image" if isinstance(file, bytes) else str(file)
    text = _text(io.BytesIO(file) if isinstance(file, bytes) else Path(file), where)
    if text is None:
        return None
    try:
        data = parse_json(text, where)
    except CogViewError as error:
        raise CogViewError(f"{where}: its provenance is damaged") from error
    return validate(Provenance, data, f"{where}: its provenance")


def _text(file: Path | io.BytesIO, where: str) -> str | None:
    """The ``cogview`` entry among the text chunks before the pixels, whose size Pillow limits."""
    try:
        with open_image(file) as image:
            text = image.info.get(KEY)
    except UnidentifiedImageError as error:
        raise CogViewError(f"{where}: not an image") from error
    except (CogViewError, MemoryError):
        raise
    except Exception as error:  # damaged headers may raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CogViewError(f"{where}: cannot be read as an image ({reason:.300})") from error
    return str(text) if isinstance(text, str) else None


def software() -> str:
    """The value of ``software``: this package and its version."""
    from cogview import __version__

    return f"cogview {__version__}"


__all__ = ["Provenance", "model_hash", "png_bytes", "read", "save_png", "software"]
