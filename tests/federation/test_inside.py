# SPDX-License-Identifier: Apache-2.0
"""A whole run as images have it, observed: one process, declared files, declared variables.

And without the system calls that Gramine does not have: the tracer takes them away (``trace.c``).
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.support import federation as federations
from tests.support import inside, inside_lists
from tests.support.inside import Declared, Image, Seen, Tools, Watch

from fedclave.learners.base import PRIVATE
from fedclave.tensors import Stored
from fedclave.workspace import archive
from fedclave.workspace.layout import Workspace

WAIT_S = 100.0
ROUNDS = 2
COUNT = 3_000_000
MEMBERS = {"anna": 1.0, "bernd": 3.0}
ROLES = ("aggregator", *MEMBERS)
pytestmark = pytest.mark.timeout(300)  # on a machine that does other things too
RUN = {"attesting", "auditing", "connecting", "party", "publishing", "releasing", "run", "sealing",
       "signals", "upkeep", "vigil"}  # fmt: skip
"""The modules of ``fedclave.cli`` that a run goes through; the others are commands and views."""

WORKING = federations.LEARNER.replace(
    "import numpy as np", "import numpy as np\nimport numpy.random"
).replace(
    '        w = params["w"] + np.float32(0.5)',
    """        hilbert = 1 / (np.arange(64)[:, None] + np.arange(64) + 1.0) + np.eye(64)
        np.linalg.solve(hilbert @ hilbert, np.random.default_rng(task.round).normal(size=64))
        w = params["w"] + np.float32(0.5)""",
)
"""The tests' learner, which also does what learners do: BLAS, LAPACK, random numbers."""

ROGUE = federations.LEARNER.replace(
    '        w = params["w"] + np.float32(0.5)',
    """        if self.site.member == "anna":
            os.waitpid(os.fork() or os._exit(0), 0)
            open("/etc/passwd").close()
            os.environ.get("HOST_SAYS")
        else:
            os.spawnl(os.P_WAIT, "/bin/true", "true")
            open("../left-behind", "w").close()
            import cryptography.x509.ocsp, wave
        w = params["w"] + np.float32(0.5)""",
)
"""The same, but its members do what nobody may, each something else."""


@dataclass(frozen=True, kw_only=True)
class Observed:
    """A run that has ended."""

    image: Image
    folder: Path
    codes: Mapping[str, int]
    seen: Mapping[str, Seen]
    events: tuple[dict[str, Any], ...]  # the aggregator's

    def declared(self, name: str) -> Declared:
        """What a party's lists are."""
        return Declared(image=self.image, state=self.folder / f"state-{name}")


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Tools:
    return inside.tools(tmp_path_factory.mktemp("tools"))


@pytest.fixture(scope="module")
def honest(tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    folder = tmp_path_factory.mktemp("honest")
    proving = ("aggregator", "collaborators")
    size = f"{{count: {COUNT}}}"  # so large that updates are spooled to files, in many chunks
    with observed(
        tools, folder, members=MEMBERS, proving=proving, learner=WORKING, settings=size
    ) as run:
        yield run


@pytest.fixture(scope="module")
def rogue(tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    folder = tmp_path_factory.mktemp("rogue")
    with observed(tools, folder, members=MEMBERS, learner=ROGUE, rounds=1) as run:
        yield run


@contextmanager
def observed(tools: Tools, folder: Path, **options: Any) -> Iterator[Observed]:
    """A federation, each of whose parties has an image's tree and a folder of its own."""
    watch = Watch(tools=tools, folder=folder / "notes")
    attests = ["--allow-simulated"] if "proving" in options else []
    with ExitStack() as stack:
        made = stack.enter_context(
            federations.federation(folder / "made", **{"rounds": ROUNDS, **options})
        )
        workspace = Workspace(made.folder)
        image = Image.make(folder / "image", workspace, archive.contracted(workspace))

        def start(name: str, *role: str) -> "subprocess.Popen[str]":
            state = folder / f"state-{name}"
            shutil.copytree(made.folder, state, ignore=shutil.ignore_patterns("ca", "src"))
            command = watch.command(name, image.command(state, *role, "--inside", *attests))
            log = stack.enter_context((folder / f"{name}.stderr").open("w"))
            process = subprocess.Popen(
                [*command, "--json"],
                cwd=image.workspace,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
            stack.callback(process.communicate)
            stack.callback(process.kill)
            return process

        def parties(address: str) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
            for name in made.members:
                yield name, start(name, "collaborator", "start", "-n", name, "--address", address)

        aggregator = start("aggregator", "aggregator", "start", "--listen", "localhost:0")
        started, events = {"aggregator": aggregator}, []
        for line in aggregator.stdout or ():
            events.append(json.loads(line))
            if events[-1].get("event") == "listening":
                started |= dict(parties(events[-1]["address"]))
        codes = {}
        for name, process in started.items():
            process.communicate(timeout=WAIT_S)
            codes[name] = process.returncode
        yield Observed(
            image=image,
            folder=folder,
            codes=codes,
            seen={name: watch.seen(name) for name in started},
            events=tuple(events),
        )


def test_the_run_comes_to_its_end_without_the_calls_that_gramine_lacks(honest: Observed) -> None:
    said = [path.read_text() for path in honest.folder.glob("*.stderr")]
    assert honest.codes == dict.fromkeys(ROLES, 0), (said, honest.events[-3:])
    (path,) = (honest.folder / "state-aggregator/save").glob("final.safetensors")
    total, w = sum(MEMBERS.values()), 0.0
    for _ in range(ROUNDS):
        w = w + sum(t * 0.5 * (t - w) for t in MEMBERS.values()) / total
    np.testing.assert_allclose(Stored(path)["w"], np.full(COUNT, w), rtol=1e-6)


@pytest.mark.parametrize("name", ROLES)
def test_a_party_is_one_process(honest: Observed, name: str) -> None:
    seen = honest.seen[name]
    # The simulated TEE's quoting service is the one exception, by its name: no enclave has it.
    (other,) = seen.others()
    assert inside.quoting(honest.image, other), other
    assert seen.started() == []


@pytest.mark.parametrize("name", ROLES)
def test_there_are_no_more_threads_than_an_enclave_is_made_for(honest: Observed, name: str) -> None:
    # sgx.max_threads is fixed: those that compute, and these; four of them are Gramine's own.
    assert 4 < honest.seen[name].threads() <= inside_lists.THREADS


@pytest.mark.parametrize("name", ROLES)
def test_every_file_that_is_read_is_declared(honest: Observed, name: str) -> None:
    assert honest.declared(name).unlisted(honest.seen[name]) == set()


@pytest.mark.parametrize("name", ROLES)
def test_nothing_is_written_but_in_its_own_folder_and_tmp(honest: Observed, name: str) -> None:
    assert honest.declared(name).outside(honest.seen[name]) == set()


@pytest.mark.parametrize("name", ROLES)
def test_every_environment_variable_that_is_read_is_declared(honest: Observed, name: str) -> None:
    seen = honest.seen[name]
    assert honest.declared(name).strange(seen) == set()
    assert {"GRPC_SSL_CIPHER_SUITES", "OPENSSL_CONF"} < seen.names, "nothing was seen"


@pytest.mark.parametrize("name", ROLES)
def test_no_other_process_is_spoken_to(honest: Observed, name: str) -> None:
    sockets = {c["path"] for c in honest.seen[name].own() if c["call"] in ("connect", "bind")}
    quoting = {path for path in sockets if path.endswith("/quoting")}
    assert sockets - inside_lists.SOCKETS.keys() == quoting
    assert len(quoting) == 1


@pytest.mark.parametrize("name", ROLES)
def test_nothing_is_imported_once_the_network_is_there(honest: Observed, name: str) -> None:
    # What is imported later the host can hide: a trusted file cannot be changed, but not found.
    seen = honest.seen[name]
    assert {"fedclave.trust.gate", "cryptography.x509", "dcap_qvl", "cbor2"} < seen.early
    assert {one for one in seen.late - seen.early if not one.startswith(PRIVATE)} == set()


@pytest.mark.parametrize("name", ROLES)
def test_what_a_function_imports_is_loaded_before_the_network(honest: Observed, name: str) -> None:
    # Also on ways that this run did not take: an alarm, a refusal.
    early = honest.seen[name].early
    runs = {f"fedclave.cli.{one}" for one in RUN}
    assert runs < early
    commands = {one for one in early if one.startswith("fedclave.cli")} - runs
    checked = {one for one in early if one.startswith("fedclave.")} - commands
    late = {
        (module, imported)
        for module in checked
        for imported in inside.imported_in_functions(module) - early
    }
    assert late == set()


@pytest.mark.parametrize(("told", "code"), [("True", 0), ("False", 4)], ids=["inside", "outside"])
def test_a_secret_without_memfd_is_opened_inside_only(
    tools: Tools, tmp_path: Path, told: str, code: int
) -> None:
    program = f"""if True:
        from fedclave.cli.releasing import in_memory
        from fedclave.errors import Unavailable
        try:
            with in_memory("anna.npz", inside={told}) as (file, path):
                file.write(b"secret")
                file.flush()
                assert path.read_bytes() == b"secret"
        except Unavailable:
            raise SystemExit(4)
    """
    traced = [tools.trace, tmp_path / "calls", sys.executable, "-c", program]
    assert subprocess.run(traced, check=False).returncode == code


def test_a_run_without_attestation_is_one_process_each(rogue: Observed) -> None:
    assert rogue.codes == dict.fromkeys(ROLES, 0)
    assert rogue.seen["aggregator"].others() == []


def test_a_fork_is_found(rogue: Observed) -> None:
    others = rogue.seen["anna"].others()
    assert {tuple(one) for one in others} == {()}, "a copy of the process, and no program"


def test_a_program_that_is_started_is_found_and_named(rogue: Observed) -> None:
    others = rogue.seen["bernd"].others()
    assert ["true"] in others
    assert not any(inside.quoting(rogue.image, one) for one in others)


def test_a_file_that_is_not_declared_is_found_and_named(rogue: Observed) -> None:
    assert rogue.declared("anna").unlisted(rogue.seen["anna"]) == {"/etc/passwd"}
    assert rogue.declared("bernd").unlisted(rogue.seen["bernd"]) == {left_behind(rogue)}


def test_a_file_that_is_written_elsewhere_is_found_and_named(rogue: Observed) -> None:
    assert rogue.declared("bernd").outside(rogue.seen["bernd"]) == {left_behind(rogue)}
    assert rogue.declared("anna").outside(rogue.seen["anna"]) == set()


def left_behind(rogue: Observed) -> str:
    return str(rogue.image.folder / "left-behind")


def test_a_variable_that_is_not_declared_is_found_and_named(rogue: Observed) -> None:
    assert rogue.declared("anna").strange(rogue.seen["anna"]) == {"HOST_SAYS"}
    assert rogue.declared("bernd").strange(rogue.seen["bernd"]) == set()


def test_a_late_import_is_found_and_named(rogue: Observed) -> None:
    late = {name: rogue.seen[name].late - rogue.seen[name].early for name in MEMBERS}
    assert {"cryptography.x509.ocsp", "wave"} <= late["bernd"]
    assert "wave" not in late["anna"]
