# SPDX-License-Identifier: Apache-2.0
"""A party without a row of data, in a run of the NumPy template: its rounds fail, not the run."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from tests.support.federation import Party

from fedclave.cli import demo_folders
from fedclave.cli.demo_folders import Folders

pytestmark = pytest.mark.timeout(180)
NAMES = ("alice", "bob", "carol", "dave", "erin")  # the template's quorum is four fifths


def empty(shard: Path) -> None:
    """Take every row out of a party's file."""
    with np.load(shard) as file:
        rows = {name: array[:0] for name, array in file.items()}
    np.savez(shard, **rows)


@contextmanager
def running(folders: Folders) -> Iterator[tuple[Party, dict[str, Party]]]:
    """`fx aggregator start` and `fx collaborator start` for everybody."""
    at = folders.aggregator.root
    listen = ("-C", str(at), "--listen", "localhost:0", "--allow-simulated")
    started = [aggregator := Party("aggregator", "start", *listen)]
    try:
        address = aggregator.wait("listening")["address"]
        for name, workspace in folders.parties.items():
            where = ("-C", str(workspace.root), "--address", address, "--allow-simulated")
            started.append(Party("collaborator", "start", "-n", name, *where))
        yield aggregator, dict(zip(folders.parties, started[1:], strict=True))
    finally:
        for party in started:
            party.kill()


def test_a_party_without_data_fails_its_rounds_and_the_others_go_on(tmp_path: Path) -> None:
    folders = demo_folders.make(tmp_path, NAMES, rounds=2, seed=7, now=datetime.now(UTC))
    demo_folders.deal(folders)
    empty(folders.shard("erin"))
    with running(folders) as (aggregator, parties):
        for number in (1, 2):
            failed = aggregator.wait("update_refused", round=number)
            assert (failed["member"], failed["code"]) == ("erin", "task-failed")
            assert "src/data.py" in failed["message"]
            closed = aggregator.wait("round_closed", round=number)
            assert closed["accepted"] == list(NAMES[:-1])
            assert closed["failed"] == {"erin": "task-failed"}
        aggregator.wait("run_finished")
        assert aggregator.end() == 0
        assert [parties[name].end() for name in NAMES] == [0, 0, 0, 0, 2]
        erin = parties["erin"]
        assert [e["code"] for e in erin.events if e.get("event") == "failure"] == [
            "task-failed"
        ] * 2
        assert "answered no round" in erin.events[-1]["error"]["message"]
    (log,) = folders.parties["erin"].root.rglob("failures.log")
    assert f"{folders.shard('erin')} has no rows" in log.read_text()
