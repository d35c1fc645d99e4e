# SPDX-License-Identifier: Apache-2.0
"""Laws of the exact fold: order-free, invertible, mergeable, within its stated error, bounded."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tests.support.local import Federation, Quadratic, bounds, plan

from fedclave.algorithms.core import Aggregate, Blocks
from fedclave.algorithms.folds import (
    Range,
    Sum,
    blocks_of,
    check_values,
    check_weight,
    delta_layout,
    exact_mean,
)
from fedclave.algorithms.servers import difference, fedavg, move
from fedclave.errors import Code, Refused
from fedclave.plan import FoldPart
from fedclave.tensors import BFLOAT16, Tensors, layout_of, narrow, widen


def range_of(limit: float, max_weight: int, max_members: int) -> Range:
    part = FoldPart(limit=limit, max_weight=max_weight, max_members=max_members)
    return Range(
        limit=part.limit,
        max_weight=part.max_weight,
        max_members=part.max_members,
        fraction_bits=part.fraction_bits,
    )


BOUNDS = range_of(8.0, 1000, 6)
FOLD = exact_mean(BOUNDS)
SHAPES: dict[str, tuple[type, tuple[int, ...]]] = {
    "single": (np.float32, (2, 3)),
    "double": (np.float64, ()),
    "whole": (np.int64, (3,)),
    "flags": (np.int8, (2,)),
    "nothing": (np.float32, (0, 4)),
}
ELEMENTS = {
    np.float32: st.floats(-8.0, 8.0, width=32),
    np.float64: st.floats(-8.0, 8.0),
    np.int64: st.integers(-(2**40), 2**40),
    np.int8: st.integers(-1, 1),
}
Update = tuple[dict[str, Any], int]
tensors = st.fixed_dictionaries(
    {
        name: hnp.arrays(dtype, shape, elements=ELEMENTS[dtype])
        for name, (dtype, shape) in SHAPES.items()
    }
)
updates = st.lists(st.tuples(tensors, st.integers(1, 1000)), min_size=1, max_size=6)


def folded(items: list[Update], block: int = 2**16) -> Sum:
    acc = FOLD.zero(layout_of(items[0][0]))
    for delta, weight in items:
        acc = FOLD.add(acc, blocks_of(delta, block), weight)
    return acc


def bits(acc: Sum) -> tuple[dict[str, bytes], int, int]:
    return {name: s.tobytes() for name, s in acc.sums.items()}, acc.weight, acc.count


def same(left: Aggregate, right: Aggregate) -> bool:
    equal = {n: a.tobytes() for n, a in left.mean.items()} == {
        n: a.tobytes() for n, a in right.mean.items()
    }
    return equal and (left.weight, left.count) == (right.weight, right.count)


USUAL = range_of(256.0, 2**20, 256)
HALVES = st.integers(-(2**24) + 1, 2**24 - 1).map(lambda n: n * 2.0**-27)  # q = n / 2 for weight 1


@given(
    hnp.arrays(np.float32, 5, elements=st.floats(-256.0, 256.0, width=32) | HALVES),
    st.integers(1, 2**20) | st.sampled_from([1, 2**17 - 1, 2**17, 2**17 + 1, 2**20]),
    st.sampled_from([1, -1]),
)
def test_each_product_is_rounded_half_to_even_whatever_the_weight(
    delta: Any, weight: int, sign: int
) -> None:
    """Weights below 2**17 are rounded in another way than those above, to the same integers."""
    fold = exact_mean(USUAL)
    take = fold.add if sign > 0 else fold.subtract
    acc = take(fold.zero(layout_of({"w": delta})), blocks_of({"w": delta}), weight)
    products = [Fraction(float(x)) * weight * 2**USUAL.fraction_bits for x in delta]
    assert acc.sums["w"].tolist() == [sign * round(product) for product in products]


@given(updates, st.randoms(use_true_random=False), st.integers(1, 7))
def test_neither_order_nor_block_size_changes_a_bit(
    items: list[Update], random: Any, block: int
) -> None:
    shuffled = random.sample(items, len(items))
    assert bits(folded(shuffled, block)) == bits(folded(items))
    assert same(FOLD.done(folded(shuffled, block)), FOLD.done(folded(items)))


@given(updates, st.data())
def test_subtract_undoes_add_exactly(items: list[Update], data: st.DataObject) -> None:
    acc = folded(items)
    gone = data.draw(st.permutations(items))
    for left in range(len(gone), 0, -1):
        delta, weight = gone[left - 1]
        acc = FOLD.subtract(acc, blocks_of(delta), weight)
        if left > 1:
            assert bits(acc) == bits(folded(gone[: left - 1]))
    assert bits(acc) == bits(FOLD.zero(layout_of(items[0][0])))


@given(updates, st.data())
def test_any_tree_of_partial_sums_is_the_flat_sum(items: list[Update], data: st.DataObject) -> None:
    partial = [folded([item]) for item in items]
    while len(partial) > 1:
        right = partial.pop(data.draw(st.integers(0, len(partial) - 1)))
        left = partial.pop(data.draw(st.integers(0, len(partial) - 1)))
        partial.append(FOLD.merge(left, right))
    assert bits(partial[0]) == bits(folded(items))


@given(updates)
def test_the_mean_agrees_with_rational_arithmetic_within_the_stated_error(
    items: list[Update],
) -> None:
    mean = FOLD.done(folded(items)).mean
    total = sum(weight for _, weight in items)
    for name in ("single", "double"):
        own = Fraction(2) ** (-24 if name == "single" else -53)
        for at, got in enumerate(mean[name].reshape(-1)):
            terms = [Fraction(float(d[name].reshape(-1)[at])) * w for d, w in items]
            exact = sum(terms) / total
            rounding = Fraction(len(items), 2 ** (BOUNDS.fraction_bits + 1)) / total
            if name == "double":  # x * w * 2**f of a float64 is rounded once
                rounding += sum(abs(t) for t in terms) / total / 2**53
            rounding += abs(exact) * (own + Fraction(1, 2**51)) + Fraction(1, 2**149)
            assert abs(Fraction(float(got)) - exact) <= rounding


@given(updates)
def test_means_of_integers_are_exact_and_round_half_to_even(items: list[Update]) -> None:
    mean = FOLD.done(folded(items)).mean
    total = sum(weight for _, weight in items)
    for name in ("whole", "flags"):
        sums = [sum(int(d[name][at]) * w for d, w in items) for at in range(SHAPES[name][1][0])]
        assert mean[name].tolist() == [round(Fraction(s, total)) for s in sums]


@pytest.mark.parametrize("sign", [1, -1])
@given(
    limit=st.floats(2.0**-10, 2.0**12),
    max_weight=st.integers(1, 2**12),
    max_members=st.integers(1, 12),
)
def test_nothing_wraps_when_all_are_at_the_limit(
    sign: int, limit: float, max_weight: int, max_members: int
) -> None:
    edge = range_of(limit, max_weight, max_members)
    whole = edge.integer_limit
    delta = {"x": np.array([sign * limit] * 2), "n": np.array([sign * whole] * 2)}
    check_values(blocks_of(delta), edge)
    fold = exact_mean(edge)
    acc = fold.zero(layout_of(delta))
    for _ in range(max_members):
        acc = fold.add(acc, blocks_of(delta), max_weight)
    one = round(Fraction(limit) * max_weight * 2**edge.fraction_bits)
    assert abs(int(acc.sums["x"][0])) <= 2**62 + max_members  # the bound that the docstring proves
    assert int(acc.sums["x"][0]) == pytest.approx(
        sign * one * max_members,
        rel=2**-52,
        abs=max_members,  # the product is rounded, then the sum
    )
    assert acc.sums["n"].tolist() == [sign * whole * max_weight * max_members] * 2
    mean = fold.done(acc).mean
    assert mean["x"].tolist() == pytest.approx([sign * limit] * 2, rel=2**-50)
    assert mean["n"].tolist() == [sign * whole] * 2


@given(st.floats(2.0**-10, 2.0**40), st.integers(1, 2**40), st.integers(1, 2**20))
def test_the_plan_leaves_room_for_the_largest_sum(
    limit: float, max_weight: int, max_members: int
) -> None:
    try:
        edge = range_of(limit, max_weight, max_members)
    except ValueError:
        assume(False)
    largest = max_members * (Fraction(limit) * max_weight * 2**edge.fraction_bits + Fraction(1, 2))
    assert largest < 2**63
    assert edge.integer_limit * max_weight * max_members < 2**63


HOSTILE = {
    "nan": (np.nan, Code.NOT_FINITE),
    "inf": (np.inf, Code.NOT_FINITE),
    "minus-inf": (-np.inf, Code.NOT_FINITE),
    "too-large": (8.001, Code.OUT_OF_RANGE),
    "too-small": (-8.001, Code.OUT_OF_RANGE),
    "largest": (3e38, Code.OUT_OF_RANGE),
}


@pytest.mark.parametrize("name", HOSTILE)
@given(
    dtype=st.sampled_from([np.float32, np.float64]),
    size=st.integers(1, 40),
    block=st.integers(1, 40),
    data=st.data(),
)
def test_a_hostile_value_is_refused_wherever_it_is(
    name: str, dtype: type, size: int, block: int, data: st.DataObject
) -> None:
    value, code = HOSTILE[name]
    delta = {"ok": np.full(3, 8, dtype), "w": np.full(size, data.draw(st.floats(-8, 8)), dtype)}
    delta["w"][data.draw(st.integers(0, size - 1))] = value
    with pytest.raises(Refused) as refused:
        check_values(blocks_of(delta, block), BOUNDS)
    assert refused.value.code is code
    assert "'w'" in refused.value.message


def test_a_refusal_names_the_element_in_the_whole_tensor() -> None:
    delta = {"w": np.zeros(10)}
    delta["w"][7] = np.nan
    with pytest.raises(Refused, match="element 7"):
        check_values(blocks_of(delta, 4), BOUNDS)


@pytest.mark.parametrize("value", [BOUNDS.integer_limit + 1, -BOUNDS.integer_limit - 1, -(2**63)])
@pytest.mark.parametrize("at", [0, 3, 9])
def test_an_integer_out_of_range_is_refused(value: int, at: int) -> None:
    delta = {"n": np.zeros(10, np.int64)}
    delta["n"][at] = value
    with pytest.raises(Refused) as refused:
        check_values(blocks_of(delta, 4), BOUNDS)
    assert refused.value.code is Code.OUT_OF_RANGE


@pytest.mark.parametrize("limit", [8.0, 1e-3, 2.0**-60, 1e-23, 1e-200])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_limit_itself_passes_and_the_next_number_does_not(limit: float, dtype: type) -> None:
    edge = range_of(limit, 10, 2)
    inside = np.nextafter(dtype(limit), dtype(0))
    outside = max(np.nextafter(dtype(limit), dtype(np.inf)), dtype(limit * 1.001))
    for sign in (1, -1):
        check_values(blocks_of({"w": np.full(70, sign * inside, dtype)}), edge)
        with pytest.raises(Refused, match="out-of-range"):
            check_values(blocks_of({"w": np.full(1, sign * outside, dtype)}), edge)


@pytest.mark.parametrize("weight", [0, -1, 1001, 2**70, True, 1.0, "4", None, np.int64(4)])
def test_a_weight_that_is_no_number_of_examples_is_refused(weight: Any) -> None:
    with pytest.raises(Refused) as refused:
        check_weight(weight, BOUNDS)
    assert refused.value.code is Code.BAD_WEIGHT


@pytest.mark.parametrize("weight", [1, 1000])
def test_weights_within_the_bounds_pass(weight: int) -> None:
    check_weight(weight, BOUNDS)


DTYPES = ["f2", "f4", "f8", "i1", "u1", "i4", "u4", "i8", "u8", "?"]


@st.composite
def two_models(draw: st.DrawFn) -> tuple[Any, Any]:
    """(old, new) of one dtype, as near to each other as updates must be."""
    code = draw(st.sampled_from([*DTYPES, "bf16"]))
    if code == "bf16":
        wide = hnp.arrays("f4", 5, elements=st.floats(-100, 100, width=32))
        return narrow(draw(wide)), narrow(draw(wide))
    dtype = np.dtype(code)
    if dtype.kind == "f":
        width: Any = 8 * dtype.itemsize
        elements: st.SearchStrategy[Any] = st.floats(-100, 100, width=width)
    elif code == "?":
        elements = st.booleans()
    else:
        elements = st.integers(int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    arrays = hnp.arrays(dtype, 5, elements=elements)
    return draw(arrays), draw(arrays)


@given(two_models())
def test_move_goes_where_difference_says(models: tuple[Any, Any]) -> None:
    old, new = models
    change = difference(new, old)
    assert layout_of({"w": change}) == delta_layout(layout_of({"w": old}))
    moved = move(old, change)
    assert (moved.dtype, moved.shape) == (old.dtype, old.shape)
    if old.dtype == BFLOAT16:
        np.testing.assert_allclose(widen(moved), widen(new), rtol=2**-8, atol=1e-4)
    elif old.dtype.kind == "f":
        np.testing.assert_allclose(moved, new, rtol=0, atol=100 * 2 * np.finfo(old.dtype).eps)
    else:
        assert moved.tolist() == new.tolist()


@given(two_models())
def test_one_member_alone_gets_its_own_integers_back(models: tuple[Any, Any]) -> None:
    old, new = models
    change = difference(new, old)
    assume(old.dtype != BFLOAT16 and old.dtype.kind != "f")
    assume(old.dtype.itemsize < 8)  # others may change by more than the bounds allow
    acc = FOLD.add(FOLD.zero(layout_of({"w": change})), blocks_of({"w": change}), 17)
    assert move(old, FOLD.done(acc).mean["w"]).tolist() == new.tolist()


def test_two_of_three_decide_on_a_bool() -> None:
    masks = [np.array([True, False]), np.array([True, True]), np.array([False, True])]
    old = np.array([False, True])
    acc = FOLD.zero(layout_of({"m": difference(masks[0], old)}))
    for mask in masks:
        acc = FOLD.add(acc, blocks_of({"m": difference(mask, old)}), 1)
    assert move(old, FOLD.done(acc).mean["m"]).tolist() == [True, True]


def test_the_learning_rate_scales_floats_alone() -> None:
    algorithm = fedavg(BOUNDS, learning_rate=0.5)
    params: Tensors = {"w": np.float32([1.0]), "n": np.int64([3])}
    mean: Tensors = {"w": np.float32([2.0]), "n": np.int64([4])}
    aggregate = Aggregate(mean=mean, weight=1, count=1)
    moved, state = algorithm.step(params, algorithm.init(params), aggregate)
    assert moved["w"].tolist() == [2.0]
    assert moved["n"].tolist() == [7]
    assert dict(state) == {}


FINE = range_of(8.0, 16, 4)  # 53 binary places


def average(learners: list[Quadratic], rounds: int) -> float:
    """FedAvg without an engine."""
    algorithm = fedavg(FINE)
    params: Tensors = {"x": np.zeros(1)}
    for _ in range(rounds):
        acc = algorithm.fold.zero(delta_layout(layout_of(params)))
        for learner in learners:
            fit = learner.run(None, params, None)  # type: ignore[arg-type]
            assert fit.params is not None
            blocks: Blocks = blocks_of({"x": difference(fit.params["x"], params["x"])})
            acc = algorithm.fold.add(acc, blocks, learner.examples)
        params, _ = algorithm.step(params, {}, algorithm.fold.done(acc))
    return float(params["x"][0])


A, C, EXAMPLES = (1, 2, 4), (1, -2, 3), (5, 3, 2)
"""f_i = a_i/2 (x - c_i)^2, weighted by p = (.5, .3, .2)."""


def quadratics(steps: tuple[int, int, int], rate: float = 0.05) -> list[Quadratic]:
    return [Quadratic(a, c, k, rate, n) for a, c, k, n in zip(A, C, steps, EXAMPLES, strict=True)]


FIXED_POINTS = {  # sum p (1 - (1 - eta a)^K) c / sum p (1 - (1 - eta a)^K), eta = .05
    (1, 1, 1): 0.8947368421,  # the true optimum, sum p a c / sum p a
    (10, 10, 10): 0.6011873364,
    (2, 5, 20): 1.0726496629,
}


@pytest.mark.parametrize("steps", FIXED_POINTS)
def test_fedavg_ends_at_its_closed_form_fixed_point(steps: tuple[int, int, int]) -> None:
    assert round(average(quadratics(steps), 400), 10) == FIXED_POINTS[steps]


@pytest.mark.parametrize("steps", [(10, 10, 10), (2, 5, 20)])
def test_a_federation_ends_at_the_fixed_point_too(
    steps: tuple[int, int, int], tmp_path: Path
) -> None:
    fold = {"limit": 8.0, "max_weight": 16, "max_members": 4}
    tasks = {"train": {"run": "fit"}}
    agreed = plan(rounds=60, tasks=tasks, fold=fold)
    assert bounds(agreed) == FINE
    learners = dict(zip(("anna", "bernd", "carla"), quadratics(steps), strict=True))
    run = Federation(folder=tmp_path, plan=agreed, learners=learners).run()
    assert round(float(run.params["x"][0]), 10) == FIXED_POINTS[steps]


def test_one_full_batch_step_each_is_centralised_gradient_descent() -> None:
    rng = np.random.default_rng(7)
    parts = [(rng.normal(size=(n, 3)), rng.normal(size=n)) for n in (4, 9, 3)]
    x, y = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    algorithm, central, rate = fedavg(FINE), np.zeros(3), 0.1
    params: Tensors = {"w": central}
    for _ in range(50):
        acc = algorithm.fold.zero(layout_of(params))
        for own_x, own_y in parts:
            step = -rate * own_x.T @ (own_x @ params["w"] - own_y) / len(own_y)
            acc = algorithm.fold.add(acc, blocks_of({"w": step}), len(own_y))
        params, _ = algorithm.step(params, {}, algorithm.fold.done(acc))
        central = central - rate * x.T @ (x @ central - y) / len(y)
    np.testing.assert_allclose(params["w"], central, rtol=0, atol=1e-12)
