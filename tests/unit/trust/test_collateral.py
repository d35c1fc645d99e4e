# SPDX-License-Identifier: Apache-2.0
"""Collateral: read strictly, vouched for by certificates of the right role, and valid now."""

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st
from tests.support.dcap_pki import (
    CA,
    DAY,
    LEAF,
    NOW,
    ROOT,
    SIGNING,
    Vendor,
    certificate,
    crl,
    date,
    extension,
    new_key,
)

from fedclave.errors import Code, Refused
from fedclave.trust import collateral

SECOND = timedelta(seconds=1)


def code_of(call: Callable[[], object]) -> Code:
    with pytest.raises(Refused) as refused:
        call()
    return refused.value.code


def vouch(vendor: Vendor) -> collateral.Vouched:
    return collateral.vouch(vendor.collateral(), vendor.root_der)


def refusal(vendor: Vendor) -> Code:
    return code_of(lambda: vouch(vendor))


def changed(**change: Any) -> bytes:
    document: dict[str, Any] = {**Vendor().document(), **change}
    return json.dumps({key: value for key, value in document.items() if value is not None}).encode()


def test_good_collateral_is_vouched_for() -> None:
    vendor = Vendor()
    raw = vendor.collateral()
    found = collateral.vouch(raw, vendor.root_der)
    assert found.collateral == collateral.parse(raw)
    assert (found.root.name, found.pck_ca.name, found.signers[0].name) == (ROOT, CA, SIGNING)


def test_the_older_of_the_two_evaluation_numbers_counts() -> None:
    vendor = Vendor()
    assert (vendor.tcb_info["tcbEvaluationDataNumber"], vouch(vendor).collateral.evaluation) == (
        20,
        20,
    )
    vendor.tcb_info["tcbEvaluationDataNumber"] = 30
    assert vouch(vendor).collateral.evaluation == 21


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xff",
        b"[]",
        changed(tcb_info=None),
        changed(pck_certificate_chain="another chain"),
        changed(tcb_info_signature="00" * 63),
        changed(qe_identity_signature="0x" + "00" * 63),
        changed(root_ca_crl="abc"),
        changed(pck_crl=[1]),
        changed(pck_crl="00" * collateral.MAX_BYTES),
        changed()[:-1] + b', "pck_crl": "00"}',
        changed().decode().encode("utf-16"),
    ],
    ids=range(12),
)
def test_what_is_not_its_form_is_refused(raw: bytes) -> None:
    assert code_of(lambda: collateral.parse(raw)) is Code.ATT_COLLATERAL


@pytest.mark.parametrize("text", ["tcb_info", "qe_identity"])
def test_a_changed_text_is_refused(text: str) -> None:
    vendor = Vendor()
    document = vendor.document()
    number = '"tcbEvaluationDataNumber": 2'
    for change in (document[text] + " ", document[text].replace(number, number + "2")):
        assert change != document[text]
        raw = json.dumps({**document, text: change}).encode()
        assert code_of(lambda raw=raw: collateral.vouch(raw, vendor.root_der)) is (
            Code.ATT_COLLATERAL
        )


def test_a_text_with_half_a_character_is_refused() -> None:
    vendor = Vendor()
    vendor.tcb_info["note"] = "here"
    document = vendor.document()
    document["tcb_info"] = document["tcb_info"].replace("here", "\ud800")
    raw = json.dumps(document).encode()
    assert code_of(lambda: collateral.vouch(raw, vendor.root_der)) is Code.ATT_COLLATERAL


def test_the_texts_must_be_of_one_tee() -> None:
    vendor = Vendor()
    vendor.qe_identity["id"] = "TD_QE"
    assert refusal(vendor) is Code.ATT_COLLATERAL


def wrong_signers(vendor: Vendor) -> dict[str, Any]:
    """Certificates with a key of their own, none of which may sign collateral."""
    key, root = new_key(), vendor.root_key
    return {
        "a PCK certificate": (vendor.pck_key, vendor.pck),
        "a PCK certificate called TCB Signing": (
            key,
            certificate(SIGNING, key, CA, vendor.ca_key, sgx=extension()),
        ),
        "issued by the PCK CA": (key, certificate(SIGNING, key, CA, vendor.ca_key)),
        "with an SGX extension": (key, certificate(SIGNING, key, ROOT, root, sgx=extension())),
        "a CA": (key, certificate(SIGNING, key, ROOT, root, path_length=0)),
        "called otherwise": (key, certificate(LEAF, key, ROOT, root)),
        "the root": (root, vendor.root),
        "of another root": (key, certificate(SIGNING, key, ROOT, new_key())),
    }


@pytest.mark.parametrize("text", ["tcb", "qe"])
@pytest.mark.parametrize("wrong", wrong_signers(Vendor()))
def test_a_signer_of_another_role_is_refused(wrong: str, text: str) -> None:
    vendor = Vendor()
    key, signer = wrong_signers(vendor)[wrong]
    setattr(vendor, f"{text}_signer", key)
    setattr(vendor, f"{text}_chain", (signer, vendor.ca, vendor.root))
    assert refusal(vendor) is Code.ATT_COLLATERAL_SIGNER


def test_another_key_under_the_right_certificate_is_refused() -> None:
    vendor = Vendor()
    vendor.tcb_signer = new_key()
    assert refusal(vendor) is Code.ATT_COLLATERAL


def test_another_root_is_refused() -> None:
    raw = Vendor().collateral()
    assert code_of(lambda: collateral.vouch(raw, Vendor().root_der)) is Code.ATT_COLLATERAL_SIGNER


def test_the_lists_must_be_of_their_issuers() -> None:
    for change in (
        {"root_crl": "pck_crl"},
        {"pck_crl": "root_crl"},
    ):
        vendor = Vendor()
        for name, other in change.items():
            setattr(vendor, name, getattr(Vendor(), other))
        assert refusal(vendor) is Code.ATT_COLLATERAL
    vendor = Vendor()
    vendor.crl_chain = (vendor.signing, vendor.root)
    assert refusal(vendor) is Code.ATT_COLLATERAL


@pytest.mark.parametrize("how", ["of another root", "that names the key of the true root"])
def test_a_list_by_a_pck_ca_that_the_root_did_not_issue_is_refused(how: str) -> None:
    """Who makes a CA of the same name has its list revoke nothing."""
    vendor, key = Vendor(), new_key()
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(vendor.root_key.public_key())
    own = identifier if "key of the true" in how else None
    forged = certificate(CA, key, ROOT, new_key(), path_length=0, authority=own)
    vendor.crl_chain, vendor.pck_crl = (forged, vendor.root), crl(CA, key)
    with pytest.raises(Refused, match="not issued by the trusted") as refused:
        vouch(vendor)
    assert refused.value.code is Code.ATT_COLLATERAL
    with pytest.raises(Refused, match="not issued by the trusted"):
        collateral.genuine(vendor.collateral(), vendor.root_der)


def test_a_revoked_signer_vouches_for_nothing() -> None:
    vendor = Vendor()
    vendor.root_crl = crl(ROOT, vendor.root_key, vendor.signing.serial_number)
    assert refusal(vendor) is Code.ATT_COLLATERAL_SIGNER


def test_a_revoked_pck_ca_is_refused_as_such() -> None:
    vendor = Vendor()
    vendor.root_crl = crl(ROOT, vendor.root_key, vendor.ca.serial_number)
    assert refusal(vendor) is Code.ATT_REVOKED


def aged(part: str, days: float) -> Vendor:
    """A vendor of whom one part was issued, or ends, some days from now."""
    vendor = Vendor()
    begins, ends = (
        (NOW + days * DAY, NOW + 29 * DAY) if days > 0 else (NOW - 99 * DAY, NOW + days * DAY)
    )
    if part in ("tcb_info", "qe_identity"):
        getattr(vendor, part).update(issueDate=date(begins), nextUpdate=date(ends))
    elif part == "root_crl":
        vendor.root_crl = crl(ROOT, vendor.root_key, begins=begins, ends=ends)
    elif part == "pck_crl":
        vendor.pck_crl = crl(CA, vendor.ca_key, begins=begins, ends=ends)
    elif part == "signer":
        key = vendor.signing_key
        made = certificate(SIGNING, key, ROOT, vendor.root_key, begins=begins, ends=ends)
        vendor.qe_chain = (made,)
    else:
        vendor.crl_chain = (
            certificate(
                CA, vendor.ca_key, ROOT, vendor.root_key, path_length=0, begins=begins, ends=ends
            ),
        )
    return vendor


PARTS = ("tcb_info", "qe_identity", "root_crl", "pck_crl", "signer", "pck_ca")


@pytest.mark.parametrize("part", PARTS)
def test_each_part_must_not_have_expired(part: str) -> None:
    found = vouch(aged(part, -0.5))
    assert found.expires == NOW - DAY / 2
    collateral.check_current(found, NOW - DAY / 2)
    assert code_of(lambda: collateral.check_current(found, NOW - DAY / 2 + SECOND)) is (
        Code.ATT_COLLATERAL_EXPIRED
    )


@pytest.mark.parametrize("part", [part for part in PARTS if not part.endswith("crl")])
def test_no_part_may_be_of_the_future(part: str) -> None:
    found = vouch(aged(part, 2))
    collateral.check_current(found, NOW + 2 * DAY)
    assert code_of(lambda: collateral.check_current(found, NOW + 2 * DAY - SECOND)) is (
        Code.ATT_COLLATERAL_FUTURE
    )


@pytest.mark.parametrize("part", ["root_crl", "pck_crl"])
def test_a_revocation_list_may_be_newer(part: str) -> None:
    collateral.check_current(vouch(aged(part, 2)), NOW)


def test_it_says_how_long_it_is_good() -> None:
    assert vouch(Vendor()).expires_in(NOW) == 29 * DAY
    with pytest.raises(Refused, match=r"TCB info was valid until .* 2 days ago"):
        collateral.check_current(vouch(aged("tcb_info", -2)), NOW)


@given(st.data())
def test_changed_bytes_are_refused_and_never_something_else(data: st.DataObject) -> None:
    raw = bytearray(RAW)
    for at in data.draw(st.lists(st.integers(0, len(raw) - 1), min_size=1, max_size=3)):
        raw[at] = data.draw(st.integers(0, 255))
    try:
        found = collateral.vouch(bytes(raw[: data.draw(st.integers(0, len(raw)))]), VENDOR.root_der)
    except Refused as error:
        assert error.code.startswith(("ATT-COLLATERAL", "ATT-CHAIN"))
    else:  # white space, the unread root, or the case of a hex digit
        assert found.collateral.tcb_info == collateral.parse(RAW).tcb_info


VENDOR = Vendor()
RAW = VENDOR.collateral()
