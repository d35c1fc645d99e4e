# SPDX-License-Identifier: Apache-2.0
"""Laws of the assignment: seeded, complete, at least one, shares that add up."""

from collections import Counter
from collections.abc import Mapping, Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedclave.algorithms.assignment import Assignment, rule, user_rule
from fedclave.errors import UserError
from fedclave.plan import AssignmentPart, GroupPart

TASKS = ("train", "validate")
members = st.lists(st.sampled_from([f"m{n}" for n in range(40)]), min_size=1, unique=True)
rounds, seeds = st.integers(1, 1000), st.integers(0, 2**63 - 1)
shares = st.lists(st.integers(1, 10), min_size=1, max_size=6)


def shared(*parts: float, sample: float = 1.0) -> AssignmentPart:
    groups = tuple(
        GroupPart(name=f"g{i}", tasks=(f"task{i}",), share=part) for i, part in enumerate(parts)
    )
    return AssignmentPart(groups=groups, sample=sample)


def sizes(given_: Assignment) -> dict[str, int]:
    return dict(Counter(task for tasks in given_.values() for task in tasks))


@given(members, rounds, seeds)
def test_without_groups_everybody_does_everything(names: list[str], round_: int, seed: int) -> None:
    assert rule(AssignmentPart(), TASKS, seed)(round_, names) == dict.fromkeys(names, TASKS)


@given(members, rounds, seeds, st.floats(0.01, 1.0), st.randoms(use_true_random=False))
def test_the_members_order_does_not_matter(
    names: list[str], round_: int, seed: int, sample: float, random: Random
) -> None:
    part = shared(0.5, 0.5, sample=sample)
    shuffled = random.sample(names, len(names))
    assert rule(part, TASKS, seed)(round_, shuffled) == rule(part, TASKS, seed)(round_, names)


@given(members, rounds, seeds, st.floats(0.001, 1.0))
def test_a_sample_has_its_size_and_at_least_one_member(
    names: list[str], round_: int, seed: int, sample: float
) -> None:
    chosen = rule(AssignmentPart(sample=sample), TASKS, seed)(round_, names)
    assert len(chosen) == max(1, round(sample * len(names)))
    assert set(chosen) <= set(names)


def test_every_member_is_sampled_in_some_round() -> None:
    names = [f"m{n}" for n in range(20)]
    assign = rule(AssignmentPart(sample=0.1), TASKS, 7)
    drawn = [tuple(assign(round_, names)) for round_ in range(1, 200)]
    assert {name for chosen in drawn for name in chosen} == set(names)
    assert len(set(drawn)) > 50  # drawn anew in each round


def test_another_seed_draws_others() -> None:
    names = [f"m{n}" for n in range(20)]
    part = AssignmentPart(sample=0.5)
    assert rule(part, TASKS, 1)(1, names) != rule(part, TASKS, 2)(1, names)


def test_what_a_seed_draws_stays_what_it_was() -> None:
    """Another release must not draw others: a run that goes on would end elsewhere."""
    names = [f"m{n}" for n in range(8)]
    drawn = [sorted(rule(AssignmentPart(sample=0.25), TASKS, 7)(r, names)) for r in (1, 2, 3)]
    assert drawn == [["m4", "m6"], ["m0", "m3"], ["m2", "m6"]]


@given(members, rounds, seeds, shares)
def test_shares_are_kept_to_within_one_and_nobody_is_in_two_groups(
    names: list[str], round_: int, seed: int, parts: list[int]
) -> None:
    wanted = [part / sum(parts) for part in parts]
    given_ = rule(shared(*wanted), TASKS, seed)(round_, names)
    assert all(len(tasks) == 1 for tasks in given_.values())
    assert set(given_) == set(names)  # shares that add up to one leave nobody out
    for i, share in enumerate(wanted):
        assert abs(sizes(given_).get(f"task{i}", 0) - share * len(names)) < 1 + 1e-6


@given(members, rounds, seeds, st.lists(st.floats(0.01, 0.3), min_size=1, max_size=3))
def test_shares_below_one_leave_members_out(
    names: list[str], round_: int, seed: int, wanted: list[float]
) -> None:
    given_ = rule(shared(*wanted), TASKS, seed)(round_, names)
    assert len(given_) == round(sum(wanted) * len(names))


@pytest.mark.parametrize(
    ("wanted", "count", "expected"),
    [
        ((0.5, 0.5), 3, {"task0": 2, "task1": 1}),
        ((0.5, 0.5), 1, {"task0": 1}),
        ((0.34, 0.33, 0.33), 4, {"task0": 2, "task1": 1, "task2": 1}),
        ((0.1, 0.7, 0.2), 5, {"task0": 1, "task1": 3, "task2": 1}),  # remainders .5, .5, 0
        ((0.05, 0.36, 0.59), 10, {"task0": 0, "task1": 4, "task2": 6}),  # .5, .6, .9
        ((0.1,) * 10, 10, {f"task{i}": 1 for i in range(10)}),
    ],
)
def test_the_largest_remainders_take_who_is_left(
    wanted: tuple[float, ...], count: int, expected: dict[str, int]
) -> None:
    given_ = rule(shared(*wanted), TASKS, 7)(1, [f"m{n}" for n in range(count)])
    assert sizes(given_) == {task: n for task, n in expected.items() if n}


def test_random_groups_are_drawn_anew_in_each_round() -> None:
    names = [f"m{n}" for n in range(10)]
    assign = rule(shared(0.5, 0.5), TASKS, 7)
    assert len({tuple(sorted(assign(round_, names).items())) for round_ in range(1, 20)}) > 10


def test_a_share_without_tasks_asks_nobody() -> None:
    groups = (
        GroupPart(name="work", tasks=("train",), share=0.5),
        GroupPart(name="rest", tasks=(), share=0.5),
    )
    given_ = rule(AssignmentPart(groups=groups), TASKS, 7)(1, ["a", "b", "c", "d"])
    assert list(given_.values()) == [("train",)] * 2


def test_listed_groups_take_their_members_and_open_ones_all() -> None:
    groups = (
        GroupPart(name="trainers", tasks=("train", "validate"), members=("a", "b", "absent")),
        GroupPart(name="all", tasks=("validate", "report")),
    )
    given_ = rule(AssignmentPart(groups=groups), TASKS, 7)(1, ["c", "b", "a"])
    assert given_ == {
        "a": ("train", "validate", "report"),
        "b": ("train", "validate", "report"),
        "c": ("validate", "report"),
    }


def test_a_member_in_no_group_is_not_asked() -> None:
    groups = (GroupPart(name="one", tasks=("train",), members=("a",)),)
    assert rule(AssignmentPart(groups=groups), TASKS, 7)(1, ["a", "b"]) == {"a": ("train",)}


def test_nobody_is_assigned_where_nobody_is() -> None:
    assert rule(AssignmentPart(), TASKS, 7)(1, []) == {}
    assert rule(shared(0.5, 0.5), TASKS, 7)(1, []) == {}


def test_a_users_rule_sees_sorted_members_and_a_seeded_generator() -> None:
    seen: list[tuple[int, Sequence[str], float]] = []

    def first(round_: int, members: Sequence[str], rng: Random) -> Mapping[str, Sequence[str]]:
        seen.append((round_, members, rng.random()))
        return {members[0]: ["train"], members[1]: []}

    assign = user_rule(first, TASKS, 7)
    assert assign(3, ["b", "a"]) == {"a": ("train",)}
    assert assign(3, ["b", "a"]) == {"a": ("train",)}
    assign(4, ["b", "a"])
    assert seen[0] == seen[1]
    assert seen[0][:2] == (3, ["a", "b"])
    assert seen[2][2] != seen[0][2]


@pytest.mark.parametrize(
    ("given_", "said"),
    [({"eve": ["train"]}, "'eve', not a member"), ({"a": ["tarin"]}, "unknown task 'tarin'")],
)
def test_a_users_rule_may_name_members_and_tasks_only(
    given_: dict[str, list[str]], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        user_rule(lambda *_: given_, TASKS, 7)(1, ["a"])
