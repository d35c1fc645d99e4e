# SPDX-License-Identifier: Apache-2.0
"""Merkle trees of any size: proofs that are made verify, and nothing else does.

The reference here is the RFC's own recursive definition, word for word.
"""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedclave.errors import Refused
from fedclave.trust import merkle

LEAVES = [merkle.leaf_hash(number.to_bytes(2, "big")) for number in range(300)]
SIZES = st.integers(1, len(LEAVES))


def split(size: int) -> int:
    """The largest power of two that is smaller."""
    return 1 << (size - 1).bit_length() - 1


def mth(leaves: Sequence[bytes]) -> bytes:
    """RFC 9162 2.1.1."""
    if len(leaves) < 2:
        return leaves[0] if leaves else merkle.EMPTY
    k = split(len(leaves))
    return merkle.node_hash(mth(leaves[:k]), mth(leaves[k:]))


def path(index: int, leaves: Sequence[bytes]) -> list[bytes]:
    """RFC 9162 2.1.3.1."""
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if index < k:
        return [*path(index, leaves[:k]), mth(leaves[k:])]
    return [*path(index - k, leaves[k:]), mth(leaves[:k])]


def subproof(old: int, leaves: Sequence[bytes], known: bool) -> list[bytes]:
    """RFC 9162 2.1.4.1."""
    if old == len(leaves):
        return [] if known else [mth(leaves)]
    k = split(len(leaves))
    if old <= k:
        return [*subproof(old, leaves[:k], known), mth(leaves[k:])]
    return [*subproof(old - k, leaves[k:], False), mth(leaves[:k])]


def node(level: int, index: int) -> bytes:
    stop = (index + 1) << level
    assert stop <= len(LEAVES), "only complete subtrees may be asked for"
    return mth(LEAVES[index << level : stop])


@given(SIZES)
def test_the_root_is_that_of_the_definition(size: int) -> None:
    expected = mth(LEAVES[:size])
    assert merkle.root(LEAVES[:size]) == merkle.root_at(size, node) == expected
    resumed = merkle.Frontier(size // 2, node)
    for leaf in LEAVES[size // 2 : size]:
        resumed.add(leaf)
    assert resumed.root() == expected


@given(SIZES, st.data())
def test_an_inclusion_proof_is_that_of_the_definition_and_verifies(
    size: int, draw: st.DataObject
) -> None:
    index = draw.draw(st.integers(0, size - 1))
    made = merkle.inclusion(index, size, node)
    assert made == path(index, LEAVES[:size])
    merkle.check_inclusion(LEAVES[index], index, made, size=size, root=mth(LEAVES[:size]))


@given(SIZES, st.data())
def test_a_consistency_proof_is_that_of_the_definition_and_verifies(
    new: int, draw: st.DataObject
) -> None:
    old = draw.draw(st.integers(1, new))
    made = merkle.consistency(old, new, node)
    assert made == subproof(old, LEAVES[:new], True)
    merkle.check_consistency((old, mth(LEAVES[:old])), (new, mth(LEAVES[:new])), made)


@given(SIZES, st.data())
def test_an_inclusion_proof_is_of_one_entry_at_one_place_in_one_tree(
    size: int, draw: st.DataObject
) -> None:
    index, other = (draw.draw(st.integers(0, size - 1)) for _ in range(2))
    made, root = merkle.inclusion(index, size, node), mth(LEAVES[:size])
    if other != index:
        with pytest.raises(Refused):
            merkle.check_inclusion(LEAVES[other], index, made, size=size, root=root)
        with pytest.raises(Refused):
            merkle.check_inclusion(LEAVES[index], other, made, size=size, root=root)


@given(SIZES, st.data())
def test_a_proof_with_one_hash_changed_swapped_or_dropped_is_refused(
    new: int, draw: st.DataObject
) -> None:
    old = draw.draw(st.integers(1, new))
    made = merkle.consistency(old, new, node)
    other = list(made)
    if made:
        at = draw.draw(st.integers(0, len(made) - 1))
        match draw.draw(st.sampled_from(["changed", "dropped", "doubled"])):
            case "changed":
                other[at] = bytes(b ^ 1 for b in other[at])
            case "dropped":
                del other[at]
            case "doubled":
                other.insert(at, other[at])
        with pytest.raises(Refused):
            merkle.check_consistency((old, mth(LEAVES[:old])), (new, mth(LEAVES[:new])), other)


@given(SIZES, st.data())
def test_no_proof_connects_a_tree_with_a_changed_history(new: int, draw: st.DataObject) -> None:
    old = draw.draw(st.integers(1, new))
    changed = list(LEAVES[:new])
    changed[draw.draw(st.integers(0, old - 1))] = merkle.leaf_hash(b"rewritten")
    for proof in (merkle.consistency(old, new, node), subproof(old, changed, True)):
        with pytest.raises(Refused):
            merkle.check_consistency((old, mth(LEAVES[:old])), (new, mth(changed)), proof)


@given(
    st.integers(-1, 2**64),
    st.integers(-1, 2**64),
    st.lists(st.binary(max_size=33) | st.just(b"\0" * 32), max_size=70),
)
def test_whatever_is_claimed_a_verifier_refuses_or_returns(
    one: int, other: int, hashes: list[bytes]
) -> None:
    for check in (
        lambda: merkle.check_inclusion(LEAVES[0], one, hashes, size=other, root=LEAVES[1]),
        lambda: merkle.check_consistency((one, LEAVES[0]), (other, LEAVES[1]), hashes),
    ):
        with pytest.raises(Refused):
            check()
