# SPDX-License-Identifier: Apache-2.0
"""TCB info and QE identity: read strictly, matched and merged as Intel's QVL does."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.support.dcap_pki import SVN, Vendor, level, platform_tcb

from fedclave.errors import Code, Refused
from fedclave.trust import tcb
from fedclave.trust.tcb import Status

Change = Callable[[dict[str, Any]], object]


def deep(levels: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(levels):
        found = [found]
    return found


def tcb_info(change: Change = lambda text: None, tee: str = "sgx") -> tcb.TcbInfo:
    text = Vendor(tee).tcb_info
    change(text)
    return tcb.tcb_info(json.dumps(text))


def qe_identity(change: Change = lambda text: None) -> tcb.QeIdentity:
    text = Vendor().qe_identity
    change(text)
    return tcb.qe_identity(json.dumps(text))


def platform_level(
    sgx: bytes, pce_svn: int = 0, tdx: bytes = b"", status: Status = Status.UP_TO_DATE
) -> tcb.PlatformLevel:
    date = datetime(2026, 1, 1, tzinfo=UTC)
    return tcb.PlatformLevel(
        status=status, date=date, advisories=(), sgx=sgx, tdx=tdx, pce_svn=pce_svn
    )


def test_tcb_info_is_read() -> None:
    found = tcb_info()
    assert (found.tee, found.fmspc.hex(), found.evaluation) == ("sgx", "514d000000ff", 20)
    assert found.levels[0].sgx == bytes([SVN]) * 16


def test_levels_are_tried_from_the_best_whatever_their_order_in_the_text() -> None:
    low, high = (level("OutOfDate", platform_tcb(n)) for n in (1, 9))
    found = tcb_info(lambda text: text.update(tcbLevels=[low, high]))
    assert [one.sgx[0] for one in found.levels] == [9, 1]


def test_keys_of_a_later_api_are_passed_over() -> None:
    assert tcb_info(lambda text: text.update(news=[1])).evaluation == 20


WRONG: dict[str, Change] = {
    "version 2": lambda t: t.update(version=2),
    "version 4": lambda t: t.update(version=4),
    "version as text": lambda t: t.update(version="3"),
    "version as true": lambda t: t.update(version=True),
    "another id": lambda t: t.update(id="SEV"),
    "another type of TCB": lambda t: t.update(tcbType=1),
    "no date": lambda t: t.pop("issueDate"),
    "a local date": lambda t: t.update(nextUpdate="2026-01-01T00:00:00+01:00"),
    "the 31st of February": lambda t: t.update(nextUpdate="2026-02-31T00:00:00Z"),
    "a deep list for a number": lambda t: t.update(tcbEvaluationDataNumber=deep(900)),
    "a short FMSPC": lambda t: t.update(fmspc="00606a0000"),
    "an FMSPC with a space": lambda t: t.update(fmspc="00606a 00000"),
    "a number below 0": lambda t: t.update(tcbEvaluationDataNumber=-1),
    "a number as true": lambda t: t.update(tcbEvaluationDataNumber=True),
    "no levels": lambda t: t.update(tcbLevels=[]),
    "too many levels": lambda t: t.update(tcbLevels=t["tcbLevels"] * 257),
    "levels that are none": lambda t: t.update(tcbLevels=[1]),
    "15 components": lambda t: t["tcbLevels"][0]["tcb"]["sgxtcbcomponents"].pop(),
    "a component of 256": lambda t: t["tcbLevels"][0]["tcb"]["sgxtcbcomponents"][3].update(svn=256),
    "an unknown status": lambda t: t["tcbLevels"][0].update(tcbStatus="Fine"),
    "a status that nobody signs": lambda t: t["tcbLevels"][0].update(tcbStatus="TDRelaunchAdvised"),
    "advisories as a text": lambda t: t["tcbLevels"][0].update(advisoryIDs="INTEL-SA-00001"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_tcb_info_is_refused(wrong: str) -> None:
    with pytest.raises(Refused, match="TCB info") as refused:
        tcb_info(WRONG[wrong])
    assert refused.value.code is Code.ATT_COLLATERAL


WRONG_TDX: dict[str, Change] = {
    "no module": lambda t: t.pop("tdxModule"),
    "no TDX components": lambda t: t["tcbLevels"][0]["tcb"].pop("tdxtcbcomponents"),
    "a module twice": lambda t: t["tdxModuleIdentities"].append(t["tdxModuleIdentities"][0]),
    "a module called 0": lambda t: t["tdxModuleIdentities"][0].update(id="TDX_00"),
    "a module called otherwise": lambda t: t["tdxModuleIdentities"][0].update(id="TDX_1"),
    "a signer cut short": lambda t: t["tdxModule"].update(mrsigner="00" * 47),
    "a module's status": lambda t: t["tdxModuleIdentities"][0]["tcbLevels"][0].update(
        tcbStatus="SWHardeningNeeded"
    ),
}


@pytest.mark.parametrize("wrong", WRONG_TDX)
def test_tcb_info_about_tdx_is_refused(wrong: str) -> None:
    with pytest.raises(Refused) as refused:
        tcb_info(WRONG_TDX[wrong], tee="tdx")
    assert refused.value.code is Code.ATT_COLLATERAL


def test_tdx_modules_are_known_by_their_version() -> None:
    assert [one.version for one in tcb_info(tee="tdx").modules] == [0, 1, 3]
    assert len(tcb_info(lambda t: t.pop("tdxModuleIdentities"), "tdx").modules) == 1


def test_qe_identity_is_read_with_its_numbers_little_endian() -> None:
    found = qe_identity(lambda text: text.update(miscselect="01000000"))
    assert (found.tee, found.misc_select, found.isv_prod_id) == ("sgx", 1, 1)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.update(version=1),
        lambda t: t.update(id="QVE"),
        lambda t: t.update(mrsigner=""),
        lambda t: t.update(attributesMask="FF" * 15),
        lambda t: t.update(isvprodid=65536),
        lambda t: t.update(tcbLevels=[]),
        lambda t: t["tcbLevels"][0].update(tcbStatus="ConfigurationNeeded"),
    ],
)
def test_qe_identity_is_refused(change: Change) -> None:
    with pytest.raises(Refused, match="QE identity") as refused:
        qe_identity(change)
    assert refused.value.code is Code.ATT_COLLATERAL


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", "{" * 100_000, '{"version": 3, "version": 3}', '{"version": NaN}'],
    ids=["empty", "list", "null", "deep", "twice", "nan"],
)
def test_what_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(Refused) as refused:
        tcb.tcb_info(text)
    assert refused.value.code is Code.ATT_COLLATERAL


def test_one_component_too_low_is_below_a_level() -> None:
    needed = platform_level(bytes([5] * 16), 10)
    for at in range(16):
        svns = bytearray([6] * 16)
        svns[at] = 4
        assert tcb.match_platform([needed], bytes(svns), 10, None) is None
    assert tcb.match_platform([needed], bytes([5] * 16), 9, None) is None
    assert tcb.match_platform([needed], bytes([5] * 16), 10, None) is needed


def test_the_first_level_that_is_reached_counts() -> None:
    levels = [platform_level(bytes([n] * 16)) for n in (9, 5, 1)]
    assert tcb.match_platform(levels, bytes([7] * 16), 0, None) is levels[1]


def test_a_td_must_reach_the_tdx_components_too() -> None:
    levels = [platform_level(bytes(16), tdx=bytes([n] * 16)) for n in (5, 1)]
    assert tcb.match_platform(levels, bytes(16), 0, bytes([4] * 16)) is levels[1]
    assert tcb.match_platform(levels, bytes(16), 0, bytes(16)) is None


def test_of_a_module_with_a_version_the_first_two_bytes_are_its_own() -> None:
    levels = [platform_level(bytes(16), tdx=bytes([5] * 16))]
    assert tcb.match_platform(levels, bytes(16), 0, bytes([1, 1, *[5] * 14])) is levels[0]
    assert tcb.match_platform(levels, bytes(16), 0, bytes([1, 0, *[5] * 14])) is None


def test_a_text_about_sgx_matches_no_td() -> None:
    assert tcb.match_platform([platform_level(bytes(16))], bytes(16), 0, bytes(16)) is None


def test_an_enclave_is_matched_in_the_order_of_the_text() -> None:
    levels = qe_identity(
        lambda t: t.update(tcbLevels=[level("UpToDate", {"isvsvn": n}) for n in (8, 4)])
    ).levels
    assert [tcb.match_enclave(levels, n) for n in (9, 8, 5, 3)] == [
        *levels[:1] * 2,
        levels[1],
        None,
    ]


@pytest.mark.parametrize("platform", Status)
def test_an_outdated_enclave_makes_the_platform_outdated(platform: Status) -> None:
    merged = tcb.merge(platform, Status.OUT_OF_DATE)
    assert merged not in (
        Status.UP_TO_DATE,
        Status.SW_HARDENING,
        Status.CONFIGURATION,
        Status.CONFIGURATION_AND_SW_HARDENING,
    )
    assert ("Configuration" in merged) == ("Configuration" in platform)
    assert tcb.merge(platform, Status.UP_TO_DATE) is platform


@pytest.mark.parametrize("other", Status)
def test_revoked_wins_from_either_side(other: Status) -> None:
    assert tcb.merge(Status.REVOKED, other) is Status.REVOKED
    assert tcb.merge(other, Status.REVOKED) is Status.REVOKED
