# SPDX-License-Identifier: Apache-2.0
"""CBOR as evidence uses it: one encoding of each value, and no value that has no place there."""

import sys
from typing import Any

import pytest

from fedclave.errors import Code, Refused, UserError
from fedclave.trust import cbor

cbor2 = pytest.importorskip("cbor2", reason="evidence needs an extra: attest")


def decode(data: bytes, **options: Any) -> Any:
    return cbor.decode(data, "it", limit=1000, **options)


def refused(data: bytes, **options: Any) -> str:
    with pytest.raises(Refused) as refused:
        decode(data, **options)
    assert refused.value.code is Code.ATT_MALFORMED
    return refused.value.message


@pytest.mark.parametrize(
    ("value", "data"),
    [
        (0, "00"),
        (24, "1818"),
        (2**64 - 1, "1bffffffffffffffff"),
        (b"\1\2", "420102"),
        ("\u00fc", "62c3bc"),
        ([1, [2]], "82018102"),
        ({"b": 1, "aa": 2, "a": 3}, "a361610361620162616102"),
    ],
)
def test_values_have_the_encodings_of_rfc_8949(value: object, data: str) -> None:
    """Appendix A, and 4.2.1 for the order of keys."""
    assert cbor.encode(value) == bytes.fromhex(data)
    assert decode(bytes.fromhex(data)) == value


@pytest.mark.parametrize(
    "data",
    ["1817", "190001", "580161", "9800", "b800", "5f4161ff", "9fff", "bfff", "7f6161ff", "0000"],
)
def test_other_encodings_of_a_value_are_refused(data: str) -> None:
    assert "canonical" in (why := refused(bytes.fromhex(data))) or "indefinite" in why


@pytest.mark.parametrize(
    "data", ["f6", "f7", "f5", "e0", "f90000", "fb3ff199999999999a", "20", "81f6", "a16161f6"]
)
def test_kinds_of_values_without_a_place_are_refused(data: str) -> None:
    assert "no place in evidence" in refused(bytes.fromhex(data))


@pytest.mark.parametrize("data", ["a10000", "a1410000", "a1810000", "a1f600"])
def test_keys_that_are_no_texts_are_refused(data: str) -> None:
    assert refused(bytes.fromhex(data))


def test_a_key_that_stands_twice_is_refused() -> None:
    assert "Duplicate" in refused(bytes.fromhex("a2616100616100"))


def test_the_order_of_keys_is_free_where_the_caller_says_so() -> None:
    backwards = bytes.fromhex("a2616200616100")
    assert "canonical" in refused(backwards)
    assert decode(backwards, in_order=False) == {"a": 0, "b": 0}
    assert "canonical" in refused(backwards + b"\0", in_order=False)


def test_four_containers_in_each_other_are_read_and_five_are_not() -> None:
    assert decode(b"\x81" * 4 + b"\0") == [[[[0]]]]
    assert "depth" in refused(b"\x81" * 5 + b"\0")


def test_the_limit_is_in_bytes_and_comes_first() -> None:
    assert len(decode(b"\x59\x03\xe5" + bytes(997))) == 997
    assert "1001 bytes; at most 1000" in refused(b"\xff" * 1001)


def test_the_expected_tag_is_taken_off() -> None:
    tagged = cbor.encode(cbor.Tagged(60000, [b"a"]))
    assert tagged == bytes.fromhex("d9ea60814161")
    assert decode(tagged, tag=60000) == [b"a"]
    assert "60000; expected none" in refused(tagged)
    assert "60000; expected 60001" in refused(tagged, tag=60001)
    assert "without the CBOR tag 60000" in refused(b"\x81\x41\x61", tag=60000)
    assert refused(b"\x81" + tagged, tag=60000)
    assert refused(b"\xd9\xea\x60" + tagged, tag=60000)


@pytest.mark.parametrize("tag", [*range(0, 40), 100, 256, 258, 260, 261, 1004, 43000, 55799])
def test_no_tag_that_the_library_knows_gets_through(tag: int) -> None:
    for value in (b"\1", "a+", [1, 2], 1, {"a": 1}, [b"\1\2\3\4", 8]):
        why = refused(cbor2.dumps(cbor2.CBORTag(tag, value)))
        assert f"CBOR tag {tag}" in why or "error" in why


def test_a_missing_library_is_the_users_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cbor2", None)
    with pytest.raises(UserError, match=r"fedclave\[attest\]"):
        decode(b"\0")
    with pytest.raises(UserError, match=r"fedclave\[attest\]"):
        cbor.encode(0)
