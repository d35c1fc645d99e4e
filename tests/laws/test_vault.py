# SPDX-License-Identifier: Apache-2.0
"""A sealed file gives back what went in, however it is written and read, and nothing else."""

import io
import tempfile
from itertools import pairwise
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from fedclave.errors import Refused
from fedclave.trust import vault
from fedclave.trust.vault import CHUNK, Vault

VAULT = Vault(b"k" * 32)
SIZES = st.one_of(
    st.integers(0, 300),
    st.integers(-2, 2).map(lambda n: CHUNK + n),
    st.integers(-2, 2).map(lambda n: 2 * CHUNK + n),
)


def content(size: int) -> bytes:
    return bytes(range(251)) * (size // 251) + bytes(size % 251)


def sealed(pieces: list[bytes]) -> bytes:
    out = io.BytesIO()
    writer = VAULT.writer(out, purpose="p")
    for piece in pieces:
        writer.write(memoryview(piece))
    writer.finish("n")
    return out.getvalue()


@given(size=SIZES, cuts=st.lists(st.integers(0, 3 * CHUNK), max_size=5), data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_range_of_what_was_written_in_any_pieces_is_read(
    size: int, cuts: list[int], data: st.DataObject
) -> None:
    whole = content(size)
    edges = sorted({0, size, *(cut for cut in cuts if cut < size)})
    raw = sealed([whole[a:b] for a, b in pairwise(edges)])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "f"
        path.write_bytes(raw)
        with VAULT.reader(path, purpose="p", name="n") as reader:
            assert b"".join(bytes(piece) for piece in vault.pieces(reader)) == whole
            for _ in range(4):
                at = data.draw(st.integers(0, size + 2))
                length = data.draw(st.integers(0, size + 2))
                reader.seek(at)
                assert reader.read(length) == whole[at : at + length]


@given(size=st.integers(0, 300), at=st.integers(0), bit=st.integers(0, 7))
@settings(max_examples=200, deadline=None)
def test_no_bit_of_a_sealed_file_can_be_turned(size: int, at: int, bit: int) -> None:
    raw = bytearray(VAULT.seal(content(size), purpose="p", name="n"))
    raw[at % len(raw)] ^= 1 << bit
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "f"
        path.write_bytes(raw)
        try:
            with VAULT.reader(path, purpose="p", name="n") as reader:
                reader.readall()
                raise AssertionError("a changed file was read")
        except Refused as refused:
            assert refused.code == "cannot-open"


@given(size=st.integers(0, 300))
@settings(max_examples=30, deadline=None)
def test_sealing_twice_shows_no_likeness(size: int) -> None:
    one, other = (VAULT.seal(content(size), purpose="p", name="n") for _ in range(2))
    assert len(one) == len(other)
    assert one[8:40] != other[8:40]
    assert one[80:96] != other[80:96]
