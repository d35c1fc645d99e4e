# SPDX-License-Identifier: Apache-2.0
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from fedclave.errors import Unavailable, UserError
from fedclave.trust import keys, quotes, quoting, simulated
from fedclave.trust.quoting import QuotingEnclave, QuotingService, SimulatedAttester
from fedclave.trust.simulated import SimulatedPlatform

NOW = datetime(2031, 5, 1, 12, tzinfo=UTC)
MEASUREMENT = hashlib.sha256(b"code").digest()
REPORT_DATA = bytes(range(64))


@pytest.fixture
def platform(tmp_path: Path) -> SimulatedPlatform:
    return SimulatedPlatform.create(tmp_path / "tee", "digits", NOW)


@pytest.fixture
def service(platform: SimulatedPlatform) -> Iterator[QuotingService]:
    with QuotingService.start(platform.quoting) as service:
        yield service


def signed_by(point: bytes, signature: bytes, data: bytes) -> bool:
    """ECDSA as in quotes, written out: x, y; r, s."""
    x, y = (int.from_bytes(point[start : start + 32], "big") for start in (0, 32))
    r, s = (int.from_bytes(signature[start : start + 32], "big") for start in (0, 32))
    key = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
    key.verify(encode_dss_signature(r, s), data, ec.ECDSA(hashes.SHA256()))
    return True


def test_a_quote_says_what_was_asked_and_that_it_is_simulated(platform: SimulatedPlatform) -> None:
    raw = QuotingEnclave(platform.quoting).quote(MEASUREMENT, REPORT_DATA)
    quote = quotes.parse(raw)
    assert isinstance(quote.body, quotes.SgxReport)
    assert (quote.version, quote.tee) == (3, "sgx")
    assert quote.body.mr_enclave == MEASUREMENT
    assert quote.body.report_data == REPORT_DATA
    assert not quote.body.debug
    assert quote.header.user_data.startswith(b"SIMULATED")
    assert quote.header.user_data in quote.signed
    assert quote.chain == (platform.quoting / "chain.pem").read_bytes()


def test_the_attestation_key_signs_the_quote_and_the_pck_key_the_attestation_key(
    platform: SimulatedPlatform,
) -> None:
    quote = quotes.parse(QuotingEnclave(platform.quoting).quote(MEASUREMENT, REPORT_DATA))
    assert signed_by(quote.attestation_key, quote.signature, quote.signed)
    bound = hashlib.sha256(quote.attestation_key + quote.qe_auth).digest()
    assert quote.qe_report.report_data == bound + bytes(32)
    numbers = keys.load(platform.quoting / "pck.key").public_key().public_numbers()
    pck = numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")
    assert signed_by(pck, quote.qe_signature, quote.qe_report_raw)


def test_each_enclave_has_an_attestation_key_of_its_own(platform: SimulatedPlatform) -> None:
    one, other = (
        quotes.parse(QuotingEnclave(platform.quoting).quote(MEASUREMENT, REPORT_DATA))
        for _ in range(2)
    )
    assert one.attestation_key != other.attestation_key


def test_an_enclave_does_not_keep_the_pck_key(platform: SimulatedPlatform) -> None:
    pck = keys.load(platform.quoting / "pck.key").public_key()
    held = vars(QuotingEnclave(platform.quoting)).values()
    found = [one.public_key() for one in held if isinstance(one, ec.EllipticCurvePrivateKey)]
    assert len(found) == 1
    assert found[0] != pck


def test_a_debug_enclave_shows_in_its_quotes(platform: SimulatedPlatform) -> None:
    body = quotes.parse(QuotingEnclave(platform.quoting, debug=True).quote(bytes(32), bytes(64)))
    assert isinstance(body.body, quotes.SgxReport)
    assert body.body.debug


def test_a_key_of_another_platform_is_refused(platform: SimulatedPlatform) -> None:
    keys.save(platform.quoting / "pck.key", keys.generate(), replace=True)
    with pytest.raises(UserError, match=r"pck\.key is not of chain\.pem"):
        QuotingEnclave(platform.quoting)


def test_a_service_in_another_process_answers(service: QuotingService) -> None:
    assert service.pid != os.getpid()
    raw = SimulatedAttester(service.socket, MEASUREMENT).evidence(REPORT_DATA)
    body = quotes.parse(raw).body
    assert isinstance(body, quotes.SgxReport)
    assert (body.mr_enclave, body.report_data) == (MEASUREMENT, REPORT_DATA)


def test_many_ask_at_once_and_each_gets_his_own(service: QuotingService) -> None:
    def ask(number: int) -> bool:
        measurement, report_data = bytes([number]) * 32, bytes([number]) * 64
        raw = SimulatedAttester(service.socket, measurement).evidence(report_data)
        return quotes.parse(raw).body.report_data == report_data

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(100)))


def test_a_debug_service_makes_quotes_of_debug_enclaves(platform: SimulatedPlatform) -> None:
    with QuotingService.start(platform.quoting, debug=True) as service:
        body = quotes.parse(SimulatedAttester(service.socket, MEASUREMENT).evidence(bytes(64))).body
    assert isinstance(body, quotes.SgxReport)
    assert body.debug


def test_nobody_else_enters_the_folder_of_the_socket(service: QuotingService) -> None:
    assert service.socket.parent.stat().st_mode & 0o777 == 0o700
    assert service.socket.stat().st_mode & 0o777 == 0o600


def test_a_stopped_service_leaves_nothing_and_stops_once_more(platform: SimulatedPlatform) -> None:
    service = QuotingService.start(platform.quoting)
    service.stop()
    service.stop()
    assert not service.socket.parent.exists()
    assert not alive(service.pid)
    assert (platform.quoting / "quoting.log").read_bytes() == b""


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_service_ends_with_its_parent(platform: SimulatedPlatform, how: signal.Signals) -> None:
    code = (
        "import sys, pathlib; from fedclave.trust.quoting import QuotingService;"
        "service = QuotingService.start(pathlib.Path(sys.argv[1]));"
        "print(service.pid, service.socket, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(platform.quoting)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid, _, path = parent.stdout.readline().strip().partition(" ")
        assert alive(int(pid))
        parent.send_signal(how)
    for _ in range(1000):
        if not alive(int(pid)) and not Path(path).parent.exists():
            return
        time.sleep(0.01)
    pytest.fail("the service outlived its parent")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: (folder / "pck.key").unlink(), r"pck\.key: No such file"),
        (lambda folder: (folder / "pck.key").chmod(0o644), "open to other users"),
        (lambda folder: (folder / "chain.pem").write_bytes(b"x"), "holds no certificates"),
        (lambda folder: (folder / "cpu-svn").write_bytes(b"x"), "has not 16 bytes"),
    ],
)
def test_a_service_that_cannot_start_says_why(platform, damage, reason) -> None:  # type: ignore[no-untyped-def]
    damage(platform.quoting)
    with pytest.raises(Unavailable, match=f"did not start: .*{reason}"):
        QuotingService.start(platform.quoting)


def test_a_service_that_breaks_names_its_log(
    platform: SimulatedPlatform, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "fedclave").mkdir()
    (tmp_path / "fedclave" / "__init__.py").write_text("raise RuntimeError('broken')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(Unavailable, match=r"it ended; see .*quoting\.log"):
        QuotingService.start(platform.quoting)
    assert "broken" in (platform.quoting / "quoting.log").read_text()


def test_a_socket_path_that_is_too_long_is_said_to_be(
    platform: SimulatedPlatform, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(quoting.tempfile, "tempdir", str(long))
    with pytest.raises(Unavailable, match="Set TMPDIR"):
        QuotingService.start(platform.quoting)
    assert list(long.iterdir()) == []


@pytest.mark.parametrize("size", [0, 32, 63, 65])
def test_report_data_has_64_bytes_and_a_measurement_32(tmp_path: Path, size: int) -> None:
    attester = SimulatedAttester(tmp_path / "nothing", MEASUREMENT)
    with pytest.raises(ValueError, match="report data has 64 bytes"):
        attester.evidence(bytes(size))
    with pytest.raises(ValueError, match="a measurement has 32 bytes"):
        SimulatedAttester(tmp_path / "nothing", bytes(size + 1))


def test_collateral_and_quoting_agree_on_the_quoting_enclave(platform: SimulatedPlatform) -> None:
    report = quotes.parse(QuotingEnclave(platform.quoting).quote(bytes(32), bytes(64))).qe_report
    assert report.mr_signer == simulated.QE_SIGNER
    assert (report.isv_prod_id, report.isv_svn) == (simulated.QE_PRODUCT, simulated.QE_SVN)
    assert report.flags == 0x15
