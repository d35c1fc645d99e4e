# SPDX-License-Identifier: Apache-2.0
"""A vendor with a root, one platform and its quotes, of which every part can be made wrong.

It shares nothing with ``fedclave.trust``: quotes and extensions are laid out here once more. By
default all is well: ``Vendor()`` judges as UpToDate at ``NOW``.
"""

import hashlib
import json
import struct
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
DAY = timedelta(days=1)
FMSPC = bytes.fromhex("514d000000ff")
SGX_OID = "1.2.840.113741.1.13.1"
QE_SIGNER = hashlib.sha256(b"QE").digest()
SVN, PCE_SVN, QE_SVN = 5, 13, 8
TD_ATTRIBUTES = 1 << 28
ROOT, CA, LEAF, SIGNING = (
    "Test SGX Root CA",
    "Test SGX PCK Platform CA",
    "Test SGX PCK Certificate",
    "Test SGX TCB Signing",
)


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def sign(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def point(key: ec.EllipticCurvePrivateKey) -> bytes:
    numbers = key.public_key().public_numbers()
    return numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")


def pem(*chain: x509.Certificate) -> bytes:
    return b"".join(one.public_bytes(Encoding.PEM) for one in chain)


def tlv(tag: int, value: bytes) -> bytes:
    if len(value) < 128:
        return bytes([tag, len(value)]) + value
    size = len(value).to_bytes((len(value).bit_length() + 7) // 8, "big")
    return bytes([tag, 128 + len(size)]) + size + value


def field(value: bytes, *arcs: int) -> bytes:
    oid = bytes.fromhex("2a864886f84d010d01") + bytes(arcs)
    return tlv(0x30, tlv(0x06, oid) + value)


def integer(value: int) -> bytes:
    return tlv(2, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def extension(
    components: bytes = bytes([SVN]) * 16,
    *,
    pce_svn: int = PCE_SVN,
    pce_id: bytes = bytes(2),
    fmspc: bytes = FMSPC,
    flags: bool = True,
    extra: bytes = b"",
) -> bytes:
    """The SGX extension of a PCK certificate."""
    tcb = b"".join(field(integer(svn), 2, n + 1) for n, svn in enumerate(components))
    tcb += field(integer(pce_svn), 2, 17) + field(tlv(4, components), 2, 18)
    parts = field(tlv(4, bytes(range(16))), 1) + field(tlv(0x30, tcb), 2)
    parts += field(tlv(4, pce_id), 3) + field(tlv(4, fmspc), 4) + field(tlv(0x0A, b"\1"), 5)
    if flags:
        settings = b"".join(field(tlv(1, bytes([255 * (n == 3)])), 7, n) for n in (1, 2, 3))
        parts += field(tlv(4, b"instance".ljust(16)), 6) + field(tlv(0x30, settings), 7)
    return tlv(0x30, parts + extra)


def usage(*, leaf: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=leaf,
        content_commitment=leaf,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=not leaf,
        crl_sign=not leaf,
        encipher_only=False,
        decipher_only=False,
    )


def certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    path_length: int | None = None,
    ca: bool | None = None,
    begins: datetime = NOW - 365 * DAY,
    ends: datetime = NOW + 365 * DAY,
    key_usage: x509.KeyUsage | None = None,
    sgx: bytes | None = None,
    authority: x509.AuthorityKeyIdentifier | None = None,
    more: tuple[tuple[x509.ExtensionType, bool], ...] = (),
    without: tuple[type[x509.ExtensionType], ...] = (),
    digest: hashes.HashAlgorithm | None = None,
    names: int = 1,
) -> x509.Certificate:
    """A certificate in Intel's profile, unless told otherwise."""
    leaf = path_length is None
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(ca=not leaf if ca is None else ca, path_length=path_length), True),
        (key_usage or usage(leaf=leaf), True),
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
        (
            authority
            or x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            False,
        ),
        *more,
    ]
    if sgx is not None:
        extensions.append((x509.UnrecognizedExtension(x509.ObjectIdentifier(SGX_OID), sgx), False))
    common = [x509.NameAttribute(NameOID.COMMON_NAME, name)] * names
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.RelativeDistinguishedName([one]) for one in common]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
    )
    for value, critical in extensions:
        if not isinstance(value, without):
            builder = builder.add_extension(value, critical)
    return builder.sign(issuer_key, digest or hashes.SHA256())


def crl(
    issuer: str,
    key: ec.EllipticCurvePrivateKey,
    *revoked: int,
    begins: datetime = NOW - DAY,
    ends: datetime = NOW + 29 * DAY,
    more: tuple[tuple[x509.ExtensionType, bool], ...] = (),
) -> x509.CertificateRevocationList:
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .last_update(begins)
        .next_update(ends)
        .add_extension(x509.CRLNumber(1), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), False)
    )
    for value, critical in more:
        builder = builder.add_extension(value, critical)
    for serial in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(begins)
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(key, hashes.SHA256())


def date(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def level(status: str, tcb: dict[str, Any], *advisories: str) -> dict[str, Any]:
    return {
        "tcb": tcb,
        "tcbDate": date(NOW - 100 * DAY),
        "tcbStatus": status,
        "advisoryIDs": list(advisories),
    }


def platform_tcb(svn: int, pce_svn: int = PCE_SVN, tdx: int | None = None) -> dict[str, Any]:
    tcb: dict[str, Any] = {"sgxtcbcomponents": [{"svn": svn}] * 16, "pcesvn": pce_svn}
    return tcb if tdx is None else {**tcb, "tdxtcbcomponents": [{"svn": tdx}] * 16}


class Vendor:
    """Keys, certificates and texts; change any attribute before asking for quote or collateral."""

    def __init__(self, tee: str = "sgx", *, sgx: bytes | None = None) -> None:
        self.tee = tee
        self.root_key, self.ca_key, self.pck_key = new_key(), new_key(), new_key()
        self.signing_key, self.attestation_key = new_key(), new_key()
        self.root = certificate(ROOT, self.root_key, ROOT, self.root_key, path_length=1)
        self.ca = certificate(CA, self.ca_key, ROOT, self.root_key, path_length=0)
        self.pck = certificate(LEAF, self.pck_key, CA, self.ca_key, sgx=sgx or extension())
        self.signing = certificate(SIGNING, self.signing_key, ROOT, self.root_key)
        self.root_crl, self.pck_crl = crl(ROOT, self.root_key), crl(CA, self.ca_key)
        dates = {"issueDate": date(NOW - DAY), "nextUpdate": date(NOW + 29 * DAY)}
        self.tcb_info: dict[str, Any] = {
            "id": tee.upper(),
            "version": 3,
            **dates,
            "fmspc": FMSPC.hex(),
            "pceId": "0000",
            "tcbType": 0,
            "tcbEvaluationDataNumber": 20,
            "tcbLevels": [level("UpToDate", platform_tcb(SVN, tdx=SVN if tee == "tdx" else None))],
        }
        self.qe_identity: dict[str, Any] = {
            "id": "QE" if tee == "sgx" else "TD_QE",
            "version": 2,
            **dates,
            "tcbEvaluationDataNumber": 21,
            "miscselect": "00000000",
            "miscselectMask": "FFFFFFFF",
            "attributes": "11000000000000000000000000000000",
            "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
            "mrsigner": QE_SIGNER.hex(),
            "isvprodid": 1,
            "tcbLevels": [level("UpToDate", {"isvsvn": QE_SVN})],
        }
        if tee == "tdx":
            module = {
                "mrsigner": bytes(48).hex(),
                "attributes": bytes(8).hex(),
                "attributesMask": "FF" * 8,
            }
            levels = [level("UpToDate", {"isvsvn": 4}), level("OutOfDate", {"isvsvn": 2}, "TDX-SA")]
            self.tcb_info["tdxModule"] = module
            self.tcb_info["tdxModuleIdentities"] = [
                {"id": f"TDX_0{n}", **module, "tcbLevels": levels} for n in (1, 3)
            ]
        self.tcb_signer = self.qe_signer = self.signing_key
        self.tcb_chain: tuple[x509.Certificate, ...] = (self.signing, self.root)
        self.qe_chain = self.tcb_chain
        self.crl_chain: tuple[x509.Certificate, ...] = (self.ca, self.root)
        self.chain: bytes | None = None
        self.qe: dict[str, Any] = {
            "flags": 0x15,
            "xfrm": 0xE7,
            "mr_signer": QE_SIGNER,
            "prod_id": 1,
            "svn": QE_SVN,
        }
        self.body: dict[str, Any] = {"flags": 0x05, "report_data": b"claims".ljust(64, b"\0")}
        self.td: dict[str, Any] = {}

    @property
    def root_der(self) -> bytes:
        return self.root.public_bytes(Encoding.DER)

    def document(self) -> dict[str, str]:
        """The collateral before it becomes JSON."""
        tcb_info, qe_identity = json.dumps(self.tcb_info), json.dumps(self.qe_identity)
        return {
            "pck_crl_issuer_chain": pem(*self.crl_chain).decode(),
            "root_ca_crl": self.root_crl.public_bytes(Encoding.DER).hex(),
            "pck_crl": self.pck_crl.public_bytes(Encoding.DER).hex(),
            "tcb_info_issuer_chain": pem(*self.tcb_chain).decode(),
            "tcb_info": tcb_info,
            "tcb_info_signature": sign(self.tcb_signer, tcb_info.encode()).hex(),
            "qe_identity_issuer_chain": pem(*self.qe_chain).decode(),
            "qe_identity": qe_identity,
            "qe_identity_signature": sign(self.qe_signer, qe_identity.encode()).hex(),
        }

    def collateral(self) -> bytes:
        return json.dumps(self.document()).encode()

    def quote(self, version: int | None = None) -> bytes:
        """An SGX quote (3), or a TDX quote (4, or 5 with a TD report of 1.5)."""
        version = version or (3 if self.tee == "sgx" else 4)
        vendor = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
        header = struct.pack("<HHIHH", version, 2, 0 if version == 3 else 0x81, QE_SVN, PCE_SVN)
        body = sgx_report(**self.body) if version == 3 else td_report(**self.td)
        signed = header + vendor + bytes(20)
        if version == 5:
            body += self.td.get("svn2", bytes(16)) + self.td.get("service", bytes(48))
            signed += struct.pack("<HI", 3, len(body))
        signed += body
        auth, key = bytes(range(32)), point(self.attestation_key)
        named = self.qe.get("report_data", hashlib.sha256(key + auth).digest().ljust(64, b"\0"))
        report = sgx_report(**{**self.qe, "report_data": named})
        chain = pem(self.pck, self.ca, self.root) if self.chain is None else self.chain
        inner = report + sign(self.pck_key, report) + struct.pack("<H", 32) + auth
        inner += struct.pack("<HI", 5, len(chain)) + chain
        if version > 3:
            inner = struct.pack("<HI", 6, len(inner)) + inner
        data = sign(self.attestation_key, signed) + key + inner
        return signed + struct.pack("<I", len(data)) + data


def sgx_report(
    *,
    flags: int,
    xfrm: int = 0xE7,
    mr_signer: bytes = bytes(32),
    prod_id: int = 0,
    svn: int = 0,
    misc_select: int = 0,
    report_data: bytes = bytes(64),
) -> bytes:
    raw = bytes(16) + struct.pack("<I", misc_select) + bytes(28) + struct.pack("<QQ", flags, xfrm)
    raw += b"enclave".ljust(32, b"\0") + bytes(32) + mr_signer + bytes(96)
    raw += struct.pack("<HHH", prod_id, svn, 0) + bytes(58) + report_data
    return raw


def td_report(
    *,
    tee_tcb_svn: bytes = bytes([SVN, 0, *[SVN] * 14]),
    seam_signer: bytes = bytes(48),
    seam_attributes: int = 0,
    attributes: int = TD_ATTRIBUTES,
    report_data: bytes = bytes(64),
    svn2: bytes = b"",
    service: bytes = b"",
) -> bytes:
    raw = tee_tcb_svn + bytes(48) + seam_signer + struct.pack("<QQ", seam_attributes, attributes)
    return raw + bytes(8) + bytes(48 * 4) + bytes(48 * 4) + report_data
