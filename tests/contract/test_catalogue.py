# SPDX-License-Identifier: Apache-2.0
"""What the engine relies on, of every algorithm in the catalogue: one table, one test a promise."""

import inspect
import re
from collections.abc import Mapping

import numpy as np
import pytest

from fedclave.algorithms.catalogue import CATALOGUE, make
from fedclave.algorithms.core import Aggregate, Algorithm
from fedclave.algorithms.folds import Range, blocks_of, delta_layout
from fedclave.algorithms.servers import difference
from fedclave.errors import UserError
from fedclave.messages import Pull, Scalar
from fedclave.tensors import DTYPES, Tensors, encode, layout_of, narrow, views

BOUNDS = Range(limit=16.0, max_weight=2**10, max_members=4, fraction_bits=44)
RATES: dict[str, Mapping[str, Scalar]] = {"fedavg": {"learning_rate": 0.5}}
"""For each algorithm, settings other than its defaults."""

every_algorithm = pytest.mark.parametrize("name", CATALOGUE)
every_setting = pytest.mark.parametrize(
    ("name", "settings"),
    [(name, given) for name in CATALOGUE for given in ({}, RATES[name])],
)


def params(value: float) -> Tensors:
    """A tensor of every dtype that a model may have."""
    made = {
        code: np.full((2, 3), value).astype(dtype)
        for code, dtype in DTYPES.items()
        if code != "BF16"
    }
    return {**made, "BF16": narrow(np.full((2, 3), value, np.float32))}


def aggregate(algorithm: Algorithm, old: Tensors, new: Tensors, weights: list[int]) -> Aggregate:
    delta = {name: difference(new[name], old[name]) for name in old}
    acc = algorithm.fold.zero(delta_layout(layout_of(old)))
    for weight in weights:
        acc = algorithm.fold.add(acc, blocks_of(delta), weight)
    result: Aggregate = algorithm.fold.done(acc)
    return result


@every_algorithm
def test_it_names_the_paper_that_it_follows(name: str) -> None:
    assert re.search(r"\w+ .*\b(19|20)\d\d\b", CATALOGUE[name].paper)
    assert inspect.getdoc(CATALOGUE[name].factory)


@every_algorithm
def test_its_keywords_are_numbers_with_defaults(name: str) -> None:
    parameters = inspect.signature(CATALOGUE[name].factory).parameters
    for keyword in CATALOGUE[name].keywords:
        assert type(parameters[keyword].default) in (int, float)
        make(name, {keyword: 0.25}, BOUNDS)


@every_algorithm
@pytest.mark.parametrize("value", ["0.5", True])
def test_a_setting_that_is_no_number_is_refused(name: str, value: Scalar) -> None:
    keyword = CATALOGUE[name].keywords[0]
    with pytest.raises(UserError, match=rf"{name}\.{keyword}: expected a number"):
        make(name, {keyword: value}, BOUNDS)


@every_algorithm
def test_an_unknown_keyword_is_refused_and_the_known_ones_are_named(name: str) -> None:
    with pytest.raises(UserError, match=f"no 'speed'.*{CATALOGUE[name].keywords[0]}"):
        make(name, {"speed": 1.0}, BOUNDS)


def test_an_unknown_algorithm_is_refused_and_the_known_ones_are_named() -> None:
    with pytest.raises(UserError, match=f"'fedsgd'.*{', '.join(CATALOGUE)}"):
        make("fedsgd", {}, BOUNDS)


@every_setting
def test_a_step_keeps_names_shapes_and_dtypes(name: str, settings: Mapping[str, Scalar]) -> None:
    algorithm = make(name, settings, BOUNDS)
    old, new = params(1), params(0)
    moved, _ = algorithm.step(old, algorithm.init(old), aggregate(algorithm, old, new, [1, 5]))
    assert layout_of(moved) == layout_of(old)


@every_setting
def test_a_step_is_pure(name: str, settings: Mapping[str, Scalar]) -> None:
    algorithm = make(name, settings, BOUNDS)
    old, state = params(1), algorithm.init(params(1))
    before = encode(old), encode(state)
    for tensor in (*old.values(), *state.values()):
        tensor.flags.writeable = False  # to write into what was given would raise
    outcomes = [
        algorithm.step(old, state, aggregate(algorithm, old, params(0), [3])) for _ in range(2)
    ]
    assert (encode(old), encode(state)) == before
    assert len({(encode(moved), encode(kept)) for moved, kept in outcomes}) == 1


@every_setting
def test_a_run_goes_on_from_a_checkpoint_as_if_it_had_not_stopped(
    name: str, settings: Mapping[str, Scalar]
) -> None:
    algorithm = make(name, settings, BOUNDS)
    goals = [params(0), params(1), params(3)]
    straight = stopped = (params(1), algorithm.init(params(1)))
    for goal in goals:
        straight = algorithm.step(*straight, aggregate(algorithm, straight[0], goal, [2, 3]))
        restored = tuple(views(encode(tensors)) for tensors in stopped)
        fresh = make(name, settings, BOUNDS)
        stopped = fresh.step(*restored, aggregate(fresh, restored[0], goal, [2, 3]))
    assert [encode(t) for t in stopped] == [encode(t) for t in straight]


@every_setting
def test_members_that_change_nothing_leave_the_model_where_it_is(
    name: str, settings: Mapping[str, Scalar]
) -> None:
    algorithm = make(name, settings, BOUNDS)
    old = params(1)
    moved, _ = algorithm.step(old, algorithm.init(old), aggregate(algorithm, old, old, [1, 9]))
    assert encode(moved) == encode(old)


@every_setting
def test_a_step_goes_towards_the_members(name: str, settings: Mapping[str, Scalar]) -> None:
    algorithm = make(name, settings, BOUNDS)
    old, new = params(1), params(3)
    moved, _ = algorithm.step(old, algorithm.init(old), aggregate(algorithm, old, new, [1, 1]))
    for code in ("F64", "F32", "F16"):
        assert (moved[code] > old[code]).all()


@every_algorithm
def test_the_order_and_grouping_of_members_is_no_part_of_a_linear_fold(name: str) -> None:
    fold = make(name, {}, BOUNDS).fold
    assert fold.linear
    generator = np.random.default_rng(1)
    updates = [({"w": generator.normal(size=7)}, weight) for weight in (1, 20, 300)]
    zero = layout_of(updates[0][0])

    def total(chosen: list[tuple[Tensors, int]]) -> object:
        acc = fold.zero(zero)
        for delta, weight in chosen:
            acc = fold.add(acc, blocks_of(delta), weight)
        return acc

    flat = encode(fold.done(total(updates)).mean)
    assert encode(fold.done(total(updates[::-1])).mean) == flat
    assert encode(fold.done(fold.merge(total(updates[:1]), total(updates[1:]))).mean) == flat
    acc = fold.subtract(total([*updates, updates[0]]), blocks_of(updates[0][0]), updates[0][1])
    assert encode(fold.done(acc).mean) == flat


@every_algorithm
def test_what_it_adds_to_local_gradients_fits_the_model(name: str) -> None:
    pull = make(name, {}, BOUNDS).begin(params(1))
    assert isinstance(pull, Pull)
    for part in (pull.scale, pull.shift):
        if isinstance(part, Mapping):
            assert {n: part[n].shape for n in part}.items() <= {
                n: p.shape for n, p in params(1).items()
            }.items()
