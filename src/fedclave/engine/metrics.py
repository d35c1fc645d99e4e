# SPDX-License-Identifier: Apache-2.0
"""Steps of a round and what they measure.

A task of the plan becomes steps: ``validate`` with ``on: [global, local]`` is ``validate/global``
(before training, on the model that was sent) and ``validate/local`` (after it); a task without
``on`` trains and is a step of its own name. A metric is called ``STEP/NAME``.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import isfinite

from fedclave.errors import Code, Refused
from fedclave.messages import Measurement
from fedclave.plan import Plan

MAX_METRICS = 64  # of one step
MAX_EXAMPLES = 2**53
MAX_NAME = 64  # characters of a metric's name


def steps(plan: Plan, tasks: Sequence[str]) -> tuple[str, ...]:
    """The steps of these tasks in the order of work: global measures, training, local measures."""
    parts = [(name, plan.tasks[name].on) for name in tasks]
    before = [f"{name}/global" for name, on in parts if "global" in on]
    train = [name for name, on in parts if not on]
    after = [f"{name}/local" for name, on in parts if "local" in on]
    return (*before, *train, *after)


def trains(step: str) -> bool:
    """Whether a step gives an update."""
    return "/" not in step


def measures_global(plan: Plan) -> bool:
    """Whether any task measures the global model."""
    return any("global" in task.on for task in plan.tasks.values())


def check(measurements: Sequence[Measurement], asked: Sequence[str]) -> None:
    """Raise ``Refused`` unless these are finite figures for steps that were asked, each once."""
    series = [m.series for m in measurements]
    if len(set(series)) != len(series) or not set(series) <= set(asked):
        raise Refused(Code.MALFORMED, f"measurements of {series}, asked for {list(asked)}")
    for m in measurements:
        if not 0 <= m.examples <= MAX_EXAMPLES or len(m.values) > MAX_METRICS:
            raise Refused(Code.MALFORMED, f"{m.series}: too many examples or metrics")
        for name, value in m.values.items():
            if not name or "/" in name or len(name) > MAX_NAME or not name.isprintable():
                raise Refused(Code.MALFORMED, f"{m.series}: {name[:MAX_NAME]!r} names no metric")
            if not isfinite(value):
                raise Refused(Code.NOT_FINITE, f"metric {m.series}/{name} is {value}")


def flat(measurements: Sequence[Measurement]) -> dict[str, float]:
    """STEP/NAME -> value."""
    return {f"{m.series}/{name}": v for m in measurements for name, v in m.values.items()}


def mean(measured: Mapping[str, Sequence[Measurement]]) -> dict[str, float]:
    """STEP/NAME -> mean over members weighted by their examples.

    Exact, then rounded once: it does not depend on the members' order, and is finite.
    """
    sums: dict[str, Fraction] = {}
    weights: dict[str, int] = {}
    for reported in measured.values():
        for m in reported:
            for name, value in m.values.items():
                key = f"{m.series}/{name}"
                sums[key] = sums.get(key, Fraction(0)) + Fraction(value) * m.examples
                weights[key] = weights.get(key, 0) + m.examples
    return {key: float(sums[key] / weights[key]) for key in sorted(sums) if weights[key]}
