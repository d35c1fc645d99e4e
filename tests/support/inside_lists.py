# SPDX-License-Identifier: Apache-2.0
"""What a process in an image may look at beyond its measured files: files, variables, sockets.

An enclave has no other environment than its manifest's, and no other files than its mounts'. So
what is listed here as not set, or not there, cannot be brought in by a host; in a plain container
it can. Each entry has its reason. A new release of a library may read something new: then a test
names it, and somebody decides.
"""

import os
from types import MappingProxyType

from fedclave.workspace.gramine import manifest

SETTINGS = manifest.Settings(framework="numpy", size="4G", threads=2, isv_prod_id=1, isv_svn=1)
THREADS = SETTINGS.max_threads - 4
"""Threads that an enclave of these settings has room for; four more are Gramine's own."""

_NAMES = "names of hosts: the manifest's own files"
_LOCALE = "the locale; in an enclave there is none but C's own, and Python reads UTF-8 anyway"
_CPUS = "how many processors there are; in an enclave Gramine says so, or the file is not there"
_QUOTA = "how many processors a container may use (Rust's library); not there in an enclave"

FILES = MappingProxyType(
    {
        "/dev/null": "nothing",
        "/dev/urandom": "OpenSSL seeds itself; in an enclave it is RDRAND's",
        "/etc/hosts": _NAMES,
        "/etc/host.conf": _NAMES,
        "/etc/gai.conf": _NAMES,
        "/etc/nsswitch.conf": _NAMES,
        "/etc/resolv.conf": _NAMES,
        "/run/systemd/resolve/stub-resolv.conf": _NAMES,
        "/etc/ld.so.cache": "where libraries are; in an enclave LD_LIBRARY_PATH says so",
        "/etc/ssl/openssl.cnf": "the system's OpenSSL; not there in an enclave: its defaults count",
        os.path.realpath("/etc/localtime"): "the time zone; not there in an enclave: UTC",
        "/etc/locale.alias": _LOCALE,
        "/usr/lib/locale/C.utf8/LC_CTYPE": _LOCALE,
        "/usr/lib/locale/locale-archive": _LOCALE,
        "/usr/lib/x86_64-linux-gnu/gconv/gconv-modules.cache": _LOCALE,
        "/proc/sys/net/core/somaxconn": "how many may wait for a connection (gRPC)",
        "/sys/devices/system/cpu/online": _CPUS,
        "/sys/devices/system/cpu/possible": _CPUS,
        "/proc/cpuinfo": _CPUS,
        "/proc/self/cgroup": _QUOTA,
        "/proc/self/mountinfo": _QUOTA,
        "/sys/fs/cgroup/cpu.max": _QUOTA,
        "/sys/fs/cgroup/cpu/cpu.cfs_period_us": _QUOTA,
        "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": _QUOTA,
    }
)
"""Files that no measurement covers, and why they may be read."""

SOCKETS = MappingProxyType(
    {"/var/run/nscd/socket": "the C library asks a cache of names; not there in an enclave"}
)
"""Unix sockets that a process may try."""

_SET = manifest.environment(SETTINGS, ())
_SET.pop("LD_LIBRARY_PATH")  # this machine's linker finds its libraries without

SET = MappingProxyType(_SET)
"""Environment variables as a manifest sets them."""

_UNSET = {
    "gRPC; what matters of it is fixed by fedclave.transport.grpc, the rest keeps its default": """
        GRPC_ABORT_ON_LEAKS GRPC_ADDRESS_HTTP_PROXY GRPC_ASYNCIO_ENGINE GRPC_CHANNELZ_CALL_TRACER
        GRPC_CHANNELZ_MAX_ORPHANED_NODES GRPC_CHAOTIC_GOOD_METRICS_UPDATE_INTERVAL_MS
        GRPC_CLIENT_CHANNEL_BACKUP_POLL_INTERVAL_MS GRPC_CPP_EXPERIMENTAL_DISABLE_REFLECTION
        GRPC_EXPERIMENTAL_MEMORY_PRESSURE_THRESHOLD
        GRPC_EXPERIMENTAL_TARGET_MEMORY_PRESSURE GRPC_EXPERIMENTS GRPC_NOT_USE_SYSTEM_SSL_ROOTS
        GRPC_POLL_STRATEGY GRPC_PYTHON_DISABLE_ABSL_INIT_LOG GRPC_SSL_CIPHER_SUITES
        GRPC_THREAD_POOL_VERBOSE_FAILURES GRPC_TRACE GRPC_USE_SYSTEM_ROOTS_OVER_LANGUAGE_CALLBACK
        GRPC_VERBOSITY""",
    "a proxy to the aggregator; an enclave that needs one has it in its manifest": """
        grpc_proxy http_proxy https_proxy no_grpc_proxy no_proxy""",
    "OpenBLAS and OpenMP: how many threads, which kernels; the numbers that count are set": """
        GOTO_NUM_THREADS OMP_ADAPTIVE OPENBLAS_BLOCK_FACTOR OPENBLAS_CORETYPE
        OPENBLAS_DEFAULT_NUM_THREADS OPENBLAS_L2_SIZE OPENBLAS_MAIN_FREE
        OPENBLAS_THREAD_TIMEOUT OPENBLAS_VERBOSE""",
    "numpy: which instructions, which memory": """
        NPY_DISABLE_CPU_FEATURES NPY_ENABLE_CPU_FEATURES NPY_PROMOTION_STATE
        NUMPY_MADVISE_HUGEPAGE NUMPY_WARN_IF_NO_MEM_POLICY""",
    "GNU Fortran's library, below OpenBLAS: how it reads and prints": """
        GFORTRAN_CONVERT_UNIT GFORTRAN_ERROR_BACKTRACE GFORTRAN_LIST_SEPARATOR
        GFORTRAN_OPTIONAL_PLUS GFORTRAN_SHOW_LOCUS GFORTRAN_STDERR_UNIT GFORTRAN_STDIN_UNIT
        GFORTRAN_STDOUT_UNIT GFORTRAN_UNBUFFERED_ALL GFORTRAN_UNBUFFERED_PRECONNECTED""",
    "OpenSSL: its configuration, and which instructions": """
        CRYPTOGRAPHY_OPENSSL_NO_LEGACY OPENSSL_CONF OPENSSL_ia32cap""",
    "Python: where it is and where its zones are; asked for although it is isolated (-I)": """
        PYTHONEXECUTABLE PYTHONHOME PYTHONTZPATH PYTHONUSERBASE _PYTHON_PROJECT_BASE
        _PYTHON_SYSCONFIGDATA_NAME __PYVENV_LAUNCHER__""",
    "folders for temporary files; unset it is /tmp": "SQLITE_TMPDIR TEMP TMP TMPDIR",
    "protobuf: its version and make": """
        PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION TEMPORARILY_DISABLE_PROTOBUF_VERSION_CHECK""",
    "pydantic: its plugins, of which an image has none": "PYDANTIC_DISABLE_PLUGINS",
    "typer: completion in a shell, and colours": """
        TYPER_USE_RICH _FX_COMPLETE _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION""",
}

UNSET = MappingProxyType({name: why for why, names in _UNSET.items() for name in names.split()})
"""Environment variables that libraries look for, and why it is no matter that they do."""
