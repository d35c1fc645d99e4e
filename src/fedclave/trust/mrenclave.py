# SPDX-License-Identifier: Apache-2.0
"""MRENCLAVE of an enclave that Gramine loads, computed from what it is made of. No SGX is needed.

An enclave's measurement is one SHA-256 over a record for each page that is added, and for each
256 bytes of a page that are measured (Intel SDM vol. 3D, 38.3 and ECREATE, EADD, EEXTEND in vol.
3D ch. 40). Gramine lays an enclave out from the top down: the manifest's text, then what each
thread needs, then its own binary (PAL); the rest is heap, which is added and not measured. So the
measurement follows from the text, the binary, the number of threads and the size, and from a few
constants of the Gramine release (``RELEASES``).
"""

import hashlib
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from fedclave.errors import UserError
from fedclave.trust.elf import Elf

PAGE = 4096
_CHUNK = 256  # bytes of one EEXTEND
_R, _W, _X = 1, 2, 4
_TCS, _REG = 0x100, 0x200  # SECINFO.FLAGS.PAGE_TYPE (SDM vol. 3D, 38.11)
_FRAME = 16 * 1024  # bytes of an SSA frame
_FRAMES = 2  # for each thread
_GPR = 184  # bytes of GPRSGX, at the end of a frame (SDM vol. 3D, 38.9.1.1)
_CREATE = struct.Struct("<8sIQ44x")
_ADD = struct.Struct("<8sQQ40x")
_EXTEND = struct.Struct("<8sQ48x")
_SIZE = re.compile(r"(0x[0-9a-fA-F]{1,15}|[1-9][0-9]{0,17})([KMG]?)")
_SHIFT = {"": 0, "K": 10, "M": 20, "G": 30}


@dataclass(frozen=True, kw_only=True)
class Release:
    """The constants of a Gramine release: sizes in bytes, and where a thread's page says what."""

    stack: int = 256 * 1024
    signal_stack: int = 64 * 1024
    lowest: int = 0x10000  # nothing lies below
    canary: int = 0xBADBADBADBAD
    thread: Mapping[str, int] = field(
        default_factory=lambda: MappingProxyType(
            {
                "self": 0x0,
                "canary": 0x8,
                "enclave size": 0x110,
                "tcs": 0x118,
                "stack": 0x120,
                "signal stack low": 0x130,
                "signal stack high": 0x138,
                "ssa": 0x148,
                "gpr": 0x150,
                "manifest size": 0x1A0,
                "heap low": 0x1A8,
                "heap high": 0x1B0,
            }
        )
    )


RELEASES: Mapping[str, Release] = MappingProxyType({"1.9": Release()})
"""By version. Another release has other constants until somebody has read them in its source."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How large an enclave is. ``edmm``: its heap is added while it runs (SGX2)."""

    size: int  # bytes, a power of two
    threads: int
    edmm: bool = False


@dataclass(frozen=True)
class _Area:
    address: int
    size: int
    flags: int
    content: bytes | None  # None: added, not measured; shorter than the area: zeros follow


def shape_of(manifest: Mapping[str, Any]) -> Shape:
    """How large the enclave of a manifest is; what it does not say is as in Gramine 1.9.

    ``UserError``: it says something that is no size or number.
    """
    sgx = manifest.get("sgx", {})
    if not isinstance(sgx, dict):
        raise UserError("sgx is not a table in the manifest. Name a Gramine manifest")
    edmm, threads = sgx.get("edmm_enable", False), sgx.get("max_threads", 4)
    if type(edmm) is not bool or type(threads) is not int:
        raise UserError("sgx.edmm_enable or sgx.max_threads is no boolean, or number. Correct it")
    size = sgx.get("enclave_size", "1024G" if edmm else "256M")
    return Shape(size=size_of(size), threads=threads, edmm=edmm)


def size_of(text: object) -> int:
    """Bytes of a size as Gramine writes it. ``UserError``: it is none.

    >>> size_of("8G"), size_of("256M"), size_of("0x10000")
    (8589934592, 268435456, 65536)
    """
    match = _SIZE.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise UserError(f"{text!r:.40} is not the size of an enclave. Write 8G, or 512M")
    return int(match[1], 0) << _SHIFT[match[2]]


def measure(manifest: bytes, pal: Elf, shape: Shape, release: Release) -> bytes:
    """MRENCLAVE, 32 bytes. ``manifest`` is the whole text that Gramine reads, as it is signed.

    ``UserError``: the size is not one that SGX knows, or too small for what lies in it.
    """
    _check(shape)
    state = hashlib.sha256()
    state.update(_CREATE.pack(b"ECREATE", _FRAME // PAGE, shape.size))
    for area in _areas(manifest, pal, shape, release):
        for record in _records(area):
            state.update(record)
    return state.digest()


def _check(shape: Shape) -> None:
    if shape.size < 2 * PAGE or shape.size & (shape.size - 1):
        raise UserError(
            f"an enclave of {shape.size} bytes: its size must be a power of two. Write 4G, say"
        )
    if not 1 <= shape.threads <= 4096:
        raise UserError(f"{shape.threads} threads: an enclave has from 1 to 4096")


def _areas(manifest: bytes, pal: Elf, shape: Shape, release: Release) -> Iterator[_Area]:
    """Every area, in the order in which it is measured: from the top of the enclave down."""
    text = manifest + b"\0"
    threads = shape.threads
    top = shape.size
    manifest_at = top = top - _up(len(text))
    ssa = top = top - threads * _FRAMES * _FRAME
    tcs = top = top - threads * PAGE
    page = top = top - threads * PAGE
    stacks = [top - (i + 1) * release.stack for i in range(threads)]
    top -= threads * release.stack
    signals = [top - (i + 1) * release.signal_stack for i in range(threads)]
    top -= threads * release.signal_stack
    if not pal.segments or min(one.address for one in pal.segments) // PAGE:
        raise UserError("Gramine's binary is not one that can lie anywhere. Name its libpal.so")
    base = top - _up(max(one.address + one.size for one in pal.segments))
    if base < release.lowest:
        raise UserError(
            f"an enclave of {shape.size} bytes is too small for {threads} threads and its manifest."
            " Give it more: --enclave-size 4G, say"
        )
    frames = [ssa + i * _FRAMES * _FRAME for i in range(threads)]
    yield _Area(manifest_at, _up(len(text)), _R | _REG, text)
    yield _Area(ssa, threads * _FRAMES * _FRAME, _R | _W | _REG, b"")
    yield _Area(
        tcs,
        threads * PAGE,
        _TCS,
        b"".join(_tcs(frames[i], base + pal.entry, page + i * PAGE) for i in range(threads)),
    )
    own = {
        "canary": release.canary,
        "enclave size": shape.size,
        "manifest size": len(text),
        "heap low": release.lowest,
        "heap high": base,
    }
    yield _Area(
        page,
        threads * PAGE,
        _R | _W | _REG,
        b"".join(
            _thread(
                release,
                {
                    **own,
                    "self": page + i * PAGE,
                    "tcs": tcs + i * PAGE,
                    "stack": stacks[i] + release.stack,
                    "signal stack low": signals[i],
                    "signal stack high": signals[i] + release.signal_stack,
                    "ssa": frames[i],
                    "gpr": frames[i] + _FRAME - _GPR,
                },
            )
            for i in range(threads)
        ),
    )
    for at in stacks:
        yield _Area(at, release.stack, _R | _W | _REG, b"")
    for at in signals:
        yield _Area(at, release.signal_stack, _R | _W | _REG, b"")
    for one in pal.segments:
        start = one.address // PAGE * PAGE
        flags = _R * one.readable | _W * one.writable | _X * one.executable | _REG
        content = bytes(one.address - start) + one.data
        yield _Area(base + start, _up(one.address + one.size) - start, flags, content)
    if not shape.edmm:
        yield _Area(release.lowest, base - release.lowest, _R | _W | _X | _REG, None)


def _records(area: _Area) -> Iterator[bytes]:
    if area.content is None:
        for at in range(area.address, area.address + area.size, PAGE):
            yield _ADD.pack(b"EADD", at, area.flags)
        return
    content = area.content.ljust(area.size, b"\0")
    for offset in range(0, area.size, PAGE):
        records = [_ADD.pack(b"EADD", area.address + offset, area.flags)]
        for chunk in range(offset, offset + PAGE, _CHUNK):
            records.append(_EXTEND.pack(b"EEXTEND", area.address + chunk))
            records.append(content[chunk : chunk + _CHUNK])
        yield b"".join(records)


def _tcs(ssa: int, entry: int, gs: int) -> bytes:
    """A thread control structure (SDM vol. 3D, 38.8)."""
    page = bytearray(PAGE)
    struct.pack_into("<QII", page, 16, ssa, 0, _FRAMES)
    struct.pack_into("<Q", page, 32, entry)
    struct.pack_into("<QII", page, 56, gs, 0xFFF, 0xFFF)
    return bytes(page)


def _thread(release: Release, values: Mapping[str, int]) -> bytes:
    page = bytearray(PAGE)
    for name, value in values.items():
        struct.pack_into("<Q", page, release.thread[name], value)
    return bytes(page)


def _up(size: int) -> int:
    return (size + PAGE - 1) // PAGE * PAGE
