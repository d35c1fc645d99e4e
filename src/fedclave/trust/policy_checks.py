# SPDX-License-Identifier: Apache-2.0
"""The rules of an attestation policy, one by one; ``judgement`` says in which order.

Each takes the part of an appraisal that it is about, and raises ``Refused`` with what was found,
what the policy allows, and the next step. ``body`` is of a quote that was verified.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from fedclave.errors import Code, Refused
from fedclave.trust.names import Role
from fedclave.trust.pckext import PckExtension
from fedclave.trust.policy import BitsPart, MeasurementPart, Policy, RolePart
from fedclave.trust.policy_values import intel_root_hash
from fedclave.trust.quotes import SgxReport, TdReport
from fedclave.trust.roots import INTEL, SIMULATED
from fedclave.trust.sgx_verify import Appraisal

ASK = "ask the policy's signers"
_LISTED = 4  # things that a message lists
_DIGITS = 16  # of a hash in a message


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Whom the rules are applied to: what its certificate says, and its TLS key.

    ``key`` is the SHA-256 (hex) of the key's SubjectPublicKeyInfo.
    """

    role: Role
    name: str
    key: str

    def __str__(self) -> str:
        return self.role if self.role == self.name else f"{self.role} {self.name}"


def rules_for(policy: Policy, role: Role) -> RolePart:
    """What the policy says of a role; of one that it does not know, nothing."""
    roles: dict[Role, RolePart] = {
        "aggregator": policy.roles.aggregator,
        "collaborator": policy.roles.collaborator,
    }
    return roles.get(role, RolePart())


def check_valid(policy: Policy, now: datetime) -> None:
    """``ATT-POLICY`` before the policy begins, and after its end."""
    begins, ends = policy.valid.from_, policy.valid.until
    if not begins <= now <= ends:
        raise Refused(
            Code.ATT_POLICY,
            f"{policy.label} is valid from {when(begins)} until {when(ends)}; here it is"
            f" {when(now)}, so it admits nobody. Check the clock, or get the version of now from"
            " the policy's signers",
        )


def check_key(policy: Policy, peer: Peer) -> None:
    """``ATT-POLICY`` for a TLS key that the policy denies."""
    if peer.key in policy.platforms.deny_keys:
        raise Refused(
            Code.ATT_POLICY,
            f"{policy.label} denies the TLS key {short(peer.key)} of {peer}. Have {peer.name}"
            " certified with a new key, if the policy's signers agree",
        )


def check_root(policy: Policy, peer: Peer, root_hash: str, *, allow_simulated: bool) -> str:
    """The root as the policy names it. ``ATT-CHAIN``, ``ATT-SIMULATED``."""
    root = INTEL if root_hash == intel_root_hash() else SIMULATED + root_hash
    if root not in policy.roots:
        demanded = policy.roots == (INTEL,)
        raise Refused(
            Code.ATT_SIMULATED if demanded else Code.ATT_CHAIN,
            f"{peer} shows a quote under the root {_root(root)}; {policy.label} trusts"
            f" {_list(_root(one) for one in policy.roots)} alone. Run it on a platform under such a"
            f" root, or {ASK}",
        )
    if root != INTEL and not allow_simulated:
        raise Refused(
            Code.ATT_SIMULATED,
            f"{peer} shows a quote of a simulated TEE, which protects nobody. {policy.label} would"
            " bear it, but this process was not started with --allow-simulated. Give that for a"
            " trial, never with data that must stay secret",
        )
    return root


def check_code(
    policy: Policy, peer: Peer, body: SgxReport | TdReport, now: datetime
) -> MeasurementPart | None:
    """The listed measurement that fits; None where signers alone decide. ``ATT-MRENCLAVE``."""
    listed = rules_for(policy, peer.role).measurements
    if not listed:
        return None
    fits = next((one for one in listed if _fits(one, body)), None)
    runs = f"{peer} runs {_described(body)}"
    if fits is None:
        allowed = _list(_shown(one, now) for one in listed)
        problem = f"{runs}; {policy.label} allows {allowed}"
    elif fits.until is not None and now > fits.until:
        problem = f"{runs}, which {policy.label} allowed until {when(fits.until)}"
    else:
        return fits
    raise Refused(Code.ATT_MRENCLAVE, f"{problem}. Run the code that all agreed on, or {ASK}")


def check_signer(policy: Policy, peer: Peer, body: SgxReport | TdReport) -> None:
    """``ATT-MRSIGNER`` and ``ATT-PRODUCT``, where the policy names signers."""
    rules = rules_for(policy, peer.role)
    if not rules.signers:
        return
    if not isinstance(body, SgxReport):
        raise Refused(
            Code.ATT_MRSIGNER,
            f"{peer} is a TD, which has no signer; {policy.label} admits enclaves by theirs. If TDs"
            f" are to take part, {ASK}",
        )
    if body.mr_signer.hex() not in rules.signers:
        raise Refused(
            Code.ATT_MRSIGNER,
            f"{peer} runs an enclave signed by {short(body.mr_signer.hex())}; {policy.label} allows"
            f" {_list(short(one) for one in rules.signers)}. Have it signed by the agreed key, or"
            f" {ASK}",
        )
    product, least = rules.product.isv_prod_id, rules.product.min_isv_svn
    if product not in (None, body.isv_prod_id) or body.isv_svn < least:
        wanted = "any product" if product is None else f"product {product}"
        raise Refused(
            Code.ATT_PRODUCT,
            f"{peer} runs product {body.isv_prod_id} in security version {body.isv_svn};"
            f" {policy.label} allows {wanted} from version {least} on. Update it, or {ASK}",
        )


def check_mode(policy: Policy, peer: Peer, body: SgxReport | TdReport) -> None:
    """``ATT-DEBUG``; of an enclave, ``ATT-ATTRIBUTES``. A TD's attributes: ``tdx.check_td``."""
    if body.debug:
        raise Refused(
            Code.ATT_DEBUG,
            f"{peer} runs in debug mode: its host reads its memory. Build it without debug"
            " ('sgx.debug = false' in Gramine's manifest), and sign it again",
        )
    if not isinstance(body, SgxReport):
        return
    rules = rules_for(policy, peer.role)
    found: tuple[tuple[str, int, BitsPart], ...] = (
        ("attributes", body.flags, rules.attributes),
        ("xfrm", body.xfrm, rules.xfrm),
        ("misc_select", body.misc_select, rules.misc_select),
    )
    for what, value, rule in found:
        if value & rule.mask != rule.value:
            raise Refused(
                Code.ATT_ATTRIBUTES,
                f"{peer} runs with {what} {value:#x}; {policy.label} allows {rule.value:#x} under"
                f" the mask {rule.mask:#x} (they differ in"
                f" {(value ^ rule.value) & rule.mask:#x}). Build the enclave so, or {ASK}",
            )


def check_platform(policy: Policy, peer: Peer, platform: PckExtension) -> None:
    """``ATT-POLICY`` for a machine, or a setting of it, that the policy does not allow."""
    ppid, listed = platform.ppid.hex(), policy.platforms
    if ppid in listed.deny or (listed.allow and ppid not in listed.allow):
        how = "denies" if ppid in listed.deny else "does not list"
        raise Refused(
            Code.ATT_POLICY,
            f"{policy.label} {how} the machine of {peer} (PPID {ppid}). Use another one, or {ASK}",
        )
    settings = (
        ("smt", "simultaneous multithreading", platform.smt_enabled),
        ("dynamic_platform", "packages that may be added", platform.dynamic_platform),
        ("cached_keys", "platform keys that Intel may keep", platform.cached_keys),
    )
    for key, what, found in settings:
        if found is not False and not getattr(policy.tcb, key):
            says = "has" if found else "has perhaps, for its certificate does not say,"
            raise Refused(
                Code.ATT_POLICY,
                f"the machine of {peer} {says} {what}; {policy.label} does not allow that"
                f" (tcb.{key}). Set the machine up without it, or {ASK}",
            )


def check_collateral(policy: Policy, peer: Peer, found: Appraisal, now: datetime) -> datetime:
    """When the collateral ends, or is too old. ``ATT-COLLATERAL-EXPIRED``, -FUTURE, -OLDER."""
    skew = timedelta(seconds=policy.freshness.clock_skew_s)
    oldest = timedelta(days=policy.freshness.collateral_max_age_days)
    again = "Import newer collateral ('fx attest collateral import')"
    if now < found.newest - skew:
        raise Refused(
            Code.ATT_COLLATERAL_FUTURE,
            f"the collateral about the platform of {peer} was issued at {when(found.newest)}, and"
            f" here it is {when(now)}. Check the clock",
        )
    if now > found.expires:
        raise Refused(
            Code.ATT_COLLATERAL_EXPIRED,
            f"the collateral about the platform of {peer} ended at {when(found.expires)}. {again}",
        )
    if now > found.issued + oldest:
        raise Refused(
            Code.ATT_COLLATERAL_EXPIRED,
            f"the collateral about the platform of {peer} was issued at {when(found.issued)},"
            f" {(now - found.issued).days} days ago; {policy.label} bears {oldest.days}. {again}",
        )
    if found.evaluation < policy.tcb.min_evaluation:
        raise Refused(
            Code.ATT_COLLATERAL_OLDER,
            f"the collateral about the platform of {peer} has evaluation number"
            f" {found.evaluation}; {policy.label} asks for {policy.tcb.min_evaluation} or more."
            f" {again}",
        )
    return min(found.expires, found.issued + oldest)


def check_status(policy: Policy, peer: Peer, found: Appraisal, now: datetime) -> datetime | None:
    """When the platform's grace ends; None if it needs none. ``ATT-TCB-STATUS``.

    The status is the merged one, of platform, TDX module and quoting enclave; the grace counts from
    the oldest of the levels that make it so.
    """
    status, rules = found.status.value, policy.tcb
    if status in rules.allowed:
        return None
    platform = f"the platform of {peer} (FMSPC {found.platform.fmspc.hex()}) is {status}"
    advised = f" ({_list(found.advisories)})" if found.advisories else ""
    update = "Update its BIOS, microcode and DCAP packages"
    if status not in rules.grace.statuses:
        raise Refused(
            Code.ATT_TCB_STATUS,
            f"{platform}{advised}; {policy.label} allows {_list(rules.allowed, 8)}. {update}, or"
            f" {ASK}",
        )
    ends = found.behind_since + timedelta(days=rules.grace.days)
    if now > ends:
        raise Refused(
            Code.ATT_TCB_STATUS,
            f"{platform}{advised} by a TCB level of {found.behind_since:%Y-%m-%d}; the grace of"
            f" {rules.grace.days} days in {policy.label} ended at {when(ends)}. {update}, or {ASK}",
        )
    return ends


def check_advisories(
    policy: Policy, peer: Peer, advisories: tuple[str, ...], grace: datetime | None
) -> tuple[tuple[str, str], ...]:
    """Each advisory with the reason why it is borne. ``ATT-ADVISORY``."""
    rules = policy.tcb
    reasons = {one: f"in grace until {when(grace)}" for one in advisories if grace is not None}
    reasons |= rules.accept_advisories
    bad = [one for one in advisories if one in rules.reject_advisories or one not in reasons]
    if bad:
        how = "rejects" if set(bad) & set(rules.reject_advisories) else "does not accept"
        raise Refused(
            Code.ATT_ADVISORY,
            f"security advisories apply to the platform of {peer} that {policy.label} {how}:"
            f" {_list(bad, 8)}. Apply them (https://www.intel.com/security), or {ASK}",
        )
    return tuple((one, reasons[one]) for one in advisories)


def when(moment: datetime) -> str:
    """A time in a message."""
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def short(digest: str) -> str:
    """The beginning of a hash, for a message."""
    return f"{digest[:_DIGITS]}..."


def measurement(body: SgxReport | TdReport) -> str:
    """MRENCLAVE or MRTD, hex."""
    return (body.mr_enclave if isinstance(body, SgxReport) else body.mr_td).hex()


def _fits(one: MeasurementPart, body: SgxReport | TdReport) -> bool:
    if isinstance(body, SgxReport):
        return one.mr_enclave == body.mr_enclave.hex()
    wanted = zip(one.run_time, body.rt_mr, strict=True)
    return one.mr_td == body.mr_td.hex() and all(rt in (None, mr.hex()) for rt, mr in wanted)


def _described(body: SgxReport | TdReport) -> str:
    if isinstance(body, SgxReport):
        return f"mr_enclave {short(measurement(body))}"
    run_time = ", ".join(
        f"rt_mr{number} {short(one.hex())}" for number, one in enumerate(body.rt_mr)
    )
    return f"mr_td {short(measurement(body))} with {run_time}"


def _shown(one: MeasurementPart, now: datetime) -> str:
    """A measurement for people: its beginning, what it is, how long it is allowed."""
    if one.mr_enclave is not None:
        text = short(one.mr_enclave)
    else:
        parts = enumerate(one.run_time)
        text = f"mr_td {short(one.mr_td or '')} with " + ", ".join(
            f"rt_mr{number} {short(value)}" for number, value in parts if value is not None
        )
    remarks = [one.note] if one.note else []
    if one.until is not None:
        remarks.append(f"{'until' if now <= one.until else 'ended'} {one.until:%Y-%m-%d}")
    return f"{text} ({', '.join(remarks)})" if remarks else text


def _root(root: str) -> str:
    digest = root.removeprefix(SIMULATED)
    return root if digest == root else SIMULATED + short(digest)


def _list(items: Iterable[str], most: int = _LISTED) -> str:
    every = list(items)
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more
