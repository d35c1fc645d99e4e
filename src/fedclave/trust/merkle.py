# SPDX-License-Identifier: Apache-2.0
"""Merkle trees over SHA-256 and the proofs about them (RFC 9162, section 2.1). No I/O.

A tree has ``size`` leaves, counted from 0. Only complete subtrees are ever asked for: ``node(level,
index)`` is the hash over the leaves from ``index * 2**level`` up to ``(index + 1) * 2**level``;
level 0 is the leaf hashes. These never change as a tree grows, so they can be stored once and for
all. Every proof, and the root of every size, takes at most about ``2 * log2(size)`` of them.
"""

import hashlib
import hmac
from collections.abc import Callable, Iterable, Sequence

from fedclave.errors import Bug, Code, Refused

HASH = 32  # bytes
EMPTY = hashlib.sha256().digest()
"""The root of the tree without leaves (RFC 9162 2.1.1)."""
MAX_SIZE = 2**63 - 1  # leaves; what a log of ours, or a peer's, may claim

Node = Callable[[int, int], bytes]


def leaf_hash(entry: bytes) -> bytes:
    """The hash of an entry. Leaves and nodes hash under different prefixes (RFC 9162 2.1.1)."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class Frontier:
    """A tree that grows: the roots of its complete subtrees, largest first (RFC 9162 2.1.2).

    One hash for each bit that is set in ``size``; nothing else of the tree is kept.
    """

    def __init__(self, size: int = 0, node: Node | None = None) -> None:
        """An empty tree, or one of ``size`` leaves whose nodes ``node`` tells."""
        if size and node is None:
            raise Bug("a tree that has leaves needs its nodes")
        self.size = size
        self._roots = [] if node is None else [node(*at) for at in _complete(0, size)]

    def add(self, leaf: bytes) -> list[bytes]:
        """Add a leaf hash. Returns it, and the nodes that it completes, lowest first."""
        completed, bits = [leaf], self.size
        while bits & 1:
            completed.append(node_hash(self._roots.pop(), completed[-1]))
            bits >>= 1
        self._roots.append(completed[-1])
        self.size += 1
        return completed

    def root(self) -> bytes:
        """The root of the tree as it is."""
        return _join(self._roots)


def root(leaves: Iterable[bytes]) -> bytes:
    """The root over leaf hashes.

    >>> root([]) == EMPTY, root([leaf_hash(b"one")]) == leaf_hash(b"one")
    (True, True)
    """
    tree = Frontier()
    for leaf in leaves:
        tree.add(leaf)
    return tree.root()


def root_at(size: int, node: Node) -> bytes:
    """The root that the tree had when it had so many leaves."""
    return _join([node(*at) for at in _complete(0, size)])


def inclusion(index: int, size: int, node: Node) -> list[bytes]:
    """The proof that a leaf is in the tree of this size: PATH of RFC 9162 2.1.3.1, lowest first."""
    if not 0 <= index < size:
        raise Bug(f"no leaf {index} in a tree of {size}")
    return _path(index, (0, size), node)


def consistency(old: int, new: int, node: Node) -> list[bytes]:
    """The proof that the tree of one size begins with that of another (RFC 9162 2.1.4.1).

    It is empty if the sizes are equal, or the old tree is.
    """
    if not 0 <= old <= new:
        raise Bug(f"a tree of {new} leaves does not begin with one of {old}")
    if old in (0, new):
        return []
    # PROOF is the way down to the last complete subtree of the old tree, whose own root stands
    # first, unless it is the whole old tree: then the verifier has it already.
    level = (old & -old).bit_length() - 1
    last = (old >> level) - 1
    own = [] if last == 0 else [node(level, last)]
    return own + _path(last << level, (0, new), node, level)


def check_inclusion(
    leaf: bytes, index: int, path: Sequence[bytes], *, size: int, root: bytes
) -> None:
    """Verify that a leaf hash is in the tree of this root (RFC 9162 2.1.3.2).

    Raises ``Refused(LOG_PROOF)``.
    """
    if not 0 <= index < size <= MAX_SIZE:
        raise _wrong(f"it is about entry {index} of {size}")
    _check_hashes(path)
    fn, sn, found = index, size - 1, leaf
    for beside in path:
        if not sn:
            raise _wrong("its path is too long")
        if fn & 1 or fn == sn:
            found = node_hash(beside, found)
            fn, sn = _shifted(fn, sn)
        else:
            found = node_hash(found, beside)
        fn, sn = fn >> 1, sn >> 1
    if sn:
        raise _wrong("its path is too short")
    if not hmac.compare_digest(found, root):
        raise _wrong("it leads to another root")


def check_consistency(
    old: tuple[int, bytes], new: tuple[int, bytes], path: Sequence[bytes]
) -> None:
    """Verify that the new tree begins with the old one; each is its size and its root.

    RFC 9162 2.1.4.2, and the two cases that it leaves out: with equal sizes the roots are equal,
    and every tree begins with the empty one. Raises ``Refused(LOG_PROOF)``.
    """
    (first, first_root), (second, second_root) = old, new
    if not 0 <= first <= second <= MAX_SIZE:
        raise _wrong(f"it is about trees of {first} and {second} entries")
    _check_hashes(path)
    if first in (0, second):
        expected = EMPTY if not first else second_root
        if path or first_root != expected or (not second and second_root != EMPTY):
            raise _wrong("trees of these sizes need no path, and must have the same root")
        return
    steps = list(path)
    if first & (first - 1) == 0:  # a complete tree: its root stands for itself
        steps.insert(0, first_root)
    if not steps:
        raise _wrong("its path is empty")
    fn, sn = first - 1, second - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = steps[0]
    for beside in steps[1:]:
        if not sn:
            raise _wrong("its path is too long")
        if fn & 1 or fn == sn:
            fr, sr = node_hash(beside, fr), node_hash(beside, sr)
            fn, sn = _shifted(fn, sn)
        else:
            sr = node_hash(sr, beside)
        fn, sn = fn >> 1, sn >> 1
    if sn:
        raise _wrong("its path is too short")
    if not hmac.compare_digest(fr, first_root):
        raise _wrong("it leads to another old root")
    if not hmac.compare_digest(sr, second_root):
        raise _wrong("it leads to another new root")


def _path(index: int, span: tuple[int, int], node: Node, level: int = 0) -> list[bytes]:
    """What lies beside the way from the root of a span of leaves down to ``index``, lowest first.

    The way ends at the complete subtree of this level that begins there.
    """
    (start, stop), path = span, []
    while stop - start > 1 << level:
        middle = start + (1 << (stop - start - 1).bit_length() - 1)
        if index < middle:
            path.append(_over(middle, stop, node))
            stop = middle
        else:
            path.append(_over(start, middle, node))
            start = middle
    return path[::-1]


def _over(start: int, stop: int, node: Node) -> bytes:
    """The hash over a span of leaves, which begins where a complete subtree of its size would."""
    return _join([node(*at) for at in _complete(start, stop)])


def _complete(start: int, stop: int) -> list[tuple[int, int]]:
    """The complete subtrees that a span consists of, largest first: level and index."""
    found = []
    while start < stop:
        level = (stop - start).bit_length() - 1
        found.append((level, start >> level))
        start += 1 << level
    return found


def _join(roots: Sequence[bytes]) -> bytes:
    if not roots:
        return EMPTY
    joined = roots[-1]
    for left in reversed(roots[:-1]):
        joined = node_hash(left, joined)
    return joined


def _shifted(fn: int, sn: int) -> tuple[int, int]:
    while fn and not fn & 1:
        fn, sn = fn >> 1, sn >> 1
    return fn, sn


def _check_hashes(path: Sequence[bytes]) -> None:
    if any(len(one) != HASH for one in path):
        raise _wrong(f"a hash in it has not {HASH} bytes")


def _wrong(reason: str) -> Refused:
    return Refused(
        Code.LOG_PROOF, f"the proof does not hold: {reason}. Ask for the head and the proof again"
    )
