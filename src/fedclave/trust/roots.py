# SPDX-License-Identifier: Apache-2.0
"""The roots under which quotes are verified: Intel's, built in, and those that a party has kept.

    FOLDER/roots/SHA256.der   a root certificate, by the SHA-256 of its SubjectPublicKeyInfo

To keep a root is not to trust it: that is for the policy, which names roots by that hash. What is
kept only lets a refusal say "simulated" where it could say no more than "unknown".
"""

import hashlib
from collections.abc import Collection
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fedclave.errors import UserError
from fedclave.trust import files, keys, pck

INTEL, SIMULATED = "intel", "simulated:"
"""How a policy names roots: Intel's, and a simulated one by its hash."""


def spki_hash(root_der: bytes) -> str:
    """SHA-256 (hex) of a root's SubjectPublicKeyInfo. ``UserError``: it is no certificate."""
    try:
        key = x509.load_der_x509_certificate(root_der).public_key()
    except keys.UNREADABLE as error:
        raise UserError(
            f"this is no root certificate in DER form ({error}). Get it again"
        ) from error
    return hashlib.sha256(
        key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    ).hexdigest()


def keep(folder: Path, root_der: bytes) -> None:
    """Keep a root beside the collateral that it signs. Intel's is known already."""
    if root_der != pck.INTEL_ROOT:
        files.write(folder / "roots" / f"{spki_hash(root_der)}.der", root_der)


def known(folder: Path) -> tuple[bytes, ...]:
    """Intel's root, and those that were kept (DER). ``UserError``: a file is not what it says."""
    kept = []
    for path in sorted((folder / "roots").glob("*.der")):
        root_der = files.read(path, "Restore it from a copy, or remove it")
        if spki_hash(root_der) != path.stem:
            raise UserError(f"{path} is another root than its name says. Remove it")
        kept.append(root_der)
    return (pck.INTEL_ROOT, *kept)


def named(folder: Path, roots: Collection[str]) -> tuple[bytes, ...]:
    """Those of the known roots that a policy names."""
    return tuple(
        root_der
        for root_der in known(folder)
        if (INTEL if root_der == pck.INTEL_ROOT else f"{SIMULATED}{spki_hash(root_der)}") in roots
    )
