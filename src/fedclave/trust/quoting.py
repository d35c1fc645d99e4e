# SPDX-License-Identifier: Apache-2.0
"""The quoting service of the simulated TEE: a process of its own, asked over a Unix socket.

As on hardware, who wants a quote holds none of the keys behind it. One connection, one quote:

    request   8 bytes ``fl-sim/1``, measurement (32), report data (64), end of the stream
    reply     1 byte (0 quote, 1 refusal), length (u32, little-endian), quote or sentence, end

The socket lies in a new folder that only its owner enters, and the service asks the kernel who
calls. Its standard input is a pipe whose other end only its parent holds: however the parent ends,
`kill -9` included, the service sees the end of the file, removes the socket and exits.
"""

import asyncio
import hashlib
import os
import selectors
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

from fedclave.errors import FedclaveError, Refused, Unavailable, UserError
from fedclave.trust import files, keys, quotes, simulated

MAGIC = b"fl-sim/1"
REQUEST = struct.Struct("<8s32s64s")
REPLY = struct.Struct("<BI")
MAX_REPLY = 16384  # bytes; a quote has about 4500
DEADLINE_S = 10.0
"""For one whole request: both sides give up after it."""

START_S = 60.0
MAX_SOCKET = 103  # bytes of a Unix socket's path: 108 on Linux, 104 on macOS, with the NUL
_READY = b"ready\n"

INIT, DEBUG, MODE64, PROVISION_KEY = 0x01, quotes.DEBUG_SGX, 0x04, 0x10
"""Attributes of an enclave (Intel SDM volume 3D, 38.7.1)."""

_QE_AUTH = bytes(range(32))
_HEADER = quotes.Header(
    att_key_type=2,  # ECDSA with P-256
    qe_svn=simulated.QE_SVN,
    pce_svn=simulated.PCE_SVN,
    vendor_id=quotes.INTEL_QE,  # no other is defined
    user_data=b"SIMULATED-TEE".ljust(20, b"\0"),
)
_REPORT = quotes.SgxReport(
    cpu_svn=bytes(16),
    misc_select=0,
    isv_ext_prod_id=bytes(16),
    flags=0,
    xfrm=0xE7,  # x87, SSE, AVX, AVX-512
    mr_enclave=bytes(32),
    mr_signer=hashlib.sha256(b"SIMULATED signer of enclaves").digest(),
    config_id=bytes(64),
    isv_prod_id=0,
    isv_svn=0,
    config_svn=0,
    isv_family_id=bytes(16),
    report_data=bytes(64),
)


class QuotingEnclave:
    """Signs quotes with an attestation key of its own, for which the platform's PCK key vouches.

    The PCK key signs once, when the enclave starts, and is not kept.
    """

    def __init__(self, platform: Path, *, debug: bool = False) -> None:
        """From the folder ``SimulatedPlatform.quoting``; ``debug`` makes quotes of debug enclaves.

        ``UserError``: a file is missing, damaged or open to other users.
        """
        self._chain = files.read(platform / "chain.pem", simulated.REMEDY)
        self._cpu_svn = files.read(platform / "cpu-svn", simulated.REMEDY)
        pck_key = keys.load(platform / "pck.key")
        if len(self._cpu_svn) != 16:
            raise UserError(f"{platform}/cpu-svn has not 16 bytes. {simulated.REMEDY}")
        if pck_key.public_key() != simulated.certificates(platform / "chain.pem")[0].public_key():
            raise UserError(f"{platform}/pck.key is not of chain.pem. {simulated.REMEDY}")
        self._debug = debug
        self._key = keys.generate()
        point = self._key.public_key().public_numbers()
        self._point = point.x.to_bytes(32, "big") + point.y.to_bytes(32, "big")
        self._qe_report = replace(
            _REPORT,
            cpu_svn=self._cpu_svn,
            flags=INIT | MODE64 | PROVISION_KEY,
            mr_enclave=hashlib.sha256(b"SIMULATED quoting enclave").digest(),
            mr_signer=simulated.QE_SIGNER,
            isv_prod_id=simulated.QE_PRODUCT,
            isv_svn=simulated.QE_SVN,
            report_data=hashlib.sha256(self._point + _QE_AUTH).digest().ljust(64, b"\0"),
        )
        self._qe_signature = simulated.sign(pck_key, quotes.pack_sgx_report(self._qe_report))

    def quote(self, measurement: bytes, report_data: bytes) -> bytes:
        """An SGX quote, version 3: a measurement (32 bytes) as MRENCLAVE, with report data (64)."""
        if (len(measurement), len(report_data)) != (32, 64):
            raise ValueError("a measurement has 32 bytes, report data has 64")
        body = replace(
            _REPORT,
            cpu_svn=self._cpu_svn,
            flags=INIT | MODE64 | (DEBUG if self._debug else 0),
            mr_enclave=measurement,
            report_data=report_data,
        )
        signed = quotes.pack_header(_HEADER) + quotes.pack_sgx_report(body)
        quote = quotes.Quote(
            version=3,
            tee="sgx",
            header=_HEADER,
            body=body,
            signed=signed,
            signature=simulated.sign(self._key, signed),
            attestation_key=self._point,
            qe_report=self._qe_report,
            qe_report_raw=quotes.pack_sgx_report(self._qe_report),
            qe_signature=self._qe_signature,
            qe_auth=_QE_AUTH,
            certification_type=5,  # the PCK certificate's chain
            chain=self._chain,
        )
        return quotes.pack_quote_v3(quote)


class QuotingService:
    """A running quoting service. Its errors go to ``quoting.log`` in the platform's folder."""

    def __init__(self, process: subprocess.Popen[bytes], path: Path) -> None:
        self.socket = path
        self._process = process

    @classmethod
    def start(cls, platform: Path, *, debug: bool = False) -> Self:
        """Start it with the keys in ``SimulatedPlatform.quoting``; returns once it answers.

        ``Unavailable``, with the service's own words: it could not start.
        """
        folder = Path(tempfile.mkdtemp(prefix="fedclave-"))  # 0700
        path = folder / "quoting"
        log = platform / "quoting.log"
        try:
            if len(os.fsencode(path)) > MAX_SOCKET:
                raise Unavailable(f"{path} is too long for a socket. Set TMPDIR to a shorter path")
            files.write(log, b"", files.PRIVATE)
            with log.open("ab") as errors:
                process = subprocess.Popen(  # noqa: S603 - this Python, this module
                    [
                        *(sys.executable, "-P", "-m", "fedclave.trust.quoting"),
                        *(str(platform), str(path), *(["--debug"] if debug else [])),
                    ],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    start_new_session=True,  # Ctrl-C is for the parent to handle, once
                )
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        service = cls(process, path)
        try:
            said = service._first_words()
        except BaseException:
            service.stop()
            raise
        if said != _READY:
            service.stop()
            reason = said.decode(errors="replace").strip() or f"it ended; see {log}"
            raise Unavailable(f"the quoting service of the simulated TEE did not start: {reason}")
        return service

    @property
    def pid(self) -> int:
        """The service's process."""
        return self._process.pid

    def stop(self) -> None:
        """End it, whatever it does, and remove its socket. Once more does nothing."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self.socket.parent, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _first_words(self) -> bytes:
        """What it writes once it listens, or instead of it; nothing if it says nothing in time."""
        if self._process.stdout is None:
            return b""
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            ready = selector.select(START_S)
            return os.read(self._process.stdout.fileno(), 4096) if ready else b"it does not answer"


class SimulatedAttester:
    """Obtains quotes about a process with this measurement (32 bytes) from a quoting service."""

    def __init__(self, path: Path, measurement: bytes) -> None:
        if len(measurement) != 32:
            raise ValueError(f"a measurement has 32 bytes, not {len(measurement)}")
        self._path = path
        self._measurement = measurement

    def evidence(self, report_data: bytes) -> bytes:
        """A quote over 64 bytes of report data.

        ``Unavailable``: the service is gone, silent, or said something else. Nothing waits longer
        than ``DEADLINE_S``.
        """
        if len(report_data) != 64:
            raise ValueError(f"report data has 64 bytes, not {len(report_data)}")
        request = REQUEST.pack(MAGIC, self._measurement, report_data)
        try:
            status, answer = _ask(self._path, request)
        except (OSError, ValueError) as error:
            raise self._unavailable(f"does not answer ({error or type(error).__name__})") from error
        if status:
            raise self._unavailable(f"refuses: {answer.decode(errors='replace')[:200]!r}")
        try:
            quote = quotes.parse(answer)
        except Refused as error:
            raise self._unavailable(f"sent something that is no quote ({error.message})") from error
        body = quote.body
        if (
            not isinstance(body, quotes.SgxReport)
            or body.mr_enclave != self._measurement
            or body.report_data != report_data
        ):
            raise self._unavailable("sent a quote about something else")
        return answer

    def _unavailable(self, what: str) -> Unavailable:
        return Unavailable(
            f"the quoting service of the simulated TEE at {self._path} {what}. Start it again; it"
            " ends with the process that started it"
        )


def _ask(path: Path, request: bytes) -> tuple[int, bytes]:
    """One request and its reply. Raises ``OSError`` or ``ValueError``, in time."""
    until = time.monotonic() + DEADLINE_S
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(DEADLINE_S)
        connection.connect(os.fspath(path))
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        status, length = REPLY.unpack(_receive(connection, REPLY.size, until))
        if status not in (0, 1) or length > MAX_REPLY:
            raise ValueError(f"its reply begins with status {status} and {length} bytes")
        answer = _receive(connection, length, until)
        connection.settimeout(max(until - time.monotonic(), 0.001))
        if connection.recv(1):
            raise ValueError("its reply goes on after its end")
    return status, answer


def _receive(connection: socket.socket, size: int, until: float) -> bytes:
    data = b""
    while len(data) < size:
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        connection.settimeout(left)
        part = connection.recv(size - len(data))
        if not part:
            raise ConnectionError("it closed the connection too early")
        data += part
    return data


# The service's side.


def main() -> None:
    """``python -m fedclave.trust.quoting PLATFORM SOCKET [--debug]``: serve until stdin ends."""
    platform, path = Path(sys.argv[1]), Path(sys.argv[2])
    threading.Thread(target=_end_with_parent, args=(path,), daemon=True).start()
    try:
        enclave = QuotingEnclave(platform, debug="--debug" in sys.argv[3:])
        asyncio.run(_serve(enclave, path))
    except (FedclaveError, OSError) as error:
        _say(f"{error}\n".encode())
        raise SystemExit(1) from error


def _end_with_parent(path: Path) -> NoReturn:
    with suppress(OSError):
        while os.read(0, 4096):
            pass
    shutil.rmtree(path.parent, ignore_errors=True)
    os._exit(0)


async def _serve(enclave: QuotingEnclave, path: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(TimeoutError, OSError):
            async with asyncio.timeout(DEADLINE_S):
                if _is_owner(writer.get_extra_info("socket")):
                    writer.write(await _reply(enclave, reader))
                    await writer.drain()
        writer.close()

    os.umask(0o177)  # the socket is 0600 from its first moment on
    server = await asyncio.start_unix_server(answer, path)
    _say(_READY)
    await server.serve_forever()


async def _reply(enclave: QuotingEnclave, reader: asyncio.StreamReader) -> bytes:
    """The reply to one request; never reads more of it than a request has, and one byte."""
    request = b""
    while len(request) <= REQUEST.size and (part := await reader.read(REQUEST.size + 1)):
        request += part
    if len(request) != REQUEST.size:
        return _refusal(f"a request has {REQUEST.size} bytes")
    magic, measurement, report_data = REQUEST.unpack(request)
    if magic != MAGIC:
        return _refusal(f"a request begins with {MAGIC.decode()}")
    quote = enclave.quote(measurement, report_data)
    return REPLY.pack(0, len(quote)) + quote


def _refusal(reason: str) -> bytes:
    return REPLY.pack(1, len(reason.encode())) + reason.encode()


def _is_owner(connection: socket.socket) -> bool:
    """Whether the caller is the user that the service runs as (or root, who may read its keys)."""
    if not hasattr(socket, "SO_PEERCRED"):  # macOS: the folder's mode alone decides
        return True
    ucred = struct.Struct("3i")  # unix(7): pid, uid, gid
    sent = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, ucred.size)
    return ucred.unpack(sent)[1] in (os.getuid(), 0)


def _say(words: bytes) -> None:
    with suppress(OSError):
        os.write(1, words[:4096])


if __name__ == "__main__":
    main()
