# SPDX-License-Identifier: Apache-2.0
"""Server rules: how the aggregate of a round moves the global model."""

import numpy as np

from fedclave.algorithms.core import Aggregate, Algorithm
from fedclave.algorithms.folds import Range, exact_mean
from fedclave.errors import SettingsError
from fedclave.tensors import BFLOAT16, Array, Tensors, narrow, widen

MOST_RATE = 1000.0
"""Most that a server's learning rate may be; published ones are at most 10."""


def fedavg(bounds: Range, *, learning_rate: float = 1.0) -> Algorithm:
    """Federated averaging (McMahan et al. 2017, alg. 1): w' = w + learning_rate * mean(delta).

    With ``learning_rate`` 1 this is the weighted mean of the members' models. Integer and bool
    tensors (counters, masks) take the whole mean change, whatever the learning rate.
    """
    if not 0 < learning_rate <= MOST_RATE:
        wanted = f"fedavg.learning_rate must be above 0 and at most {MOST_RATE:g}"
        raise SettingsError(
            [("learning_rate", f"{wanted}, got {learning_rate:g}. 1 is plain averaging")]
        )

    def step(params: Tensors, state: Tensors, aggregate: Aggregate) -> tuple[Tensors, Tensors]:
        moved = {name: move(params[name], d, learning_rate) for name, d in aggregate.mean.items()}
        return moved, state

    return Algorithm(fold=exact_mean(bounds), step=step)


def move(param: Array, delta: Array, rate: float = 1.0) -> Array:
    """Move a param: param + rate * delta, in the param's own dtype and shape.

    >>> move(np.float32([1, 2]), np.float32([0.5, 0.5]), 2.0).tolist()
    [2.0, 3.0]
    """
    if param.dtype == BFLOAT16:
        return narrow(widen(param) + np.float32(rate) * delta)
    if param.dtype.kind == "f":
        moved: Array = (param + delta.dtype.type(rate) * delta).astype(param.dtype, copy=False)
        return moved
    whole: Array = (param.astype(np.int64) + delta).astype(param.dtype)
    return whole


def difference(new: Array, old: Array) -> Array:
    """What ``move`` adds to ``old`` to reach ``new``, in the dtype that updates travel in."""
    if old.dtype == BFLOAT16:
        change: Array = widen(new) - widen(old)
    elif old.dtype.kind == "f":
        wide = np.float64 if old.dtype == np.float64 else np.float32
        change = new.astype(wide, copy=False) - old.astype(wide, copy=False)
    elif old.dtype == np.bool_:
        change = new.astype(np.int8) - old.astype(np.int8)
    else:
        change = new.astype(np.int64) - old.astype(np.int64)
    return change
