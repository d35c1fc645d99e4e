# SPDX-License-Identifier: Apache-2.0
"""What a surveyed host is ready for: each way to run, what it lacks, and what helps. Pure.

A way is ready only where everything that it needs was seen: what cannot be told counts as missing.
Commands and packages are those of Debian and Ubuntu.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from fedclave.workspace import readiness_sgx as sgx
from fedclave.workspace.host import Host, Tool
from fedclave.workspace.readiness_sgx import Missing

LOW = 2**30  # bytes of memory or disk, below which a model of some size does not fit
FEW_FILES = 1024
"""Open files that Linux usually allows; a server holds one for each connection."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to run, or to quote. Ready if nothing is missing."""

    name: str
    what: str
    missing: tuple[Missing, ...]

    @property
    def verdict(self) -> str:
        """``ready`` or ``missing``."""
        return "missing" if self.missing else "ready"


@dataclass(frozen=True, kw_only=True)
class Readiness:
    """All ways, and what is good to know whichever is taken."""

    ways: tuple[Way, ...]
    notes: tuple[Missing, ...]

    def as_json(self) -> dict[str, Any]:
        """The same as an object."""
        return {
            "ways": {
                way.name: {"verdict": way.verdict, "missing": [asdict(one) for one in way.missing]}
                for way in self.ways
            },
            "notes": [asdict(note) for note in self.notes],
        }


def judge(host: Host) -> Readiness:
    """What the host is ready for."""
    ways = tuple(
        Way(name=name, what=what, missing=tuple(lacks(host)))
        for name, (what, lacks) in _WAYS.items()
    )
    return Readiness(ways=ways, notes=tuple(_notes(host, ways)))


def _sgx(host: Host) -> Iterator[Missing]:
    yield from sgx.enclave(host)
    if sgx.suits(host):
        yield from _gramine(host, "gramine-sgx")


def _sgx_image(host: Host) -> Iterator[Missing]:
    yield from sgx.enclave(host)
    if sgx.suits(host):
        yield from _container(host)


def _quote(host: Host) -> Iterator[Missing]:
    yield from sgx.enclave(host)
    if sgx.suits(host):
        yield from sgx.quote(host)


def _direct(host: Host) -> Iterator[Missing]:
    if not host.cpu.x86_64:
        yield Missing(
            what="an x86-64 CPU: /proc/cpuinfo shows none",
            fix="run in a container or as a process; Gramine is for x86-64 alone",
        )
    else:
        yield from _gramine(host, "gramine-direct")


def _gramine(host: Host, name: str) -> Iterator[Missing]:
    if host.gramine[name].path is None:
        yield Missing(
            what=f"Gramine ({name})",
            fix="sudo apt install gramine (from https://packages.gramineproject.io; how:"
            " https://gramine.readthedocs.io/en/stable/installation.html); an image brings its own",
        )


def _container(host: Host) -> Iterator[Missing]:
    runners = [host.engines[name] for name in ("docker", "podman")]
    if any(engine.works for engine in runners):
        return
    if all(engine.path is None for engine in runners):
        only = " (buildah, which is here, builds images)" if host.engines["buildah"].works else ""
        yield Missing(what=f"docker or podman{only}", fix="sudo apt install podman")
    for engine in runners:
        if engine.path is not None:
            yield Missing(what=f"{engine.name} that works: {engine.problem}", fix=_mend(engine))


def _mend(engine: Tool) -> str:
    if engine.name == "podman":
        return "podman info (it says why, in full)"
    if "permission denied" in engine.problem.lower():
        return "sudo usermod -aG docker $USER (then log in again; who is in it is as good as root)"
    return "sudo systemctl start docker"


def _process(host: Host) -> Iterator[Missing]:
    yield from ()  # this command runs: so can a party


_WAYS: dict[str, tuple[str, Callable[[Host], Iterator[Missing]]]] = {
    "sgx": ("in an SGX enclave, by gramine-sgx", _sgx),
    "sgx-image": ("in an SGX enclave, in a container whose image has Gramine", _sgx_image),
    "quote": ("prove to the others what the enclave runs", _quote),
    "gramine-direct": ("by Gramine without an enclave, to try", _direct),
    "container": ("in a container, without an enclave", _container),
    "process": ("as a process, without any of these", _process),
}


def _notes(host: Host, ways: tuple[Way, ...]) -> Iterator[Missing]:
    if host.clock is not True:
        told = "is not synchronised" if host.clock is False else "may not be synchronised"
        yield Missing(
            what=f"the clock {told}: certificates and evidence live by it",
            fix="timedatectl (it tells); sudo apt install systemd-timesyncd",
        )
    quotes = any(way.name == "quote" and way.verdict == "ready" for way in ways)
    if quotes and host.qcnl.state == "found":
        if host.pccs is None:
            yield Missing(what=f"the PCCS {host.qcnl.url} was not asked", fix="fx doctor --online")
        elif host.pccs.words != "HTTP 200":
            yield Missing(
                what=f"the PCCS {host.qcnl.url} answers with {host.pccs.words}",
                fix="at the PCCS: journalctl -u pccs",
            )
    vms = host.vms
    for there, name in ((vms.tdx_guest, "a TDX guest"), (vms.snp_guest, "a SEV-SNP guest")):
        if there:
            yield Missing(
                what=f"this is {name}, of which fedclave makes no evidence yet",
                fix="run in a container or as a process (to the others it is NOT ATTESTED)",
            )
    if host.as_root and host.sgx.enclave.state == "usable":
        yield Missing(
            what="root may open every device; the user who runs a party perhaps not",
            fix="fx doctor (as that user)",
        )
    yield from _shortages(host)


def _shortages(host: Host) -> Iterator[Missing]:
    room = host.room
    if room.memory_free is not None and room.memory_free < LOW:
        yield Missing(what="less than 1 GiB of memory is free", fix="free -h (what uses it: top)")
    if room.disk_free is not None and room.disk_free < LOW:
        yield Missing(what="less than 1 GiB of disk is free here", fix="df -h . (shows the disk)")
    if room.open_files is not None and room.open_files < FEW_FILES:
        yield Missing(
            what=f"a process may open no more than {room.open_files} files",
            fix=f"ulimit -n {FEW_FILES}",
        )
