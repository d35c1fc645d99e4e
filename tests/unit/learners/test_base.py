# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from fedclave.errors import Code, Refused, UserError
from fedclave.learners.base import blame, check_settings, checked, differs, is_finite
from fedclave.messages import Fit
from fedclave.tensors import BFLOAT16, narrow

PARAMS = {"w": np.ones((2, 3), np.float32), "n": np.int64(4).reshape(())}


def fit(**changes):
    return Fit(**{"params": PARAMS, "examples": 5, "metrics": {"loss": 0.5}} | changes)


def test_a_good_fit_passes_with_plain_numbers():
    good = checked(fit(examples=np.int64(5), metrics={"loss": np.float32(0.5)}), PARAMS)
    assert (type(good.examples), type(good.metrics["loss"])) == (int, float)


BAD = {
    "not a fit": ((PARAMS, 5), Code.MALFORMED, "a tuple"),
    "a missing tensor": (fit(params={"w": PARAMS["w"]}), Code.WRONG_TENSORS, "'n'"),
    "an extra tensor": (fit(params=PARAMS | {"x": np.ones(1)}), Code.WRONG_TENSORS, "'x'"),
    "another shape": (
        fit(params=PARAMS | {"w": np.ones((3, 2), np.float32)}),
        Code.WRONG_TENSORS,
        "'w' as float32(3, 2), expected float32(2, 3)",
    ),
    "another dtype": (fit(params=PARAMS | {"w": np.ones((2, 3))}), Code.WRONG_TENSORS, "float64"),
    "a list": (fit(params=PARAMS | {"w": [[1.0]]}), Code.WRONG_TENSORS, "a list as tensor 'w'"),
    "no mapping": (fit(params=[1.0]), Code.WRONG_TENSORS, "a list where"),
    "nan": (fit(params=PARAMS | {"w": PARAMS["w"] * np.nan}), Code.NOT_FINITE, "'w'"),
    "infinite": (fit(params=PARAMS | {"w": PARAMS["w"] * np.inf}), Code.NOT_FINITE, "'w'"),
    "a nan metric": (fit(metrics={"loss": float("nan")}), Code.NOT_FINITE, "'loss' is nan"),
    "a metric of many": (fit(metrics={"loss": np.ones(2)}), Code.MALFORMED, "'loss'"),
    "a metric of words": (fit(metrics={"loss": "low"}), Code.MALFORMED, "'loss'"),
    "a metric with a slash": (fit(metrics={"a/b": 1.0}), Code.MALFORMED, "'a/b'"),
    "no examples": (fit(examples=0), Code.BAD_WEIGHT, "0 examples"),
    "negative examples": (fit(examples=-3), Code.BAD_WEIGHT, "-3"),
    "half an example": (fit(examples=0.5), Code.BAD_WEIGHT, "0.5"),
    "true examples": (fit(examples=True), Code.BAD_WEIGHT, "True"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_fit_is_refused_and_the_culprit_named(name):
    bad, code, words = BAD[name]
    with pytest.raises(Refused) as refused:
        checked(bad, PARAMS)
    assert refused.value.code == code
    assert words in refused.value.message


def test_many_missing_tensors_are_counted_not_listed():
    assert differs({f"t{i}": np.ones(1) for i in range(9)}, {}).endswith("and 6 more")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_bfloat16_that_is_not_finite_is_seen(value):
    array = narrow(np.array([1.0, value], np.float32))
    assert array.dtype == BFLOAT16
    assert not is_finite(array)
    assert is_finite(narrow(np.array([1.0, -3e38], np.float32)))


def task(
    weights, *, rng, epochs: int = 1, rate: float = 0.1, kind: "str" = "a", loud: bool = False
):
    return weights, rng, epochs, rate, kind, loud


@pytest.mark.parametrize(
    "settings", [{}, {"epochs": 3}, {"rate": 1}, {"rate": 0.5, "kind": "b", "loud": True}]
)
def test_settings_of_the_right_type_pass(settings):
    check_settings("fit", [task], settings, ["weights", "rng"])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"epoch": 3}, "no setting 'epoch'. It takes: epochs, rate, kind, loud"),
        ({"rng": 3}, "no setting 'rng'"),
        ({"weights": 3}, "no setting 'weights'"),
        ({"epochs": "3"}, "'epochs' must be int, got str '3'"),
        ({"epochs": True}, "'epochs' must be int, got bool True"),
        ({"epochs": 1.5}, "'epochs' must be int"),
        ({"kind": 1}, "'kind' must be str"),
    ],
)
def test_settings_that_nothing_takes_or_of_a_wrong_type_are_refused(settings, words):
    with pytest.raises(UserError, match=r".*".join(words.split("'"))):
        check_settings("fit", [task], settings, ["weights", "rng"])


def test_a_setting_without_default_must_be_given():
    with pytest.raises(UserError, match="needs the setting 'epochs'"):
        check_settings("fit", [lambda *, epochs: epochs], {})


def test_rest_keywords_take_no_setting_because_a_typing_error_would_hide_there():
    with pytest.raises(UserError, match="It takes: none"):
        check_settings("fit", [lambda **rest: rest], {"epochs": 1})


def test_an_error_outside_of_a_workspace_has_no_place():
    assert blame(ValueError("bad")) == "ValueError: bad"
    assert blame(KeyboardInterrupt()) == "KeyboardInterrupt"
