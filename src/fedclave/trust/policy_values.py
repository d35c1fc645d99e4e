# SPDX-License-Identifier: Apache-2.0
"""The values that an attestation policy is written in, each read strictly and told apart.

A value that is not of its form is a ``ValueError`` with its remedy; ``mistakes`` finds its line.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from fedclave.plan import NAME
from fedclave.trust.pck import INTEL_ROOT
from fedclave.trust.roots import INTEL, SIMULATED, spki_hash

ALL = "*"
"""Everybody, in a list of members: no party can be called so."""

_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_ADVISORY = re.compile(r"[A-Z][A-Z0-9]*(-[A-Z0-9]+)+")
_LONGEST = 300  # characters of a text that is shown to people


@lru_cache(maxsize=1)
def intel_root_hash() -> str:
    """SHA-256 (hex) of the SubjectPublicKeyInfo of Intel's SGX Root CA."""
    return spki_hash(INTEL_ROOT)


def _hex(size: int) -> Callable[[str], str]:
    def check(value: str) -> str:
        if not re.fullmatch(rf"[0-9a-fA-F]{{{2 * size}}}", value):
            raise ValueError(
                f"{value[:80]!r} is not {size} bytes in hex. Write {2 * size} hexadecimal digits"
            )
        return value.lower()

    return check


def _moment(value: object, *, end: bool) -> datetime:
    """A date, or a time to the second, UTC. A date that ends something includes its day."""
    try:
        if isinstance(value, str) and _TIME.fullmatch(value):
            return datetime.fromisoformat(value)
        if isinstance(value, str) and _DATE.fullmatch(value):
            day = datetime.fromisoformat(value).replace(tzinfo=UTC)
            return day + timedelta(days=1, seconds=-1) if end else day
    except (ValueError, OverflowError):
        pass
    raise ValueError(
        f"{value!r:.80} is not a date or a time. Write for example 2031-12-31, or"
        " 2031-12-31T12:00:00Z (UTC)"
    )


def _text(value: str) -> str:
    """A sentence on one line; the line breaks of YAML's block texts become spaces."""
    plain = " ".join(value.split())
    if not plain or len(plain) > _LONGEST or not plain.isprintable():
        raise ValueError(
            f"{value[:40]!r} is not a text of 1 to {_LONGEST} printable characters. Write a short"
            " sentence"
        )
    return plain


def _advisory(value: str) -> str:
    if not _ADVISORY.fullmatch(value) or len(value) > 64:
        raise ValueError(
            f"{value[:80]!r} is not the name of an advisory. Write it as its maker does, for"
            " example INTEL-SA-00615"
        )
    return value


def _root(value: str) -> str:
    digest = value.removeprefix(SIMULATED)
    if value == INTEL:
        return value
    if digest == value or not re.fullmatch(r"[0-9a-fA-F]{64}", digest):
        raise ValueError(
            f"{value[:100]!r} is not a root. Write {INTEL}, or {SIMULATED} and the SHA-256 of the"
            " simulated root's public key, in 64 hexadecimal digits"
        )
    if digest.lower() == intel_root_hash():
        raise ValueError(f"this is Intel's root, which nobody simulates. Write {INTEL}")
    return value.lower()


def _members(value: object) -> object:
    if value == "all":
        return (ALL,)
    if isinstance(value, list) and all(isinstance(o, str) and NAME.fullmatch(o) for o in value):
        return tuple(value)
    raise ValueError(
        f"{value!r:.80} is neither all nor a list of names. Write all, or [NAME, ANOTHER]"
    )


def _some(value: tuple[str, ...]) -> tuple[str, ...]:
    if not value:
        raise ValueError("must not be empty. Add one")
    return value


def _format(what: str) -> WithJsonSchema:
    """What a value looks like, for the reference page."""
    return WithJsonSchema({"type": "string", "format": what})


Listed = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)
NotEmpty = AfterValidator(_some)
Bytes16 = Annotated[str, AfterValidator(_hex(16)), _format("32 hex digits")]
Bytes32 = Annotated[str, AfterValidator(_hex(32)), _format("64 hex digits")]
Bytes48 = Annotated[str, AfterValidator(_hex(48)), _format("96 hex digits")]
Bits = Annotated[int, Field(ge=0, lt=2**64), WithJsonSchema({"type": "integer", "format": "bits"})]
Begin = Annotated[
    datetime, BeforeValidator(lambda v: _moment(v, end=False)), _format("date or time")
]
End = Annotated[datetime, BeforeValidator(lambda v: _moment(v, end=True)), _format("date or time")]
Text = Annotated[str, AfterValidator(_text), _format("text")]
Advisory = Annotated[str, AfterValidator(_advisory), _format("name of an advisory")]
Root = Annotated[str, AfterValidator(_root), _format("`intel`, or `simulated:` and 64 hex digits")]
Members = Annotated[tuple[str, ...], BeforeValidator(_members), _format("`all`, or list of name")]
StatusName = Literal[
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "TDRelaunchAdvised",
    "TDRelaunchAdvisedConfigurationNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
]
"""The TCB statuses that can be allowed; ``Revoked`` never is."""
