# SPDX-License-Identifier: Apache-2.0
"""The contract, at the command line: ``fx plan sign``, ``fx plan accept``, ``fx plan show
--contract``.
"""

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedclave.cli import console, policy
from fedclave.errors import FedclaveError, Refused, UserError
from fedclave.plan import Plan, load
from fedclave.trust import dsse, files, signing
from fedclave.trust.contract import CONTRACT_TYPE, POLICY, Contract, File
from fedclave.trust.policy_file import SignedPolicy
from fedclave.workspace import agreement, assemble, initial, report
from fedclave.workspace.agreement import AUTHOR, OWNER
from fedclave.workspace.layout import Workspace


def sign(workspace: Workspace, key: Path | None, passphrase: Path | None, as_json: bool) -> None:
    """Close the contract over the workspace as it is, and sign it."""
    plan = assemble.check(workspace)
    before = agreement.find(workspace)
    agreement.close(workspace, plan)  # what cannot be signed makes no key
    author, made_key = _key(workspace, AUTHOR, key, passphrase)
    made = agreement.sign(workspace, plan, author)
    changed = agreement.changes(before.contract, made) if before is not None else ()
    own = signing.key_id(author.public_key())
    value = {
        "contract": made.id,
        "measured": made.measured_id,
        "author": own,
        "file": workspace.contract,
        "files": _files(made),
        "changes": changed,
    }
    lines = [*_made(made_key), *_listed(made), ""]
    if changed:
        lines += ["Since it was signed last:", *(f"  {line}" for line in changed), ""]
    lines += console.rows({"contract": made.id, "author's key": own, "file": workspace.contract})
    lines += console.steps(
        "fx workspace export                 the archive carries the contract",
        "tell the data owners your key's fingerprint; each of them runs:",
        "  fx plan show --contract && fx plan accept -n NAME",
    )
    console.answer(value, lines, as_json)


def accept(
    workspace: Workspace,
    name: str | None,
    author: Path | None,
    key: Path | None,
    passphrase: Path | None,
    *,
    yes: bool,
    as_json: bool,
) -> None:
    """Show what a contract takes, and countersign it for a party; or only trust its author."""
    plan = load(workspace.plan)
    whose = _author(workspace, author)
    agreement.require_pinned(workspace, AUTHOR, whose)
    signed = agreement.offered(workspace, plan, whose)
    for line in _leaving(workspace, plan).lines if name else ():
        console.note(line)
    for line in _policy_standing(workspace, plan, signed.contract):
        console.note(f"\n{line}")
    other = agreement.another_policy(workspace, plan, signed.contract)
    own = signing.key_id(whose)
    console.note(f"\nContract {signed.id}\nsigned by the author's key {own}")
    if agreement.pinned(workspace, AUTHOR) is None and author is None:
        console.confirm("Does the author name the same key?", yes)
    value: dict[str, Any] = {"contract": signed.id, "author": own}
    value |= (
        {} if other is None else {"policy": other.digest, "policy_version": other.policy.version}
    )
    if name is None:
        agreement.pin(workspace, AUTHOR, whose)
        lines = [
            "This site follows contracts of this author.",
            *console.steps("fx aggregator start"),
        ]
    else:
        console.confirm(f"Do you accept this contract for {name}, as the data's owner?", yes)
        owner, made_key = _key(workspace, OWNER, key, passphrase)
        path = agreement.accept(workspace, signed, name, author=whose, owner=owner)
        value |= {"name": name, "owner": signing.key_id(owner.public_key()), "file": path}
        lines = [
            *_made(made_key),
            f"{name} may take part in contract {signed.id}.",
            *console.steps(f"fx collaborator start -n {name}"),
        ]
    console.answer(value, lines, as_json)


def show(workspace: Workspace, as_json: bool) -> None:
    """Every file of the contract, who signed it, whether this folder is it, and what leaves."""
    plan, found = load(workspace.plan), agreement.find(workspace)
    made = agreement.close(workspace, plan) if found is None else found.contract
    compared = agreement.compared(workspace, made)
    leaving = _leaving(workspace, plan)
    signatures = _signatures(workspace, found)
    standing = list(_standing(workspace, plan, found))
    value = {
        "contract": made.id,
        "measured": made.measured_id,
        "federation": made.federation,
        "plan": made.plan,
        "files": [_compared(signed, here) for signed, here in compared],
        "signatures": [{"key": key, "state": state} for key, state in signatures],
        "standing": standing,
        "leaves": leaving.as_json(),
    }
    lines = [line for signed, here in compared for line in _compared_lines(signed, here)]
    lines += ["", *console.rows({"contract": made.id, "plan": made.plan}), ""]
    lines += [f"signature by {report.plainly(key)}: {state}" for key, state in signatures]
    lines += [*standing, "", *leaving.lines]
    console.answer(value, lines, as_json)


def _leaving(workspace: Workspace, plan: Plan) -> report.Report:
    return report.make(plan, initial.described(workspace, plan).layout)


def _signatures(workspace: Workspace, found: agreement.Found | None) -> list[tuple[str, str]]:
    """Each signature's key id, and what can be said of it here."""
    author = agreement.pinned(workspace, AUTHOR)
    own = None if author is None else signing.key_id(author)
    states = []
    for one in found.envelope.signatures if found is not None else ():
        state = "by a key that this site does not know"
        if found is not None and author is not None and one.key == own:
            try:
                dsse.verified(replace(found.envelope, signatures=(one,)), CONTRACT_TYPE, [author])
                state = "valid"
            except Refused:
                state = "NOT VALID"
        states.append((one.key, state))
    return states


def _standing(workspace: Workspace, plan: Plan, found: agreement.Found | None) -> Iterator[str]:
    """Sentences about signatures, files and acceptances, each checked."""
    yield from _policy_standing(workspace, plan, None if found is None else found.contract)
    if found is None:
        yield "Not signed yet: this is what 'fx plan sign' would sign."
        return
    author = agreement.pinned(workspace, AUTHOR)
    if author is None:
        yield "No author is trusted here yet ('fx plan accept')."
    else:
        own = signing.key_id(author)[:16]
        try:
            agreement.offered(workspace, plan, author)
            other = agreement.another_policy(workspace, plan, found.contract) is not None
            every = "every other file here" if other else "every file here"
            yield f"Signed by the author that this site trusts ({own}); {every} is the one"
            yield "that was signed."
        except (Refused, UserError) as error:
            yield f"NOT what the author that this site trusts ({own}) signed: {error}"
    for path in sorted(workspace.cert.glob("*.acceptance.dsse.json")):
        name = path.name.removesuffix(".acceptance.dsse.json")
        try:
            agreement.load(workspace, plan, name)
            yield f"Accepted for {name} by the owner of this site's data."
        except FedclaveError as error:
            yield f"NOT accepted for {name}: {error}"


def _policy_standing(workspace: Workspace, plan: Plan, agreed: Contract | None) -> Iterator[str]:
    """Who stands by the policy that lies here, where the plan names its signers."""
    try:
        signed = agreement.policy_signed(workspace, plan)
        if signed is None:
            return
        if agreed is not None and agreement.another_policy(workspace, plan, agreed):
            yield _other(signed)
        else:
            yield f"{POLICY}: version {signed.policy.version}, signed by the plan's signers."
    except FedclaveError as error:
        yield f"{POLICY}: {policy.not_followed(error)}"


def _other(found: SignedPolicy) -> str:
    return (
        f"{POLICY}: version {found.policy.version}, signed by the plan's signers; the contract was"
        " signed with another version"
    )


def _author(workspace: Workspace, given: Path | None) -> Ed25519PublicKey:
    """The author's key: the one given, the one trusted here, or the one that came along."""
    if given is not None:
        return signing.parse_public(files.read(given, "Name the author's key file"), str(given))
    if (known := agreement.pinned(workspace, AUTHOR)) is not None:
        return known
    remedy = "Ask the author for the key, and name its file with --author"
    return signing.parse_public(files.read(workspace.author, remedy), str(workspace.author))


def _key(
    workspace: Workspace, who: str, given: Path | None, passphrase: Path | None
) -> tuple[Ed25519PrivateKey, Path | None]:
    """The author's or owner's key, and its file if it was made just now."""
    path = given or workspace.cert / f"{who}.key"
    secret = console.key_passphrase(passphrase)
    if given is not None or path.exists():
        return signing.load(path, secret), None
    key = signing.generate()
    public = path.with_suffix(".pub")
    if public.exists():
        raise UserError(
            f"{public} is there, and {path} is not: the key lies elsewhere. Name it with --key"
        )
    signing.save(path, key, secret)
    return key, path


def _made(path: Path | None) -> list[str]:
    return [] if path is None else [f"Made a key: {path}. Keep a copy of it apart from here.", ""]


def _files(contract: Contract) -> list[dict[str, Any]]:
    return [asdict(file) for file in contract.files]


def _compared(signed: File, here: File | None) -> dict[str, Any]:
    """A file as it lies here; ``signed`` is the contract's digest, where that is another."""
    if here == signed:
        return asdict(signed)
    size, digest = (None, None) if here is None else (here.size, here.sha256)
    return {"path": signed.path, "size": size, "sha256": digest, "signed": signed.sha256}


def _compared_lines(signed: File, here: File | None) -> Iterator[str]:
    if here is None:
        yield f"{'MISSING':64}  {'-':>10}  {signed.path}"
    else:
        yield f"{here.sha256}  {here.size:>10}  {here.path}"
    if here != signed:
        yield f"  the contract has another: {signed.sha256}"


def _listed(contract: Contract) -> list[str]:
    return [f"{file.sha256}  {file.size:>10}  {file.path}" for file in contract.files]
