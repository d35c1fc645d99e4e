# SPDX-License-Identifier: Apache-2.0
"""Clocks that differ: who meets a certificate that is not of its time ends with the reason.

The machine has one clock, so the certificates are from another time: one from 8 days ago looks
to this machine as today's looks to a party whose clock is 8 days ahead.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.support.federation import Party, federation

pytestmark = pytest.mark.timeout(180)
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)


def refused_by_the_clock(party: Party, code: str) -> str:
    """The message of a party that ended so."""
    assert party.end() == 3, party.stderr
    error = party.events[-1]["error"]
    message = str(error["message"])
    assert (error["kind"], error["code"]) == ("refused", code)
    assert f"here it is {datetime.now(UTC):%Y-}" in message
    assert "Check both clocks" in message
    return message


@pytest.mark.parametrize(
    ("ahead", "code"),
    [
        (8 * DAY, "certificate-expired"),  # a certificate lives for 7 days
        (400 * DAY, "certificate-expired"),  # the CA's own for 365
        (-HOUR, "certificate-not-yet-valid"),
        (-400 * DAY, "certificate-not-yet-valid"),
    ],
    ids=["past-its-certificate", "past-the-ca", "an-hour-behind", "a-year-behind"],
)
def test_with_a_clock_that_is_wrong_nobody_starts(
    tmp_path: Path, ahead: timedelta, code: str
) -> None:
    with federation(tmp_path / "ws", now=datetime.now(UTC) - ahead) as fed:
        fed.address = "localhost:1"
        for party, name in (
            (fed.start_aggregator(), "aggregator"),
            (fed.collaborator("anna"), "anna"),
        ):
            assert f"CN={name}" in refused_by_the_clock(party, code)


@pytest.mark.parametrize(
    ("ahead", "code"),
    [(HOUR, "certificate-not-yet-valid"), (-8 * DAY, "certificate-expired")],
    ids=["ahead", "behind"],
)
def test_an_aggregator_of_another_time_is_refused_and_serves_once_it_is_of_ours(
    tmp_path: Path, ahead: timedelta, code: str
) -> None:
    with federation(tmp_path / "ws", rounds=1) as fed:
        aggregator = fed.aggregator()
        fed.certify("aggregator", "aggregator", at=fed.now + ahead)
        message = refused_by_the_clock(fed.collaborator("anna"), code)
        assert "CN=aggregator" in message
        fed.certify("aggregator", "aggregator")
        fed.all()
        aggregator.wait("run_finished")
        assert aggregator.end() == 0


@pytest.mark.parametrize(
    ("ahead", "code"),
    [(HOUR, "certificate-not-yet-valid"), (-8 * DAY, "certificate-expired")],
    ids=["ahead", "behind"],
)
def test_a_collaborator_of_another_time_is_refused_and_the_others_go_on(
    tmp_path: Path, ahead: timedelta, code: str
) -> None:
    with federation(tmp_path / "ws", rounds=1, fraction=0.5, deadline_s=4) as fed:
        aggregator = fed.aggregator()
        aggregator.kill()  # only its address is wanted yet
        carla = fed.collaborator("carla")
        carla.wait("waiting")
        fed.certify("collaborator", "carla", at=fed.now + ahead)
        aggregator = fed.aggregator()
        message = refused_by_the_clock(carla, code)
        assert "the server refused our certificate" in message
        fed.collaborator("anna"), fed.collaborator("bernd")
        assert aggregator.wait("round_closed", round=1)["accepted"] == ["anna", "bernd"]
        assert aggregator.end() == 0
