# SPDX-License-Identifier: Apache-2.0
"""Quotes of a real enclave: Gramine's ``/dev/attestation`` (Gramine 1.9, Intel SGX with DCAP).

    attestation_type    read    ``dcap``, or there are no quotes
    user_report_data    write   the report data of the process; each write replaces all of it
    quote               read    made when it is opened, about what was written last

The report data belongs to the process, not to a file handle: whoever writes between our write and
our open gets his data quoted to us. Two attesters of ours take turns (one lock for the process),
and of each quote the report data is read back, in case other code of this process wrote too.
A write that is short is padded with zeros, one that is long is cut, of a split one the last piece
stays; all of them silently. Hence one unbuffered write of 64 bytes.
"""

import os
import threading
from pathlib import Path
from typing import Protocol

from fedclave.errors import Refused, Unavailable, UserError
from fedclave.trust import quotes

DEVICE = Path("/dev/attestation")
MAX_QUOTE = 8192  # bytes; Gramine makes none that is longer
ATTEMPTS = 3

_one_at_a_time = threading.Lock()


class System(Protocol):
    """The four calls of ``os`` that the device needs; the module itself is one."""

    def open(self, path: str, flags: int, /) -> int: ...  # noqa: D102
    def write(self, descriptor: int, data: bytes, /) -> int: ...  # noqa: D102
    def read(self, descriptor: int, size: int, /) -> bytes: ...  # noqa: D102
    def close(self, descriptor: int, /) -> None: ...  # noqa: D102


class SgxAttester:
    """Obtains quotes about the enclave that this process is."""

    def __init__(self, device: Path = DEVICE, *, system: System = os) -> None:
        """``UserError``: this process is not in an enclave that can be attested."""
        self._device = device
        self._system = system
        try:
            kind = self._read("attestation_type")
        except OSError as error:
            raise UserError(
                f"{device} is not there ({error.strerror}): this process does not run in an SGX"
                " enclave. Start it with gramine-sgx, or use the simulated TEE"
            ) from error
        if kind.rstrip(b"\n\0") != b"dcap":
            raise UserError(
                f"the enclave's attestation type is {kind[:16]!r}, not 'dcap'. Set"
                ' sgx.remote_attestation = "dcap" in the manifest, sign it and start again'
            )

    def evidence(self, report_data: bytes) -> bytes:
        """A quote over 64 bytes of report data.

        ``Unavailable``: the platform gives none, or other code of this process keeps writing.
        """
        if len(report_data) != 64:
            raise ValueError(f"report data has 64 bytes, not {len(report_data)}")
        for _ in range(ATTEMPTS):
            with _one_at_a_time:
                raw = self._quote(report_data)
            if _report_data(raw) == report_data:
                return raw
        raise Unavailable(
            f"{ATTEMPTS} quotes in a row were about other report data than ours: other code in"
            f" this process writes to {self._device}/user_report_data. It must not"
        )

    def _quote(self, report_data: bytes) -> bytes:
        try:
            self._write("user_report_data", report_data)
            return self._read("quote")
        except OSError as error:
            raise Unavailable(
                f"the platform gives no quote ({error.strerror or error}). See that the AESM"
                " service runs on the host, that its socket is mounted, and that it reaches its"
                " PCCS; its log says more"
            ) from error

    def _write(self, name: str, data: bytes) -> None:
        descriptor = self._system.open(str(self._device / name), os.O_WRONLY)
        try:
            written = self._system.write(descriptor, data)
        finally:
            self._system.close(descriptor)
        if written != len(data):  # to write the rest would replace what was written
            raise OSError(f"{name} took {written} of {len(data)} bytes")

    def _read(self, name: str) -> bytes:
        """A file's bytes, to the end. ``OSError`` if there are more than a quote can have."""
        data = b""
        descriptor = self._system.open(str(self._device / name), os.O_RDONLY)
        try:
            while part := self._system.read(descriptor, MAX_QUOTE + 1 - len(data)):
                data += part
                if len(data) > MAX_QUOTE:
                    raise OSError(f"{name} has more than {MAX_QUOTE} bytes")
        finally:
            self._system.close(descriptor)
        return data


def _report_data(raw: bytes) -> bytes:
    """The report data in a quote, checked as far as its format goes."""
    try:
        return quotes.parse(raw).body.report_data
    except Refused as error:
        raise Unavailable(f"the platform's quote does not parse ({error.message})") from error
