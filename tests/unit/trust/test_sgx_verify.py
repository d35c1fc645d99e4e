# SPDX-License-Identifier: Apache-2.0
"""Our own judgement: what is wrong anywhere behind a quote is refused with the step's code."""

import hashlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.dcap_pki import (
    CA,
    DAY,
    LEAF,
    NOW,
    QE_SVN,
    ROOT,
    SVN,
    Vendor,
    certificate,
    crl,
    date,
    extension,
    level,
    new_key,
    platform_tcb,
    point,
    sgx_report,
    sign,
)

from fedclave.errors import Code, Refused
from fedclave.trust import collateral, quotes, sgx_verify
from fedclave.trust.tcb import Status


def judge(vendor: Vendor, days: float = 0) -> sgx_verify.Appraisal:
    quote, parts = quotes.parse(vendor.quote()), collateral.parse(vendor.collateral())
    return sgx_verify.judge(quote, parts, vendor.root_der, NOW + days * DAY)


def code_of(vendor: Vendor, days: float = 0) -> Code:
    with pytest.raises(Refused) as refused:
        judge(vendor, days)
    return refused.value.code


def test_an_appraisal_says_what_was_found() -> None:
    vendor = Vendor()
    raw = vendor.quote()
    quote, parts = quotes.parse(raw), collateral.parse(vendor.collateral())
    found = sgx_verify.judge(quote, parts, vendor.root_der, NOW)
    assert (found.tee, found.status, found.advisories) == ("sgx", Status.UP_TO_DATE, ())
    assert found.body.report_data.startswith(b"claims")
    assert found.evidence == hashlib.sha256(raw[:432]).hexdigest()
    assert found.collateral == parts.digest
    assert (found.ca, found.evaluation, found.tcb_date) == ("platform", 20, NOW - 100 * DAY)
    assert (found.issued, found.expires) == (NOW - DAY, NOW + 29 * DAY)


@pytest.mark.parametrize("part", ["tcb_info", "qe_identity", "pck_crl"])
def test_collateral_is_as_old_as_its_oldest_part_however_new_the_pck_certificate(part: str) -> None:
    vendor, old = Vendor(), NOW - 20 * DAY
    recent = NOW - DAY / 24
    vendor.pck = certificate(
        LEAF, vendor.pck_key, CA, vendor.ca_key, sgx=extension(), begins=recent
    )
    if part == "pck_crl":
        vendor.pck_crl = crl(CA, vendor.ca_key, begins=old)
    else:
        getattr(vendor, part)["issueDate"] = date(old)
    found = judge(vendor)
    assert (found.issued, found.newest) == (old, recent)


def test_a_quote_without_its_chain_is_unsupported() -> None:
    vendor = Vendor()
    raw = vendor.quote().replace(b"\x05\x00", b"\x03\x00")
    with pytest.raises(Refused) as refused:
        sgx_verify.check_supported(quotes.parse(raw))
    assert refused.value.code is Code.ATT_UNSUPPORTED


@pytest.mark.parametrize("which", ["pck", "ca", "root"])
@pytest.mark.parametrize("days", [-2, 2])
def test_every_certificate_of_the_platform_must_be_valid_now(which: str, days: int) -> None:
    vendor = Vendor()
    dates: dict[str, Any] = {"begins": NOW - 9 * DAY, "ends": NOW + days * DAY}
    if days > 0:
        dates = {"begins": NOW + days * DAY, "ends": NOW + 9 * DAY}
    if which == "pck":
        vendor.pck = certificate(LEAF, vendor.pck_key, CA, vendor.ca_key, sgx=extension(), **dates)
    elif which == "ca":  # the one in the collateral is another, of the same key and name
        vendor.ca = certificate(CA, vendor.ca_key, ROOT, vendor.root_key, path_length=0, **dates)
    else:
        key = vendor.root_key
        vendor.root = certificate(ROOT, key, ROOT, key, path_length=1, **dates)
    codes = {Code.ATT_CHAIN, Code.ATT_COLLATERAL_EXPIRED, Code.ATT_COLLATERAL_FUTURE}
    assert code_of(vendor) in (codes if which == "root" else {Code.ATT_CHAIN})


def test_a_revoked_platform_is_refused() -> None:
    vendor = Vendor()
    vendor.pck_crl = crl(CA, vendor.ca_key, vendor.pck.serial_number)
    assert code_of(vendor) is Code.ATT_REVOKED


def test_an_older_certificate_of_the_ca_that_was_revoked_is_refused() -> None:
    """The quote brings a CA certificate of its own: that one has to be looked up too."""
    vendor = Vendor()
    vendor.root_crl = crl(ROOT, vendor.root_key, vendor.ca.serial_number)
    vendor.crl_chain = (certificate(CA, vendor.ca_key, ROOT, vendor.root_key, path_length=0),)
    assert code_of(vendor) is Code.ATT_REVOKED


def test_the_list_of_another_ca_says_nothing_about_this_platform() -> None:
    vendor, name, key = Vendor(), "Test SGX PCK Processor CA", new_key()
    vendor.crl_chain = (certificate(name, key, ROOT, vendor.root_key, path_length=0),)
    vendor.pck_crl = crl(name, key)
    assert code_of(vendor) is Code.ATT_PLATFORM


def test_another_key_of_a_ca_with_the_same_name_is_another_ca() -> None:
    vendor, key = Vendor(), new_key()
    vendor.crl_chain = (certificate(CA, key, ROOT, vendor.root_key, path_length=0),)
    vendor.pck_crl = crl(CA, key)
    assert code_of(vendor) is Code.ATT_PLATFORM


def test_collateral_must_be_about_this_platform_and_pce() -> None:
    for change, code in (
        ({"fmspc": "00606a000000"}, Code.ATT_PLATFORM),
        ({"pceId": "0100"}, Code.ATT_PCE_ID),
    ):
        vendor = Vendor()
        vendor.tcb_info.update(change)
        assert code_of(vendor) is code


def test_collateral_about_tdx_does_not_judge_sgx() -> None:
    sgx, tdx = Vendor(), Vendor("tdx")
    tdx.tee = "sgx"  # an SGX quote, under the texts for TDX
    assert code_of(tdx) is Code.ATT_PLATFORM
    assert judge(sgx).tee == "sgx"


def named(vendor: Vendor, more: bytes) -> bytes:
    """What the quoting enclave's report says of its attestation key, and then more."""
    named = hashlib.sha256(point(vendor.attestation_key) + bytes(range(32))).digest()
    return named + more.ljust(32, b"\0")


def test_the_report_names_the_attestation_key_and_then_nothing() -> None:
    vendor = Vendor()
    vendor.qe["report_data"] = named(vendor, b"")
    assert judge(vendor).status is Status.UP_TO_DATE


CHANGES: dict[str, Callable[[Vendor], object]] = {
    "another PCK key signed the report": lambda v: setattr(v, "pck_key", new_key()),
    "the report names another key": lambda v: v.qe.update(report_data=bytes(64)),
    "the report names the key and says more": lambda v: v.qe.update(report_data=named(v, b"more")),
    "the report names the key and a last bit": lambda v: v.qe.update(
        report_data=named(v, bytes(31) + b"\x01")
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_chain_of_signatures_must_hold(change: str) -> None:
    vendor = Vendor()
    CHANGES[change](vendor)
    assert code_of(vendor) is Code.ATT_SIGNATURE


@pytest.mark.parametrize("at", [0, 28, 60, 100, 400, 436, 500, 564 + 64, 948 + 10])
def test_a_flipped_bit_in_anything_signed_is_refused(at: int) -> None:
    vendor = Vendor()
    raw = bytearray(vendor.quote())
    raw[at] ^= 0x10
    parts = collateral.parse(vendor.collateral())
    with pytest.raises(Refused) as refused:
        sgx_verify.judge(quotes.parse(bytes(raw)), parts, vendor.root_der, NOW)
    assert refused.value.code in (Code.ATT_SIGNATURE, Code.ATT_UNSUPPORTED)


def test_an_attestation_key_off_the_curve_is_refused() -> None:
    vendor = Vendor()
    raw, key = vendor.quote(), b"\x01" * 64
    auth = bytes(range(32))
    old = raw[500:564]
    named = hashlib.sha256(key + auth).digest().ljust(64, b"\0")
    report = sgx_report(**{**vendor.qe, "report_data": named})
    changed = raw[:564].replace(old, key) + report + sign(vendor.pck_key, report) + raw[1012:]
    parts = collateral.parse(vendor.collateral())
    with pytest.raises(Refused, match="not a point"):
        sgx_verify.judge(quotes.parse(changed), parts, vendor.root_der, NOW)


@pytest.mark.parametrize(
    "change",
    [
        {"mr_signer": bytes(32)},
        {"prod_id": 2},
        {"misc_select": 1},
        {"flags": 0x17},
        {"flags": 0x05},
        {"flags": 0x14},
        {"svn": 0},
    ],
    ids=["signer", "product", "miscselect", "debug", "no-provision", "no-init", "svn"],
)
def test_the_quoting_enclave_must_be_the_vouched_one(change: dict[str, Any]) -> None:
    vendor = Vendor()
    vendor.qe.update(change)
    assert code_of(vendor) is Code.ATT_QE


def test_bits_that_the_masks_leave_out_do_not_count() -> None:
    vendor = Vendor()
    vendor.qe.update(xfrm=0x3, flags=0x11, misc_select=1)
    vendor.qe_identity["miscselectMask"] = "FEFFFFFF"
    assert judge(vendor).status is Status.UP_TO_DATE


def test_a_quoting_enclave_in_debug_is_refused_whatever_the_mask() -> None:
    vendor = Vendor()
    vendor.qe["flags"] = 0x17
    vendor.qe_identity["attributesMask"] = "F9FFFFFFFFFFFFFF0000000000000000"
    assert code_of(vendor) is Code.ATT_QE


def test_a_platform_below_every_level_is_refused() -> None:
    vendor = Vendor()
    vendor.tcb_info["tcbLevels"] = [level("UpToDate", platform_tcb(SVN + 1))]
    assert code_of(vendor) is Code.ATT_TCB


@pytest.mark.parametrize("where", ["platform", "enclave"])
def test_a_revoked_level_is_refused(where: str) -> None:
    vendor = Vendor()
    if where == "platform":
        vendor.tcb_info["tcbLevels"] = [level("Revoked", platform_tcb(0))]
    else:
        vendor.qe_identity["tcbLevels"] = [level("Revoked", {"isvsvn": 0})]
    assert code_of(vendor) is Code.ATT_REVOKED


def test_advisories_of_platform_and_enclave_are_named_once_each() -> None:
    vendor = Vendor()
    vendor.tcb_info["tcbLevels"] = [level("ConfigurationNeeded", platform_tcb(0), "SA-2", "SA-1")]
    vendor.qe_identity["tcbLevels"] = [level("OutOfDate", {"isvsvn": QE_SVN}, "SA-1", "SA-3")]
    found = judge(vendor)
    assert found.status is Status.OUT_OF_DATE_CONFIGURATION
    assert found.advisories == ("SA-2", "SA-1", "SA-3")


@pytest.mark.parametrize(
    ("platform", "enclave", "days"),
    [
        ("UpToDate", "UpToDate", 100),
        ("UpToDate", "OutOfDate", 300),
        ("OutOfDate", "UpToDate", 100),
        ("OutOfDate", "OutOfDate", 300),
        ("SWHardeningNeeded", "UpToDate", 100),
        ("ConfigurationNeeded", "OutOfDate", 300),
    ],
)
def test_a_grace_counts_from_the_oldest_level_that_makes_the_status(
    platform: str, enclave: str, days: int
) -> None:
    """The quoting enclave's level is here 200 days older than the platform's."""
    vendor = Vendor()
    vendor.tcb_info["tcbLevels"] = [level(platform, platform_tcb(0))]
    vendor.qe_identity["tcbLevels"] = [level(enclave, {"isvsvn": QE_SVN})]
    vendor.qe_identity["tcbLevels"][0]["tcbDate"] = date(NOW - 300 * DAY)
    found = judge(vendor)
    assert (found.behind_since, found.tcb_date) == (NOW - days * DAY, NOW - 100 * DAY)


@pytest.mark.parametrize(
    ("platform", "days"),
    [
        ("SWHardeningNeeded", 50),  # says nothing of being out of date
        ("ConfigurationAndSWHardeningNeeded", 100),  # it is why configuration is needed
        ("UpToDate", 50),
    ],
)
def test_a_grace_does_not_count_from_a_level_that_the_status_says_nothing_of(
    platform: str, days: int
) -> None:
    vendor = Vendor()
    vendor.tcb_info["tcbLevels"] = [level(platform, platform_tcb(0))]
    vendor.qe_identity["tcbLevels"] = [level("OutOfDate", {"isvsvn": QE_SVN})]
    vendor.qe_identity["tcbLevels"][0]["tcbDate"] = date(NOW - 50 * DAY)
    assert judge(vendor).behind_since == NOW - days * DAY


def test_a_debug_enclave_is_refused() -> None:
    vendor = Vendor()
    vendor.body["flags"] = 0x07
    assert code_of(vendor) is Code.ATT_DEBUG


def test_what_was_good_once_is_refused_later() -> None:
    """What is remembered of a platform and of collateral does not depend on the time."""
    vendor = Vendor()
    quote, parts = quotes.parse(vendor.quote()), collateral.parse(vendor.collateral())
    assert sgx_verify.judge(quote, parts, vendor.root_der, NOW).status is Status.UP_TO_DATE
    for days, code in ((30, Code.ATT_COLLATERAL_EXPIRED), (-2, Code.ATT_COLLATERAL_FUTURE)):
        with pytest.raises(Refused) as refused:
            sgx_verify.judge(quote, parts, vendor.root_der, NOW + days * DAY)
        assert refused.value.code is code


VENDOR = Vendor()
QUOTE, COLLATERAL = VENDOR.quote(), collateral.parse(VENDOR.collateral())
GENUINE = sgx_verify.judge(quotes.parse(QUOTE), COLLATERAL, VENDOR.root_der, NOW)


@given(st.data())
def test_a_changed_quote_is_refused_or_says_the_same(data: st.DataObject) -> None:
    raw = bytearray(QUOTE)
    for at in data.draw(st.lists(st.integers(0, len(raw) - 1), min_size=1, max_size=3)):
        raw[at] = data.draw(st.integers(0, 255))
    try:
        found = sgx_verify.judge(quotes.parse(bytes(raw)), COLLATERAL, VENDOR.root_der, NOW)
    except Refused as error:
        assert error.code.startswith("ATT-")
    else:
        assert found == GENUINE
