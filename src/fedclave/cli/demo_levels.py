# SPDX-License-Identifier: Apache-2.0
"""What the federation's model is compared with: each party alone, and all data pooled.

Same learner, same initial weights, same tasks, same number of epochs; only nobody averages. All are
measured on the same rows, which no training sees.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fedclave.canonical import derive_seed
from fedclave.cli.demo_folders import Folders
from fedclave.learners.base import Learner, Site
from fedclave.messages import Pull, Task
from fedclave.tensors import Tensors
from fedclave.workspace import assemble
from fedclave.workspace.layout import Workspace


@dataclass(frozen=True, kw_only=True)
class Levels:
    """Accuracy without a federation."""

    alone: dict[str, float]
    pooled: float


class Measure:
    """The accuracy of a model on the rows that nobody trains on."""

    def __init__(self, folders: Folders) -> None:
        plan = folders.plan
        task, _, self._metric = plan.best.metric.split("/")
        part = plan.tasks[task]
        self._task = Task(
            name=task, run=part.run, on="global", round=0, seed=0, settings=part.settings
        )
        self._learner = _learner(folders, folders.aggregator, "test", folders.test)
        self.examples = self(self._learner.weights())[1]

    def __call__(self, params: Tensors) -> tuple[float, int]:
        """Accuracy, and of how many rows."""
        fit = self._learner.run(self._task, params, Pull())
        return float(fit.metrics[self._metric]), fit.examples


def levels(folders: Folders, measure: Measure, is_over: Callable[[], bool]) -> Levels | None:
    """Train each party alone, then the pooled data; None once it ``is_over``."""
    reached: dict[str, float] = {}
    everybody = [(name, space, folders.shard(name)) for name, space in folders.parties.items()]
    for name, workspace, data in [*everybody, ("", folders.aggregator, folders.pooled)]:
        learner = _learner(folders, workspace, name, data)
        params = learner.weights()
        for task in _tasks(folders, name):
            if is_over():
                return None
            params = learner.run(task, params, Pull()).params or params
        reached[name] = measure(params)[0]
    pooled = reached.pop("")
    return Levels(alone=reached, pooled=pooled)


def _tasks(folders: Folders, member: str) -> Iterator[Task]:
    """All training of a run, in its order, with the seeds that the member would have had."""
    plan = folders.plan
    for number in range(1, plan.rounds + 1):
        for name, part in plan.tasks.items():
            if not part.on:
                seed = derive_seed(plan.seed, "task", name, number, member)
                settings = part.settings
                yield Task(name=name, run=part.run, round=number, seed=seed, settings=settings)


def _learner(folders: Folders, workspace: Workspace, member: str, data: Path) -> Learner:
    site = Site(member=member, data=data, device="cpu", seed=folders.plan.seed)
    return assemble.learner(workspace, folders.plan, site)
