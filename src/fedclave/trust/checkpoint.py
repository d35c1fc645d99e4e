# SPDX-License-Identifier: Apache-2.0
"""Signed heads of a log: C2SP tlog-checkpoint in a C2SP signed-note, Ed25519.

    example.org/digits                                    origin: which log
    20852163                                              size: how many entries
    CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=          root (RFC 9162 2.1.1), base64

    — example.org/digits Az3grlgtzPICa5OS8npVmf1Myq/5...  key id (4 bytes) and signature, base64

What is signed are the lines above the empty one, each with its newline. A head counts by the
signature of its log's key under the origin's name; further signatures (witnesses') may follow and
are not judged. Extension lines, which tlog-checkpoint advises against, are refused.
"""

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fedclave.errors import Code, Refused, UserError
from fedclave.trust import merkle

MAX_NOTE = 8192  # bytes
MAX_SIGNATURES = 16
_ED25519 = b"\x01"  # signed-note, "Signature types"
_ID = 4  # bytes of a key id
_MIN_SIGNATURE = _ID + 1  # bytes; other kinds of keys make others
_DASH = "\u2014 "
_NAME = re.compile(r"[!-*,-~]{1,200}")  # printable ASCII; signed-note: no spaces, no plus
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")


@dataclass(frozen=True, kw_only=True)
class Head:
    """A log's state: ``root`` (32 bytes) over its first ``size`` entries."""

    origin: str
    size: int
    root: bytes

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.origin):
            raise UserError(
                f"{self.origin!r} cannot be a log's origin. Use 1 to 200 ASCII characters, no"
                " spaces and no plus"
            )

    @property
    def text(self) -> bytes:
        """What is signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n".encode()


@dataclass(frozen=True, kw_only=True)
class Signature:
    """One signature line. ``name`` and ``id`` tell which key to try; they prove nothing."""

    name: str
    id: bytes
    value: bytes


@dataclass(frozen=True, kw_only=True)
class Note:
    """A head as it came, not to be trusted yet, and who claims to have signed it."""

    claimed: Head
    signatures: tuple[Signature, ...]


def origin_of(federation: str) -> str:
    """What the log of a federation's aggregator is called."""
    return f"fedclave/{federation}"


def sign(head: Head, key: Ed25519PrivateKey) -> bytes:
    """The head, signed by its log's key."""
    value = _id(head.origin, key.public_key()) + key.sign(head.text)
    line = f"\n{_DASH}{head.origin} {base64.b64encode(value).decode()}\n"
    return head.text + line.encode()


def verified(note: bytes, origin: str, key: Ed25519PublicKey) -> Head:
    """The head in a note that the key of the log ``origin`` signed.

    Raises ``Refused``: MALFORMED, or BAD_SIGNATURE for another log's too.
    """
    parsed = parse(note)
    if parsed.claimed.origin != origin:
        raise Refused(
            Code.BAD_SIGNATURE,
            f"a head of the log {parsed.claimed.origin!r}, where {origin!r} is expected",
        )
    own = _id(origin, key)
    values = [one.value for one in parsed.signatures if (one.name, one.id) == (origin, own)]
    if not values:
        raise Refused(
            Code.BAD_SIGNATURE,
            f"the head of {origin!r} is not signed by its key {own.hex()}. Compare the log's"
            " public key with its operator",
        )
    try:
        key.verify(values[0], parsed.claimed.text)
    except InvalidSignature as error:
        raise Refused(
            Code.BAD_SIGNATURE,
            f"the signature on the head of {origin!r} is not valid. Get the head again",
        ) from error
    return parsed.claimed


def parse(note: bytes) -> Note:
    """What a note says. Raises ``Refused(MALFORMED)``; verifies nothing."""
    if len(note) > MAX_NOTE:
        raise Refused(Code.MALFORMED, f"a head of {len(note)} bytes; at most {MAX_NOTE} are read")
    try:
        *body, empty, tail = note.decode("utf-8").split("\n", 4)
        if len(body) != 3 or empty:
            raise ValueError("expected origin, size, root and an empty line")
        origin, size, root = body
        head = Head(origin=origin, size=_size(size), root=_bytes(root))
        if len(head.root) != merkle.HASH:
            raise ValueError(f"a root of {len(head.root)} bytes, expected {merkle.HASH}")
        if not head.size and head.root != merkle.EMPTY:
            raise ValueError("no entries, and yet not the root of the empty tree")
        return Note(claimed=head, signatures=_signatures(tail))
    except (ValueError, UserError) as error:
        raise Refused(
            Code.MALFORMED, f"not a log's signed head: {error}. Get the head again"
        ) from error


def verifier_key(origin: str, key: Ed25519PublicKey) -> str:
    """A log's name and public key in one line, as other tools for signed notes take it."""
    public = base64.b64encode(_ED25519 + _raw(key)).decode()
    return f"{origin}+{_id(origin, key).hex()}+{public}"


def parse_verifier_key(line: str) -> tuple[str, Ed25519PublicKey]:
    """The name and the public key in such a line. Raises ``Refused(MALFORMED)``."""
    origin, _, rest = line.partition("+")
    try:
        raw = _bytes(rest.partition("+")[2])
        key = Ed25519PublicKey.from_public_bytes(raw.removeprefix(_ED25519))
        if not _NAME.fullmatch(origin) or verifier_key(origin, key) != line:
            raise ValueError("expected a name, a key id and an Ed25519 key, with a plus between")
    except ValueError as error:
        raise Refused(
            Code.MALFORMED, f"{line!r:.80} is not a log's public key: {error}. Get it again"
        ) from error
    return origin, key


def _signatures(text: str) -> tuple[Signature, ...]:
    *lines, end = text.split("\n")
    if end or not lines:
        raise ValueError("expected lines of signatures, each with its newline")
    if len(lines) > MAX_SIGNATURES:
        raise ValueError(f"{len(lines)} signatures, at most {MAX_SIGNATURES} are read")
    found = tuple(_signature(line) for line in lines)
    if len({(one.name, one.id) for one in found}) != len(found):
        raise ValueError("two signatures by one key")
    return found


def _signature(line: str) -> Signature:
    name, gap, value = line.removeprefix(_DASH).partition(" ")
    if not line.startswith(_DASH) or not gap or not _NAME.fullmatch(name):
        raise ValueError("a line of a signature is not a dash, a name and base64")
    raw = _bytes(value)
    if len(raw) < _MIN_SIGNATURE:
        raise ValueError(f"a signature of {len(raw)} bytes")
    return Signature(name=name, id=raw[:_ID], value=raw[_ID:])


def _size(text: str) -> int:
    if not _SIZE.fullmatch(text) or int(text) > merkle.MAX_SIZE:
        raise ValueError(f"the size {text[:24]!r} is not a number from 0 to 2**63 - 1")
    return int(text)


def _bytes(text: str) -> bytes:
    try:
        value = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise ValueError(f"base64: {error}") from error
    if base64.b64encode(value).decode() != text:  # RFC 4648 3.5: the bits that pad are zero
        raise ValueError("base64 is not in canonical form")
    return value


def _id(origin: str, key: Ed25519PublicKey) -> bytes:
    """SHA-256 of name, newline, type and key, cut (signed-note, "Signatures")."""
    return hashlib.sha256(origin.encode() + b"\n" + _ED25519 + _raw(key)).digest()[:_ID]


def _raw(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)
