# SPDX-License-Identifier: Apache-2.0
"""Canonical bytes round-trip, and no other bytes decode."""

import json

from hypothesis import given
from hypothesis import strategies as st

from fedclave import canonical
from fedclave.errors import Refused

TEXTS = st.text(st.characters(codec="utf-8"))
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner),
    max_leaves=20,
)


@given(VALUES)
def test_what_is_encoded_decodes_to_itself(value: canonical.Value) -> None:
    data = canonical.encode(value)
    assert canonical.decode(data) == value
    assert canonical.encode(canonical.decode(data)) == data


@given(VALUES, st.integers(1, 4), st.booleans())
def test_another_spelling_of_the_same_value_is_refused(
    value: canonical.Value, indent: int, ascii_only: bool
) -> None:
    other = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode()
    if other != canonical.encode(value):
        assert refused(other)


@given(st.binary())
def test_any_bytes_decode_to_a_value_with_these_bytes_or_are_refused(data: bytes) -> None:
    assert refused(data) or canonical.encode(canonical.decode(data)) == data


@given(VALUES, st.data())
def test_bytes_cut_short_are_refused_or_another_value(
    value: canonical.Value, draw: st.DataObject
) -> None:
    data = canonical.encode(value)
    cut = data[: draw.draw(st.integers(0, len(data) - 1))]
    assert refused(cut) or canonical.encode(canonical.decode(cut)) == cut


@given(st.dictionaries(TEXTS, st.integers()))
def test_the_order_in_which_a_mapping_was_built_does_not_matter(
    mapping: dict[str, int],
) -> None:
    reversed_ = dict(reversed(mapping.items()))
    assert canonical.digest("x", mapping) == canonical.digest("x", reversed_)


def refused(data: bytes) -> bool:
    try:
        canonical.decode(data)
    except Refused:
        return True
    return False
