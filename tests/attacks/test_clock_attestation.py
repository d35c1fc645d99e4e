# SPDX-License-Identifier: Apache-2.0
"""Who sets a clock back so that what is over, or what is outdated, counts again.

The clock of each process is turned by a file (``support.launch``), also while it runs. Everybody
else's stays right.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.support.attesting import Mallory, calls
from tests.support.federation import Federation, Party, federation
from tests.support.hostile import hostile

from fedclave.trust.quoting import QuotingEnclave

pytestmark = pytest.mark.timeout(180)
BOTH = ("aggregator", "collaborators")
MEMBERS = {"anna": 1.0, "bernd": 2.0}
BACK = [pytest.param(timedelta(hours=3), id="hours"), pytest.param(timedelta(days=9), id="days")]


def started(fed: Federation, name: str, **ahead: float) -> Party:
    """The aggregator, or a member, by a clock of its own."""
    fed.changes = {**fed.clock(name, **ahead), "reconsider_s": 0.5}
    party = fed.aggregator() if name == "aggregator" else fed.collaborator(name)
    fed.changes = {}
    return party


def refused(party: Party) -> dict[str, Any]:
    """The refusal that a party ended with."""
    assert party.end() == 3, party.stderr
    error: dict[str, Any] = party.events[-1]["error"]
    assert error["kind"] == "refused"
    return error


@pytest.mark.parametrize("back", BACK)
def test_a_session_does_not_outlive_the_clock_that_it_began_by(
    tmp_path: Path, back: timedelta
) -> None:
    with federation(tmp_path / "ws", proving=BOTH, members=MEMBERS) as fed:
        aggregator = started(fed, "aggregator")
        own = fed.certify("collaborator", "anna", into="x")
        with hostile(fed, own) as peer:
            m = Mallory(fed, own, peer)
            assert m.attest(lambda a, t: m.evidence(m.claims(a, t.nonce))) == "SIMULATED"
            assert peer.status().member == "anna"
            fed.clock("aggregator", seconds=-back.total_seconds())
            ended = aggregator.wait("session_ended")
            assert (ended["member"], ended["code"]) == ("anna", "ATT-REQUIRED")
            assert "the clock was set back" in ended["message"]
            assert "answered" not in calls(peer)
            fed.clock("aggregator")
            assert "answered" not in calls(peer)  # it does not come back with the time


def test_a_session_that_is_over_is_not_brought_back(tmp_path: Path) -> None:
    rules = {"freshness": {"session_s": 3600, "reattest_s": 3600}}
    with federation(tmp_path / "ws", proving=BOTH, members=MEMBERS, rules=rules) as fed:
        aggregator = started(fed, "aggregator")
        own = fed.certify("collaborator", "anna", into="x")
        with hostile(fed, own) as peer:
            m = Mallory(fed, own, peer)
            assert m.attest(lambda a, t: m.evidence(m.claims(a, t.nonce))) == "SIMULATED"
            fed.clock("aggregator", minutes=61)
            assert aggregator.wait("session_ended")["code"] == "ATT-REQUIRED"
            fed.clock("aggregator", minutes=30)
            assert calls(peer) == {"ATT-REQUIRED"}


@pytest.mark.parametrize("back", BACK)
def test_an_aggregator_with_its_clock_set_back_admits_nobody_anew(
    tmp_path: Path, back: timedelta
) -> None:
    with federation(tmp_path / "ws", proving=BOTH, members=MEMBERS) as fed:
        aggregator = started(fed, "aggregator")
        fed.clock("aggregator", seconds=-back.total_seconds())
        error = refused(fed.collaborator("anna"))
        assert error["code"] in ("ATT-NONCE", "ATT-COLLATERAL-FUTURE", "certificate-not-yet-valid")
        assert "clock" in error["message"]
        fed.clock("aggregator")
        fed.all()
        aggregator.wait("run_finished")


def test_a_member_with_its_clock_set_back_goes_on_only_by_the_right_time(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "rules": {"freshness": {"session_s": 3, "reattest_s": 1}},
        "now": datetime.now(UTC) - timedelta(days=1),  # so that certificates are good 3 hours ago
    }
    with federation(
        tmp_path / "ws", proving=BOTH, members=MEMBERS, fraction=0.5, deadline_s=20, **options
    ) as fed:
        fed.busy("anna", in_round=1)
        aggregator = fed.aggregator()
        anna, _ = started(fed, "anna"), fed.collaborator("bernd")
        aggregator.wait("task_started", round=1, member="anna")
        fed.clock("anna", hours=-3)
        error = refused(anna)
        assert error["code"] == "ATT-NONCE"
        assert "Set both clocks" in error["message"]
        assert aggregator.wait("round_closed", round=1)["accepted"] == ["bernd"]


def test_a_clock_set_back_does_not_make_old_collateral_good_again(tmp_path: Path) -> None:
    with federation(tmp_path / "ws", proving=BOTH, members=MEMBERS) as fed:
        (good,) = (fed.cert / "collateral").glob("sgx-*.json")
        old, root, quote = (tmp_path / name for name in ("old.json", "root.der", "quote"))
        old.write_bytes(fed.platform.collateral(fed.now - timedelta(days=40)))
        root.write_bytes(fed.platform.root)
        quote.write_bytes(QuotingEnclave(fed.platform.quoting).quote(bytes(32), bytes(64)))
        fed.changes = fed.clock("anna", days=-35)

        def found(*command: str) -> str:
            code, said = fed.says("attest", *command, "--root", str(root))
            assert code == 3
            return str((said.get("error") or said)["code"])

        assert found("verify", str(quote)) == "ATT-COLLATERAL-FUTURE"  # what is there: to come
        assert found("collateral", "import", str(old)) == "ATT-COLLATERAL-OLDER"
        good.write_bytes(old.read_bytes())
        assert found("verify", str(quote)) == "ATT-COLLATERAL-OLDER"


def test_nobody_starts_by_a_clock_from_before_its_certificate(tmp_path: Path) -> None:
    with federation(tmp_path / "ws", proving=BOTH, members=MEMBERS) as fed:
        fed.changes = fed.clock("aggregator", days=-35)
        error = refused(fed.start_aggregator())
        assert error["code"] == "certificate-not-yet-valid"
