# SPDX-License-Identifier: Apache-2.0
"""A model is received in pieces of any size, and is what was promised or nothing."""

import hashlib
import tracemalloc

import numpy as np
import pytest

from fedclave.engine.incoming import Incoming
from fedclave.errors import Code, Refused
from fedclave.tensors import BFLOAT16, Tensors, encode

MODEL: Tensors = {
    "weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "bias": np.arange(4, dtype=np.float64),
    "none": np.zeros((0, 2), np.float32),
    "half": np.arange(3, dtype=np.uint16).view(BFLOAT16),
    "steps": np.array(7),
    "mask": np.array([True, False, True]),
}
DATA = encode(MODEL)
DIGEST = hashlib.sha256(DATA).hexdigest()


def refusal(digest: str, size: int, data: bytes) -> Code:
    incoming = Incoming(digest, size)
    with pytest.raises(Refused) as refused:
        incoming.write(data)
        incoming.whole()
    return refused.value.code


@pytest.mark.parametrize("step", [1, 5, 8, 9, len(DATA) - 1, len(DATA)])
def test_pieces_of_any_size_make_the_model(step: int) -> None:
    incoming = Incoming(DIGEST, len(DATA))
    for at in range(0, len(DATA), step):
        assert incoming.offset == at
        incoming.write(DATA[at : at + step])
    got = incoming.whole()
    assert set(got) == set(MODEL)
    for name, tensor in MODEL.items():
        assert (got[name].dtype, got[name].shape) == (tensor.dtype, tensor.shape)
        assert got[name].tobytes() == tensor.tobytes()


def test_a_model_without_tensors_is_one_too() -> None:
    data = encode({})
    incoming = Incoming(hashlib.sha256(data).hexdigest(), len(data))
    incoming.write(data)
    assert incoming.whole() == {}


def test_other_bytes_are_refused() -> None:
    other = DATA[:-1] + bytes([DATA[-1] ^ 1])
    assert refusal(DIGEST, len(DATA), other) is Code.WRONG_DIGEST


def test_more_bytes_than_promised_are_refused() -> None:
    assert refusal(DIGEST, len(DATA), DATA + b"x") is Code.TOO_LARGE


@pytest.mark.parametrize("kept", [0, 4, 50, len(DATA) - 1])
def test_a_model_that_ends_early_is_refused(kept: int) -> None:
    short = DATA[:kept]
    assert refusal(hashlib.sha256(short).hexdigest(), len(DATA), short) is Code.MALFORMED


@pytest.mark.parametrize(
    "head",
    [b"\xff" * 8, (2**40).to_bytes(8, "little"), b"\x08" + bytes(7) + b"not json", bytes(8)],
    ids=["a length past all", "a length past the size", "no JSON", "an empty header"],
)
def test_a_header_that_is_none_is_refused(head: bytes) -> None:
    data = head.ljust(64, b"\0")
    assert refusal(hashlib.sha256(data).hexdigest(), len(data), data) is Code.MALFORMED


def test_a_promise_of_more_than_fits_is_refused_when_it_is_made_good() -> None:
    huge = 2**60
    text = b'{"w":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}' % (huge, huge)
    data = len(text).to_bytes(8, "little") + text
    assert refusal(DIGEST, len(data) + huge, data + b"x") is Code.TOO_LARGE


def test_memory_grows_with_what_came_not_with_what_was_promised() -> None:
    block = 2**20
    data = encode({f"t{i:02}": np.zeros(block // 4, np.float32) for i in range(64)})
    incoming = Incoming(DIGEST, len(data))
    tracemalloc.start()
    try:
        incoming.write(data[: 2 * block])
        taken = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert taken < len(data) / 8
