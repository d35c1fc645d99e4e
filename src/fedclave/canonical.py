# SPDX-License-Identifier: Apache-2.0
"""Canonical bytes: one value has one encoding, so a digest means the value.

JSON in the manner of RFC 8785: keys sorted, no white space, UTF-8, shortest round-trip floats, no
NaN or infinity, no duplicate keys. Two differences, both to stricter or simpler rules: keys sort by
code point, and integers are written in full (a float keeps its point: ``1.0`` is not ``1``).
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from fedclave.errors import Code, Refused

Value = Any
"""None, bool, int, finite float, str, or a list, tuple or str-keyed mapping of them."""


def encode(value: Value) -> bytes:
    """The canonical bytes of a value. Raises ``TypeError`` or ``ValueError`` on anything else.

    >>> encode({"b": 1.0, "a": [True, None, "é"]}).decode()
    '{"a":[true,null,"é"],"b":1.0}'
    """
    try:
        plain = _checked(value)
        text = json.dumps(
            plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        )
    except RecursionError as error:
        raise ValueError("canonical bytes: nested too deeply") from error
    return text.encode()


def decode(data: bytes) -> Value:
    """Parse bytes that ``encode`` made; anything else, even equivalent JSON, is refused."""
    try:
        value = json.loads(data)
        canonical = encode(value)
    except (ValueError, TypeError, RecursionError) as error:
        raise Refused(Code.MALFORMED, f"not canonical JSON: {error}") from error
    if canonical != data:
        raise Refused(Code.MALFORMED, "JSON is not in canonical form")
    return value


def digest(kind: str, value: Value) -> str:
    """SHA-256 (hex) of a value under a domain: no value of one kind stands for another's."""
    return hashlib.sha256(b"fedclave/" + kind.encode() + b"\0" + encode(value)).hexdigest()


def derive_seed(seed: int, *labels: str | int) -> int:
    """A 63-bit seed for one use, from the plan's seed and what the use is called.

    Not for secrets. Different labels give independent seeds; the same labels give the same seed, on
    any machine.

    >>> derive_seed(7, "train", 3, "alice") == derive_seed(7, "train", 3, "alice")
    True
    """
    return int(digest("seed", [seed, *labels])[:16], 16) >> 1


def _checked(value: Value) -> Value:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise TypeError("canonical bytes: mapping keys must be strings")
        return {key: _checked(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        return [_checked(item) for item in value]
    raise TypeError(f"canonical bytes: no encoding for {type(value).__name__}")
