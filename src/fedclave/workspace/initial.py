# SPDX-License-Identifier: Apache-2.0
"""The initial weights: in the archive, or, where the plan has them sealed, only what they are.

    save/initial.safetensors   the weights, at their owner
    save/initial.json          their digest, names, dtypes and shapes; it travels in their place

Data owners read from it what an update consists of, and the aggregator holds the weights that it is
given later (``trust.releasing``) to its digest. The contract has it, as it would have the weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedclave import canonical, tensors
from fedclave.errors import Refused, UserError
from fedclave.plan import Plan
from fedclave.tensors import DTYPES, MAX_DIMENSIONS, Layout, Stored, Tensors
from fedclave.workspace import output
from fedclave.workspace.layout import Workspace

_AGAIN = "Run 'fx plan initialize', or import the archive that the author exported after that"


@dataclass(frozen=True, kw_only=True)
class Initial:
    """What the initial weights are."""

    digest: str
    """SHA-256 (hex) of their canonical bytes."""
    layout: Layout


def is_sealed(plan: Plan) -> bool:
    """Whether a plan has the initial weights travel sealed."""
    return plan.attestation is not None and "initial" in plan.attestation.sealed


def write(workspace: Workspace, plan: Plan, params: Tensors) -> None:
    """Write the weights; and what stands for them, exactly where the plan wants that."""
    tensors.write(workspace.initial, params)
    if not is_sealed(plan):
        workspace.initial_layout.unlink(missing_ok=True)
        return
    layout = tensors.layout_of(params)
    value = {
        "digest": tensors.digest(params),
        "tensors": {e.name: {"dtype": e.dtype, "shape": list(e.shape)} for e in layout.entries},
    }
    with output.new_file(workspace.initial_layout) as temporary:
        temporary.write_bytes(canonical.encode(value) + b"\n")


def described(workspace: Workspace, plan: Plan) -> Initial:
    """What the initial weights are, from whichever of the two files the plan wants.

    ``UserError``: it is not there, or not whole.
    """
    if not is_sealed(plan):
        _require(workspace.initial.is_file(), f"there is no {workspace.initial}")
        try:
            stored = Stored(workspace.initial)
            return Initial(digest=tensors.digest(stored), layout=stored.layout)
        except Refused as error:
            raise UserError(f"{workspace.initial}: {error.message}. {_AGAIN}") from error
    path = workspace.initial_layout
    _require(path.is_file(), f"the plan has the initial weights sealed, and there is no {path}")
    try:
        return _parsed(canonical.decode(path.read_bytes().removesuffix(b"\n")))
    except (Refused, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} does not say what the weights are ({error}). {_AGAIN}") from error


def _parsed(value: Any) -> Initial:
    shapes: dict[str, tuple[str, tuple[int, ...]]] = {}
    listed: Mapping[str, Any] = value["tensors"]
    for name, one in listed.items():
        shape = tuple(one["shape"])
        sizes = all(type(size) is int and 0 <= size < 2**63 for size in shape)
        if one["dtype"] not in DTYPES or not sizes or len(shape) > MAX_DIMENSIONS:
            raise ValueError(f"tensor {name!r:.60}")
        shapes[name] = (one["dtype"], shape)
    digest = value["digest"]
    if not shapes or set(value) != {"digest", "tensors"} or len(bytes.fromhex(digest)) != 32:
        raise ValueError("it has other keys")
    return Initial(digest=digest, layout=tensors.layout(shapes))


def _require(there: bool, otherwise: str) -> None:
    if not there:
        raise UserError(f"{otherwise}. {_AGAIN}")
