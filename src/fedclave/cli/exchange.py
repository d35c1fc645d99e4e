# SPDX-License-Identifier: Apache-2.0
"""Certifying by hand: a request goes to the CA in a file, its certificate comes back in a file.

The file that comes back holds PEM blocks: leaf, issuing CA, root, revocation list. Nothing in it is
secret. What people compare is the request's fingerprint (at the CA) and the root's (at the party).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from fedclave.cli import console, proving
from fedclave.cli.party import Party
from fedclave.cli.vouching import Vouching
from fedclave.errors import Refused, UserError
from fedclave.plan import Plan
from fedclave.trust import files, keys, pki, requests
from fedclave.trust.adopt import adopt, root_sha256
from fedclave.trust.credentials import Credentials, next_key, require_own
from fedclave.trust.gate import Anchors, admit
from fedclave.trust.names import SERVERS, Identity, Role
from fedclave.workspace import members
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

    def command(self, verb: str) -> str:
        """A command of this party's, as it is typed."""
        return f"fx {self.role} {verb}" + ("" if self.role in SERVERS else f" -n {self.name}")

    @property
    def starting(self) -> tuple[str, ...]:
        """What a certified party does next."""
        if self.role in SERVERS:
            return (self.command("start"),)
        has_data = self.name in members.data_paths(self.workspace)
        return (self.command("ping"), self.command("start") + ("" if has_data else " -d DATA"))


def make_request(
    subject: Subject, plan: Plan, hosts: Iterable[str], *, allow_simulated: bool
) -> x509.CertificateSigningRequest:
    """A request for a new key that stays here, with the evidence that the plan asks for."""
    workspace = subject.workspace
    party = Party(
        workspace=workspace, plan=plan, name=subject.name, clock=lambda: datetime.now(UTC)
    )
    with proving.prover(party, subject.role, allow_simulated=allow_simulated) as prove:
        key = next_key(workspace.cert, subject.name)
        return requests.make_request(
            key,
            federation=plan.name,
            role=subject.role,
            name=subject.name,
            hosts=hosts,
            evidence=prove(key.public_key(), b""),
        )


def request(
    subject: Subject, plan: Plan, hosts: Iterable[str], *, allow_simulated: bool, as_json: bool
) -> None:
    """``generate-cert-request``: a new key that stays here, and the request for it."""
    cert, path = subject.workspace.cert, subject.request_path
    made = make_request(subject, plan, hosts, allow_simulated=allow_simulated)
    files.write(path, made.public_bytes(Encoding.PEM))
    shown, certify = keys.fingerprint(made), subject.command("certify")
    following = [certify]
    if not pki.has_ca(cert):
        following = [
            f"send {path.name} to the CA's operator, who runs:",
            f"  {certify} --request {path.name}",
            "and compare the fingerprint with the operator (by telephone, say)",
        ]
    console.answer(
        {"name": subject.name, "role": subject.role, "request": path, "fingerprint": shown},
        [*console.rows({"request": path, "fingerprint": shown}), *console.steps(*following)],
        as_json,
    )


def certify(
    subject: Subject,
    source: Path | None,
    answer: Path | None,
    passphrase: Path | None,
    *,
    yes: bool,
    allow_simulated: bool,
    as_json: bool,
) -> None:
    """``certify``: at the CA sign a request, at the party take in the answer."""
    now = datetime.now(UTC)
    if answer is not None:
        if source is not None:
            raise UserError("--request is for the CA, --import for the party. Give one of them")
        value = take(subject, answer, yes=yes, now=now)
        lines = [*console.rows(value), *console.steps(*subject.starting)]
    else:
        vouch = Vouching(workspace=subject.workspace, allow_simulated=allow_simulated)
        value = _sign(subject, source, passphrase, yes=yes, vouch=vouch)
        lines = [f"{subject.name} is certified."]
        if "members" in value:
            lines = [f"{subject.name} is certified, and on the list in {value['members']}."]
        lines += onward(subject, value["response"])
    console.answer(value, lines, as_json)


def onward(subject: Subject, response: Path | None) -> list[str]:
    """The next steps at the CA, once a certificate is in place or in a file to send."""
    if response is None:
        return console.steps(*subject.starting)
    take = f"{subject.command('certify')} --import {response.name}"
    return console.steps(f"send {response} to {subject.name}, who runs: {take}")


def _sign(
    subject: Subject, source: Path | None, passphrase: Path | None, *, yes: bool, vouch: Vouching
) -> dict[str, Any]:
    """Sign a request; ``response`` is the file to send back (None: in place here)."""
    workspace, path, now = subject.workspace, source or subject.request_path, datetime.now(UTC)
    require_ca(workspace)
    federation = Anchors.read(workspace.cert).federation
    wanted = Identity(federation=federation, role=subject.role, name=subject.name)
    making = subject.command("generate-cert-request")
    data = files.read(path, f"Name the party's request with --request FILE; '{making}' makes it")
    try:
        made = requests.parse(data)
        asked = requests.check(made, wanted)  # before anybody is asked; ``vet`` does so again
        pki.check_key(workspace.cert, wanted, asked.public_key, now)
    except Refused as error:
        raise Refused(error.code, f"{path}: {error.message}") from error
    shown = keys.fingerprint(made)
    console.note(f"{subject.role} {subject.name!r} asks for a certificate. Fingerprint:\n  {shown}")
    # A wrong passphrase, or evidence that is refused, shows before the call.
    authority = pki.Authority.open(workspace.cert, console.passphrase(passphrase), vouch)
    try:
        vetted = authority.vet(made, wanted, now)
    except Refused as error:
        raise Refused(error.code, f"{path}: {error.message}") from error
    console.confirm("Does the party see the same fingerprint?", yes)
    leaf = authority.grant(vetted, now)
    response = deliver(authority, leaf, workspace, now)
    value = {"name": subject.name, "fingerprint": shown, "response": response}
    if subject.role == "collaborator":
        members.add_member(workspace, subject.name)
        value["members"] = workspace.members
    return value


def require_ca(workspace: Workspace) -> None:
    """Raise ``UserError`` unless the workspace holds the CA: better than to ask its passphrase."""
    if not pki.has_ca(workspace.cert):
        raise UserError(
            f"there is no CA in {workspace.cert}. Run this where the CA lies, or make one here: fx"
            " workspace certify"
        )


def open_authority(
    workspace: Workspace, passphrase: Path | None, *, allow_simulated: bool = False
) -> pki.Authority:
    """The CA of a workspace, once its passphrase is known. It certifies whom the gate admits."""
    require_ca(workspace)
    vouch = Vouching(workspace=workspace, allow_simulated=allow_simulated)
    return pki.Authority.open(workspace.cert, console.passphrase(passphrase), vouch)


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
    target = workspace.own / f"{name}.cert.pem"
    target.write_bytes(data + authority.recent_crl(now))
    return target


def take(subject: Subject, source: Path, *, yes: bool, now: datetime) -> dict[str, Any]:
    """Take in what the CA sent, after the gate's own checks."""
    cert = subject.workspace.cert
    data = files.read(source, "Name the file that the CA's operator sent")
    try:
        leaf, issuing, root = x509.load_pem_x509_certificates(data)
        revocations = x509.load_pem_x509_crl(data).public_bytes(Encoding.PEM)
    except keys.UNREADABLE as error:
        raise UserError(
            f"{source} is not a file of 'fx ... certify'. Name the one that the CA's operator sent"
        ) from error
    require_own(leaf, subject.name, source)
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
