# SPDX-License-Identifier: Apache-2.0
"""Hosts made of a folder: the files, devices, sockets and programs that a real one would have.

A device is a link to /dev/null, which is one. A program is a script that runs. CPUID is a sparse
file with the registers where Linux's driver has them.
"""

import shutil
import socket
import stat
import struct
from collections.abc import Mapping
from pathlib import Path

from fedclave.workspace import host, readiness
from fedclave.workspace.host_files import Access

XEON = "Intel(R) Xeon(R) Platinum 8380 CPU @ 2.30GHz"
SGX_FLAGS = "fpu lm aes sgx rdrand fsgsbase sgx_lc"
GIB = 2**30
QCNL = """{
  // keys are case sensitive
  //PCCS server address
  "pccs_url": "https://pccs.example.org:8081/sgx/certification/v4/"
  /* a self-signed one
     is accepted */
  ,"use_secure_cert": false
}
"""
AESM = ("sgx-aesm-service", "libsgx-aesm-ecdsa-plugin", "libsgx-aesm-quote-ex-plugin")
TRACKING = """Reference ID    : C0A80001 (192.168.0.1)
Stratum         : 3
Leap status     : {leap}
"""


class FakeHost:
    """A folder that stands for a host; bare until something is put in."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.bin = root / "usr/bin"
        self.bin.mkdir(parents=True)
        self.environ = {"PATH": f"{self.bin}:/usr/bin:/bin"}
        self._listening: list[socket.socket] = []

    def close(self) -> None:
        for end in self._listening:
            end.close()

    def file(self, path: str, content: str | bytes) -> Path:
        at = self.root / path
        at.parent.mkdir(parents=True, exist_ok=True)
        at.write_bytes(content if isinstance(content, bytes) else content.encode())
        return at

    def remove(self, path: str) -> Path:
        at = self.root / path
        if at.is_dir() and not at.is_symlink():
            shutil.rmtree(at)
        else:
            at.unlink(missing_ok=True)
        at.parent.mkdir(parents=True, exist_ok=True)
        return at

    def device(self, path: str) -> None:
        self.remove(path).symlink_to("/dev/null")

    def group(self, name: str) -> None:
        """Give the group that owns the devices a name on this host."""
        self.file("etc/group", f"daemon:x:65533:\n{name}:x:{Path('/dev/null').stat().st_gid}:\n")

    def program(self, name: str, script: str) -> None:
        at = self.file(f"usr/bin/{name}", f"#!/bin/sh\n{script}\n")
        at.chmod(at.stat().st_mode | stat.S_IXUSR)

    def engine(self, name: str, version: str) -> None:
        """An engine of containers that answers."""
        self.program(name, f'[ "$1" != --version ] || echo "{name} version {version}, build 1"')

    def cpu(self, vendor: str, model: str, flags: str, *, level: int = 27) -> None:
        one = f"vendor_id\t: {vendor}\nmodel name\t: {model}\ncpuid level\t: {level}\n"
        one += f"flags\t\t: {flags}\n\n"
        self.file("proc/cpuinfo", f"processor\t: 0\n{one}processor\t: 1\n{one}")

    def kernel(self, release: str) -> None:
        self.file("proc/sys/kernel/osrelease", f"{release}\n")

    def cpuid(self, *, sgx: bool, sgx2: bool, sections: tuple[int, ...] = ()) -> None:
        leaf = struct.Struct("<4I")
        at = self.file("dev/cpu/0/cpuid", b"")
        with at.open("r+b") as registers:
            registers.truncate(0x1000)
            registers.seek(7)  # leaf 7
            registers.write(leaf.pack(0, sgx << 2, 0, 0))
            registers.seek(0x12)  # leaf 12H over the end of it
            registers.write(leaf.pack(sgx | sgx2 << 1, 0, 0, 0))
            for number, size in enumerate(sections, start=2):
                registers.seek(number << 32 | 0x12)
                registers.write(leaf.pack(0x70000001, 0, size & 0xFFFFF000 | 1, size >> 32))
            registers.seek(len(sections) + 2 << 32 | 0x12)
            registers.write(leaf.pack(0, 0, 0xFFFFF000, 0))  # the list is over

    def aesm(self) -> None:
        """A service that listens, with Intel's packages."""
        self.file("var/run/aesmd/was-here", "")
        end = socket.socket(socket.AF_UNIX)
        end.bind(str(self.remove("var/run/aesmd/aesm.socket")))
        end.listen()
        self._listening.append(end)

    def packages(self, *names: str, state: str = "install ok installed") -> None:
        self.file(
            "var/lib/dpkg/status",
            "\n".join(
                f"Package: {name}\nStatus: {state}\nDescription: x\n Version: 0\nVersion: 1.{at}\n"
                for at, name in enumerate(names)
            ),
        )

    def survey(
        self,
        *,
        access: Access = lambda path, how: True,
        online: bool = False,
        environ: Mapping[str, str] | None = None,
    ) -> host.Host:
        return host.survey(
            self.root,
            environ={**self.environ, **(environ or {})},
            which=lambda name: shutil.which(name, path=str(self.bin)),
            access=access,
            folder=self.root,
            online=online,
        )


def vm(root: Path) -> FakeHost:
    """A machine that has what every Linux has, and nothing else."""
    made = FakeHost(root)
    made.cpu("AuthenticAMD", "AMD EPYC 7763", "fpu lm aes hypervisor")
    made.kernel("6.1.0-13-cloud-amd64")
    made.file("etc/os-release", 'NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n')
    made.file("proc/meminfo", "MemTotal:  16777216 kB\nMemFree: 1 kB\nMemAvailable: 8388608 kB\n")
    made.file("proc/self/status", "Name:\tfx\nUid:\t1000\t1000\t1000\t1000\n")
    made.file(
        "proc/self/limits",
        "Limit  Soft Limit  Hard Limit  Units\nMax open files  1024  524288  files\n",
    )
    made.file("run/systemd/timesync/synchronized", "")
    return made


def sgx_host(root: Path) -> FakeHost:
    """A host that has everything for an enclave and its quotes."""
    made = vm(root)
    made.cpu("GenuineIntel", XEON, SGX_FLAGS)
    made.cpuid(sgx=True, sgx2=True, sections=(64 * GIB, 64 * GIB))
    for number in range(2):
        made.file(f"sys/devices/system/node/node{number}/x86/sgx_total_bytes", f"{63 * GIB}\n")
    made.group("sgx")
    made.device("dev/sgx_enclave")
    made.device("dev/sgx_provision")
    made.aesm()
    made.packages("gramine", *AESM, "libsgx-dcap-default-qpl")
    made.file("etc/sgx_default_qcnl.conf", QCNL)
    made.program("gramine-sgx", "exit 2")
    made.program("gramine-direct", "exit 2")
    made.engine("docker", "28.2.2")
    return made


def lacks(found: host.Host) -> dict[str, list[readiness.Missing]]:
    """What each way lacks; only ways that are not ready."""
    return {
        way.name: list(way.missing)
        for way in readiness.judge(found).ways
        if way.verdict == "missing"
    }
