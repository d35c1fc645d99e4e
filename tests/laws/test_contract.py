# SPDX-License-Identifier: Apache-2.0
"""Parsers of contracts, acceptances and envelopes: what they made is read back, and of anything
else nothing but ``Refused`` comes out."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from fedclave.errors import Refused
from fedclave.trust import contract, dsse
from fedclave.trust.contract import CONTRACT_TYPE, Acceptance, Contract, File

NAMES = st.from_regex(r"[a-z]{1,8}(/[a-z]{1,8}){0,2}\.py", fullmatch=True)
HASHES = st.binary(min_size=32, max_size=32).map(bytes.hex)
CONTRACTS = st.builds(
    Contract,
    federation=st.just("kit"),
    plan=HASHES,
    files=st.dictionaries(NAMES, st.tuples(st.integers(0, 2**40), HASHES), max_size=5).map(
        lambda found: tuple(
            File(path=path, size=size, sha256=sha) for path, (size, sha) in sorted(found.items())
        )
    ),
)
SAMPLE = Contract(
    federation="kit", plan="ab" * 32, files=(File(path="src/a.py", size=1, sha256="cd" * 32),)
)
ENVELOPE = dsse.sign(CONTRACT_TYPE, SAMPLE.bytes, Ed25519PrivateKey.from_private_bytes(bytes(32)))
PARSERS: dict[str, tuple[Callable[[bytes], Any], bytes]] = {
    "contract": (contract.parse, SAMPLE.bytes),
    "acceptance": (
        contract.parse_acceptance,
        Acceptance(contract="ab" * 32, federation="kit", party="anna").bytes,
    ),
    "envelope": (dsse.decode, dsse.encode(ENVELOPE)),
}


@given(CONTRACTS)
def test_a_contract_is_read_back_as_it_was(made: Contract) -> None:
    assert contract.parse(made.bytes) == made


@pytest.mark.parametrize("kind", PARSERS)
@given(st.data())
def test_a_changed_one_is_refused_or_means_what_its_bytes_say(kind: str, data: Any) -> None:
    parse, good = PARSERS[kind]
    raw = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
        if not raw:
            raw = bytearray(b"{")
    with suppress(Refused):
        found = parse(bytes(raw))
        assert kind == "envelope" or found.bytes == bytes(raw)


@pytest.mark.parametrize("kind", PARSERS)
@given(st.binary(max_size=300))
def test_noise_is_refused(kind: str, raw: bytes) -> None:
    with pytest.raises(Refused):
        PARSERS[kind][0](raw)
