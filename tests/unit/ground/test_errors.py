# SPDX-License-Identifier: Apache-2.0
"""The error tree tells who must act, and the exit code with it."""

import pytest

from fedclave.errors import (
    MEANING,
    Bug,
    Code,
    FedclaveError,
    PeerError,
    PlanError,
    Problem,
    Refused,
    Unavailable,
    UserError,
)


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (UserError("no such folder"), 2),
        (PlanError([]), 2),
        (PeerError("it hung up"), 3),
        (Refused(Code.LATE, "round 3 closed"), 3),
        (Unavailable("no route"), 4),
        (Bug("negative count"), 70),
    ],
)
def test_exit_code_tells_who_must_act(error: FedclaveError, exit_code: int) -> None:
    assert error.exit_code == exit_code


def test_every_code_has_one_meaning_and_one_spelling() -> None:
    assert set(MEANING) == set(Code)
    assert len({code.value for code in Code}) == len(Code)
    for code in Code:
        spelt = code.name.replace("_", "-")
        assert code.value == (spelt if spelt.startswith("ATT-") else spelt.lower())


def test_plan_error_lists_every_problem() -> None:
    first = Problem(file="plan.yaml", line=2, path="name", reason="missing", remedy="Add it.")
    second = Problem(file="plan.yaml", line=1, path="", reason="the file is empty")
    error = PlanError([first, second])
    assert error.problems == (first, second)
    assert str(error) == "plan.yaml:2 name: missing. Add it.\nplan.yaml:1: the file is empty."


def test_refused_carries_its_code_and_its_message_apart() -> None:
    error = Refused(Code.WRONG_ROLE, "bob is a collaborator")
    assert (error.code, error.message) == (Code.WRONG_ROLE, "bob is a collaborator")
    assert str(error) == "wrong-role: bob is a collaborator"
