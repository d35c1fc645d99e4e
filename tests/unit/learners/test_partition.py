# SPDX-License-Identifier: Apache-2.0
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedclave.errors import UserError
from fedclave.learners.partition import dirichlet, iid, shards

SPLITS = {
    "iid": iid,
    "dirichlet": partial(dirichlet, alpha=0.1),
    "shards": partial(shards, per_party=2),
}
LABELS = np.repeat(np.arange(10), 30)


@pytest.mark.parametrize("name", SPLITS)
@settings(deadline=None)
@given(st.lists(st.integers(0, 4), min_size=12, max_size=80), st.integers(1, 6), st.integers(0, 99))
def test_every_index_once_nobody_empty_same_seed_same_split(name, labels, parties, seed):
    parts = SPLITS[name](np.array(labels), parties, np.random.default_rng(seed))
    again = SPLITS[name](np.array(labels), parties, np.random.default_rng(seed))
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))
    assert len(parts) == parties and all(len(part) for part in parts)
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))


def test_iid_sizes_differ_by_at_most_one():
    sizes = [len(part) for part in iid(LABELS, 7, np.random.default_rng(1))]
    assert max(sizes) - min(sizes) <= 1


def test_shards_give_each_party_few_labels():
    parts = shards(LABELS, 5, np.random.default_rng(1), per_party=2)
    assert [len(np.unique(LABELS[part])) for part in parts] == [2] * 5


def test_a_small_alpha_is_further_from_iid_than_a_large_one():
    def spread(alpha):
        parts = dirichlet(LABELS, 5, np.random.default_rng(1), alpha=alpha)
        return np.std([np.bincount(LABELS[part], minlength=10) for part in parts])

    assert spread(0.05) > 2 * spread(100.0)


@pytest.mark.parametrize(
    ("split", "parties"),
    [
        (iid, 0),
        (iid, 301),
        (partial(dirichlet, alpha=0.5), 301),
        (partial(dirichlet, alpha=0.0), 2),
        (partial(shards, per_party=101), 3),
        (partial(shards, per_party=0), 3),
    ],
)
def test_impossible_splits_are_refused(split, parties):
    with pytest.raises(UserError):
        split(LABELS, parties, np.random.default_rng(1))
