# SPDX-License-Identifier: Apache-2.0
"""The aggregator's side of witnesses: whose word it waits for, and what ends its run."""

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.support import ca

from fedclave.engine.events import Events
from fedclave.engine.store import Store
from fedclave.engine.witness import Witness
from fedclave.errors import Code, Refused
from fedclave.trust import stated
from fedclave.trust.credentials import Credentials

PLAN = "a" * 64
KEY = Ed25519PrivateKey.from_private_bytes(b"o" * 32)
NAMES = ("anna", "bernd", "carla")
Makes = Callable[[], Witness]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A run that is after round 2."""
    made = Store(tmp_path, PLAN)
    made.begin({"w": np.zeros(2)}, {})
    for number in (1, 2):
        made.put(number, {"w": np.full(2, float(number))}, {}, {"round": number})
    yield made
    made.close()


@pytest.fixture
def made(store: Store) -> Makes:
    """Makes the witness of a new process."""
    events = Events(None, lambda: datetime.now(UTC))
    return lambda: Witness(store, events, KEY, plan=PLAN, contract="", head=lambda: "")


@pytest.fixture
def parties(tmp_path: Path) -> dict[str, Credentials]:
    """Three members."""
    authority = ca.create(tmp_path)
    return {name: ca.certify(authority, name=name) for name in NAMES}


def countersigned(witness: Witness, parties: dict[str, Credentials]) -> bytes:
    raw, _ = witness.state()
    for name, one in parties.items():
        witness.countersigned(name, one.chain, raw, stated.countersign(one.private_key, raw))
    witness.keep()
    return raw


def test_who_countersigned_last_is_awaited_by_the_next_process(
    made: Makes, parties: dict[str, Credentials]
) -> None:
    assert made().lacking == (0, [])
    raw = countersigned(made(), parties)
    again = made()
    assert again.lacking == (2, list(NAMES))
    again.shown("carla", raw)
    assert again.lacking == (1, ["anna", "bernd"])
    again.shown("stranger", raw)
    assert again.lacking == (1, ["anna", "bernd"])
    again.shown("anna", raw)
    assert again.lacking == (0, ["bernd"])


def test_a_countersignature_alone_shows_nothing(
    made: Makes, parties: dict[str, Credentials]
) -> None:
    """A member that lost its memory signs whatever it is told."""
    countersigned(made(), parties)
    again = made()
    countersigned(again, parties)
    assert again.lacking == (2, list(NAMES))


def test_a_foreign_countersignature_is_refused(
    made: Makes, parties: dict[str, Credentials]
) -> None:
    witness = made()
    raw, _ = witness.state()
    signature = stated.countersign(parties["bernd"].private_key, raw)
    with pytest.raises(Refused) as refused:
        witness.countersigned("anna", parties["anna"].chain, raw, signature)
    assert refused.value.code is Code.BAD_SIGNATURE


def newer(round_: int, key: Ed25519PrivateKey = KEY, plan: str = PLAN) -> bytes:
    one = stated.state(key, plan=plan, contract="", round_=round_, model="m" * 64, head="")
    return one.raw


def test_a_newer_statement_of_its_own_ends_the_work(made: Makes) -> None:
    async def shown() -> None:
        witness = made()
        work = asyncio.create_task(witness.guarded(asyncio.Event().wait()))
        await asyncio.sleep(0)
        witness.shown("anna", newer(3))
        await work

    with pytest.raises(Refused, match="'anna' shows this aggregator's own") as refused:
        asyncio.run(shown())
    assert refused.value.code is Code.SET_BACK


NO_PROOF = {
    "another key": newer(9, key=Ed25519PrivateKey.from_private_bytes(b"x" * 32)),
    "another plan": newer(9, plan="b" * 64),
    "the same round": newer(2),
    "an older one": newer(1),
}


@pytest.mark.parametrize("case", NO_PROOF)
def test_what_proves_nothing_stops_nobody(case: str, made: Makes) -> None:
    async def shown() -> str:
        witness = made()
        witness.shown("anna", NO_PROOF[case])
        return await witness.guarded(asyncio.sleep(0, "done"))

    assert asyncio.run(shown()) == "done"


def test_a_forged_statement_is_refused(made: Makes) -> None:
    forged = newer(2).replace(b'"round":2', b'"round":9')
    with pytest.raises(Refused) as refused:
        made().shown("anna", forged)
    assert refused.value.code is Code.BAD_SIGNATURE
