# SPDX-License-Identifier: Apache-2.0
"""Two verifiers: both must accept, and find the same."""

from collections.abc import Iterator
from datetime import datetime
from itertools import product
from pathlib import Path

import pytest
from tests.support.dcap_pki import DAY, NOW, QE_SVN, SVN, Vendor, level, platform_tcb

from fedclave.errors import Code, Refused, Unavailable
from fedclave.trust import collateral, dcap, sgx_verify, verify
from fedclave.trust.collateral_store import Store
from fedclave.trust.tcb import Status

PLATFORM = [one for one in Status if one.name not in ("RELAUNCH", "RELAUNCH_CONFIGURATION")]
ENCLAVE = (Status.UP_TO_DATE, Status.OUT_OF_DATE, Status.REVOKED)


class Second:
    """A second judge that says what it is told, and notes that it was asked."""

    def __init__(self, status: str = "UpToDate", *advisories: str) -> None:
        self.verdict = (status, advisories)
        self.asked = 0

    def judge(
        self, raw_quote: bytes, collateral: bytes, root_der: bytes, now: datetime
    ) -> tuple[str, tuple[str, ...]]:
        self.asked += 1
        return self.verdict


class Broken:
    """A second judge that cannot judge."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def judge(
        self, raw_quote: bytes, collateral: bytes, root_der: bytes, now: datetime
    ) -> tuple[str, tuple[str, ...]]:
        raise self.error


def check(vendor: Vendor, second: verify.SecondJudge) -> sgx_verify.Appraisal:
    parts = collateral.parse(vendor.collateral())
    return verify.verify(vendor.quote(), parts, vendor.root_der, NOW, second)


def advised() -> Vendor:
    vendor = Vendor()
    vendor.tcb_info["tcbLevels"] = [level("SWHardeningNeeded", platform_tcb(SVN), "SA-1", "SA-2")]
    return vendor


def test_what_both_accept_is_accepted() -> None:
    assert check(Vendor(), Second()).status is Status.UP_TO_DATE


def test_the_order_of_advisories_does_not_count() -> None:
    assert check(advised(), Second("SWHardeningNeeded", "SA-2", "SA-1")).status == (
        "SWHardeningNeeded"
    )


@pytest.mark.parametrize(
    "second",
    [
        Second("UpToDate", "SA-1", "SA-2"),
        Second("SWHardeningNeeded", "SA-1"),
        Second("SWHardeningNeeded", "SA-1", "SA-2", "SA-3"),
        Second("swhardeningneeded", "SA-1", "SA-2"),
        Second("", "SA-1", "SA-2"),
    ],
    ids=["better", "fewer", "more", "case", "empty"],
)
def test_different_findings_are_refused(second: Second) -> None:
    with pytest.raises(Refused, match="SWHardeningNeeded") as refused:
        check(advised(), second)
    assert refused.value.code is Code.ATT_DISAGREE


def test_what_ours_refuses_never_reaches_the_second() -> None:
    second, vendor = Second(), Vendor()
    vendor.body["flags"] = 0x07
    with pytest.raises(Refused) as refused:
        check(vendor, second)
    assert (refused.value.code, second.asked) == (Code.ATT_DEBUG, 0)


def test_without_a_second_verdict_nobody_is_admitted() -> None:
    with pytest.raises(Refused):
        check(Vendor(), Broken(Refused(Code.ATT_DISAGREE, "it crashed")))
    with pytest.raises(Unavailable):
        check(Vendor(), Broken(Unavailable("no memory")))


def store(folder: Path, *vendors: Vendor) -> Store:
    return Store(folder=folder / "collateral", roots=tuple(one.root_der for one in vendors))


def test_the_verifier_takes_root_and_collateral_from_its_store(tmp_path: Path) -> None:
    intel, simulated = Vendor(), Vendor()
    one = store(tmp_path, intel, simulated)
    for vendor in (intel, simulated):
        one.add(vendor.collateral(), NOW)
    verifier = verify.Verifier(store=one, second=Second())
    found = [verifier.verify(vendor.quote(), NOW) for vendor in (intel, simulated)]
    assert len({appraisal.root_hash for appraisal in found}) == 2


def test_a_platform_without_collateral_is_refused(tmp_path: Path) -> None:
    vendor = Vendor()
    verifier = verify.Verifier(store=store(tmp_path, vendor), second=Second())
    with pytest.raises(Refused) as refused:
        verifier.verify(vendor.quote(), NOW)
    assert refused.value.code is Code.ATT_COLLATERAL_MISSING


def test_a_root_that_the_store_does_not_trust_is_refused(tmp_path: Path) -> None:
    verifier = verify.Verifier(store=store(tmp_path, Vendor()), second=Second())
    with pytest.raises(Refused) as refused:
        verifier.verify(Vendor().quote(), NOW)
    assert refused.value.code is Code.ATT_CHAIN


def test_a_store_that_trusts_no_root_admits_nobody(tmp_path: Path) -> None:
    verifier = verify.Verifier(store=store(tmp_path), second=Second())
    with pytest.raises(Refused) as refused:
        verifier.verify(Vendor().quote(), NOW)
    assert refused.value.code is Code.ATT_CHAIN


@pytest.mark.parametrize(
    ("raw", "code"),
    [(b"", Code.ATT_MALFORMED), (Vendor().quote().replace(b"\5\0", b"\3\0"), Code.ATT_UNSUPPORTED)],
    ids=["empty", "no chain"],
)
def test_what_is_no_quote_is_refused_first(tmp_path: Path, raw: bytes, code: Code) -> None:
    verifier = verify.Verifier(store=store(tmp_path), second=Second())
    with pytest.raises(Refused) as refused:
        verifier.verify(raw, NOW)
    assert refused.value.code is code


def test_expired_collateral_in_the_store_admits_nobody(tmp_path: Path) -> None:
    vendor = Vendor()
    one = store(tmp_path, vendor)
    one.add(vendor.collateral(), NOW)
    with pytest.raises(Refused) as refused:
        verify.Verifier(store=one, second=Second()).verify(vendor.quote(), NOW + 30 * DAY)
    assert refused.value.code is Code.ATT_COLLATERAL_EXPIRED


@pytest.fixture(scope="module")
def second() -> Iterator[dcap.DcapJudge]:
    pytest.importorskip("dcap_qvl", reason="the second verifier is an extra: attest")
    with dcap.DcapJudge() as judge:
        yield judge


@pytest.mark.parametrize(("platform", "enclave"), list(product(PLATFORM, ENCLAVE)))
def test_dcap_qvl_merges_every_pair_of_statuses_as_we_do(
    platform: Status, enclave: Status, second: dcap.DcapJudge
) -> None:
    vendor = Vendor()
    vendor.tcb_info["tcbLevels"] = [level(platform.value, platform_tcb(SVN), "SA-1")]
    vendor.qe_identity["tcbLevels"] = [level(enclave.value, {"isvsvn": QE_SVN}, "SA-2")]
    if Status.REVOKED not in (platform, enclave):
        assert check(vendor, second).advisories == ("SA-1", "SA-2")
        return
    parts = vendor.collateral()
    for judge in (
        lambda: check(vendor, second),
        lambda: second.judge(vendor.quote(), parts, vendor.root_der, NOW),
    ):
        with pytest.raises(Refused):
            judge()


@pytest.mark.parametrize("version", [4, 5])
def test_dcap_qvl_judges_tds_as_we_do(version: int, second: dcap.DcapJudge) -> None:
    newest, old = bytes([4, 1, *[SVN] * 14]), bytes([2, 1, *[SVN] * 14])
    for svns, status in (
        (newest, "UpToDate"),
        (old, "OutOfDate" if version == 4 else "TDRelaunchAdvised"),
    ):
        vendor = Vendor("tdx")
        vendor.td = {"tee_tcb_svn": svns, "svn2": newest}
        parts = collateral.parse(vendor.collateral())
        found = verify.verify(vendor.quote(version), parts, vendor.root_der, NOW, second)
        assert found.status == status


def test_where_dcap_qvl_advises_a_relaunch_and_intel_does_not_nobody_is_admitted(
    second: dcap.DcapJudge,
) -> None:
    """The platform's level, not the module, is behind: Intel's QVL says OutOfDate, and so do we."""
    vendor = Vendor("tdx")
    vendor.tcb_info["tcbLevels"].append(level("OutOfDate", platform_tcb(0, tdx=0)))
    newest = bytes([4, 1, *[SVN] * 14])
    vendor.td = {"tee_tcb_svn": bytes([4, 1, *[SVN - 1] * 14]), "svn2": newest}
    parts = collateral.parse(vendor.collateral())
    with pytest.raises(Refused, match=r"OutOfDate.*TDRelaunchAdvised") as refused:
        verify.verify(vendor.quote(5), parts, vendor.root_der, NOW, second)
    assert refused.value.code is Code.ATT_DISAGREE
