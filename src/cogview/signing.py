"""Content credentials (C2PA): a signed manifest in an image file that names the software that made it.

Needs the extra ``c2pa`` and your own certificate; whether others trust it depends on its issuer.
"""

from __future__ import annotations

import io
import json
import threading
from pathlib import Path
from typing import Any

from cogview.checkpoints.provenance import source_type
from cogview.errors import CogViewError
from cogview.files import read_text

MAX_PEM = 1 << 20
ALGORITHM = "es256"  # a key on the curve P-256


class Signer:
    """Signs PNG, JPEG and WebP files with the key of a certificate (PEM, the chain up to its issuer)."""

    def __init__(self, certificate: str | Path, key: str | Path, algorithm: str = ALGORITHM) -> None:
        try:
            import c2pa
        except ImportError:
            raise CogViewError("signing needs c2pa; install it with: pip install 'cogview[c2pa]'") from None
        chain, secret = read_text(Path(certificate), MAX_PEM), read_text(Path(key), MAX_PEM)
        self._c2pa: Any = c2pa
        self._lock = threading.Lock()
        try:
            info = c2pa.C2paSignerInfo(algorithm, chain.encode(), secret.encode(), None)
            self._signer: Any = c2pa.Signer.from_info(info)
            settings = c2pa.Settings.from_dict({"builder": {"thumbnail": {"enabled": False}}})
            self._context: Any = c2pa.Context(settings)
        except Exception as error:  # of the library's own types
            raise CogViewError(f"{certificate}: no certificate and key to sign with ({error})") from error

    def sign(self, data: bytes, media: str, software: str, edited: bool = False) -> bytes:
        """The file with a manifest added. ``edited``: the image contains parts of an input image."""
        name, _, version = software.partition(" ")
        action = {
            "action": "c2pa.created",
            "digitalSourceType": source_type(edited),
            "softwareAgent": {"name": name, "version": version},
        }
        manifest = {
            "claim_generator_info": [{"name": name, "version": version}],
            "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [action]}}],
        }
        signed = io.BytesIO()
        try:
            builder = self._c2pa.Builder(json.dumps(manifest), self._context)
            with self._lock:
                builder.sign(self._signer, media, io.BytesIO(data), signed)
        except Exception as error:
            raise CogViewError(f"the image could not be signed: {error}") from error
        return signed.getvalue()
