# SPDX-License-Identifier: Apache-2.0
"""The second judge: whatever becomes of its process, we get a verdict or a refusal, in time."""

import gc
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from tests.support.dcap_pki import NOW, Vendor

from fedclave.errors import Code, Refused, Unavailable, UserError
from fedclave.trust import dcap

SAY_READY = "import os; os.write(0, bytes(4)); "
ANSWER = (
    "import json, sys, types; fake = types.ModuleType('dcap_qvl'); sys.modules['dcap_qvl'] = fake\n"
    "class Report: status = 'UpToDate'; advisory_ids = ['SA-1']\n"
    "fake.QuoteCollateralV3 = types.SimpleNamespace(from_json=lambda text: text)\n"
)
GOOD = ANSWER + "fake.verify_with_root_ca = lambda *a: Report\n"
ARGS = (b"quote", b"{}", b"root", NOW)

Run = Callable[[str], None]


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Make the worker run this code instead."""

    def run(code: str) -> None:
        monkeypatch.setattr(dcap, "COMMAND", [sys.executable, "-c", code])

    return run


def serve(code: str) -> str:
    return f"{code}\nfrom fedclave.trust import dcap\ndcap.main()"


def refusal(judge: dcap.DcapJudge, code: Code = Code.ATT_DISAGREE) -> str:
    with pytest.raises(Refused) as refused:
        judge.judge(*ARGS)
    assert refused.value.code is code
    return refused.value.message


def pid_of(judge: dcap.DcapJudge) -> int:
    assert judge._worker is not None
    return judge._worker._process.pid


def test_it_judges_many_times_with_one_worker(worker: Run) -> None:
    worker(serve(GOOD))
    with dcap.DcapJudge() as judge:
        pids = set()
        for _ in range(5):
            assert judge.judge(*ARGS) == ("UpToDate", ("SA-1",))
            pids.add(pid_of(judge))
    assert len(pids) == 1


def test_the_bytes_and_the_time_arrive_as_they_were_sent(worker: Run) -> None:
    worker(
        serve(
            ANSWER
            + "def say(quote, *a):\n"
            + "    Report.status = json.dumps([sum(quote), len(quote), *map(str, a)])\n"
            + "    return Report\n"
            + "fake.verify_with_root_ca = say\n"
        )
    )
    quote, root = bytes(range(256)) * 4000, b"root"  # more than a socket holds at once
    with dcap.DcapJudge() as judge:
        status, _ = judge.judge(quote, b'{"a": 1}', root, NOW)
    now = str(int(NOW.timestamp()))
    assert json.loads(status) == [sum(quote), len(quote), '{"a": 1}', str(root), now]


def test_what_it_refuses_is_refused_in_its_words(worker: Run) -> None:
    worker(
        serve(ANSWER + "def no(*a): raise ValueError('QE hash')\nfake.verify_with_root_ca = no\n")
    )
    with dcap.DcapJudge() as judge:
        assert "QE hash" in refusal(judge)


def test_a_panic_refuses_the_quote_and_the_worker_goes_on(worker: Run) -> None:
    worker(
        serve(
            ANSWER
            + "class PanicException(BaseException): pass\n"
            + "def panic(*a): raise PanicException('index out of bounds')\n"
            + "fake.verify_with_root_ca = panic\n"
        )
    )
    with dcap.DcapJudge() as judge:
        assert "PanicException" in refusal(judge)
        pid = pid_of(judge)
        refusal(judge)
        assert pid_of(judge) == pid


def test_a_hang_is_killed_and_the_next_quote_gets_a_new_worker(
    worker: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    hang = "import time\nfake.verify_with_root_ca = lambda *a: time.sleep(600)\n"
    worker(serve(ANSWER + hang))
    with dcap.DcapJudge(deadline_s=0.2) as judge:
        assert "0.2 s" in refusal(judge)
        assert judge._worker is None
        worker(serve(GOOD))
        judge._deadline_s = 30
        assert judge.judge(*ARGS)[0] == "UpToDate"


def test_a_crash_refuses_the_quote(worker: Run) -> None:
    worker(serve(ANSWER + "import os\nfake.verify_with_root_ca = lambda *a: os.abort()\n"))
    with dcap.DcapJudge() as judge:
        assert "broke down" in refusal(judge)
        worker(serve(GOOD))
        assert judge.judge(*ARGS)[0] == "UpToDate"


def test_a_worker_that_the_system_killed_is_replaced_unnoticed(worker: Run) -> None:
    worker(serve(GOOD))
    with dcap.DcapJudge() as judge:
        judge.judge(*ARGS)
        killed = pid_of(judge)
        os.kill(killed, signal.SIGKILL)
        assert judge.judge(*ARGS)[0] == "UpToDate"
        assert pid_of(judge) != killed


@pytest.mark.parametrize(
    "reply",
    [
        b"\xff\xff\xff\xff",
        b"\x04\x00\x00\x00nope",
        b"\x02\x00\x00\x00[]",
        b"\x02\x00\x00\x00{}",
        b'\x0c\x00\x00\x00{"status":1}',
        b'\x15\x00\x00\x00{"status":"UpToDate"}',
        b"\x00\x00\x00\x00",
        b"\x05\x00",
    ],
    ids=["huge", "no JSON", "list", "empty", "number", "half", "ready again", "cut"],
)
def test_a_reply_that_is_no_verdict_is_refused(worker: Run, reply: bytes) -> None:
    worker(f"{SAY_READY}os.read(0, 999); os.write(0, {reply!r})")
    with dcap.DcapJudge() as judge:
        refusal(judge)


def test_a_missing_dcap_qvl_is_the_users_to_install(worker: Run) -> None:
    worker(serve("import sys; sys.modules['dcap_qvl'] = None"))
    with dcap.DcapJudge() as judge, pytest.raises(UserError, match="pip install"):
        judge.judge(*ARGS)


@pytest.mark.parametrize("code", ["", "raise SystemExit(1)"])
def test_a_worker_that_does_not_start_is_unavailable(worker: Run, code: str) -> None:
    worker(code)
    with dcap.DcapJudge() as judge, pytest.raises(Unavailable, match="does not start"):
        judge.judge(*ARGS)


def test_a_program_that_is_not_there_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dcap, "COMMAND", ["/nowhere/python"])
    with dcap.DcapJudge() as judge, pytest.raises(Unavailable):
        judge.judge(*ARGS)
    gc.collect()  # an open socket would warn, which is an error here


def test_it_is_never_asked_about_too_much() -> None:
    with dcap.DcapJudge() as judge, pytest.raises(Refused):
        judge.judge(bytes(dcap.MAX_REQUEST), b"{}", b"", NOW)
    assert judge._worker is None


def test_a_time_before_1970_is_no_crash(worker: Run) -> None:
    worker(serve(GOOD))
    with dcap.DcapJudge() as judge:
        assert judge.judge(b"", b"{}", b"", datetime(1960, 1, 1, tzinfo=UTC))[0] == "UpToDate"


def test_threads_take_turns(worker: Run) -> None:
    worker(
        serve(
            ANSWER
            + "def echo(q, *a): Report.status = q.decode(); return Report\n"
            + "fake.verify_with_root_ca = echo\n"
        )
    )
    barrier = threading.Barrier(4)

    def ask(number: int) -> list[str]:
        barrier.wait()
        return [judge.judge(str(number).encode(), b"{}", b"", NOW)[0] for _ in range(20)]

    with dcap.DcapJudge() as judge, ThreadPoolExecutor(4) as pool:
        for number, said in enumerate(pool.map(ask, range(4))):
            assert said == [str(number)] * 20


def test_the_worker_ends_with_us() -> None:
    ours, theirs = socket.socketpair()
    with subprocess.Popen(dcap.COMMAND, stdin=theirs.fileno()) as process:
        theirs.close()
        assert ours.recv(4) == bytes(4)
        ours.close()
        assert process.wait(30) == 0


def test_a_closed_judge_starts_again_when_it_is_asked(worker: Run) -> None:
    worker(serve(GOOD))
    with dcap.DcapJudge() as judge:
        judge.judge(*ARGS)
        judge.close()
        assert judge.judge(*ARGS)[0] == "UpToDate"


def test_dcap_qvl_itself_judges_a_quote() -> None:
    pytest.importorskip("dcap_qvl", reason="the second verifier is an extra: attest")
    vendor = Vendor()
    with dcap.DcapJudge() as judge:
        good = (vendor.quote(), vendor.collateral(), vendor.root_der, NOW)
        assert judge.judge(*good) == ("UpToDate", ())
        with pytest.raises(Refused, match="CRL"):
            judge.judge(good[0], Vendor().collateral(), good[2], NOW)
