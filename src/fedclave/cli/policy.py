# SPDX-License-Identifier: Apache-2.0
"""``fx attest policy``: check, sign and show the attestation policy."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedclave.cli import console
from fedclave.cli.options import (
    Json,
    KeyPassphraseFile,
    WorkspaceDir,
    command,
    noun,
    number,
)
from fedclave.errors import Code, FedclaveError, PlanError, Refused, UserError

if TYPE_CHECKING:
    from fedclave.trust.policy import MeasurementPart, Policy, RolePart
    from fedclave.trust.policy_file import Signers

policy_app = noun("policy", "Check, sign and show what peers must run.")

PolicyFile = Annotated[
    Path | None,
    typer.Option(
        "--policy",
        metavar="FILE",
        help="The policy's text; its signatures lie beside it.",
        show_default="the workspace's plan/attestation.yaml",
    ),
]


@command(
    policy_app,
    "check",
    "fx attest policy check",
    "fx attest policy check --policy attestation.yaml --signer anna.pub --signer ben.pub",
)
def check(
    policy: PolicyFile = None,
    signer: Annotated[
        list[str] | None,
        typer.Option(
            "--signer",
            metavar="KEY",
            help="A key that may sign it: ed25519:... or a .pub file. Repeat it.",
        ),
    ] = None,
    threshold: Annotated[
        int | None,
        number("--threshold", 1, 256, "So many of these keys must have signed it; without: all."),
    ] = None,
    workspace: WorkspaceDir = Path(),
    as_json: Json = False,
) -> None:
    """Check the policy's text and who signed it; report mistakes with their lines.

    In a workspace whose plan names signers, they must stand by it; of another file (--policy), the
    keys of --signer. Exit code 3 if they do not. Changes nothing: a version that was checked can
    still be replaced by another one.
    """
    from fedclave.trust import policy as policies
    from fedclave.trust import policy_file
    from fedclave.trust.policy_checks import check_valid

    text, now = _path(policy, workspace), datetime.now(UTC)
    signed_by: tuple[str, ...] | None = None
    problem = None
    if signer:
        trusted = _signers(signer, threshold)
        signed = policy_file.verified(text, policy_file.envelope_of(text), trusted)
        found, signed_by = signed.policy, signed.signed_by
        check_valid(found, now)
    elif threshold is not None:
        raise typer.BadParameter("Give the keys with --signer.", param_hint="'--threshold'")
    else:
        found = policies.load(text)
        signed_by, problem = _stand_by(workspace) if policy is None else (None, None)
        if signed_by is not None:
            check_valid(found, now)
    warnings = list(_warnings(found, now))
    value = {
        "policy": found.digest, "file": text, "name": found.name, "version": found.version,
        "signed_by": signed_by, "not_signed": problem, "warnings": warnings,
    }  # fmt: skip
    lines = [f"{text} is good: {found.label}, digest {found.digest}"]
    if problem is not None:
        lines = [f"{text}: {found.label}, digest {found.digest}"]
    elif signed_by is None:
        lines.append("Signatures were not looked at. Give the signers' keys with --signer.")
    lines = [*lines, *_signed_lines(signed_by, problem), *(f"Mind: {one}" for one in warnings)]
    console.answer(value, lines, as_json)
    if problem is not None:
        raise typer.Exit(Refused.exit_code)


@command(policy_app, "key", "fx attest policy key keys/anna.key")
def key(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where the private key will lie.")],
    passphrase_file: KeyPassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Make a key for signing policies, and print its public half as the plan names it.

    Of a key that is there, only its public half is printed.
    """
    from fedclave.trust import policy_file, signing

    secret = console.key_passphrase(passphrase_file)
    if file.exists():
        private = signing.load(file, secret)
    else:
        private = signing.generate()
        signing.save(file, private, secret)
    public = policy_file.format_key(private.public_key())
    console.answer(
        {"file": file, "key": public},
        [
            *console.rows({"private key": file, "public key": public}),
            *console.steps(f'write it into plan/plan.yaml: attestation: {{signers: ["{public}"]}}'),
        ],
        as_json,
    )


@command(
    policy_app,
    "sign",
    "fx attest policy sign keys/anna.key",
    "fx attest policy sign anna.key --policy attestation.yaml",
)
def sign(
    key: Annotated[
        Path, typer.Argument(metavar="KEY", help="Your private signing key (Ed25519, PEM).")
    ],
    policy: PolicyFile = None,
    passphrase_file: KeyPassphraseFile = None,
    workspace: WorkspaceDir = Path(),
    as_json: Json = False,
) -> None:
    """Add your signature to the policy. Read it first: 'fx attest policy show'.

    Signatures over another text are dropped: whoever made them signs again.
    """
    from fedclave.trust import policy_file, signing

    text = _path(policy, workspace)
    private = signing.load(key, console.key_passphrase(passphrase_file))
    envelope = policy_file.envelope_of(text)
    done = policy_file.sign(text, envelope, private)
    public = policy_file.format_key(private.public_key())
    lines = [
        f"Signed {done.policy.label}.",
        "",
        *console.rows(
            {
                "digest": done.policy.digest,
                "signatures": f"{done.signatures}, in {envelope}",
                "your public key": public,
            }
        ),
    ]
    if done.dropped:
        dropped = console.count(done.dropped, "signature")
        lines += ["", f"The text has changed: {dropped} over the older one dropped."]
    value = {
        "policy": done.policy.digest, "version": done.policy.version, "file": envelope,
        "signatures": done.signatures, "dropped": done.dropped, "key": public,
    }  # fmt: skip
    console.answer(value, lines, as_json)


@command(policy_app, "show", "fx attest policy show", "fx attest policy show --policy new.yaml")
def show(
    policy: PolicyFile = None, workspace: WorkspaceDir = Path(), as_json: Json = False
) -> None:
    """Show in words whom the policy admits, with its digest, and who of the plan's signers signed.

    Of another file (--policy) it verifies no signature. All parties must see the same digest. The
    next version names it as its previous one.
    """
    from fedclave.trust import policy as policies

    found, now = policies.load(_path(policy, workspace)), datetime.now(UTC)
    signed_by, problem = _stand_by(workspace) if policy is None else (None, None)
    warnings = list(_warnings(found, now))
    content = found.model_dump(mode="json", by_alias=True)
    value = {
        "digest": found.digest, "policy": content, "signed_by": signed_by, "not_signed": problem,
        "warnings": warnings,
    }  # fmt: skip
    signed = list(_signed_lines(signed_by, problem))
    lines = [*signed, *([""] if signed else []), *_words(found)]
    lines += ["", *(f"Mind: {one}" for one in warnings)] if warnings else []
    console.answer(value, lines, as_json)


def _stand_by(workspace: Path) -> tuple[tuple[str, ...] | None, str | None]:
    """Who of those whom the plan names signed the workspace's policy; or why nobody can follow it.

    None and None where the plan names nobody.
    """
    from fedclave.plan import load
    from fedclave.workspace import agreement, layout

    opened = layout.open_(workspace)
    try:
        signed = agreement.policy_signed(opened, load(opened.plan))
    except PlanError:
        raise
    except (Refused, UserError) as error:
        return None, not_followed(error)
    return (None, None) if signed is None else (signed.signed_by, None)


def not_followed(error: FedclaveError) -> str:
    """Why no party starts with a policy, loudly: it is not signed, or not the newest."""
    if isinstance(error, Refused) and error.code is Code.ATT_POLICY:
        return f"SIGNED, BUT NOT TO BE FOLLOWED, so nothing starts with it: {error}"
    return f"NOT SIGNED by the plan's signers, so nothing starts with it: {error}"


def _signed_lines(signed_by: tuple[str, ...] | None, problem: str | None) -> Iterator[str]:
    if problem is not None:
        yield problem
    yield from (f"signed by {one}" for one in signed_by or ())


def _path(policy: Path | None, workspace: Path) -> Path:
    from fedclave.workspace import layout

    return layout.open_(workspace).attestation if policy is None else policy


def _signers(given: list[str], threshold: int | None) -> "Signers":
    from fedclave.trust import files, policy_file, signing

    keys = [
        policy_file.parse_key(one)
        if one.startswith("ed25519:")
        else signing.parse_public(files.read(Path(one), "Name a file that is there"), one)
        for one in given
    ]
    return policy_file.Signers(keys=tuple(keys), threshold=threshold or len(keys))


def _words(policy: "Policy") -> Iterator[str]:
    """The policy in plain words, one rule a line."""
    from fedclave.trust.policy_values import ALL

    excused = policy.roles.collaborator.unattested
    tcb, fresh, places = policy.tcb, policy.freshness, policy.platforms
    yield f"{policy.name}, version {policy.version}"
    yield ""
    yield from console.rows(
        {
            "digest": policy.digest,
            "previous": policy.previous or "none",
            "valid": f"{console.when(policy.valid.from_)} to {console.when(policy.valid.until)}",
            "roots": ", ".join(policy.roots),
        }
    )
    for who, rules in (
        ("The aggregator", policy.roles.aggregator),
        ("A collaborator", policy.roles.collaborator),
    ):
        yield ""
        yield f"{who} must run:" if rules.admits else f"{who} is not admitted by any evidence."
        yield from _role(rules)
    if excused.members:
        who = "every collaborator" if ALL in excused.members else ", ".join(excused.members)
        yield f"  without evidence: {who}, because: {excused.reason}"
        yield f"  these receive: {', '.join(excused.receives) or 'nothing'}"
    yield from ("", "Its platform")
    yield f"  has the status {' or '.join(tcb.allowed)}"
    if tcb.grace.statuses:
        yield (
            f"  or {' or '.join(tcb.grace.statuses)}, at most {tcb.grace.days} days after the date"
            " of the oldest TCB level that makes it so"
        )
    for advisory, reason in tcb.accept_advisories.items():
        yield f"  may have {advisory}, because: {reason}"
    if tcb.reject_advisories:
        yield f"  never has {', '.join(tcb.reject_advisories)}"
    for what, allowed in (
        ("threads that share a core (SMT)", tcb.smt),
        ("packages that may be added (dynamic platform)", tcb.dynamic_platform),
        ("keys that Intel may keep (cached keys)", tcb.cached_keys),
    ):
        yield f"  {'may have' if allowed else 'has no'} {what}"
    if places.allow:
        yield f"  is one of {', '.join(places.allow)}"
    for what, denied in (("machines", places.deny), ("TLS keys", places.deny_keys)):
        if denied:
            yield f"  denied {what}: {', '.join(denied)}"
    yield from ("", "Times")
    yield from (
        f"  {line}"
        for line in console.rows(
            {
                "session": f"ends after {fresh.session_s} s",
                "new evidence": f"after {fresh.reattest_s} s",
                "evidence": f"at most {fresh.evidence_s} s old",
                "clocks": f"differ by {fresh.clock_skew_s} s at most",
                "collateral": f"at most {fresh.collateral_max_age_days} days old, evaluation number"
                f" {tcb.min_evaluation} or more",
            }
        )
    )
    from fedclave.trust.judgement import RECEIVES, plainly

    yield ""
    for purpose, to in policy.releases.items():
        who = f"an attested {RECEIVES[purpose]}" if to == "attested" else "nobody"
        yield f"The {plainly(purpose)} goes to {who}."


def _role(rules: "RolePart") -> Iterator[str]:
    for one in rules.measurements:
        remarks = [one.note] if one.note else []
        if one.until is not None:
            remarks.append(f"until {console.when(one.until)}")
        yield f"  {_code(one)}" + (f" ({', '.join(remarks)})" if remarks else "")
    if rules.signers:
        product = rules.product.isv_prod_id
        yield f"  signed by {' or '.join(rules.signers)}"
        yield (
            f"  as {'any product' if product is None else f'product {product}'}, security version"
            f" {rules.product.min_isv_svn} or more"
        )
    if rules.admits:
        for what, bits in (
            ("attributes", rules.attributes),
            ("xfrm", rules.xfrm),
            ("misc_select", rules.misc_select),
        ):
            yield f"  with {what} {bits.value:#x} under the mask {bits.mask:#x}"


def _code(one: "MeasurementPart") -> str:
    if one.mr_enclave is not None:
        return f"mr_enclave {one.mr_enclave}"
    registers = (f"rt_mr{n} {value or 'any'}" for n, value in enumerate(one.run_time))
    return f"mr_td {one.mr_td} with {', '.join(registers)}"


def _warnings(policy: "Policy", now: datetime) -> Iterator[str]:
    """What is allowed, and deserves a second thought."""
    from fedclave.trust.policy_values import ALL

    if not policy.valid.from_ <= now <= policy.valid.until:
        yield f"it is not valid now ({console.when(now)}), and admits nobody"
    if any(root != "intel" for root in policy.roots):
        yield "it trusts a SIMULATED root, which protects nobody: whoever has its key can lie"
    for role, rules in (
        ("aggregator", policy.roles.aggregator),
        ("collaborator", policy.roles.collaborator),
    ):
        if rules.signers and not rules.measurements:
            yield f"in the role {role}, the signers alone decide which code runs"
        for one in rules.measurements:
            if one.until is not None and one.until < now:
                ended = f"of the role {role} ended {console.when(one.until)}"
                yield f"{_code(one)[:27]}... {ended}: remove it"
    if ALL in policy.roles.collaborator.unattested.members:
        yield "no collaborator needs to prove anything"
