# SPDX-License-Identifier: Apache-2.0
"""The second judge in this process: the same verdicts and refusals as in one of its own."""

import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from tests.support.dcap_pki import NOW, Vendor

from fedclave.errors import Code, Refused, Unavailable, UserError
from fedclave.trust import dcap, dcap_within
from fedclave.trust.dcap_within import Within

THEN = datetime(1970, 1, 2, tzinfo=UTC)
GOOD = SimpleNamespace(status="UpToDate", advisory_ids=["SA-1"])
ARGS = (b"quote", b"{}", b"root", NOW)
ENDLESS_S = 0.2  # how long a test waits for what does not end
Answers = Callable[[Callable[..., Any]], None]


class PanicException(BaseException):
    """As pyo3 has it: no ``Exception``."""


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Answers:
    """Let dcap-qvl verify by this function."""

    def by(function: Callable[..., Any]) -> None:
        fake = ModuleType("dcap_qvl")
        fake.QuoteCollateralV3 = SimpleNamespace(from_json=lambda text: text)  # type: ignore
        fake.verify_with_root_ca = function  # type: ignore
        monkeypatch.setitem(sys.modules, "dcap_qvl", fake)

    return by


@pytest.fixture
def at_last() -> Iterator[threading.Event]:
    """What endless threads of a test wait for."""
    event = threading.Event()
    yield event
    event.set()
    for thread in threading.enumerate():
        if thread.name == "dcap-qvl":
            thread.join()


def refusal(judge: Within) -> str:
    with pytest.raises(Refused) as refused:
        judge.judge(*ARGS)
    assert refused.value.code is Code.ATT_DISAGREE
    return refused.value.message


def test_dcap_qvl_itself_says_the_same_within_and_in_a_process_of_its_own() -> None:
    pytest.importorskip("dcap_qvl", reason="the second verifier is an extra: attest")
    vendor, other = Vendor(), Vendor()
    cases = {
        "good": (vendor.quote(), vendor.collateral(), vendor.root_der, NOW),
        "another root": (vendor.quote(), vendor.collateral(), other.root_der, NOW),
        "another's collateral": (vendor.quote(), other.collateral(), vendor.root_der, NOW),
        "too early": (vendor.quote(), vendor.collateral(), vendor.root_der, THEN),
        "cut": (vendor.quote()[:500], vendor.collateral(), vendor.root_der, NOW),
        "no collateral": (vendor.quote(), b"{}", vendor.root_der, NOW),
        "no UTF-8": (vendor.quote(), b"\xff", vendor.root_der, NOW),
        "nothing": (b"", b"", b"", NOW),
    }

    def said(judge: Any, case: tuple[Any, ...]) -> object:
        try:
            return judge.judge(*case)
        except Refused as refused:
            return refused.code, refused.message

    with dcap.DcapJudge() as apart:
        found = {name: said(Within(), case) for name, case in cases.items()}
        assert found == {name: said(apart, case) for name, case in cases.items()}
    assert found["good"] == ("UpToDate", ())
    assert all(found[name][0] is Code.ATT_DISAGREE for name in found.keys() - {"good"})  # type: ignore


def test_no_process_is_started(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess

    def no_process(*_: object, **__: object) -> None:
        raise BlockingIOError("Resource temporarily unavailable")  # as with disallow_subprocesses

    monkeypatch.setattr(subprocess, "Popen", no_process)
    answers(lambda *_: GOOD)
    assert Within().judge(*ARGS) == ("UpToDate", ("SA-1",))


def test_the_bytes_and_the_time_arrive(answers: Answers) -> None:
    seen: list[Any] = []
    answers(lambda *args: seen.extend(args) or GOOD)
    Within().judge(*ARGS)
    assert seen == [b"quote", "{}", b"root", int(NOW.timestamp())]


def test_a_panic_is_caught_and_refuses_the_quote(answers: Answers) -> None:
    def panic(*_: object) -> None:
        raise PanicException("index out of bounds")

    answers(panic)
    assert "PanicException: index out of bounds" in refusal(Within())


def test_what_does_not_end_is_refused_in_time_and_others_are_judged(
    answers: Answers, at_last: threading.Event
) -> None:
    judge = Within(deadline_s=ENDLESS_S)
    answers(lambda *_: at_last.wait())
    assert f"within {ENDLESS_S:g} s" in refusal(judge)
    judge._deadline_s = 30
    answers(lambda *_: GOOD)
    assert judge.judge(*ARGS)[0] == "UpToDate"


def test_threads_without_end_do_not_pile_up(answers: Answers, at_last: threading.Event) -> None:
    judge = Within(deadline_s=ENDLESS_S)
    begun: list[object] = []
    answers(lambda *_: begun.append(0) or at_last.wait())
    for _ in range(dcap_within.MOST):
        assert "reached no verdict" in refusal(judge)
    assert "still at work" in refusal(judge)
    assert len(begun) == dcap_within.MOST
    at_last.set()
    for thread in list(judge._late):
        thread.join()
    judge._deadline_s = 30
    answers(lambda *_: GOOD)
    assert judge.judge(*ARGS)[0] == "UpToDate"


def test_calls_take_turns_so_that_there_is_one_thread_at_a_time(answers: Answers) -> None:
    judging = threading.Semaphore(1)

    def alone(quote: bytes, *_: object) -> object:
        assert judging.acquire(blocking=False), "two at a time"
        try:
            return SimpleNamespace(status=quote.decode(), advisory_ids=[])
        finally:
            judging.release()

    answers(alone)
    judge = Within()
    with ThreadPoolExecutor(4) as pool:
        said = pool.map(lambda n: judge.judge(str(n).encode(), b"{}", b"", NOW)[0], range(40))
        assert list(said) == [str(n) for n in range(40)]


def test_an_enclave_without_a_thread_to_spare_is_said(
    answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    answers(lambda *_: GOOD)
    judge = Within()
    with monkeypatch.context() as patch, pytest.raises(Unavailable, match="threads"):
        patch.setattr(threading.Thread, "start", none)
        judge.judge(*ARGS)
    assert judge.judge(*ARGS)[0] == "UpToDate"


@pytest.mark.parametrize(
    "report",
    [SimpleNamespace(status=1, advisory_ids=[]), SimpleNamespace(status="UpToDate"), None],
    ids=["number", "half", "nothing"],
)
def test_an_answer_that_is_no_verdict_is_refused(answers: Answers, report: object) -> None:
    answers(lambda *_: report)
    refusal(Within())


def test_a_missing_dcap_qvl_is_the_users_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dcap_qvl", None)
    with pytest.raises(UserError, match="pip install"):
        Within()


def test_it_is_never_asked_about_too_much(answers: Answers) -> None:
    answers(lambda *_: GOOD)
    with pytest.raises(Refused, match="bytes"):
        Within().judge(bytes(dcap.MAX_REQUEST), b"{}", b"", NOW)
