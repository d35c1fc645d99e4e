# SPDX-License-Identifier: Apache-2.0
"""Steps of a round, and means of what they measure."""

import json
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.local import plan

from fedclave.engine import metrics
from fedclave.engine.metrics import MAX_EXAMPLES
from fedclave.errors import Code, Refused
from fedclave.messages import Measurement


def measured(value: float, examples: int, series: str = "train") -> tuple[Measurement, ...]:
    return (Measurement(series=series, examples=examples, values={"loss": value}),)


def test_global_measures_come_before_training_and_local_ones_after() -> None:
    tasks: dict[str, Any] = {
        "check": {"run": "evaluate", "on": ["local", "global"]},
        "train": {"run": "fit"},
        "tune": {"run": "fit"},
        "audit": {"run": "evaluate", "on": ["global"]},
    }
    agreed = plan(tasks=tasks)
    assert metrics.steps(agreed, list(tasks)) == (
        "check/global",
        "audit/global",
        "train",
        "tune",
        "check/local",
    )
    assert metrics.measures_global(agreed)
    assert not metrics.measures_global(plan(tasks={"train": {"run": "fit"}}))


values = st.floats(allow_nan=False, allow_infinity=False)
reports = st.dictionaries(
    st.text(min_size=1), st.tuples(values, st.integers(0, MAX_EXAMPLES)), min_size=1, max_size=8
)


@given(reports, st.randoms(use_true_random=False))
def test_a_mean_is_exact_but_for_one_rounding_and_has_no_order(
    given_: dict[str, tuple[float, int]], random: Any
) -> None:
    reported = {name: measured(*item) for name, item in given_.items()}
    shuffled = dict(random.sample(list(reported.items()), len(reported)))
    mean = metrics.mean(reported)
    assert metrics.mean(shuffled) == mean
    total = sum(n for _, n in given_.values())
    if total:
        exact = sum(Fraction(v) * n for v, n in given_.values()) / total
        assert mean == {"train/loss": float(exact)}
        assert min(v for v, n in given_.values() if n) <= mean["train/loss"]
        assert mean["train/loss"] <= max(v for v, n in given_.values() if n)
    else:
        assert mean == {}


def test_a_huge_measure_does_not_make_the_mean_infinite() -> None:
    reported = {name: measured(1.7e308, MAX_EXAMPLES) for name in ("anna", "bernd")}
    mean = metrics.mean(reported)
    assert mean == {"train/loss": 1.7e308}
    json.dumps(mean, allow_nan=False)


def test_members_that_did_not_measure_do_not_count() -> None:
    reported = {"anna": measured(1.0, 3), "bernd": (), "carla": measured(2.0, 1, "validate/local")}
    assert metrics.mean(reported) == {"train/loss": 1.0, "validate/local/loss": 2.0}


def test_what_was_asked_and_is_finite_passes() -> None:
    metrics.check(measured(1.0, 0), ["train", "validate/global"])
    metrics.check((), ["train"])


@pytest.mark.parametrize(
    ("given_", "code"),
    [
        (measured(float("nan"), 1), Code.NOT_FINITE),
        (measured(1.0, MAX_EXAMPLES + 1), Code.MALFORMED),
        (measured(1.0, 1, "validate/global"), Code.MALFORMED),
        (measured(1.0, 1) * 2, Code.MALFORMED),
    ],
)
def test_what_was_not_asked_or_is_no_figure_is_refused(
    given_: tuple[Measurement, ...], code: Code
) -> None:
    with pytest.raises(Refused) as refused:
        metrics.check(given_, ["train"])
    assert refused.value.code is code
