# SPDX-License-Identifier: Apache-2.0
"""The contract of a workspace: closed, signed, accepted, and held to before anything runs.

    plan/contract.dsse.json            the contract, signed by its author; travels with the archive
    plan/author.pub                    the author's public key, for people to compare
    cert/author.key                    the author's own key, at the author
    cert/author.pub                    the author that this party trusts, from its first acceptance
    cert/owner.pub                     the data owner whose word counts at this site
    cert/NAME.acceptance.dsse.json     that word, about one contract and one party

Where the plan asks for no attestation and none of these is there, there is no contract, and the
plan's digest is what the parties compare. As soon as one is there, a run begins only if all of this
holds (``load``):

    1  This party has said whose contracts count.                     UserError
    2  There is a contract, and that author signed it.                UserError, bad-signature
    3  It is of this federation and of the plan here.                 wrong-federation, wrong-plan
    4  At a collaborator: the owner whom this site knows accepted
       it, this very one, for this party.                             UserError, bad-signature,
                                                                      wrong-contract
    5  Every file that this folder brings into a run is the one
       that was signed, and none is missing; the policy may be
       another version, by the word of those whom the plan names as
       its signers (``policy_file``).                                 wrong-contract, malformed,
                                                                      bad-signature, ATT-POLICY

What a run then imports it reads again: who can write to the folder meanwhile can change it. That is
the party's own operator, and what an enclave, not a signature, keeps out.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedclave.errors import Code, Refused, UserError
from fedclave.plan import Plan
from fedclave.trust import contract as contracts
from fedclave.trust import dsse, files, gate, policy, policy_file, signing
from fedclave.trust.contract import ACCEPTANCE_TYPE, CONTRACT_TYPE, Acceptance, Contract, File
from fedclave.trust.dsse import Envelope
from fedclave.trust.gate import SignedContract
from fedclave.trust.policy_file import SignedPolicy
from fedclave.workspace import archive, initial, output
from fedclave.workspace.layout import Workspace

AUTHOR, OWNER = "author", "owner"
"""Names of the keys in ``cert``."""

_SIGN = "Have it signed ('fx plan sign'), or import the archive that the author exported after that"


@dataclass(frozen=True, kw_only=True)
class Found:
    """A contract as it lies in a workspace; nobody has vouched for it."""

    envelope: Envelope
    contract: Contract


def close(workspace: Workspace, plan: Plan) -> Contract:
    """The contract over a workspace as it is now. ``UserError``: a file cannot be in one."""
    initial.described(workspace, plan)  # the initial weights are part of the contract
    names = archive.contracted(workspace)
    if other := sorted(set(archive.brought(workspace)) - set(names)):
        raise UserError(
            f"{other[0]} would not be exported, and code can read all that lies in src/. Move it"
            " elsewhere"
        )
    return contracts.close(workspace.root, names, federation=plan.name, plan=plan.digest)


def find(workspace: Workspace) -> Found | None:
    """The contract that lies in a workspace, if one does. ``Refused``: it does not parse."""
    if not os.path.lexists(workspace.contract):
        return None
    envelope = dsse.decode(files.read(workspace.contract, _SIGN))
    return Found(envelope=envelope, contract=contracts.parse(envelope.payload))


def sign(workspace: Workspace, plan: Plan, key: Ed25519PrivateKey) -> Contract:
    """Close the contract and sign it. One that is signed already keeps its other signatures.

    ``UserError``: a file is missing, or cannot be in a contract. ``Refused``: this site follows
    another author.
    """
    if plan.attestation is not None:
        policy.load(workspace.attestation)  # a run would ask for it
    made, found = close(workspace, plan), find(workspace)
    envelope = dsse.sign(CONTRACT_TYPE, made.bytes, key)
    if found is not None and found.envelope.payload == made.bytes:
        (own,) = envelope.signatures
        others = tuple(one for one in found.envelope.signatures if one.key != own.key)
        envelope = replace(envelope, signatures=(*others, own))
    pin(workspace, AUTHOR, key.public_key())
    public = signing.public_pem(key.public_key())
    for path, data in ((workspace.author, public), (workspace.contract, dsse.encode(envelope))):
        with output.new_file(path) as temporary:
            temporary.write_bytes(data)
    return made


def changes(old: Contract, new: Contract) -> tuple[str, ...]:
    """Where a contract departs from an earlier one, in words, a line for each file."""
    before = {file.path: file for file in old.files}
    after = {file.path: file for file in new.files}
    words = {(True, False): "removed", (False, True): "added", (True, True): "changed"}
    return tuple(
        f"{path} was {words[path in before, path in after]}"
        for path in sorted(before.keys() | after.keys())
        if before.get(path) != after.get(path)
    )


def compared(workspace: Workspace, agreed: Contract) -> tuple[tuple[File, File | None], ...]:
    """Each file of a contract, and the one that lies here under its name; None: there is none."""
    return tuple((file, _here(workspace, file.path)) for file in agreed.files)


def policy_signed(workspace: Workspace, plan: Plan) -> SignedPolicy | None:
    """The policy that lies here, by the word of those whom the plan names; None: it names nobody.

    ``Refused``, ``UserError``: they do not stand by it, or this party accepted a later one.
    """
    if plan.attestation is None:
        return None
    return policy_file.looked_at(
        workspace.attestation,
        workspace.attestation_signatures,
        signers=plan.attestation.signers,
        threshold=plan.attestation.threshold,
        pins=workspace.cert / "policies",
    )


def another_policy(workspace: Workspace, plan: Plan, agreed: Contract) -> SignedPolicy | None:
    """The policy that is followed here in place of the contract's; None: it is the contract's.

    A policy changes by its signers' word, not the author's. ``Refused``, ``UserError``: what lies
    here is neither the contract's file, nor signed by them.
    """
    if plan.attestation is None or not os.path.lexists(workspace.attestation):
        return None
    if _here(workspace, contracts.POLICY) in agreed.files:
        return None
    try:
        return policy_signed(workspace, plan)
    except Refused as refused:
        raise Refused(
            refused.code,
            f"{contracts.POLICY} is not the file of the contract, nor another version that the"
            f" plan's signers stand by: {refused.message}",
        ) from refused


def offered(workspace: Workspace, plan: Plan, author: Ed25519PublicKey) -> SignedContract:
    """The contract of an author, held to every file here. ``Refused``, naming what differs."""
    found = find(workspace)
    if found is None:
        raise UserError(f"there is no {workspace.contract}. {_SIGN}")
    with _naming(workspace, workspace.contract):
        signed = gate.authored(
            found.envelope, authors=[author], federation=plan.name, plan=plan.digest
        )
    _require_files(workspace, plan, signed.contract)
    return signed


def accept(
    workspace: Workspace,
    signed: SignedContract,
    party: str,
    *,
    author: Ed25519PublicKey,
    owner: Ed25519PrivateKey,
) -> Path:
    """Write the owner's word that a party may take part; pins author and owner at this site."""
    both = {AUTHOR: author, OWNER: owner.public_key()}
    for who, key in both.items():
        require_pinned(workspace, who, key)
    for who, key in both.items():
        pin(workspace, who, key)
    word = Acceptance(contract=signed.id, federation=signed.contract.federation, party=party)
    path = workspace.acceptance(party)
    files.write(path, dsse.encode(dsse.sign(ACCEPTANCE_TYPE, word.bytes, owner)))
    return path


def pinned(workspace: Workspace, who: str) -> Ed25519PublicKey | None:
    """The public key of the author or the owner that this site trusts."""
    path = workspace.cert / f"{who}.pub"
    if not os.path.lexists(path):
        return None
    return signing.parse_public(files.read(path, "Restore it from a copy"), str(path))


def pin(workspace: Workspace, who: str, key: Ed25519PublicKey) -> None:
    """Trust an author or owner from now on. ``Refused``: this site trusts another one."""
    require_pinned(workspace, who, key)
    if pinned(workspace, who) is None:
        files.write(workspace.cert / f"{who}.pub", signing.public_pem(key))


def require_pinned(workspace: Workspace, who: str, key: Ed25519PublicKey) -> None:
    """Raise ``Refused`` if this site trusts another author or owner than this one."""
    known = pinned(workspace, who)
    if known is not None and known != key:
        raise Refused(
            Code.BAD_SIGNATURE,
            f"this site knows the {who} by the key {signing.key_id(known)[:16]}, and this is"
            f" {signing.key_id(key)[:16]}. Ask who changed it; if it is right, remove"
            f" {workspace.cert / who}.pub",
        )


def load(workspace: Workspace, plan: Plan, party: str | None) -> SignedContract | None:
    """The contract that a run here is held to; None where there is none and none is asked for.

    ``party`` is the collaborator whose owner must have accepted it; None at the aggregator.
    ``Refused``, ``UserError``: something is missing, differs, or was signed by somebody else.
    """
    if plan.attestation is None and not _speaks_of_a_contract(workspace):
        return None
    author = pinned(workspace, AUTHOR)  # 1
    if author is None:
        raise UserError(
            f"nobody here has said whose contracts count ({workspace.cert / AUTHOR}.pub is"
            " missing). Look at it with 'fx plan show --contract', then 'fx plan accept'"
        )
    if party is None:
        return offered(workspace, plan, author)  # 2, 3, 5
    found, owner = find(workspace), pinned(workspace, OWNER)
    if found is None:
        raise UserError(f"there is no {workspace.contract}. {_SIGN}")
    path = workspace.acceptance(party)
    if owner is None or not os.path.lexists(path):  # 4
        raise UserError(
            f"the owner of this data has not accepted contract {found.contract.id[:16]} for"
            f" {party!r}. Read it with 'fx plan show --contract', then: fx plan accept -n {party}"
        )
    acceptance = files.read(path, f"Have it accepted again: fx plan accept -n {party}")
    with _naming(workspace, workspace.contract, path):
        signed = gate.accept(  # 2, 3, 4
            found.envelope,
            dsse.decode(acceptance),
            authors=[author],
            owner=owner,
            party=party,
            federation=plan.name,
            plan=plan.digest,
        )
    _require_files(workspace, plan, signed.contract)  # 5
    return signed


def _require_files(workspace: Workspace, plan: Plan, agreed: Contract) -> None:
    here = archive.brought(workspace)
    if plan.attestation is not None and os.path.lexists(workspace.attestation):
        another_policy(workspace, plan, agreed)
        here = tuple(name for name in here if name != contracts.POLICY)
        others = tuple(file for file in agreed.files if file.path != contracts.POLICY)
        agreed = replace(agreed, files=others)
    contracts.require(workspace.root, here, agreed)


def _here(workspace: Workspace, name: str) -> File | None:
    """A file as it lies here. The policy lies with what is this party's own."""
    return contracts.file_at(workspace.own if name == contracts.POLICY else workspace.root, name)


def _speaks_of_a_contract(workspace: Workspace) -> bool:
    """Whether anything is left of one: to delete a file does not end the checks of the others."""
    cert = workspace.cert
    keys = (cert / f"{who}.{kind}" for who in (AUTHOR, OWNER) for kind in ("key", "pub"))
    traces = (workspace.contract, workspace.author, *keys)
    return any(map(os.path.lexists, traces)) or any(cert.glob("*.acceptance.dsse.json"))


@contextmanager
def _naming(workspace: Workspace, *paths: Path) -> Iterator[None]:
    """What the gate refuses is said of these files, or of the plan."""
    try:
        yield
    except Refused as refused:
        wrong = (workspace.plan,) if refused.code is Code.WRONG_PLAN else paths
        names = " and ".join(map(str, wrong))
        raise Refused(refused.code, f"{names}: {refused.message}") from refused
