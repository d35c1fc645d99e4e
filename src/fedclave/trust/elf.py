# SPDX-License-Identifier: Apache-2.0
"""What is needed of an ELF file: what the loader puts into memory, and which libraries it names.

Strict where it is read: 64-bit, little-endian, x86-64; nothing may lie outside the file. Sources:
System V ABI, chapters 4 and 5 (ELF header, program header, dynamic section); x86-64 supplement.
"""

import struct
from dataclasses import dataclass

from fedclave.errors import Code, Refused

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM = struct.Struct("<IIQQQQQQ")
_DYNAMIC = struct.Struct("<qQ")
_IDENT = b"\x7fELF\x02\x01\x01"  # 64-bit, little-endian, version 1
_X86_64 = 62
_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_NULL, _DT_NEEDED, _DT_STRTAB, _DT_STRSZ, _DT_RPATH, _DT_RUNPATH = 0, 1, 5, 10, 15, 29
_MAX_PROGRAMS = 256
_MAX_DYNAMIC = 65_536


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A part of the file that is loaded (PT_LOAD). ``size`` in memory is at least ``len(data)``."""

    address: int
    size: int
    data: bytes
    readable: bool
    writable: bool
    executable: bool


@dataclass(frozen=True, kw_only=True)
class Elf:
    """A program or library. ``paths`` are where it wants its libraries looked for."""

    entry: int
    segments: tuple[Segment, ...]
    needed: tuple[str, ...]
    paths: tuple[str, ...]


def is_elf(start: bytes) -> bool:
    """Whether these first bytes are those of an ELF file that ``parse`` reads."""
    return start[: len(_IDENT)] == _IDENT


def parse(data: bytes, name: str = "the file") -> Elf:
    """Parse an ELF file. ``Refused(MALFORMED)``: it is none, or not one for x86-64."""
    try:
        return _parsed(data)
    except (struct.error, ValueError, IndexError, UnicodeDecodeError) as error:
        raise Refused(
            Code.MALFORMED, f"{name} is not an ELF file for x86-64 Linux ({error}). Name another"
        ) from error


def _parsed(data: bytes) -> Elf:
    header = _HEADER.unpack_from(data)
    ident, machine, entry, offset, size, count = (header[i] for i in (0, 2, 4, 5, 9, 10))
    if not is_elf(ident) or machine != _X86_64:
        raise ValueError("its header is another's")
    if size != _PROGRAM.size or count > _MAX_PROGRAMS:
        raise ValueError("its program headers are not as they should be")
    segments, dynamic = [], b""
    for index in range(count):
        kind, flags, start, address, _, in_file, in_memory, _ = _PROGRAM.unpack_from(
            data, offset + index * size
        )
        if kind not in (_PT_LOAD, _PT_DYNAMIC):
            continue
        if start + in_file > len(data) or in_memory < in_file:
            raise ValueError("a segment lies outside it")
        content = data[start : start + in_file]
        if kind == _PT_DYNAMIC:
            dynamic = content
            continue
        segments.append(
            Segment(
                address=address,
                size=in_memory,
                data=content,
                readable=bool(flags & 4),
                writable=bool(flags & 2),
                executable=bool(flags & 1),
            )
        )
    loads = tuple(segments)
    needed, paths = _libraries(loads, dynamic)
    return Elf(entry=entry, segments=loads, needed=needed, paths=paths)


def _libraries(
    loads: tuple[Segment, ...], dynamic: bytes
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    entries: list[tuple[int, int]] = []
    for position in range(0, min(len(dynamic), _MAX_DYNAMIC), _DYNAMIC.size):
        tag, value = _DYNAMIC.unpack_from(dynamic, position)
        if tag == _DT_NULL:
            break
        entries.append((tag, value))
    table = dict(entries)
    if _DT_STRTAB not in table:
        return (), ()
    strings = _memory(loads, table[_DT_STRTAB], table.get(_DT_STRSZ, 0))

    def text(at: int) -> str:
        return strings[at : strings.index(b"\0", at)].decode()

    wanted = (_DT_RUNPATH,) if _DT_RUNPATH in table else (_DT_RPATH,)
    found = [path for tag, at in entries if tag in wanted for path in text(at).split(":")]
    return tuple(text(at) for tag, at in entries if tag == _DT_NEEDED), tuple(filter(None, found))


def _memory(loads: tuple[Segment, ...], address: int, size: int) -> bytes:
    for one in loads:
        if one.address <= address and address + size <= one.address + len(one.data):
            return one.data[address - one.address : address - one.address + size]
    raise ValueError("its table of strings is not loaded")
