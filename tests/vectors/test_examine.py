# SPDX-License-Identifier: Apache-2.0
"""Every quote of ``attestation/cases.json`` examined: the verdict, and facts whatever it is."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from fedclave.cli import examining
from fedclave.trust import pck
from fedclave.trust.dcap import DcapJudge
from fedclave.trust.examine import Basis, examine

pytest.importorskip("dcap_qvl")

VECTORS = Path(__file__).parent / "attestation"
CASES: dict[str, dict[str, Any]] = {
    case["id"]: case
    for case in json.loads((VECTORS / "cases.json").read_text(encoding="utf-8"))["quote_cases"]
}
STRICTER = {"t-sgx-trailing"}
"""Genuine, and refused by us: bytes that nobody signed follow the quote."""
ESTABLISHED = ("tcb_status", "advisories", "fmspc", "evaluation", "collateral_until", "simulated")


@pytest.fixture(scope="module")
def judge() -> Iterator[DcapJudge]:
    with DcapJudge() as one:
        yield one


@pytest.mark.parametrize("name", sorted(CASES))
def test_each_case_gets_its_verdict_and_a_whole_report(name: str, judge: DcapJudge) -> None:
    case = CASES[name]
    quote, parts = VECTORS / case["quote"], VECTORS / case["collateral"]
    root = None if case["root"] == "intel" else VECTORS / case["root"]
    by = Basis(
        root_der=pck.INTEL_ROOT if root is None else root.read_bytes(),
        collateral=parts.read_bytes(),
        second=judge,
        now=datetime.fromtimestamp(case["now"], UTC),
        allow_simulated=True,
    )
    found = examine(quote.read_bytes(), by)
    names = examining.Names(evidence=quote, collateral=parts, root=root)
    facts = examining.facts(found, by, names)
    text = "\n".join(examining.lines(found, by, names))
    if case["must_reject"] is not None:  # else it is for each verifier to say
        assert (found.refused is not None) == (case["must_reject"] or name in STRICTER)
    assert facts["verified"] == (found.refused is None)
    assert str(facts["code"] or facts["word"]) in text.splitlines()[0]
    assert {name for name in ESTABLISHED if name not in facts} == set()
    assert ("not established" in text) == (None in [facts[name] for name in ESTABLISHED])
    if found.refused is None:
        assert facts["simulated"] == (case["root"] != "intel")
        assert facts["tcb_status"] == case["dcap_qvl_0_7_0"]["tcb_status"]
