# SPDX-License-Identifier: Apache-2.0
"""Each benchmark runs to its end at the smallest size. What it measures there says nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
ATTEST = ("dcap_qvl", "cbor2")

SMALLEST: dict[str, tuple[str, tuple[str, ...]]] = {
    "attest": ("--seconds 0.01 --rounds 1", ATTEST),
    "attest_channel": ("--collaborators 2 --repetitions 1", (*ATTEST, "sklearn")),
    "fold": ("--megabytes 1 --tensors 2 --repetitions 1", ()),
    "log": ("--entries 200 --alone 5 --calls 5", ()),
    "round": ("--megabytes 1 --collaborators 1 --rounds 1", ()),
    "start": ("--repetitions 1", ()),
    "vault": ("--size 2 --repeat 1", ()),
}
"""Arguments of each, and what it needs that not everybody has."""

WITH_CONTAINERS = {"images"}
"""``.ci/run`` runs them after ``scripts/integration-test``, on machines that run containers."""

ROWS = {
    "attest": ["limit: two signatures", "cases that are refused", "aim: "],
    "attest_channel": ["connect, mutual attestation", "2 collaborators at once", "aim: "],
    "fold": ["check + fold", "aim: "],
    "log": ["inclusion: verify", "aim: "],
    "round": ["s/round", "x plain"],
    "start": ["fx --help", "aim: "],
    "vault": ["write ", "read ", "journal of"],
}


def test_every_benchmark_is_run_here() -> None:
    assert {path.stem for path in FOLDER.glob("*.py")} == SMALLEST.keys() | WITH_CONTAINERS


@pytest.mark.parametrize("name", SMALLEST)
def test_it_runs_and_prints_its_table(name: str) -> None:
    arguments, needs = SMALLEST[name]
    for module in needs:
        pytest.importorskip(module)
    done = subprocess.run(
        [sys.executable, FOLDER / f"{name}.py", *arguments.split()],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert [row for row in ROWS[name] if row not in done.stdout] == []
