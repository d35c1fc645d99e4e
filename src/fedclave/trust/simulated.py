# SPDX-License-Identifier: Apache-2.0
"""The simulated TEE: a platform and its collateral, in Intel's formats under a root of our own.

    FOLDER/authority/   root, PCK CA and TCB signing: keys and certificates; makes the collateral
    FOLDER/platform/    the PCK key and its chain; all that the quoting service needs (``quoting``)

What a quote says is as true as the owner of these files wants it to be: it protects nobody. It is
there so that a laptop runs the very path of the hardware: same bytes, same verifier, same store of
collateral; only the root differs. So that nothing of it passes for hardware, ``SIMULATED`` stands
in every certificate, in the signed header of every quote and in every advisory, and the root is
made anew for each federation and never shipped.
"""

import hashlib
import json
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from fedclave.errors import UserError
from fedclave.trust import crl, files, keys
from fedclave.trust.names import check_name

FMSPC = bytes.fromhex("514d00000001")
"""The kind of platform: a made-up one, which no CPU has."""

SVN, PCE_SVN = 2, 13
"""Security versions of an up-to-date platform: of each of its 16 components, and of its PCE."""

ADVISORY = "SIMULATED-SA-00001"
"""The advisory that an out-of-date platform has."""

QE_SIGNER = hashlib.sha256(b"SIMULATED signer of the quoting enclave").digest()
QE_PRODUCT, QE_SVN = 1, 8
"""Of the quoting enclave: the identity that the collateral vouches for."""

REMEDY = "Make a simulated TEE in a new folder, or restore this one from a copy"

Status = Literal[
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
    "Revoked",
]
"""The TCB statuses of Intel's PCS API, version 4."""

QeStatus = Literal["UpToDate", "OutOfDate", "Revoked"]
"""Those of a quoting enclave."""

Revocable = Literal["pck", "pck-ca"]

_LIFE = timedelta(days=3652)
_FRESH = timedelta(days=30)  # as Intel's: issueDate to nextUpdate
_MAKER = "SIMULATED TEE - NOT HARDWARE - NOT INTEL"
_NAMES = {
    "root": "SIMULATED SGX Root CA",
    "pck-ca": "SIMULATED SGX PCK Platform CA",
    "tcb-signing": "SIMULATED SGX TCB Signing",
    "pck": "SIMULATED SGX PCK Certificate",
}
_PCE_ID = bytes(2)
_NOWHERE = x509.DistributionPoint(
    full_name=[x509.UniformResourceIdentifier("https://simulated.invalid/crl")],
    relative_name=None,
    reasons=None,
    crl_issuer=None,
)
_EXTENSION = bytes.fromhex("2a864886f84d010d01")  # 1.2.840.113741.1.13.1, as DER has it


@dataclass(frozen=True, kw_only=True)
class Faults:
    """What is wrong with the platform, as its collateral tells it. By default nothing."""

    status: Status = "UpToDate"
    advisories: tuple[str, ...] = ()
    qe_status: QeStatus = "UpToDate"
    revoked: Collection[Revocable] = ()
    evaluation: int = 20  # tcbEvaluationDataNumber


HEALTHY = Faults()


@dataclass(frozen=True, kw_only=True)
class SimulatedPlatform:
    """A simulated root and one platform under it, in a folder."""

    folder: Path
    root_certificate: x509.Certificate

    @classmethod
    def create(cls, folder: Path, federation: str, now: datetime, *, svn: int = SVN) -> Self:
        """Make one, with new keys. ``svn`` 1 is a platform that missed an update, 0 an unknown one.

        ``UserError``: there is one in this folder already.
        """
        check_name("federation", federation)
        if (folder / "authority" / "root.pem").exists():
            raise UserError(f"{folder} holds a simulated TEE already. Use it, or move it away")
        key = {name: keys.generate() for name in _NAMES}
        root = _certify("root", federation, key["root"], key["root"], now)
        ca = _certify("pck-ca", federation, key["pck-ca"], key["root"], now)
        signing = _certify("tcb-signing", federation, key["tcb-signing"], key["root"], now)
        pck = _certify("pck", federation, key["pck"], key["pck-ca"], now, _platform(svn))
        authority, platform = folder / "authority", folder / "platform"
        files.private_folder(folder)
        for name in ("root", "pck-ca", "tcb-signing"):
            keys.save(authority / f"{name}.key", key[name], replace=True)
        keys.save(platform / "pck.key", key["pck"], replace=True)
        files.write(platform / "cpu-svn", bytes([svn]) * 16)
        files.write(platform / "chain.pem", _pem(pck, ca, root))
        files.write(authority / "pck-ca.pem", _pem(ca))
        files.write(authority / "tcb-signing.pem", _pem(signing))
        # What ``create`` looks for comes last: a crash before it leaves no half of one behind.
        files.write(authority / "root.pem", _pem(root))
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """The one in a folder. ``UserError``: there is none, or its certificate is damaged."""
        return cls(
            folder=folder, root_certificate=certificates(folder / "authority" / "root.pem")[0]
        )

    @property
    def quoting(self) -> Path:
        """The folder that the quoting service needs; the keys of the root are not in it."""
        return self.folder / "platform"

    @property
    def root(self) -> bytes:
        """The root certificate, DER."""
        return keys.public_bytes(self.root_certificate)

    @property
    def root_hash(self) -> str:
        """SHA-256 (hex) of the root's SubjectPublicKeyInfo: what a policy names it by."""
        spki = self.root_certificate.public_key().public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        )
        return hashlib.sha256(spki).hexdigest()

    def collateral(self, now: datetime, faults: Faults = HEALTHY) -> bytes:
        """What Intel's PCS would serve about this platform at ``now``; good for 30 days.

        JSON in the form that ``collateral.parse`` reads: PEM chains, CRLs and signatures in hex,
        the signed texts as they were signed. An earlier ``now`` gives collateral that has expired.
        """
        authority = self.folder / "authority"
        root, root_key = self.root_certificate, keys.load(authority / "root.key")
        ca, ca_key = certificates(authority / "pck-ca.pem")[0], keys.load(authority / "pck-ca.key")
        signing = certificates(authority / "tcb-signing.pem")[0]
        signing_key = keys.load(authority / "tcb-signing.key")
        pck = certificates(self.quoting / "chain.pem")[0]
        # A CRL's number only grows (RFC 5280 5.2.3), and nothing here remembers the last one.
        number = int(now.timestamp())
        cas = [(ca.serial_number, now)] if "pck-ca" in faults.revoked else []
        leafs = [(pck.serial_number, now)] if "pck" in faults.revoked else []
        tcb_info, qe_identity = (
            text(root.not_valid_before_utc, now, faults) for text in (_tcb_info, _qe_identity)
        )
        signers = _pem(signing, root).decode()
        document = {
            "pck_crl_issuer_chain": _pem(ca, root).decode(),
            "root_ca_crl": _hex(crl.sign(root, root_key, cas, number=number, now=now)),
            "pck_crl": _hex(crl.sign(ca, ca_key, leafs, number=number, now=now)),
            "tcb_info_issuer_chain": signers,
            "tcb_info": tcb_info,
            "tcb_info_signature": sign(signing_key, tcb_info.encode()).hex(),
            "qe_identity_issuer_chain": signers,
            "qe_identity": qe_identity,
            "qe_identity_signature": sign(signing_key, qe_identity.encode()).hex(),
        }
        return json.dumps(document).encode()


def sign(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    """ECDSA with SHA-256 on P-256, as r then s, 32 bytes each, big-endian: the form in quotes."""
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def certificates(path: Path) -> list[x509.Certificate]:
    """The certificates in a PEM file of a simulated TEE; ``UserError`` if it is not what it was."""
    try:
        return x509.load_pem_x509_certificates(files.read(path, REMEDY))
    except ValueError as error:
        raise UserError(f"{path} holds no certificates ({error}). {REMEDY}") from error


def _tcb_info(platform_since: datetime, now: datetime, faults: Faults) -> str:
    """TCB info, version 3 (Intel PCS API 4): two levels, below which no platform is known."""
    levels = (
        (SVN, PCE_SVN, faults.status, faults.advisories),
        (SVN - 1, PCE_SVN, "OutOfDate", (ADVISORY,)),
    )
    return _text(
        {
            "id": "SGX",
            "version": 3,
            **_dates(now),
            "fmspc": FMSPC.hex(),
            "pceId": _PCE_ID.hex(),
            "tcbType": 0,
            "tcbEvaluationDataNumber": faults.evaluation,
            "tcbLevels": [
                {
                    "tcb": {"sgxtcbcomponents": [{"svn": svn}] * 16, "pcesvn": pce_svn},
                    "tcbDate": _date(platform_since),
                    "tcbStatus": status,
                    **({"advisoryIDs": list(advisories)} if advisories else {}),
                }
                for svn, pce_svn, status, advisories in levels
            ],
        }
    )


def _qe_identity(platform_since: datetime, now: datetime, faults: Faults) -> str:
    """The identity of the quoting enclave, version 2 (Intel PCS API 4)."""
    return _text(
        {
            "id": "QE",
            "version": 2,
            **_dates(now),
            "tcbEvaluationDataNumber": faults.evaluation,
            "miscselect": "00000000",
            "miscselectMask": "FFFFFFFF",
            "attributes": "11000000000000000000000000000000",
            "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
            "mrsigner": QE_SIGNER.hex().upper(),
            "isvprodid": QE_PRODUCT,
            "tcbLevels": [
                {
                    "tcb": {"isvsvn": QE_SVN},
                    "tcbDate": _date(platform_since),
                    "tcbStatus": faults.qe_status,
                }
            ],
        }
    )


def _dates(now: datetime) -> dict[str, str]:
    issued = now - crl.SKEW
    return {"issueDate": _date(issued), "nextUpdate": _date(issued + _FRESH)}


def _date(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def _text(value: dict[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"))


def _pem(*chain: x509.Certificate) -> bytes:
    return b"".join(one.public_bytes(Encoding.PEM) for one in chain)


def _hex(revocations: x509.CertificateRevocationList) -> str:
    return revocations.public_bytes(Encoding.DER).hex()


def _certify(
    name: str,
    federation: str,
    key: ec.EllipticCurvePrivateKey,
    issuer_key: ec.EllipticCurvePrivateKey,
    now: datetime,
    platform: bytes | None = None,
) -> x509.Certificate:
    """In the profile of Intel's SGX PCK Certificate and CRL specification, which demands them all:
    basic constraints, key usage, both key identifiers and a place of the CRL (here nowhere).
    """
    issuer = {"pck": "pck-ca"}.get(name, "root")
    length = {"root": 1, "pck-ca": 0}.get(name)
    authority = length is not None
    usage = x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=not authority,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )
    issued_by = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(name, federation))
        .issuer_name(_name(issuer, federation))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - crl.SKEW)
        .not_valid_after(now + _LIFE)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=length), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(issued_by, critical=False)
        .add_extension(x509.CRLDistributionPoints([_NOWHERE]), critical=False)
    )
    if platform is not None:
        oid = x509.ObjectIdentifier("1.2.840.113741.1.13.1")
        builder = builder.add_extension(x509.UnrecognizedExtension(oid, platform), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _name(name: str, federation: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, _MAKER),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, federation),
            x509.NameAttribute(NameOID.COMMON_NAME, _NAMES[name]),
        ]
    )


def _platform(svn: int) -> bytes:
    """Intel's extension of a PCK certificate (the same specification, 1.3.5)."""
    components = [_field(_integer(svn), 2, number) for number in range(1, 17)]
    return _sequence(
        _field(_octets(secrets.token_bytes(16)), 1),  # PPID
        _field(
            _sequence(
                *components,
                _field(_integer(PCE_SVN), 2, 17),
                _field(_octets(bytes([svn]) * 16), 2, 18),  # CPUSVN
            ),
            2,
        ),
        _field(_octets(_PCE_ID), 3),
        _field(_octets(FMSPC), 4),
        _field(b"\x0a\x01\x00", 5),  # SGX type: ENUMERATED standard
        _field(_octets(secrets.token_bytes(16)), 6),  # platform instance id
        # Neither a dynamic platform, nor keys cached, nor SMT: three times BOOLEAN false.
        _field(_sequence(*(_field(b"\x01\x01\x00", 7, number) for number in (1, 2, 3))), 7),
    )


def _field(value: bytes, *arcs: int) -> bytes:
    return _sequence(_tlv(0x06, _EXTENSION + bytes(arcs)), value)


def _sequence(*values: bytes) -> bytes:
    return _tlv(0x30, b"".join(values))


def _octets(value: bytes) -> bytes:
    return _tlv(0x04, value)


def _integer(value: int) -> bytes:
    return _tlv(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _tlv(tag: int, value: bytes) -> bytes:
    """DER (X.690 8.1.3): tag, length in its shortest form, value."""
    size = len(value)
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    head = bytes([size]) if size < 128 else bytes([128 + len(length)]) + length
    return bytes([tag]) + head + value
