# SPDX-License-Identifier: Apache-2.0
"""What the templates promise: on real data, together the parties learn what none can alone."""

import subprocess
import sys

import numpy as np
import pytest

from fedclave import plan as plans
from fedclave.learners.base import Site
from fedclave.messages import Pull, Task
from fedclave.workspace import assemble
from fedclave.workspace.layout import create, templates

PARTIES = ("alice", "bob", "carol")


def average(fits):
    total = sum(fit.examples for fit in fits)
    first = fits[0].params
    means = {n: sum(f.examples / total * f.params[n].astype("f8") for f in fits) for n in first}
    return {name: np.asarray(mean).astype(first[name].dtype) for name, mean in means.items()}


def train(learners, plan, params):
    for round_ in range(1, plan.rounds + 1):
        settings = plan.tasks["train"].settings
        task = Task(name="train", run="fit", round=round_, seed=round_, settings=settings)
        params = average([learner.run(task, params, Pull()) for learner in learners])
    return params


@pytest.mark.timeout(600)  # its threads wait long for each other beside other tests
@pytest.mark.parametrize("name", templates())
def test_the_federation_reads_digits_better_than_any_party_alone(name, tmp_path):
    pytest.importorskip("sklearn")
    pytest.importorskip("torch" if name.startswith("torch") else "numpy")
    workspace = create(name, tmp_path / "workspace")
    plan = plans.load(workspace.plan)
    command = [sys.executable, "-m", "src.data", "data", *PARTIES]
    subprocess.run(command, cwd=workspace.root, check=True)

    def at(party):
        data = workspace.data / f"{party}.npz"
        site = Site(member=party, data=data, device="cpu", seed=plan.seed)
        return assemble.learner(workspace, plan, site)

    def accuracy(params):
        task = Task(name="validate", run="evaluate", round=1, seed=0)
        return test.run(task, params, Pull()).metrics["accuracy"]

    test, learners = at("test"), [at(party) for party in PARTIES]
    initial = assemble.initial(workspace, plan, plan.seed)
    together = accuracy(train(learners, plan, initial))
    alone = [accuracy(train([learner], plan, initial)) for learner in learners]
    assert together >= 0.93
    assert max(alone) < together - 0.1


def test_both_templates_read_the_same_data(tmp_path):
    numpy, torch = (create(name, tmp_path / name) for name in templates())
    assert (numpy.src / "data.py").read_bytes() == (torch.src / "data.py").read_bytes()
