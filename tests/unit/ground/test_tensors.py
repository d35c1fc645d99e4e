# SPDX-License-Identifier: Apache-2.0
"""The safetensors layout: canonical when written, strict when read, atomic on disk."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedclave import tensors
from fedclave.errors import Code, Refused
from fedclave.tensors import BFLOAT16, MAX_HEADER, Array


def framed(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def field(shape: Any, *offsets: Any, dtype: Any = "U8") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": list(offsets)}


class Interrupted(Mapping[str, Array]):
    """Tensors of which the last cannot be read: what a full or failing disk does to a write."""

    def __getitem__(self, name: str) -> Array:
        if name == "b" and self.asked:
            raise OSError(28, "No space left on device")
        self.asked = self.asked or name == "b"
        return np.ones(4, np.float32)

    def __iter__(self) -> Iterator[str]:
        return iter(("a", "b"))

    def __len__(self) -> int:
        return 2

    asked = False


def test_bytes_are_those_of_the_format() -> None:
    header = b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
    header += b'"b":{"dtype":"BOOL","shape":[],"data_offsets":[8,9]}}'
    header += b" " * (-len(header) % 8)
    expected = framed(header, np.array([1.0, -2.0], "<f4").tobytes() + b"\1")
    given = {"b": np.array(True), "w": np.array([1.0, -2.0], np.float32)}
    assert tensors.encode(given) == expected
    assert tensors.digest(given) == hashlib.sha256(expected).hexdigest()
    assert tensors.layout_of(given).size == len(expected)


def test_digest_does_not_depend_on_order_strides_or_byte_order() -> None:
    plain = {"a": np.arange(6, dtype="<f4").reshape(2, 3), "b": np.arange(3)}
    other = {"b": np.arange(6)[::2] // 2, "a": np.asfortranarray(plain["a"]).astype(">f4")}
    assert tensors.digest(plain) == tensors.digest(other)


def test_nothing_is_a_file_too() -> None:
    assert tensors.encode({}) == framed(b"{}      ")
    assert tensors.views(tensors.encode({})) == {}


@pytest.mark.parametrize("array", [np.zeros(2, "c8"), np.array(["x"]), np.array([None])], ids=str)
def test_a_dtype_outside_the_format_is_an_error(array: Array) -> None:
    with pytest.raises(TypeError, match="dtype"):
        tensors.encode({"x": array})


def test_a_tensor_cannot_take_the_reserved_name() -> None:
    with pytest.raises(TypeError, match="reserves the name"):
        tensors.encode({"__metadata__": np.zeros(1)})


def test_views_are_read_only_and_copy_nothing() -> None:
    data = tensors.encode({"x": np.arange(4)})
    view = tensors.views(data)["x"]
    assert not view.flags.writeable
    assert np.shares_memory(view, np.frombuffer(data, np.uint8))


HOSTILE: dict[str, bytes] = {
    "empty": b"",
    "seven bytes": b"\0" * 7,
    "length beyond the file": (2**63).to_bytes(8, "little") + b"{}",
    "length beyond the limit": (MAX_HEADER + 1).to_bytes(8, "little") + b" " * (MAX_HEADER + 1),
    "no JSON": framed(b"not json"),
    "not UTF-8": framed(b'{"\xff":1}'),
    "UTF-16": framed("{}".encode("utf-16")),
    "byte order mark": framed(b"\xef\xbb\xbf{}"),
    "a list": framed([]),
    "tower of brackets": framed(b"[" * 100_000),
    "a number of 5000 digits": framed(b'{"a":' + b"9" * 5000 + b"}"),
    "duplicate name": framed(b'{"a":%s,"a":%s}' % ((json.dumps(field([0], 0, 0)).encode(),) * 2)),
    "metadata that is no text": framed({"__metadata__": {"a": 1}}),
    "metadata that is no mapping": framed({"__metadata__": 5}),
    "field that is a list": framed({"a": []}),
    "missing key": framed({"a": {"dtype": "U8", "shape": [0]}}),
    "further key": framed({"a": {**field([0], 0, 0), "x": 1}}),
    "unknown dtype": framed({"a": field([0], 0, 0, dtype="F8_E4M3")}),
    "unhashable dtype": framed({"a": field([0], 0, 0, dtype=[])}),
    "negative dimension": framed({"a": field([-1], 0, 0)}),
    "bool dimension": framed({"a": field([True], 0, 1)}, b"x"),
    "float dimension": framed({"a": field([1.0], 0, 1)}, b"x"),
    "three offsets": framed({"a": field([0], 0, 0, 0)}),
    "offsets reversed": framed({"a": field([1], 1, 0)}, b"x"),
    "terabytes claimed": framed({"a": field([2**42], 0, 2**42)}),
    "shape that overflows": framed({"a": field([2**32, 2**32, 0], 0, 0)}),
    "dimension beyond 64 bits": framed({"a": field([0, 2**70], 0, 0)}),
    "100000 dimensions": framed({"a": field([2**62] * 100_000, 0, 0)}),
    "33 dimensions": framed({"a": field([1] * 33, 0, 1)}, b"x"),
    "lone surrogate": framed(b'{"\\ud800":%s}' % json.dumps(field([0], 0, 0)).encode()),
    "gap": framed({"a": field([1], 1, 2)}, b"xy"),
    "overlap": framed({"a": field([2], 0, 2), "b": field([2], 1, 3)}, b"xyz"),
    "bytes left over": framed({"a": field([1], 0, 1)}, b"xy"),
    "bytes missing": framed({"a": field([2], 0, 2)}, b"x"),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_hostile_file_is_refused_as_malformed(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(data)
    for read in (lambda: tensors.views(data), lambda: tensors.Stored(path)):
        with pytest.raises(Refused) as caught:
            read()
        assert caught.value.code is Code.MALFORMED
        assert len(str(caught.value)) < 500


def test_a_long_name_does_not_make_a_long_message() -> None:
    with pytest.raises(Refused) as caught:
        tensors.views(framed({"n" * 10**6: field([1], 5, 6)}, b"x"))
    assert len(str(caught.value)) < 200


def test_stored_tensors_are_read_one_at_a_time(tmp_path: Path) -> None:
    given = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array(3)}
    sha = tensors.write(tmp_path / "model.safetensors", given)
    stored = tensors.Stored(tmp_path / "model.safetensors")
    assert sorted(stored) == ["n", "w"]
    assert len(stored) == 2
    assert np.array_equal(stored["w"], given["w"])
    assert stored["n"].shape == ()
    assert stored["w"].flags.writeable
    assert tensors.file_digest(stored.path) == sha == tensors.digest(stored)


def test_file_that_shrinks_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    tensors.write(path, {"w": np.zeros(1000)})
    stored = tensors.Stored(path)
    with path.open("r+b") as file:
        file.truncate(500)
    with pytest.raises(Refused, match="became shorter"):
        stored["w"]


def test_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    before = tensors.write(path, {"w": np.zeros(3)})
    with pytest.raises(OSError, match="No space left"):
        tensors.write(path, Interrupted())
    assert tensors.file_digest(path) == before
    assert list(tmp_path.iterdir()) == [path]


def test_content_is_stored_under_its_digest(tmp_path: Path) -> None:
    sha = tensors.write_content(tmp_path, {"w": np.zeros(3)})
    assert [path.name for path in tmp_path.iterdir()] == [f"{sha}.safetensors"]
    assert tensors.file_digest(tmp_path / f"{sha}.safetensors") == sha


@pytest.mark.parametrize("shape", [(), (0,), (2, 3)])
def test_bfloat16_conversions_keep_the_shape(shape: tuple[int, ...]) -> None:
    array = np.full(shape, 1.5, np.float32, order="F")
    narrowed = tensors.narrow(array)
    widened = tensors.widen(narrowed)
    assert (narrowed.shape, narrowed.dtype) == (shape, BFLOAT16)
    assert isinstance(widened, np.ndarray)
    assert (widened.shape, widened.dtype) == (shape, np.float32)
    assert np.array_equal(widened, array)


def test_bfloat16_refuses_arithmetic() -> None:
    with pytest.raises(TypeError):
        tensors.narrow(np.ones(2, np.float32)) + tensors.narrow(np.ones(2, np.float32))


def test_two_threads_may_write_into_one_folder(tmp_path: Path) -> None:
    given = [{"w": np.full(2**16, value)} for value in range(8)]
    with ThreadPoolExecutor(4) as pool:
        written = list(pool.map(lambda tensor: tensors.write_content(tmp_path, tensor), given))
    assert written == [tensors.digest(tensor) for tensor in given]
    assert {tensors.file_digest(path) for path in tmp_path.iterdir()} == set(written)
