# SPDX-License-Identifier: Apache-2.0
"""The CPU of a host, and Intel SGX from the CPU up to the devices."""

import os
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedclave.workspace import host_files as files
from fedclave.workspace.host_files import Access, Node

SGX_KERNEL = (5, 11)
"""Linux since which the driver is in the kernel."""

EDMM_KERNEL = (6, 0)
"""Linux since which enclaves grow (SGX2)."""

INTEL = "GenuineIntel"

_CPUID = "dev/cpu/0/cpuid"
_FEATURES, _SGX = 0x07, 0x12  # leaves
_SECTIONS = 16
_REGISTERS = struct.Struct("<4I")  # EAX, EBX, ECX, EDX


@dataclass(frozen=True, kw_only=True)
class Cpu:
    """The first processor. ``vendor`` and ``model`` are empty where /proc/cpuinfo is no help."""

    vendor: str
    model: str
    x86_64: bool | None
    virtual: bool | None  # a VM's


@dataclass(frozen=True, kw_only=True)
class Sgx:
    """Intel SGX; None is what cannot be told."""

    in_cpu: bool | None  # CPUID, whatever BIOS and kernel make of it
    enabled: bool | None  # the kernel uses it (flag sgx)
    launch_control: bool | None  # flag sgx_lc: enclaves of any signer start
    sgx2: bool | None  # CPUID
    edmm: bool | None  # enclaves grow: SGX2, and a kernel that knows it
    epc_bytes: int | None
    enclave: Node
    provision: Node


def cpu(info: Mapping[str, str]) -> Cpu:
    """The CPU that /proc/cpuinfo describes."""
    flags = info.get("flags", "").split()
    return Cpu(
        vendor=files.text(info.get("vendor_id")),
        model=files.text(info.get("model name")),
        x86_64="lm" in flags if flags else None,
        virtual="hypervisor" in flags if flags else None,
    )


def sgx(root: Path, info: Mapping[str, str], kernel: tuple[int, int] | None, access: Access) -> Sgx:
    """SGX on a host whose /proc/cpuinfo and kernel are these."""
    flags = info.get("flags", "").split()
    # Before 5.11 the kernel has no such flags: that one is missing tells nothing.
    shows = bool(flags) and kernel is not None and kernel >= SGX_KERNEL
    enabled = "sgx" in flags if shows else None
    seen, sgx2 = _by_cpuid(root / _CPUID, info)
    in_cpu = True if enabled else seen
    if kernel is None or kernel >= EDMM_KERNEL:
        edmm = False if enabled is False else sgx2 if kernel else None
    else:
        edmm = False
    return Sgx(
        in_cpu=in_cpu,
        enabled=enabled,
        launch_control="sgx_lc" in flags if shows else None,
        sgx2=sgx2,
        edmm=edmm,
        epc_bytes=_epc_by_kernel(root) or (_epc_by_cpuid(root / _CPUID) if seen else None),
        enclave=files.node(root, "/dev/sgx_enclave", access),
        provision=files.node(root, "/dev/sgx_provision", access),
    )


def _by_cpuid(path: Path, info: Mapping[str, str]) -> tuple[bool | None, bool | None]:
    """Whether the CPU has SGX and SGX2.

    Intel SDM volume 3D, 37.7: SGX is bit 2 of EBX of leaf 7; SGX2 is bit 1 of EAX of leaf 12H. A
    leaf above the highest one repeats another, and with other vendors the bits mean other things.
    """
    if info.get("vendor_id") != INTEL:
        return (False, False) if info.get("vendor_id") else (None, None)
    highest = info.get("cpuid level", "")
    if not re.fullmatch(r"[0-9]{1,5}", highest):
        return None, None
    if int(highest) < _SGX:
        return False, False
    features, own = cpuid(path, _FEATURES, 0), cpuid(path, _SGX, 0)
    if features is None or own is None:
        return None, None
    there = bool(features[1] & 1 << 2)
    return there, there and bool(own[0] & 1 << 1)


def cpuid(path: Path, leaf: int, subleaf: int) -> tuple[int, int, int, int] | None:
    """EAX, EBX, ECX, EDX of a leaf, as ``/dev/cpu/0/cpuid`` gives them to who may read it.

    cpuid(4): the lower half of the file's position is the leaf, the upper half the subleaf.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        return None
    try:
        raw = os.pread(descriptor, _REGISTERS.size, subleaf << 32 | leaf)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    if len(raw) != _REGISTERS.size:
        return None
    eax, ebx, ecx, edx = _REGISTERS.unpack(raw)
    return eax, ebx, ecx, edx


def _epc_by_kernel(root: Path) -> int | None:
    """Bytes of enclave page cache that Linux found in all NUMA nodes (its sysfs, since 5.17)."""
    found = files.under(root / "sys/devices/system/node", "node*/x86/sgx_total_bytes")
    said = [files.text(files.read(path)) for path in found]
    sizes = [int(size) for size in said if re.fullmatch(r"[0-9]{1,18}", size)]
    return sum(sizes) if sizes else None


def _epc_by_cpuid(path: Path) -> int | None:
    """Bytes of enclave page cache by CPUID (Intel SDM volume 3D, 37.7.2: leaf 12H, from 2 on).

    Bits 3:0 of EAX tell whether a subleaf is a section (1), or the list is over (0). Bits 31:12 of
    ECX and bits 19:0 of EDX are its size.
    """
    total = 0
    for subleaf in range(2, 2 + _SECTIONS):
        registers = cpuid(path, _SGX, subleaf)
        if registers is None or registers[0] & 0xF != 1:
            break
        total += (registers[2] & 0xFFFFF000) | (registers[3] & 0xFFFFF) << 32
    return total or None
