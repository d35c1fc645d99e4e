# SPDX-License-Identifier: Apache-2.0
"""Folds of updates. ``exact_mean`` is an integer sum: no order, exactly invertible, mergeable.

An element x of an update with weight w becomes q = rint(x * w * 2**f), a 64-bit integer, and q is
summed modulo 2**64. With |x| <= limit, w <= max_weight and at most max_members updates, and
f = 62 - ceil(log2(limit * max_weight * max_members)), the true sum stays below 2**62 + n/2, so
nothing wraps; what lies outside the bounds is refused before it is folded. The mean is off by at
most 2**-(f+1) * n / sum(w) before its own rounding. Integer and bool tensors are summed as they are
(f = 0, |x| <= 2**62 / (max_weight * max_members)).

The product x * w * 2**f is exact for float32 x and w < 2**29: 24 + 29 bits fit a float64's 53. Any
other is rounded once, the same on every machine (IEEE 754 multiplication and rint are correctly
rounded), which adds at most 2**-53 * sum(|x| * w) / sum(w).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fedclave.algorithms.core import Aggregate, Blocks, Fold
from fedclave.errors import Code, Refused
from fedclave.tensors import DTYPES, Array, Layout, Tensors, layout

_TINY = 2.0**-60
_SHIFT = np.float64(1.5 * 2**52)
_SHIFT_BITS = _SHIFT.view(np.int64)
BLOCK = 2**16  # elements: the working set of one step stays in the L2 cache
_DELTA = {"F64": "F64", "BOOL": "I8", **dict.fromkeys(("F32", "F16", "BF16"), "F32")}


@dataclass(frozen=True, kw_only=True)
class Range:
    """The plan's bounds on one federation's sum (``fold`` in the plan)."""

    limit: float
    max_weight: int
    max_members: int
    fraction_bits: int

    @property
    def integer_limit(self) -> int:
        """Largest magnitude of an element of an integer tensor."""
        return 2**62 // (self.max_weight * self.max_members)


@dataclass
class Sum:
    """The accumulator of ``exact_mean``: 8 bytes an element, whatever the number of updates."""

    sums: dict[str, Array]
    layout: Layout
    weight: int = 0
    count: int = 0


def delta_layout(params: Layout) -> Layout:
    """The layout of an update to these params.

    float16, bfloat16 and float32 travel as float32, float64 as float64, integers as int64, bool as
    int8 (-1, 0, 1).
    """
    return layout({e.name: (_DELTA.get(e.dtype, "I64"), e.shape) for e in params.entries})


def exact_mean(bounds: Range) -> Fold:
    """Mean weighted by examples (FedAvg: McMahan et al. 2017, alg. 1), as an exact integer sum."""

    def add(acc: Sum, blocks: Blocks, weight: int, sign: int = 1) -> Sum:
        _accumulate(acc, blocks, sign * weight, bounds)
        acc.weight += sign * weight
        acc.count += sign
        return acc

    return Fold(
        zero=_zero,
        add=add,
        subtract=lambda acc, blocks, weight: add(acc, blocks, weight, -1),
        merge=_merge,
        done=lambda acc: _done(acc, bounds.fraction_bits),
        linear=True,
    )


def check_weight(weight: int, bounds: Range) -> None:
    """Raise ``Refused(BAD_WEIGHT)`` unless 1 <= weight <= max_weight."""
    if type(weight) is not int or not 1 <= weight <= bounds.max_weight:
        remedy = "Weights are numbers of examples; fold.max_weight in the plan bounds them"
        raise Refused(
            Code.BAD_WEIGHT, f"weight {weight} is not in 1..{bounds.max_weight}. {remedy}"
        )


def check_values(blocks: Blocks, bounds: Range) -> None:
    """Raise ``Refused`` unless every element is finite and within its limit."""
    for name, start, block in blocks:
        if block.dtype.kind == "f":
            _check_floats(name, start, block, bounds.limit)
        elif block.size and max(int(block.max()), -int(block.min())) > bounds.integer_limit:
            raise Refused(
                Code.OUT_OF_RANGE, f"tensor {name!r} changes by more than {bounds.integer_limit}"
            )


def blocks_of(tensors: Tensors, count: int = BLOCK) -> Iterator[tuple[str, int, Array]]:
    """The tensors in flat blocks of ``count`` elements."""
    for name, tensor in tensors.items():
        flat = tensor.reshape(-1)
        for at in range(0, flat.size, count):
            yield name, at, flat[at : at + count]


def _zero(update: Layout) -> Sum:
    return Sum({e.name: np.zeros(e.count, np.int64) for e in update.entries}, update)


def _accumulate(acc: Sum, blocks: Blocks, weight: int, bounds: Range) -> None:
    scale = float(weight) * 2.0**bounds.fraction_bits
    rounded = _rounded_by_adding if bounds.limit * abs(scale) < 2.0**51 else _rounded_by_rint
    scratch = np.empty(BLOCK)
    for name, start, long in blocks:
        into = acc.sums[name]
        for at in range(0, long.size, BLOCK):
            block = long[at : at + BLOCK]
            work = scratch[: block.size]
            if block.dtype.kind == "f":
                np.copyto(work, block)
                work *= scale
                whole = rounded(work)
            else:
                whole = np.multiply(block, weight, out=work.view(np.int64), dtype=np.int64)
            into[start + at : start + at + block.size] += whole


def _rounded_by_adding(values: Array) -> Array:
    """``rint`` to int64, in place, of float64 values below 2**51 in magnitude.

    From 2**52 to 2**53 neighbouring float64s are 1 apart: a sum that lies there is rounded to an
    integer, half to even (IEEE 754), and its bits, less those of 1.5 * 2**52, are that integer.
    """
    values += _SHIFT
    whole: Array = values.view(np.int64)
    whole -= _SHIFT_BITS
    return whole


def _rounded_by_rint(values: Array) -> Array:
    np.rint(values, out=values)
    whole: Array = values.view(np.int64)
    np.copyto(whole, values, casting="unsafe")
    return whole


def _merge(left: Sum, right: Sum) -> Sum:
    for name, sums in left.sums.items():
        sums += right.sums[name]
    left.weight += right.weight
    left.count += right.count
    return left


def _done(acc: Sum, fraction_bits: int) -> Aggregate:
    """The mean, tensor by tensor; each sum is freed as its mean is made."""
    mean: dict[str, Array] = {}
    for entry in acc.layout.entries:
        sums = acc.sums.pop(entry.name)
        dtype = DTYPES[entry.dtype]
        if dtype.kind == "f":
            out = np.empty(entry.count, dtype)
            scale = float(acc.weight) * 2.0**fraction_bits
            for at in range(0, entry.count, BLOCK):
                out[at : at + BLOCK] = sums[at : at + BLOCK] / scale
        else:
            out = _rounded_quotient(sums, acc.weight).astype(dtype)
        mean[entry.name] = out.reshape(entry.shape)
    return Aggregate(mean=mean, weight=acc.weight, count=acc.count)


def _rounded_quotient(sums: Array, weight: int) -> Array:
    quotient = sums // weight
    twice = 2 * (sums - quotient * weight)
    up: Array = (twice > weight) | ((twice == weight) & (quotient & 1 == 1))
    result: Array = quotient + up
    return result


def _check_floats(name: str, start: int, block: Array, limit: float) -> None:
    flat = block.reshape(-1)
    # One pass decides for nearly every block: a sum of squares below limit**2 / 2 bounds each of
    # them, with room for the sum's own rounding. NaN and infinity fail the comparison. The limit's
    # own square must not be where float32 loses bits.
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        if limit > _TINY and float(np.dot(flat, flat)) <= limit * limit / 2:
            return
    finite = np.isfinite(flat)
    if not finite.all():
        at = start + int(np.argmin(finite))
        raise Refused(Code.NOT_FINITE, f"tensor {name!r}, element {at}: {flat[at - start]}")
    if (worst := float(np.abs(flat).max())) > limit:
        raise Refused(
            Code.OUT_OF_RANGE,
            f"tensor {name!r} changes by {worst:.4g}, more than fold.limit = {limit:g}. "
            "Lower the learning rate, or raise fold.limit in the plan",
        )
