# SPDX-License-Identifier: Apache-2.0
"""Canonical TOML: what was written is read back, and Gramine's own writer writes the same."""

import tomllib
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from fedclave.workspace.gramine import toml

TEXT = st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=12)
PLAIN = st.booleans() | st.integers(-(2**63), 2**63 - 1) | TEXT
VALUE = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=12,
)
TABLE = st.dictionaries(TEXT, VALUE, max_size=4)


def ordered(value: Any) -> Any:
    """The same with every table's keys sorted; the other writer keeps the order that it gets."""
    if isinstance(value, dict):
        return {key: ordered(value[key]) for key in sorted(value)}
    return [ordered(one) for one in value] if isinstance(value, list) else value


@given(TABLE)
def test_what_is_written_is_read_back(table: dict[str, Any]) -> None:
    assert tomllib.loads(toml.encode(table).decode()) == table


@given(TABLE)
def test_gramines_writer_writes_the_same(table: dict[str, Any]) -> None:
    assert toml.encode(table).decode() == tomli_w.dumps(ordered(table))


def test_the_order_of_keys_does_not_count() -> None:
    assert toml.encode({"b": 1, "a": {"d": [], "c": "x"}}) == toml.encode(
        {"a": {"c": "x", "d": []}, "b": 1}
    )


@pytest.mark.parametrize("text", ["\n", "a\tb", "\x7f", "\x00"], ids=repr)
def test_control_characters_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a control character"):
        toml.encode({"a": [text]})


def test_other_types_are_refused() -> None:
    with pytest.raises(TypeError, match="float has no form"):
        toml.encode({"a": 1.5})  # type: ignore[dict-item]
