# SPDX-License-Identifier: Apache-2.0
"""An X.509 certificate taken apart: public key, validity, extensions. Nothing is verified.

For the certificates that Gramine makes: mbed TLS writes NULL into ECDSA's AlgorithmIdentifier,
which RFC 5480 2.1.1 and 5758 3.2 do not allow, and ``cryptography`` does not parse. TLS has proved
by then that the peer holds the key; what vouches for the key is the quote, not the signature here.

DER (X.690 10, 11): definite, shortest lengths, each value filled to its end. Where a field may hold
anything (names, serial number, signature) only its frame is read.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from fedclave.errors import Code, Refused

MAX_SIZE = 2**17  # bytes; with a quote a real one has 5 to 14 KiB
MAX_EXTENSIONS = 64

_BOOLEAN, _INTEGER, _BITS, _OCTETS, _OID = 0x01, 0x02, 0x03, 0x04, 0x06
_UTC_TIME, _TIME, _SEQUENCE, _SET = 0x17, 0x18, 0x30, 0x31
_STRINGS = (0x0C, 0x13)  # UTF8String, PrintableString: RFC 5280 4.1.2.4
_VERSION, _EXTENSIONS = 0xA0, 0xA3  # [0] and [3], explicit
_UNIQUE_IDS = (0x81, 0x82)  # [1] and [2], implicit
_V3 = b"\x02\x01\x02"
_COMMON_NAME, _COUNTRY = bytes.fromhex("550403"), bytes.fromhex("550406")
_JURISDICTION = bytes.fromhex("2b0601040182373c020103")  # 1.3.6.1.4.1.311.60.2.1.3
_LENGTHS = {_COMMON_NAME: (1, 64), _COUNTRY: (2, 2), _JURISDICTION: (2, 2)}
"""How many bytes a part of a name may have, where that is counted."""


class Extension(NamedTuple):
    """One extension; ``oid`` in dots, ``value`` what is inside its OCTET STRING."""

    oid: str
    critical: bool
    value: bytes


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """The parts of a certificate that evidence leans on."""

    spki: bytes
    """SubjectPublicKeyInfo (RFC 5280 4.1), DER, whole: what a key is hashed as."""
    not_before: datetime
    not_after: datetime
    extensions: tuple[Extension, ...]
    """In their order; each OID once."""

    def extension(self, oid: str) -> bytes | None:
        """The value of an extension, if it is there."""
        return next((one.value for one in self.extensions if one.oid == oid), None)


class Item(NamedTuple):
    """One value in DER. ``raw`` is all of it, tag and length too."""

    tag: int
    value: bytes
    raw: bytes


def certificate(der: bytes) -> Certificate:
    """The parts of a certificate. ``Refused`` (ATT_MALFORMED) for bytes that are not one."""
    try:
        return _certificate(der)
    except ValueError as error:
        raise Refused(
            Code.ATT_MALFORMED,
            f"not an X.509 certificate in DER: {error}. Ask the peer for its certificate again",
        ) from error


def check_serial_and_names(der: bytes) -> None:
    """Raise ``ValueError`` about that in a certificate of which ``cryptography`` only warns.

    A serial number that is not positive (RFC 5280 4.1.2.2), and parts of a name that are empty or
    too long (its appendix A.1). Otherwise a stranger's bytes would write on our stderr.
    """
    fields = [item for item in _signed_fields(der) if item.tag != _VERSION]
    if len(fields) < 5:
        raise ValueError(f"it has only {len(fields)} fields")
    serial, _, issuer, _, subject, *_ = fields
    _check(serial, _INTEGER)
    if serial.value[:1] >= b"\x80" or not any(serial.value):
        raise ValueError("it has a serial number that is not positive")
    for name in (issuer, subject):
        _check_name(name)


def check_list_name(der: bytes) -> None:
    """Raise ``ValueError`` about a revocation list's issuer, as ``check_serial_and_names`` does."""
    sequences = [item for item in _signed_fields(der) if item.tag == _SEQUENCE]
    if len(sequences) < 2:
        raise ValueError("it does not name its issuer")
    _check_name(sequences[1])  # the first is the signature algorithm


def items(content: bytes) -> Iterator[Item]:
    """The values that follow each other in bytes, to their end; ``ValueError`` if they do not."""
    at = 0
    while at < len(content):
        start, head = at, content[at : at + 2]
        if len(head) < 2:
            raise ValueError("a value is cut short")
        tag, size, at = head[0], head[1], at + 2
        if tag & 0x1F == 0x1F:
            raise ValueError("a tag of more than one byte")
        if size >= 0x80:
            octets = content[at : at + size - 0x80]
            at += len(octets)
            size = int.from_bytes(octets, "big")
            if not 1 <= len(octets) <= 3 or octets[0] == 0 or size < 0x80:
                raise ValueError("a length is not in its shortest form")
        value = content[at : at + size]
        if len(value) != size:
            raise ValueError("a value is cut short")
        at += size
        yield Item(tag, value, content[start:at])


def _certificate(der: bytes) -> Certificate:
    if len(der) > MAX_SIZE:
        raise ValueError(f"it has {len(der)} bytes, more than {MAX_SIZE}")
    (outer,) = _exactly(der, _SEQUENCE)
    signed, algorithm, _ = _exactly(outer.value, _SEQUENCE, _SEQUENCE, _BITS)
    version, serial, inner, issuer, validity, subject, spki, *rest = _at_least(signed.value, 7)
    for item, tag in (
        (version, _VERSION),
        (serial, _INTEGER),
        (inner, _SEQUENCE),
        (issuer, _SEQUENCE),
        (validity, _SEQUENCE),
        (subject, _SEQUENCE),
        (spki, _SEQUENCE),
    ):
        _check(item, tag)
    if version.value != _V3:
        raise ValueError("its version is not 3")
    if inner.raw != algorithm.raw:  # RFC 5280 4.1.1.2
        raise ValueError("it names two different signature algorithms")
    _exactly(spki.value, _SEQUENCE, _BITS)
    starts, ends = _at_least(validity.value, 2, most=2)
    return Certificate(
        spki=spki.raw,
        not_before=_time(starts),
        not_after=_time(ends),
        extensions=_extensions(rest),
    )


def _signed_fields(der: bytes) -> list[Item]:
    """The fields of a certificate or CRL that its signature is over."""
    (outer,) = _exactly(der, _SEQUENCE)
    signed, _, _ = _exactly(outer.value, _SEQUENCE, _SEQUENCE, _BITS)
    return _at_least(signed.value, 1)


def _check_name(name: Item) -> None:
    _check(name, _SEQUENCE)
    for part in items(name.value):
        _check(part, _SET)
        for attribute in items(part.value):
            kind, value = _at_least(attribute.value, 2, most=2)
            least, most = _LENGTHS.get(kind.value, (0, MAX_SIZE))
            if not least <= len(value.value) <= most:
                raise ValueError(f"a part of its names has {len(value.value)} bytes")
            if kind.value in _LENGTHS and value.tag not in _STRINGS:
                raise ValueError("a part of its names is in an encoding that is not used any more")


def _extensions(rest: list[Item]) -> tuple[Extension, ...]:
    """What may follow the key: unique ids, which nobody uses, then extensions; each once."""
    order = (*_UNIQUE_IDS, _EXTENSIONS)
    tags = [item.tag for item in rest]
    if any(tag not in order for tag in tags) or sorted(set(tags)) != tags:
        raise ValueError("its last fields are not what they may be")
    if not rest or rest[-1].tag != _EXTENSIONS:
        return ()
    (listed,) = _exactly(rest[-1].value, _SEQUENCE)
    found: dict[str, Extension] = {}
    for item in items(listed.value):
        one = _extension(item)
        if one.oid in found:  # RFC 5280 4.2
            raise ValueError(f"extension {one.oid} stands twice")
        found[one.oid] = one
        if len(found) > MAX_EXTENSIONS:
            raise ValueError(f"more than {MAX_EXTENSIONS} extensions")
    if not found:
        raise ValueError("its list of extensions is empty")
    return tuple(found.values())


def _extension(item: Item) -> Extension:
    _check(item, _SEQUENCE)
    name, *flag, value = _at_least(item.value, 2, most=3)
    _check(name, _OID)
    _check(value, _OCTETS)
    for one in flag:
        _check(one, _BOOLEAN)
        if one.value != b"\xff":  # X.690 11.1, 11.5: FALSE is the default, and left out
            raise ValueError("an extension's critical is not TRUE, nor left out")
    return Extension(_dotted(name.value), bool(flag), value.value)


def _dotted(content: bytes) -> str:
    """An OBJECT IDENTIFIER in dots (X.690 8.19)."""
    arcs, number, fresh = [], 0, True
    if not content or content[-1] & 0x80 or len(content) > 64:
        raise ValueError(f"{content.hex()[:40]!r} is not an object identifier")
    for byte in content:
        if fresh and byte == 0x80:
            raise ValueError("an object identifier is not in its shortest form")
        number, fresh = number << 7 | byte & 0x7F, not byte & 0x80
        if fresh:
            arcs.append(number)
            number = 0
    first = min(arcs[0] // 40, 2)
    return ".".join(str(arc) for arc in (first, arcs[0] - 40 * first, *arcs[1:]))


def _time(item: Item) -> datetime:
    """UTCTime or GeneralizedTime, as RFC 5280 4.1.2.5 wants them: whole seconds, and Z."""
    if item.tag not in (_UTC_TIME, _TIME):
        raise ValueError(f"a time has the tag {item.tag:#04x}")
    size = 13 if item.tag == _UTC_TIME else 15
    digits = item.value[:-1]
    if len(item.value) != size or item.value[-1:] != b"Z" or not digits.isdigit():
        raise ValueError(f"{item.value[:20]!r} is not a time")
    text = digits.decode("ascii")
    if item.tag == _UTC_TIME:
        text = ("19" if text[:2] >= "50" else "20") + text
    parts = [int(text[:4]), *(int(text[at : at + 2]) for at in range(4, 14, 2))]
    year, month, day, hour, minute, second = parts
    return datetime(year, month, day, hour, minute, second, tzinfo=UTC)


def _exactly(content: bytes, *tags: int) -> list[Item]:
    found = _at_least(content, len(tags), most=len(tags))
    for item, tag in zip(found, tags, strict=True):
        _check(item, tag)
    return found


def _at_least(content: bytes, least: int, *, most: int = 10) -> list[Item]:
    found = []
    for item in items(content):
        found.append(item)
        if len(found) > most:
            break
    if not least <= len(found) <= most:
        raise ValueError(f"a sequence has {len(found)} values; expected {least} to {most}")
    return found


def _check(item: Item, tag: int) -> None:
    if item.tag != tag:
        raise ValueError(f"a value has the tag {item.tag:#04x}; expected {tag:#04x}")
