# SPDX-License-Identifier: Apache-2.0
"""Merkle trees: the published tree of eight leaves, its proofs, and what proves nothing."""

import pytest

from fedclave.errors import Bug, Code, Refused
from fedclave.trust import merkle

# The tree with which the reference implementations of RFC 6962 and RFC 9162 are tested.
ENTRIES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    bytes.fromhex(text)
    for text in (
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    )
]
LEAVES = [merkle.leaf_hash(entry) for entry in ENTRIES]
PATHS = {  # (index, size)
    (0, 1): [],
    (0, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (5, 8): [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 3): ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
    (1, 5): [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}
GROWTH = {  # (old, new)
    (1, 1): [],
    (1, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (6, 8): [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 5): [
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}


def node(level: int, index: int) -> bytes:
    return merkle.root(LEAVES[index << level : (index + 1) << level])


def refused(check: object, *arguments: object, **named: object) -> str:
    with pytest.raises(Refused) as caught:
        check(*arguments, **named)  # type: ignore[operator]
    assert caught.value.code is Code.LOG_PROOF
    return caught.value.message


@pytest.mark.parametrize("size", range(9))
def test_the_roots_are_the_published_ones(size: int) -> None:
    assert merkle.root(LEAVES[:size]) == ROOTS[size]
    assert merkle.root_at(size, node) == ROOTS[size]
    assert merkle.Frontier(size, node).root() == ROOTS[size]


@pytest.mark.parametrize(("index", "size"), PATHS)
def test_the_paths_are_the_published_ones_and_verify(index: int, size: int) -> None:
    path = merkle.inclusion(index, size, node)
    assert [one.hex() for one in path] == PATHS[index, size]
    merkle.check_inclusion(LEAVES[index], index, path, size=size, root=ROOTS[size])


@pytest.mark.parametrize(("old", "new"), GROWTH)
def test_the_proofs_of_growth_are_the_published_ones_and_verify(old: int, new: int) -> None:
    proof = merkle.consistency(old, new, node)
    assert [one.hex() for one in proof] == GROWTH[old, new]
    merkle.check_consistency((old, ROOTS[old]), (new, ROOTS[new]), proof)


def test_a_leaf_does_not_hash_as_a_node() -> None:
    left, right = LEAVES[:2]
    assert merkle.leaf_hash(left + right) != merkle.node_hash(left, right)


def test_every_tree_begins_with_the_empty_one() -> None:
    assert merkle.consistency(0, 8, node) == []
    merkle.check_consistency((0, merkle.EMPTY), (8, ROOTS[8]), [])
    merkle.check_consistency((0, merkle.EMPTY), (0, merkle.EMPTY), [])
    refused(merkle.check_consistency, (0, ROOTS[1]), (8, ROOTS[8]), [])
    refused(merkle.check_consistency, (0, ROOTS[1]), (0, ROOTS[1]), [])
    refused(merkle.check_consistency, (0, merkle.EMPTY), (8, ROOTS[8]), [ROOTS[1]])


def test_equal_sizes_need_equal_roots_and_no_path() -> None:
    merkle.check_consistency((8, ROOTS[8]), (8, ROOTS[8]), [])
    refused(merkle.check_consistency, (8, ROOTS[7]), (8, ROOTS[8]), [])
    refused(merkle.check_consistency, (8, ROOTS[8]), (8, ROOTS[8]), [ROOTS[8]])


def test_a_path_that_is_too_long_too_short_or_not_of_hashes_is_refused() -> None:
    path = merkle.inclusion(5, 8, node)
    for wrong, why in (
        (path[:-1], "too short"),
        ([*path, ROOTS[1]], "too long"),
        ([path[0][:31], *path[1:]], "32 bytes"),
    ):
        found = refused(merkle.check_inclusion, LEAVES[5], 5, wrong, size=8, root=ROOTS[8])
        assert why in found
    proof = merkle.consistency(6, 8, node)
    for wrong in ([], proof[:-1], [*proof, ROOTS[1]], [b"", *proof[1:]]):
        refused(merkle.check_consistency, (6, ROOTS[6]), (8, ROOTS[8]), wrong)


@pytest.mark.parametrize(("index", "size"), [(8, 8), (-1, 8), (0, 0), (0, 2**63)])
def test_places_that_no_tree_has_are_refused(index: int, size: int) -> None:
    refused(merkle.check_inclusion, LEAVES[0], index, [], size=size, root=ROOTS[8])


def test_a_shrunk_tree_is_refused() -> None:
    refused(merkle.check_consistency, (8, ROOTS[8]), (6, ROOTS[6]), [])
    refused(merkle.check_consistency, (-1, ROOTS[8]), (6, ROOTS[6]), [])


def test_asking_for_what_cannot_be_is_our_own_mistake() -> None:
    for ask in (
        lambda: merkle.inclusion(8, 8, node),
        lambda: merkle.consistency(8, 6, node),
        lambda: merkle.Frontier(3),
    ):
        with pytest.raises(Bug):
            ask()
