# SPDX-License-Identifier: Apache-2.0
"""Taking a federation's chain and revocation list into a party's folder, once they are verified.

A folder belongs to one root for good. Under it, a later chain and a later list replace earlier
ones, never the other way round: who replays an old answer of the CA changes nothing.
"""

import hashlib
import hmac
from pathlib import Path

from cryptography import x509

from fedclave.errors import Code, Refused, UserError
from fedclave.trust import crl, files, keys
from fedclave.trust.gate import Anchors


def root_sha256(anchors: Anchors) -> str:
    """SHA-256 (hex) of the root certificate: what a join token carries."""
    return sha256_of(anchors.root)


def sha256_of(root: x509.Certificate) -> str:
    """The same of a root by itself."""
    return hashlib.sha256(keys.public_bytes(root)).hexdigest()


def adopt(cert_folder: Path, chain: bytes, revocations: bytes, *, root: str) -> Anchors:
    """Write ``chain.pem`` and ``crl.pem`` as a CA sent them, if its root has this SHA-256.

    ``Refused``: they are another CA's, or damaged. ``UserError``: the folder is another root's.
    """
    path = cert_folder / "crl.pem"
    try:
        sent = Anchors.parse(chain, crl=path, source="the chain that the service sent")
    except UserError as error:
        raise Refused(Code.MALFORMED, str(error)) from error
    if not hmac.compare_digest(root_sha256(sent), root):
        raise Refused(
            Code.FOREIGN_CERTIFICATE,
            "the service's root certificate is not the one that we expect: this is another CA, or"
            " somebody sits in between. Nothing was sent to it. Check the address, and ask the"
            " federation's operator",
        )
    sent.require_measured("the chain that the service sent")
    try:
        number = crl.number(crl.parse(revocations, sent.issuing))
    except (ValueError, TypeError) as error:
        reason = f"the revocation list that the service sent is not its CA's ({error})"
        raise Refused(Code.REVOCATION_UNKNOWN, reason) from error
    if _is_new(cert_folder, sent, root):
        files.write(cert_folder / "chain.pem", sent.chain)
    if number > _number(path, sent):
        files.write(path, revocations)
    return Anchors.read(cert_folder)


def _is_new(cert_folder: Path, sent: Anchors, root: str) -> bool:
    if not (cert_folder / "chain.pem").exists():
        return True
    held = Anchors.read(cert_folder)
    if root_sha256(held) != root:
        raise UserError(
            f"{cert_folder} holds the certificates of another CA (federation"
            f" {held.federation!r}). Use a workspace of its own for each federation"
        )
    return sent.issuing.not_valid_after_utc > held.issuing.not_valid_after_utc


def _number(path: Path, anchors: Anchors) -> int:
    """The number of the list in a file; 0 if there is none, or none that is good."""
    try:
        return crl.number(crl.parse(path.read_bytes(), anchors.issuing))
    except (OSError, ValueError, TypeError):
        return 0
