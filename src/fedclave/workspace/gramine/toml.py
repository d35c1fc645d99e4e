# SPDX-License-Identifier: Apache-2.0
r"""TOML in one canonical form (TOML 1.0): equal values have equal bytes.

Keys are sorted; a table's plain values stand before its tables; lists have a line for each element;
tables in a list stand within it where each fits into 100 columns, and by themselves otherwise. This
is the form that Gramine's signer gives a manifest (it writes with tomli-w), so signing one of ours
with Gramine's own tools does not change a byte.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

Value = bool | int | str | Sequence["Value"] | Mapping[str, "Value"]

_WIDTH = 100
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def encode(table: Mapping[str, Value]) -> bytes:
    r"""The canonical bytes of a table. ``ValueError``: a control character; ``TypeError``: a type.

    >>> encode({"b": {"y": ["x"]}, "a": True}).decode()
    'a = true\n\n[b]\ny = [\n    "x",\n]\n'
    """
    return "".join(_table(table, "", in_list=False)).encode()


def _table(table: Mapping[str, Value], name: str, *, in_list: bool) -> Iterator[str]:
    plain: list[tuple[str, Value]] = []
    below: list[tuple[str, Mapping[str, Value], bool]] = []
    for key, value in sorted(table.items()):
        if isinstance(value, Mapping):
            below.append((key, value, False))
        elif (tables := _tables(value)) and not all(map(_fits, tables)):
            below.extend((key, one, True) for one in tables)
        else:
            plain.append((key, value))
    begun = in_list or bool(name and (plain or not below))
    if begun:
        yield f"[[{name}]]\n" if in_list else f"[{name}]\n"
    for key, value in plain:
        begun = True
        yield f"{_key(key)} = {_value(value, 0)}\n"
    for key, inner, listed in below:
        if begun:
            yield "\n"
        begun = True
        yield from _table(inner, f"{name}.{_key(key)}" if name else _key(key), in_list=listed)


def _tables(value: Value) -> list[Mapping[str, Value]]:
    """The tables of a list that holds nothing else."""
    if not isinstance(value, list | tuple):
        return []
    found = [one for one in value if isinstance(one, Mapping)]
    return found if len(found) == len(value) else []


def _fits(table: Mapping[str, Value]) -> bool:
    text = f"    {_inline(table)},"
    return len(text) <= _WIDTH and "\n" not in text


def _value(value: Value, depth: int) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Mapping):
        return _inline(value)
    if not isinstance(value, list | tuple):
        raise TypeError(f"{type(value).__name__} has no form in a manifest")
    if not value:
        return "[]"
    indent = "    " * (depth + 1)
    lines = "".join(f"{indent}{_value(one, depth + 1)},\n" for one in value)
    return f"[\n{lines}{'    ' * depth}]"


def _inline(table: Mapping[str, Value]) -> str:
    if not table:
        return "{}"
    pairs = ", ".join(f"{_key(key)} = {_value(one, 0)}" for key, one in sorted(table.items()))
    return f"{{ {pairs} }}"


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _text(key)


def _text(text: str) -> str:
    if found := _CONTROL.search(text):
        raise ValueError(f"a control character ({found.group()!r}) in {text!r:.80}")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
