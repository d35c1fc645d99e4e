# SPDX-License-Identifier: Apache-2.0
"""The quote cases of ``attestation/cases.json``: genuine, changed, forged, simulated.

What ``must_reject`` is refused, with the code that says why. What is genuine is judged with the
status, advisories, date and evaluation number of the case, which dcap-qvl 0.7.0 found. Two kinds
of cases are judged more strictly here than there, each with its reason:

- ``t-sgx-trailing``: bytes that nobody signed follow the quote.
- ``must_reject: null`` (a TD of Azure without SEPT_VE_DISABLE): refused; ``tdx.check_td`` says why.
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from fedclave.errors import Code, Refused
from fedclave.trust import collateral, dcap, pck, quotes, sgx_verify, verify

VECTORS = Path(__file__).parent / "attestation"
CASES: dict[str, dict[str, Any]] = {
    case["id"]: case
    for case in json.loads((VECTORS / "cases.json").read_text(encoding="utf-8"))["quote_cases"]
}
REFUSED = {
    "sgx-automata-debug@sgx00A067-2025-05": Code.ATT_DEBUG,
    "tdx-coco-azure@tdx00806F05-2025-06": Code.ATT_ATTRIBUTES,
    "t-sgx-hdr-version": Code.ATT_UNSUPPORTED,
    "t-sgx-hdr-teetype": Code.ATT_UNSUPPORTED,
    "t-sgx-hdr-vendor": Code.ATT_UNSUPPORTED,
    "t-sgx-hdr-userdata": Code.ATT_SIGNATURE,
    "t-sgx-body-first": Code.ATT_SIGNATURE,
    "t-sgx-body-reportdata": Code.ATT_SIGNATURE,
    "t-sgx-sig-r": Code.ATT_SIGNATURE,
    "t-sgx-sig-s": Code.ATT_SIGNATURE,
    "t-sgx-attkey": Code.ATT_SIGNATURE,
    "t-sgx-body-mrenclave": Code.ATT_SIGNATURE,
    "t-sgx-body-mrsigner": Code.ATT_SIGNATURE,
    "t-sgx-body-debugbit": Code.ATT_SIGNATURE,
    "t-sgx-body-isvsvn": Code.ATT_SIGNATURE,
    "t-sgx-qereport": Code.ATT_SIGNATURE,
    "t-sgx-qesig": Code.ATT_SIGNATURE,
    "t-sgx-qeauth": Code.ATT_SIGNATURE,
    "t-sgx-certtype4": Code.ATT_UNSUPPORTED,
    "t-sgx-certleaf": Code.ATT_CHAIN,
    "t-sgx-chain-noleaf": Code.ATT_CHAIN,
    "t-sgx-trunc-header": Code.ATT_MALFORMED,
    "t-sgx-trunc-body": Code.ATT_MALFORMED,
    "t-sgx-trunc-sig": Code.ATT_MALFORMED,
    "t-sgx-trunc-chain": Code.ATT_MALFORMED,
    "t-sgx-empty": Code.ATT_MALFORMED,
    "t-sgx-len-huge": Code.ATT_MALFORMED,
    "t-sgx-len-1MiB": Code.ATT_MALFORMED,
    "t-sgx-len-short": Code.ATT_MALFORMED,
    "t-sgx-len-zero": Code.ATT_MALFORMED,
    "t-sgx-trailing": Code.ATT_MALFORMED,
    "t-sgx-automata-debug-cleared": Code.ATT_SIGNATURE,
    "c-sgx-status-edited": Code.ATT_COLLATERAL,
    "c-sgx-tcb-expired": Code.ATT_COLLATERAL_EXPIRED,
    "c-sgx-tcb-future": Code.ATT_COLLATERAL_FUTURE,
    "c-sgx-nopckcrl": Code.ATT_COLLATERAL,
    "c-sgx-wrongcacrl": Code.ATT_COLLATERAL,
    "c-sgx-qe-sig": Code.ATT_COLLATERAL,
    "c-sgx-qe-swapped": Code.ATT_COLLATERAL,
    "c-sgx-crl-garbage": Code.ATT_COLLATERAL,
    "c-sgx-chain-empty": Code.ATT_COLLATERAL,
    "sim-ok-intel-root": Code.ATT_CHAIN,
    "sim-ok-other-root": Code.ATT_CHAIN,
    "sim-debug": Code.ATT_DEBUG,
    "sim-tcb-revoked": Code.ATT_REVOKED,
    "sim-no-tcb-level": Code.ATT_TCB,
    "sim-pck-revoked": Code.ATT_REVOKED,
    "sim-pck-ca-revoked": Code.ATT_REVOKED,
    "sim-qe-revoked": Code.ATT_REVOKED,
    "sim-fmspc-mismatch": Code.ATT_PLATFORM,
    "sim-forged-tcbinfo-signed-by-pck": Code.ATT_COLLATERAL_SIGNER,
    "sim-forged-qeidentity-signed-by-pck": Code.ATT_COLLATERAL_SIGNER,
    "sim-pceid-mismatch": Code.ATT_PCE_ID,
    "sim-qe-debug": Code.ATT_QE,
    "sim-expired": Code.ATT_COLLATERAL_EXPIRED,
    "sim-mixed-pck": Code.ATT_CHAIN,
    "sim-ak-not-in-qe-report": Code.ATT_SIGNATURE,
}
ACCEPTED = sorted(CASES.keys() - REFUSED.keys())
LAX = {
    "sim-forged-tcbinfo-signed-by-pck",
    "sim-forged-qeidentity-signed-by-pck",
    "sim-pceid-mismatch",
}
"""What dcap-qvl 0.7.0 accepts and must not: our own judgement alone stands before it."""


def raw_quote(case: dict[str, Any]) -> bytes:
    return (VECTORS / case["quote"]).read_bytes()


def raw_collateral(case: dict[str, Any]) -> bytes:
    return (VECTORS / case["collateral"]).read_bytes()


def root(case: dict[str, Any]) -> bytes:
    return pck.INTEL_ROOT if case["root"] == "intel" else (VECTORS / case["root"]).read_bytes()


def now(case: dict[str, Any]) -> datetime:
    return datetime.fromtimestamp(case["now"], UTC)


def judge(case: dict[str, Any]) -> sgx_verify.Appraisal:
    quote, parts = quotes.parse(raw_quote(case)), collateral.parse(raw_collateral(case))
    return sgx_verify.judge(quote, parts, root(case), now(case))


@pytest.fixture(scope="module")
def second() -> Any:
    pytest.importorskip("dcap_qvl", reason="the second verifier is an extra: attest")
    with dcap.DcapJudge() as judge:
        yield judge


def test_every_case_is_decided() -> None:
    assert {name for name, case in CASES.items() if case["must_reject"]} <= REFUSED.keys()
    lenient = {name for name, case in CASES.items() if not case["must_reject"]}
    assert REFUSED.keys() & lenient == {"tdx-coco-azure@tdx00806F05-2025-06", "t-sgx-trailing"}
    assert len(ACCEPTED) + len(REFUSED) == 75


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_with_the_fitting_code(name: str) -> None:
    with pytest.raises(Refused) as refused:
        judge(CASES[name])
    assert refused.value.code is REFUSED[name]


@pytest.mark.parametrize("name", ACCEPTED)
def test_it_is_judged_as_dcap_qvl_judges_it(name: str) -> None:
    case = CASES[name]
    found, known = judge(case), case["dcap_qvl_0_7_0"]
    assert found.status == known["tcb_status"]
    assert list(found.advisories) == known["advisory_ids"]
    assert found.evaluation == known["tcb_eval_data_number"]
    assert found.root_key_id == known["root_key_id"]
    assert f"{found.tcb_date:%Y-%m-%dT%H:%M:%SZ}" == known["tcb_date"]


@pytest.mark.parametrize("name", [name for name in ACCEPTED if "fields" in CASES[name]])
def test_the_platform_is_the_one_of_the_case(name: str) -> None:
    case = CASES[name]
    found = judge(case)
    platform, fields = found.platform, case["fields"]
    flags = {None: "Undefined", True: "True", False: "False"}
    assert platform.fmspc.hex() == fields["fmspc"].lower()
    assert found.ca == fields["pck_ca"]
    assert {
        "ppid": platform.ppid.hex(),
        "pce_svn": platform.pce_svn,
        "pce_id": platform.pce_id.hex(),
        "sgx_type": platform.sgx_type,
        "dynamic_platform": flags[platform.dynamic_platform],
        "cached_keys": flags[platform.cached_keys],
        "smt_enabled": flags[platform.smt_enabled],
    } == case["dcap_qvl_0_7_0"]["pck"]


@pytest.mark.parametrize("name", ACCEPTED)
def test_both_verifiers_together_accept_it(name: str, second: dcap.DcapJudge) -> None:
    case = CASES[name]
    parts = collateral.parse(raw_collateral(case))
    found = verify.verify(raw_quote(case), parts, root(case), now(case), second)
    assert found.status == case["dcap_qvl_0_7_0"]["tcb_status"]


@pytest.mark.parametrize("name", sorted(LAX))
def test_what_dcap_qvl_is_lax_about_is_refused(name: str, second: dcap.DcapJudge) -> None:
    case = CASES[name]
    args = (raw_collateral(case), root(case), now(case))
    assert second.judge(raw_quote(case), *args)[0] == "UpToDate"
    with pytest.raises(Refused) as refused:
        verify.verify(raw_quote(case), collateral.parse(args[0]), *args[1:], second)
    assert refused.value.code is REFUSED[name]


def test_the_intel_root_is_the_one_of_the_vectors() -> None:
    assert (VECTORS / "intel-sgx-root.der").read_bytes() == pck.INTEL_ROOT
    assert pck.key_id(pck.root(pck.INTEL_ROOT).key) == (
        "46e403bd34f05a3f2817ab9badcaacc7ffc98e0f261008cd30dae936cace18d5"
        "dcf58eef31463613de1570d516200993"
    )
