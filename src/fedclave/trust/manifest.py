# SPDX-License-Identifier: Apache-2.0
"""A Gramine manifest as its TOML says it (TOML 1.0); anybody may have written it.

Nothing is judged here: ``manifest_lint`` does. What is refused are bytes that are no manifest, and
those that would take this process long, or all of its stack, to read.
"""

import re
import tomllib
from pathlib import Path
from typing import Any

from fedclave.errors import UserError

MAX_SIZE = 16 * 2**20  # bytes; 10,747 trusted files make 1.95 MB
MAX_PARTS = 16  # of a dotted key; Gramine has keys of four
_PART = r"""(?:[\w-]++|"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+')"""
_LONG_KEY = re.compile(rf"(?<![\w\\-]){_PART}(?:[ \t]*+\.[ \t]*+{_PART}){{{MAX_PARTS}}}")
"""tomllib takes quadratic time for such a key: hours for one of a megabyte."""


def read(path: Path) -> dict[str, Any]:
    """The manifest in a file. Raises ``UserError``."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_SIZE + 1)  # a device or a pipe may never end
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}. Name a Gramine manifest") from error
    return parse(raw, str(path))


def parse(raw: bytes, name: str) -> dict[str, Any]:
    """The manifest in these bytes; ``name`` is where they come from. Raises ``UserError``.

    >>> parse(b"sgx.debug = false", "m")
    {'sgx': {'debug': False}}
    """
    if len(raw) > MAX_SIZE:
        raise UserError(
            f"{name} has more than {MAX_SIZE >> 20} MiB. Name a Gramine manifest; list fewer files"
        )
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{name}: byte {error.start} is not UTF-8, which TOML demands. Name a Gramine manifest,"
            " not a signature or a binary"
        ) from error
    if found := _LONG_KEY.search(text):
        line = text.count("\n", 0, found.start()) + 1
        raise UserError(
            f"{name}:{line}: a key of more than {MAX_PARTS} parts. Write keys that Gramine knows"
        )
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise UserError(
            f"{name}: its lists or tables are nested too deep. Write keys that Gramine knows"
        ) from error
    except ValueError as error:  # TOMLDecodeError is one; int() and datetime raise others
        raise UserError(f"{name} is not TOML: {_reason(error)}. {_remedy(text)}") from error


def _reason(error: ValueError) -> str:
    if isinstance(error, tomllib.TOMLDecodeError):
        return str(error)
    return "a number or a date that no program can hold"


def _remedy(text: str) -> str:
    if "{%" in text or "{{" in text:
        return "It looks like a template: render it (gramine-manifest), then name what that wrote"
    return "Correct it, or name another file"
