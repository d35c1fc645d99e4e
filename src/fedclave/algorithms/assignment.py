# SPDX-License-Identifier: Apache-2.0
"""Who does which tasks in which round. Seeded by the plan, the round and nothing else."""

from collections.abc import Callable, Mapping, Sequence
from random import Random

from fedclave.canonical import derive_seed
from fedclave.errors import UserError
from fedclave.plan import AssignmentPart, GroupPart

Assignment = Mapping[str, tuple[str, ...]]
"""Member -> the tasks that it does in this round. A member that is absent does nothing."""

Rule = Callable[[int, Sequence[str]], Assignment]
"""(round, all members by name) -> who does what."""

UserFunction = Callable[[int, Sequence[str], Random], Mapping[str, Sequence[str]]]


def rule(part: AssignmentPart, tasks: Sequence[str], seed: int) -> Rule:
    """The plan's groups as a rule; without groups, everybody does every task.

    Members are first sampled (at least one), then put into groups: a listed group takes its
    members, a group without list or share takes all, groups with shares split the members at
    random. Where rounding leaves members over, the groups with the largest remainders take them.
    """
    groups = part.groups or (GroupPart(name="everyone", tasks=tuple(tasks)),)

    def assign(round_: int, members: Sequence[str]) -> Assignment:
        rng = Random(derive_seed(seed, "assignment", round_))  # noqa: S311 - not a secret
        order = sorted(members)
        chosen = sorted(rng.sample(order, max(1, round(part.sample * len(order))))) if order else []
        if groups[0].share is not None:
            return _by_share(groups, rng.sample(chosen, len(chosen)))
        given: dict[str, tuple[str, ...]] = {}
        for member in chosen:
            done = [g.tasks for g in groups if g.members is None or member in g.members]
            mine = tuple(dict.fromkeys(task for group in done for task in group))
            if mine:
                given[member] = mine
        return given

    return assign


def user_rule(function: UserFunction, tasks: Sequence[str], seed: int) -> Rule:
    """The workspace's own function as a rule; what it returns is checked."""

    def assign(round_: int, members: Sequence[str]) -> Assignment:
        rng = Random(derive_seed(seed, "assignment", round_))  # noqa: S311 - not a secret
        given = function(round_, sorted(members), rng)
        for member, mine in given.items():
            if member not in members:
                raise UserError(f"assignment.function gave tasks to {member!r}, not a member")
            for task in mine:
                if task not in tasks:
                    raise UserError(f"assignment.function gave {member!r} unknown task {task!r}")
        return {member: tuple(given[member]) for member in sorted(given) if given[member]}

    return assign


def _by_share(groups: Sequence[GroupPart], shuffled: Sequence[str]) -> Assignment:
    exact = [(group.share or 0.0) * len(shuffled) for group in groups]
    sizes = [int(share + 1e-9) for share in exact]
    left = round(sum(exact)) - sum(sizes)
    for index in sorted(range(len(groups)), key=lambda i: sizes[i] - exact[i])[:left]:
        sizes[index] += 1
    given: dict[str, tuple[str, ...]] = {}
    at = 0
    for group, size in zip(groups, sizes, strict=True):
        if group.tasks:
            given.update(dict.fromkeys(shuffled[at : at + size], group.tasks))
        at += size
    return given
