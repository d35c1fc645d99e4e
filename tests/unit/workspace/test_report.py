# SPDX-License-Identifier: Apache-2.0
"""The report says to the byte what leaves, and what protects it; no name in it passes for ours."""

from typing import Any

import numpy as np
import pytest

from fedclave import plan, tensors
from fedclave.algorithms.folds import delta_layout
from fedclave.plan import Plan
from fedclave.trust.attesting import MAX_EVIDENCE
from fedclave.workspace import report
from fedclave.workspace.report import Report

PLAN = """\
schema: 1
name: digits
rounds: 20
learner: {build: src.learner:build}
tasks:
  train: {run: fit}
  validate: {run: evaluate, on: [global, local]}
fold: {limit: 8.0, max_weight: 5000}
network: {address: "fl.example.org:8443"}
"""
KEY = "ed25519:" + "A" * 43 + "="
MODEL = {
    "w": np.zeros((64, 10), np.float32),
    "half": np.zeros(6, np.float16),
    "steps": np.zeros((), np.int32),
}


def made(text: str = PLAN, model: dict[str, Any] | None = None) -> Report:
    return report.make(plan.parse(text), tensors.layout_of(MODEL if model is None else model))


def words(found: Report) -> str:
    return " ".join(" ".join(found.lines).split())


def test_tensors_and_bytes_are_those_of_an_update_as_it_travels() -> None:
    found = made()
    travelling = delta_layout(tensors.layout_of(MODEL))
    assert {(t.name, t.dtype, t.shape, t.elements, t.bytes) for t in found.tensors} == {
        ("w", "F32", (64, 10), 640, 2560),
        ("half", "F32", (6,), 6, 24),
        ("steps", "I64", (), 1, 8),
    }
    assert (found.elements, found.update_bytes) == (647, travelling.size)
    update = {"w": np.zeros((64, 10), "f4"), "half": np.zeros(6, "f4"), "steps": np.int64()}
    assert found.update_bytes == len(tensors.encode(update))
    assert found.total_bytes == 20 * found.update_bytes
    assert found.model_bytes == len(tensors.encode(MODEL))


def test_it_says_to_whom_how_often_and_within_which_bounds() -> None:
    text = words(made())
    assert "to the aggregator (fl.example.org:8443), over TLS 1.3" in text
    assert "In each of 20 rounds an update" in text
    assert "Figures of validate/global, train, validate/local" in text
    assert "After the last round, once more, of the final model." in text
    assert "A change of more than 8 in one number is refused, not clipped." in text
    assert "counts for its number of examples, at most 5000." in text


def test_what_does_not_protect_is_said_loudly() -> None:
    found, text = made(), words(made())
    assert (found.clipping, found.noise, found.masking) == (None, None, None)
    for what in ("Clipping: NONE.", "Noise: NONE.", "Masking: NONE.", "NOTHING holds the code"):
        assert what in text


def test_who_proves_what_is_said_either_way() -> None:
    assert "NOBODY. Whoever runs the aggregator can read every update" in words(made())
    both = f"{{required: [aggregator, collaborators], signers: ['{KEY}'], threshold: 1}}"
    found = made(f"{PLAN}attestation: {both}\n")
    assert found.attested == ("aggregator", "collaborators")
    assert "aggregator and collaborators, as plan/attestation.yaml demands" in words(found)
    assert "A SIMULATED TEE proves nothing" in words(found)
    assert "NOBODY" not in words(found)


def attesting(*roles: str) -> str:
    section = f"{{required: [{', '.join(roles)}], signers: ['{KEY}'], threshold: 1}}"
    return f"{PLAN}attestation: {section}\n"


def test_a_party_that_must_prove_itself_is_told_that_its_evidence_names_the_machine() -> None:
    found = made(attesting("aggregator", "collaborators"))
    assert (found.evidence, found.evidence_bytes) == (True, MAX_EVIDENCE)
    for what in ("a quote", "PCK chain", "THEY NAME THE MACHINE", "PPID", "FMSPC", "platform inst"):
        assert what in words(found)
    assert f"at most {MAX_EVIDENCE} bytes each time" in words(found)
    assert "It keeps, too, what the party runs and how its platform stands." in words(found)


def test_no_line_is_wider_than_a_terminal() -> None:
    assert max(map(len, made(attesting("aggregator", "collaborators")).lines)) < 100


@pytest.mark.parametrize("text", [PLAN, attesting("aggregator")], ids=["nobody", "aggregator"])
def test_who_shows_no_evidence_is_not_told_of_any(text: str) -> None:
    found = made(text)
    assert (found.evidence, found.evidence_bytes) == (False, 0)
    assert "PPID" not in words(found)
    for what in ("ids of contract and policy", "its number of examples and the SHA-256"):
        assert (what in words(found)) is bool(found.attested)


def test_without_masking_it_is_said_that_updates_may_be_kept() -> None:
    assert "may have it keep them ('--keep-updates')" in words(made())


def test_a_plan_that_only_measures_takes_no_update() -> None:
    text = PLAN.replace("  train: {run: fit}\n", "").replace("on: [global, local]", "on: [local]")
    found = made(text)
    assert (found.tensors, found.update_bytes, found.total_bytes) == ((), 0, 0)
    assert "No update: no task of this plan trains." in words(found)
    assert not found.measures_at_end
    assert "After the last round" not in words(found)


def test_a_long_model_is_cut_for_people_and_whole_in_json() -> None:
    found = made(model={f"layer{n}": np.zeros(1, np.float32) for n in range(40)})
    assert "and 28 more; --json lists all" in words(found)
    assert len(found.as_json()["tensors"]) == 40


HOSTILE = ["\x1b[2J", "w\nWHAT LEAVES THIS SITE\n  Nothing.", "a\u202eb", "nothing else leaves", ""]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_tensors_name_cannot_pass_for_a_line_of_the_report(name: str) -> None:
    lines = made(model={name: np.zeros(1, np.float32)}).lines
    assert len(lines) == len(made(model={"w": np.zeros(1, np.float32)}).lines)
    assert all(line.isprintable() for line in lines)
    assert ascii(name) in " ".join(lines)


def test_a_very_long_name_is_cut() -> None:
    lines = made(model={"w" * 10_000: np.zeros(1, np.float32)}).lines
    assert max(map(len, lines)) < 200


def test_names_of_tasks_and_the_address_are_shown_escaped_too() -> None:
    loaded = plan.parse(PLAN)
    tasks = {"a\x1b[2J\n": loaded.tasks["train"]}
    network = loaded.network.model_copy(update={"address": "h\x1b[2J:1"})
    hostile: Plan = loaded.model_copy(update={"tasks": tasks, "network": network})
    assert all(line.isprintable() for line in report.make(hostile, tensors.layout_of(MODEL)).lines)


def test_the_same_plan_and_layout_give_the_same_report() -> None:
    assert made() == made()
    assert made().as_json() == made().as_json()
