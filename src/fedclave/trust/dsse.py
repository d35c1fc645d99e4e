# SPDX-License-Identifier: Apache-2.0
"""Signed envelopes: DSSE v1 (secure-systems-lab/dsse, protocol.md and envelope.md), Ed25519.

What is signed is ``PAE(type, payload)``, so no payload of one type passes as another's. The payload
comes out of ``verified`` alone: what was not verified is not read.
"""

import base64
import binascii
import json
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedclave.errors import Bug, Code, Refused
from fedclave.trust.signing import key_id

MAX_SIZE = 16 * 2**20  # bytes of an envelope
MAX_SIGNATURES = 256


@dataclass(frozen=True, kw_only=True)
class Signature:
    """One signature. ``key`` tells which key to try; it proves nothing."""

    key: str
    value: bytes


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """A payload, not to be trusted yet, of a type, and who claims to have signed it."""

    type: str
    payload: bytes
    signatures: tuple[Signature, ...]


def pae(type_: str, payload: bytes) -> bytes:
    """Pre-authentication encoding: lengths and bytes of the type and the payload.

    >>> pae("http://example.com/HelloWorld", b"hello world")
    b'DSSEv1 29 http://example.com/HelloWorld 11 hello world'
    """
    kind = type_.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def sign(type_: str, payload: bytes, key: Ed25519PrivateKey) -> Envelope:
    """An envelope with one signature."""
    return add(Envelope(type=type_, payload=payload, signatures=()), key)


def add(envelope: Envelope, key: Ed25519PrivateKey) -> Envelope:
    """The envelope with this key's signature too; signing again changes nothing."""
    own = key_id(key.public_key())
    if any(one.key == own for one in envelope.signatures):
        return envelope
    value = key.sign(pae(envelope.type, envelope.payload))
    return replace(envelope, signatures=(*envelope.signatures, Signature(key=own, value=value)))


def verified(
    envelope: Envelope, type_: str, trusted: Collection[Ed25519PublicKey], threshold: int = 1
) -> bytes:
    """The payload, if so many of the trusted keys have signed it as this type.

    A key counts once. Raises ``Refused(BAD_SIGNATURE)``; with no trusted keys, always.
    """
    if threshold < 1:
        raise Bug("a threshold of no signatures would let everything pass")
    if envelope.type != type_:
        raise Refused(
            Code.BAD_SIGNATURE, f"signed as {envelope.type!r}, where {type_!r} is expected"
        )
    message = pae(envelope.type, envelope.payload)
    signers = {key_id(key): key for key in trusted}
    good = {
        one.key
        for one in envelope.signatures
        if one.key in signers and _is_valid(signers[one.key], one.value, message)
    }
    if len(good) < threshold:
        raise Refused(
            Code.BAD_SIGNATURE,
            f"{len(good)} of the {threshold} signatures that are needed are valid and by trusted"
            f" keys ({len(envelope.signatures)} are there, {len(signers)} keys are trusted)."
            " Ask the signers for the envelope, and for their public keys, again",
        )
    return envelope.payload


def encode(envelope: Envelope) -> bytes:
    """The envelope as JSON."""
    fields = {
        "payloadType": envelope.type,
        "payload": base64.b64encode(envelope.payload).decode(),
        "signatures": [
            {"keyid": one.key, "sig": base64.b64encode(one.value).decode()}
            for one in envelope.signatures
        ],
    }
    return json.dumps(fields, indent=1).encode() + b"\n"


def decode(data: bytes) -> Envelope:
    """The envelope in JSON bytes. Raises ``Refused(MALFORMED)``; verifies nothing."""
    if len(data) > MAX_SIZE:
        raise Refused(Code.MALFORMED, f"a signed envelope of more than {MAX_SIZE} bytes")
    try:
        fields = json.loads(data, object_pairs_hook=_no_duplicates)
        if not isinstance(fields, dict) or set(fields) != {"payloadType", "payload", "signatures"}:
            raise ValueError("its keys are not payloadType, payload and signatures")
        kind, signatures = fields["payloadType"], fields["signatures"]
        if not isinstance(kind, str) or not kind:
            raise ValueError("payloadType is not a text")
        if not isinstance(signatures, list) or len(signatures) > MAX_SIGNATURES:
            raise ValueError(f"signatures is not a list of at most {MAX_SIGNATURES}")
        return Envelope(
            type=kind,
            payload=_bytes(fields["payload"]),
            signatures=tuple(_signature(one) for one in signatures),
        )
    except (ValueError, RecursionError) as error:
        raise Refused(
            Code.MALFORMED, f"this is not a signed envelope: {error}. Get the file again"
        ) from error


def _is_valid(key: Ed25519PublicKey, value: bytes, message: bytes) -> bool:
    try:
        key.verify(value, message)
    except InvalidSignature:
        return False
    return True


def _signature(field: object) -> Signature:
    if not isinstance(field, dict) or set(field) != {"keyid", "sig"}:
        raise ValueError("a signature's keys are not keyid and sig")
    if not isinstance(field["keyid"], str):
        raise ValueError("a keyid is not a text")
    return Signature(key=field["keyid"], value=_bytes(field["sig"]))


def _bytes(field: object) -> bytes:
    if not isinstance(field, str):
        raise ValueError("expected base64")
    try:
        return base64.b64decode(field.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise ValueError(f"base64: {error}") from error


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a key stands twice")
    return fields
