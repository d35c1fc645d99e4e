# SPDX-License-Identifier: Apache-2.0
"""A key is certified for a party once its evidence was judged: the two sides of that, without I/O.

The party's TEE makes the key and speaks of it (``evidence``); the CA has the gate judge it
(``gate.certify``). Over the network the enrolment service challenges the party first; a request
that travels as a file answers nobody, and is good for as long as a certificate lives.
"""

import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fedclave.errors import Code, Refused
from fedclave.trust.names import Identity
from fedclave.trust.profiles import LEAF_LIFE

ON_PAPER = LEAF_LIFE
"""How old the evidence in a file may be."""

_ANSWERED = timedelta(minutes=2)
_STAMP = 8  # bytes, of the 32 of a challenge


@dataclass(frozen=True, kw_only=True)
class Challenges:
    """The challenges of one enrolment service, which it need not remember: a time and its MAC.

    A challenge is good for two minutes. Whoever answers it twice has the same key certified twice.
    """

    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)

    def make(self, now: datetime) -> bytes:
        """A challenge of this moment, 32 bytes."""
        stamp = int(now.timestamp()).to_bytes(_STAMP, "big")
        return stamp + self._mac(stamp)

    def check(self, challenge: bytes, now: datetime) -> None:
        """Raise ``Refused`` (ATT_NONCE) unless this is one of ours, made just now."""
        stamp, mac = challenge[:_STAMP], challenge[_STAMP:]
        if not hmac.compare_digest(mac, self._mac(stamp)):
            raise Refused(
                Code.ATT_NONCE,
                "the evidence in the request answers no challenge of this service (replay?). Let"
                " the party ask again",
            )
        made = datetime.fromtimestamp(int.from_bytes(stamp, "big"), UTC)
        if not timedelta(0) <= now - made + timedelta(seconds=1) <= _ANSWERED:
            raise Refused(
                Code.ATT_NONCE,
                f"the evidence answers a challenge of {made:%H:%M:%S} UTC, which was good for two"
                " minutes. Let the party ask again",
            )

    def _mac(self, stamp: bytes) -> bytes:
        return hmac.digest(self.secret, b"fedclave/request/1\0" + stamp, hashlib.sha256)[_STAMP:]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A key that somebody wants certified, and what was shown for it."""

    identity: Identity
    key: bytes
    """SHA-256 of its SubjectPublicKeyInfo."""
    evidence: bytes = field(repr=False)
    """Empty: none was shown."""
    challenges: Challenges | None
    """Of the service that was asked; None: the request came as a file."""


Vouch = Callable[[Wanted, datetime], None]
"""Raises ``Refused`` unless a key may be certified: what the CA's owner puts before the CA."""

Prove = Callable[[ec.EllipticCurvePublicKey, bytes], bytes]
"""Evidence that this process made the key, for a challenge (empty: none). Empty: it has no TEE."""


def unproved(key: ec.EllipticCurvePublicKey, challenge: bytes) -> bytes:
    """No evidence: the ``Prove`` of a party that nobody asks for it."""
    return b""


def key_hash(key: ec.EllipticCurvePublicKey) -> bytes:
    """SHA-256 of a key's SubjectPublicKeyInfo (DER): how evidence names it."""
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).digest()
