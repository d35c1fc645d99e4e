# SPDX-License-Identifier: Apache-2.0
"""An algorithm is a value: a fold of updates, and pure functions around it (optax's shape)."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from fedclave.messages import Pull
from fedclave.tensors import Array, Layout, Tensors

Blocks = Iterable[tuple[str, int, Array]]
"""An update in pieces: (tensor's name, index of the first element, flat array). Order is free."""


@dataclass(frozen=True, kw_only=True)
class Aggregate:
    """What a fold gives: the weighted mean of the updates.

    ``mean`` has the tensors and shapes of the update; floats stay floats, integers are rounded half
    to even. ``weight`` is the sum of all weights, ``count`` the number of updates.
    """

    mean: Tensors
    weight: int
    count: int


@dataclass(frozen=True, kw_only=True)
class Fold:
    """A streaming sum. The accumulator given to ``add`` and ``merge`` is theirs: use what returns.

    ``linear`` tells whether the result depends on the sum of the updates alone; only then can
    updates be masked or folded in a tree.
    """

    zero: Callable[[Layout], Any]
    add: Callable[[Any, Blocks, int], Any]
    subtract: Callable[[Any, Blocks, int], Any]
    merge: Callable[[Any, Any], Any]
    done: Callable[[Any], Aggregate]
    linear: bool


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """A federated algorithm: how updates become the next model.

    ``step(params, state, aggregate)`` gives the next params and state; both are tensors, so that a
    checkpoint holds them. ``init(params)`` is the state before round 1. ``begin(params)`` is what
    each local gradient gets in addition. All are pure.
    """

    fold: Fold
    step: Callable[[Tensors, Tensors, Aggregate], tuple[Tensors, Tensors]]
    init: Callable[[Tensors], Tensors] = lambda params: {}
    begin: Callable[[Tensors], Pull] = lambda params: Pull()
