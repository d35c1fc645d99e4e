# SPDX-License-Identifier: Apache-2.0
"""CBOR in its deterministic form (RFC 8949 4.2.1), as far as evidence needs it.

One value has one encoding: shortest lengths, keys in order, nothing indefinite. There are numbers
from 0 up, byte strings, texts, arrays, maps with texts as keys, and one tag where the caller
expects it. A decoder for all of CBOR would also make dates, regular expressions and references to
itself out of a peer's bytes: here every other tag is refused before anything is made of it.

The one file that imports ``cbor2``, and only when it is called: the library is an extra.
"""

from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any, NamedTuple

from fedclave.errors import Code, Refused, UserError

MAX_DEPTH = 4  # of arrays, maps and tags in each other

Value = Any
"""int from 0 up, bytes, str, or a list, str-keyed dict or ``Tagged`` of them."""


class Tagged(NamedTuple):
    """A value with its tag (RFC 8949 3.4)."""

    tag: int
    value: Value


def encode(value: Value, *, in_order: bool = True) -> bytes:
    """The bytes of a value; with ``in_order`` false, keys of maps stand as they stand in it."""
    cbor2 = _library()
    plain = cbor2.CBORTag(value.tag, value.value) if isinstance(value, Tagged) else value
    return bytes(cbor2.dumps(plain, canonical=in_order))


def decode(
    data: bytes, what: str, *, limit: int, tag: int | None = None, in_order: bool = True
) -> Value:
    """The value in bytes that ``encode`` could have made; ``Refused`` (ATT_MALFORMED) otherwise.

    ``what`` names the bytes in the message, ``limit`` is in bytes. With a ``tag`` the whole must be
    tagged with it, and what it tags is given back; any other tag, anywhere, is refused.
    """
    if len(data) > limit:
        raise _malformed(what, f"{len(data)} bytes; at most {limit} are read")
    cbor2 = _library()
    try:
        value = cbor2.loads(
            data,
            semantic_decoders=_OneTag(tag),
            max_depth=MAX_DEPTH,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            strict_hashable_types=True,
        )
        _check(value)
        # ``loads`` does not look at what follows a value: this does.
        is_canonical = encode(value, in_order=in_order) == data
    except Exception as error:  # whatever a decoder makes of a stranger's bytes, it is not ours
        raise _malformed(
            what, f"not CBOR as it is used here ({str(error.__cause__ or error)[:120]})"
        ) from error
    if not is_canonical:
        raise _malformed(what, "not in its one canonical form, or bytes follow it")
    if tag is None:
        return value
    if not isinstance(value, Tagged):
        raise _malformed(what, f"without the CBOR tag {tag}")
    return value.value


class _OneTag(Mapping[int, Callable[[Any, bool], Any]]):
    """What makes a value of each tag there is: ``Tagged`` of one of them, an error of all others.

    A mapping without end, and not a dict of tags, so that no tag which some version of the library
    knows gets through to it.
    """

    def __init__(self, tag: int | None) -> None:
        self._tag = tag

    def __getitem__(self, tag: int) -> Callable[[Any, bool], Any]:
        def make(value: Any, immutable: bool) -> Tagged:
            if tag != self._tag:
                raise ValueError(f"CBOR tag {tag}; expected {self._tag or 'none'}")
            return Tagged(tag, value)

        return make

    def __iter__(self) -> Iterator[int]:
        return iter(())

    def __len__(self) -> int:
        return 1  # an empty one would be taken for none


def _check(value: Value, *, root: bool = True) -> None:
    """Raise ``ValueError`` for kinds of values that evidence does not have; a tag only outside."""
    if isinstance(value, Tagged) and root:
        parts = [value.value]
    elif type(value) is dict and all(type(key) is str for key in value):
        parts = list(value.values())
    elif type(value) is list:
        parts = value
    elif type(value) in (bytes, str) or (type(value) is int and value >= 0):
        parts = []
    else:
        raise ValueError(f"a value of a kind that has no place in evidence: {value!r:.40}")
    for part in parts:
        _check(part, root=False)


def _malformed(what: str, reason: str) -> Refused:
    return Refused(Code.ATT_MALFORMED, f"{what}: {reason}. Ask the peer for fresh evidence")


def load() -> None:
    """Import what reads and writes CBOR now, not in the middle of a run. ``UserError``: missing."""
    _library()


def _library() -> ModuleType:
    try:
        import cbor2
    except ImportError as error:
        raise UserError(
            "reading and writing evidence needs the extra 'attest'. Run pip install"
            " 'fedclave[attest]'"
        ) from error
    return cbor2
