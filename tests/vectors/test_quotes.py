# SPDX-License-Identifier: Apache-2.0
"""Real quotes come apart into the fields that are known of them; damaged ones do not."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedclave.errors import Code, Refused
from fedclave.trust import quotes
from fedclave.trust.quotes import Quote, SgxReport, TdReport

FOLDER = Path(__file__).parent / "attestation"
CASES: list[dict[str, Any]] = json.loads((FOLDER / "cases.json").read_text())["quote_cases"]
KNOWN = {case["quote"]: case for case in CASES if "fields" in case}
REAL = sorted(name for name, case in KNOWN.items() if case["kind"] == "real")
SGX = (FOLDER / "quotes/sgx-automata.bin").read_bytes()
TDX = (FOLDER / "quotes/tdx-v5-gtg.bin").read_bytes()


def refused(raw: bytes) -> Code:
    with pytest.raises(Refused) as caught:
        quotes.parse(raw)
    return caught.value.code


def test_there_are_real_quotes_of_every_version() -> None:
    assert {quotes.parse((FOLDER / name).read_bytes()).version for name in REAL} == {3, 4, 5}


@pytest.mark.parametrize("name", REAL)
def test_a_real_quote_has_the_fields_that_are_known_of_it(name: str) -> None:
    known = KNOWN[name]["fields"]
    quote = quotes.parse((FOLDER / name).read_bytes())
    body = quote.body
    found = {
        "version": quote.version,
        "tee": quote.tee.upper(),
        "user_data": quote.header.user_data.hex(),
        "report_data": body.report_data.hex(),
        "debug": body.debug,
    }
    if isinstance(body, SgxReport):
        found |= {
            "mr_enclave": body.mr_enclave.hex(),
            "mr_signer": body.mr_signer.hex(),
            "isv_prod_id": body.isv_prod_id,
            "isv_svn": body.isv_svn,
            "cpu_svn": body.cpu_svn.hex(),
            "attributes": (
                body.flags.to_bytes(8, "little") + body.xfrm.to_bytes(8, "little")
            ).hex(),
        }
    compared = found.keys() & known.keys()
    assert compared >= {"version", "tee", "report_data"}
    assert {key: found[key] for key in compared} == {key: known[key] for key in compared}


@pytest.mark.parametrize("name", [n for n in REAL if KNOWN[n]["fields"]["tee"] == "SGX"])
def test_packing_gives_the_same_bytes_back(name: str) -> None:
    raw = (FOLDER / name).read_bytes()[: KNOWN[name]["signed_len"]]
    quote = quotes.parse(raw)
    assert quotes.pack_quote_v3(quote) == raw
    assert isinstance(quote.body, SgxReport)
    packed = quotes.pack_header(quote.header) + quotes.pack_sgx_report(quote.body)
    assert packed == quote.signed


def test_a_td_of_1_5_has_its_own_fields() -> None:
    bodies = [quotes.parse((FOLDER / name).read_bytes()).body for name in REAL]
    tds = [body for body in bodies if isinstance(body, TdReport)]
    assert {td.mr_service_td is not None for td in tds} == {True, False}


@pytest.mark.parametrize("raw", [SGX, TDX], ids=["sgx", "tdx"])
def test_every_truncation_is_refused(raw: bytes) -> None:
    end = len(raw.rstrip(b"\0"))
    for length in range(0, end, 7):
        assert refused(raw[:length]) is Code.ATT_MALFORMED


def test_only_zeros_may_follow() -> None:
    assert quotes.parse(SGX + bytes(100)) == quotes.parse(SGX)
    assert refused(SGX + bytes(100) + b"\x01") is Code.ATT_MALFORMED
    assert refused(SGX + bytes(quotes.MAX_SIZE)) is Code.ATT_MALFORMED


@pytest.mark.parametrize(
    ("at", "value"),
    [(0, 1), (0, 4), (0, 7), (2, 3), (4, 0x81), (4, 1), (12, 0)],
    ids=lambda n: str(n),
)
def test_other_kinds_of_quotes_are_refused(at: int, value: int) -> None:
    raw = bytearray(SGX)
    raw[at] = value
    assert refused(bytes(raw)) is Code.ATT_UNSUPPORTED


@pytest.mark.parametrize("value", [0, 1, 4, 0xFF])
def test_other_kinds_of_bodies_are_refused(value: int) -> None:
    raw = bytearray(TDX)
    raw[48] = value
    assert refused(bytes(raw)) is Code.ATT_UNSUPPORTED


@given(
    st.sampled_from([SGX, TDX]),
    st.lists(st.tuples(st.integers(0, 5200), st.integers(0, 255)), max_size=8),
    st.integers(0, 9000),
)
def test_whatever_the_bytes_there_is_a_quote_or_a_refusal(
    raw: bytes, changes: list[tuple[int, int]], length: int
) -> None:
    changed = bytearray(raw)
    for at, value in changes:
        if at < len(changed):
            changed[at] = value
    try:
        assert isinstance(quotes.parse(bytes(changed[:length])), Quote)
    except Refused as refusal:
        assert refusal.code in (Code.ATT_MALFORMED, Code.ATT_UNSUPPORTED)


@given(st.binary(max_size=6000))
def test_random_bytes_are_refused(raw: bytes) -> None:
    assert refused(raw) in (Code.ATT_MALFORMED, Code.ATT_UNSUPPORTED)
