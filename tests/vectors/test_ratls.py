# SPDX-License-Identifier: Apache-2.0
"""The RA-TLS cases of ``attestation/cases.json``: ours, Gramine's, and changed ones.

A case is accepted when the evidence belongs to the certificate's key and the quote is genuine.
``ratls-gramine-interoperable.pem`` belongs to its key, but is of a debug enclave.
"""

import json
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from fedclave.errors import Code, Refused
from fedclave.trust import claims, collateral, pck, ratls, sgx_verify

pytest.importorskip("cbor2", reason="evidence needs an extra: attest")

VECTORS = Path(__file__).parent / "attestation"
CASES: dict[str, dict[str, Any]] = {
    case["id"]: case
    for case in json.loads((VECTORS / "cases.json").read_text(encoding="utf-8"))["ratls_cases"]
}
REFUSED = {
    "ratls-sim-relay-wrong-key": Code.ATT_KEY_BINDING,
    "ratls-sim-claims-not-in-quote": Code.ATT_KEY_BINDING,
    "ratls-sim-wrong-tag": Code.ATT_MALFORMED,
    "ratls-sim-cbor-truncated": Code.ATT_MALFORMED,
    "ratls-sim-cbor-trailing": Code.ATT_MALFORMED,
    "ratls-gramine-interoperable.pem": Code.ATT_DEBUG,
}
ACCEPTED = sorted(CASES.keys() - REFUSED.keys())


def certificate(case: dict[str, Any]) -> bytes:
    raw = (VECTORS / case["cert"]).read_bytes()
    return ssl.PEM_cert_to_DER_cert(raw.decode()) if case["cert"].endswith(".pem") else raw


def judge(case: dict[str, Any]) -> sgx_verify.Appraisal:
    root = pck.INTEL_ROOT if case["root"] == "intel" else (VECTORS / case["root"]).read_bytes()
    parts = collateral.parse((VECTORS / case["collateral"]).read_bytes())
    quote = ratls.bound(ratls.read(certificate(case)))
    return sgx_verify.judge(quote, parts, root, datetime.fromtimestamp(case["now"], UTC))


def test_the_cases_are_all_there() -> None:
    assert len(CASES) == 10
    assert REFUSED.keys() == {name for name, case in CASES.items() if case["must_reject"]}


@pytest.mark.parametrize("name", REFUSED)
def test_what_must_be_rejected_is_refused_with_its_code(name: str) -> None:
    with pytest.raises(Refused) as refused:
        judge(CASES[name])
    assert refused.value.code is REFUSED[name]


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_is_genuine_and_bound_is_accepted(name: str) -> None:
    assert judge(CASES[name]).root_hash


def test_the_nonce_is_read() -> None:
    found = ratls.read(certificate(CASES["ratls-sim-ok-nonce"])).claims
    assert found is not None
    nonce = claims.binding(found).nonce
    assert nonce is not None
    assert nonce.hex() == CASES["ratls-sim-ok-nonce"]["nonce"]


def test_of_two_different_quotes_the_standard_one_is_taken() -> None:
    both = ratls.read(certificate(CASES["ratls-gramine-interoperable.pem"]))
    assert not both.legacy
    assert both.claims is not None
    claims.check_report_data(ratls.bound(both).body.report_data, both.claims)


def test_gramines_own_form_is_read_where_there_is_no_other() -> None:
    assert ratls.read(certificate(CASES["ratls-gramine-legacy-konvera.der"])).legacy
