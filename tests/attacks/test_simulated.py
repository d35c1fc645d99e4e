# SPDX-License-Identifier: Apache-2.0
"""Simulated quotes offered as what they are not, and who plays with the quoting service."""

import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fedclave.errors import Code, Refused, Unavailable
from fedclave.trust import collateral, quotes, quoting, sgx_verify
from fedclave.trust.quoting import MAGIC, REQUEST, QuotingEnclave, QuotingService, SimulatedAttester
from fedclave.trust.simulated import SimulatedPlatform

dcap_qvl = pytest.importorskip("dcap_qvl")

NOW = datetime(2031, 5, 1, 12, tzinfo=UTC)
INTEL = Path(__file__).parents[1] / "vectors" / "attestation" / "intel-sgx-root.der"
MEASUREMENT = b"m" * 32
REPORT_DATA = bytes(range(64))
GOOD = REQUEST.pack(MAGIC, MEASUREMENT, REPORT_DATA)
NOBODY = 65534


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> SimulatedPlatform:
    return SimulatedPlatform.create(tmp_path_factory.mktemp("tee"), "digits", NOW)


@pytest.fixture
def service(platform: SimulatedPlatform) -> Iterator[QuotingService]:
    with QuotingService.start(platform.quoting) as service:
        yield service


def appraise(quote: bytes, raw: bytes, root: bytes) -> str:
    """The status that dcap-qvl finds; ``ValueError`` if it refuses."""
    parsed = dcap_qvl.QuoteCollateralV3.from_json(raw.decode())
    report = dcap_qvl.verify_with_root_ca(quote, parsed, root, int(NOW.timestamp()))
    return str(report.status)


def code_of_refusal(quote: bytes, raw: bytes, root: bytes) -> Code:
    """Why our own checks refuse a quote."""
    with pytest.raises(Refused) as refused:
        sgx_verify.judge(quotes.parse(quote), collateral.parse(raw), root, NOW)
    return refused.value.code


def answers(service: QuotingService) -> bool:
    raw = SimulatedAttester(service.socket, MEASUREMENT).evidence(REPORT_DATA)
    return quotes.parse(raw).body.report_data == REPORT_DATA


# Passing for something else.


def test_a_simulated_quote_is_refused_under_intels_root(platform: SimulatedPlatform) -> None:
    quote = QuotingEnclave(platform.quoting).quote(MEASUREMENT, REPORT_DATA)
    raw = platform.collateral(NOW)
    assert appraise(quote, raw, platform.root) == "UpToDate"
    assert code_of_refusal(quote, raw, INTEL.read_bytes()) is Code.ATT_CHAIN
    with pytest.raises(ValueError):
        appraise(quote, raw, INTEL.read_bytes())
    parsed = dcap_qvl.QuoteCollateralV3.from_json(raw.decode())
    with pytest.raises(ValueError):
        dcap_qvl.verify(quote, parsed, int(NOW.timestamp()))  # the root that is built in


def test_a_simulated_quote_is_refused_under_another_federations_root(
    platform: SimulatedPlatform, tmp_path: Path
) -> None:
    """The other federation has the same name, so the certificates' names are alike."""
    other = SimulatedPlatform.create(tmp_path, "digits", NOW)
    quote = QuotingEnclave(other.quoting).quote(MEASUREMENT, REPORT_DATA)
    for raw in (platform.collateral(NOW), other.collateral(NOW)):
        assert code_of_refusal(quote, raw, platform.root) is Code.ATT_CHAIN
        with pytest.raises(ValueError):
            appraise(quote, raw, platform.root)


def test_the_mark_cannot_be_taken_off_a_quote(platform: SimulatedPlatform) -> None:
    quote = QuotingEnclave(platform.quoting).quote(MEASUREMENT, REPORT_DATA)
    unmarked = quote.replace(b"SIMULATED-TEE", bytes(13))
    assert unmarked != quote
    raw = platform.collateral(NOW)
    assert code_of_refusal(unmarked, raw, platform.root) is Code.ATT_SIGNATURE
    with pytest.raises(ValueError, match="signature"):
        appraise(unmarked, raw, platform.root)


# Requests that are none.

BAD: dict[str, bytes] = {
    "nothing": b"",
    "one byte": b"f",
    "one byte short": GOOD[:-1],
    "one byte long": GOOD + b"\0",
    "two requests at once": GOOD * 2,
    "a mebibyte": bytes(2**20),
    "a good one and a mebibyte": GOOD + bytes(2**20),
    "another magic": b"fl-sim/2" + GOOD[8:],
    "a length that promises much": struct.pack("<I", 2**32 - 1) + GOOD[4:],
    "http": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".ljust(REQUEST.size),
}


def send(path: Path, data: bytes) -> bytes:
    """What the service says to these bytes, up to its end."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(60)
        connection.connect(os.fspath(path))
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        said = b""
        with suppress(ConnectionResetError):
            while part := connection.recv(4096):
                said += part
    return said


@pytest.mark.parametrize("request_", BAD.values(), ids=BAD)
def test_a_request_that_is_none_is_refused_and_gets_no_quote(
    service: QuotingService, request_: bytes
) -> None:
    said = send(service.socket, request_)
    if said or len(request_) < 4096:  # a long one may find the connection closed on it
        status, length = struct.unpack("<BI", said[:5])
        assert (status, length) == (1, len(said) - 5)
        assert said[5:] in (b"a request has 104 bytes", b"a request begins with fl-sim/1")
    assert answers(service)


def test_a_request_is_not_read_further_than_a_request_goes(service: QuotingService) -> None:
    """The caller sends one byte too many and does not end: the refusal comes all the same."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(quoting.DEADLINE_S)
        connection.connect(os.fspath(service.socket))
        connection.sendall(GOOD + b"\0")
        assert connection.recv(4096)[5:] == b"a request has 104 bytes"


def test_one_connection_gets_one_quote(service: QuotingService) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(60)
        connection.connect(os.fspath(service.socket))
        connection.sendall(GOOD)
        connection.shutdown(socket.SHUT_WR)
        said = b""
        while part := connection.recv(4096):
            said += part
    status, length = struct.unpack("<BI", said[:5])
    assert (status, len(said)) == (0, 5 + length)


def test_silent_and_slow_callers_do_not_hold_up_the_others(service: QuotingService) -> None:
    with ExitStack() as stack:
        for number in range(100):
            connection = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            connection.connect(os.fspath(service.socket))
            connection.sendall(GOOD[:number])
        assert answers(service)


def test_who_hangs_up_does_not_end_the_service(service: QuotingService) -> None:
    for sent in (b"", GOOD[:50], GOOD):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.connect(os.fspath(service.socket))
            connection.sendall(sent)
    assert answers(service)


# Another user of the machine.


def as_nobody(path: Path) -> str:
    """What comes of asking at a socket as another user: an error's name, or the bytes' number."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            outcome = str(len(send(path, GOOD)))
        except BaseException as error:
            outcome = type(error).__name__
        os.write(write, outcome.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read().decode()
    os.waitpid(child, 0)
    return said


needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root becomes another user")


@needs_root
def test_another_user_does_not_reach_the_socket(service: QuotingService) -> None:
    assert as_nobody(service.socket) == "PermissionError"


@needs_root
def test_another_user_gets_nothing_even_where_the_folder_was_opened(
    service: QuotingService,
) -> None:
    service.socket.parent.chmod(0o755)
    service.socket.chmod(0o666)
    assert as_nobody(service.socket) == "0"
    assert answers(service)


# A service that is gone, stuck or false.


def test_a_killed_service_is_a_clear_error(service: QuotingService) -> None:
    attester = SimulatedAttester(service.socket, MEASUREMENT)
    attester.evidence(REPORT_DATA)
    os.kill(service.pid, signal.SIGKILL)
    service._process.wait()
    with pytest.raises(Unavailable, match=r"does not answer.*Start it again"):
        attester.evidence(REPORT_DATA)
    service.stop()
    assert not service.socket.parent.exists()


def test_a_stuck_service_is_a_clear_error_and_can_be_stopped(
    service: QuotingService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quoting, "DEADLINE_S", 0.3)
    os.kill(service.pid, signal.SIGSTOP)
    with pytest.raises(Unavailable, match="timed out"):
        SimulatedAttester(service.socket, MEASUREMENT).evidence(REPORT_DATA)
    service.stop()
    assert service._process.returncode == -signal.SIGKILL


@contextmanager
def false_service(folder: Path, say: Callable[[socket.socket], None]) -> Iterator[Path]:
    """Something at a socket that takes one request and then does as it likes."""
    path = folder / "s"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(os.fspath(path))
        server.listen()

        def serve() -> None:
            connection, _ = server.accept()
            with connection, suppress(OSError):
                while connection.recv(4096):
                    pass
                say(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        yield path
        thread.join()


def frame(status: int, data: bytes) -> bytes:
    return struct.pack("<BI", status, len(data)) + data


def dribble(connection: socket.socket) -> None:
    for byte in frame(0, bytes(4000)):
        connection.sendall(bytes([byte]))
        time.sleep(0.05)


FALSE: dict[str, tuple[Callable[[socket.socket], None], str]] = {
    "says nothing": (lambda c: None, "closed the connection too early"),
    "stops amid the length": (lambda c: c.sendall(b"\0\xff"), "closed the connection too early"),
    "stops amid the quote": (
        lambda c: c.sendall(frame(0, bytes(500))[:-1]),
        "closed the connection too early",
    ),
    "promises 4 GiB": (lambda c: c.sendall(struct.pack("<BI", 0, 2**32 - 1)), "4294967295 bytes"),
    "has a status of its own": (lambda c: c.sendall(frame(7, b"")), "status 7"),
    "goes on": (lambda c: c.sendall(frame(0, b"x") + b"y"), "goes on after its end"),
    "sends no quote": (lambda c: c.sendall(frame(0, bytes(4000))), "is no quote"),
    "sends an empty quote": (lambda c: c.sendall(frame(0, b"")), "is no quote"),
    "refuses": (lambda c: c.sendall(frame(1, b"\x1b[2Jno")), r"refuses: '\\x1b\[2Jno'"),
    "sends a byte now and then": (dribble, "timed out"),
    "is silent": (lambda c: time.sleep(1), "timed out"),
}


@pytest.mark.parametrize(("say", "match"), FALSE.values(), ids=FALSE)
def test_a_false_service_is_not_believed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    say: Callable[[socket.socket], None],
    match: str,
) -> None:
    monkeypatch.setattr(quoting, "DEADLINE_S", 0.5)
    with (
        false_service(tmp_path, say) as path,
        pytest.raises(Unavailable, match=match),
    ):
        SimulatedAttester(path, MEASUREMENT).evidence(REPORT_DATA)


@pytest.mark.parametrize(
    ("measurement", "report_data"),
    [(b"n" * 32, REPORT_DATA), (MEASUREMENT, bytes(64)), (MEASUREMENT, REPORT_DATA[:-1] + b"\0")],
)
def test_a_genuine_quote_about_something_else_is_not_taken(
    tmp_path: Path, platform: SimulatedPlatform, measurement: bytes, report_data: bytes
) -> None:
    quote = QuotingEnclave(platform.quoting).quote(measurement, report_data)
    with (
        false_service(tmp_path, lambda c: c.sendall(frame(0, quote))) as path,
        pytest.raises(Unavailable, match="about something else"),
    ):
        SimulatedAttester(path, MEASUREMENT).evidence(REPORT_DATA)
