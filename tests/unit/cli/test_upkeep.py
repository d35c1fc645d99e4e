# SPDX-License-Identifier: Apache-2.0
"""A running party renews its certificate and fetches the revocation list, or says what to do."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from tests.support import ca
from tests.support.enrolment import NOW, Town

from fedclave.cli.upkeep import Contacts, contacts, keep_fresh
from fedclave.errors import UserError
from fedclave.transport.grpc import enrol
from fedclave.trust.credentials import Credentials

LONG_AGO = NOW - timedelta(days=5)
SOON = NOW + timedelta(days=5)


class Enough(Exception):
    """The pause after the last turn."""


def turns(count: int) -> Callable[[], Awaitable[None]]:
    left = [count]

    async def pause() -> None:
        left[0] -= 1
        if not left[0]:
            raise Enough

    return pause


async def look_after(cert: Path, now: datetime, count: int = 1) -> tuple[list[str], list[str]]:
    said: list[str] = []
    renewed: list[str] = []
    with pytest.raises(Enough):
        await keep_fresh(
            cert,
            "alice",
            clock=lambda: now,
            notice=said.append,
            renewed=lambda: renewed.append("renewed"),
            pause=turns(count),
        )
    return said, renewed


async def joined(town: Town) -> bytes:
    made = await enrol.join(town.invite(), town.party, now=NOW)
    Contacts(authority=town.address, aggregator="localhost:1").write(town.party, "alice")
    return made.chain


def test_due_certificate_is_renewed_by_itself(tmp_path: Path) -> None:
    town = Town(tmp_path)

    async def act() -> None:
        first = await joined(town)
        assert await look_after(town.party, NOW) == ([], [])
        assert Credentials.read(town.party, "alice").chain == first
        old = ca.certify(town.authority, now=LONG_AGO)
        old.replace(town.party, "alice")
        said, renewed = await look_after(town.party, NOW)
        assert (len(said), renewed) == (1, ["renewed"])
        assert Credentials.read(town.party, "alice").chain != old.chain

    town.run(act)


def test_fresh_revocation_list_is_fetched(tmp_path: Path) -> None:
    town = Town(tmp_path)

    async def act() -> None:
        await joined(town)
        before = (town.party / "crl.pem").read_bytes()
        town.authority.crl(NOW)
        await look_after(town.party, NOW)
        assert (town.party / "crl.pem").read_bytes() != before

    town.run(act)


def test_service_that_is_away_matters_only_when_renewal_is_due(tmp_path: Path) -> None:
    town = Town(tmp_path)
    town.run(lambda: joined(town))
    assert asyncio.run(look_after(town.party, NOW)) == ([], [])
    said, renewed = asyncio.run(look_after(town.party, SOON, count=3))
    assert (len(said), renewed) == (1, [])
    assert "could not be refreshed" in said[0]


def test_party_without_a_service_is_told_in_time(tmp_path: Path) -> None:
    cert = tmp_path / "cert"
    ca.certify(ca.create(tmp_path), now=NOW).replace(cert, "alice")
    assert asyncio.run(look_after(cert, NOW)) == ([], [])
    said, _ = asyncio.run(look_after(cert, SOON, count=2))
    assert len(said) == 1
    assert "fx ca renew alice" in said[0]


def test_damaged_contacts_are_the_users_to_repair(tmp_path: Path) -> None:
    (tmp_path / "alice.json").write_text("{}")
    with pytest.raises(UserError, match="damaged"):
        contacts(tmp_path, "alice")
