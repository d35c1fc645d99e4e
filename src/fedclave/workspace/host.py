# SPDX-License-Identifier: Apache-2.0
"""What a host is and has, as far as the caller can see: the facts behind ``fx doctor``.

``survey`` looks, and changes nothing but what an engine of containers sets up for itself when it is
first asked. It asks no PCCS unless it is told to, and waits for nothing longer than a few seconds.
None stands for what cannot be told from here, and is never a yes. Files are read below ``root``, so
that a folder can stand for a host.
"""

import os
import platform
import re
import shutil
import stat
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from fedclave.workspace import host_asking as asking
from fedclave.workspace import host_files as files
from fedclave.workspace import host_sgx
from fedclave.workspace.host_files import Access, Qcnl
from fedclave.workspace.host_sgx import Cpu, Sgx

Which = Callable[[str], str | None]
"""``shutil.which``: the path of a program."""

AESM = "/var/run/aesmd/aesm.socket"
QCNL = "/etc/sgx_default_qcnl.conf"
PACKAGES = (
    "az-dcap-client",
    "gramine",
    "libsgx-aesm-ecdsa-plugin",
    "libsgx-aesm-quote-ex-plugin",
    "libsgx-dcap-default-qpl",
    "sgx-aesm-service",
)
ENGINES = {"docker": "version", "podman": "info", "buildah": "info"}
"""Engines of containers, and the word to which each answers only if it can work."""


@dataclass(frozen=True, kw_only=True)
class Service:
    """AESM, which makes quotes. ``problem`` is empty where it answers."""

    present: bool
    problem: str
    group: str


@dataclass(frozen=True, kw_only=True)
class Vms:
    """Confidential VMs: whether this is one, and whether it could run some."""

    tdx_guest: bool
    tdx_host: bool
    snp_guest: bool
    snp_host: bool


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A program; ``problem`` is empty where it can do its work, as far as it was asked."""

    name: str
    path: str | None
    version: str = ""
    problem: str = ""

    @property
    def works(self) -> bool:
        """Whether it is there and answers."""
        return self.path is not None and not self.problem


@dataclass(frozen=True, kw_only=True)
class Room:
    """What is left to use. Bytes, but for ``open_files``, the soft limit of this process."""

    memory: int | None
    memory_free: int | None
    disk_free: int | None
    open_files: int | None


@dataclass(frozen=True, kw_only=True)
class Host:
    """Everything that was seen."""

    system: str
    kernel: str
    inside: str  # the container in which this runs; empty: none that shows
    as_root: bool
    python: str
    cpu: Cpu
    sgx: Sgx
    vms: Vms
    aesm: Service
    qcnl: Qcnl
    pccs: asking.Said | None  # None: not asked
    gramine: Mapping[str, Tool]
    engines: Mapping[str, Tool]
    packages: Mapping[str, str]
    clock: bool | None  # it is held to the time of others
    room: Room


def survey(
    root: Path = Path("/"),
    *,
    environ: Mapping[str, str],
    which: Which = shutil.which,
    access: Access = os.access,
    folder: Path = Path(),
    online: bool = False,
) -> Host:
    """Look at this host, or at a folder that stands for one.

    ``folder`` is where free disk space counts. ``online``: also ask the PCCS, over the network.
    """
    kernel = files.text(files.read(root / "proc/sys/kernel/osrelease"))
    info = files.cpuinfo(files.read(root / "proc/cpuinfo"))
    packages = files.packages(files.read(root / "var/lib/dpkg/status", files.LARGE), PACKAGES)
    settings = files.qcnl(root / QCNL.lstrip("/"))
    asks = online and settings.state == "found"
    with ThreadPoolExecutor() as pool:
        engines = [pool.submit(_engine, name, which, environ) for name in ENGINES]
        clock = pool.submit(_clock, root, which, environ)
        said = pool.submit(asking.pccs, settings.url, secure=settings.secure) if asks else None
    return Host(
        system=_system(root),
        kernel=kernel,
        inside=_inside(root, environ),
        as_root=_field(root / "proc/self/status", r"Uid:\s+[0-9]+\s+([0-9]+)") == 0,
        python=platform.python_version(),
        cpu=host_sgx.cpu(info),
        sgx=host_sgx.sgx(root, info, release(kernel), access),
        vms=_vms(root, info),
        aesm=_aesm(root),
        qcnl=settings,
        pccs=said.result() if said else None,
        gramine={
            name: _gramine(root, name, which, packages)
            for name in ("gramine-sgx", "gramine-direct")
        },
        engines={tool.name: tool for tool in (engine.result() for engine in engines)},
        packages=packages,
        clock=clock.result(),
        room=_room(root, folder),
    )


def release(kernel: str) -> tuple[int, int] | None:
    """Major and minor version of a kernel; None if its name does not begin with them.

    >>> release("6.1.0-13-amd64"), release("custom")
    ((6, 1), None)
    """
    match = re.match(r"([0-9]{1,4})\.([0-9]{1,4})", kernel)
    return (int(match[1]), int(match[2])) if match else None


def _vms(root: Path, info: Mapping[str, str]) -> Vms:
    def device(name: str) -> bool:
        return stat.S_ISCHR(files.mode(root / "dev" / name))

    def on(parameter: str) -> bool:
        return files.text(files.read(root / "sys/module" / parameter)) in ("Y", "1")

    return Vms(
        tdx_guest="tdx_guest" in info.get("flags", "").split() or device("tdx_guest"),
        tdx_host=on("kvm_intel/parameters/tdx"),
        snp_guest=device("sev-guest"),
        snp_host=on("kvm_amd/parameters/sev_snp"),
    )


def _aesm(root: Path) -> Service:
    path = root / AESM.lstrip("/")
    try:
        found = path.stat()
    except OSError as error:
        hidden = not isinstance(error, FileNotFoundError | NotADirectoryError)
        return Service(present=hidden, problem=files.text(error.strerror), group="")
    owner = files.group(root, found.st_gid)
    if not stat.S_ISSOCK(found.st_mode):
        return Service(present=True, problem="is not a socket", group=owner)
    return Service(present=True, problem=asking.unix_socket(path).words, group=owner)


def _gramine(root: Path, name: str, which: Which, packages: Mapping[str, str]) -> Tool:
    """Gramine's launchers have no option that tells the version: package or metadata does."""
    path = which(name)
    if path is None:
        return Tool(name=name, path=None)
    prefixes = (Path(path).parent.parent, root / "usr", root / "usr/local")
    found = (
        version
        for prefix in prefixes
        for lib in ("lib*", "lib/*-linux-gnu")
        for at in sorted(prefix.glob(f"{lib}/python3*/*-packages/graminelibos*.dist-info/METADATA"))
        if (version := files.version_in(files.read(at)))
    )
    return Tool(name=name, path=path, version=packages.get("gramine") or next(found, ""))


def _engine(name: str, which: Which, environ: Mapping[str, str]) -> Tool:
    path = which(name)
    if path is None:
        return Tool(name=name, path=None)
    named = asking.program((path, "--version"), environ)
    version = re.search(r"[0-9]+(?:\.[0-9]+)+[^\s,]*", named.words) if named.good else None
    answer = asking.program((path, ENGINES[name]), environ) if named.good else named
    tool = Tool(name=name, path=path, version=files.text(version[0]) if version else "")
    return tool if answer.good else replace(tool, problem=answer.words)


def _clock(root: Path, which: Which, environ: Mapping[str, str]) -> bool | None:
    """Whether something holds the clock to others': systemd-timesyncd says it by a file."""
    if files.mode(root / "run/systemd/timesync/synchronized"):
        return True
    chronyc = which("chronyc")
    if chronyc is not None:
        tracking = asking.program((chronyc, "-n", "tracking"), environ)
        leap = re.search(r"^Leap status\s*:\s*(.+?)\s*$", tracking.words, re.MULTILINE)
        if tracking.good and leap:
            return leap[1] != "Not synchronised"
    return False if files.mode(root / "run/systemd/timesync") else None


def _room(root: Path, folder: Path) -> Room:
    try:
        disk = shutil.disk_usage(folder).free
    except OSError:
        disk = None
    memory, free = (
        None if kib is None else kib * 1024
        for name in ("MemTotal", "MemAvailable")
        for kib in [_field(root / "proc/meminfo", rf"{name}:\s+([0-9]+) kB")]
    )
    return Room(
        memory=memory,
        memory_free=free,
        disk_free=disk,
        open_files=_field(root / "proc/self/limits", r"Max open files\s+([0-9]+)\s"),
    )


def _system(root: Path) -> str:
    """The distribution's name for people (os-release(5))."""
    for path in ("etc/os-release", "usr/lib/os-release"):
        said = (files.read(root / path) or b"").decode("utf-8", "replace")
        if match := re.search(r"^PRETTY_NAME=(.+)$", said, re.MULTILINE):
            return files.text(match[1].strip().strip("\"'"))
    return ""


def _inside(root: Path, environ: Mapping[str, str]) -> str:
    if files.mode(root / ".dockerenv"):
        return "docker"
    if files.mode(root / "run/.containerenv"):
        return "podman"
    return files.text(environ.get("container"))  # what systemd-nspawn, LXC and podman set


def _field(path: Path, form: str) -> int | None:
    said = (files.read(path) or b"").decode("utf-8", "replace")
    match = re.search(f"^{form}", said, re.MULTILINE)
    return int(match[1]) if match and len(match[1]) < 19 else None
