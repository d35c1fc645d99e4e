# SPDX-License-Identifier: Apache-2.0
"""A policy applied to a genuine quote: whether that peer, in that role, is admitted now.

    1   The policy is valid now.                                  ATT-POLICY
    2   The peer's TLS key is not one that it denies.             ATT-POLICY
    3   It trusts the root behind the quote; a simulated root
        only in a process that was told to allow it.              ATT-CHAIN, ATT-SIMULATED
    4   It says what this role must run.                          ATT-POLICY-EMPTY
    5   The quote is of code that it lists, and not retired.      ATT-MRENCLAVE
    6   One of its signers signed the enclave, as the product and
        in a version that it allows.                              ATT-MRSIGNER, ATT-PRODUCT
    7   No debug mode; attributes, XFRM and MISCSELECT fit.       ATT-DEBUG, ATT-ATTRIBUTES
    8   The machine, and how it is set up, are allowed.           ATT-POLICY
    9   The collateral is of now, and recent enough.              ATT-COLLATERAL-...
    10  The TCB status is allowed, or in its grace.               ATT-TCB-STATUS
    11  Every advisory is accepted; in grace, none is rejected.   ATT-ADVISORY
    12  The session is not over. It counts from the evidence.     ATT-REQUIRED

That the quote answers this challenge, for this key, role and contract, its claims say; here it is
what runs that counts. ``again`` judges a session that lives, by the appraisal that was kept or by a
new one of the same quote under newer collateral.

The days of a grace count from the date (``tcbDate``) of the level that the status comes from: the
platform's, its TDX module's or its quoting enclave's, the oldest of several. The day on which a
newer level appeared would be kinder; but only newer collateral tells it, and who withholds that
would move it. The level's own date is signed, and the same for every party.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

from fedclave.errors import Bug, Code, Refused
from fedclave.trust import policy_checks as checks
from fedclave.trust.names import Role
from fedclave.trust.policy import Policy, Purpose
from fedclave.trust.policy_checks import ASK, Peer, when
from fedclave.trust.policy_values import ALL
from fedclave.trust.roots import INTEL
from fedclave.trust.sgx_verify import Appraisal


class Word(StrEnum):
    """How a peer stands, in the words of every screen and record."""

    VERIFIED = "VERIFIED"
    SIMULATED = "SIMULATED"
    NOT_ATTESTED = "NOT ATTESTED"


RECEIVES: dict[Purpose, Role] = {"initial-model": "aggregator", "data-key": "collaborator"}
"""Which role each secret is for."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A peer that is let in. Only ``appraise``, ``unattested``, ``unasked`` and ``again`` make one.

    What comes from a quote is None, or nothing, of a peer that is NOT ATTESTED.
    """

    word: Word
    role: Role
    name: str
    key: str
    """SHA-256 (hex) of the SubjectPublicKeyInfo of its TLS key."""
    policy: str
    """Digest of the policy that it was judged by."""
    asked: bool
    """Whether it had to give evidence, or to be excused by the policy."""
    receives: tuple[str, ...]
    """What it may receive; of keys, ``check_release`` decides."""
    note: str
    """What the policy calls its code; without evidence, why it needs none."""
    since: datetime
    """When it attested: the session counts from then."""
    reattest_after: datetime
    expires: datetime
    measurement: str | None = None
    """MRENCLAVE or MRTD, hex."""
    status: str | None = None
    """Of its platform's TCB."""
    advisories: tuple[tuple[str, str], ...] = ()
    """Those that apply, each with the reason why it is borne."""
    collateral_age: timedelta | None = None
    root: str | None = None
    """As the policy names it."""
    evidence: str | None = None
    """SHA-256 (hex) of the signed part of the quote."""


class _Times(NamedTuple):
    since: datetime
    now: datetime


def appraise(
    policy: Policy,
    role: Role,
    name: str,
    appraisal: Appraisal,
    *,
    key: str,
    now: datetime,
    allow_simulated: bool,
) -> Verdict:
    """The verdict on a peer whose quote is genuine, or ``Refused`` by the step that failed.

    ``key`` is the SHA-256 (hex) of the SubjectPublicKeyInfo of its TLS key. ``now`` is aware.
    """
    peer = Peer(role=role, name=name, key=key)
    return _judged(policy, peer, appraisal, _Times(now, now), allow_simulated=allow_simulated)


def again(
    policy: Policy, verdict: Verdict, appraisal: Appraisal | None, *, now: datetime
) -> Verdict:
    """The verdict on a session that lives, by the policy and the collateral of now.

    ``appraisal`` is of the quote that the session began with; None if it began without one. The
    session is not prolonged. ``Refused``: end it at once.
    """
    if verdict.evidence != (appraisal and appraisal.evidence):
        raise Bug(f"the session of {verdict.name} is judged by the quote of another")
    peer = Peer(role=verdict.role, name=verdict.name, key=verdict.key)
    times = _Times(verdict.since, now)
    if now < verdict.since - timedelta(seconds=policy.freshness.clock_skew_s):
        raise Refused(
            Code.ATT_REQUIRED,
            f"{peer} attested at {when(verdict.since)}, and here it is {when(now)}: the clock was"
            " set back. Set it right; the peer must attest again",
        )
    if appraisal is None:
        return _excused(policy, peer, times) if verdict.asked else _unasked(policy, peer, times)
    simulated = verdict.word is Word.SIMULATED
    return _judged(policy, peer, appraisal, times, allow_simulated=simulated)


def unattested(policy: Policy, name: str, *, key: str, now: datetime) -> Verdict:
    """The verdict on a collaborator that must give evidence, and gives none.

    ``Refused`` by steps 1, 2 and 12, and unless the policy excuses it (ATT-REQUIRED).
    """
    return _excused(policy, Peer(role="collaborator", name=name, key=key), _Times(now, now))


def unasked(policy: Policy, role: Role, name: str, *, key: str, now: datetime) -> Verdict:
    """The verdict on a peer whose role the plan does not ask for evidence. Steps 1, 2 and 12."""
    return _unasked(policy, Peer(role=role, name=name, key=key), _Times(now, now))


def check_time(policy: Policy, made: datetime, now: datetime) -> None:
    """Raise ``Refused`` (ATT-NONCE) unless evidence was made just now, by its maker's clock."""
    rules, age = policy.freshness, (now - made).total_seconds()
    if not -rules.clock_skew_s <= age <= rules.evidence_s + rules.clock_skew_s:
        raise Refused(
            Code.ATT_NONCE,
            f"the evidence was made at {when(made)} by its maker's clock, and here it is"
            f" {when(now)}. {policy.label} bears an age of {rules.evidence_s} s, and clocks that"
            f" differ by {rules.clock_skew_s} s. Set both clocks, then attest again",
        )


def check_receives(verdict: Verdict, what: str) -> None:
    """Raise ``Refused`` (ATT-POLICY) unless the policy lets this peer receive that."""
    if what not in verdict.receives:
        raise Refused(
            Code.ATT_POLICY,
            f"the policy does not let {verdict.role} {verdict.name} receive the {what}"
            f" ({verdict.note or 'unattested'}). Run it in a TEE, or {ASK}",
        )


def check_release(policy: Policy, verdict: Verdict, purpose: Purpose, now: datetime) -> None:
    """Raise ``Refused`` unless a secret of this purpose may go to this peer now.

    ATT-REQUIRED: its session is over, or not attested. ATT-ROLE: that is for another role.
    ATT-POLICY: it was admitted under another policy, or this one releases no such secret.
    """
    who = f"{verdict.role} {verdict.name}"
    if verdict.policy != policy.digest:
        raise Refused(
            Code.ATT_POLICY,
            f"{who} was admitted under another policy than {policy.label}. It must attest again",
        )
    if verdict.evidence is None or not verdict.since <= now <= verdict.expires:
        raise Refused(
            Code.ATT_REQUIRED,
            f"{who} has no attested session at {when(now)}. It must attest, then ask for the key"
            " again",
        )
    if verdict.role != RECEIVES[purpose]:
        raise Refused(
            Code.ATT_ROLE,
            f"the {plainly(purpose)} is for the {RECEIVES[purpose]}, and this is {who}. Give it the"
            " address of the other",
        )
    if policy.releases[purpose] == "none":
        raise Refused(
            Code.ATT_POLICY,
            f"{policy.label} releases no {plainly(purpose)} to {who}. If it should, {ASK}",
        )


def plainly(purpose: Purpose) -> str:
    """A secret's purpose in words.

    >>> plainly("initial-model")
    'initial model'
    """
    return purpose.replace("-", " ")


def _judged(
    policy: Policy,
    peer: Peer,
    found: Appraisal,
    times: _Times,
    *,
    allow_simulated: bool,
) -> Verdict:
    now = times.now
    checks.check_valid(policy, now)  # 1
    checks.check_key(policy, peer)  # 2
    root = checks.check_root(policy, peer, found.root_hash, allow_simulated=allow_simulated)  # 3
    if not checks.rules_for(policy, peer.role).admits:  # 4
        raise Refused(
            Code.ATT_POLICY_EMPTY,
            f"{policy.label} admits no {peer.role}: it names neither measurements nor signers for"
            f" this role. If it should, {ASK}",
        )
    code = checks.check_code(policy, peer, found.body, now)  # 5
    checks.check_signer(policy, peer, found.body)  # 6
    checks.check_mode(policy, peer, found.body)  # 7
    checks.check_platform(policy, peer, found.platform)  # 8
    stale = checks.check_collateral(policy, peer, found, now)  # 9
    grace = checks.check_status(policy, peer, found, now)  # 10
    advisories = checks.check_advisories(policy, peer, found.advisories, grace)  # 11
    retired = code.until if code is not None else None
    ends = [one for one in (stale, grace, retired) if one is not None]
    admitted = _Admitted(
        word=Word.VERIFIED if root == INTEL else Word.SIMULATED,
        receives=("model",),
        note="" if code is None else code.note or "",
        ends=tuple(ends),
    )
    verdict = _session(policy, peer, times, admitted)  # 12
    return replace(
        verdict,
        measurement=checks.measurement(found.body),
        status=found.status.value,
        advisories=advisories,
        collateral_age=now - found.issued,
        root=root,
        evidence=found.evidence,
    )


def _excused(policy: Policy, peer: Peer, times: _Times) -> Verdict:
    checks.check_valid(policy, times.now)  # 1
    checks.check_key(policy, peer)  # 2
    rule = policy.roles.collaborator.unattested
    if peer.name not in rule.members and ALL not in rule.members:
        raise Refused(
            Code.ATT_REQUIRED,
            f"{peer} gives no evidence, and {policy.label} does not name it among those that need"
            f" none. Run it in a TEE, or {ASK}",
        )
    admitted = _Admitted(
        word=Word.NOT_ATTESTED, receives=rule.receives, note=rule.reason or "", ends=()
    )
    return _session(policy, peer, times, admitted)  # 12


def _unasked(policy: Policy, peer: Peer, times: _Times) -> Verdict:
    checks.check_valid(policy, times.now)  # 1
    checks.check_key(policy, peer)  # 2
    note = f"the plan asks no {peer.role} for evidence"
    admitted = _Admitted(word=Word.NOT_ATTESTED, receives=("model",), note=note, ends=())
    return replace(_session(policy, peer, times, admitted), asked=False)  # 12


class _Admitted(NamedTuple):
    word: Word
    receives: tuple[str, ...]
    note: str
    ends: tuple[datetime, ...]
    """What ends the session, beside its length and the policy."""


def _session(policy: Policy, peer: Peer, times: _Times, admitted: _Admitted) -> Verdict:
    since, now = times
    rules = policy.freshness
    length = since + timedelta(seconds=rules.session_s)
    expires = min(length, policy.valid.until, *admitted.ends)
    if now > expires:
        raise Refused(
            Code.ATT_REQUIRED,
            f"the session of {peer} ended at {when(expires)}, by {policy.label}. It must attest"
            " again",
        )
    return Verdict(
        word=admitted.word,
        role=peer.role,
        name=peer.name,
        key=peer.key,
        policy=policy.digest,
        asked=True,
        receives=admitted.receives,
        note=admitted.note,
        since=since,
        reattest_after=min(since + timedelta(seconds=rules.reattest_s), expires),
        expires=expires,
    )
