# SPDX-License-Identifier: Apache-2.0
"""A policy applied to appraisals of quotes: who is admitted, how, until when, and who is not."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.support import dcap_pki
from tests.support.policies import CODE, DAY, KEY, NOW, ROLE, appraised, made

from fedclave.errors import Bug, Code, Refused
from fedclave.trust import collateral, judgement, pck, policy_checks, quotes, sgx_verify
from fedclave.trust.judgement import Verdict, Word
from fedclave.trust.policy import Policy
from fedclave.trust.policy_checks import Peer
from fedclave.trust.quotes import SgxReport
from fedclave.trust.sgx_verify import Appraisal
from fedclave.trust.simulated import ADVISORY, Faults, SimulatedPlatform

VECTORS = Path(__file__).parents[2] / "vectors/attestation"
HOUR = timedelta(hours=1)
SIGNER = "0d" * 32


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> SimulatedPlatform:
    return SimulatedPlatform.create(tmp_path_factory.mktemp("tee"), "digits", NOW)


@pytest.fixture(scope="module")
def good(platform: SimulatedPlatform) -> Appraisal:
    return appraised(platform)


Rules = Callable[..., Policy]


@pytest.fixture(scope="module")
def rules(platform: SimulatedPlatform) -> Rules:
    """A policy that trusts the simulated platform, with these parts."""

    def make(**parts: Any) -> Policy:
        return made(f"simulated:{platform.root_hash}", **parts)

    return make


def judged(
    policy: Policy,
    found: Appraisal,
    *,
    now: datetime = NOW,
    role: Any = "collaborator",
    allow_simulated: bool = True,
) -> Verdict:
    return judgement.appraise(
        policy, role, "hospital3", found, key=KEY, now=now, allow_simulated=allow_simulated
    )


def refusal(*arguments: Any, **keywords: Any) -> Refused:
    with pytest.raises(Refused) as refused:
        judged(*arguments, **keywords)
    return refused.value


def role(**keys: Any) -> dict[str, Any]:
    return {"collaborator": keys}


def enclave(found: Appraisal, **fields: Any) -> Appraisal:
    """The appraisal of an enclave that differs in these fields."""
    assert isinstance(found.body, SgxReport)
    return replace(found, body=replace(found.body, **fields))


# Who is admitted, and what the verdict says.


def test_a_verdict_says_what_runs_and_how_long_that_counts(rules: Rules, good: Appraisal) -> None:
    policy = rules()
    found = judged(policy, good, now=NOW + HOUR)
    assert found == Verdict(
        word=Word.SIMULATED,
        role="collaborator",
        name="hospital3",
        key=KEY,
        policy=policy.digest,
        asked=True,
        receives=("model",),
        note="release 1.4.0",
        measurement=CODE.hex(),
        status="UpToDate",
        advisories=(),
        collateral_age=NOW + HOUR - good.issued,
        root=policy.roots[0],
        evidence=good.evidence,
        since=NOW + HOUR,
        reattest_after=NOW + 7 * HOUR,
        expires=NOW + 13 * HOUR,
    )


def test_code_without_a_note_is_admitted_too(rules: Rules, good: Appraisal) -> None:
    policy = rules(roles=role(measurements=[{"mr_enclave": CODE.hex()}]))
    assert judged(policy, good).note == ""


@pytest.mark.parametrize(
    ("parts", "expires"),
    [
        ({"freshness": {"session_s": 60, "reattest_s": 30}}, NOW + timedelta(seconds=60)),
        ({"valid": {"from": "2031-01-01", "until": "2031-05-01T13:00:00Z"}}, NOW + HOUR),
        (
            {"roles": role(measurements=[{"mr_enclave": CODE.hex(), "until": "2031-05-01"}])},
            datetime(2031, 5, 1, 23, 59, 59, tzinfo=UTC),
        ),
    ],
    ids=["session", "policy", "measurement"],
)
def test_a_session_ends_with_the_first_thing_that_ends(
    parts: dict[str, Any], expires: datetime, rules: Rules, good: Appraisal
) -> None:
    found = judged(rules(**parts), good)
    assert found.expires == expires
    assert found.reattest_after <= expires


def test_a_session_ends_with_its_collateral(rules: Rules, good: Appraisal) -> None:
    assert judged(rules(), replace(good, expires=NOW + HOUR)).expires == NOW + HOUR
    old = replace(good, issued=NOW - DAY + HOUR)
    short = rules(freshness={"collateral_max_age_days": 1})
    assert judged(short, old).expires == NOW + HOUR


def real(case: str) -> tuple[Appraisal, datetime]:
    cases = json.loads((VECTORS / "cases.json").read_text(encoding="utf-8"))["quote_cases"]
    (found,) = (one for one in cases if one["id"] == case)
    now = datetime.fromtimestamp(found["now"], UTC)
    quote = quotes.parse((VECTORS / found["quote"]).read_bytes())
    parts = collateral.parse((VECTORS / found["collateral"]).read_bytes())
    return sgx_verify.judge(quote, parts, pck.INTEL_ROOT, now), now


REAL = {"from": "2022-01-01", "until": "2026-12-31"}


def test_a_real_quote_is_verified_under_intels_root() -> None:
    found, now = real("sgx-automata@sgx00606A-2025-08")
    assert isinstance(found.body, SgxReport)
    rules = role(
        measurements=[{"mr_enclave": found.body.mr_enclave.hex()}],
        signers=[found.body.mr_signer.hex()],
    )
    tcb = {
        "allowed": ["SWHardeningNeeded"],
        "accept_advisories": {"INTEL-SA-00615": "the code does no MMIO"},
        **dict.fromkeys(("smt", "dynamic_platform", "cached_keys"), True),
    }
    policy = made(valid=REAL, roles=rules, tcb=tcb, freshness={"collateral_max_age_days": 365})
    verdict = judged(policy, found, now=now, allow_simulated=False)
    assert (verdict.word, verdict.root) == (Word.VERIFIED, "intel")
    assert verdict.advisories == (("INTEL-SA-00615", "the code does no MMIO"),)


def td() -> tuple[Appraisal, dict[str, str], datetime]:
    """A TD on a platform of a root of its own, and what it is measured as."""
    vendor = dcap_pki.Vendor("tdx")
    vendor.td = {"tee_tcb_svn": bytes([4, 1, *[dcap_pki.SVN] * 14])}
    quote, parts = quotes.parse(vendor.quote()), collateral.parse(vendor.collateral())
    found = sgx_verify.judge(quote, parts, vendor.root_der, dcap_pki.NOW)
    assert not isinstance(found.body, SgxReport)
    measured = {f"rt_mr{n}": one.hex() for n, one in enumerate(found.body.rt_mr)}
    return found, {"mr_td": found.body.mr_td.hex(), **measured}, dcap_pki.NOW


def td_policy(found: Appraisal, now: datetime, *measurements: dict[str, Any]) -> Policy:
    return made(
        f"simulated:{found.root_hash}",
        valid={"from": f"{now - DAY:%Y-%m-%d}", "until": f"{now + DAY:%Y-%m-%d}"},
        roles=role(measurements=measurements),
        tcb=dict.fromkeys(("smt", "dynamic_platform", "cached_keys"), True),
    )


def test_a_td_is_admitted_by_firmware_kernel_and_application() -> None:
    found, measured, now = td()
    assert judged(td_policy(found, now, measured), found, now=now).measurement == measured["mr_td"]
    del measured["rt_mr0"]  # the virtual machine's configuration may be any
    assert judged(td_policy(found, now, measured), found, now=now).word is Word.SIMULATED


@pytest.mark.parametrize("register", ["mr_td", "rt_mr0", "rt_mr1", "rt_mr2", "rt_mr3"])
def test_a_td_that_differs_in_one_register_is_refused(register: str) -> None:
    found, measured, now = td()
    other = td_policy(found, now, measured | {register: "0e" * 48})
    refused = refusal(other, found, now=now)
    assert refused.code is Code.ATT_MRENCLAVE
    assert "0e0e0e0e0e0e0e0e..." in refused.message


# Who is not.


def test_code_that_is_not_listed_is_refused_with_what_is(
    rules: Rules, platform: SimulatedPlatform
) -> None:
    listed = [
        {"mr_enclave": "41" * 32, "note": "release 1.4.0"},
        {"mr_enclave": "0b" * 32, "until": "2031-12-31"},
        {"mr_enclave": "0a" * 32, "until": "2031-04-30"},
        *({"mr_enclave": f"9{n}" * 32} for n in range(3)),
    ]
    refused = refusal(rules(roles=role(measurements=listed)), appraised(platform))
    assert refused.code is Code.ATT_MRENCLAVE
    assert refused.message == (
        "collaborator hospital3 runs mr_enclave abababababababab...; policy digits v1 allows"
        " 4141414141414141... (release 1.4.0), 0b0b0b0b0b0b0b0b... (until 2031-12-31),"
        " 0a0a0a0a0a0a0a0a... (ended 2031-04-30), 9090909090909090... and 2 more. Run the code"
        " that all agreed on, or ask the policy's signers"
    )


def test_the_code_of_one_role_does_not_count_in_another(rules: Rules, good: Appraisal) -> None:
    other = {"measurements": [{"mr_enclave": "41" * 32}]}
    policy = rules(roles={"aggregator": ROLE, "collaborator": other})
    assert judged(policy, good, role="aggregator").role == "aggregator"
    assert refusal(policy, good, role="collaborator").code is Code.ATT_MRENCLAVE


def test_a_retired_measurement_is_refused_from_its_end_on(rules: Rules, good: Appraisal) -> None:
    end = "2031-05-02T00:00:00Z"
    policy = rules(roles=role(measurements=[{"mr_enclave": CODE.hex(), "until": end}]))
    assert judged(policy, good, now=NOW + 12 * HOUR).expires == NOW + 12 * HOUR
    refused = refusal(policy, good, now=NOW + 12 * HOUR + timedelta(seconds=1))
    assert refused.code is Code.ATT_MRENCLAVE
    assert "allowed until 2031-05-02 00:00 UTC" in refused.message


@pytest.mark.parametrize("who", ["collaborator", "authority"])
def test_a_role_without_measurement_and_signer_admits_nobody(
    who: str, rules: Rules, good: Appraisal
) -> None:
    refused = refusal(rules(roles={"aggregator": ROLE}), good, role=who)
    assert refused.code is Code.ATT_POLICY_EMPTY


def test_a_signer_that_is_not_listed_is_refused(rules: Rules, good: Appraisal) -> None:
    policy = rules(roles=role(**ROLE, signers=[SIGNER]))
    assert refusal(policy, good).code is Code.ATT_MRSIGNER
    signed = enclave(good, mr_signer=bytes.fromhex(SIGNER))
    assert judged(policy, signed).measurement == CODE.hex()


def test_a_signer_alone_admits_its_product_from_a_version_on(rules: Rules, good: Appraisal) -> None:
    product = {"isv_prod_id": 7, "min_isv_svn": 3}
    policy = rules(roles=role(signers=[SIGNER], product=product))
    signed = {"mr_signer": bytes.fromhex(SIGNER), "mr_enclave": b"\x05" * 32}
    admitted = enclave(good, **signed, isv_prod_id=7, isv_svn=3)
    assert judged(policy, admitted).measurement == "05" * 32
    for other in ({"isv_prod_id": 7, "isv_svn": 2}, {"isv_prod_id": 6, "isv_svn": 9}):
        refused = refusal(policy, enclave(good, **signed, **other))
        assert refused.code is Code.ATT_PRODUCT
        assert "allows product 7 from version 3 on" in refused.message


def test_a_td_is_not_admitted_by_a_signer(rules: Rules) -> None:
    found, _, now = td()
    policy = made(
        f"simulated:{found.root_hash}",
        valid={"from": f"{now - DAY:%Y-%m-%d}", "until": f"{now + DAY:%Y-%m-%d}"},
        roles=role(signers=[SIGNER], product={"isv_prod_id": 0}),
    )
    assert refusal(policy, found, now=now).code is Code.ATT_MRSIGNER


def test_an_enclave_in_debug_mode_is_refused_here_too(rules: Rules, good: Appraisal) -> None:
    """Its verifier refuses it; no policy can let it in again."""
    everything = role(**ROLE, attributes={"mask": 0, "value": 0})
    assert refusal(rules(roles=everything), enclave(good, flags=0x07)).code is Code.ATT_DEBUG


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"flags": 0x15}, "attributes"),
        ({"flags": 0x04}, "attributes"),
        ({"flags": 0x05 | 1 << 63}, "attributes"),
        ({"xfrm": 0x01}, "xfrm"),
        ({"xfrm": 0x203}, "xfrm"),
        ({"misc_select": 1}, "misc_select"),
    ],
    ids=["provision key", "not initialised", "reserved", "no SSE", "PKRU", "exinfo"],
)
def test_other_attributes_are_refused_unless_the_policy_frees_them(
    fields: dict[str, int], rule: str, rules: Rules, good: Appraisal
) -> None:
    refused = refusal(rules(), enclave(good, **fields))
    assert refused.code is Code.ATT_ATTRIBUTES
    assert f"runs with {rule} {next(iter(fields.values())):#x}" in refused.message
    freed = rules(roles=role(**ROLE, **{rule: {"mask": 0, "value": 0}}))
    assert judged(freed, enclave(good, **fields)).word is Word.SIMULATED


def test_an_intel_only_policy_admits_no_simulated_platform(good: Appraisal) -> None:
    for allow in (True, False):
        refused = refusal(made(), good, allow_simulated=allow)
        assert refused.code is Code.ATT_SIMULATED
        assert "trusts intel alone" in refused.message


def test_a_simulated_root_counts_only_with_the_switch(rules: Rules, good: Appraisal) -> None:
    refused = refusal(rules(), good, allow_simulated=False)
    assert refused.code is Code.ATT_SIMULATED
    assert "--allow-simulated" in refused.message


def test_a_policy_of_one_simulated_root_trusts_no_other(rules: Rules, good: Appraisal) -> None:
    other = made(f"simulated:{'0a' * 32}")
    assert refusal(other, good).code is Code.ATT_CHAIN
    intel, now = real("sgx-automata@sgx00606A-2025-08")
    assert refusal(rules(valid=REAL), intel, now=now).code is Code.ATT_CHAIN


def test_a_denied_machine_is_refused_and_an_allow_list_admits_no_other(
    rules: Rules, good: Appraisal
) -> None:
    ppid = good.platform.ppid.hex()
    for listed in ({"deny": [ppid]}, {"allow": ["0c" * 16]}):
        refused = refusal(rules(platforms=listed), good)
        assert refused.code is Code.ATT_POLICY
        assert ppid in refused.message
    for listed in ({"deny": ["0c" * 16]}, {"allow": [ppid]}):
        assert judged(rules(platforms=listed), good).word is Word.SIMULATED


def test_a_denied_key_is_refused_with_and_without_evidence(rules: Rules, good: Appraisal) -> None:
    excused = {"members": "all", "reason": "no SGX", "receives": ["model"]}
    policy = rules(platforms={"deny_keys": [KEY.upper()]}, roles=role(**ROLE, unattested=excused))
    assert refusal(policy, good).code is Code.ATT_POLICY
    for spare in (
        lambda: judgement.unattested(policy, "hospital3", key=KEY, now=NOW),
        lambda: judgement.unasked(policy, "collaborator", "hospital3", key=KEY, now=NOW),
    ):
        with pytest.raises(Refused) as refused:
            spare()
        assert refused.value.code is Code.ATT_POLICY


@pytest.mark.parametrize(
    ("field", "key"),
    [
        ("smt_enabled", "smt"),
        ("dynamic_platform", "dynamic_platform"),
        ("cached_keys", "cached_keys"),
    ],
)
@pytest.mark.parametrize("says", [True, None])
def test_a_setting_of_the_machine_must_be_allowed_or_surely_off(
    field: str, key: str, says: bool | None, rules: Rules, good: Appraisal
) -> None:
    machine = replace(good, platform=replace(good.platform, **{field: says}))
    refused = refusal(rules(), machine)
    assert refused.code is Code.ATT_POLICY
    assert f"tcb.{key}" in refused.message
    assert judged(rules(tcb={key: True}), machine).word is Word.SIMULATED


@pytest.mark.parametrize("days", [-121, 245])
def test_a_policy_that_is_not_valid_now_admits_nobody(
    days: int, rules: Rules, good: Appraisal
) -> None:
    policy, now = rules(), NOW + days * DAY
    assert refusal(policy, good, now=now).code is Code.ATT_POLICY
    with pytest.raises(Refused) as refused:
        judgement.unasked(policy, "aggregator", "a", key=KEY, now=now)
    assert refused.value.code is Code.ATT_POLICY


def test_collateral_that_has_ended_or_is_too_old_is_refused(rules: Rules, good: Appraisal) -> None:
    assert refusal(rules(), replace(good, expires=NOW - HOUR)).code is Code.ATT_COLLATERAL_EXPIRED
    policy = rules(freshness={"collateral_max_age_days": 7})
    refused = refusal(policy, good, now=NOW + 7 * DAY)
    assert refused.code is Code.ATT_COLLATERAL_EXPIRED
    assert "7 days ago; policy digits v1 bears 7" in refused.message


def test_collateral_from_the_future_is_refused_beyond_the_skew(
    rules: Rules, good: Appraisal
) -> None:
    slow = good.issued - timedelta(seconds=300)
    assert judged(rules(), good, now=slow).since == slow
    refused = refusal(rules(), good, now=slow - timedelta(seconds=1))
    assert refused.code is Code.ATT_COLLATERAL_FUTURE


def test_collateral_that_knows_too_little_is_refused(
    rules: Rules, platform: SimulatedPlatform
) -> None:
    policy = rules(tcb={"min_evaluation": 20})
    assert judged(policy, appraised(platform)).status == "UpToDate"
    refused = refusal(policy, appraised(platform, faults=Faults(evaluation=19)))
    assert refused.code is Code.ATT_COLLATERAL_OLDER


# TCB statuses, grace and advisories.

OUTDATED = Faults(status="OutOfDate", advisories=(ADVISORY,))
GRACE = {"statuses": ["OutOfDate"], "days": 20}


@pytest.mark.parametrize(
    "faults", [OUTDATED, Faults(qe_status="OutOfDate")], ids=["platform", "quoting enclave"]
)
def test_a_status_that_is_not_allowed_is_refused(
    faults: Faults, rules: Rules, platform: SimulatedPlatform
) -> None:
    refused = refusal(rules(), appraised(platform, faults=faults))
    assert refused.code is Code.ATT_TCB_STATUS
    assert "is OutOfDate" in refused.message and "allows UpToDate" in refused.message


def test_grace_counts_from_the_date_of_the_level_and_ends(
    rules: Rules, platform: SimulatedPlatform
) -> None:
    policy, found = rules(tcb={"grace": GRACE}), appraised(platform, faults=OUTDATED)
    ends = found.tcb_date + 20 * DAY
    last = judged(policy, found, now=ends)
    assert (last.status, last.expires) == ("OutOfDate", ends)
    assert last.advisories == ((ADVISORY, f"in grace until {ends:%Y-%m-%d %H:%M} UTC"),)
    refused = refusal(policy, found, now=ends + timedelta(seconds=1))
    assert refused.code is Code.ATT_TCB_STATUS
    assert "the grace of 20 days in policy digits v1 ended" in refused.message


def test_grace_ends_by_the_quoting_enclave_that_is_older_than_the_platform(rules: Rules) -> None:
    """The platform's level is 100 days old, the quoting enclave's 300; at most 200 are borne."""
    vendor, grace = dcap_pki.Vendor(), {"statuses": ["OutOfDate"], "days": 200}
    outdated = dcap_pki.level("OutOfDate", {"isvsvn": dcap_pki.QE_SVN})
    vendor.qe_identity["tcbLevels"] = [outdated]
    now = dcap_pki.NOW

    def found() -> Appraisal:
        quote, parts = quotes.parse(vendor.quote()), collateral.parse(vendor.collateral())
        return sgx_verify.judge(quote, parts, vendor.root_der, now)

    policy, peer = rules(tcb={"grace": grace}), Peer(role="collaborator", name="hospital3", key=KEY)
    assert policy_checks.check_status(policy, peer, found(), now) == now + 100 * DAY
    outdated["tcbDate"] = dcap_pki.date(now - 300 * DAY)
    with pytest.raises(Refused, match="the grace of 200 days") as refused:
        policy_checks.check_status(policy, peer, found(), now)
    assert refused.value.code is Code.ATT_TCB_STATUS


def test_an_advisory_is_borne_only_with_a_reason(rules: Rules, platform: SimulatedPlatform) -> None:
    found = appraised(platform, faults=OUTDATED)
    tcb: dict[str, Any] = {"allowed": ["OutOfDate"]}
    refused = refusal(rules(tcb=tcb), found)
    assert refused.code is Code.ATT_ADVISORY
    assert f"does not accept: {ADVISORY}" in refused.message
    tcb["accept_advisories"] = {ADVISORY: "not reachable from here"}
    verdict = judged(rules(tcb=tcb), found)
    assert verdict.advisories == ((ADVISORY, "not reachable from here"),)


def test_a_rejected_advisory_keeps_a_platform_out_even_in_grace(
    rules: Rules, platform: SimulatedPlatform
) -> None:
    policy = rules(tcb={"grace": GRACE, "reject_advisories": [ADVISORY]})
    refused = refusal(policy, appraised(platform, faults=OUTDATED))
    assert refused.code is Code.ATT_ADVISORY
    assert f"rejects: {ADVISORY}" in refused.message


# Peers without evidence.


def excuse(rules: Rules, members: Any) -> Policy:
    excused = {"members": members, "reason": "hospital without SGX", "receives": ["model"]}
    return rules(roles={"aggregator": ROLE, "collaborator": {"unattested": excused}})


@pytest.mark.parametrize("members", [["hospital2", "hospital3"], "all"])
def test_a_collaborator_that_the_policy_excuses_needs_no_evidence(
    members: Any, rules: Rules
) -> None:
    policy = excuse(rules, members)
    found = judgement.unattested(policy, "hospital3", key=KEY, now=NOW)
    assert (found.word, found.note) == (Word.NOT_ATTESTED, "hospital without SGX")
    assert (found.receives, found.measurement, found.evidence) == (("model",), None, None)
    assert found.expires == NOW + 12 * HOUR


def test_nobody_else_is_excused(rules: Rules) -> None:
    for policy in (rules(), excuse(rules, ["hospital2"])):
        with pytest.raises(Refused) as refused:
            judgement.unattested(policy, "hospital3", key=KEY, now=NOW)
        assert refused.value.code is Code.ATT_REQUIRED


def test_who_gives_bad_evidence_is_refused_though_it_would_be_excused(
    rules: Rules, platform: SimulatedPlatform
) -> None:
    found = appraised(platform, code=b"\x66" * 32)
    assert refusal(excuse(rules, "all"), found).code is Code.ATT_POLICY_EMPTY


def test_a_role_that_the_plan_does_not_ask_is_said_to_be_unasked(rules: Rules) -> None:
    found = judgement.unasked(rules(), "aggregator", "agg", key=KEY, now=NOW)
    assert (found.word, found.asked) == (Word.NOT_ATTESTED, False)
    assert found.note == "the plan asks no aggregator for evidence"


# Sessions that live.


def test_a_second_look_does_not_prolong_a_session(rules: Rules, good: Appraisal) -> None:
    policy = rules()
    first = judged(policy, good)
    later = judgement.again(policy, first, good, now=NOW + 5 * HOUR)
    assert (later.since, later.expires) == (first.since, first.expires)
    assert later.collateral_age == NOW + 5 * HOUR - good.issued
    with pytest.raises(Refused) as refused:
        judgement.again(policy, first, good, now=first.expires + timedelta(seconds=1))
    assert refused.value.code is Code.ATT_REQUIRED


def test_a_worse_status_under_newer_collateral_ends_a_session(
    rules: Rules, platform: SimulatedPlatform, good: Appraisal
) -> None:
    """The same quote, judged again: its peer is not asked for another."""
    first = judged(rules(), good)
    worse = replace(appraised(platform, faults=OUTDATED), evidence=good.evidence)
    with pytest.raises(Refused) as refused:
        judgement.again(rules(), first, worse, now=NOW + HOUR)
    assert refused.value.code is Code.ATT_TCB_STATUS


@pytest.mark.parametrize(
    ("parts", "code"),
    [
        ({"platforms": {"deny_keys": [KEY]}}, Code.ATT_POLICY),
        ({"roles": role(measurements=[{"mr_enclave": "41" * 32}])}, Code.ATT_MRENCLAVE),
        ({"freshness": {"session_s": 60, "reattest_s": 60}}, Code.ATT_REQUIRED),
    ],
    ids=["revoked key", "other code", "shorter sessions"],
)
def test_a_new_version_of_the_policy_ends_sessions_that_it_would_not_open(
    parts: dict[str, Any], code: Code, rules: Rules, good: Appraisal
) -> None:
    first = judged(rules(), good)
    newer = rules(version=2, previous=rules().digest, **parts)
    with pytest.raises(Refused) as refused:
        judgement.again(newer, first, good, now=NOW + HOUR)
    assert refused.value.code is code


def test_sessions_without_evidence_are_looked_at_again_as_they_began(rules: Rules) -> None:
    excused = judgement.unattested(excuse(rules, "all"), "hospital3", key=KEY, now=NOW)
    now = NOW + HOUR
    assert judgement.again(excuse(rules, "all"), excused, None, now=now) == excused
    with pytest.raises(Refused) as refused:
        judgement.again(rules(), excused, None, now=now)
    assert refused.value.code is Code.ATT_REQUIRED
    unasked = judgement.unasked(rules(), "collaborator", "hospital3", key=KEY, now=NOW)
    assert judgement.again(rules(), unasked, None, now=now) == unasked


def test_a_session_is_judged_by_its_own_quote(rules: Rules, good: Appraisal) -> None:
    first = judged(rules(), good)
    for other in (None, replace(good, evidence="0a" * 32)):
        with pytest.raises(Bug):
            judgement.again(rules(), first, other, now=NOW)


def test_a_session_that_began_on_hardware_does_not_go_on_simulated(
    rules: Rules, good: Appraisal
) -> None:
    first = replace(judged(rules(), good), word=Word.VERIFIED)
    with pytest.raises(Refused) as refused:
        judgement.again(rules(), first, good, now=NOW)
    assert refused.value.code is Code.ATT_SIMULATED


def test_a_clock_that_is_set_back_ends_a_session(rules: Rules, good: Appraisal) -> None:
    late = NOW + 2 * HOUR
    first = judged(rules(), good, now=late)
    assert judgement.again(rules(), first, good, now=late - timedelta(seconds=299)).since == late
    with pytest.raises(Refused, match="the clock was set back") as refused:
        judgement.again(rules(), first, good, now=late - timedelta(seconds=301))
    assert refused.value.code is Code.ATT_REQUIRED


def test_evidence_is_of_now_by_both_clocks(rules: Rules) -> None:
    policy = rules(freshness={"evidence_s": 60, "clock_skew_s": 5})
    for age in (-5, 0, 65):
        judgement.check_time(policy, NOW - timedelta(seconds=age), NOW)
    for age in (-6, 66):
        with pytest.raises(Refused) as refused:
            judgement.check_time(policy, NOW - timedelta(seconds=age), NOW)
        assert refused.value.code is Code.ATT_NONCE


# Keys.


@pytest.mark.parametrize("purpose", judgement.RECEIVES)
def test_a_secret_goes_to_an_attested_peer_of_its_role_while_its_session_lives(
    rules: Rules, good: Appraisal, purpose: Any
) -> None:
    role = judgement.RECEIVES[purpose]
    (other_role,) = set(judgement.RECEIVES.values()) - {role}
    allowed = {purpose.replace("-", "_"): "attested"}
    policy = rules(release=allowed)
    verdict = judged(policy, good, role=role)
    judgement.check_release(policy, verdict, purpose, verdict.expires)
    other = rules(release=allowed, tcb={"smt": True})
    silent = rules()
    for rule, who, now, code in (
        (policy, verdict, verdict.expires + timedelta(seconds=1), Code.ATT_REQUIRED),
        (policy, verdict, NOW - HOUR, Code.ATT_REQUIRED),
        (policy, judged(policy, good, role=other_role), NOW, Code.ATT_ROLE),
        (other, verdict, NOW, Code.ATT_POLICY),
        (silent, judged(silent, good, role=role), NOW, Code.ATT_POLICY),
        (policy, judgement.unasked(policy, role, "a", key=KEY, now=NOW), NOW, Code.ATT_REQUIRED),
    ):
        with pytest.raises(Refused) as refused:
            judgement.check_release(rule, who, purpose, now)
        assert refused.value.code is code
