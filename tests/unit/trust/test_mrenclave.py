# SPDX-License-Identifier: Apache-2.0
"""MRENCLAVE against digests that Gramine's own signer computed, and against a second computation.

The digests are what the signer of Gramine (python/graminelibos, at the commit after 1.9) gave for
``elves.PAL`` and these texts, with the constants of release 1.9; it was run once, beside this code.
"""

import hashlib
from dataclasses import replace

import pytest
from tests.support import elves

from fedclave.errors import UserError
from fedclave.trust import elf, mrenclave
from fedclave.trust.elf import Elf
from fedclave.trust.mrenclave import RELEASES, Release, Shape

M = 2**20
RELEASE = RELEASES["1.9"]
PAL = elf.parse(elves.PAL)
SIGNED = {
    "one-thread": (
        b"x=1\n",
        Shape(size=16 * M, threads=1),
        "dbcf3c45339f7e773adbb3225f8628fa9526efd4c4dd26c408c8cf87a8d09ff6",
    ),
    "two-pages-of-text": (
        b"y" * 5000,
        Shape(size=64 * M, threads=4),
        "0b8b75f6b909fe59ceb0f45217a534b7a1c90d20f2593af6439048c4d977b438",
    ),
    "edmm": (
        b"z" * 4095,
        Shape(size=32 * M, threads=2, edmm=True),
        "1cbd8a6548a7141d148b7203bcea2966e17dee7a1f377bf4e383eaf9e79051c7",
    ),
    "text-that-fills-a-page": (
        b"q" * 4096,
        Shape(size=256 * M, threads=8),
        "972923153f2abea20767be14d590b49244fb343d20ffdb124683821bf79e8aee",
    ),
}


@pytest.mark.parametrize("name", SIGNED)
def test_it_is_what_gramines_signer_says(name: str) -> None:
    text, shape, expected = SIGNED[name]
    assert mrenclave.measure(text, PAL, shape, RELEASE).hex() == expected


def again(text: bytes, raw: bytes, shape: Shape) -> str:
    """The same from the SDM's pseudocode and the table of areas, page by page, in memory."""
    pages: list[tuple[int, int, bytes | None]] = []
    top, n = shape.size, shape.threads

    def below(size: int) -> int:
        nonlocal top
        top -= -(-size // 4096) * 4096
        return top

    def put(address: int, flags: int, content: bytes, size: int) -> None:
        content = content + b"\0" * (-(-size // 4096) * 4096 - len(content))
        for start in range(0, len(content), 4096):
            pages.append((address + start, flags, content[start : start + 4096]))

    def words(*pairs: tuple[int, int, int]) -> bytes:
        page = bytearray(4096)
        for offset, size, value in pairs:
            page[offset : offset + size] = value.to_bytes(size, "little")
        return bytes(page)

    manifest = below(len(text) + 1)
    ssa, tcs, tls = below(n * 32768), below(n * 4096), below(n * 4096)
    stacks = [below(262144) for _ in range(n)]
    signals = [below(65536) for _ in range(n)]
    loads = elf.parse(raw).segments
    base = below(max(one.address + one.size for one in loads))
    put(manifest, 0x201, text, len(text) + 1)
    put(ssa, 0x203, b"", n * 32768)
    for t in range(n):
        entry = base + int.from_bytes(raw[24:32], "little")
        page = words(
            (16, 8, ssa + t * 32768), (28, 4, 2), (32, 8, entry), (56, 8, tls + t * 4096),
            (64, 4, 4095), (68, 4, 4095),
        )  # fmt: skip
        put(tcs + t * 4096, 0x100, page, 4096)
    for t in range(n):
        frame = ssa + t * 32768
        page = words(
            (0, 8, tls + t * 4096), (8, 8, 0xBADBADBADBAD), (0x110, 8, shape.size),
            (0x118, 8, tcs + t * 4096), (0x120, 8, stacks[t] + 262144), (0x130, 8, signals[t]),
            (0x138, 8, signals[t] + 65536), (0x148, 8, frame), (0x150, 8, frame + 16384 - 0xB8),
            (0x1A0, 8, len(text) + 1), (0x1A8, 8, 0x10000), (0x1B0, 8, base),
        )  # fmt: skip
        put(tls + t * 4096, 0x203, page, 4096)
    for at in stacks:
        put(at, 0x203, b"", 262144)
    for at in signals:
        put(at, 0x203, b"", 65536)
    for one in loads:
        start = one.address & ~4095
        flags = 0x200 + one.readable + 2 * one.writable + 4 * one.executable
        put(
            base + start,
            flags,
            bytes(one.address - start) + one.data,
            one.address + one.size - start,
        )
    if not shape.edmm:
        pages += [(at, 0x207, None) for at in range(0x10000, base, 4096)]
    stream = bytearray(b"ECREATE\0" + (4).to_bytes(4, "little") + shape.size.to_bytes(8, "little"))
    stream += bytes(64 - len(stream))
    for address, flags, content in pages:
        stream += b"EADD\0\0\0\0" + address.to_bytes(8, "little") + flags.to_bytes(8, "little")
        stream += bytes(40)
        for chunk in range(0, 4096, 256) if content is not None else ():
            stream += b"EEXTEND\0" + (address + chunk).to_bytes(8, "little") + bytes(48)
            stream += (content or b"")[chunk : chunk + 256]
    return hashlib.sha256(stream).hexdigest()


@pytest.mark.parametrize("threads", [1, 3, 16])
@pytest.mark.parametrize("edmm", [False, True])
@pytest.mark.parametrize("size", [0, 1, 4094, 4095, 4096, 70_000])
def test_two_computations_agree(threads: int, edmm: bool, size: int) -> None:
    shape, text = Shape(size=32 * M, threads=threads, edmm=edmm), b"t" * size
    assert mrenclave.measure(text, PAL, shape, RELEASE).hex() == again(text, elves.PAL, shape)


def changed(**parts: object) -> bytes:
    base: dict[str, object] = {
        "text": b"x", "pal": PAL, "shape": Shape(size=16 * M, threads=2), "release": RELEASE,
    }  # fmt: skip
    now = {**base, **parts}
    return mrenclave.measure(now["text"], now["pal"], now["shape"], now["release"])  # type: ignore[arg-type]


def with_entry(pal: Elf, entry: int) -> Elf:
    return replace(pal, entry=entry)


OTHERS: dict[str, dict[str, object]] = {
    "text": {"text": b"y"},
    "a-space-more": {"text": b"x "},
    "size": {"shape": Shape(size=32 * M, threads=2)},
    "threads": {"shape": Shape(size=16 * M, threads=3)},
    "edmm": {"shape": Shape(size=16 * M, threads=2, edmm=True)},
    "entry": {"pal": with_entry(PAL, PAL.entry + 1)},
    "a-byte-of-the-binary": {"pal": elf.parse(elves.PAL.replace(b"data", b"dato"))},
    "permissions": {
        "pal": replace(PAL, segments=(*PAL.segments[:3], replace(PAL.segments[3], executable=True)))
    },
    "release": {"release": Release(stack=128 * 1024)},
}


@pytest.mark.parametrize("what", OTHERS)
def test_whatever_changes_changes_it(what: str) -> None:
    assert changed(**OTHERS[what]) != changed()


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        (Shape(size=0, threads=1), "power of two"),
        (Shape(size=3 * M, threads=1), "power of two"),
        (Shape(size=4096, threads=1), "power of two"),
        (Shape(size=16 * M, threads=0), "from 1 to 4096"),
        (Shape(size=16 * M, threads=5000), "from 1 to 4096"),
        (Shape(size=2 * M, threads=8), "too small"),
        (Shape(size=2**18, threads=1), "too small"),
    ],
    ids=["none", "three", "page", "no-threads", "threads", "too-many-for-it", "tiny"],
)
def test_enclaves_that_cannot_be_are_refused(shape: Shape, words: str) -> None:
    with pytest.raises(UserError, match=words):
        mrenclave.measure(b"x", PAL, shape, RELEASE)


def test_a_binary_that_wants_one_address_is_refused() -> None:
    fixed = elf.parse(elves.elf([(elves.R, 0x400000, b"x", 1)]))
    with pytest.raises(UserError, match="lie anywhere"):
        mrenclave.measure(b"x", fixed, Shape(size=16 * M, threads=1), RELEASE)
