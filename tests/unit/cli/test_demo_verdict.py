# SPDX-License-Identifier: Apache-2.0
"""What is said of a tampered demo: who refused whom, and whether a model could have gone out."""

from dataclasses import replace

import pytest

from fedclave.cli import demo_verdict
from fedclave.cli.demo_verdict import Ended, Outcome, Tamper
from fedclave.transport.grpc.attest import BY_AGGREGATOR, BY_PEER

CODE = "ATT-CONTRACT"


def ended(party: str, message: str, *, code: str = CODE, exit_code: int = 3) -> Ended:
    return Ended(party=party, code=code, message=message, exit_code=exit_code)


def refused(peer: str, message: str = "another contract") -> dict[str, str]:
    return {"event": "peer_refused", "peer": peer, "message": message}


def outcome(
    *parties: Ended,
    events: tuple[dict[str, str], ...] = (),
    between: str = "aggregator",
    mode: Tamper = "plan",
) -> Outcome:
    return Outcome(
        mode=mode, refusals=demo_verdict.refusals(parties, events, between), differs=(),
        up=10, down=10, model=1000, updates=0,
    )  # fmt: skip


TOLD = [ended(name, f"{BY_AGGREGATOR}another contract") for name in ("alice", "bob")]
FOUND = [ended(name, "another contract") for name in ("alice", "bob")]


def test_whom_the_aggregator_refused_did_not_refuse() -> None:
    found = outcome(*TOLD, events=(refused("alice"), refused("bob")))
    assert [(one.by, one.whom) for one in found.refusals] == [
        ("aggregator", "alice"), ("aggregator", "bob")]  # fmt: skip
    assert found.sentence == "the aggregator refused 2 of 2 parties, with ATT-CONTRACT."
    assert found.failed_closed


def test_parties_that_refuse_are_not_refused_because_the_aggregator_heard_of_it() -> None:
    heard = tuple(refused(name, f"{BY_PEER}another contract") for name in ("alice", "bob"))
    found = outcome(*FOUND, events=heard)
    assert [(one.by, one.whom) for one in found.refusals] == [
        ("alice", "aggregator"), ("bob", "aggregator")]  # fmt: skip
    assert found.sentence == "2 of 2 parties refused the aggregator, with ATT-CONTRACT."


def test_who_stood_between_is_named_whoever_refused_it() -> None:
    told = outcome(*TOLD, events=(refused("mallory"),), between="mallory")
    assert {(one.by, one.whom) for one in told.refusals} == {("aggregator", "mallory")}
    assert "the aggregator refused mallory, through whom 2 of 2 parties came" in told.sentence
    found = outcome(*FOUND, between="mallory")
    assert "2 of 2 parties refused mallory, who stands in its place" in found.sentence


def test_a_party_that_nobody_refused_is_not_counted_as_refused() -> None:
    through = ended("bob", "it was not refused", code="none", exit_code=0)
    found = outcome(FOUND[0], through)
    assert found.sentence == "1 of 2 parties refused the aggregator, with ATT-CONTRACT."
    assert not found.failed_closed
    assert outcome(through).sentence.startswith("nobody refused anybody")


@pytest.mark.parametrize("way", ["up", "down"])
def test_as_many_bytes_as_a_model_in_either_direction_are_no_failing_closed(way: str) -> None:
    found = outcome(*FOUND)
    assert found.failed_closed
    assert not replace(found, **{way: found.model}).failed_closed


def test_another_code_or_an_update_is_no_failing_closed() -> None:
    assert not outcome(*FOUND, mode="code").failed_closed
    assert not replace(outcome(*FOUND), updates=1).failed_closed
    assert not outcome().failed_closed
