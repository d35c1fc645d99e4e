# SPDX-License-Identifier: Apache-2.0
"""Inputs without a coverage-guided engine: seeds, changed in a few places. One seed, one sequence.

What is changed is what parsers get wrong: lengths, numbers at the ends of their ranges, values of
another type, parts that are missing, doubled, exchanged or of another seed.
"""

import random
from collections.abc import Callable, Iterator, Sequence

TOKENS: tuple[bytes, ...] = (
    *(b"null", b"true", b"-1", b"0", b"1e999", b"1.0", b"NaN", b'""', b"[]", b"{}", b"[[]]"),
    *(b'"\\ud800"', b'"\\u0000"', b"\xc3\xa9", b"\xff", b"9" * 20, b"9" * 5000, b"[" * 200),
    *(b"0001-01-01T00:00:00+23:59", b"9999-12-31T23:59:59-23:59", b"9999-12-31T23:59:59Z"),
    *(b"\x00\x00", b"\xff\xff", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff\xff\xff\xff\xff"),
    *(b"\x30\x80", b"\x05\x00", b"\x02\x01\x05", b"\x06\x00", b"\xa3\x00", b"\x04\x84\x7f\xff"),
    *(b"\xd9\xea\x60", b"\x9f", b"\xbf", b"\x5b\x7f\xff\xff\xff\xff\xff\xff\xff", b"\x81" * 64),
    *(b"-----BEGIN CERTIFICATE-----\n", b"-----END CERTIFICATE-----\n", b"\n\n", b"\xe2\x80\x94 "),
)
"""What formats here turn on; also the dictionary of a coverage-guided engine."""

MOST = 2**16  # bytes of an input that grew


def inputs(seeds: Sequence[bytes], seed: str, number: int) -> Iterator[bytes]:
    """So many inputs: the seeds themselves, then changed ones."""
    rng = random.Random(seed)
    yield from seeds[:number]
    for _ in range(number - len(seeds)):
        data = rng.choice(seeds)
        for _ in range(rng.choice((1, 1, 1, 2, 3, 5))):
            data = rng.choice(_CHANGES)(rng, data, seeds)[:MOST]
        yield data


def _span(rng: random.Random, data: bytes, most: int = 64) -> tuple[int, int]:
    start = rng.randint(0, len(data))
    return start, min(len(data), start + rng.randint(1, most))


def _flip(rng: random.Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    if not data:
        return b"\0"
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def _set(rng: random.Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    at = rng.randint(0, len(data))
    value = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    return data[:at] + bytes([value]) + data[at + 1 :]


def _remove(rng: random.Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    start, end = _span(rng, data)
    return data[:start] + data[end:]


def _double(rng: random.Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    start, end = _span(rng, data, 512)
    return data[:end] + data[start:end] + data[end:]


def _exchange(rng: random.Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    other = rng.choice(seeds)
    start, end = _span(rng, data, 512)
    first, last = _span(rng, other, 512)
    return data[:start] + other[first:last] + data[end:]


def _insert(rng: random.Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    start, end = _span(rng, data, 32)
    return data[:start] + rng.choice(TOKENS) + data[rng.choice((start, end)) :]


def _value(rng: random.Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    """Another value in place of one in JSON: between a colon or comma and what ends it."""
    starts = [at + 1 for at, byte in enumerate(data[:MOST]) if byte in b":,["]
    if not starts:
        return _insert(rng, data, seeds)
    start = rng.choice(starts)
    ends = [at for one in b",}]" if (at := data.find(one, start)) >= 0]
    return data[:start] + rng.choice(TOKENS) + data[min(ends, default=len(data)) :]


def _number(rng: random.Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    """A number of 1 to 4 bytes, in either order, that is a little or much larger or smaller."""
    size = rng.choice((1, 2, 3, 4))
    if len(data) < size:
        return data
    at, order = rng.randint(0, len(data) - size), rng.choice(("little", "big"))
    step = rng.choice((-256, -2, -1, 1, 2, 256, 2**15))
    changed = (int.from_bytes(data[at : at + size], order) + step) % 256**size  # type: ignore[arg-type]
    return data[:at] + changed.to_bytes(size, order) + data[at + size :]  # type: ignore[arg-type]


def _cut(rng: random.Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    return data[: rng.randint(0, len(data))]


_CHANGES: tuple[Callable[[random.Random, bytes, Sequence[bytes]], bytes], ...] = (
    *(_flip, _set, _remove, _double, _exchange, _insert, _value, _number, _cut),
    *(_flip, _set, _value, _number),
)
