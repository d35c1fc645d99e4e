# SPDX-License-Identifier: Apache-2.0
"""Laws of the round: each member once, in time, only those asked; one outcome, by the quorum."""

from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fedclave.engine.round import Outcome, Round
from fedclave.errors import Code, Refused
from fedclave.plan import QuorumPart

NAMES = [f"m{n}" for n in range(6)]
DEADLINE = 100.0
names = st.sampled_from([*NAMES, "stranger"])


class RoundMachine(RuleBasedStateMachine):
    """A round beside a model of it that keeps plain sets."""

    @initialize(asked=st.sets(st.sampled_from(NAMES), min_size=1), share=st.floats(0, 1))
    def begin(self, asked: set[str], share: float) -> None:
        self.needed = max(1, round(share * len(asked)))
        self.asked = asked
        self.accepted: set[str] = set()
        self.failed: dict[str, Code] = {}
        self.now = 0.0
        self.round = Round.open(3, asked, self.needed, DEADLINE)
        self.over: Outcome | None = None

    def expected(self, member: str) -> Code | None:
        if member not in self.asked:
            return Code.NOT_ASKED
        if member in self.accepted or member in self.failed:
            return Code.DUPLICATE
        return Code.LATE if self.over else None

    @rule(seconds=st.floats(0, 60))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule(member=names)
    def accept(self, member: str) -> None:
        self.settle()
        if (code := self.expected(member)) is None:
            self.round = self.round.accept(member, self.now)
            self.accepted.add(member)
        else:
            before = self.round
            with pytest.raises(Refused) as refused:
                self.round.accept(member, self.now)
            assert (refused.value.code, self.round) == (code, before)

    @rule(member=names, code=st.sampled_from([Code.NOT_FINITE, Code.TASK_FAILED]))
    def fail(self, member: str, code: Code) -> None:
        self.settle()
        if (wrong := self.expected(member)) is None:
            self.round = self.round.fail(member, code, self.now)
            self.failed[member] = code
        else:
            with pytest.raises(Refused) as refused:
                self.round.fail(member, code, self.now)
            assert refused.value.code is wrong

    def settle(self) -> None:
        waiting = len(self.asked) - len(self.accepted) - len(self.failed)
        if len(self.accepted) + waiting < self.needed:
            self.over = Outcome.FAILED
        elif not waiting or self.now >= DEADLINE:
            enough = len(self.accepted) >= self.needed
            self.over = Outcome.CLOSED if enough else Outcome.FAILED

    @invariant()
    def it_is_what_the_model_says(self) -> None:
        before = self.over
        self.settle()
        assert self.round.outcome(self.now) is self.over
        assert before is None or before is self.over  # an outcome is final
        assert set(self.round.accepted) == self.accepted
        assert dict(self.round.failed) == self.failed
        assert set(self.round.missing) == self.asked - self.accepted - set(self.failed)


TestRound = RoundMachine.TestCase


def test_an_answer_at_the_deadline_is_late() -> None:
    open_ = Round.open(1, ["a", "b"], 1, DEADLINE)
    with pytest.raises(Refused, match="round 1 is over") as refused:
        open_.accept("a", DEADLINE)
    assert refused.value.code is Code.LATE


def test_a_round_changes_into_a_new_one() -> None:
    open_ = Round.open(1, ["a", "b"], 1, DEADLINE)
    open_.accept("a", 0.0)
    open_.fail("b", Code.NOT_FINITE, 0.0)
    assert (open_.accepted, open_.failed) == (frozenset(), {})
    with pytest.raises(TypeError):
        open_.failed["b"] = Code.LATE  # type: ignore[index]


def test_nobody_asked_and_nobody_needed_is_closed_at_once() -> None:
    assert Round.open(1, [], 0, DEADLINE).outcome(0.0) is Outcome.CLOSED


def test_a_round_that_cannot_reach_its_quorum_fails_before_the_deadline() -> None:
    open_ = Round.open(1, ["a", "b", "c"], 2, DEADLINE)
    assert open_.fail("a", Code.NOT_FINITE, 0.0).outcome(0.0) is None
    hopeless = open_.fail("a", Code.NOT_FINITE, 0.0).fail("b", Code.NOT_FINITE, 0.0)
    assert hopeless.outcome(0.0) is Outcome.FAILED


@given(st.integers(1, 300), st.integers(1, 100), st.integers(1, 100))
def test_the_quorum_is_the_larger_of_number_and_part(
    asked: int, minimum: int, percent: int
) -> None:
    needed = QuorumPart(minimum=minimum, fraction=percent / 100).needed(asked)
    assert needed == max(minimum, ceil(asked * percent / 100 - 1e-9))
    assert needed * 100 >= asked * percent  # never less than was agreed, whatever 0.07 * 100 is
    assert needed == minimum or (needed - 1) * 100 < asked * percent
