# SPDX-License-Identifier: Apache-2.0
"""Who sends whatever bytes: each way in refuses them by its own error, and never by another.

A short run of ``fuzz/fuzz.py``, by mutation, with one seed: CONTRIBUTING tells of the long ones.
"""

from collections.abc import Iterator

import pytest
from fuzz import mutation, parties
from fuzz.targets import TARGETS
from fuzz.watch import Target, Watch

from fedclave.errors import Code, Refused

pytest.importorskip("cbor2", reason="evidence needs an extra: attest")
pytest.importorskip("cryptography.hazmat.primitives.hpke", reason="needs cryptography 47")

RUNS = 250
SEED = 1


@pytest.fixture(scope="module", autouse=True)
def folder() -> Iterator[None]:
    yield
    parties.clean()


def watched(name: str, target: Target) -> Watch:
    """No time is asked for: the machine may be busy, and the code watched."""
    return Watch(name, target, "mutation", slow_ms=float("inf"))


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_sent_is_accepted_or_refused(name: str) -> None:
    target = TARGETS[name]
    watch = watched(name, target)
    report = watch.all(mutation.inputs(target.seeds(), f"{SEED}/{name}", RUNS))
    assert report.finding == "", watch.input
    assert report.inputs == report.accepted + report.refused == RUNS
    assert report.refused > RUNS // 2


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_known_to_be_good_is_accepted(name: str) -> None:
    target = TARGETS[name]
    target.run(target.seeds()[0])


def test_an_error_that_is_no_refusal_is_a_finding() -> None:
    def parse(data: bytes) -> None:
        if data == b"odd":
            raise ValueError("not ours")
        raise Refused(Code.MALFORMED, "ours")

    watch = watched("own", Target(what="", seeds=lambda: [b""], run=parse))
    report = watch.all([b"", b"odd", b"never run"])
    assert (report.inputs, report.refused, watch.input) == (2, 1, b"odd")
    assert "not ours" in report.finding


def test_time_that_an_input_takes_is_a_finding() -> None:
    target = Target(what="", seeds=lambda: [b""], run=lambda data: sum(range(1000)))
    watch = Watch("own", target, "mutation", slow_ms=0.0)
    assert not watch.one(b"slow")
    assert (watch.input, watch.report.accepted) == (b"slow", 1)
    assert "of CPU time" in watch.report.finding


def test_one_seed_gives_one_sequence() -> None:
    seeds = [b'{"a":1}', b"\x30\x03\x02\x01\x05"]
    one, same, other = (list(mutation.inputs(seeds, seed, 500)) for seed in ("1", "1", "2"))
    assert one == same != other
    assert one[:2] == seeds
    assert len({*one}) > 300
