# SPDX-License-Identifier: Apache-2.0
"""What the aggregator does at the end of an attestation."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.support.policies import KEY, made

from fedclave.transport.grpc.attest import Usher
from fedclave.trust import gate, judgement
from fedclave.trust.gate import Standing
from fedclave.trust.sessions import Sessions


def test_an_admission_is_told_before_the_member_hears_of_it_and_can_cut_the_call_off() -> None:
    now = datetime.now(UTC)
    policy = made(valid={"from": "2020-01-01", "until": "2099-12-31"})
    verdict = judgement.unasked(policy, "collaborator", "anna", key=KEY, now=now)
    told: list[Standing] = []
    sessions = Sessions()

    class Clock:
        def now(self) -> datetime:
            return now

    class Judged(Usher):
        async def _receive(self, *call: Any) -> Standing:
            return Standing(verdict=verdict)

    async def cut_off(message: Any) -> None:
        raise asyncio.CancelledError

    async def nothing() -> None:
        return None

    member: Any = gate.Member(
        name="anna", role="collaborator", federation="kit", fingerprint="ab", not_after=now
    )
    side: Any = Clock()
    leaf: Any = None
    usher = Judged(side, sessions, leaf, leaf)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(usher.receive(member, b"k" * 32, nothing, cut_off, told.append))
    assert [one.verdict.name for one in told] == ["anna"]
    assert sessions.require(b"k" * 32, now).verdict is verdict
