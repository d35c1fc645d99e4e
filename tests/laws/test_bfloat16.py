# SPDX-License-Identifier: Apache-2.0
"""bfloat16: widening is exact, narrowing rounds to nearest with ties to even."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedclave.tensors import BFLOAT16, Array, narrow, widen

ALL = np.arange(2**16, dtype=np.uint16).view(BFLOAT16)
FLOATS = st.lists(st.integers(0, 2**32 - 1), min_size=1).map(
    lambda words: np.array(words, np.uint32).view(np.float32)
)


def test_every_bfloat16_survives_widening_and_narrowing() -> None:
    numbers = ~np.isnan(widen(ALL))
    back = narrow(widen(ALL))
    assert np.array_equal(back[numbers], ALL[numbers])
    assert np.isnan(widen(back[~numbers])).all()


@given(FLOATS)
def test_narrowing_takes_the_nearest_and_the_even_one_of_two(given_: Array) -> None:
    for value, word in zip(given_.tolist(), narrow(given_)["bfloat16"].tolist(), strict=True):
        if np.isnan(value):
            assert np.isnan(widen(np.array([word], np.uint16).view(BFLOAT16))).all()
        else:
            assert word == nearest(value)


@given(FLOATS)
def test_torch_narrows_alike(given_: Array) -> None:
    torch = pytest.importorskip("torch")
    numbers = given_[~np.isnan(given_)].copy()
    theirs = torch.from_numpy(numbers).to(torch.bfloat16).view(torch.int16).numpy()
    assert np.array_equal(narrow(numbers)["bfloat16"], theirs.view(np.uint16))


def test_torch_widens_alike() -> None:
    torch = pytest.importorskip("torch")
    words = torch.from_numpy(np.arange(2**16, dtype=np.uint16).view(np.int16))
    theirs = words.view(torch.bfloat16).to(torch.float32).numpy()
    assert np.array_equal(widen(ALL), theirs, equal_nan=True)


def nearest(value: float) -> int:
    """The rule in exact arithmetic; infinity lies where 2**128 would (IEEE 754-2019, 4.3.1)."""
    sign = int(np.signbit(value)) << 15
    if np.isinf(value):
        return sign | 0x7F80
    size = abs(Fraction(value))
    words = range(max(0, below(size)), below(size) + 2)
    return sign | min(words, key=lambda word: (abs(magnitude(word) - size), word % 2))


def below(size: Fraction) -> int:
    """The largest finite word whose magnitude is at most ``size``."""
    return int(np.array(float(size), np.float32).view(np.uint32)) >> 16


def magnitude(word: int) -> Fraction:
    if word == 0x7F80:
        return Fraction(2**128)
    return Fraction(float(widen(np.array([word], np.uint16).view(BFLOAT16))[0]))
