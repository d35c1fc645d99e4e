# SPDX-License-Identifier: Apache-2.0
"""What a container of an image is told and given, whichever tool starts it. Pure.

    container        the image's own Python; the party's name and addresses are arguments
    gramine-direct   Gramine without an enclave, to try: it protects nobody
    sgx              Gramine in an SGX enclave

With Gramine the container's program is its loader, and it takes no arguments of the host: what a
role runs stands in its manifest, what the host may choose in the party's folder.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from fedclave.errors import UserError
from fedclave.workspace.images.content import PREFIX

Role = Literal["aggregator", "collaborator"]
ROLES: tuple[Role, ...] = ("aggregator", "collaborator")

GRAMINE = "/opt/gramine"
MANIFESTS = f"{PREFIX}/enclave"
PORT = 8443  # the aggregator's, in its container and on its host
PIDS = 2048  # threads count; an enclave has up to 1068, each one outside too

DEVICE = "/dev/sgx_enclave"
AESM = "/var/run/aesmd"
"""The folder of AESM's socket, not the socket: a new start of AESM makes a new one in it."""

SECCOMP = "gramine-seccomp.json"
SECCOMP_URL = (
    "https://raw.githubusercontent.com/gramineproject/gramine/v1.9/scripts/"
    "docker_seccomp_aug_2022.json"
)
"""Gramine's own profile: gramine-direct changes its personality(2), which Docker's denies."""

_SIZE = re.compile(r"([1-9][0-9]{0,18})([KMG]?)")


class Kind(StrEnum):
    """How a party runs, by the names of ``fx doctor``."""

    CONTAINER = "container"
    DIRECT = "gramine-direct"
    SGX = "sgx"


WARNING = {
    Kind.CONTAINER: "A container proves nothing to anybody: who runs the host can change it.",
    Kind.DIRECT: (
        "NOT PROTECTED: gramine-direct is no enclave. It is for trying what an enclave would do;"
        " to the others the party is NOT ATTESTED."
    ),
    Kind.SGX: "",
}
"""What must be said wherever such a container is started."""


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """An image, and how it is to run. ``enclave_size`` is as in its manifest: ``8G``."""

    image: str
    kind: Kind
    digest: str = ""
    enclave_size: str = ""

    def __post_init__(self) -> None:
        if self.kind is Kind.SGX:
            quantity(self.enclave_size)

    @property
    def stem(self) -> str:
        """The image's own name, without registry and tag, as containers may be called.

        >>> Deployment(image="registry.example.org:5000/heart/digits:8e", kind=Kind.CONTAINER).stem
        'digits'
        """
        last = self.image.rpartition("/")[2]
        return "-".join(re.findall(r"[a-z0-9]+", re.split("[:@]", last)[0].lower())) or "federation"


def quantity(size: str) -> str:
    """A size of Gramine's as Kubernetes writes it: both count in powers of two.

    >>> quantity("8G"), quantity("512M"), quantity("65536")
    ('8Gi', '512Mi', '65536')
    """
    match = _SIZE.fullmatch(size)
    if match is None:
        raise UserError(f"{size!r} is no size of an enclave. Write for example 8G, or 512M")
    return f"{match[1]}{match[2]}i" if match[2] else match[1]


def entrypoint(kind: Kind) -> str | None:
    """The program of a container; None: the image's own."""
    return None if kind is Kind.CONTAINER else f"{GRAMINE}/{_pal(kind)}/loader"


def arguments(kind: Kind, role: Role, name: str, host: str) -> tuple[str, ...]:
    """What the program is told. ``name`` and ``host`` count only in a plain container.

    Gramine's loader takes its libpal.so, the word of a first process, and the path beside which
    ``.manifest.sgx`` and ``.sig`` lie (without an enclave: ``.manifest``).
    """
    if kind is not Kind.CONTAINER:
        return (f"{GRAMINE}/{_pal(kind)}/libpal.so", "init", f"{MANIFESTS}/{role}")
    if role == "aggregator":
        return ("aggregator", "start", "--listen", f"0.0.0.0:{PORT}")
    return ("collaborator", "start", "-n", name, "--address", f"{host}:{PORT}")


def _pal(kind: Kind) -> str:
    return "sgx" if kind is Kind.SGX else "direct"
