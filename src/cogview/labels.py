"""Labels that say that an image was generated, as laws and platforms ask for them (docs/safety.md).

In the file: the ``AIGC`` entry of GB 45438-2025, as a text chunk in PNG and in XMP everywhere, and IPTC's
digital source type. On the image, if wanted, in a corner: AI生成. All of it depends on the facts of the
image, so the same image stays the same file.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

from PIL import Image, ImageDraw

AIGC = "AIGC"
XMP = "XML:com.adobe.xmp"  # the key of XMP among a PNG's texts
PRODUCER = "COGVIEW_CONTENT_PRODUCER"  # environment variable: who answers for what is generated here
SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
SHARE, LEGIBLE = 0.05, 10  # height of a visible label: of the shorter side, and at least, in pixels
SMALLEST = 128  # pixels of the shorter side under which there is no visible label


@dataclass(frozen=True)
class Label:
    """What is written into files.

    producer: name or registration of the service that generates; propagator, propagate_id: of one that passes
    images on, and the number that it gives them.
    """

    producer: str = field(default_factory=lambda: os.environ.get(PRODUCER, ""))
    propagator: str = ""
    propagate_id: str = ""

    def aigc(self, software: str, facts: str) -> str:
        """The ``AIGC`` entry, JSON; ``facts`` are what the image's number is made of."""
        told = {
            "Label": "1",  # generated, not only possibly so (2) or suspected (3)
            "ContentProducer": self.producer or software,
            "ProduceID": hashlib.sha256(facts.encode()).hexdigest()[:32],
            "ReservedCode1": "",
            "ContentPropagator": self.propagator,
            "PropagateID": self.propagate_id,
            "ReservedCode2": "",
        }
        return json.dumps(told, ensure_ascii=False, separators=(",", ":"))


def source_type(edited: bool) -> str:
    """IPTC's digital source type: wholly generated, or a given picture with generated parts."""
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

Stroke = tuple[tuple[int, int], ...]  # points of a line on a square of 100 units
_GLYPHS: tuple[tuple[int, tuple[Stroke, ...]], ...] = (  # the width of each character, and its strokes
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
    """The image with AI生成 in its lower right corner, its letters a twentieth of the shorter side high.

    An image whose shorter side has under 128 pixels is returned as it is: letters of that share could not be
    read on it.
    """
    shorter = min(image.size)
    if shorter < SMALLEST:
        return image
    height = max(LEGIBLE, math.ceil(SHARE * shorter))
    letters = _letters(height)
    pad = max(2, height // 4)
    plate = Image.new("RGBA", (letters.width + 2 * pad, letters.height + 2 * pad), (0, 0, 0, 150))
    plate.paste((255, 255, 255, 255), (pad, pad), letters)
    page = image.convert("RGBA")
    page.alpha_composite(plate, (image.width - plate.width - pad, image.height - plate.height - pad))
    return page if image.mode == "RGBA" else page.convert(image.mode)


def _letters(height: int) -> Image.Image:
    """The characters as a mask (L) of this height."""
    unit = height * _TIMES / 100
    width = sum(wide for wide, _ in _GLYPHS) + _GAP * (len(_GLYPHS) - 1)
    page = Image.new("L", (round(width * unit), height * _TIMES))
    draw, left = ImageDraw.Draw(page), 0
    for wide, strokes in _GLYPHS:
        for stroke in strokes:
            points = [((left + x) * unit, y * unit) for x, y in stroke]
            draw.line(points, fill=255, width=max(_TIMES, round(_STROKE * unit)), joint="curve")
        left += wide + _GAP
    return page.resize((max(1, page.width // _TIMES), height), Image.Resampling.BOX)
