# SPDX-License-Identifier: Apache-2.0
"""Certificates, requests and lists that parse as DER, of versions and with keys that nothing has.

``cryptography`` raises errors of its own about some of them, which are no ``ValueError``. Each is
refused like any other bytes that are no certificate.
"""

import base64
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from tests.support import ca

from fedclave.errors import Code, Refused, UserError
from fedclave.trust import crl, gate, keys, pki, requests, signing
from fedclave.trust.adopt import adopt, root_sha256
from fedclave.trust.gate import Anchors

V3, V33 = b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x20"
"""The field of a certificate's version, and one that there is not (RFC 5280 4.1.2.1)."""
P256, UNKNOWN = bytes.fromhex("06072a8648ce3d0201"), bytes.fromhex("06072a8648ce3d0209")
"""The algorithm of an EC key (RFC 5480 2.1.1), and one that there is not."""


@pytest.fixture
def authority(tmp_path: Path) -> pki.Authority:
    return ca.create(tmp_path)


def changed(der: bytes, old: bytes, new: bytes) -> bytes:
    assert old in der
    return der.replace(old, new, 1)


def pem(der: bytes, what: str = "CERTIFICATE") -> bytes:
    text = base64.encodebytes(der)
    return b"-----BEGIN %b-----\n%b-----END %b-----\n" % (what.encode(), text, what.encode())


@pytest.mark.parametrize("encode", [bytes, pem], ids=["DER", "PEM"])
def test_a_certificate_of_version_33_is_no_certificate(
    authority: pki.Authority, encode: Callable[[bytes], bytes]
) -> None:
    leaf = ca.certify(authority).leaf.public_bytes(Encoding.DER)
    odd = encode(changed(leaf, V3, V33))
    with pytest.raises(Refused) as refused:
        gate.admit(
            odd, anchors=authority.anchors, role="collaborator", now=ca.NOW, members={"alice"}
        )
    assert refused.value.code is Code.MALFORMED
    with pytest.raises(Refused):
        gate.foresee(odd, role="collaborator", now=ca.NOW)


def test_a_chain_with_a_certificate_of_version_33_is_not_taken(
    authority: pki.Authority, tmp_path: Path
) -> None:
    root = root_sha256(authority.anchors)
    issuing, own = (
        ssl.PEM_cert_to_DER_cert(one.public_bytes(Encoding.PEM).decode())
        for one in (authority.anchors.issuing, authority.anchors.root)
    )
    for chain in (
        pem(changed(issuing, V3, V33)) + pem(own),
        pem(issuing) + pem(changed(own, V3, V33)),
        pem(issuing) + pem(changed(own, P256, UNKNOWN)),
    ):
        with pytest.raises(Refused) as refused:
            adopt(tmp_path / "party", chain, authority.crl(ca.NOW), root=root)
        assert refused.value.code is Code.MALFORMED
        with pytest.raises(UserError, match="not a federation's chain"):
            Anchors.parse(chain, crl=tmp_path / "crl.pem", source="chain.pem")


def test_a_request_of_version_33_is_refused() -> None:
    asked = pki.make_request(keys.generate(), federation="kit", role="collaborator", name="anna")
    der = asked.public_bytes(Encoding.DER)
    assert requests.parse(der)
    start = der.index(b"\x02\x01\x00")  # RFC 2986 4.1: version 0
    odd = der[:start] + b"\x02\x01\x20" + der[start + 3 :]
    for data in (odd, pem(odd, "CERTIFICATE REQUEST")):
        with pytest.raises(Refused) as refused:
            requests.parse(data)
        assert refused.value.code is Code.BAD_REQUEST


def test_a_revocation_list_of_version_33_admits_nobody(authority: pki.Authority) -> None:
    path = authority.anchors.crl
    good = path.read_bytes()
    assert crl.parse(good, authority.anchors.issuing) is not None
    body = base64.b64decode(b"".join(good.splitlines()[1:-1]))
    odd = changed(body, b"\x02\x01\x01\x30", b"\x02\x01\x20\x30")  # RFC 5280 5.1.2.1: v2 is 1
    with pytest.raises(ValueError, match="it is damaged"):
        crl.parse(pem(odd, "X509 CRL"), authority.anchors.issuing)
    path.write_bytes(pem(odd, "X509 CRL"))
    with pytest.raises(Refused) as refused:
        gate.admit(
            ca.certify(authority).leaf,
            anchors=authority.anchors,
            role="collaborator",
            now=ca.NOW,
            members={"alice"},
        )
    assert refused.value.code is Code.REVOCATION_UNKNOWN


def test_a_public_key_of_no_algorithm_is_no_public_key() -> None:
    text = signing.public_pem(signing.generate().public_key())
    der = base64.b64decode(b"".join(text.splitlines()[1:-1]))
    odd = changed(der, bytes.fromhex("06032b6570"), bytes.fromhex("0603236570"))
    with pytest.raises(UserError, match="not a public key"):
        signing.parse_public(pem(odd, "PUBLIC KEY"), "author.pub")
