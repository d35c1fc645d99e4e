# SPDX-License-Identifier: Apache-2.0
"""Single keys of a manifest that open an enclave to its host, or leave a door ajar."""

from collections.abc import Callable, Iterator

from fedclave.trust.manifest_form import Sound
from fedclave.trust.manifest_rule import Hit, Rule, refused, warned


def _is(bad: object) -> Callable[[object], bool]:
    return lambda value: value == bad


def _is_not(good: object) -> Callable[[object], bool]:
    return lambda value: value != good


RULES: tuple[Rule, ...] = (
    refused(
        "debug",
        "sgx.debug",
        "Reads and writes all of the enclave's memory with a debugger (EDBGRD, EDBGWR).",
        "Write sgx.debug = false",
        _is(True),
    ),
    refused(
        "attestation",
        "sgx.remote_attestation",
        "Runs anything in its place: without quotes nobody can tell what runs.",
        'Write sgx.remote_attestation = "dcap"',
        _is_not("dcap"),
    ),
    refused(
        "subprocesses",
        "sys.disallow_subprocesses",
        "Starts, delays and stops each child, an enclave of its own with a copy of the memory; a"
        " program that Gramine forks badly goes on in a state that nobody tested.",
        "Write sys.disallow_subprocesses = true",
        _is_not(True),
    ),
    refused(
        "host-argv",
        "loader.insecure__use_cmdline_argv",
        "Chooses the arguments: another role, another port, or 'python -c CODE', which is any code"
        " at all in an enclave that attests as before.",
        "Leave it out, and write loader.argv",
        _is(True),
    ),
    refused(
        "host-env",
        "loader.insecure__use_host_env",
        "Chooses the environment: LD_PRELOAD, PYTHONPATH, SSL_CERT_FILE, HTTPS_PROXY and all"
        " others.",
        "Leave it out, and write loader.env",
        _is(True),
    ),
    refused(
        "no-aslr",
        "loader.insecure__disable_aslr",
        "Knows all addresses before an attack on a memory error.",
        "Leave it out",
        _is(True),
    ),
    refused(
        "host-eventfd",
        "sys.insecure__allow_eventfd",
        "Forges wake-ups and the numbers that threads tell each other.",
        "Leave it out; Gramine's own eventfd works within a process",
        _is(True),
    ),
    refused(
        "flock",
        "sys.experimental__enable_flock",
        "Attacks code that its makers call unfinished, with possible vulnerabilities.",
        "Leave it out; fcntl locks work",
        _is(True),
    ),
    refused(
        "exitless",
        "sgx.insecure__rpc_thread_num",
        "Reads what the CPU leaves behind when the enclave works on memory outside"
        " (INTEL-SA-00615, INTEL-SA-00657).",
        "Leave it out",
        lambda value: value not in (None, 0),
    ),
    refused(
        "memory-faults",
        "sgx.insecure__allow_memfaults_without_exinfo",
        "Invents memory faults, and so steers the program's own signal handlers.",
        "Leave it out; use sgx.use_exinfo = true",
        _is(True),
    ),
    refused(
        "ioctls",
        "sys.allowed_ioctls",
        "Reads and changes what goes to a device and comes back from it.",
        "Leave it out",
        bool,
    ),
    refused(
        "log-level",
        "loader.log_level",
        "Reads system calls with their arguments: paths, sizes, order.",
        'Write loader.log_level = "error" or "none"',
        lambda value: value not in (None, "error", "none"),
    ),
    refused(
        "log-file",
        "loader.log_file",
        "Keeps the log as a file of its own: a path of the host that no file policy covers.",
        "Leave it out: errors go to the standard error",
        lambda value: value is not None,
    ),
    refused(
        "stats",
        "sgx.enable_stats",
        "Measures with breakpoints, counters and traces what the enclave does (TCS.DBGOPTIN).",
        "Leave it out",
        _is(True),
    ),
    refused(
        "profile",
        "sgx.profile.enable",
        "Samples where the enclave's threads are, which tells the data on which they branch.",
        "Leave it out",
        lambda value: value not in (None, "none"),
    ),
    refused(
        "vtune",
        "sgx.vtune_profile",
        "Samples where the enclave's threads are, which tells the data on which they branch.",
        "Leave it out",
        _is(True),
    ),
    refused(
        "mocked-call",
        "sys.debug__mock_syscalls",
        "Profits from a call that says it was done, and was not: a lock, a write, random bytes.",
        "Leave it out, or let the call fail (a negative return)",
    ),
    warned(
        "mock-syscalls",
        "sys.debug__mock_syscalls",
        "Meets a program that takes paths which are seldom tested.",
        "Leave it out unless it was measured to help",
    ),
    warned(
        "sigterm",
        "sys.enable_sigterm_injection",
        "Sends one SIGTERM, at the moment that it likes.",
        "Leave it out, or see that the handler is harmless at any moment",
        _is(True),
    ),
    warned(
        "host-dns",
        "sys.enable_extra_runtime_domain_names_conf",
        "Chooses the host's name and the DNS servers.",
        "Leave it out; list /etc/hosts and /etc/resolv.conf as trusted files",
        _is(True),
    ),
    warned(
        "pointer-checks",
        "libos.check_invalid_pointers",
        "Crashes the program more easily: system calls do not check pointers.",
        "Leave it out",
        _is(False),
    ),
    warned(
        "no-svn",
        "sgx.isvsvn",
        "Runs an old version with known holes: policies that go by the signer cannot tell it from"
        " a new one.",
        "Write sgx.isvsvn, from 1, and raise it with each security fix",
        lambda value: value in (None, 0),
    ),
)


def check(manifest: Sound) -> Iterator[Hit]:
    """System calls that are mocked: which return success, and which do not."""
    for index, one in enumerate(manifest.get("sys", "debug__mock_syscalls") or ()):
        if one is None or "name" not in one:
            continue
        harmless = one.get("return", 0) < 0 or one["name"] == "sched_yield"
        rule = "mock-syscalls" if harmless else "mocked-call"
        yield Hit(rule, ("sys", "debug__mock_syscalls", index), one)
