# SPDX-License-Identifier: Apache-2.0
"""One value has one encoding; everything else is refused."""

from typing import Any

import numpy as np
import pytest

from fedclave import canonical
from fedclave.errors import Code, Refused

DIGEST_OF_ONE = "a6d224c78bca26c91fdae9bf588cfbd564e2b5a64d77b4187468777d16011e93"


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (None, "null"),
        ([1, 1.0, -0.0, 1e22, 1e-7], "[1,1.0,-0.0,1e+22,1e-07]"),
        ({"b": 1, "a": 2, "B": 3}, '{"B":3,"a":2,"b":1}'),
        ((True, "é\n\x7f"), '[true,"é\\n\x7f"]'),
        ({"": {}}, '{"":{}}'),
        (2**64, "18446744073709551616"),
    ],
)
def test_values_have_these_bytes(value: Any, encoded: str) -> None:
    assert canonical.encode(value) == encoded.encode()


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), {1: 2}, b"bytes", {1, 2}, object(), np.int64(3), "\ud800"],
    ids=lambda value: type(value).__name__,
)
def test_values_without_an_encoding_are_errors(value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        canonical.encode([value])


def test_a_value_that_contains_itself_is_an_error() -> None:
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(ValueError, match="nested too deeply"):
        canonical.encode(circle)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b'{"a":1} ',
        b'{"a": 1}',
        b'{"b":1,"a":2}',
        b'{"a":1,"a":1}',
        b"1e5",
        b"1.00",
        b"-0",
        b"NaN",
        b"1e999",
        b'"\\u00e9"',
        b'"\\ud800"',
        b"\xff",
        b"\xef\xbb\xbf1",
        '"a"'.encode("utf-16"),
        b"9" * 5000,
        b"[" * 100_000,
        b'{"a":' * 100_000,
    ],
    ids=lambda data: repr(data[:16]),
)
def test_other_bytes_are_refused_as_malformed(data: bytes) -> None:
    with pytest.raises(Refused) as caught:
        canonical.decode(data)
    assert caught.value.code is Code.MALFORMED


def test_digests_of_two_kinds_differ_for_one_value() -> None:
    assert canonical.digest("plan", 1) != canonical.digest("request", 1)
    # sha256(b"fedclave/plan\0" + b"1"), by coreutils' sha256sum
    assert canonical.digest("plan", 1) == DIGEST_OF_ONE


def test_seeds_differ_by_label_and_by_position() -> None:
    seeds = {canonical.derive_seed(7, *labels) for labels in (("a", "b"), ("b", "a"), ("ab",), ())}
    assert len(seeds) == 4
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert canonical.derive_seed(7, 1) != canonical.derive_seed(7, "1")
