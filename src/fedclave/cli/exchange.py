# SPDX-License-Identifier: Apache-2.0
"""Certifying by hand: a request goes to the CA in a file, its certificate comes back in a file.

The file that comes back holds PEM blocks: leaf, issuing CA, root, revocation list. Nothing in it is
secret. What people compare is the request's fingerprint (at the CA) and the root's (at the party).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from fedclave.cli import console
from fedclave.errors import UserError
from fedclave.trust import files, keys, pki, requests
from fedclave.trust.adopt import adopt, root_sha256
from fedclave.trust.credentials import Credentials, next_key
from fedclave.trust.gate import Anchors, admit
from fedclave.trust.names import Identity, Role
from fedclave.workspace.layout import Workspace


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Who is certified, in whose workspace."""

    workspace: Workspace
    role: Role
    name: str

    @property
    def request_path(self) -> Path:
        """Where the party's request lies."""
        return self.workspace.cert / f"{self.name}.csr"


def request(subject: Subject, federation: str, hosts: Iterable[str], as_json: bool) -> None:
    """``generate-cert-request``: a new key that stays here, and the request for it."""
    cert, path = subject.workspace.cert, subject.request_path
    key = next_key(cert, subject.name)
    made = requests.make_request(
        key, federation=federation, role=subject.role, name=subject.name, hosts=hosts
    )
    files.write(path, made.public_bytes(Encoding.PEM))
    shown = keys.fingerprint(made)
    who = "" if subject.role == "aggregator" else f" -n {subject.name}"
    console.answer(
        {"name": subject.name, "role": subject.role, "request": path, "fingerprint": shown},
        [
            *console.rows({"request": path, "fingerprint": shown}),
            *console.steps(
                f"send {path.name} to the CA's operator, who runs:",
                f"  fx {subject.role} certify{who} --request {path.name}",
                "and compare the fingerprint with the operator (by telephone, say)",
            ),
        ],
        as_json,
    )


def sign(
    subject: Subject, source: Path | None, passphrase: Path | None, *, yes: bool, now: datetime
) -> tuple[Path | None, str]:
    """``certify`` at the CA: sign a request. The file to send back (None: in place here)."""
    path = source or subject.request_path
    made = requests.parse(files.read(path, "Name the party's request with --request FILE"))
    shown = keys.fingerprint(made)
    console.note(f"{subject.role} {subject.name!r} asks for a certificate. Fingerprint:\n  {shown}")
    console.confirm("Does the party see the same fingerprint?", yes)
    cert = subject.workspace.cert
    authority = pki.Authority.open(cert, console.passphrase(passphrase))
    leaf = authority.issue(made, role=subject.role, name=subject.name, now=now)
    return deliver(authority, leaf, subject.workspace, now), shown


def deliver(
    authority: pki.Authority, leaf: x509.Certificate, workspace: Workspace, now: datetime
) -> Path | None:
    """Put a certificate in place if its key is here; else write the file to send."""
    name = Identity.of(leaf).name
    data = pki.bundle(leaf, authority.anchors) + _root(authority.anchors)
    if (key := _key(workspace.cert, name, leaf)) is not None:
        chain = pki.bundle(leaf, authority.anchors)
        Credentials(key=keys.encode(key), chain=chain).replace(workspace.cert, name)
        return None
    target = workspace.root / f"{name}.cert.pem"
    target.write_bytes(data + authority.recent_crl(now))
    return target


def take(subject: Subject, source: Path, *, yes: bool, now: datetime) -> dict[str, Any]:
    """``certify --import`` at the party: take in what the CA sent, after the gate's own checks."""
    cert = subject.workspace.cert
    data = files.read(source, "Name the file that the CA's operator sent")
    try:
        leaf, issuing, root = x509.load_pem_x509_certificates(data)
        revocations = x509.load_pem_x509_crl(data).public_bytes(Encoding.PEM)
    except ValueError as error:
        raise UserError(f"{source} is not a file of 'fx ... certify' ({error})") from error
    chain = b"".join(one.public_bytes(Encoding.PEM) for one in (issuing, root))
    sent = Anchors.parse(chain, crl=cert / "crl.pem", source=str(source))
    shown = keys.fingerprint(root)
    known = (cert / "chain.pem").exists() and root_sha256(Anchors.read(cert)) == root_sha256(sent)
    if not known:
        console.note(f"The CA's root has the fingerprint\n  {shown}")
        console.confirm("Does the CA's operator see the same ('fx ca show')?", yes)
    key = _key(cert, subject.name, leaf)
    if key is None:
        raise UserError(
            f"{source} certifies a key that is not here. Send the request that lies at"
            f" {subject.request_path}, and import its answer"
        )
    anchors = adopt(cert, chain, revocations, root=root_sha256(sent))
    member = admit(leaf, anchors=anchors, role=subject.role, now=now, members={subject.name})
    Credentials(key=keys.encode(key), chain=pki.bundle(leaf, anchors)).replace(cert, subject.name)
    return {"name": member.name, "role": member.role, "root": shown, "until": member.not_after}


def _key(cert: Path, name: str, leaf: x509.Certificate) -> ec.EllipticCurvePrivateKey | None:
    """The private key of a certificate, if it is in this folder: a new one, or the one in use."""
    for path in (cert / f"{name}.key.next", cert / f"{name}.key"):
        if path.exists() and (key := keys.load(path)).public_key() == leaf.public_key():
            return key
    return None


def _root(anchors: Anchors) -> bytes:
    return anchors.root.public_bytes(Encoding.PEM)
