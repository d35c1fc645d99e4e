# SPDX-License-Identifier: Apache-2.0
"""The tensor format for all dtypes and shapes: round trip, digest, hostile bytes, other readers."""

import hashlib
import json
import tracemalloc
from pathlib import Path

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from fedclave import tensors
from fedclave.errors import Code, Refused
from fedclave.tensors import BFLOAT16, DTYPES, Array, Tensors

NAMES = st.text(st.characters(codec="utf-8"), max_size=8).filter(lambda n: n != "__metadata__")


@st.composite
def arrays(draw: st.DrawFn) -> Array:
    """An array of any dtype and shape, with any bits: NaN payloads and denormals among them."""
    dtype = draw(st.sampled_from(list(DTYPES.values())))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
    size = int(np.prod(shape)) * dtype.itemsize
    raw = draw(st.binary(min_size=size, max_size=size))
    if dtype == np.bool_:
        raw = bytes(byte & 1 for byte in raw)
    return np.frombuffer(raw, dtype).reshape(shape) if size else np.empty(shape, dtype)


TENSORS = st.dictionaries(NAMES, arrays(), max_size=5)


@given(TENSORS)
def test_what_is_written_reads_back_bit_for_bit(given_: Tensors) -> None:
    data = tensors.encode(given_)
    assert len(data) == tensors.layout_of(given_).size
    back = tensors.views(data)
    assert {n: bits(a) for n, a in back.items()} == {n: bits(a) for n, a in given_.items()}


@given(TENSORS)
def test_the_digest_is_that_of_the_bytes_and_of_nothing_else(given_: Tensors) -> None:
    data = tensors.encode(given_)
    assert tensors.digest(given_) == hashlib.sha256(data).hexdigest()
    assert tensors.encode(dict(reversed(given_.items()))) == data
    assert tensors.encode(tensors.views(data)) == data


@given(TENSORS)
def test_a_layout_survives_its_own_header(given_: Tensors) -> None:
    of = tensors.layout_of(given_)
    assert tensors.parse_layout(of.header, of.size) == of


@given(TENSORS)
def test_every_tensor_is_aligned_to_its_items(given_: Tensors) -> None:
    of = tensors.layout_of(given_)
    assert len(of.header) % 8 == 0
    assert all(e.start % DTYPES[e.dtype].itemsize == 0 for e in of.entries)


@given(TENSORS, st.data())
def test_a_file_cut_anywhere_is_refused(given_: Tensors, draw: st.DataObject) -> None:
    data = tensors.encode(given_)
    assert refused(data[: draw.draw(st.integers(0, len(data) - 1))])


@given(TENSORS, st.data())
def test_a_changed_byte_is_refused_or_read_as_what_it_says(
    given_: Tensors, draw: st.DataObject
) -> None:
    data = bytearray(tensors.encode(given_))
    for _ in range(draw.draw(st.integers(1, 3))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    assert refused(bytes(data)) or readable(bytes(data))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from(sorted(DTYPES)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)
SIZES = st.integers(0, 4) | st.integers(0, 2**64) | st.integers() | JSON
FIELDS = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(sorted(DTYPES)) | JSON,
        "shape": st.lists(SIZES, max_size=40) | JSON,
        "data_offsets": st.lists(SIZES, min_size=2, max_size=2) | JSON,
    }
)


@given(st.dictionaries(st.text(max_size=3), FIELDS | JSON, max_size=3) | JSON, st.binary())
def test_any_header_is_refused_or_read_as_what_it_says(header: object, body: bytes) -> None:
    text = json.dumps(header).encode()
    data = len(text).to_bytes(8, "little") + text + body
    assert refused(data) or readable(data)


@given(st.binary(max_size=64), st.integers(0, 80))
def test_any_bytes_are_refused_or_read_as_what_they_say(body: bytes, length: int) -> None:
    for data in (body, length.to_bytes(8, "little") + body):
        assert refused(data) or readable(data)


@given(st.integers(0, 2**64 - 1), st.integers(2**28, 2**62))
@settings(max_examples=25)
def test_no_claim_makes_the_reader_allocate(length: int, claimed: int) -> None:
    field = {"dtype": "U8", "shape": [claimed], "data_offsets": [0, claimed]}
    text = json.dumps({"a": field}).encode()
    for data in (
        len(text).to_bytes(8, "little") + text,
        length.to_bytes(8, "little") + text,
    ):
        tracemalloc.start()
        assert refused(data)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2**18


@given(TENSORS)
def test_the_official_package_reads_what_we_write(given_: Tensors) -> None:
    plain = {n: a for n, a in given_.items() if a.dtype != BFLOAT16}
    theirs = safetensors.numpy.load(tensors.encode(plain))
    assert {n: bits(a) for n, a in theirs.items()} == {n: bits(a) for n, a in plain.items()}


@given(TENSORS)
def test_we_read_what_the_official_package_writes(given_: Tensors) -> None:
    plain = {n: a for n, a in given_.items() if a.dtype != BFLOAT16}
    ours = tensors.views(safetensors.numpy.save(plain, {"format": "np"}))
    assert {n: bits(a) for n, a in ours.items()} == {n: bits(a) for n, a in plain.items()}


def test_bfloat16_goes_both_ways_through_the_official_package(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file, save_file

    path = tmp_path / "model.safetensors"
    values = torch.tensor([[1.0, -2.5], [3e38, 0.1]], dtype=torch.bfloat16)
    save_file({"w": values}, path)
    ours = tensors.Stored(path)["w"]
    assert np.array_equal(tensors.widen(ours), values.to(torch.float32).numpy())
    tensors.write(path, {"w": ours})
    assert torch.equal(load_file(path)["w"], values)


def bits(array: Array) -> tuple[str, tuple[int, ...], bytes]:
    return array.dtype.str, array.shape, array.tobytes()


def readable(data: bytes) -> bool:
    """Whether the tensors are consistent with the bytes: nothing is invented, nothing left out."""
    read = tensors.views(data)
    of = tensors.parse_layout(data, len(data))
    assert of.header
    assert sum(array.nbytes for array in read.values()) == of.entries[-1].end if read else True
    return True


def refused(data: bytes) -> bool:
    try:
        tensors.views(data)
    except Refused as error:
        return error.code is Code.MALFORMED
    return False
