# SPDX-License-Identifier: Apache-2.0
"""Splits of one labelled data set over parties, for demonstrations, tests and simulations.

Each takes integer labels of shape (n,) and gives one sorted array of indices for each party.
Always: every index occurs exactly once, no party is empty, the same generator state gives the same
split. Raises ``UserError`` if there are fewer examples than that needs.
"""

import numpy as np
from numpy.typing import NDArray

from fedclave.errors import UserError

Labels = NDArray[np.integer]
Split = tuple[NDArray[np.int64], ...]


def iid(labels: Labels, parties: int, rng: np.random.Generator) -> Split:
    """A random split into parts whose sizes differ by at most one.

    >>> [len(part) for part in iid(np.array([0, 0, 1, 1, 2]), 2, np.random.default_rng(1))]
    [3, 2]
    """
    _require(len(labels), parties, parties)
    return _sorted(np.array_split(rng.permutation(len(labels)), parties))


def dirichlet(labels: Labels, parties: int, rng: np.random.Generator, *, alpha: float) -> Split:
    """Each label's examples in proportions drawn from Dir(alpha) (Hsu et al. 2019, sec. 3.1).

    A small ``alpha`` gives each party few labels, a large one comes close to ``iid``.
    """
    _require(len(labels), parties, parties)
    if not alpha > 0:
        raise UserError(f"alpha must be above 0, got {alpha}")
    parts: list[list[int]] = [[] for _ in range(parties)]
    for label in np.unique(labels):
        order = rng.permutation(np.flatnonzero(labels == label))
        shares = rng.dirichlet(np.full(parties, alpha))
        cuts = np.rint(np.cumsum(shares)[:-1] * len(order)).astype(int)
        for part, piece in zip(parts, np.split(order, cuts), strict=True):
            part.extend(int(i) for i in piece)
    for part in parts:
        if not part:
            part.append(max(parts, key=len).pop())
    return _sorted(parts)


def shards(labels: Labels, parties: int, rng: np.random.Generator, *, per_party: int) -> Split:
    """Sorted by label, cut into equal shards, ``per_party`` dealt to each party.

    McMahan et al. 2017, sec. 3 (with two to each): a party sees few labels.
    """
    count = parties * per_party
    if per_party < 1:
        raise UserError(f"per_party must be at least 1, got {per_party}")
    _require(len(labels), parties, count)
    order = rng.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    pieces = np.array_split(order, count)
    dealt = rng.permutation(count).reshape(parties, per_party)
    return _sorted([np.concatenate([pieces[i] for i in hand]) for hand in dealt])


def _require(examples: int, parties: int, needed: int) -> None:
    if parties < 1:
        raise UserError(f"parties must be at least 1, got {parties}")
    if examples < needed:
        raise UserError(f"{examples} examples are too few: {parties} parties need {needed}")


def _sorted(parts: object) -> Split:
    return tuple(np.sort(np.asarray(part, np.int64)) for part in parts)  # type: ignore[attr-defined]
