# SPDX-License-Identifier: Apache-2.0
"""A CA, and parties certified by it, for tests."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from fedclave.trust import keys, pki, profiles
from fedclave.trust.credentials import Credentials
from fedclave.trust.names import SERVERS, Identity, Role
from fedclave.trust.profiles import Subject

PASSPHRASE = b"correct horse"
NOW = datetime(2031, 5, 1, 12, tzinfo=UTC)
"""The time in tests without TLS, whose libraries have a clock of their own."""


def create(folder: Path, federation: str = "digits", now: datetime = NOW) -> pki.Authority:
    """A CA in ``folder/cert``."""
    return pki.Authority.create(folder / "cert", federation, PASSPHRASE, now)


def certify(
    authority: pki.Authority,
    role: Role = "collaborator",
    name: str = "alice",
    now: datetime = NOW,
    life: timedelta = profiles.LEAF_LIFE,
) -> Credentials:
    """A party's credentials, by the ordinary way."""
    key = keys.generate()
    hosts = ("localhost", "127.0.0.1") if role in SERVERS else ()
    request = pki.make_request(
        key, federation=authority.federation, role=role, name=name, hosts=hosts
    )
    leaf = authority.issue(request, role=role, name=name, now=now, life=life)
    return Credentials(key=keys.encode(key), chain=pki.bundle(leaf, authority.anchors))


def forge(
    authority: pki.Authority,
    identity: Identity,
    now: datetime = NOW,
    hosts: Iterable[str] = (),
    key: ec.EllipticCurvePrivateKey | None = None,
) -> Credentials:
    """Credentials that the CA's key signed, but that ``Authority.issue`` would not have made."""
    key = key or keys.generate()
    leaf = profiles.leaf(
        Subject(identity=identity, public_key=key.public_key(), hosts=tuple(hosts)),
        issuer=authority.anchors.issuing,
        issuer_key=keys.load(authority.folder / "ca" / "issuing.key", PASSPHRASE),
        now=now,
        until=now + profiles.LEAF_LIFE,
    )
    return Credentials(key=keys.encode(key), chain=pki.bundle(leaf, authority.anchors))
