# SPDX-License-Identifier: Apache-2.0
"""A party's own key and certificate on disk: ``NAME.key`` and ``NAME.pem``, replaced as one.

A renewal changes both. Order of writes: the new key as ``NAME.key.next``; the new certificate over
the old; the new key over the old. A crash between the last two leaves a certificate whose key is
``NAME.key.next``, and reading then ends the change.
"""

from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from fedclave.errors import UserError
from fedclave.trust import files, keys
from fedclave.trust.names import Identity


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """What a party shows in TLS: its key, and its leaf followed by the issuing CA, in PEM."""

    key: bytes = field(repr=False)
    chain: bytes

    @classmethod
    def read(cls, cert_folder: Path, name: str) -> Self:
        """The credentials of a party. ``UserError``: missing, open to others, not its own pair."""
        key_path, chain_path = _paths(cert_folder, name)
        remedy = f"Certify {name!r} first ('fx join', or 'fx ... certify')"
        chain = files.read(chain_path, remedy)
        try:
            leaf = x509.load_pem_x509_certificate(chain)
            certified = leaf.public_key()
        except keys.UNREADABLE as error:
            raise UserError(f"{chain_path} is not a certificate ({error}). {remedy}") from error
        require_own(leaf, name, chain_path)
        following = _next(key_path)
        if following.exists() and keys.load(following).public_key() == certified:
            following.replace(key_path)
        key = keys.load(key_path)
        if key.public_key() != certified:
            raise UserError(f"{key_path} is not the key of {chain_path}. {remedy}")
        return cls(key=keys.encode(key), chain=chain)

    def replace(self, cert_folder: Path, name: str) -> None:
        """Make these the credentials on disk, in place of older ones or none."""
        key_path, chain_path = _paths(cert_folder, name)
        files.write(_next(key_path), self.key, files.PRIVATE)
        files.write(chain_path, self.chain)
        _next(key_path).replace(key_path)

    @property
    def leaf(self) -> x509.Certificate:
        """The party's own certificate."""
        return x509.load_pem_x509_certificate(self.chain)

    @property
    def private_key(self) -> ec.EllipticCurvePrivateKey:
        """The key, ready to sign with."""
        return keys.parse(self.key, None, "the key of these credentials")


def require_own(leaf: x509.Certificate, name: str, source: Path) -> None:
    """Raise ``UserError`` if a certificate is another party's. The gate judges all else of it."""
    with suppress(ValueError):  # no identity at all
        if (holder := Identity.of(leaf)).name != name:
            raise UserError(
                f"{source} is the certificate of {holder.role} {holder.name!r}, not of {name!r}."
                f" Use the file that was made for {name!r}, have {name!r} certified anew, or run"
                f" this as {holder.name!r}"
            )


def next_key(cert_folder: Path, name: str) -> ec.EllipticCurvePrivateKey:
    """The key for a party's next certificate: on disk before the CA is asked to certify it.

    One that an interrupted try left behind is used again, so that the CA sees the same request.
    """
    path = _next(_paths(cert_folder, name)[0])
    if path.exists():
        return keys.load(path)
    key = keys.generate()
    keys.save(path, key)
    return key


def renew_due(certificate: x509.Certificate, now: datetime) -> bool:
    """Whether two thirds of a certificate's life have passed: time to renew it."""
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return now >= begins + (ends - begins) * 2 / 3


def _paths(cert_folder: Path, name: str) -> tuple[Path, Path]:
    return cert_folder / f"{name}.key", cert_folder / f"{name}.pem"


def _next(key_path: Path) -> Path:
    return key_path.with_name(f"{key_path.name}.next")
