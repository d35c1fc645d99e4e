# SPDX-License-Identifier: Apache-2.0
"""TDs: the module under them, whether launching again helps, and what they must not be."""

from typing import Any

import pytest
from tests.support.dcap_pki import DAY, NOW, SVN, TD_ATTRIBUTES, Vendor, date, level, platform_tcb

from fedclave.errors import Code, Refused
from fedclave.trust import collateral, quotes, sgx_verify
from fedclave.trust.tcb import Status

NEWEST = bytes([4, 1, *[SVN] * 14])
"""TEE_TCB_SVN of the newest module of version 1; its second level, 2, is out of date."""
OLD = bytes([2, 1, *[SVN] * 14])


def judge(vendor: Vendor, version: int = 4) -> sgx_verify.Appraisal:
    quote, parts = quotes.parse(vendor.quote(version)), collateral.parse(vendor.collateral())
    return sgx_verify.judge(quote, parts, vendor.root_der, NOW)


def td(svns: bytes = NEWEST, now_runs: bytes = NEWEST, **change: Any) -> Vendor:
    vendor = Vendor("tdx")
    vendor.td = {"tee_tcb_svn": svns, "svn2": now_runs, **change}
    return vendor


def code_of(vendor: Vendor, version: int = 4) -> Code:
    with pytest.raises(Refused) as refused:
        judge(vendor, version)
    return refused.value.code


@pytest.mark.parametrize("version", [4, 5])
def test_a_td_on_the_newest_module_is_up_to_date(version: int) -> None:
    found = judge(td(), version)
    assert (found.tee, found.status, found.advisories) == ("tdx", Status.UP_TO_DATE, ())


def test_a_module_of_version_0_is_judged_by_the_platform_alone() -> None:
    vendor = td(bytes([SVN, 0, *[SVN] * 14]))
    vendor.tcb_info["tcbLevels"][0]["tcb"]["tdxtcbcomponents"][1:2] = [{"svn": 0}]
    assert judge(vendor).status is Status.UP_TO_DATE
    vendor.td["tee_tcb_svn"] = bytes([SVN - 1, 0, *[SVN] * 14])
    assert code_of(vendor) is Code.ATT_TCB


def test_an_outdated_module_makes_the_td_outdated() -> None:
    found = judge(td(OLD))
    assert (found.status, found.advisories) == (Status.OUT_OF_DATE, ("TDX-SA",))


@pytest.mark.parametrize(
    "change",
    [
        {"svns": bytes([1, 1, *[SVN] * 14])},
        {"svns": bytes([4, 2, *[SVN] * 14])},
        {"seam_signer": b"\1".ljust(48)},
        {"seam_attributes": 1},
    ],
    ids=["below every level", "unknown version", "signer", "attributes"],
)
def test_an_unknown_module_is_refused(change: dict[str, Any]) -> None:
    assert code_of(td(**change)) is Code.ATT_TCB


def test_a_module_with_attributes_is_refused_even_if_the_text_allows_them() -> None:
    vendor = td(seam_attributes=1)
    for one in vendor.tcb_info["tdxModuleIdentities"]:
        one["attributes"] = "0100000000000000"
    assert code_of(vendor) is Code.ATT_TCB


@pytest.mark.parametrize("now_runs", [OLD, NEWEST], ids=["outdated", "relaunch advised"])
def test_a_grace_counts_from_the_level_of_the_module_that_is_out_of_date(now_runs: bytes) -> None:
    vendor = td(OLD, now_runs)
    for module in vendor.tcb_info["tdxModuleIdentities"]:
        module["tcbLevels"][1]["tcbDate"] = date(NOW - 300 * DAY)
    found = judge(vendor, 5)
    assert found.status is (Status.RELAUNCH if now_runs is NEWEST else Status.OUT_OF_DATE)
    assert (found.behind_since, found.tcb_date) == (NOW - 300 * DAY, NOW - 100 * DAY)


def test_a_td_whose_module_was_updated_under_it_is_advised_to_relaunch() -> None:
    assert judge(td(OLD, NEWEST), 5).status is Status.RELAUNCH
    assert judge(td(OLD, OLD), 5).status is Status.OUT_OF_DATE
    assert judge(td(OLD), 4).status is Status.OUT_OF_DATE


def test_a_relaunch_keeps_the_need_of_configuration() -> None:
    vendor = td(OLD, NEWEST)
    vendor.tcb_info["tcbLevels"][0]["tcbStatus"] = "ConfigurationNeeded"
    assert judge(vendor, 5).status is Status.RELAUNCH_CONFIGURATION


@pytest.mark.parametrize("where", ["platform", "enclave"])
def test_a_relaunch_does_not_cure_what_else_is_outdated(where: str) -> None:
    vendor = td(OLD, NEWEST)
    if where == "platform":
        vendor.tcb_info["tcbLevels"][0]["tcbStatus"] = "OutOfDate"
    else:
        vendor.qe_identity["tcbLevels"][0]["tcbStatus"] = "OutOfDate"
    assert judge(vendor, 5).status is Status.OUT_OF_DATE


def test_the_module_that_runs_now_must_be_known_and_not_revoked() -> None:
    assert code_of(td(NEWEST, bytes([4, 2, *[SVN] * 14])), 5) is Code.ATT_TCB
    assert code_of(td(NEWEST, bytes([1, 1, *[SVN] * 14])), 5) is Code.ATT_TCB
    assert code_of(td(NEWEST, bytes(16)), 5) is Code.ATT_TCB
    vendor = td(NEWEST, bytes([4, 1, *[SVN - 1] * 14]))
    vendor.tcb_info["tcbLevels"].append(level("Revoked", platform_tcb(0, tdx=0)))
    assert code_of(vendor, 5) is Code.ATT_REVOKED


def test_a_debug_td_is_refused() -> None:
    assert code_of(td(attributes=TD_ATTRIBUTES | 1)) is Code.ATT_DEBUG
    assert code_of(td(attributes=TD_ATTRIBUTES | 0x80)) is Code.ATT_DEBUG


@pytest.mark.parametrize("bit", [None, 8, 27, 29, 32, 62])
def test_a_td_that_its_host_or_others_may_change_is_refused(bit: int | None) -> None:
    attributes = 0 if bit is None else TD_ATTRIBUTES | 1 << bit
    assert code_of(td(attributes=attributes)) is Code.ATT_ATTRIBUTES


@pytest.mark.parametrize("bit", [30, 31, 63])
def test_harmless_attributes_are_left_to_the_policy(bit: int) -> None:
    assert judge(td(attributes=TD_ATTRIBUTES | 1 << bit)).status is Status.UP_TO_DATE


def test_a_service_td_is_refused() -> None:
    assert code_of(td(service=b"\1".ljust(48)), 5) is Code.ATT_ATTRIBUTES
