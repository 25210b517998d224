"""Labels on what the server sends: in the file always; on the image, and signed, if the operator wants."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cogview.checkpoints.provenance import EDITING, Label, with_visible_label
from cogview.pipelines.base import GeneratedImage
from cogview.serving.pictures import MEDIA, encoded

if TYPE_CHECKING:
    from cogview.signing import Signer


@dataclass(frozen=True)
class Labelling:
    """How finished images are labelled."""

    label: Label = field(default_factory=Label)
    visible: bool = False
    signer: Signer | None = None

    def file(self, picture: GeneratedImage, kind: str, quality: int) -> bytes:
        """A finished image as a file with provenance and labels, for PNG as the command line writes it."""
        image = with_visible_label(picture.image) if self.visible else picture.image
        facts = picture.provenance
        data = encoded(image, kind, quality, facts, self.label)
        if self.signer is None:
            return data
        return self.signer.sign(data, MEDIA[kind], facts.software, facts.settings.get("task") in EDITING)
