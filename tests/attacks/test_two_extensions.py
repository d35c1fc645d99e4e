# SPDX-License-Identifier: Apache-2.0
"""A certificate with two pieces of evidence: whoever reads the other one is shown another enclave.

RFC 5280 4.2 allows an extension once. A certificate with two of one kind is not read at all, in
whatever order they stand; Gramine's own form beside the standard one is another extension, and is
never looked at then.
"""

import json
import ssl
from pathlib import Path
from typing import Any

import pytest
from tests.support.evidence import VECTORS, certificate, quote_about, quote_over, said

from fedclave.cli import main
from fedclave.errors import Code, Refused
from fedclave.trust import claims, der, quotes, ratls

pytest.importorskip("cbor2", reason="evidence needs an extra: attest")

STANDARD = "2.23.133.5.4.9"
BESIDE = "2.23.133.5.4.8"  # of the same length, so that it can be renamed in DER
OTHER = said(nonce=b"m" * 32)
MINE, THEIRS = ratls.encode(quote_about(said()), said()), ratls.encode(quote_about(OTHER), OTHER)
LEGACY = quote_over(claims.report_data(b"not even about this key"))


def oid(last: int) -> bytes:
    return bytes.fromhex("06066781050504") + bytes([last])


def twice(first: bytes, second: bytes) -> bytes:
    """A certificate that has the extension two times; no library makes one."""
    made = certificate((STANDARD, first), (BESIDE, second))
    assert made.count(oid(8)) == made.count(oid(9)) == 1
    return made.replace(oid(8), oid(9))


CERTIFICATES = {
    "mine first": twice(MINE, THEIRS),
    "mine last": twice(THEIRS, MINE),
    "the same twice": twice(MINE, MINE),
    "an empty one first": twice(b"", MINE),
    "an empty one last": twice(MINE, b""),
}


@pytest.mark.parametrize("what", CERTIFICATES)
def test_a_certificate_with_two_is_not_read(what: str) -> None:
    with pytest.raises(Refused, match=r"2\.23\.133\.5\.4\.9 stands twice") as refused:
        ratls.read(CERTIFICATES[what])
    assert refused.value.code is Code.ATT_MALFORMED
    with pytest.raises(Refused):
        der.certificate(CERTIFICATES[what])


@pytest.mark.parametrize("encoding", ["der", "pem"])
@pytest.mark.parametrize("what", CERTIFICATES)
def test_nothing_of_it_is_shown(
    what: str, encoding: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = CERTIFICATES[what]
    path = tmp_path / f"cert.{encoding}"
    path.write_bytes(raw if encoding == "der" else ssl.DER_cert_to_PEM_cert(raw).encode())
    assert main.run(["attest", "show", str(path), "--json"]) == 3
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["error"]["code"] == "ATT-MALFORMED"
    assert "stands twice" in found["error"]["message"]
    assert found.keys() == {"error"}


def test_one_of_them_alone_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "cert.der"
    path.write_bytes(certificate((STANDARD, MINE)))
    assert main.run(["attest", "show", str(path), "--json"]) == 0
    report_data = quotes.parse(quote_about(said())).body.report_data
    assert report_data.hex() in capsys.readouterr().out


def test_gramines_own_form_beside_the_standard_one_is_not_looked_at() -> None:
    for order in (1, -1):
        both = [(STANDARD, MINE), (ratls.LEGACY_OID, LEGACY)][::order]
        found = ratls.read(certificate(*both))
        assert (found.legacy, found.claims) == (False, said())
        assert ratls.bound(found).body.report_data == claims.report_data(said())


def test_gramines_own_form_twice_is_not_read_either() -> None:
    gramine = (VECTORS / "ratls/gramine-legacy-konvera.der").read_bytes()
    assert ratls.read(gramine).legacy
    name = bytes.fromhex("06092a864886f84d8a3906")
    made = certificate((ratls.LEGACY_OID, LEGACY), ("0.6.9.42.840.113741.1337.7", LEGACY))
    assert made.count(name) == 1
    doubled = made.replace(name[:-1] + b"\x07", name)
    assert doubled.count(name) == 2
    with pytest.raises(Refused, match="stands twice"):
        ratls.read(doubled)
