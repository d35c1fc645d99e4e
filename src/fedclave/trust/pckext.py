# SPDX-License-Identifier: Apache-2.0
"""The extension of a PCK certificate that says which platform it is, and in what state.

Intel SGX PCK Certificate and CRL Specification, 1.3.5: a SEQUENCE of (OID, value) under
1.2.840.113741.1.13.1, in DER (X.690). Every field at most once, with its exact length; fields that
a later specification adds are passed over, since Intel signed them and nothing here leans on them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from fedclave.errors import Code, Refused

MAX_BYTES = 4096  # a real one has about 560

_PREFIX = bytes.fromhex("2a864886f84d010d01")  # 1.2.840.113741.1.13.1, as DER has it
_BOOLEAN, _INTEGER, _OCTETS, _OID, _ENUMERATED, _SEQUENCE = 0x01, 0x02, 0x04, 0x06, 0x0A, 0x30
_COMPONENTS = range(1, 17)
_PCE_SVN, _CPU_SVN = 17, 18


@dataclass(frozen=True, kw_only=True)
class PckExtension:
    """One platform: who it is, and which TCB its PCK certificate vouches for."""

    ppid: bytes
    """16 bytes: the provisioning identity, which stays the same for one CPU package."""
    components: bytes
    """16 security versions, one byte each."""
    pce_svn: int
    cpu_svn: bytes
    pce_id: bytes
    fmspc: bytes
    """6 bytes: family, model, stepping, platform type and custom SKU; not one platform."""
    sgx_type: int
    """0 standard, 1 scalable, 2 scalable with integrity."""
    platform_instance_id: bytes | None
    dynamic_platform: bool | None
    """None: the certificate (of the processor CA) does not say. So with the next two."""
    cached_keys: bool | None
    smt_enabled: bool | None


def parse(der: bytes) -> PckExtension:
    """The value of the extension. ``Refused`` (``ATT-CHAIN``) on any bytes that are not one."""
    try:
        return _parsed(der)
    except (ValueError, KeyError) as error:
        reason = f"field {error} is missing" if isinstance(error, KeyError) else error
        raise Refused(
            Code.ATT_CHAIN,
            f"the SGX extension of the PCK certificate is damaged ({reason}). Have the platform's"
            " quote provider fetch its PCK certificate again",
        ) from error


def _parsed(der: bytes) -> PckExtension:
    if len(der) > MAX_BYTES:
        raise ValueError(f"it has {len(der)} bytes, more than {MAX_BYTES}")
    fields = _fields(_only(der, _SEQUENCE), b"")
    tcb = _fields(_as(fields[2], _SEQUENCE), bytes([2]))
    flags = _fields(_as(fields[7], _SEQUENCE), bytes([7])) if 7 in fields else {}
    dynamic, cached, smt = (_flag(flags[n]) if n in flags else None for n in (1, 2, 3))
    return PckExtension(
        ppid=_as(fields[1], _OCTETS, 16),
        components=bytes(_number(tcb[n], _INTEGER, 0xFF) for n in _COMPONENTS),
        pce_svn=_number(tcb[_PCE_SVN], _INTEGER, 0xFFFF),
        cpu_svn=_as(tcb[_CPU_SVN], _OCTETS, 16),
        pce_id=_as(fields[3], _OCTETS, 2),
        fmspc=_as(fields[4], _OCTETS, 6),
        sgx_type=_number(fields[5], _ENUMERATED, 2),
        platform_instance_id=_as(fields[6], _OCTETS, 16) if 6 in fields else None,
        dynamic_platform=dynamic,
        cached_keys=cached,
        smt_enabled=smt,
    )


def _fields(content: bytes, under: bytes) -> dict[int, tuple[int, bytes]]:
    """The (tag, value) of each (OID, value), by the last arc of the OID; ``under`` precedes it."""
    found: dict[int, tuple[int, bytes]] = {}
    for tag, pair in _items(content):
        oid, *values = _items(_as((tag, pair), _SEQUENCE))
        prefix = _PREFIX + under
        arcs = _as(oid, _OID)
        if len(values) != 1 or arcs[:-1] != prefix or arcs[-1] & 0x80:
            raise ValueError(f"{arcs.hex()} is no field of it, or has not one value")
        if arcs[-1] in found:
            raise ValueError(f"field {arcs[-1]} is there twice")
        found[arcs[-1]] = values[0]
    return found


def _items(content: bytes) -> Iterator[tuple[int, bytes]]:
    """The (tag, value) one after the other, in DER: definite, shortest lengths (X.690 10.1)."""
    at = 0
    while at < len(content):
        head = content[at : at + 2]
        if len(head) < 2:
            raise ValueError("a value is cut short")
        tag, size, at = head[0], head[1], at + 2
        if size >= 0x80:
            octets = content[at : at + size - 0x80]
            at += len(octets)
            size = int.from_bytes(octets, "big")
            if len(octets) not in (1, 2) or size < 0x80 or octets[0] == 0:
                raise ValueError("a length is not in its shortest form")
        value = content[at : at + size]
        if len(value) != size:
            raise ValueError("a value is cut short")
        at += size
        yield tag, value


def _only(der: bytes, tag: int) -> bytes:
    items = list(_items(der))
    if len(items) != 1:
        raise ValueError("it is not one value")
    return _as(items[0], tag)


def _as(item: tuple[int, bytes], tag: int, size: int | None = None) -> bytes:
    found, value = item
    if found != tag:
        raise ValueError(f"a value has the tag {found:#04x}; expected {tag:#04x}")
    if size is not None and len(value) != size:
        raise ValueError(f"a value has {len(value)} bytes; expected {size}")
    return value


def _number(item: tuple[int, bytes], tag: int, most: int) -> int:
    """A number from 0 to ``most``, in its shortest form (X.690 8.3.2)."""
    value = _as(item, tag)
    number = int.from_bytes(value, "big", signed=True)
    if not value or len(value) != number.bit_length() // 8 + 1 or not 0 <= number <= most:
        raise ValueError(f"{value.hex() or 'nothing'} is not a number from 0 to {most}")
    return number


def _flag(item: tuple[int, bytes]) -> bool:
    value = _as(item, _BOOLEAN, 1)
    if value not in (b"\x00", b"\xff"):  # X.690 11.1
        raise ValueError(f"{value.hex()} is not a boolean")
    return value == b"\xff"
