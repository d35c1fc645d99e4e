# SPDX-License-Identifier: Apache-2.0
"""Who is asked in a round is decided when it opens, not when the wait for its quorum begins."""

from pathlib import Path

from tests.support.local import Chaser, Federation, Scripted, plan

from fedclave.engine.ports import Enough
from fedclave.engine.store import Store
from fedclave.transport.local import LocalTransport

QUORUM = {"minimum": 2, "fraction": 0.5, "deadline_s": 60.0}


def test_a_party_that_is_added_while_a_round_waits_is_asked_in_it(tmp_path: Path) -> None:
    listed = ["anna", "bernd"]
    verdicts = []

    class Waiting(Scripted):
        async def present(self, enough: Enough) -> None:
            verdicts.append(enough(["anna"]))
            verdicts.append(enough(["anna", "clara"]))  # she is connected, but nobody's member
            listed.append("clara")
            verdicts.append(enough(["anna", "clara"]))

    def waiting(transport: LocalTransport, store: Store) -> Scripted:
        return Waiting(transport, {})

    run = Federation(
        folder=tmp_path,
        plan=plan(rounds=1, quorum=QUORUM),
        learners={name: Chaser(1.0) for name in ("anna", "bernd", "clara")},
        members=lambda: list(listed),
        wrap=waiting,
    ).run()
    assert verdicts == [False, False, True]
    assert set(run.of("round_opened")[0]["asked"]) == {"anna", "bernd", "clara"}
