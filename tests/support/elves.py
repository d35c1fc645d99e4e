# SPDX-License-Identifier: Apache-2.0
"""ELF files made by hand: the same bytes on every machine, whatever its compiler."""

import struct
from collections.abc import Sequence

R, W, X = 4, 2, 1
LOAD, DYNAMIC = 1, 2


def program(kind: int, flags: int, offset: int, address: int, data: int, memory: int) -> bytes:
    return struct.pack("<IIQQQQQQ", kind, flags, offset, address, address, data, memory, 4096)


def elf(
    parts: Sequence[tuple[int, int, bytes, int]], *, entry: int = 0, dynamic: int | None = None
) -> bytes:
    """A shared object of segments (flags, address, bytes, size in memory).

    ``dynamic`` is the index of the part that is also its dynamic section.
    """
    count = len(parts) + (dynamic is not None)
    head = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01", 3, 62, 1, entry, 64, 0, 0, 64, 56, count, 64, 0, 0,
    )  # fmt: skip
    offset, headers, body = 4096, [], b""
    for flags, address, data, size in parts:
        offset += (address - offset) % 4096  # as the ABI wants it: congruent
        headers.append(program(LOAD, flags, offset, address, len(data), size))
        body = body.ljust(offset - 4096, b"\0") + data
        offset += len(data)
    if dynamic is not None:
        _, address, data, _ = parts[dynamic]
        at = struct.unpack_from("<Q", headers[dynamic], 8)[0]
        headers.append(program(DYNAMIC, R, at, address, len(data), len(data)))
    return (head + b"".join(headers)).ljust(4096, b"\0") + body


PAL = elf(
    [
        (R, 0, b"head" * 300, 1200),
        (R | X, 0x1000, bytes(range(256)) * 40, 10240),
        (R, 0x4000, b"const" * 999, 4995),
        (R | W, 0x7F50, b"data" * 44, 0x5000),
    ],
    entry=0x1230,
)
"""Something like Gramine's libpal.so: four segments, the last one with zeros after it."""


def library(needed: Sequence[str], runpath: str = "") -> bytes:
    """A library that names others."""
    strings, entries = b"\0", []
    for name in needed:
        entries.append((1, len(strings)))
        strings += name.encode() + b"\0"
    if runpath:
        entries.append((29, len(strings)))
        strings += runpath.encode() + b"\0"
    entries += [(5, 0x2000), (10, len(strings)), (0, 0)]
    table = b"".join(struct.pack("<qQ", tag, value) for tag, value in entries)
    return elf([(R, 0x1000, table, len(table)), (R, 0x2000, strings, len(strings))], dynamic=0)
