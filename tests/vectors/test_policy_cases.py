# SPDX-License-Identifier: Apache-2.0
"""Every genuine quote of ``attestation/cases.json`` under a policy that allows just it.

All the way: both verifiers, then the policy (``judgement.appraise``). The policy is written from
what the case says of the quote, so that nothing is allowed that no case needs; without any one of
its allowances the same quote is refused, with the code of what is missing.

Two genuine quotes are refused under every policy, and named here: ``EXCEPTIONS``.
"""

from collections.abc import Iterator
from datetime import timedelta
from functools import cache
from typing import Any

import pytest
from tests.support.policies import made
from tests.vectors.test_quote_cases import CASES, now, raw_collateral, raw_quote, root

from fedclave.errors import Code, Refused
from fedclave.trust import collateral, dcap, judgement, quotes, roots, tdx, verify
from fedclave.trust.judgement import Verdict
from fedclave.trust.policy import Policy
from fedclave.trust.sgx_verify import Appraisal

KEY = "7e" * 32
EXCEPTIONS = {
    "t-sgx-trailing": Code.ATT_MALFORMED,
    "tdx-coco-azure@tdx00806F05-2025-06": Code.ATT_ATTRIBUTES,
}
"""The first: bytes that nobody signed follow it. The second: its TD learns of no page that its host
takes away (SEPT_VE_DISABLE is off; ``tdx.check_td``).
"""
GENUINE = sorted(name for name, case in CASES.items() if case["must_reject"] is not True)
ALLOWED = [name for name in GENUINE if name not in EXCEPTIONS]
SAME = {"t-sgx-rootflip": "sgx-automata@sgx00606A-2025-08"}
"""A case that says nothing of its fields, and the one whose quote it is but for unsigned bytes."""

Rules = dict[str, Any]


@pytest.fixture(scope="module")
def second() -> Iterator[dcap.DcapJudge]:
    pytest.importorskip("dcap_qvl", reason="the second verifier is an extra: attest")
    with dcap.DcapJudge() as judge:
        yield judge


def fields(name: str) -> dict[str, Any]:
    """What the case says of its quote."""
    found: dict[str, Any] = CASES[SAME.get(name, name)]["fields"]
    return found


def number(text: str) -> int:
    """Eight bytes in hex, little-endian."""
    return int.from_bytes(bytes.fromhex(text), "little")


def measured(name: str) -> Rules:
    """What the case's code is, as a policy lists it, and the attributes that it has."""
    said = fields(name)
    if said["tee"] == "TDX":
        mrs = {f"rt_mr{at}": value for at, value in enumerate(said["rtmr"])}
        return {"measurements": [{"mr_td": said["mr_td"], **mrs}]}
    flags, xfrm = number(said["attributes"][:16]), number(said["attributes"][16:])
    misc = int.from_bytes(raw_quote(CASES[name])[64:68], "little")  # SDM 3D: MISCSELECT, report @16
    return {
        "measurements": [{"mr_enclave": said["mr_enclave"]}],
        "attributes": {"mask": 2**64 - 1, "value": flags},
        "xfrm": {"mask": 2**64 - 1, "value": xfrm},
        "misc_select": {"mask": 2**32 - 1, "value": misc},
    }


def rules(name: str) -> Rules:
    """Everything that a policy has to allow for this case, and no more."""
    case, day = CASES[name], now(CASES[name])
    known = case["dcap_qvl_0_7_0"]
    tcb: Rules = {"allowed": [known["tcb_status"]], "min_evaluation": known["tcb_eval_data_number"]}
    if known["advisory_ids"]:
        tcb["accept_advisories"] = dict.fromkeys(known["advisory_ids"], "for this test")
    settings = {"smt": "smt_enabled", "dynamic_platform": "dynamic_platform"}
    for key, what in {**settings, "cached_keys": "cached_keys"}.items():
        if known["pck"][what] != "False":
            tcb[key] = True
    trusted = "intel" if case["root"] == "intel" else roots.SIMULATED + roots.spki_hash(root(case))
    return {
        "roots": [trusted],
        "valid": {"from": f"{day - timedelta(days=1):%Y-%m-%d}", "until": f"{day:%Y-%m-%d}"},
        "roles": {"aggregator": measured(name)},
        "tcb": tcb,
        "platforms": {"allow": [known["pck"]["ppid"]]},
        "freshness": {"collateral_max_age_days": 365},
    }


@cache
def appraised(name: str, second: dcap.DcapJudge) -> Appraisal:
    """What both verifiers find."""
    case = CASES[name]
    parts = collateral.parse(raw_collateral(case))
    return verify.verify(raw_quote(case), parts, root(case), now(case), second)


def judged(name: str, policy: Policy, second: dcap.DcapJudge, *, simulated: bool = True) -> Verdict:
    return judgement.appraise(
        policy,
        "aggregator",
        "agg",
        appraised(name, second),
        key=KEY,
        now=now(CASES[name]),
        allow_simulated=simulated,
    )


def refusal(name: str, parts: Rules, second: dcap.DcapJudge) -> Code:
    with pytest.raises(Refused) as refused:
        judged(name, made(**parts), second)
    return refused.value.code


def test_every_genuine_case_is_one_of_these() -> None:
    assert len(GENUINE) == 20
    tees = [fields(name)["tee"] for name in ALLOWED]
    assert (tees.count("SGX"), tees.count("TDX")) == (13, 5)
    assert {CASES[name]["kind"] for name in ALLOWED} == {"real", "simulated", "tampered-quote"}
    assert EXCEPTIONS.keys() == set(GENUINE) - set(ALLOWED)


@pytest.mark.parametrize("name", ALLOWED)
def test_it_is_admitted_under_a_policy_that_allows_it(name: str, second: dcap.DcapJudge) -> None:
    case, policy = CASES[name], made(**rules(name))
    found, known = judged(name, policy, second), case["dcap_qvl_0_7_0"]
    assert found.word == ("VERIFIED" if case["root"] == "intel" else "SIMULATED")
    assert found.measurement == fields(name).get("mr_enclave", fields(name).get("mr_td"))
    assert found.status == known["tcb_status"]
    assert [one for one, _ in found.advisories] == known["advisory_ids"]
    assert (found.policy, found.root) == (policy.digest, policy.roots[0])
    assert found.expires > now(case)


@pytest.mark.parametrize("name", ALLOWED)
def test_without_any_one_of_its_allowances_it_is_refused(name: str, second: dcap.DcapJudge) -> None:
    whole = rules(name)
    code, tcb = whole["roles"]["aggregator"], whole["tcb"]
    other = {"mr_enclave": "00" * 32}
    wanted: list[tuple[Code, Rules]] = [
        (Code.ATT_MRENCLAVE, {"roles": {"aggregator": {**code, "measurements": [other]}}}),
        (Code.ATT_POLICY_EMPTY, {"roles": {"collaborator": code}}),
        (Code.ATT_POLICY, {"platforms": {"allow": ["00" * 16]}}),
        (Code.ATT_CHAIN, {"roots": ["simulated:" + "00" * 32]}),
        (Code.ATT_COLLATERAL_OLDER, {"tcb": {**tcb, "min_evaluation": tcb["min_evaluation"] + 1}}),
        (Code.ATT_POLICY, {"valid": {"from": "2020-01-01", "until": "2020-12-31"}}),
    ]
    if tcb["allowed"] != ["UpToDate"]:
        wanted.append((Code.ATT_TCB_STATUS, {"tcb": {**tcb, "allowed": ["UpToDate"]}}))
    for key in ("smt", "dynamic_platform", "cached_keys"):
        if key in tcb:
            wanted.append((Code.ATT_POLICY, {"tcb": {**tcb, key: False}}))
    for advisory in tcb.get("accept_advisories", {}):
        rest = {one: why for one, why in tcb["accept_advisories"].items() if one != advisory}
        wanted.append((Code.ATT_ADVISORY, {"tcb": {**tcb, "accept_advisories": rest}}))
    if fields(name)["tee"] == "SGX":
        for key in ("attributes", "xfrm", "misc_select"):
            flipped = {**code, key: {**code[key], "value": code[key]["value"] ^ 0x20}}
            wanted.append((Code.ATT_ATTRIBUTES, {"roles": {"aggregator": flipped}}))
    else:
        for at in range(4):
            (listed,) = code["measurements"]
            changed = {"measurements": [{**listed, f"rt_mr{at}": "ab" * 48}]}
            wanted.append((Code.ATT_MRENCLAVE, {"roles": {"aggregator": changed}}))
    for expected, change in wanted:
        assert refusal(name, {**whole, **change}, second) is expected, change


@pytest.mark.parametrize("name", [one for one in ALLOWED if CASES[one]["root"] != "intel"])
def test_a_simulated_one_is_refused_without_the_switch(name: str, second: dcap.DcapJudge) -> None:
    with pytest.raises(Refused) as refused:
        judged(name, made(**rules(name)), second, simulated=False)
    assert refused.value.code is Code.ATT_SIMULATED


def test_a_quote_with_bytes_after_it_is_refused_before_any_policy(second: dcap.DcapJudge) -> None:
    name = "t-sgx-trailing"
    with pytest.raises(Refused) as refused:
        appraised(name, second)
    assert refused.value.code is EXCEPTIONS[name]
    raw = raw_quote(CASES[name])
    end = 436 + int.from_bytes(raw[432:436], "little")  # of the signature data (quote v3)
    assert quotes.parse(raw[:end]), "without those bytes it is one"


def test_a_td_that_does_not_disable_ve_is_refused_before_any_policy(
    second: dcap.DcapJudge,
) -> None:
    name = "tdx-coco-azure@tdx00806F05-2025-06"
    with pytest.raises(Refused) as refused:
        appraised(name, second)
    assert refused.value.code is EXCEPTIONS[name]
    body = quotes.parse(raw_quote(CASES[name])).body
    assert isinstance(body, quotes.TdReport)
    with pytest.raises(Refused, match="SEPT_VE_DISABLE"):
        tdx.check_td(body)
