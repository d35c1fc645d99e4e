# SPDX-License-Identifier: Apache-2.0
"""A member holds what it is asked to do to what the aggregator stated before."""

import asyncio
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedclave.errors import Code, Refused
from fedclave.messages import Request
from fedclave.transport.grpc.pledge import Pledge
from fedclave.trust import keys, stated
from fedclave.trust.stated import Remembered

PLAN, MODEL, OTHER = "a" * 64, "b" * 64, "c" * 64
KEY = Ed25519PrivateKey.from_private_bytes(b"o" * 32)


def request(number: int, params: str = MODEL) -> Request:
    return Request(plan=PLAN, round=number, member="anna", tasks=("t",), params=params, size=1)


@pytest.fixture
def anna(tmp_path: Path) -> Pledge:
    """A member that has heard nothing."""
    key = keys.generate()
    return Pledge(remembered=Remembered(tmp_path / "stated.json", PLAN), key=lambda: key)


def told(pledge: Pledge, number: int) -> None:
    one = stated.state(KEY, plan=PLAN, contract="", round_=number, model=MODEL, head="")
    asyncio.run(pledge.take(one.raw))


def test_what_was_stated_is_done(anna: Pledge) -> None:
    anna.begin()
    told(anna, 3)
    anna.check(request(4))


@pytest.mark.parametrize(
    "asked",
    [request(3), request(5), request(4, OTHER)],
    ids=["the round before", "a round too far", "another model"],
)
def test_what_was_not_stated_is_refused(asked: Request, anna: Pledge) -> None:
    anna.begin()
    told(anna, 3)
    with pytest.raises(Refused, match="is not about the model that") as refused:
        anna.check(asked)
    assert refused.value.code is Code.SET_BACK


def test_an_aggregator_that_never_stated_anything_is_served(anna: Pledge) -> None:
    assert anna.begin() == b""
    anna.check(request(4))


def test_on_a_new_connection_it_must_be_stated_again(anna: Pledge) -> None:
    anna.begin()
    told(anna, 3)
    assert stated.parse(anna.begin()).round == 3
    with pytest.raises(Refused, match="says no more how far its run has come") as refused:
        anna.check(request(4))
    assert refused.value.code is Code.SET_BACK
