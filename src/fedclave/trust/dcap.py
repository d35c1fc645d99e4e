# SPDX-License-Identifier: Apache-2.0
"""The second judge: dcap-qvl (Phala Network's verifier, in Rust), in a process of its own.

It reads bytes that a peer chose, so whatever becomes of it must not become of us: a panic, a crash
or a case without end costs one worker, which is killed and started anew, and refuses the quote. It
is given no keys and little memory, and is asked over a socket that only the two hold. When this
process ends, however it ends, the worker reads the end of the file and exits.

    request   now (u64, seconds), lengths of quote, collateral and root (u32 each), their bytes
    reply     length (u32), JSON: {"status", "advisories"}, {"refused": why} or {"missing": why}

All integers are little-endian. What dcap-qvl is too lax about (version 0.7.0: who signed the
collateral, pceId, thisUpdate of CRLs, trailing bytes) our own judgement makes good; see ``verify``.
"""

import json
import os
import resource
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import suppress
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from fedclave.errors import Code, Refused, Unavailable, UserError

DEADLINE_S = 5.0
"""For one quote; 5 ms are usual."""
START_S = 60.0
"""For a new worker to say that it is there."""
MAX_REPLY = 64 * 1024
MAX_REQUEST = 4 * 1024 * 1024
MEMORY = 1 << 30  # bytes of address space; the worker needs about 100 MB

COMMAND = [sys.executable, "-P", "-m", "fedclave.trust.dcap"]
"""What a worker is. ``-P``: the folder that this process happens to be in is not searched."""

_REQUEST = struct.Struct("<QIII")
_LENGTH = struct.Struct("<I")

Verdict = tuple[str, tuple[str, ...]]
"""TCB status and advisories, in dcap-qvl's words, which are Intel's."""


class DcapJudge:
    """A worker, started when it is first needed. Calls wait for each other; any thread may call."""

    def __init__(self, *, deadline_s: float = DEADLINE_S) -> None:
        self._deadline_s = deadline_s
        self._lock = threading.Lock()
        self._worker: _Worker | None = None

    def judge(self, raw_quote: bytes, collateral: bytes, root_der: bytes, now: datetime) -> Verdict:
        """What dcap-qvl finds. It blocks: call it outside the event loop.

        ``Refused`` (``ATT-DISAGREE``): it refuses, or reaches no verdict; ask it only about quotes
        that our own judgement accepts. ``UserError``: it is not installed. ``Unavailable``: no
        worker starts.
        """
        check_size(raw_quote, collateral, root_der)
        request = _REQUEST.pack(seconds(now), len(raw_quote), len(collateral), len(root_der))
        with self._lock:
            reply = self._ask(request + raw_quote + collateral + root_der)
        return verdict(reply)

    def close(self) -> None:
        """End the worker. The next call starts another."""
        with self._lock:
            self._drop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _ask(self, request: bytes) -> dict[str, Any]:
        """One exchange. A worker that died is replaced once: the system may have killed it."""
        try:
            try:
                return self._exchange(request)
            except ConnectionError:
                return self._exchange(request)
        except TimeoutError as error:
            raise no_verdict(f"reached no verdict within {self._deadline_s:g} s") from error
        except (OSError, ValueError) as error:
            raise no_verdict(f"broke down over it ({error})") from error

    def _exchange(self, request: bytes) -> dict[str, Any]:
        if self._worker is None:
            self._worker = _Worker.start()
        try:
            return self._worker.ask(request, self._deadline_s)
        except BaseException:  # an answer half read must not be taken for the next one's
            self._drop()
            raise

    def _drop(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.kill()


class _Worker:
    """A worker process and our end of the socket to it."""

    def __init__(self, process: subprocess.Popen[bytes], connection: socket.socket) -> None:
        self._process = process
        self._socket = connection

    @classmethod
    def start(cls) -> Self:
        """Start one, and wait until it is there."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = subprocess.Popen(  # noqa: S603 - this Python, this module
                    COMMAND,
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,  # a panic prints what the peer made it print
                    start_new_session=True,  # Ctrl-C is for the parent to handle, once
                )
            except OSError as error:
                ours.close()
                raise _not_started(str(error)) from error
        worker = cls(process, ours)
        try:
            worker._receive(0, time.monotonic() + START_S)
        except (OSError, ValueError) as error:
            worker.kill()
            raise _not_started(str(error)) from error
        except BaseException:
            worker.kill()
            raise
        return worker

    def ask(self, request: bytes, deadline_s: float) -> dict[str, Any]:
        """Raises ``TimeoutError``, ``OSError`` or ``ValueError``; the worker is of no use then."""
        until = time.monotonic() + deadline_s
        self._socket.settimeout(deadline_s)
        self._socket.sendall(request)
        return self._receive(MAX_REPLY, until)

    def kill(self) -> None:
        self._socket.close()
        self._process.kill()
        self._process.wait()

    def _receive(self, most: int, until: float) -> dict[str, Any]:
        (length,) = _LENGTH.unpack(self._exactly(_LENGTH.size, until))
        if length > most:
            raise ValueError(f"a reply of {length} bytes")
        if length == 0:  # what a worker says first
            return {}
        reply = json.loads(self._exactly(length, until))
        if not isinstance(reply, dict):
            raise ValueError("a reply that is no object")
        return reply

    def _exactly(self, size: int, until: float) -> bytes:
        data = b""
        while len(data) < size:
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError("timed out")
            self._socket.settimeout(left)
            part = self._socket.recv(size - len(data))
            if not part:
                raise ConnectionError("it ended")
            data += part
        return data


# What both ways of asking have in common: this one, and ``dcap_within``.


def seconds(now: datetime) -> int:
    """A time as dcap-qvl takes it."""
    return max(int(now.timestamp()), 0)


def check_size(raw_quote: bytes, collateral: bytes, root_der: bytes) -> None:
    """Refuse what nobody should have to read."""
    size = _REQUEST.size + len(raw_quote) + len(collateral) + len(root_der)
    if size > MAX_REQUEST:
        raise no_verdict(f"would have to read {size} bytes")


def verdict(reply: dict[str, Any]) -> Verdict:
    """The verdict that is in a reply. Raises as ``DcapJudge.judge`` does."""
    if "missing" in reply:
        raise _missing(str(reply["missing"]))
    if "refused" in reply:
        raise no_verdict(f"refuses it: {str(reply['refused'])[:300]!r}")
    status, advisories = reply.get("status"), reply.get("advisories")
    if not isinstance(status, str) or not isinstance(advisories, list):
        raise no_verdict("answers with something that is no verdict")
    return status, tuple(str(one) for one in advisories)


def load() -> None:
    """Import dcap-qvl into this process. ``UserError``: it is not installed."""
    try:
        import dcap_qvl  # noqa: F401 - so that later imports find it
    except ImportError as error:
        raise _missing(str(error)) from error


def _missing(reason: str) -> UserError:
    return UserError(
        f"dcap-qvl cannot be loaded ({reason[:200]}). Install it: pip install 'fedclave[attest]'"
    )


def no_verdict(what: str) -> Refused:
    """The refusal of a quote about which the second verifier does this."""
    return Refused(
        Code.ATT_DISAGREE,
        f"the quote passes fedclave's own checks, but the second verifier (dcap-qvl) {what}. Nobody"
        " is admitted on the word of one alone: keep the quote and the collateral, and report both",
    )


def _not_started(reason: str) -> Unavailable:
    return Unavailable(
        f"the second verifier (dcap-qvl) does not start ({reason}). Free memory or processes on"
        " this machine, then try again"
    )


# The worker's side.


def main() -> None:
    """``python -m fedclave.trust.dcap``: answer on standard input, a socket, until it ends."""
    with suppress(ValueError, OSError):  # macOS knows no limit of address space
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with socket.socket(fileno=os.dup(0)) as connection, connection.makefile("rwb") as stream:
        stream.write(_LENGTH.pack(0))
        stream.flush()
        while len(head := stream.read(_REQUEST.size)) == _REQUEST.size:
            now, *sizes = _REQUEST.unpack(head)
            quote, collateral, root = (stream.read(size) for size in sizes)
            reply = json.dumps(judged(quote, collateral, root, now)).encode()
            stream.write(_LENGTH.pack(len(reply)) + reply)
            stream.flush()


def judged(quote: bytes, collateral: bytes, root: bytes, now: int) -> dict[str, Any]:
    """The reply about a quote, in this process. Nothing that becomes of it is raised."""
    try:
        import dcap_qvl
    except ImportError as error:
        return {"missing": str(error)}
    try:
        parts = dcap_qvl.QuoteCollateralV3.from_json(collateral.decode())
        report = dcap_qvl.verify_with_root_ca(quote, parts, root, now)
        return {"status": report.status, "advisories": list(report.advisory_ids)}
    except BaseException as error:  # a panic in Rust is no Exception
        return {"refused": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    main()
