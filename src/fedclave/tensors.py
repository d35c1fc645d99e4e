# SPDX-License-Identifier: Apache-2.0
"""Named tensors and their one format: the safetensors layout, on disk, on the wire and in digests.

    8 bytes little-endian header length | JSON header, space-padded to 8 | the data, contiguous

``encode`` is canonical: tensors are ordered by item size (largest first, so that all stay aligned),
then by name, and the header has one spelling. Equal tensors therefore have equal bytes and one
SHA-256. The reader is strict (every byte accounted for, no duplicate key) and sizes nothing from a
claim: it slices what is there. Readers of safetensors elsewhere read what is written here.

NumPy has no bfloat16. Here it is ``BFLOAT16``, a one-field structured dtype over uint16: NumPy
carries it faithfully and refuses arithmetic on it; ``widen`` and ``narrow`` convert.
"""

import hashlib
import json
import os
import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedclave.durable import Opens, as_it_is, write_file
from fedclave.durable import sync_folder as sync_folder
from fedclave.errors import Code, Refused

Array = NDArray[Any]
Tensors = Mapping[str, Array]

BFLOAT16 = np.dtype([("bfloat16", "<u2")])

DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": BFLOAT16,
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
"""The dtypes that a model may have, by their safetensors names."""

_CODES = {dtype: code for code, dtype in DTYPES.items()}
MAX_HEADER = 16 * 2**20  # bytes
MAX_DIMENSIONS = 32  # NumPy 1's own limit; NumPy 2 has 64
MAX_SIZE = 2**63 - 1  # of a dimension, an offset or a tensor's bytes: what NumPy can address
BLOCK = 2**20  # bytes written or hashed at a time


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies: ``start`` and ``end`` count from the first byte of the data."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def count(self) -> int:
        """Number of elements."""
        return prod(self.shape)


@dataclass(frozen=True)
class Layout:
    """Names, dtypes and shapes of a set of tensors, in the order of their bytes."""

    entries: tuple[Entry, ...]

    @cached_property
    def header(self) -> bytes:
        """The canonical length and header; with the data it makes the file."""
        return self._header({})

    def header_with(self, metadata: Mapping[str, str]) -> bytes:
        """The header of a file that says more than its tensors: for export, as no digest has it."""
        return self._header({"__metadata__": dict(metadata)} if metadata else {})

    def _header(self, fields: dict[str, Any]) -> bytes:
        for e in self.entries:
            offsets = [e.start, e.end]
            fields[e.name] = {"dtype": e.dtype, "shape": list(e.shape), "data_offsets": offsets}
        text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    @property
    def size(self) -> int:
        """Bytes of the whole: header and data."""
        return len(self.header) + (self.entries[-1].end if self.entries else 0)


def layout(shapes: Mapping[str, tuple[str, tuple[int, ...]]]) -> Layout:
    """The canonical layout of tensors given as name -> (dtype code, shape)."""
    order = sorted(shapes, key=lambda name: (-DTYPES[shapes[name][0]].itemsize, name))
    entries, at = [], 0
    for name in order:
        code, shape = shapes[name]
        end = at + prod(shape) * DTYPES[code].itemsize
        entries.append(Entry(name, code, tuple(shape), at, end))
        at = end
    return Layout(tuple(entries))


def layout_of(tensors: Tensors) -> Layout:
    """The canonical layout of these tensors. Raises ``TypeError`` for a dtype not in ``DTYPES``."""
    return layout({name: (_code(name, a), a.shape) for name, a in tensors.items()})


def parse_layout(head: bytes | memoryview, total: int) -> Layout:
    """Read the layout from the first bytes of a file of ``total`` bytes.

    ``head`` must hold the whole header. Raises ``Refused(MALFORMED)`` unless the tensors cover the
    data exactly, in order, each with a known dtype and a shape that matches its length.
    """
    length = int.from_bytes(head[:8], "little")
    if len(head) < 8 or length > min(MAX_HEADER, total - 8) or length > len(head) - 8:
        raise _malformed("the header's length does not fit the file")
    try:
        text = str(head[8 : 8 + length], "utf-8")  # json.loads(bytes) would take UTF-16 too
        fields = json.loads(text, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise _malformed(f"header: {error}") from error
    if not isinstance(fields, dict):
        raise _malformed("the header is not an object")
    metadata = fields.pop("__metadata__", {})
    if not (isinstance(metadata, dict) and all(isinstance(v, str) for v in metadata.values())):
        raise _malformed("__metadata__ must map strings to strings")
    entries = sorted((_entry(n, f) for n, f in fields.items()), key=lambda e: (e.start, e.end))
    at = 0
    for entry in entries:
        if entry.start != at:
            shown = reprlib.repr(entry.name)
            raise _malformed(f"{shown} does not begin where the tensor before it ends")
        at = entry.end
    if 8 + length + at != total:
        raise _malformed(f"{total} bytes, but the header describes {8 + length + at}")
    return Layout(tuple(entries))


def views(data: bytes | memoryview, of: Layout | None = None) -> dict[str, Array]:
    """Read-only arrays over the bytes of a whole file, without a copy."""
    view = memoryview(data).toreadonly()
    of = of or parse_layout(view, len(view))
    base = 8 + int.from_bytes(view[:8], "little")
    return {e.name: _array(view[base + e.start : base + e.end], e) for e in of.entries}


def pieces(tensors: Tensors, known: Layout | None = None) -> Iterator[memoryview]:
    """The canonical bytes, a piece at a time, without a copy of the whole.

    With the ``known`` canonical layout each tensor is asked for once, when its turn comes.
    """
    order = known or layout_of(tensors)
    yield memoryview(order.header)
    for entry in order.entries:
        flat = np.ascontiguousarray(tensors[entry.name], dtype=DTYPES[entry.dtype])
        raw = flat.reshape(-1).view(np.uint8).data
        for at in range(0, len(raw), BLOCK):
            yield raw[at : at + BLOCK]


def encode(tensors: Tensors) -> bytes:
    """The canonical bytes of these tensors."""
    return b"".join(pieces(tensors))


def digest(tensors: Tensors) -> str:
    """SHA-256 (hex) of the canonical bytes."""
    sha = hashlib.sha256()
    for piece in pieces(tensors):
        sha.update(piece)
    return sha.hexdigest()


def write(path: Path, tensors: Tensors) -> str:
    """Write a file atomically and durably; returns its SHA-256 (hex).

    Temporary file, fsync, rename, fsync of the folder: after a crash there is the old file or the
    new one. ``OSError`` passes through, with the temporary file removed.
    """
    return write_file(path.parent, lambda digest: path.name, pieces(tensors), durable=True)


def write_export(path: Path, tensors: Tensors, metadata: Mapping[str, str]) -> None:
    """Write a file as ``write`` does, with metadata in its header that no digest covers."""
    data = pieces(tensors)
    next(data)
    header = memoryview(layout_of(tensors).header_with(metadata))
    write_file(path.parent, lambda digest: path.name, chain([header], data), durable=True)


def metadata(path: Path) -> Mapping[str, str]:
    """What the header of a whole file says beside its tensors."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        fields = json.loads(file.read(min(length, MAX_HEADER)))
    found: Mapping[str, str] = fields.get("__metadata__", {})
    return found


def write_content(
    folder: Path, tensors: Tensors, *, known: Layout | None = None, durable: bool = True
) -> str:
    """Write ``<SHA-256>.safetensors`` into a folder, as ``write`` does; returns the SHA-256.

    Not ``durable``: whole after a crash of the process, perhaps not after one of the machine.
    """
    data = pieces(tensors, known)
    return write_file(folder, lambda digest: f"{digest}.safetensors", data, durable=durable)


class Stored(Mapping[str, Array]):
    """The tensors of a file, each read when it is asked for: memory holds what is in use only."""

    def __init__(self, path: Path, opens: Opens = as_it_is) -> None:
        self.path = path
        self._opens = opens
        with opens(path) as file:
            total = file.seek(0, os.SEEK_END)
            file.seek(0)
            head = file.read(8) or b""
            length = int.from_bytes(head, "little")
            if length > min(MAX_HEADER, total):
                raise _malformed(f"{path.name}: the header's length does not fit the file")
            self.layout = parse_layout(head + (file.read(length) or b""), total)
        self.size = total
        self._base = 8 + length
        self._entries = {entry.name: entry for entry in self.layout.entries}

    def __getitem__(self, name: str) -> Array:
        entry = self._entries[name]
        array = np.empty(entry.shape, DTYPES[entry.dtype])
        with self._opens(self.path) as file:
            file.seek(self._base + entry.start)
            raw, at = array.reshape(-1).view(np.uint8).data, 0
            while at < len(raw):
                got = file.readinto(raw[at:])
                if not got:
                    raise _malformed(f"{self.path.name} became shorter while it was read")
                at += got
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def file_digest(path: Path, opens: Opens = as_it_is) -> str:
    """SHA-256 (hex) of a file's content: its bytes, if it is not sealed."""
    with opens(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def widen(array: Array) -> Array:
    """bfloat16 to float32, exactly.

    >>> widen(narrow(np.float32([1.0, 1.00390625]))).tolist()
    [1.0, 1.0]
    """
    bits = np.ascontiguousarray(array).reshape(-1).view("<u2")
    return (bits.astype("<u4") << np.uint32(16)).view("<f4").reshape(array.shape)


def narrow(array: Array) -> Array:
    """float32 to bfloat16, to nearest with ties to even; NaN stays NaN."""
    flat = np.ascontiguousarray(array, "<f4").reshape(-1)
    bits = flat.view("<u4")
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    quiet = (bits >> np.uint32(16)) | np.uint32(0x40)
    narrowed = np.where(np.isnan(flat), quiet, rounded).astype("<u2")
    return narrowed.view(BFLOAT16).reshape(array.shape)


def _code(name: str, array: Array) -> str:
    code = _CODES.get(array.dtype.newbyteorder("<") if array.dtype.names is None else array.dtype)
    if code is None:
        raise TypeError(f"tensor {name!r}: dtype {array.dtype} is not one of {', '.join(DTYPES)}")
    if name == "__metadata__":
        raise TypeError("a tensor cannot be called '__metadata__': safetensors reserves the name")
    return code


def _array(raw: memoryview, entry: Entry) -> Array:
    return np.frombuffer(raw, DTYPES[entry.dtype]).reshape(entry.shape)


def _entry(name: str, field: object) -> Entry:
    shown = reprlib.repr(name)  # a name may be as long as the header
    if any("\ud800" <= letter <= "\udfff" for letter in name):
        raise _malformed(f"{shown} is not Unicode text: it has a lone surrogate")
    if not isinstance(field, dict) or set(field) != {"dtype", "shape", "data_offsets"}:
        raise _malformed(f"{shown} must have dtype, shape and data_offsets")
    code, shape, offsets = field["dtype"], field["shape"], field["data_offsets"]
    if not isinstance(code, str) or code not in DTYPES:
        raise _malformed(f"{shown}: dtype {reprlib.repr(code)} is not allowed")
    if not (_sizes(shape) and _sizes(offsets) and len(offsets) == 2):
        raise _malformed(f"{shown}: shape and data_offsets must be lists of sizes")
    if len(shape) > MAX_DIMENSIONS or not _addressable(shape, DTYPES[code].itemsize):
        raise _malformed(f"{shown}: no array can have this shape")
    entry = Entry(name, code, tuple(shape), offsets[0], offsets[1])
    if entry.end - entry.start != entry.count * DTYPES[code].itemsize:
        raise _malformed(f"{shown}: {entry.end - entry.start} bytes do not hold {code}{shape}")
    return entry


def _addressable(shape: list[int], itemsize: int) -> bool:
    # NumPy multiplies the dimensions that are not 0, even where the array is empty
    return prod(n or 1 for n in shape) * itemsize <= MAX_SIZE


def _sizes(value: object) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n <= MAX_SIZE for n in value)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("duplicate key")
    return fields


def _malformed(reason: str) -> Refused:
    return Refused(Code.MALFORMED, f"safetensors: {reason}")
