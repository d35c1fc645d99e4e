# SPDX-License-Identifier: Apache-2.0
"""One entry of a log with all that proves it: a file that is verified anywhere, offline.

Canonical JSON of

    type        fedclave-log-proof/1
    origin      which log
    index       which entry of it
    entry       its bytes, base64
    path        the hashes beside it, lowest first, base64 (RFC 9162 2.1.3.1)
    checkpoint  the signed head, as text
"""

import base64
import binascii
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fedclave import canonical
from fedclave.errors import Code, Refused
from fedclave.trust import checkpoint, merkle
from fedclave.trust.checkpoint import Head
from fedclave.trust.log_files import MAX_ENTRY

TYPE = "fedclave-log-proof/1"
MAX_SIZE = 2 * MAX_ENTRY  # bytes of such a file
MAX_PATH = 63  # hashes; a tree of merkle.MAX_SIZE leaves is no higher
_KEYS = {"checkpoint", "entry", "index", "origin", "path", "type"}


@dataclass(frozen=True, kw_only=True)
class LogProof:
    """An entry, not to be trusted yet, and what should prove it."""

    origin: str
    index: int
    entry: bytes
    path: tuple[bytes, ...]
    note: bytes
    """The signed head (``checkpoint``)."""


def verified(proof: LogProof, key: Ed25519PublicKey) -> tuple[bytes, Head]:
    """The entry, and the head that the log's key signed over it.

    Raises ``Refused``: MALFORMED, BAD_SIGNATURE or LOG_PROOF.
    """
    head = checkpoint.verified(proof.note, proof.origin, key)
    leaf = merkle.leaf_hash(proof.entry)
    merkle.check_inclusion(leaf, proof.index, proof.path, size=head.size, root=head.root)
    return proof.entry, head


def encode(proof: LogProof) -> bytes:
    """The proof as canonical JSON and a newline."""
    fields = {
        "checkpoint": proof.note.decode(),
        "entry": _text(proof.entry),
        "index": proof.index,
        "origin": proof.origin,
        "path": [_text(one) for one in proof.path],
        "type": TYPE,
    }
    return canonical.encode(fields) + b"\n"


def decode(data: bytes) -> LogProof:
    """The proof in a file's bytes. Raises ``Refused(MALFORMED)``; verifies nothing."""
    if len(data) > MAX_SIZE:
        raise Refused(Code.MALFORMED, f"a proof of more than {MAX_SIZE} bytes")
    if not data.endswith(b"\n"):
        raise Refused(Code.MALFORMED, "not a log's proof: it does not end with a newline")
    fields = canonical.decode(data[:-1])
    try:
        if not isinstance(fields, dict) or fields.keys() != _KEYS or fields["type"] != TYPE:
            raise ValueError(f"expected the type {TYPE} and its keys")
        if not isinstance(fields["index"], int) or isinstance(fields["index"], bool):
            raise ValueError("index is not a whole number")
        path = fields["path"]
        if not isinstance(path, list) or len(path) > MAX_PATH:
            raise ValueError(f"path is not a list of at most {MAX_PATH}")
        return LogProof(
            origin=_str(fields["origin"]),
            index=fields["index"],
            entry=_bytes(fields["entry"]),
            path=tuple(_bytes(one) for one in path),
            note=_str(fields["checkpoint"]).encode(),
        )
    except ValueError as error:
        raise Refused(
            Code.MALFORMED, f"not a log's proof: {error}. Make it with 'fx audit prove'"
        ) from error


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _str(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("expected a text")
    return value


def _bytes(value: Any) -> bytes:
    try:
        data = base64.b64decode(_str(value).encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise ValueError(f"base64: {error}") from error
    if _text(data) != value:  # RFC 4648 3.5
        raise ValueError("base64 is not in canonical form")
    return data
