# SPDX-License-Identifier: Apache-2.0
"""The store of collateral: it finds by platform, and never goes back."""

import json
from pathlib import Path

import pytest
from tests.support.dcap_pki import CA, DAY, FMSPC, NOW, ROOT, Vendor, crl, date

from fedclave.errors import Code, Refused, UserError
from fedclave.trust.collateral import Collateral
from fedclave.trust.collateral_store import Reminder, Store


def store(folder: Path, *vendors: Vendor) -> Store:
    return Store(folder=folder / "collateral", roots=tuple(one.root_der for one in vendors))


def find(one: Store, vendor: Vendor, days: float = 0) -> Collateral:
    return one.find(
        tee="sgx", fmspc=FMSPC, ca="platform", root_der=vendor.root_der, now=NOW + days * DAY
    )


def issue(vendor: Vendor, days: float) -> bytes:
    """Collateral of a vendor as it was issued some days from now, for 30 days."""
    begins, ends = NOW + days * DAY, NOW + (days + 30) * DAY
    for text in (vendor.tcb_info, vendor.qe_identity):
        text.update(issueDate=date(begins), nextUpdate=date(ends))
    vendor.root_crl = crl(ROOT, vendor.root_key, begins=begins, ends=ends)
    vendor.pck_crl = crl(CA, vendor.ca_key, begins=begins, ends=ends)
    return vendor.collateral()


def files(one: Store) -> list[Path]:
    return sorted(one.folder.glob("sgx-*.json"))


def test_what_was_added_is_found(tmp_path: Path) -> None:
    vendor = Vendor()
    one = store(tmp_path, vendor)
    added = one.add(vendor.collateral(), NOW)
    assert find(one, vendor) == added
    assert [path.name[:26] for path in files(one)] == ["sgx-514d000000ff-platform-"]


def test_nothing_is_found_for_another_platform_ca_tee_or_root(tmp_path: Path) -> None:
    vendor, other = Vendor(), Vendor()
    one = store(tmp_path, vendor, other)
    one.add(vendor.collateral(), NOW)
    good = {"tee": "sgx", "fmspc": FMSPC, "ca": "platform", "root_der": vendor.root_der, "now": NOW}
    for wrong in (
        {"tee": "tdx"},
        {"fmspc": bytes(6)},
        {"ca": "processor"},
        {"root_der": other.root_der},
    ):
        with pytest.raises(Refused) as refused:
            one.find(**{**good, **wrong})  # type: ignore[arg-type]
        assert refused.value.code is Code.ATT_COLLATERAL_MISSING


def test_roots_do_not_displace_each_other(tmp_path: Path) -> None:
    vendor, simulated = Vendor(), Vendor()
    one = store(tmp_path, vendor, simulated)
    expected = one.add(vendor.collateral(), NOW)
    one.add(simulated.collateral(), NOW)
    assert find(one, vendor) == expected


def test_newer_collateral_takes_the_place_of_older(tmp_path: Path) -> None:
    vendor = Vendor()
    one = store(tmp_path, vendor)
    one.add(issue(vendor, -3), NOW)
    newer = one.add(issue(vendor, -1), NOW)
    assert find(one, vendor) == newer
    assert one.add(newer.raw, NOW) == newer


@pytest.mark.parametrize("part", ["tcb_info", "qe_identity", "root_crl", "pck_crl", "evaluation"])
def test_no_part_goes_back(tmp_path: Path, part: str) -> None:
    vendor = Vendor()
    one = store(tmp_path, vendor)
    newest = one.add(issue(vendor, -1), NOW)
    if part == "evaluation":
        vendor.qe_identity["tcbEvaluationDataNumber"] = 19
    else:
        fresh = {name: getattr(vendor, name) for name in ("root_crl", "pck_crl")}
        texts = {name: dict(getattr(vendor, name)) for name in ("tcb_info", "qe_identity")}
        issue(vendor, -2)
        for name, value in {**fresh, **texts}.items():
            if name != part:
                setattr(vendor, name, value)
    with pytest.raises(Refused) as refused:
        one.add(vendor.collateral(), NOW)
    assert refused.value.code is Code.ATT_COLLATERAL_OLDER
    assert find(one, vendor) == newest


def test_an_older_file_put_there_by_hand_is_refused(tmp_path: Path) -> None:
    vendor = Vendor()
    one = store(tmp_path, vendor)
    old = issue(vendor, -3)
    one.add(issue(vendor, -1), NOW)
    files(one)[0].write_bytes(old)
    with pytest.raises(Refused) as refused:
        find(one, vendor)
    assert refused.value.code is Code.ATT_COLLATERAL_OLDER
    assert [warned.reason for warned in one.forecast(NOW)] == ["ATT-COLLATERAL-OLDER"]


def test_an_old_file_is_not_taken_after_the_newer_was_removed(tmp_path: Path) -> None:
    vendor = Vendor()
    one = store(tmp_path, vendor)
    old = issue(vendor, -3)
    one.add(issue(vendor, -1), NOW)
    files(one)[0].unlink()
    with pytest.raises(Refused) as refused:
        one.add(old, NOW)
    assert refused.value.code is Code.ATT_COLLATERAL_OLDER


def test_a_file_under_another_name_is_refused(tmp_path: Path) -> None:
    vendor = Vendor()
    one = store(tmp_path, vendor)
    one.add(vendor.collateral(), NOW)
    path = files(one)[0]
    path.rename(path.with_name(path.name.replace("ff", "ee", 1)))
    with pytest.raises(Refused) as refused:
        one.find(
            tee="sgx",
            fmspc=FMSPC[:5] + b"\xee",
            ca="platform",
            root_der=vendor.root_der,
            now=NOW,
        )
    assert refused.value.code is Code.ATT_COLLATERAL


@pytest.mark.parametrize(("days", "code"), [(40, "EXPIRED"), (-40, "FUTURE")])
def test_what_is_not_valid_now_is_neither_added_nor_found(
    tmp_path: Path, days: int, code: str
) -> None:
    vendor = Vendor()
    one = store(tmp_path, vendor)
    with pytest.raises(Refused) as refused:
        one.add(vendor.collateral(), NOW + days * DAY)
    assert refused.value.code == f"ATT-COLLATERAL-{code}"
    assert files(one) == []
    one.add(vendor.collateral(), NOW)
    with pytest.raises(Refused) as refused:
        find(one, vendor, days)
    assert refused.value.code == f"ATT-COLLATERAL-{code}"


def test_collateral_under_a_root_that_is_not_trusted_is_not_added(tmp_path: Path) -> None:
    one = store(tmp_path, Vendor())
    with pytest.raises(Refused) as refused:
        one.add(Vendor().collateral(), NOW)
    assert refused.value.code is Code.ATT_COLLATERAL_SIGNER


MISTYPED = b'{"x":{"PCK CRL":1,"QE identity":"","TCB info":"","evaluation number":1,"root CRL":""}}'


@pytest.mark.parametrize("damage", [b"", b"[]", b'{"x":1}', b'{"x":{}}', MISTYPED])
def test_damaged_marks_stop_everything(tmp_path: Path, damage: bytes) -> None:
    vendor = Vendor()
    one = store(tmp_path, vendor)
    one.add(vendor.collateral(), NOW)
    (one.folder / "newest.json").write_bytes(damage)
    with pytest.raises(UserError, match=r"newest\.json"):
        find(one, vendor)


def test_it_warns_before_collateral_expires(tmp_path: Path) -> None:
    vendor = Vendor()
    one = store(tmp_path, vendor)
    assert one.warnings(NOW) == []
    one.add(vendor.collateral(), NOW)
    assert one.warnings(NOW + 21 * DAY) == []
    (warning,) = one.warnings(NOW + 23 * DAY)
    assert f"{NOW + 29 * DAY:%Y-%m-%d}" in warning
    (warning,) = one.warnings(NOW + 30 * DAY)
    assert "ago" in warning


def test_each_root_is_asked_about_its_own_collateral(tmp_path: Path) -> None:
    vendor, other = Vendor(), Vendor()
    both = store(tmp_path, vendor, other)
    both.add(issue(vendor, 0), NOW)
    both.add(issue(other, -9), NOW)
    late = NOW + 20 * DAY
    assert len(both.warnings(late)) == 1
    assert store(tmp_path, vendor).warnings(late) == []
    assert store(tmp_path, other).warnings(late) == both.warnings(late)


def test_a_file_that_cannot_be_used_is_warned_of(tmp_path: Path) -> None:
    vendor = Vendor()
    one = store(tmp_path, vendor)
    one.add(vendor.collateral(), NOW)
    files(one)[0].write_bytes(b"{}")
    (warning,) = one.warnings(NOW)
    assert files(one)[0].name in warning


def test_who_runs_for_days_is_reminded_once_a_day_and_of_each_change(tmp_path: Path) -> None:
    vendor, remind = Vendor(), Reminder()
    one = store(tmp_path, vendor)
    one.add(issue(vendor, 0), NOW)

    def due(days: float) -> list[str]:
        return remind.due(one, NOW + days * DAY)

    assert [len(due(days)) for days in (0, 22, 23.5, 23.6, 24.4, 24.5, 24.6)] == [
        0,
        0,
        1,
        0,
        0,
        1,
        0,
    ]
    assert [len(due(days)) for days in (30.01, 30.02, 30.9, 31.01)] == [1, 0, 0, 1]
    one.add(issue(vendor, 31), NOW + 31.1 * DAY)
    assert due(31.1) == []
    assert [len(due(days)) for days in (55, 55.1)] == [1, 0]


def test_marks_are_readable(tmp_path: Path) -> None:
    vendor = Vendor()
    one = store(tmp_path, vendor)
    one.add(vendor.collateral(), NOW)
    (marks,) = json.loads((one.folder / "newest.json").read_text()).values()
    assert marks["evaluation number"] == 20


def test_a_list_that_revokes_the_makers_of_collateral_ends_the_older_one(tmp_path: Path) -> None:
    vendor = Vendor()
    one = store(tmp_path, vendor)
    one.add(issue(vendor, -3), NOW)
    raw = issue(vendor, -1)
    begins, ends = NOW - DAY, NOW + 29 * DAY
    vendor.root_crl = crl(ROOT, vendor.root_key, vendor.ca.serial_number, begins=begins, ends=ends)
    with pytest.raises(Refused, match="It is kept") as refused:
        one.add(vendor.collateral(), NOW)
    assert refused.value.code is Code.ATT_REVOKED
    with pytest.raises(Refused) as refused:
        find(one, vendor)
    assert refused.value.code is Code.ATT_REVOKED
    with pytest.raises(Refused):  # and nobody learns of it who never trusted the makers
        store(tmp_path / "other", vendor).add(vendor.collateral(), NOW)
    assert files(store(tmp_path / "other", vendor)) == []
    later = one.add(issue(vendor, -0.5), NOW)  # the makers have new certificates, or were cleared
    assert (find(one, vendor), raw != later.raw) == (later, True)
