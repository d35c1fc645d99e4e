# SPDX-License-Identifier: Apache-2.0
"""One party's data: an .npz file of ``features``, ``labels`` and ``validation`` (a mask of rows).

To cut scikit-learn's digits into such files:  python -m src.data data alice bob carol
"""

import sys
from pathlib import Path

import numpy as np

from fedclave.learners.partition import shards


def load(path):
    """The training rows and the validation rows of a file, each as (features, labels)."""
    with np.load(path) as file:
        features, labels, held = file["features"], file["labels"], file["validation"]
    if not len(labels):
        raise ValueError(f"{path} has no rows")
    return (features[~held], labels[~held]), (features[held], labels[held])


def split(folder, names, seed=7):
    """Write NAME.npz for each party, with few of the labels, and test.npz, which nobody trains on.

    A fifth of all rows is for the test; of each party's rows, a fifth is for its validation.
    """
    from sklearn.datasets import load_digits

    rng = np.random.default_rng(seed)
    features, labels = load_digits(return_X_y=True)
    features, labels = (features / 16).astype("f4"), labels.astype("i8")
    test, rest = np.split(rng.permutation(len(labels)), [len(labels) // 5])
    rows = {"test": test}
    for name, part in zip(names, shards(labels[rest], len(names), rng, per_party=4), strict=True):
        rows[name] = rest[part]
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, mine in rows.items():
        held = rng.random(len(mine)) < (1.0 if name == "test" else 0.2)
        path = Path(folder, f"{name}.npz")
        np.savez(path, features=features[mine], labels=labels[mine], validation=held)


if __name__ == "__main__":
    split(sys.argv[1], sys.argv[2:])
