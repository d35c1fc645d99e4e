# SPDX-License-Identifier: Apache-2.0
"""What a rule about manifests is, and how what it found is written down.

A manifest may be hostile: its keys and values are shown in ASCII, on one line, and cut.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

Path = tuple[str | int, ...]
"""Where something stands in a manifest: ``("sgx", "trusted_files", 3, "uri")``."""

_LONGEST = 80  # characters of a text that is shown
_MOST = 4  # elements of a list or table that are shown
_DEEPEST = 2


class Severity(StrEnum):
    """``REFUSED``: nobody may rely on such an enclave. ``WARNED``: its author should say why."""

    REFUSED = "refused"
    WARNED = "warned"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One thing that a manifest must not say, or must. ``name`` is stable.

    ``bad`` judges the value of ``key`` alone, None if it is not set. Rules without are judged by
    code that sees more than one key.
    """

    name: str
    key: str
    severity: Severity
    host: str  # what the host can do with it; "The host" goes before it
    remedy: str
    bad: Callable[[object], bool] | None = None


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A rule, and where a manifest breaks it. ``value`` is empty where the key is not set."""

    rule: Rule
    key: str
    value: str
    detail: str = ""

    def __str__(self) -> str:
        said = f"{self.key} = {self.value}" if self.value else f"{self.key} is not set"
        return f"{said}  ({self.detail})" if self.detail else said


class Hit(NamedTuple):
    """What a check found: the rule's name, the place, the value there (None: not set)."""

    rule: str
    path: Path
    value: object = None
    detail: str = ""


def refused(
    name: str, key: str, host: str, remedy: str, bad: Callable[[object], bool] | None = None
) -> Rule:
    """A rule whose breach is refused."""
    severity = Severity.REFUSED
    return Rule(name=name, key=key, severity=severity, host=host, remedy=remedy, bad=bad)


def warned(
    name: str, key: str, host: str, remedy: str, bad: Callable[[object], bool] | None = None
) -> Rule:
    """A rule whose breach is told."""
    severity = Severity.WARNED
    return Rule(name=name, key=key, severity=severity, host=host, remedy=remedy, bad=bad)


def key_text(path: Path) -> str:
    """A place as TOML writes keys, with the index of a list's element.

    >>> key_text(("loader", "env", "A B", "value")), key_text(("sgx", "allowed_files", 0))
    ('loader.env."A B".value', 'sgx.allowed_files[0]')
    """
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            bare = re.fullmatch(r"[A-Za-z0-9_-]{1,80}", part)
            text += ("." if text else "") + (part if bare else _quoted(part))
    return text


def value_text(value: object) -> str:
    r"""A value as TOML would write it, in ASCII, on one line, long ones cut.

    >>> value_text({"a": [1, True, "\x1b[2J"]}), value_text(None)
    ('{a = [1, true, "\\u001b[2J"]}', '')
    """
    return "" if value is None else _text(value, 0)


def _text(value: object, depth: int) -> str:
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value) if value.bit_length() <= 64 else "an integer of more than 64 bits"
    if isinstance(value, list | tuple | dict):
        opening, closing = "{}" if isinstance(value, dict) else "[]"
        inside = _inside(value, depth) if depth < _DEEPEST else "..." if value else ""
        return f"{opening}{inside}{closing}"
    return ascii(value) if isinstance(value, float) else json.dumps(str(value)[:_LONGEST])


def _inside(value: list[object] | tuple[object, ...] | dict[str, object], depth: int) -> str:
    if isinstance(value, dict):
        pairs = list(value.items())[:_MOST]
        shown = [f"{key_text((str(key),))} = {_text(one, depth + 1)}" for key, one in pairs]
    else:
        shown = [_text(one, depth + 1) for one in value[:_MOST]]
    return ", ".join([*shown, "..."] if len(value) > _MOST else shown)


def _quoted(text: str) -> str:
    cut = text if len(text) <= _LONGEST else text[:_LONGEST] + "..."
    return json.dumps(cut).replace("\x7f", "\\u007f")
