# SPDX-License-Identifier: Apache-2.0
"""A host that puts an older copy of a sealed aggregator's state back, with real processes."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.support.federation import Federation, Party, federation

pytestmark = pytest.mark.timeout(240)
MEMBERS = {"anna": 1.0, "bernd": 2.0, "carla": 5.0}
STATE = ("save", "logs")


def to_round(fed: Federation, number: int) -> tuple[Party, list[Party]]:
    """Start everybody, and come so far; all are busy in the round after that."""
    aggregator = fed.aggregator()
    parties = fed.all()
    aggregator.wait("round_closed", round=number)
    aggregator.wait("round_opened", round=number + 1)
    return aggregator, parties


def copied(fed: Federation, to: Path) -> None:
    """What the host keeps: the aggregator's state, and of the members nothing."""
    for part in STATE:
        ours = shutil.ignore_patterns("collaborator-*", "*.lock")
        shutil.copytree(fed.folder / part, to / part, ignore=ours)


def put_back(fed: Federation, source: Path) -> None:
    for part in STATE:
        for path in (fed.folder / part).iterdir():
            if not path.name.startswith("collaborator-"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(source / part, fed.folder / part, dirs_exist_ok=True)


def error_of(party: Party, code: int = 3) -> dict[str, Any]:
    assert party.end() == code, party.events[-3:]
    error: dict[str, Any] = party.events[-1]["error"]
    return error


def set_back(fed: Federation, old: Path) -> None:
    """Run to round 3, copy the state, go on to round 5, kill all, put the copy back."""
    orders = [fed.busy(name, 4) for name in MEMBERS]
    aggregator, parties = to_round(fed, 3)
    copied(fed, old)
    for order in orders:
        order.write_text("6")
    for party in parties:
        party.wait("request", round=6)
    for name in MEMBERS:
        known = json.loads(stated(fed, name).read_text())
        assert known["said"]["round"] == 5
    for party in [aggregator, *parties]:
        party.kill()
    for order in orders:
        order.unlink()
    put_back(fed, old)


def stated(fed: Federation, name: str) -> Path:
    (found,) = (fed.cert / "stated" / name).iterdir()
    return found


def test_an_aggregator_that_was_set_back_learns_it_from_its_members_and_stops(
    tmp_path: Path,
) -> None:
    with federation(tmp_path / "kit", rounds=8, sealing=True, members=MEMBERS) as fed:
        set_back(fed, tmp_path / "old")
        aggregator = fed.aggregator()
        awaited = aggregator.wait("members_awaited")
        assert (awaited["round"], awaited["needed"]) == (4, 2)
        member = fed.collaborator("anna")
        stopped = aggregator.wait("run_stopped")
        assert "'anna' shows this aggregator's own signed statement" in stopped["message"]
        error = error_of(aggregator)
        assert error["code"] == "set-back"
        assert "after round 5, and what lies here is after round 3" in error["message"]
        assert error_of(member)["code"] == "set-back"
        opened = [event for event in aggregator.events if event.get("event") == "round_opened"]
        assert opened == []


def test_a_member_refuses_an_aggregator_that_begins_anew_under_the_same_key(
    tmp_path: Path,
) -> None:
    """The host hides all of the state, so that nobody's statement is awaited."""
    with federation(tmp_path / "kit", rounds=8, sealing=True, members=MEMBERS) as fed:
        set_back(fed, tmp_path / "old")
        for pattern in ("federation.vault", "models/*.vault"):
            for path in (fed.folder / "save").glob(pattern):
                path.unlink()
        fed.aggregator()
        error = error_of(fed.collaborator("bernd"))
        assert error["code"] == "set-back"
        assert "it was after round 5 before" in error["message"]


def test_a_member_refuses_an_aggregator_whose_keys_were_thrown_away_with_its_state(
    tmp_path: Path,
) -> None:
    with federation(tmp_path / "kit", rounds=8, sealing=True, members=MEMBERS) as fed:
        set_back(fed, tmp_path / "old")
        for path in [*fed.cert.glob("vault.key"), *fed.cert.glob("log.*")]:
            path.unlink()
        for path in (fed.folder / "save").rglob("*.vault"):
            path.unlink()
        fed.aggregator()
        error = error_of(fed.collaborator("carla"))
        assert error["code"] == "bad-signature"
        assert "its state was thrown away" in error["message"]


def test_a_member_refuses_an_aggregator_that_states_nothing_any_more(tmp_path: Path) -> None:
    with federation(tmp_path / "kit", rounds=8, sealing=True, members=MEMBERS) as fed:
        set_back(fed, tmp_path / "old")
        for path in (fed.folder / "save").rglob("*.vault"):
            path.unlink()
        fed.sealing = False
        aggregator = fed.aggregator()
        parties = fed.all()
        codes = {error_of(party)["code"] for party in parties}
        assert codes == {"set-back"}
        assert aggregator.wait("round_opened")["round"] == 1  # and nobody works on it


def test_a_killed_aggregator_whose_state_is_its_newest_goes_on(tmp_path: Path) -> None:
    with federation(tmp_path / "kit", rounds=5, sealing=True, members=MEMBERS) as fed:
        orders = [fed.busy(name, 4) for name in MEMBERS]
        aggregator, parties = to_round(fed, 3)
        aggregator.kill()
        for order in orders:
            order.unlink()
        aggregator = fed.aggregator()
        finished = aggregator.wait("run_finished")
        assert finished["rounds"] == 5
        assert [party.end() for party in [*parties, aggregator]] == [0] * 4


def test_with_the_newest_copy_restored_the_run_goes_on(tmp_path: Path) -> None:
    with federation(tmp_path / "kit", rounds=7, sealing=True, members=MEMBERS) as fed:
        orders = [fed.busy(name, 4) for name in MEMBERS]
        aggregator, parties = to_round(fed, 3)
        copied(fed, tmp_path / "old")
        for order in orders:
            order.write_text("6")
        for party in parties:
            party.wait("request", round=6)
        for party in [aggregator, *parties]:
            party.kill()
        copied(fed, tmp_path / "new")
        put_back(fed, tmp_path / "old")
        aggregator = fed.aggregator()
        assert error_of(fed.collaborator("anna"))["code"] == "set-back"
        assert error_of(aggregator)["code"] == "set-back"
        put_back(fed, tmp_path / "new")
        for order in orders:
            order.unlink()
        aggregator = fed.aggregator()
        parties = fed.all()
        assert aggregator.wait("run_finished")["rounds"] == 7
        assert [party.end() for party in [*parties, aggregator]] == [0] * 4
