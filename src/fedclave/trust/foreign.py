# SPDX-License-Identifier: Apache-2.0
"""JSON that others wrote, read strictly: each value is fetched with the type that it must have.

What is wrong is ``Refused`` (``ATT-COLLATERAL``), and the message names the document and the path.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NoReturn, Self, TypeVar

from fedclave.errors import Code, Refused

MAX_ITEMS = 256  # in one array; Intel's have up to 20
MAX_NUMBER = 0xFFFFFFFF

_T = TypeVar("_T")
_HEX = re.compile(r"[0-9A-Fa-f]*")
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)


@dataclass(frozen=True)
class Object:
    """A JSON object, and where it stands."""

    value: Mapping[str, Any]
    where: str

    @classmethod
    def read(cls, text: str | bytes, document: str) -> Self:
        """The object in a text. No duplicate keys, and no NaN: no two readers may differ."""
        try:
            value = json.loads(
                text, object_pairs_hook=_distinct, parse_constant=_no_number, parse_float=_no_number
            )
        except (ValueError, RecursionError) as error:
            raise _refused(document, f"is not JSON ({error})") from error
        if not isinstance(value, dict):
            raise _refused(document, "is not a JSON object")
        return cls(value, document)

    def fail(self, problem: str) -> NoReturn:
        """Refuse it."""
        raise _refused(self.where, problem)

    def text(self, key: str) -> str:
        """A string."""
        value = self.value.get(key)
        return value if isinstance(value, str) else self._expected(key, "a string")

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings; an absent one is empty."""
        value = self.value.get(key, [])
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            self._expected(key, "a list of strings")
        return tuple(value)

    def number(self, key: str, most: int = MAX_NUMBER) -> int:
        """A whole number from 0 to ``most``."""
        value = self.value.get(key)
        if type(value) is not int or not 0 <= value <= most:  # a bool is not a number
            self._expected(key, f"a number from 0 to {most}")
        return value

    def hex(self, key: str, size: int | None = None) -> bytes:
        """Bytes in hexadecimal, ``size`` of them if it is given."""
        value = self.text(key)
        if not _HEX.fullmatch(value) or len(value) % 2 or size not in (None, len(value) // 2):
            self._expected(key, "hexadecimal" if size is None else f"{size} bytes in hexadecimal")
        return bytes.fromhex(value)

    def moment(self, key: str) -> datetime:
        """A moment in UTC, to the second."""
        value = self.text(key)
        try:
            if _MOMENT.fullmatch(value):
                return datetime.fromisoformat(value)
        except ValueError:
            pass
        return self._expected(key, "a moment such as 2026-11-22T00:00:00Z")

    def one_of(self, key: str, known: Mapping[Any, _T]) -> _T:
        """The meaning of a value, which must be a known one."""
        value = self.value.get(key)
        for name, meaning in known.items():
            if type(value) is type(name) and value == name:
                return meaning
        return self._expected(key, " or ".join(repr(name) for name in known))

    def object(self, key: str) -> Self:
        """An object in it."""
        value = self.value.get(key)
        if not isinstance(value, dict):
            self._expected(key, "an object")
        return type(self)(value, f"{self.where} {key}")

    def objects(self, key: str) -> list[Self]:
        """An array of objects, at most ``MAX_ITEMS``."""
        value = self.value.get(key)
        if (
            not isinstance(value, list)
            or not 1 <= len(value) <= MAX_ITEMS
            or not all(isinstance(one, dict) for one in value)
        ):
            self._expected(key, f"a list of 1 to {MAX_ITEMS} objects")
        return [type(self)(one, f"{self.where} {key}[{n}]") for n, one in enumerate(value)]

    def _expected(self, key: str, what: str) -> NoReturn:
        value = self.value.get(key)
        found = type(value).__name__ if isinstance(value, list | dict) else repr(value)[:60]
        self.fail(f"has {found} as {key!r}; expected {what}")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text[:20]} is not a whole number")


def _refused(where: str, problem: str) -> Refused:
    return Refused(
        Code.ATT_COLLATERAL,
        f"{where} {problem}. Get this collateral from Intel's PCS (API 4) again, and import it",
    )
