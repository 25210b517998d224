"""C2PA manifests by a certificate made for the test, read back by the library's own reader."""

from __future__ import annotations

import datetime
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cogview.errors import CogViewError
from cogview.serving.labelling import Labelling
from cogview.signing import Signer
from tests.test_labels import TYPES, picture

c2pa = pytest.importorskip("c2pa", reason="the extra `c2pa` is not installed")
x509 = pytest.importorskip("cryptography.x509")
from cryptography.hazmat.primitives import hashes, serialization  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec  # noqa: E402


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    """A root, and a certificate of it that may sign."""
    folder, now = tmp_path_factory.mktemp("keys"), datetime.datetime.now(datetime.UTC)
    keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("Root", "Signer")}

    def named(text: str) -> Any:
        oid = x509.oid.NameOID
        return x509.Name(
            [x509.NameAttribute(oid.COMMON_NAME, text), x509.NameAttribute(oid.ORGANIZATION_NAME, text)]
        )

    def certificate(name: str) -> Any:
        public, root = keys[name].public_key(), name == "Root"
        usage = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "crl_sign",
             "encipher_only", "decipher_only"), False,
        )  # fmt: skip
        made = x509.CertificateBuilder(named("Root"), named(name), public, x509.random_serial_number())
        made = made.not_valid_before(now - datetime.timedelta(days=1))
        made = made.not_valid_after(now + datetime.timedelta(days=9))
        extensions = [
            (x509.BasicConstraints(root, None), True),
            (x509.KeyUsage(digital_signature=not root, key_cert_sign=root, **usage), True),
            (x509.SubjectKeyIdentifier.from_public_key(public), False),
            (x509.AuthorityKeyIdentifier.from_issuer_public_key(keys["Root"].public_key()), False),
        ]
        if not root:
            extensions.append((x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.EMAIL_PROTECTION]), False))
        for extension, critical in extensions:
            made = made.add_extension(extension, critical)
        return made.sign(keys["Root"], hashes.SHA256())

    pem = serialization.Encoding.PEM
    chain = b"".join(certificate(name).public_bytes(pem) for name in ("Signer", "Root"))
    (folder / "chain.pem").write_bytes(chain)
    secret = keys["Signer"].private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "key.pem").write_bytes(secret)
    return Signer(folder / "chain.pem", folder / "key.pem")


def manifest(data: bytes, kind: str) -> dict[str, Any]:
    return dict(json.loads(c2pa.Reader(f"image/{kind}", io.BytesIO(data)).json()))


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_files_are_signed_and_keep_their_pixels(signer: Signer, kind: str) -> None:
    plain, signed = (Labelling(signer=one).file(picture(), kind, 90) for one in (None, signer))
    told = manifest(signed, kind)
    assert told["validation_state"] == "Valid"
    own = told["manifests"][told["active_manifest"]]
    [actions] = [one["data"]["actions"] for one in own["assertions"] if one["label"] == "c2pa.actions.v2"]
    assert actions[0]["digitalSourceType"] == TYPES + "trainedAlgorithmicMedia"
    assert own["signature_info"]["common_name"] == "Signer"
    images = [np.asarray(Image.open(io.BytesIO(data))) for data in (plain, signed)]
    assert np.array_equal(*images)


def test_a_changed_file_is_found_out(signer: Signer) -> None:
    signed = bytearray(Labelling(signer=signer).file(picture(), "jpeg", 90))
    signed[-20] ^= 1
    assert manifest(bytes(signed), "jpeg")["validation_state"] == "Invalid"


def test_what_is_no_certificate_is_said(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("hello")
    with pytest.raises(CogViewError, match="no certificate and key"):
        Signer(tmp_path / "a", tmp_path / "a")
