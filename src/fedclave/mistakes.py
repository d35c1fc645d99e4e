# SPDX-License-Identifier: Apache-2.0
"""What a validator found wrong in a file that a person wrote, in that person's words."""

import re
import reprlib
from collections.abc import Mapping
from copy import deepcopy
from difflib import get_close_matches
from math import isfinite
from types import NoneType
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from fedclave import yamlfile
from fedclave.errors import Problem

_EXPECTED = {
    "int_type": ("int", "Write a whole number."),
    "int_from_float": ("int", "Write a whole number."),
    "float_type": ("float", "Write a number."),
    "string_type": ("str", "Write a text."),
    "bool_type": ("bool", "Write true or false."),
    "dict_type": ("a mapping", "Write KEY: VALUE lines."),
    "model_type": ("a mapping", "Write KEY: VALUE lines."),
    "tuple_type": ("a list", "Write [ONE, ANOTHER]."),
}
_BOUNDS = {
    "greater_than": ("must be more than {gt}", "Raise it."),
    "greater_than_equal": ("must be at least {ge}", "Raise it."),
    "less_than": ("must be less than {lt}", "Lower it."),
    "less_than_equal": ("must be at most {le}", "Lower it."),
    "literal_error": ("must be {expected}", "Write {expected}."),
    "finite_number": ("must be a finite number", "Write an ordinary number."),
    "int_parsing_size": ("must be a whole number of ordinary size", "Lower it."),
    "too_short": ("must not be empty", "Add one."),
}
_NAME_FORM = (
    "a name",
    "Names are 1 to 64 letters, digits, dots, dashes and underscores, and begin and end with a"
    " letter or digit.",
)
_FORMS = {
    "build": ("a reference", "Write MODULE:FUNCTION, for example src.learner:build."),
    "function": ("a reference", "Write MODULE:FUNCTION, for example src.assignment:assign."),
    "device": ("a device", "Write auto, cpu, cuda or cuda:N."),
    "run": ("a method's name", "Write the name of the learner's method, for example fit."),
    "signers": (
        "a public key",
        "Write ed25519: and its 32 bytes in base64, as 'fx attest policy sign' prints it.",
    ),
    "address": ("an address", "Write HOST:PORT, for example aggregator.example.org:8443."),
}
"""What keys with a pattern want; all others are names."""


def found(
    error: ValidationError, document: yamlfile.Document, model: type[BaseModel]
) -> dict[yamlfile.Path, Problem]:
    """Each mistake by its place in the document; a missing key has the place where it belongs."""
    problems: dict[yamlfile.Path, Problem] = {}
    for item in error.errors(include_url=False):
        at = document.within(item["loc"])
        shown = item["loc"][: len(at) + 1] if item["type"] == "missing" else at
        reason, remedy = _sentence(item, at, model)
        if shown not in problems:  # a union reports once for each of its members
            problems[shown] = Problem(
                file=document.file,
                line=document.line(at),
                path=yamlfile.dotted(shown),
                reason=reason,
                remedy=remedy,
            )
    return problems


def uncut(at: yamlfile.Path, broken: set[yamlfile.Path]) -> yamlfile.Path:
    """The place, or the nearest one around it that was not cut out before."""
    while at in broken:
        at = at[:-1]
    return at


def cut(value: Any, at: yamlfile.Path, standins: Mapping[yamlfile.Path, Any]) -> yamlfile.Path:
    """Take the part at a place out of a document, or put a stand-in there; returns the place.

    A part of a list takes the list with it, a key that is missing the mapping that wants it.
    """
    parts = [value]
    for key in at[:-1]:
        inner = parts[-1]
        known = key in inner if isinstance(inner, dict) else False
        if not known:
            return cut(value, at[: len(parts) - 1], standins) if len(parts) > 1 else at
        parts.append(inner[key])
    if at in standins:
        parts[-1][at[-1]] = deepcopy(standins[at])
    elif isinstance(parts[-1], dict) and at[-1] in parts[-1]:
        del parts[-1][at[-1]]
        if not parts[-1] and at[:-1] in standins:
            parts[-2][at[-2]] = deepcopy(standins[at[:-1]])
    elif len(at) > 1:
        return cut(value, at[:-1], standins)
    return at


def _sentence(item: Any, at: yamlfile.Path, model: type[BaseModel]) -> tuple[str, str]:
    kind, value, context = item["type"], item["input"], item.get("ctx", {})
    got = "nothing" if value is None else reprlib.repr(value)
    if kind == "extra_forbidden":
        return "unknown key", _suggestion(str(at[-1]), _keys_beside(at, model))
    if kind == "missing":
        return "missing", "Add it."
    if kind == "value_error":
        reason, _, remedy = str(context["error"]).partition(". ")
        return reason, remedy and remedy + "."
    if len(item["loc"]) > len(at) and not (isinstance(value, float) and not isfinite(value)):
        return f"expected one value, got {got}", "Write a number, a text, true or false."
    if len(item["loc"]) > len(at):
        return f"must be a finite number, got {got}", "Write an ordinary number."
    if kind in _EXPECTED:
        expected, remedy = _EXPECTED[kind]
        typed = got if value is None else f"{type(value).__name__} {got}"
        if kind == "string_type" and type(value) in (int, float, bool):
            return f"expected str, got {typed}", "Write it in quotes."
        quoted = isinstance(value, str) and re.fullmatch(
            r"[-+]?[0-9.]{1,20}([eE][-+]?[0-9]{1,3})?", value
        )
        if quoted and kind in ("int_type", "float_type"):
            remedy = "Write it without quotes."
        return f"expected {expected}, got {typed}", remedy
    if kind == "string_pattern_mismatch":
        key = next(part for part in reversed(at) if isinstance(part, str))
        kind, remedy = _FORMS.get(key, _NAME_FORM)
        return f"{got} has not the form of {kind}", remedy
    reason, remedy = _BOUNDS.get(kind, (item["msg"], ""))
    return f"{reason.format(**context)}, got {got}", remedy.format(**context)


def _suggestion(key: str, known: list[str]) -> str:
    near = get_close_matches(key, known, n=1)
    return (f"Did you mean {near[0]!r}? " if near else "") + f"Keys here: {', '.join(known)}."


def _keys_beside(at: yamlfile.Path, model: Any) -> list[str]:
    for part in at[:-1]:
        inner = [kind for kind in get_args(model) if kind is not ...]
        model = inner[-1] if inner else model.model_fields[part].annotation
        if NoneType in get_args(model):  # a section that may be left out
            model = get_args(model)[0]
    return [field.alias or name for name, field in model.model_fields.items()]
