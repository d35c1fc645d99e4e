# SPDX-License-Identifier: Apache-2.0
"""The plan: what is trained, how, for how many rounds. Frozen, strict, digested.

``load`` reads ``plan.yaml`` and reports every mistake at once with its line. An unknown key, a
wrong type, an impossible value: all are refused before anything starts. What a plan names in code
(the learner, the algorithm's keywords) is checked by ``workspace.assemble``, which may import it.
"""

import re
from collections.abc import Iterator, Mapping
from math import ceil
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from fedclave import canonical, yamlfile
from fedclave.errors import PlanError, Problem
from fedclave.messages import On, Scalar

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?$")]
NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")
"""Names of federations and parties: letters, digits, dot, dash, underscore; 1 to 64 of them."""


class Part(BaseModel):
    """A section of the plan: no unknown key, no coercion, no change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


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

    build: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    settings: dict[str, Scalar] = {}
    optimizer_state: Literal["reset", "keep"] = "reset"
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")


class TaskPart(Open):
    """A named unit of local work. With ``on`` it measures; without, it trains."""

    run: str = Field(pattern=r"^[A-Za-z]\w*$")
    on: tuple[On, ...] = ()

    @field_validator("on", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value


class GroupPart(Part):
    """Members that do the same tasks: all, those listed, or a random ``share`` of them."""

    name: Name
    tasks: tuple[str, ...]
    members: tuple[Name, ...] | None = None
    share: Annotated[float, Field(gt=0, le=1)] | None = None

    @field_validator("tasks", "members", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value


class AssignmentPart(Part):
    """Who does what in which round: groups, or the workspace's own ``function``."""

    groups: tuple[GroupPart, ...] = ()
    sample: float = Field(1.0, gt=0, le=1)
    function: str | None = Field(None, pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")

    @field_validator("groups", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        if self.function and self.groups:
            raise ValueError("groups and function are two rules. Keep one of them")
        shares = [group.share for group in self.groups]
        if any(shares) and not (all(shares) and sum(s or 0 for s in shares) <= 1 + 1e-9):
            raise ValueError("shares must be given to every group and add up to at most 1")
        return self


class AlgorithmPart(Open):
    """The federated algorithm, by its name in the catalogue, and its keywords."""

    name: str = "fedavg"


class QuorumPart(Part):
    """When a round may close: at ``deadline_s`` with enough reports, sooner when all have come."""

    minimum: int = Field(1, ge=1)
    fraction: float = Field(0.5, gt=0, le=1)
    deadline_s: float = Field(600.0, gt=0)

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
    max_weight: int = Field(2**20, ge=1, le=2**40)
    max_members: int = Field(256, ge=1, le=2**20)

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
    direction: Literal["max", "min"] = "max"


class NetworkPart(Part):
    """Where the aggregator is, and how long a collaborator bears to be without it."""

    address: str = Field(
        "localhost:8443", pattern=r"^[^\s:/]+:\d{1,5}$|^\[[0-9a-fA-F:]+\]:\d{1,5}$"
    )
    patience_s: float = Field(600.0, gt=0)


class Plan(Part):
    """Everything that the parties agreed to do. ``digest`` names it."""

    schema_: Literal[1] = Field(alias="schema")
    name: Name
    rounds: int = Field(ge=1, le=1_000_000)
    seed: int = Field(0, ge=0, lt=2**63)
    learner: LearnerPart
    tasks: dict[str, TaskPart] = Field(min_length=1)
    assignment: AssignmentPart = AssignmentPart()
    algorithm: AlgorithmPart = AlgorithmPart()
    quorum: QuorumPart = QuorumPart()
    fold: FoldPart = FoldPart()
    best: BestPart = BestPart()
    network: NetworkPart = NetworkPart()

    @property
    def digest(self) -> str:
        """SHA-256 of the plan's canonical bytes: defaults filled in, comments and order gone."""
        return canonical.digest("plan", self.model_dump(mode="json", by_alias=True))


def load(path: Path) -> Plan:
    """The plan in a file. Raises ``PlanError`` with all of its mistakes, in file order."""
    return parse(path.read_text(encoding="utf-8") if path.is_file() else None, str(path))


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
    document = yamlfile.parse(text, file)
    try:
        plan = Plan.model_validate(document.value)
    except ValidationError as error:
        raise PlanError(sorted(_problems(error, document), key=lambda p: p.line)) from error
    problems = [
        Problem(file=file, line=document.line(at), path=_dotted(at), reason=why, remedy=remedy)
        for at, why, remedy in _contradictions(plan)
    ]
    if problems:
        raise PlanError(sorted(problems, key=lambda p: p.line))
    return plan


def _contradictions(plan: Plan) -> Iterator[tuple[yamlfile.Path, str, str]]:
    at: yamlfile.Path
    known = ", ".join(plan.tasks)
    for g, group in enumerate(plan.assignment.groups):
        for t, task in enumerate(group.tasks):
            if task not in plan.tasks:
                at = ("assignment", "groups", g, "tasks", t)
                yield at, f"no task is called {task!r}", f"Tasks here: {known}."
        if group.members is not None and group.share is not None:
            at = ("assignment", "groups", g)
            yield at, "members and share are two ways to fill a group", "Keep one of them."
    series = plan.best.metric.split("/")
    measured = series[0] in plan.tasks and len(series) in (2, 3)
    if measured and len(series) == 3:
        measured = series[1] in plan.tasks[series[0]].on
    if not measured and "best" in plan.model_fields_set:
        remedy = (
            "Write TASK/METRIC, or TASK/global/METRIC for a task that runs on the global model."
        )
        yield ("best", "metric"), f"no task measures {plan.best.metric!r}", remedy
    if plan.quorum.minimum > plan.fold.max_members:
        reason = f"{plan.quorum.minimum} is more than fold.max_members ({plan.fold.max_members})"
        yield ("quorum", "minimum"), reason, "Raise fold.max_members or lower quorum.minimum."


_EXPECTED = {
    "int_type": "int",
    "float_type": "float",
    "string_type": "str",
    "bool_type": "bool",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "tuple_type": "a list",
}


def _problems(error: ValidationError, document: yamlfile.Document) -> Iterator[Problem]:
    seen: set[tuple[int, str]] = set()
    for item in error.errors(include_url=False):
        at = tuple(part for part in item["loc"] if document.has(part))
        reason, remedy = _sentence(item, document)
        problem = Problem(
            file=document.file,
            line=document.line(at),
            path=_dotted(at),
            reason=reason,
            remedy=remedy,
        )
        if (problem.line, problem.path) not in seen:
            seen.add((problem.line, problem.path))
            yield problem


def _sentence(item: Any, document: yamlfile.Document) -> tuple[str, str]:
    kind, value = item["type"], item["input"]
    if kind == "extra_forbidden":
        known = _keys_beside(item["loc"])
        return "unknown key", f"Keys here: {', '.join(known)}." if known else ""
    if kind == "missing":
        return "missing", "Add it."
    if kind in _EXPECTED:
        return f"expected {_EXPECTED[kind]}, got {type(value).__name__} {value!r}", ""
    if kind == "value_error":
        reason, _, remedy = str(item["ctx"]["error"]).partition(". ")
        return reason, remedy and remedy + "."
    return f"{item['msg']}, got {value!r}", ""


def _keys_beside(loc: tuple[str | int, ...]) -> list[str]:
    model: Any = Plan
    for part in loc[:-1]:
        fields = getattr(model, "model_fields", None)
        if fields is None or part not in fields:
            return []
        model = fields[part].annotation
    fields = getattr(model, "model_fields", {})
    return [field.alias or name for name, field in fields.items()]


def _dotted(at: tuple[str | int, ...]) -> str:
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in at).lstrip(".")
