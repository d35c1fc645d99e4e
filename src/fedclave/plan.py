# SPDX-License-Identifier: Apache-2.0
"""The plan: what is trained, how, for how many rounds. Frozen, strict, digested.

``load`` reads ``plan.yaml`` and reports every mistake at once with its line. An unknown key, a
wrong type, an impossible value: all are refused before anything starts. What a plan names in code
(the learner, the algorithm's keywords) is checked by ``workspace.assemble``, which may import it.
"""

import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from fedclave import canonical, mistakes, yamlfile
from fedclave.errors import PlanError, Problem
from fedclave.messages import On, Scalar

NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")
"""Names of federations and parties: letters, digits, dot, dash, underscore; 1 to 64 of them."""
Name = Annotated[str, Field(pattern=f"^{NAME.pattern}$")]
Reference = Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]
Listed = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)
"""What YAML has as a list is a tuple here."""


class Part(BaseModel):
    """A section of the plan: no unknown key, no coercion, no change after loading.

    The text under a key is its meaning in ``docs/reference/plan.md``.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


class Open(Part):
    """A section that takes further scalar keys, handed on to what it names."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Scalar] = Field(init=False)

    @property
    def settings(self) -> Mapping[str, Scalar]:
        """The further keys."""
        return dict(self.__pydantic_extra__ or {})


class LearnerPart(Part):
    """Who trains: ``build`` is ``module:function`` inside the workspace."""

    build: Reference
    """``MODULE:FUNCTION`` in the workspace; called with the site, it gives the learner."""
    settings: dict[str, Scalar] = {}
    """Keyword arguments of that function."""
    optimizer_state: Literal["reset", "keep"] = "reset"
    """What becomes of a local optimizer's state between rounds."""
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:[0-9]{1,3})?)$")
    """Where PyTorch computes; ``auto`` is CUDA when there is one."""


class TaskPart(Open):
    """A named unit of local work. With ``on`` it measures; without, it trains."""

    run: str = Field(pattern=r"^[A-Za-z]\w*$")
    """The learner's method."""
    on: Annotated[tuple[On, ...], Listed] = ()
    """Empty: it trains. ``global`` measures the model that was sent, ``local`` the one trained."""


class GroupPart(Part):
    """Members that do the same tasks: all, those listed, or a random ``share`` of them."""

    name: Name
    """What the group is called; only for people."""
    tasks: Annotated[tuple[str, ...], Listed]
    """Names of tasks."""
    members: Annotated[tuple[Name, ...] | None, Listed] = None
    """Who belongs to it. Without it and ``share``: everybody."""
    share: Annotated[float, Field(gt=0, le=1)] | None = None
    """A random part of the members, drawn anew in each round."""


class AssignmentPart(Part):
    """Who does what in which round: groups, or the workspace's own ``function``."""

    groups: Annotated[tuple[GroupPart, ...], Listed] = ()
    """Without groups, everybody does every task."""
    sample: float = Field(1.0, gt=0, le=1)
    """Part of the members that a round asks at all, at least one; drawn anew in each round."""
    function: Reference | None = None
    """``MODULE:FUNCTION`` in the workspace that assigns tasks, in place of ``groups``."""

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        if self.function and self.groups:
            raise ValueError("groups and function are two rules. Keep one of them")
        shares = [group.share for group in self.groups]
        if any(shares) and not (all(shares) and sum(s or 0 for s in shares) <= 1 + 1e-9):
            raise ValueError(
                "a group has no share, or they add up to more than 1. Give one to every group"
            )
        return self


class AlgorithmPart(Open):
    """The federated algorithm, by its name in the catalogue, and its keywords."""

    name: str = "fedavg"
    """An algorithm of the catalogue. Its keywords stand beside this key."""


class QuorumPart(Part):
    """When a round may close: at ``deadline_s`` with enough reports, sooner when all have come."""

    minimum: int = Field(1, ge=1)
    """Answers that a round needs at least."""
    fraction: float = Field(0.5, gt=0, le=1)
    """Part of the members asked that must answer."""
    deadline_s: float = Field(600.0, gt=0)
    """Seconds after which a round closes without those that are missing."""

    def needed(self, asked: int) -> int:
        """Reports without which a round of ``asked`` members does not count.

        >>> QuorumPart(minimum=2, fraction=0.8).needed(3)
        3
        """
        return max(self.minimum, ceil(self.fraction * asked - 1e-9))


class FoldPart(Part):
    """Range of the exact fold: what a value, a weight and a federation may be at most.

    The sum is an integer of 63 bits; what the three bounds leave is its resolution
    (``fraction_bits``). A value or weight beyond its bound is refused, never wrapped.
    """

    limit: float = Field(256.0, gt=0, le=2**40)
    """Most that one element of a float tensor may change in one round."""
    max_weight: int = Field(2**20, ge=1, le=2**40)
    """Most examples that one member may count for."""
    max_members: int = Field(256, ge=1, le=2**20)
    """Most members that a round may ask."""

    @property
    def fraction_bits(self) -> int:
        """Binary places of the fixed-point sum: 62 - ceil(log2(limit * weight * members))."""
        bound = ceil(self.limit) * self.max_weight * self.max_members
        return 62 - (bound - 1).bit_length()

    @model_validator(mode="after")
    def _resolves(self) -> Self:
        if self.fraction_bits < 16:
            raise ValueError(
                f"limit * max_weight * max_members leave {self.fraction_bits} binary places, fewer"
                " than 16. Lower one of them"
            )
        return self


class BestPart(Part):
    """Which model is the best: ``metric`` as events name it, and which way is better."""

    metric: str = "validate/global/accuracy"
    """``TASK/global/METRIC``, ``TASK/local/METRIC`` or, of a training task, ``TASK/METRIC``."""
    direction: Literal["max", "min"] = "max"
    """Whether more or less is better."""


class NetworkPart(Part):
    """Where the aggregator is, and how long the two bear to hear nothing."""

    address: str = Field("localhost:8443", pattern=r"^([^\s:/\[\]]+|\[[0-9a-fA-F:]+\]):[0-9]{1,5}$")
    """``HOST:PORT`` under which collaborators find the aggregator."""
    patience_s: float = Field(600.0, gt=0)
    """Seconds without contact after which a collaborator gives up."""
    stall_s: float = Field(60.0, gt=0)
    """Seconds without progress after which a transfer is ended; it goes on later where it stood.
    Progress is counted by the MiB: raise this for links slower than 1 MiB in that time."""

    @field_validator("address")
    @classmethod
    def _has_a_port(cls, value: str) -> str:
        if not 1 <= int(value.rpartition(":")[2]) <= 65535:
            raise ValueError(f"no port has this number, got {value!r}. Ports are 1 to 65535")
        return value


_KEY = r"^ed25519:[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$"
"""32 bytes leave two spare bits in the last digit of base64: zeros, so one key is one text."""
PolicyKey = Annotated[str, Field(pattern=_KEY, json_schema_extra={"format": "public key"})]


class AttestationPart(Part):
    """Who proves what it runs, and who may sign the policy that says what is good enough."""

    required: Annotated[tuple[Literal["aggregator", "collaborators"], ...], Listed]
    """``[aggregator]``, or ``[aggregator, collaborators]``."""
    signers: Annotated[tuple[PolicyKey, ...], Listed]
    """Keys that may sign the policy, each as ``fx attest policy sign`` prints it."""
    threshold: int = Field(1, ge=1)
    """How many of them must have signed it."""
    sealed: Annotated[tuple[Literal["initial", "final"], ...], Listed] = ()
    """``initial``: the initial weights are in no archive; their owner gives them to the aggregator
    once it has proved what it runs (``fx model release``). ``final``: at the end the aggregator
    leaves its models sealed to ``plan/model-owner.pub``, and none in the clear."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        wrong = ""
        if self.required not in (("aggregator",), ("aggregator", "collaborators")):
            wrong = "required has another form. Write [aggregator] or [aggregator, collaborators]"
        elif self.sealed != tuple(dict.fromkeys(self.sealed)):
            wrong = "sealed names one of the two twice. Write it once"
        elif len(set(self.signers)) != len(self.signers):
            wrong = "a key stands twice among the signers. Keep one of the two"
        elif self.threshold > len(self.signers):
            wrong = f"threshold is more than all {len(self.signers)} signers. Lower it, or add some"
        if wrong:
            raise ValueError(wrong)
        return self


def _without_null(schema: dict[str, Any]) -> None:
    schema.update(schema.pop("anyOf")[0])  # the key may be left out, but not empty


class Plan(Part):
    """Everything that the parties agreed to do. ``digest`` names it."""

    schema_: Literal[1] = Field(alias="schema")
    """Version of this format."""
    name: Name
    """The federation's name; it is in every certificate."""
    rounds: int = Field(ge=1, le=1_000_000)
    """How many rounds to train."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Where all randomness that is not a secret comes from."""
    learner: LearnerPart
    tasks: dict[str, TaskPart] = Field(min_length=1)
    """Tasks by name. Further keys of a task are keyword arguments of the method it runs."""
    assignment: AssignmentPart = AssignmentPart()
    algorithm: AlgorithmPart = AlgorithmPart()
    quorum: QuorumPart = QuorumPart()
    fold: FoldPart = FoldPart()
    best: BestPart = BestPart()
    network: NetworkPart = NetworkPart()
    attestation: AttestationPart | None = Field(None, json_schema_extra=_without_null)

    @field_validator("attestation", mode="before")
    @classmethod
    def _is_said(cls, value: object) -> object:
        if value is None:  # a slip of the pen must not switch it off
            raise ValueError(
                "expected a mapping, got nothing. Write KEY: VALUE lines, or remove it"
            )
        return value

    @property
    def digest(self) -> str:
        """SHA-256 of the plan's canonical bytes: defaults filled in, comments and order gone."""
        unsaid = {"attestation"} if self.attestation is None else None  # younger than other keys
        value = self.model_dump(mode="json", by_alias=True, exclude=unsaid)
        return canonical.digest("plan", value)


def load(path: Path) -> Plan:
    """The plan in a file. Raises ``PlanError`` with all of its mistakes, in file order."""
    return parse(yamlfile.read(path) if path.exists() else None, str(path))


def parse(text: str | None, file: str = "plan/plan.yaml") -> Plan:
    """The plan in a text (None: there is no file); ``file`` is what errors call it."""
    if text is None:
        missing = Problem(
            file=file,
            line=0,
            path="",
            reason="no such file",
            remedy="Run this in a workspace, or make one with 'fx workspace create'.",
        )
        raise PlanError([missing])
    salvaged = salvage(yamlfile.parse(text, file))
    if salvaged.problems or salvaged.plan is None:
        raise PlanError(salvaged.problems)
    return salvaged.plan


@dataclass(frozen=True, kw_only=True)
class Salvaged:
    """A document's mistakes, and the plan that the rest makes: what it names can be checked too.

    ``broken`` are the places where the plan is not the document's: left out, or stood in for.
    """

    problems: tuple[Problem, ...]  # in file order
    plan: Plan | None
    broken: frozenset[yamlfile.Path]

    def is_sound(self, *at: str) -> bool:
        """Whether this part of the plan is wholly what the document says."""
        return not any(place[: len(at)] == at or at[: len(place)] == place for place in self.broken)


_STANDINS: dict[yamlfile.Path, Any] = {
    ("schema",): 1,
    ("name",): "unknown",
    ("rounds",): 1,
    ("learner",): {"build": "src.learner:build"},
    ("learner", "build"): "src.learner:build",
    ("tasks",): {"train": {"run": "fit"}},
}
"""What keeps the place of a key that a plan cannot do without."""


def salvage(document: yamlfile.Document) -> Salvaged:
    """Every mistake that can be seen without running code, also behind other mistakes."""
    problems: dict[yamlfile.Path, Problem] = {}
    broken: set[yamlfile.Path] = set()
    value, plan = deepcopy(document.value), None
    while plan is None:
        try:
            plan = Plan.model_validate(value)
        except ValidationError as error:
            found = mistakes.found(error, document, Plan)
            problems |= {at: p for at, p in found.items() if at not in broken}
            cuts = {mistakes.uncut(at, broken) for at in found}
            if () in cuts:
                break
            for at in cuts:
                broken |= {at, mistakes.cut(value, at, _STANDINS)}
    salvaged = Salvaged(problems=(), plan=plan, broken=frozenset(broken))
    for at, reason, remedy in _contradictions(salvaged):
        problems[at] = Problem(
            file=document.file,
            line=document.line(at),
            path=yamlfile.dotted(at),
            reason=reason,
            remedy=remedy,
        )
    ordered = sorted(problems.values(), key=lambda problem: problem.line)
    return replace(salvaged, problems=tuple(ordered))


def _contradictions(salvaged: Salvaged) -> Iterator[tuple[yamlfile.Path, str, str]]:
    plan, is_sound = salvaged.plan, salvaged.is_sound
    if plan is None:
        return
    at: yamlfile.Path
    known = ", ".join(plan.tasks)
    for g, group in enumerate(plan.assignment.groups):
        for t, task in enumerate(group.tasks):
            if task not in plan.tasks and is_sound("tasks"):
                at = ("assignment", "groups", g, "tasks", t)
                yield at, f"no task is called {task!r}", f"Tasks here: {known}."
        if group.members is not None and group.share is not None:
            at = ("assignment", "groups", g)
            yield at, "members and share are two ways to fill a group", "Keep one of them."
    series = plan.best.metric.split("/")
    on = plan.tasks[series[0]].on if series[0] in plan.tasks else None
    if len(series) == 3:
        measured = on is not None and series[1] in on
    else:
        measured = on == () and len(series) == 2
    if not measured and "best" in plan.model_fields_set and is_sound("tasks") and is_sound("best"):
        remedy = (
            "Write TASK/METRIC, or TASK/global/METRIC for a task that measures the global model."
        )
        yield ("best", "metric"), f"no task measures {plan.best.metric!r}", remedy
    if plan.quorum.minimum > plan.fold.max_members and is_sound("quorum") and is_sound("fold"):
        reason = f"{plan.quorum.minimum} is more than fold.max_members ({plan.fold.max_members})"
        yield ("quorum", "minimum"), reason, "Raise fold.max_members or lower quorum.minimum."
