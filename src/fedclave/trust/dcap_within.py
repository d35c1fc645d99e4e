# SPDX-License-Identifier: Apache-2.0
"""The second judge within this process, where no other can be started: in an enclave.

Gramine's ``sys.disallow_subprocesses`` leaves no process to put dcap-qvl into (``dcap``). Here it
has a thread. The verdicts are the same, and so are the refusals: a panic is caught (it is an
exception of Rust's making, no ``Exception``), and who waits for one that does not end is told after
the deadline. What a process of its own gave besides is lost: an abort ends the party, which goes
on when it is started again, and a thread without end cannot be ended. After ``MOST`` of those
nothing is judged any more. dcap-qvl sees only what our own verifier accepted (``verify``, steps 1
to 3), and of that at most ``MAX_REQUEST`` bytes.
"""

import threading
from datetime import datetime
from typing import Any

from fedclave.errors import Unavailable
from fedclave.trust import dcap
from fedclave.trust.dcap import Verdict

MOST = 4
"""Threads without end, after which no more are begun."""


class Within:
    """dcap-qvl in a thread of this process. Calls wait for each other; any thread may call."""

    def __init__(self, *, deadline_s: float = dcap.DEADLINE_S) -> None:
        """``UserError``: dcap-qvl is not installed. Later the host could hide it."""
        dcap.load()
        self._deadline_s = deadline_s
        self._late: list[threading.Thread] = []  # without end, so far
        self._lock = threading.Lock()

    def judge(self, raw_quote: bytes, collateral: bytes, root_der: bytes, now: datetime) -> Verdict:
        """What dcap-qvl finds. It blocks, and raises, as ``DcapJudge.judge`` does."""
        dcap.check_size(raw_quote, collateral, root_der)
        replies: list[dict[str, Any]] = []

        def work() -> None:
            replies.append(dcap.judged(raw_quote, collateral, root_der, dcap.seconds(now)))

        with self._lock:
            self._check_late()
            thread = threading.Thread(target=work, name="dcap-qvl", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # sgx.max_threads
                raise Unavailable(
                    "no thread can be started for the second verifier (dcap-qvl). Start again, in"
                    " an enclave that was made for more threads"
                ) from error
            thread.join(self._deadline_s)
            if thread.is_alive():
                self._late.append(thread)
                raise dcap.no_verdict(f"reached no verdict within {self._deadline_s:g} s")
        if not replies:
            raise dcap.no_verdict("broke down over it")
        return dcap.verdict(replies[0])

    def _check_late(self) -> None:
        self._late = [thread for thread in self._late if thread.is_alive()]
        if len(self._late) >= MOST:
            raise dcap.no_verdict(
                f"is still at work on {len(self._late)} earlier quotes, which it does not end"
            )
