# SPDX-License-Identifier: Apache-2.0
"""SIGSTRUCT: what an enclave's author signs, and what a CPU checks before it starts one (EINIT).

Layout: Intel SDM vol. 3D, 38.13, "Enclave Signature Structure": 1808 bytes, integers little-endian.
Signed are bytes 0-127 and 900-1027, with RSASSA-PKCS1-v1_5 and SHA-256 (RFC 8017 8.2), a key of
3072 bits and the exponent 3. Any key will do: the signature says that the owner of *this* key
signed, and MRSIGNER, its digest, says which key that is.

``parse`` is for whoever relies on it. ``read`` checks the form alone, to show what is wrong.
"""

import hashlib
import struct
from dataclasses import dataclass
from datetime import date as Date  # noqa: N812 - Body has a field of that name

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers
from cryptography.hazmat.primitives.hashes import SHA256

from fedclave.errors import Code, Refused, UserError

SIZE = 1808  # bytes
KEY_BITS = 3072
KEY_SIZE = KEY_BITS // 8  # bytes
EXPONENT = 3

HEADER = bytes.fromhex("06000000e10000000000010000000000")
HEADER2 = bytes.fromhex("01010000600000006000000001000000")
INTEL = 0x8086
"""The vendor in Intel's own enclaves; in all others it is 0."""

# ATTRIBUTES (SDM vol. 3D, 38.7.1): FLAGS, and XFRM, which has the bits of XCR0
DEBUG = 1 << 1
MODE64 = 1 << 2
XFRM_LEGACY = 0b11  # x87 and SSE
EXINFO = 1 << 0  # MISCSELECT (38.7.2): faults tell the enclave about themselves

ALL_64 = 2**64 - 1
GRAMINE_XFRM_MASK = 0xFFFF_FFFF_FFF9_FF1B
"""Leaves AVX, AVX-512 and AMX to the host; an enclave learns nothing new from those."""

_WHOLE = struct.Struct("<128s384sI384s128s12s384s384s")
_HEAD = struct.Struct("<16sI4s16sI84s")  # bytes 0-127
_TAIL = struct.Struct("<IIBB2s16sQQQQ32s16s16sHH")  # bytes 900-1027


@dataclass(frozen=True, kw_only=True)
class Body:
    """What is signed, but for the two headers, which are the same in each.

    A mask says which bits of an enclave's attributes must be as here; the others are the host's.
    """

    mrenclave: bytes  # 32; ENCLAVEHASH
    date: Date
    isv_prod_id: int
    isv_svn: int
    flags: int
    flags_mask: int
    xfrm: int
    xfrm_mask: int
    miscselect: int
    miscmask: int
    vendor: int = 0
    swdefined: int = 0
    cet: int = 0
    cet_mask: int = 0
    isv_family_id: bytes = bytes(16)
    isv_ext_prod_id: bytes = bytes(16)

    @property
    def signed_bytes(self) -> bytes:
        """The 256 bytes that are signed: 0-127 and 900-1027 of the structure."""
        return self._head + self._tail

    @property
    def debug(self) -> bool:
        """Whether it is signed as a debug enclave: its host reads its memory."""
        return bool(self.flags & DEBUG)

    @property
    def allows_debug(self) -> bool:
        """Whether a CPU would start it as a debug enclave, if its host wants that."""
        return self.debug or not self.flags_mask & DEBUG

    @property
    def _head(self) -> bytes:
        day = bytes.fromhex(self.date.isoformat().replace("-", ""))[::-1]
        return _HEAD.pack(HEADER, self.vendor, day, HEADER2, self.swdefined, bytes(84))

    @property
    def _tail(self) -> bytes:
        return _TAIL.pack(
            self.miscselect,
            self.miscmask,
            self.cet,
            self.cet_mask,
            bytes(2),
            self.isv_family_id,
            self.flags,
            self.xfrm,
            self.flags_mask,
            self.xfrm_mask,
            self.mrenclave,
            bytes(16),
            self.isv_ext_prod_id,
            self.isv_prod_id,
            self.isv_svn,
        )


@dataclass(frozen=True, kw_only=True)
class SigStruct:
    """A signed body. ``q1`` and ``q2`` spare a CPU two divisions: s^2 // m, (s^3 - q1*s*m) // m."""

    body: Body
    modulus: int
    exponent: int
    signature: int
    q1: int
    q2: int

    @property
    def mrsigner(self) -> bytes:
        """SHA-256 of the modulus, 384 bytes, little-endian (SDM vol. 3D, 38.13 and EINIT)."""
        return hashlib.sha256(_number(self.modulus)).digest()

    @property
    def debug(self) -> bool:
        """Whether it is signed as a debug enclave."""
        return self.body.debug


def production(
    mrenclave: bytes,
    date: Date,
    *,
    isv_prod_id: int,
    isv_svn: int,
    exinfo: bool = False,
) -> Body:
    """The body of an enclave of Gramine 1.9 that can never be debugged, with its default masks.

    ``exinfo`` is the manifest's ``sgx.use_exinfo``. ``UserError``: a number of more than 16 bits.
    """
    if len(mrenclave) != 32:
        raise ValueError(f"MRENCLAVE has 32 bytes, not {len(mrenclave)}")
    for name, number in (("isvprodid", isv_prod_id), ("isvsvn", isv_svn)):
        if not 0 <= number < 2**16:
            raise UserError(f"sgx.{name} is {number}. Choose a number from 0 to 65535")
    return Body(
        mrenclave=mrenclave,
        date=date,
        isv_prod_id=isv_prod_id,
        isv_svn=isv_svn,
        flags=MODE64,
        flags_mask=ALL_64,  # so DEBUG, which is not among the flags, is forbidden
        xfrm=XFRM_LEGACY,
        xfrm_mask=GRAMINE_XFRM_MASK,
        miscselect=EXINFO if exinfo else 0,
        miscmask=2**32 - 1,
    )


def assemble(body: Body, modulus: int, signature: int) -> bytes:
    """The 1808 bytes of a signed body. The signature is not verified: ``parse`` does."""
    if modulus.bit_length() != KEY_BITS or not 0 <= signature < modulus:
        raise ValueError("the modulus has not 3072 bits, or the signature is not below it")
    return _WHOLE.pack(
        body._head,
        _number(modulus),
        EXPONENT,
        _number(signature),
        body._tail,
        bytes(12),
        *map(_number, _quotients(modulus, signature)),
    )


def parse(data: bytes) -> SigStruct:
    """The SIGSTRUCT in these bytes, its signature valid.

    Raises ``Refused``: MALFORMED for its form, BAD_SIGNATURE for what a CPU would find in it.
    """
    found = read(data)
    verify(found)
    return found


def read(data: bytes) -> SigStruct:
    """The SIGSTRUCT in these bytes; its form is right, its signature may be anything.

    ``Refused(MALFORMED)``: a wrong length, a field that has no such value, reserved bytes in use.
    """
    if len(data) != SIZE:
        raise _malformed(f"{len(data)} bytes, not {SIZE}")
    head, modulus, exponent, signature, tail, reserved, q1, q2 = _WHOLE.unpack(data)
    body = _body(head, tail)
    if any(reserved):
        raise _malformed("reserved bytes (1028-1039) are not zero")
    if exponent != EXPONENT:
        raise _malformed(f"the key's exponent is {exponent}, not {EXPONENT}")
    found = SigStruct(
        body=body,
        modulus=int.from_bytes(modulus, "little"),
        exponent=exponent,
        signature=int.from_bytes(signature, "little"),
        q1=int.from_bytes(q1, "little"),
        q2=int.from_bytes(q2, "little"),
    )
    if found.modulus.bit_length() != KEY_BITS:
        raise _malformed(f"the key has {found.modulus.bit_length()} bits, not {KEY_BITS}")
    if not found.modulus & 1:
        raise _malformed("the key's modulus is even, so it is no RSA key")
    return found


def verify(found: SigStruct) -> None:
    """Raise ``Refused(BAD_SIGNATURE)`` unless the signature and its two quotients are right."""
    # RFC 8017 5.2.2: each signature has one number only, below the modulus.
    if found.signature >= found.modulus:
        raise _invalid("the signature is not below the modulus")
    if (found.q1, found.q2) != _quotients(found.modulus, found.signature):
        raise _invalid("Q1 and Q2 are not the quotients of its signature")
    try:
        key = RSAPublicNumbers(found.exponent, found.modulus).public_key()
        signature = found.signature.to_bytes(KEY_SIZE, "big")
        key.verify(signature, found.body.signed_bytes, PKCS1v15(), SHA256())
    except (InvalidSignature, UnsupportedAlgorithm, ValueError) as error:
        raise _invalid("its signature is not that of its key over its fields") from error


def _body(head: bytes, tail: bytes) -> Body:
    header, vendor, day, header2, swdefined, unused = _HEAD.unpack(head)
    for name, value, expected in (("header", header, HEADER), ("second header", header2, HEADER2)):
        if value != expected:
            raise _malformed(f"its {name} is {value.hex()}, not {expected.hex()}")
    if vendor not in (0, INTEL):
        raise _malformed(f"vendor {vendor:#x} is neither 0 nor Intel's {INTEL:#x}")
    if any(unused):
        raise _malformed("reserved bytes (44-127) are not zero")
    (
        miscselect, miscmask, cet, cet_mask, unused, isv_family_id, flags, xfrm, flags_mask,
        xfrm_mask, mrenclave, unused2, isv_ext_prod_id, isv_prod_id, isv_svn,
    ) = _TAIL.unpack(tail)  # fmt: skip
    if any(unused) or any(unused2):
        raise _malformed("reserved bytes (910-911, 992-1007) are not zero")
    return Body(
        mrenclave=mrenclave,
        date=_date(day),
        isv_prod_id=isv_prod_id,
        isv_svn=isv_svn,
        flags=flags,
        flags_mask=flags_mask,
        xfrm=xfrm,
        xfrm_mask=xfrm_mask,
        miscselect=miscselect,
        miscmask=miscmask,
        vendor=vendor,
        swdefined=swdefined,
        cet=cet,
        cet_mask=cet_mask,
        isv_family_id=isv_family_id,
        isv_ext_prod_id=isv_ext_prod_id,
    )


def _date(field: bytes) -> Date:
    """The day in four bytes of binary-coded decimals, ``yyyymmdd`` as hexadecimal digits."""
    text = field[::-1].hex()
    try:
        return Date(int(text[:4]), int(text[4:6]), int(text[6:]))
    except ValueError as error:
        raise _malformed(f"its date, {text}, is no day (yyyymmdd)") from error


def _quotients(modulus: int, signature: int) -> tuple[int, int]:
    """Q1 and Q2 (SDM vol. 3D, 38.13); below the modulus if the signature is."""
    q1, rest = divmod(signature**2, modulus)
    return q1, signature * rest // modulus


def _number(number: int) -> bytes:
    return number.to_bytes(KEY_SIZE, "little")


def _malformed(reason: str) -> Refused:
    return Refused(Code.MALFORMED, f"SIGSTRUCT: {reason}. Get the file again, or sign anew")


def _invalid(reason: str) -> Refused:
    return Refused(
        Code.BAD_SIGNATURE,
        f"SIGSTRUCT: {reason}. No CPU starts this enclave; get the file again, or sign anew",
    )
