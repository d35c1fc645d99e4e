# SPDX-License-Identifier: Apache-2.0
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.support.fake_device import FakeDevice

from fedclave.errors import Unavailable, UserError
from fedclave.trust import quotes
from fedclave.trust.quoting import QuotingEnclave
from fedclave.trust.sgx import ATTEMPTS, MAX_QUOTE, SgxAttester
from fedclave.trust.simulated import SimulatedPlatform

OURS = bytes(range(64))
THEIRS = b"\xee" * 64
Make = Callable[[bytes], bytes]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """A quote of an enclave over 64 bytes, as the platform makes it."""
    folder = tmp_path_factory.mktemp("platform")
    now = datetime(2031, 5, 1, 12, tzinfo=UTC)
    enclave = QuotingEnclave(SimulatedPlatform.create(folder, "digits", now).quoting)
    return lambda report_data: enclave.quote(b"m" * 32, report_data)


@pytest.fixture
def device(make: Make) -> FakeDevice:
    return FakeDevice(make)


def test_a_quote_is_over_our_report_data_and_whole(device: FakeDevice) -> None:
    raw = SgxAttester(system=device).evidence(OURS)
    assert quotes.parse(raw).body.report_data == OURS
    assert len(raw) > 4000


def test_it_writes_64_bytes_at_once(device: FakeDevice) -> None:
    SgxAttester(system=device).evidence(OURS)
    assert device.writes == [OURS]


def test_every_file_is_closed_again(device: FakeDevice) -> None:
    attester = SgxAttester(system=device)
    attester.evidence(OURS)
    device.aesm = False
    with pytest.raises(Unavailable):
        attester.evidence(OURS)
    device.takes = 10
    with pytest.raises(Unavailable):
        attester.evidence(OURS)
    assert device.open_files == 0


@pytest.mark.parametrize("size", [0, 32, 63, 65, 128])
def test_report_data_of_another_length_is_never_written(device: FakeDevice, size: int) -> None:
    with pytest.raises(ValueError, match="report data has 64 bytes"):
        SgxAttester(system=device).evidence(bytes(size))
    assert device.writes == []


def test_two_attesters_of_one_process_take_turns(device: FakeDevice) -> None:
    """Each pauses between its write and its quote, so that without a lock they get mixed up."""
    pause = threading.Event()
    device.meanwhile = lambda: pause.wait(0.001) and None
    attesters = [SgxAttester(system=device), SgxAttester(system=device)]

    def ask(number: int) -> bool:
        report_data = bytes([number]) * 64
        raw = attesters[number % 2].evidence(report_data)
        return quotes.parse(raw).body.report_data == report_data

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(64)))
    assert len(device.quoted) == 64  # no try was in vain


def test_a_quote_that_other_code_got_in_between_is_asked_for_again(device: FakeDevice) -> None:
    foreign = iter([THEIRS, OURS[:63]])
    device.meanwhile = lambda: device.set(next(foreign, OURS))
    raw = SgxAttester(system=device).evidence(OURS)
    assert quotes.parse(raw).body.report_data == OURS
    assert device.quoted == [THEIRS, OURS[:63] + b"\0", OURS]


def test_other_code_that_keeps_writing_is_named_after_some_tries(device: FakeDevice) -> None:
    device.meanwhile = lambda: device.set(THEIRS)
    with pytest.raises(Unavailable, match="other code in this process writes to /dev/attestation"):
        SgxAttester(system=device).evidence(OURS)
    assert len(device.quoted) == ATTEMPTS


def test_a_write_that_took_less_is_not_completed_by_a_second_one(device: FakeDevice) -> None:
    device.takes = 48
    with pytest.raises(Unavailable, match="took 48 of 64 bytes"):
        SgxAttester(system=device).evidence(OURS)
    assert device.writes == [OURS[:48]]
    assert device.quoted == []


def test_a_platform_without_a_quote_names_the_next_step(device: FakeDevice) -> None:
    attester = SgxAttester(system=device)
    device.aesm = False
    with pytest.raises(Unavailable, match=r"Permission denied.*AESM"):
        attester.evidence(OURS)
    device.aesm = True
    assert attester.evidence(OURS)  # and it goes on when the platform does


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: b"",
        lambda raw: raw[:-1],
        lambda raw: raw[:1000],
        lambda raw: raw + b"x",
        lambda raw: b"\x09" + raw[1:],
    ],
)
def test_bytes_that_are_no_quote_are_not_passed_on(make: Make, damage: Make) -> None:
    device = FakeDevice(lambda report_data: damage(make(report_data)))
    with pytest.raises(Unavailable, match="quote does not parse"):
        SgxAttester(system=device).evidence(OURS)


def test_an_endless_quote_is_read_no_further_than_a_quote_goes(make: Make) -> None:
    device = FakeDevice(lambda report_data: bytes(100 * MAX_QUOTE))
    with pytest.raises(Unavailable, match="more than 8192 bytes"):
        SgxAttester(system=device).evidence(OURS)
    assert device.open_files == 0


@pytest.mark.parametrize(
    ("kind", "match"),
    [
        (b"", "does not run in an SGX enclave"),
        (b"none", "attestation type is b'none'"),
        (b"epid", "attestation type is b'epid'"),
        (b"dcapx", "attestation type is b'dcapx'"),
    ],
)
def test_a_process_that_cannot_be_attested_is_told_at_once(
    make: Make, kind: bytes, match: str
) -> None:
    with pytest.raises(UserError, match=match):
        SgxAttester(system=FakeDevice(make, kind=kind))


def test_outside_an_enclave_the_real_device_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"No such file.*gramine-sgx"):
        SgxAttester(tmp_path / "attestation")


def test_with_the_calls_of_os_the_files_of_a_folder_are_used(tmp_path: Path, make: Make) -> None:
    (tmp_path / "attestation_type").write_bytes(b"dcap")
    (tmp_path / "user_report_data").write_bytes(bytes(64))
    raw = make(OURS)
    (tmp_path / "quote").write_bytes(raw)
    assert SgxAttester(tmp_path, system=os).evidence(OURS) == raw
    assert (tmp_path / "user_report_data").read_bytes() == OURS


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ([b"a" * 10], b"a" * 10 + bytes(54)),
        ([b"a" * 64 + b"b" * 64], b"a" * 64),
        ([b"a" * 32, b"b" * 32], b"b" * 32 + bytes(32)),
        ([b"a" * 64, b""], bytes(64)),
    ],
)
def test_the_fake_device_keeps_what_gramines_keeps(
    device: FakeDevice, written: list[bytes], kept: bytes
) -> None:
    descriptor = device.open("/dev/attestation/user_report_data", os.O_WRONLY)
    for piece in written:
        assert device.write(descriptor, piece) == len(piece)
    quote = device.open("/dev/attestation/quote", os.O_RDONLY)
    device.set(THEIRS)  # too late: the quote was made when it was opened
    raw = b""
    while part := device.read(quote, 8192):
        raw += part
    assert quotes.parse(raw).body.report_data == kept
