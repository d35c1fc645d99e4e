# SPDX-License-Identifier: Apache-2.0
"""The algorithms that a plan can name: one visible table."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fedclave.algorithms.core import Algorithm
from fedclave.algorithms.folds import Range
from fedclave.algorithms.servers import fedavg
from fedclave.errors import SettingsError, UserError
from fedclave.messages import Scalar


@dataclass(frozen=True)
class Entry:
    """One algorithm: how it is made, and the paper that it follows."""

    factory: Callable[..., Algorithm]
    paper: str

    @property
    def keywords(self) -> tuple[str, ...]:
        """The keywords that the plan may give it."""
        parameters = inspect.signature(self.factory).parameters.values()
        return tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)


CATALOGUE: dict[str, Entry] = {
    "fedavg": Entry(fedavg, "McMahan et al. 2017, alg. 1"),
}


def make(name: str, settings: Mapping[str, Scalar], bounds: Range) -> Algorithm:
    """The algorithm that a plan names. Raises ``UserError`` for an unknown name or keyword.

    >>> make("fedsgd", {}, Range(limit=1.0, max_weight=1, max_members=1, fraction_bits=60))
    Traceback (most recent call last):
    fedclave.errors.UserError: no algorithm is called 'fedsgd'. Known: fedavg
    """
    entry = CATALOGUE.get(name)
    if entry is None:
        raise UserError(f"no algorithm is called {name!r}. Known: {', '.join(CATALOGUE)}")
    mistakes = []
    for keyword, value in settings.items():
        if keyword not in entry.keywords:
            known = ", ".join(entry.keywords)
            mistakes.append((keyword, f"{name} takes no {keyword!r}. Its keywords: {known}"))
        elif type(value) not in (int, float):
            wanted = f"{name}.{keyword}: expected a number, got {value!r}"
            mistakes.append((keyword, f"{wanted}. Write a number, without quotes"))
    if mistakes:
        raise SettingsError(mistakes)
    return entry.factory(bounds, **settings)
