# SPDX-License-Identifier: Apache-2.0
"""What the manifest of a role says (Gramine 1.9). Why each value: docs/reference/manifest.md.

The host decides nothing in it: program, arguments, environment, files and sizes are all in the
text, which is measured. The one place that the host reads and writes is the party's own folder,
/state; and in that, /state/cert is encrypted with a key of this very enclave.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from fedclave.errors import UserError
from fedclave.trust import mrenclave
from fedclave.workspace.gramine import toml
from fedclave.workspace.gramine.measured import ENCLAVE, ETC, PYTHON, Measured
from fedclave.workspace.gramine.runtime import LIBOS, LIBRARIES
from fedclave.workspace.images.content import PREFIX, START, STATE, WORKSPACE

Role = Literal["aggregator", "collaborator"]
ROLES: tuple[Role, ...] = ("aggregator", "collaborator")
Framework = Literal["numpy", "torch"]

OUTPUT = f"file:{STATE}/"
"""The folder that is allowed: the party's own, which its host reads and writes."""

HELPERS = 44
"""Threads besides those that compute: gRPC's pool (at most 16), asyncio's (at most 24), and 4 of
Gramine's own. Without EDMM a thread more than ``sgx.max_threads`` cannot begin."""

_KEY = "_sgx_mrenclave"  # a key that no other code gets from this CPU (Gramine, attestation.rst)


@dataclass(frozen=True, kw_only=True)
class Template:
    """What a framework needs: sizes as Gramine writes them, and variables of its own."""

    stack: str
    brk: str
    enclave: str  # by default
    exinfo: bool
    environment: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


TEMPLATES: Mapping[Framework, Template] = MappingProxyType(
    {
        "numpy": Template(stack="2M", brk="256M", enclave="4G", exinfo=False),
        "torch": Template(
            stack="8M",
            brk="1G",
            enclave="8G",
            exinfo=True,
            environment=MappingProxyType(
                {"TORCHDYNAMO_DISABLE": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
            ),
        ),
    }
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the maker of an enclave chooses. ``threads`` compute; ``HELPERS`` more serve them."""

    framework: Framework
    size: str
    threads: int
    isv_prod_id: int
    isv_svn: int

    @property
    def max_threads(self) -> int:
        """All threads of the enclave."""
        return self.threads + HELPERS


def framework(wheels: Iterable[str]) -> Framework:
    """Whose template fits an image, by the names of its wheels."""
    return "torch" if "torch" in set(wheels) else "numpy"


def check(settings: Settings) -> None:
    """``UserError``: a number that no enclave can have."""
    size = mrenclave.size_of(settings.size)
    if size & (size - 1) or not 2**28 <= size <= 2**40:
        raise UserError(
            f"--enclave-size {settings.size}: SGX wants a power of two, and a federation at least"
            " 256M. Write 4G, 8G or 16G"
        )
    if not 1 <= settings.threads <= 1024:
        raise UserError(
            f"--threads {settings.threads}: choose from 1 to 1024, the cores it may use"
        )
    for name, number in (("prod-id", settings.isv_prod_id), ("svn", settings.isv_svn)):
        if not 0 <= number < 2**16:
            raise UserError(f"--isv-{name} {number}: choose a number from 0 to 65535")


def render(
    role: Role,
    settings: Settings,
    files: Sequence[Measured],
    libos: str,
    folders: Sequence[str],
    *,
    protected: bool = True,
) -> bytes:
    """The final manifest of a role: what is measured, byte for byte.

    ``libos`` is the SHA-256 (hex) of Gramine's LibOS, ``folders`` are where libraries lie. Not
    ``protected``: for gramine-direct, which has no key of an enclave, so that cert/ lies in the
    clear.
    """
    return toml.encode(_manifest(role, settings, files, libos, folders, protected))


def _manifest(
    role: Role,
    settings: Settings,
    files: Sequence[Measured],
    libos: str,
    folders: Sequence[str],
    protected: bool,
) -> Mapping[str, toml.Value]:
    template = TEMPLATES[settings.framework]
    return {
        "fs": {
            "mounts": [*_mounts(files), *_own(protected)],
            "root": {"type": "tmpfs"},
            "start_dir": WORKSPACE,
        },
        "libos": {"check_invalid_pointers": True, "entrypoint": PYTHON},
        "loader": {
            "argv": [PYTHON, *START, "enclave", role],
            "entrypoint": {"sha256": libos, "uri": f"file:{LIBOS}"},
            "env": environment(settings, folders),
            "log_level": "error",
        },
        "sgx": {
            "allowed_files": [OUTPUT],
            "debug": False,
            "edmm_enable": False,
            "enclave_size": settings.size,
            "file_check_policy": "strict",
            "isvprodid": settings.isv_prod_id,
            "isvsvn": settings.isv_svn,
            "max_threads": settings.max_threads,
            "remote_attestation": "dcap",
            "trusted_files": [{"sha256": one.sha256, "uri": f"file:{one.path}"} for one in files],
            "use_exinfo": template.exinfo,
        },
        "sys": {
            "brk": {"max_size": template.brk},
            "disallow_subprocesses": True,
            "enable_extra_runtime_domain_names_conf": True,
            "fds": {"limit": 4096},
            "stack": {"size": template.stack},
        },
    }


def environment(settings: Settings, folders: Sequence[str]) -> dict[str, str]:
    """Every variable that a program inside sees."""
    threads = str(settings.threads)
    return {
        "GRPC_DNS_RESOLVER": "native",
        "GRPC_ENABLE_FORK_SUPPORT": "0",
        "HOME": STATE,
        "LC_ALL": "C.UTF-8",
        "LD_LIBRARY_PATH": ":".join((LIBRARIES, *folders)),
        "MALLOC_ARENA_MAX": "1",
        "MKL_NUM_THREADS": threads,
        "OMP_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "PATH": f"{PREFIX}/bin",
        "TZ": "UTC",
        **TEMPLATES[settings.framework].environment,
    }


def _mounts(files: Sequence[Measured]) -> list[toml.Value]:
    """The folders in which trusted files lie, the outermost of each."""
    above = {one.path.rpartition("/")[0] for one in files if not one.path.startswith(f"{ENCLAVE}/")}
    outermost: list[str] = []
    for folder in sorted({_mounted(one) for one in above}):
        if not any(folder.startswith(f"{outer}/") for outer in outermost):
            outermost.append(folder)
    shown: list[toml.Value] = [{"path": one, "uri": f"file:{one}"} for one in outermost]
    return [*shown, {"path": "/etc", "uri": f"file:{ETC}"}]


def _mounted(folder: str) -> str:
    """What is mounted for a folder: ours whole, of the base no more than the folder."""
    for own in (PREFIX, WORKSPACE, LIBRARIES):
        if folder == own or folder.startswith(f"{own}/"):
            return own
    return folder


def _own(protected: bool) -> list[toml.Value]:
    cert: Mapping[str, toml.Value] = {
        "key_name": _KEY,
        "path": f"{STATE}/cert",
        "type": "encrypted",
        "uri": f"file:{STATE}/cert",
    }
    state: list[toml.Value] = [
        {"path": "/tmp", "type": "tmpfs"},  # noqa: S108 - memory of the enclave
        {"path": STATE, "uri": f"file:{STATE}"},
    ]
    return [*state, cert] if protected else state
