# SPDX-License-Identifier: Apache-2.0
"""What a host lacks for an SGX enclave, and for the quotes that prove what runs in it. Pure.

Where the hardware is the wrong one, that alone is said: nothing that can be installed helps.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from fedclave.workspace import host as hosts
from fedclave.workspace.host import Host
from fedclave.workspace.host_files import Node
from fedclave.workspace.host_sgx import INTEL, SGX_KERNEL

_PLUGINS = ("libsgx-aesm-ecdsa-plugin", "libsgx-aesm-quote-ex-plugin")
_QPL = "libsgx-dcap-default-qpl"
_FROM_INTEL = "from https://download.01.org/intel-sgx/sgx_repo/ubuntu"
_RULE = 'SUBSYSTEM=="misc", KERNEL=="{name}", GROUP="{group}", MODE="0660"'
_RULES = "/etc/udev/rules.d/65-sgx.rules"
_EXAMPLE = '{"pccs_url": "https://HOST:8081/sgx/certification/v4/"}'
_GROUPS = {"/dev/sgx_enclave": "sgx", "/dev/sgx_provision": "sgx_prv"}


@dataclass(frozen=True, kw_only=True)
class Missing:
    """Something that is not there, or not as it must be; and the command or file that helps."""

    what: str
    fix: str


def suits(host: Host) -> bool:
    """Whether the hardware may be the right one: installing things makes sense."""
    return host.cpu.vendor == INTEL and host.sgx.in_cpu is not False


def enclave(host: Host) -> Iterator[Missing]:
    """What every enclave needs, from the CPU up to the device."""
    sgx, kernel = host.sgx, hosts.release(host.kernel)
    if not host.cpu.vendor:
        yield Missing(
            what="an x86 CPU that can be told: /proc/cpuinfo cannot be read, or names none",
            fix="run this on the host itself, with /proc mounted",
        )
    elif host.cpu.vendor != INTEL:
        yield Missing(
            what=f"SGX: only Intel makes it, and this CPU is of {host.cpu.vendor}",
            fix="take a host with an Intel Xeon that has SGX",
        )
    elif kernel is None or kernel < SGX_KERNEL:
        yield Missing(
            what=f"Linux 5.11 or later, with the SGX driver: this is {host.kernel or 'not told'}",
            fix="upgrade the system (Debian 12 and Ubuntu 22.04 have later kernels)",
        )
    elif not sgx.enabled:
        yield _switched_off(host)
    else:
        if not sgx.launch_control:
            yield Missing(
                what="flexible launch control (flag sgx_lc), which Linux's driver needs",
                fix="in the BIOS, unlock SGX launch control, if the CPU has it",
            )
        if sgx.enclave.state != "usable":
            yield _device(host, sgx.enclave)


def quote(host: Host) -> Iterator[Missing]:
    """What quotes need besides: AESM, its DCAP part, and where their certificates come from."""
    if host.sgx.provision.state in ("absent", "not a device"):
        yield _device(host, host.sgx.provision)  # AESM's user opens it, not ours
    yield from _aesm(host)
    yield from _pccs(host)


def _switched_off(host: Host) -> Missing:
    if host.cpu.virtual:
        fix = "have the VM's host give it SGX, with a part of the EPC (QEMU: memory-backend-epc)"
    else:
        fix = "in the BIOS, enable SGX (what the kernel found: sudo dmesg | grep -i sgx)"
    what = {
        True: "SGX is off: the CPU has it, the BIOS or the kernel does not let it",
        False: "SGX: this CPU does not offer it",
        None: "SGX: the kernel shows none (flag sgx in /proc/cpuinfo)",
    }[host.sgx.in_cpu]
    return Missing(what=what, fix=fix)


def _device(host: Host, node: Node) -> Missing:
    name, group = node.path.removeprefix("/dev/"), _GROUPS[node.path]
    if node.state == "absent":
        given = f"start this container with --device {node.path}"
        why = "sudo dmesg | grep -i sgx (it says why the driver made none)"
        return Missing(what=node.path, fix=given if host.inside else why)
    if node.state == "not a device":
        return Missing(
            what=f"{node.path} is not a device",
            fix=f"sudo rm -r {node.path} && sudo udevadm trigger",
        )
    if node.group not in ("root", "0") and int(node.mode, 8) & 0o060 == 0o060:
        fix = f"sudo usermod -aG {node.group} $USER (then log in again)"
    else:
        rule = _RULE.format(name=name, group=group)
        fix = (
            f"sudo groupadd -rf {group} && sudo usermod -aG {group} $USER; add {rule} to {_RULES};"
            " sudo udevadm trigger (then log in again)"
        )
    return Missing(
        what=f"the right to open {node.path} (group {node.group}, mode {node.mode})", fix=fix
    )


def _aesm(host: Host) -> Iterator[Missing]:
    aesm, installed = host.aesm, "sgx-aesm-service" in host.packages
    absent = [name for name in _PLUGINS if name not in host.packages]
    if not aesm.present:
        if host.inside:
            fix = f"start this container with -v {hosts.AESM}:{hosts.AESM}"
        elif installed:
            fix = "sudo systemctl start aesmd"
        else:
            packages = " ".join(("sgx-aesm-service", *_PLUGINS, _QPL))
            fix = f"sudo apt install {packages} ({_FROM_INTEL})"
        yield Missing(what=f"AESM, the service that makes quotes ({hosts.AESM})", fix=fix)
    elif aesm.problem == "Permission denied":
        yield Missing(
            what=f"the right to open {hosts.AESM}",
            fix=f"sudo usermod -aG {aesm.group or 'aesmd'} $USER (then log in again)",
        )
    elif aesm.problem:
        yield Missing(
            what=f"an answer of AESM at {hosts.AESM}: {aesm.problem}",
            fix="sudo systemctl restart aesmd (why it ended: journalctl -u aesmd)",
        )
    if installed and absent:
        yield Missing(
            what="AESM's part that makes DCAP quotes",
            fix=f"sudo apt install {' '.join(absent)} && sudo systemctl restart aesmd",
        )


def _pccs(host: Host) -> Iterator[Missing]:
    qcnl, at = host.qcnl, hosts.QCNL
    if host.inside and qcnl.state == "absent":
        return  # AESM, which reads it, runs outside
    if qcnl.state == "absent" and "az-dcap-client" not in host.packages:
        yield Missing(
            what=f"{at}, which names the PCCS: where quotes get their certificates",
            fix=f"sudo apt install {_QPL} ({_FROM_INTEL}); then name your PCCS in {at}",
        )
    elif qcnl.state == "unreadable":
        yield Missing(
            what=f"{at} as a file that can be read", fix=f"ls -ld {at}; sudo chmod a+r {at}"
        )
    elif qcnl.state == "damaged":
        yield Missing(
            what=f"a PCCS in {at} that can be understood", fix=f"in {at}, write {_EXAMPLE}"
        )
    elif host.pccs is not None and not host.pccs.good:
        yield Missing(
            what=f"an answer of the PCCS {qcnl.url}: {host.pccs.words}",
            fix=f"start it, or name another in {at} (it was asked without a proxy)",
        )
