# SPDX-License-Identifier: Apache-2.0
"""Updates that are kept for whoever computes a round again: a file each, named by its SHA-256.

An update is kept before its answer counts, so a round that is recorded has all of its updates here.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Self

from fedclave.algorithms.core import Algorithm
from fedclave.algorithms.folds import Range, blocks_of, check_values, check_weight, delta_layout
from fedclave.engine.medium import PLAIN, Medium
from fedclave.engine.store import drop_unfinished
from fedclave.errors import Bug, Refused, Unavailable, UserError
from fedclave.tensors import Stored, Tensors, digest, file_digest, layout_of

BLOCK = 2**20  # bytes


class Kept:
    """The updates in a folder. One process at a time writes there."""

    def __init__(self, folder: Path, medium: Medium = PLAIN) -> None:
        self._folder = folder
        self._medium = medium

    def begin(self) -> Self:
        """Remove what a killed process was writing."""
        drop_unfinished(self._folder)
        return self

    def keep(self, digest: str, pieces: Iterator[memoryview]) -> None:
        """Write an update, durably; it may be there already. ``Unavailable``: the disk."""
        if self.path(digest).exists():
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._folder.chmod(0o700)  # an update can tell much about the data behind it
            written = self._medium.write(self._folder, pieces)
        except OSError as error:
            raise Unavailable(
                f"{self._folder}: an update could not be kept ({error.strerror}). Free space, then"
                " start again: the round is repeated"
            ) from error
        if written != digest:
            raise Bug(f"an update of digest {digest} was kept as {written}")

    def keep_file(self, path: Path) -> None:
        """The same, of a file that is named by its SHA-256."""
        self.keep(path.stem, _pieces(path, self._medium))

    def path(self, digest: str) -> Path:
        """Where an update lies, or would."""
        return self._folder / f"{digest}{self._medium.suffix}"


def find(folders: Iterable[Path], digest: str, media: Sequence[Medium] = (PLAIN,)) -> Stored | None:
    """The update of this digest in one of the folders. ``UserError``: it is damaged."""
    for folder, medium in product(folders, media):
        path = Kept(folder, medium).path(digest)
        if path.is_file():
            if file_digest(path, medium.opens) != digest:
                raise UserError(f"{path} is damaged: its SHA-256 is not its name. Get it again")
            return Stored(path, medium.opens)
    return None


def again(
    algorithm: Algorithm,
    bounds: Range,
    params: Tensors,
    state: Tensors,
    updates: Sequence[tuple[Stored, int]],
) -> tuple[str, Tensors, Tensors]:
    """A round computed again: digest of the aggregate, the next params and state.

    ``updates``: files and weights, in any order. ``Refused``: the engine would not have taken one.
    """
    if not updates:
        return digest({}), params, state
    layout = delta_layout(layout_of(params))
    summed = algorithm.fold.zero(layout)
    for update, weight in updates:
        path = update.path
        if update.layout != layout:
            raise UserError(f"{path} is no update of this model: it has other tensors")
        try:
            check_weight(weight, bounds)
            check_values(blocks_of(update), bounds)
        except Refused as refused:
            raise Refused(refused.code, f"{path}: {refused.message}") from refused
        summed = algorithm.fold.add(summed, blocks_of(update), weight)
    aggregate = algorithm.fold.done(summed)
    found = digest(aggregate.mean)
    return found, *algorithm.step(params, state, aggregate)


def _pieces(path: Path, medium: Medium) -> Iterator[memoryview]:
    with medium.opens(path) as file:
        while piece := file.read(BLOCK):
            yield memoryview(piece)
