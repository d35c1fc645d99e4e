# SPDX-License-Identifier: Apache-2.0
"""Challenges of a release: what its maker signs is read strictly all the same."""

from datetime import UTC, datetime
from typing import Any

import pytest

from fedclave import canonical
from fedclave.errors import Code, Refused
from fedclave.trust.releasing import Challenge

CHALLENGE = Challenge(
    purpose="initial-model",
    name="aggregator",
    contract="c0" * 32,
    policy="d0" * 32,
    nonce=b"n" * 32,
    time=datetime(2031, 5, 1, 12, tzinfo=UTC),
)


def test_a_challenge_comes_back_from_its_bytes() -> None:
    assert Challenge.parse(CHALLENGE.encoded) == CHALLENGE


@pytest.mark.parametrize("field", ["name", "contract", "policy", "purpose", "nonce", "time"])
@pytest.mark.parametrize("value", [None, 1, 1.5, True, [], {}, ["a"]], ids=repr)
def test_a_field_that_is_no_text_is_refused(field: str, value: Any) -> None:
    payload = canonical.encode({**canonical.decode(CHALLENGE.encoded), field: value})
    with pytest.raises(Refused) as refused:
        Challenge.parse(payload)
    assert refused.value.code is Code.MALFORMED


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"])
def test_a_time_that_utc_has_not_is_refused(time: str) -> None:
    payload = canonical.encode({**canonical.decode(CHALLENGE.encoded), "time": time})
    with pytest.raises(Refused) as refused:
        Challenge.parse(payload)
    assert refused.value.code is Code.MALFORMED
