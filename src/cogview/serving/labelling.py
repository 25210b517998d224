"""Labels of generated images: always in the file; optionally visible in the image, and signed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cogview.checkpoints.provenance import EDITING, Label, with_visible_label
from cogview.pipelines.base import GeneratedImage
from cogview.serving.pictures import MEDIA_TYPES, image_bytes

if TYPE_CHECKING:
    from cogview.signing import Signer


@dataclass(frozen=True)
class Labelling:
    """How finished images are labelled.

    label: written to the file's metadata; visible: whether the image shows a label too; signer: signs files
    by C2PA, if not None.
    """

    label: Label = field(default_factory=Label)
    visible: bool = False
    signer: Signer | None = None

    def file(self, generated: GeneratedImage, kind: str, quality: int) -> bytes:
        """A finished image as a file with provenance and labels; PNG files are as the command line's."""
        image = with_visible_label(generated.image) if self.visible else generated.image
        facts = generated.provenance
        data = image_bytes(image, kind, quality, facts, self.label)
        if self.signer is None:
            return data
        return self.signer.sign(
            data, MEDIA_TYPES[kind], facts.software, facts.settings.get("task") in EDITING
        )
