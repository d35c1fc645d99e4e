# SPDX-License-Identifier: Apache-2.0
"""What the parties say to each other, and what a learner is asked and answers. Frozen data only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from fedclave.canonical import derive_seed, digest
from fedclave.errors import Code
from fedclave.tensors import Tensors

Scalar = bool | int | float | str
On = Literal["global", "local"]

WIRE_VERSIONS = (1, 2)
"""Versions of the wire protocol that this build speaks; peers take the highest that both have."""


class Pull(NamedTuple):
    """What a federated algorithm adds to each local gradient: ``scale * (w - anchor) + shift``.

    ``anchor`` is the global model that the task began from. FedProx is ``Pull(scale=mu)``.
    """

    scale: float | Tensors = 0.0
    shift: Tensors | None = None


@dataclass(frozen=True, kw_only=True)
class Task:
    """One unit of local work as a learner sees it.

    ``run`` names the learner's method; ``settings`` are the plan's keys for the task (epochs, ...);
    ``seed`` is this task's own, the same again when the task is repeated after a crash.
    """

    name: str
    run: str
    on: On | None = None
    round: int
    seed: int
    settings: Mapping[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What a learner answers: new params (None after an evaluation), examples used, metrics."""

    params: Tensors | None = None
    examples: int
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the aggregator asks one member to do in one round; the same request has the same id."""

    plan: str  # digest of the plan
    round: int
    member: str
    tasks: tuple[str, ...]
    params: str  # SHA-256 of the global model's canonical bytes
    size: int  # bytes of the same

    @property
    def id(self) -> str:
        """Digest of all of it: what makes a re-sent request idempotent."""
        return digest("request", dict(vars(self)))

    def seed(self, plan_seed: int, task: str) -> int:
        """The seed of one of its tasks."""
        return derive_seed(plan_seed, "task", task, self.round, self.member)


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Metrics of one task at one member; ``series`` is ``train``, ``validate/global``, ..."""

    series: str
    examples: int
    values: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Update:
    """What a collaborator computed, in the clear; stays local."""

    delta: Tensors
    weight: int
    measurements: tuple[Measurement, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Packet:
    """What crosses the wire of an update: content-addressed canonical bytes, and their weight."""

    digest: str
    size: int  # bytes
    weight: int


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A member's own report that it could not do what it was asked."""

    code: Code
    message: str


@dataclass(frozen=True, kw_only=True)
class Reply:
    """A member's answer to a request: a packet (if it trained) and measurements, or a failure."""

    request: str
    packet: Packet | None = None
    measurements: tuple[Measurement, ...] = ()
    failure: Failure | None = None
