# SPDX-License-Identifier: Apache-2.0
"""What a party trusts: the CA of its federation, and where its revocation list lies."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from fedclave.errors import Code, Refused, UserError
from fedclave.trust import files, keys, profiles
from fedclave.trust.keys import UNREADABLE


@dataclass(frozen=True, kw_only=True)
class Anchors:
    """What one party trusts: its federation's CA, and the file of its revocation list."""

    federation: str
    root: x509.Certificate
    issuing: x509.Certificate
    crl: Path

    @classmethod
    def read(cls, cert_folder: Path) -> Self:
        """The anchors in ``chain.pem`` (issuing CA, then root). ``UserError`` if they are wrong.

        ``Refused``: the root is not the one that was measured (``hold_to``).
        """
        path = cert_folder / "chain.pem"
        remedy = "Certify this party first ('fx join', or 'fx ... certify')"
        found = cls.parse(files.read(path, remedy), crl=cert_folder / "crl.pem", source=str(path))
        found.require_measured(str(path))
        return found

    @classmethod
    def parse(cls, chain: bytes, *, crl: Path, source: str) -> Self:
        """The anchors in the PEM bytes of a chain, which must hold together by itself."""
        try:
            issuing, root = x509.load_pem_x509_certificates(chain)
            for certificate, issuer, length in ((root, root, 1), (issuing, root, 0)):
                certificate.verify_directly_issued_by(issuer)
                if not profiles.is_authority(certificate, length):
                    raise ValueError("it is not a CA's certificate with the right limits")
            federation = profiles.federation_of(root)
            if profiles.federation_of(issuing) != federation:
                raise ValueError("its two certificates name different federations")
        except UNREADABLE as error:
            reason = str(error) or "a signature is wrong"
            raise UserError(
                f"{source} is not a federation's chain ({reason}). Get it from the CA again"
            ) from error
        return cls(federation=federation, root=root, issuing=issuing, crl=crl)

    @property
    def chain(self) -> bytes:
        """Issuing CA, then root, in PEM."""
        return b"".join(one.public_bytes(Encoding.PEM) for one in (self.issuing, self.root))

    def require_measured(self, source: str) -> None:
        """Raise ``Refused`` (FOREIGN_CERTIFICATE) if the root is not the one that was measured."""
        if _measured is None:
            return
        expected = read_root(_measured)
        if self.root != expected:
            raise Refused(
                Code.FOREIGN_CERTIFICATE,
                f"{source} has the root {keys.fingerprint(self.root)}, and {_measured}, which is"
                f" measured with the code, has {keys.fingerprint(expected)}: another CA, and"
                " its members stay out. Use the federation's own, or make an image with this one",
            )


_measured: Path | None = None


def read_root(path: Path) -> x509.Certificate:
    """The root that an image brings. ``UserError``: it is no certificate, or more than one."""
    try:
        (root,) = x509.load_pem_x509_certificates(files.read(path, "Make the image again"))
    except UNREADABLE as error:
        raise UserError(f"{path} is not one certificate ({error}). Make the image again") from error
    return root


def hold_to(root: Path | None) -> None:
    """From now on anchors must have the root in this file; None: whatever is read.

    An image brings the root with its code, so the host, which writes the party's own folder,
    cannot put a CA of its own in its place.
    """
    global _measured
    _measured = root
