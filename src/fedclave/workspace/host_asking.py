# SPDX-License-Identifier: Apache-2.0
"""Programs, sockets and servers of a host, asked with a deadline: none of them holds us up."""

import http.client
import os
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from fedclave.workspace.host_files import split, text

PROGRAM_S = 5.0
GRACE_S = 1.0
SOCKET_S = 1.0
SERVER_S = 4.0


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a program, a socket or a server answered. ``good``: as it does when all is well."""

    good: bool
    words: str
    """Its output, or why there is none."""


def program(command: Sequence[str], environ: Mapping[str, str]) -> Said:
    """Run a program that only looks. One that does not end in time is ended, with its children."""
    try:
        process = subprocess.Popen(  # noqa: S603 - what the operator's own PATH has
            list(command),
            env={**environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        return Said(good=False, words=text(getattr(error, "strerror", None) or str(error)))
    try:
        out, complaint = process.communicate(timeout=PROGRAM_S)
    except subprocess.TimeoutExpired:
        _end(process)
        return Said(good=False, words=f"did not answer within {PROGRAM_S:g} s")
    except BaseException:
        _end(process)
        raise
    if process.returncode:
        return Said(good=False, words=text(complaint) or f"exit code {process.returncode}")
    return Said(good=True, words=out.decode("utf-8", "replace"))


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(OSError):  # it has ended; or it is another user's (sudo), and not ours to end
        os.killpg(process.pid, signal.SIGKILL)
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
    with suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_S)


def unix_socket(path: Path) -> Said:
    """Connect to a Unix socket and hang up."""
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)) as end:
        end.settimeout(SOCKET_S)
        try:
            end.connect(str(path))
        except (OSError, ValueError) as error:
            return Said(good=False, words=text(getattr(error, "strerror", None) or str(error)))
    return Said(good=True, words="")


def pccs(url: str, *, secure: bool, deadline_s: float = SERVER_S) -> Said:
    """Ask a PCCS for a revocation list that every one has. Good: any answer in HTTP.

    Goes there directly, as no proxy of ours is the one of the host's quoting service. In a thread,
    since nothing else bounds the time that a name's resolution or a trickle of bytes takes.
    """
    said: list[Said] = []

    def ask() -> None:
        said.append(_status(url, secure, deadline_s))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(deadline_s)
    late = Said(good=False, words=f"did not answer within {deadline_s:g} s")
    return said[0] if said else late


def _status(url: str, secure: bool, timeout_s: float) -> Said:
    parts = split(url)
    if parts is None or parts.hostname is None:
        return Said(good=False, words="is no HTTP URL")
    try:
        if parts.scheme == "http":
            connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout_s)
        else:
            context = ssl.create_default_context()
            if not secure:  # as the host's own configuration says; nothing that comes is used
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            connection = http.client.HTTPSConnection(
                parts.hostname, parts.port, timeout=timeout_s, context=context
            )
        with closing(connection):
            connection.request("GET", f"{parts.path.rstrip('/')}/pckcrl?ca=processor")
            with connection.getresponse() as response:
                return Said(good=True, words=f"HTTP {response.status}")
    except ssl.SSLCertVerificationError as error:
        return Said(good=False, words=f"shows a certificate that is not good: {_why(error)}")
    except (OSError, http.client.HTTPException, ValueError) as error:
        return Said(good=False, words=_why(error))


def _why(error: Exception) -> str:
    detail = getattr(error, "verify_message", None) or getattr(error, "strerror", None)
    return text(detail or str(error)) or type(error).__name__
