# SPDX-License-Identifier: Apache-2.0
from functools import partial

import numpy as np
import pytest

from fedclave.errors import Code, Refused, UserError
from fedclave.learners.base import Site
from fedclave.messages import Fit, Pull, Task
from fedclave.tensors import BFLOAT16, digest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402

from fedclave.learners.torch import TorchLearner, to_array, to_tensor  # noqa: E402

GENERATOR = torch.Generator().manual_seed(3)
X = torch.randn(40, 4, generator=GENERATOR)
Y = (X.sum(1) > 0).long()
TRAIN = Task(name="train", run="fit", round=1, seed=5, settings={"epochs": 2})
SGD = partial(torch.optim.SGD, lr=0.1)


def loader(batch_size=8, shuffle=True):
    return DataLoader(TensorDataset(X, Y), batch_size, shuffle=shuffle)


def make(model=None, *, site=None, **changes):
    torch.manual_seed(1)
    model = model or nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    given = {
        "site": site or Site(member="alice", data=None, device="cpu"),
        "optimizer": SGD,
        "loss": nn.functional.cross_entropy,
        "train": loader,
        "validate": lambda: loader(shuffle=False),
        "metrics": {"accuracy": lambda out, y: (out.argmax(1) == y).float().mean()},
    }
    return TorchLearner(model, **{**given, **changes})


@pytest.mark.parametrize(
    "dtype",
    ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8"],
)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0,)])
def test_tensors_survive_bit_for_bit(dtype, shape):
    tensor = (torch.randn(shape, generator=GENERATOR) * 50).to(getattr(torch, dtype))
    array = to_array("t", tensor)
    back = to_tensor(array)
    assert back.dtype == tensor.dtype and torch.equal(back, tensor)
    assert array.shape == shape and (array.dtype == BFLOAT16) == (dtype == "bfloat16")


def test_buffers_travel_with_their_dtypes():
    learner = make()
    fit = learner.run(TRAIN, learner.weights(), Pull())
    assert fit.params["1.num_batches_tracked"].dtype == np.int64
    assert int(fit.params["1.num_batches_tracked"]) == 10
    assert np.any(fit.params["1.running_mean"] != 0)


def test_training_learns_and_evaluation_reports_means_over_examples():
    learner = make()
    before = learner.weights()
    task = Task(name="v", run="evaluate", round=1, seed=0)
    after = learner.run(Task(**vars(TRAIN) | {"settings": {"epochs": 20}}), before, Pull()).params
    first, last = (learner.run(task, params, Pull()) for params in (before, after))
    assert last.metrics["loss"] < first.metrics["loss"]
    learner.model.eval()
    expected = nn.functional.cross_entropy(learner.model(X), Y).item()
    assert last.metrics["loss"] == pytest.approx(expected)
    assert last.examples == 40 and last.metrics["accuracy"] > 0.9


def test_a_task_leaves_the_callers_generators_alone():
    learner = make()
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    learner.run(TRAIN, learner.weights(), Pull())
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])


def test_settings_go_to_whatever_takes_them():
    seen = {}

    def optimizer(params, lr=0.5):
        seen["lr"] = lr
        return torch.optim.SGD(params, lr=lr)

    def train(batch_size=4):
        seen["batch_size"] = batch_size
        return loader(batch_size)

    learner = make(optimizer=optimizer, train=train)
    settings = {"lr": 0.2, "batch_size": 10, "epochs": 1}
    fit = learner.run(Task(**vars(TRAIN) | {"settings": settings}), learner.weights(), Pull())
    assert seen == {"lr": 0.2, "batch_size": 10} and fit.examples == 40
    with pytest.raises(UserError, match="It takes: epochs, lr, batch_size"):
        learner.check("fit", {"learning_rate": 0.1})
    with pytest.raises(UserError, match="It takes: none"):
        learner.check("evaluate", {"lr": 0.1})


@pytest.mark.parametrize("name", ["Adam", "Adagrad", "RMSprop", "LBFGS"])
def test_any_optimizer_of_torch_works(name):
    learner = make(optimizer=partial(getattr(torch.optim, name), lr=0.01))
    before = learner.weights()
    fit = learner.run(TRAIN, before, Pull())
    assert digest(fit.params) != digest(before)


@pytest.mark.parametrize("name", ["Adam", "SGD", "LBFGS"])
def test_a_kept_optimizer_goes_on_in_another_process_with_equal_bits(name):
    settings = {"momentum": 0.9} if name == "SGD" else {}
    optimizer = partial(getattr(torch.optim, name), lr=0.01, **settings)
    site = Site(member="alice", data=None, device="cpu", optimizer_state="keep")
    one = make(site=site, optimizer=optimizer)
    first = one.run(TRAIN, one.weights(), Pull())
    memory = {k: v.copy() for k, v in one.memory().items()}
    expected = one.run(TRAIN, first.params, Pull())
    other = make(site=site, optimizer=optimizer)
    other.remember(memory)
    assert digest(other.run(TRAIN, first.params, Pull()).params) == digest(expected.params)
    other.remember({})
    assert digest(other.run(TRAIN, first.params, Pull()).params) != digest(expected.params)


def test_a_reset_optimizer_keeps_nothing():
    learner = make(optimizer=partial(torch.optim.Adam, lr=0.01))
    first = learner.run(TRAIN, learner.weights(), Pull())
    assert learner.memory() == {}
    again = learner.run(TRAIN, make().weights(), Pull())
    assert digest(first.params) == digest(again.params)


def test_a_failed_task_does_not_change_the_kept_state():
    site = Site(member="alice", data=None, device="cpu", optimizer_state="keep")
    weight = torch.tensor(1.0)
    learner = make(
        site=site,
        optimizer=partial(torch.optim.Adam, lr=0.01),
        loss=lambda out, y: nn.functional.cross_entropy(out, y) * weight,
    )
    fit = learner.run(TRAIN, learner.weights(), Pull())
    before = digest(learner.memory())
    weight.fill_(float("nan"))
    with pytest.raises(Refused):
        learner.run(TRAIN, fit.params, Pull())
    assert digest(learner.memory()) == before


def test_a_nan_loss_is_refused_with_task_and_epoch():
    learner = make(loss=lambda out, y: out.sum() * float("nan"))
    with pytest.raises(Refused, match="task 'train': the loss is nan in epoch 1") as refused:
        learner.run(TRAIN, learner.weights(), Pull())
    assert refused.value.code == Code.NOT_FINITE


@pytest.mark.parametrize(("part", "run"), [("train", "fit"), ("validate", "evaluate")])
def test_empty_data_is_named(part, run):
    learner = make(**{part: lambda: []})
    with pytest.raises(UserError, match=r"alice: the .* data has no example"):
        learner.run(Task(name="t", run=run, round=1, seed=0), learner.weights(), Pull())


def test_no_validation_data_and_no_epoch_are_user_errors():
    learner = make(validate=None)
    with pytest.raises(UserError, match="Give TorchLearner 'validate'"):
        learner.run(Task(name="t", run="evaluate", round=1, seed=0), learner.weights(), Pull())
    with pytest.raises(UserError, match="epochs must be at least 1"):
        learner.run(Task(**vars(TRAIN) | {"settings": {"epochs": 0}}), learner.weights(), Pull())


def test_params_of_another_model_are_a_clear_error():
    learner = make()
    wrong = dict(learner.weights())
    wrong["0.bias"] = np.zeros(9, np.float32)
    with pytest.raises(UserError, match=r"'0.bias' as float32\(9,\), expected float32\(8,\)"):
        learner.run(TRAIN, wrong, Pull())


def test_a_device_that_is_not_there_is_an_error_only_when_it_is_needed():
    learner = make(site=Site(member="alice", data=None, device="cuda:99"))
    weights = learner.weights()
    with pytest.raises(UserError, match=r"Set learner.device to auto or cpu"):
        learner.run(TRAIN, weights, Pull())


def test_auto_takes_cuda_when_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert make(site=Site(member="a", data=None, device="auto")).device.type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert make(site=Site(member="a", data=None, device="auto")).device.type == "cuda"


def test_a_state_that_cannot_travel_is_named():
    model = nn.Linear(4, 2)
    model.register_buffer("phase", torch.zeros(2, dtype=torch.complex64))
    with pytest.raises(UserError, match=r"'phase': dtype torch.complex64 is not one of"):
        make(model).weights()

    class Odd(nn.Linear):
        def get_extra_state(self):
            return {"a": 1}

        def set_extra_state(self, state):
            raise AssertionError

    with pytest.raises(UserError, match=r"'_extra_state' .* is not a tensor"):
        make(Odd(4, 2)).weights()


def test_an_optimizer_state_that_cannot_be_stored_is_refused():
    class Strange(torch.optim.SGD):
        def state_dict(self):
            return super().state_dict() | {"odd": object()}

    site = Site(member="alice", data=None, device="cpu", optimizer_state="keep")
    learner = make(site=site, optimizer=partial(Strange, lr=0.1))
    learner.run(TRAIN, learner.weights(), Pull())
    with pytest.raises(UserError, match="a object, which cannot be stored"):
        learner.memory()


def test_a_subclass_adds_a_task_of_its_own():
    class Mine(TorchLearner):
        def norm(self, *, power: int = 2):
            values = [p.detach().abs().pow(power).sum() for p in self.model.parameters()]
            return Fit(examples=1, metrics={"norm": float(sum(values))})

    learner = Mine(
        nn.Linear(2, 1, bias=False),
        site=Site(member="a", data=None, device="cpu"),
        optimizer=SGD,
        loss=nn.functional.mse_loss,
        train=lambda: [],
    )
    task = Task(name="n", run="norm", round=1, seed=0, settings={"power": 1})
    fit = learner.run(task, {"weight": np.float32([[3.0, -4.0]])}, Pull())
    assert fit.metrics == {"norm": 7.0}
    with pytest.raises(UserError, match="It takes: power"):
        learner.check("norm", {"exponent": 1})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_models_of_other_precisions_train(dtype):
    model = nn.Linear(4, 2).to(dtype)
    batches = lambda: [(X.to(dtype), Y)]  # noqa: E731
    learner = make(model, train=batches, validate=batches)
    before = learner.weights()
    after = learner.run(TRAIN, before, Pull(scale=0.1)).params
    assert digest(after) != digest(before)
    assert after["weight"].dtype == before["weight"].dtype


def test_frozen_parameters_stay_and_are_not_pulled():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    learner = make(model)
    before = learner.weights()
    shift = {name: np.ones_like(array) for name, array in before.items()}
    after = learner.run(TRAIN, before, Pull(shift=shift)).params
    assert np.array_equal(before["0.weight"], after["0.weight"])
    assert not np.array_equal(before["1.weight"], after["1.weight"])
