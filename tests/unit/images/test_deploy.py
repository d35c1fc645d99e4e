# SPDX-License-Identifier: Apache-2.0
"""What starts an image: lines by a real shell, files by their parsers, option by option."""

import csv
import io
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from fedclave.cli.options import address
from fedclave.errors import UserError
from fedclave.trust import pki
from fedclave.workspace.gramine import manifest
from fedclave.workspace.images import deploy, deploy_kubernetes, deploy_run, deployment
from fedclave.workspace.images.deployment import ROLES, Deployment, Kind, Role

IMAGE = "digits:8ef88ea1c0ad"
DIGEST = "sha256:" + "ab" * 32
DOCS = Path(__file__).parents[3] / "docs/howto"
LOADERS = {Kind.SGX: "/opt/gramine/sgx", Kind.DIRECT: "/opt/gramine/direct"}
SHELL = """docker() { printf '%s\\0' "$@"; }
podman() { printf '%s\\0' "$@"; }
stat() { case "$2 $3" in
  "%g /dev/sgx_enclave") echo 110;;
  "%g /var/run/aesmd/aesm.socket") echo 120;;
  "%u:%g .") echo 1000:1001;;
  "%u:%g /srv/"*) echo 1002:1003;;
esac; }
HOME='/home/anna b'
"""
FLAGS = ("--detach", "--init", "--read-only")


def of(kind: Kind, image: str = IMAGE) -> Deployment:
    size = "8G" if kind is Kind.SGX else ""
    return Deployment(image=image, kind=kind, digest=DIGEST, enclave_size=size)


def split(line: str, folder: Path) -> list[str]:
    """The arguments that a POSIX shell makes of a line."""
    done = subprocess.run(
        ["sh", "-euc", SHELL + line], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.split("\0")[:-1]


def parsed(arguments: list[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Options of ``run`` with their values, and what follows them: the image and its arguments."""
    assert arguments[0] == "run"
    options: dict[str, list[str]] = {}
    rest = iter(arguments[1:])
    for one in rest:
        if not one.startswith("-"):
            return options, [one, *rest]
        options.setdefault(one, []).append("" if one in FLAGS else next(rest))
    raise AssertionError("no image")


def mounts(options: dict[str, list[str]]) -> list[dict[str, str]]:
    """Mounts as docker reads them: one line of CSV each."""
    rows = [next(csv.reader([one])) for one in options["--mount"]]
    return [dict(part.partition("=")[::2] for part in row) for row in rows]


EACH = [pytest.param(kind, role, id=f"{kind}-{role}") for kind in Kind for role in ROLES]


@pytest.mark.parametrize(("kind", "role"), EACH)
def test_a_line_gives_a_container_this_and_nothing_else(
    kind: Kind, role: Role, tmp_path: Path
) -> None:
    options, rest = parsed(split(deploy_run.line(of(kind), role), tmp_path))
    expected = {
        "--detach": [""],
        "--init": [""],
        "--read-only": [""],
        "--name": [f"digits-{role}"],
        "--restart": ["on-failure:10"],
        "--user": ["1000:1001"],
        "--tmpfs": ["/tmp"],
        "--cap-drop": ["ALL"],
        "--security-opt": ["no-new-privileges"],
        "--pids-limit": ["2048"],
    }
    given = [{"type": "bind", "src": str(tmp_path), "dst": "/state"}]
    if role == "aggregator":
        expected["--publish"] = ["8443:8443"]
    if kind is Kind.DIRECT:
        expected["--security-opt"].append("seccomp=/home/anna b/gramine-seccomp.json")
    if kind is Kind.SGX:
        expected |= {"--device": ["/dev/sgx_enclave"], "--group-add": ["110", "120"]}
        socket = "/var/run/aesmd"
        given.append({"type": "bind", "src": socket, "dst": socket, "readonly": ""})
    if kind in LOADERS:
        expected["--entrypoint"] = [f"{LOADERS[kind]}/loader"]
        told = [f"{LOADERS[kind]}/libpal.so", "init", f"/opt/fedclave/enclave/{role}"]
    elif role == "aggregator":
        told = ["aggregator", "start", "--listen", "0.0.0.0:8443"]
    else:
        told = ["collaborator", "start", "-n", "NAME", "--address", "HOST:8443"]
    assert mounts(options) == given
    options.pop("--mount")
    assert (options, rest) == (expected, [IMAGE, *told])


def test_podman_without_root_keeps_the_users_number_and_groups(tmp_path: Path) -> None:
    docker, _ = parsed(split(deploy_run.line(of(Kind.SGX), "aggregator"), tmp_path))
    podman, _ = parsed(split(deploy_run.line(of(Kind.SGX), "aggregator", "podman"), tmp_path))
    assert podman.pop("--userns") == ["keep-id"]
    assert podman.pop("--group-add") == ["keep-groups"]
    docker.pop("--group-add")
    assert podman == docker


HOSTILE = {
    "spaces": "a party's own",
    "quotes": 'it\'s "hers"',
    "a-comma": "a,dst=/etc,b",
    "a-colon": "a:b",
    "a-command": "$(touch owned)`touch owned`;touch owned&",
    "a-line": "a\nb",
    "a-backslash": "a\\ b\\",
    "dashes": "--privileged",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_what_a_shell_would_split_or_run_stays_one_word(text: str, tmp_path: Path) -> None:
    named = deploy_run.line(
        of(Kind.CONTAINER), "collaborator", name=text, host=text, folder=f"/srv/{text}"
    )
    options, rest = parsed(split(named, tmp_path))
    assert rest == [IMAGE, "collaborator", "start", "-n", text, "--address", f"{text}:8443"]
    (row,) = csv.reader(io.StringIO(options["--mount"][0], newline=""))
    assert row == ["type=bind", f"src=/srv/{text}", "dst=/state"]
    assert options["--user"] == ["1002:1003"]
    assert not list(tmp_path.iterdir())
    here = tmp_path / re.sub("[,/]", ";", text)  # $PWD cannot be quoted for CSV
    here.mkdir()
    line = deploy_run.line(of(Kind.CONTAINER), "aggregator")
    assert f"src={here}" in split(line, here)[split(line, here).index("--mount") + 1]
    odd = deploy_run.line(of(Kind.CONTAINER, f"x{text}"), "aggregator", folder="/srv")
    assert f"x{text}" in split(odd, tmp_path)


@pytest.mark.parametrize(("kind", "role"), EACH)
def test_a_compose_file_gives_a_service_the_same(kind: Kind, role: Role, tmp_path: Path) -> None:
    options, rest = parsed(split(deploy_run.line(of(kind), role), tmp_path))
    told = yaml.safe_load(deploy.files(of(kind))[f"{role}.compose.yaml"])
    assert (told["name"], list(told["services"])) == (f"digits-{role}", [role])
    service = told["services"][role]
    bind = {"type": "bind", "bind": {"create_host_path": False}}
    state = {**bind, "source": "${FEDCLAVE_STATE:?the folder of the party}", "target": "/state"}
    expected: dict[str, Any] = {
        "image": rest[0],
        "command": [filled(one) for one in rest[1:]],
        "init": True,
        "read_only": True,
        "restart": options["--restart"][0],
        "user": "${FEDCLAVE_USER:?whose folder it is, UID:GID}",
        "tmpfs": options["--tmpfs"],
        "cap_drop": options["--cap-drop"],
        "security_opt": ["no-new-privileges:true"],
        "pids_limit": int(options["--pids-limit"][0]),
        "mem_reservation": "1g",
        "volumes": [state],
    }
    if role == "aggregator":
        expected["ports"] = options["--publish"]
    if kind in LOADERS:
        expected["entrypoint"] = options["--entrypoint"]
    if kind is Kind.DIRECT:
        profile = "${FEDCLAVE_SECCOMP:?the file of Gramine's profile}"
        expected["security_opt"].append(f"seccomp:{profile}")
    if kind is Kind.SGX:
        expected["devices"] = ["/dev/sgx_enclave:/dev/sgx_enclave"]
        expected["group_add"] = [
            "${FEDCLAVE_SGX_GROUP:?the group of /dev/sgx_enclave}",
            "${FEDCLAVE_AESM_GROUP:?the group of AESM's socket}",
        ]
        socket = {"source": "/var/run/aesmd", "target": "/var/run/aesmd"}
        expected["volumes"].append({**bind, **socket, "read_only": True})
    assert service == expected


def filled(argument: str) -> str:
    """An argument of a line as a compose file has it."""
    known = {
        "NAME": "${FEDCLAVE_NAME:?the name of the collaborator}",
        "HOST:8443": "${FEDCLAVE_HOST:?the host of the aggregator}:8443",
    }
    return known.get(argument, argument)


@pytest.mark.parametrize(("kind", "role"), EACH)
def test_a_compose_file_says_how_each_of_its_variables_is_found(kind: Kind, role: Role) -> None:
    text = deploy.files(of(kind))[f"{role}.compose.yaml"]
    used = set(re.findall(r"\$\{(\w+):\?", text))
    told = set(re.findall(r"^#   export (\w+)=", text, re.MULTILINE))
    assert used == told
    assert text.count("${") == len(used), "a variable that may be left out"


def objects(kind: Kind, role: Role, what: str = "") -> dict[str, dict[str, Any]]:
    text = deploy.files(of(kind))[f"{role}{what}.kubernetes.yaml"]
    found = {one["kind"]: one for one in yaml.safe_load_all(text)}
    assert len(found) == len(list(yaml.safe_load_all(text)))
    return found


@pytest.mark.parametrize(("kind", "role"), EACH)
def test_a_pod_has_no_more_than_it_needs(kind: Kind, role: Role) -> None:
    spec = objects(kind, role)["Job"]["spec"]["template"]["spec"]
    filling = objects(kind, role, "-folder")["Pod"]["spec"]
    for one in (spec, filling):
        assert not {"hostNetwork", "hostPID", "hostIPC", "serviceAccountName"} & set(one)
        assert one["automountServiceAccountToken"] is False
        context = one["securityContext"]
        assert context["runAsNonRoot"] is True and context["runAsUser"] == 65532
        assert context["fsGroupChangePolicy"] == "OnRootMismatch"  # "Always" opens keys to a group
        (container,) = one["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["image"] == f"<REGISTRY>/{IMAGE}"
        claim, scratch, *more = one["volumes"]
        name = f"fedclave-digits-{role}"
        assert claim == {"name": "state", "persistentVolumeClaim": {"claimName": name}}
        assert scratch["emptyDir"]["medium"] == "Memory"
        expected = {"/state": "state", "/tmp": "tmp"}
        if kind is Kind.SGX and one is spec:
            aesm = {"path": "/var/run/aesmd", "type": "Directory"}
            assert more == [{"name": "aesm", "hostPath": aesm}]
            expected["/var/run/aesmd"] = "aesm"
        else:
            assert not more
        assert {one["mountPath"]: one["name"] for one in container["volumeMounts"]} == expected


@pytest.mark.parametrize(("kind", "role"), EACH)
def test_a_pod_runs_what_the_line_runs(kind: Kind, role: Role, tmp_path: Path) -> None:
    options, rest = parsed(split(deploy_run.line(of(kind), role), tmp_path))
    spec = objects(kind, role)["Job"]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    marks = {"NAME": "<NAME>", "HOST:8443": "<HOST>:8443"}
    assert container.get("command") == options.get("--entrypoint")
    assert container["args"] == [marks.get(one, one) for one in rest[1:]]
    resources = container["resources"].get("limits")
    asked = {"sgx.intel.com/enclave": "1", "sgx.intel.com/epc": "8Gi"}
    assert resources == (asked if kind is Kind.SGX else None)
    profile = {"type": "RuntimeDefault"}
    if kind is Kind.DIRECT:
        profile = {"type": "Localhost", "localhostProfile": "gramine-seccomp.json"}
    assert spec["securityContext"]["seccompProfile"] == profile


@pytest.mark.parametrize("role", ROLES)
def test_what_another_start_cannot_mend_is_not_started_again(role: Role) -> None:
    job = objects(Kind.SGX, role)["Job"]["spec"]
    first, second = job["podFailurePolicy"]["rules"]
    assert first["action"] == "FailJob" and second["action"] == "Ignore"
    mine = {"containerName": role, "operator": "In", "values": [2, 3]}  # docs: exit codes
    assert first["onExitCodes"] == mine
    assert job["template"]["spec"]["restartPolicy"] == "Never"  # as such rules demand


@pytest.mark.parametrize("kind", Kind)
def test_only_an_aggregator_can_be_reached(kind: Kind) -> None:
    found = objects(kind, "aggregator")
    labels = found["Job"]["spec"]["template"]["metadata"]["labels"]
    assert found["Service"]["spec"]["selector"] == labels
    assert found["NetworkPolicy"]["spec"]["podSelector"] == {"matchLabels": labels}
    ports = [{"ports": [{"protocol": "TCP", "port": 8443}]}]
    assert found["NetworkPolicy"]["spec"]["ingress"] == ports
    found = objects(kind, "collaborator")
    assert sorted(found) == ["Job", "NetworkPolicy"]
    assert found["NetworkPolicy"]["spec"]["ingress"] == []
    (container,) = found["Job"]["spec"]["template"]["spec"]["containers"]
    assert not {"ports", "readinessProbe"} & set(container)


@pytest.mark.parametrize("role", ROLES)
def test_a_pod_that_only_holds_the_folder_gets_no_traffic(role: Role) -> None:
    spec = objects(Kind.CONTAINER, role)["NetworkPolicy"]["spec"]
    chosen = spec["podSelector"]["matchLabels"]
    labels = objects(Kind.CONTAINER, role, "-folder")["Pod"]["metadata"]["labels"]
    assert not chosen.items() <= labels.items()


def test_a_sealed_folder_stays_with_its_machine() -> None:
    for role in ROLES:
        for found in (objects(Kind.SGX, role)["Job"]["spec"]["template"],
                      objects(Kind.SGX, role, "-folder")["Pod"]):  # fmt: skip
            assert found["spec"]["nodeSelector"] == {"kubernetes.io/hostname": "<NODE>"}


def test_what_was_not_filled_in_is_taken_by_nobody() -> None:
    reference = r"[a-z0-9]+([.-][a-z0-9]+)*(:[0-9]+)?/.*"  # a registry and a name (OCI)
    assert not re.fullmatch(reference, deploy_kubernetes.IMAGE + "/digits")
    with pytest.raises(UserError):
        pki.check_party("collaborator", deploy_kubernetes.NAME)
    assert not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?", deploy_kubernetes.NODE)
    for group in (deploy_kubernetes.SGX_GROUP, deploy_kubernetes.AESM_GROUP):
        assert not group.isdigit()
    assert address("HOST:8443") == "HOST:8443"  # of a host there is only its absence


@pytest.mark.parametrize(("kind", "role"), EACH)
def test_every_mark_is_explained_and_no_other_is(kind: Kind, role: Role) -> None:
    for name, text in deploy.files(of(kind)).items():
        if name.startswith(role) and "kubernetes" in name:
            explained = set(re.findall(r"^#   (<\w+>):", text, re.MULTILINE))
            body = "".join(line for line in text.splitlines(True) if not line.startswith("#"))
            assert explained == set(re.findall(r"<\w+>", body))


@pytest.mark.parametrize("size", ["", "8", "8G", "512M", "8g", "8GiB", "08G", "-1G", "8 G", "G"])
def test_an_enclaves_size_is_written_as_kubernetes_reads_it_or_refused(size: str) -> None:
    good = {"8": "8", "8G": "8Gi", "512M": "512Mi"}
    if size in good:
        made = Deployment(image=IMAGE, kind=Kind.SGX, enclave_size=size)
        assert deployment.quantity(made.enclave_size) == good[size]
    else:
        with pytest.raises(UserError, match="no size of an enclave"):
            Deployment(image=IMAGE, kind=Kind.SGX, enclave_size=size)


def test_long_and_odd_names_stay_names_that_kubernetes_takes() -> None:
    for image in ("2024-heart:1", "a" * 80 + ":1", "a" * 29 + "-b:1", "reg.example:5/x/y__z:1"):
        for role in ROLES:
            name = deploy_kubernetes.name(of(Kind.CONTAINER, image), role)
            assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name) and len(name) <= 63 - 10


def test_that_gramine_direct_protects_nobody_is_said_everywhere() -> None:
    made = of(Kind.DIRECT)
    assert any("NOT PROTECTED" in line for line in deploy.lines(made))
    assert all("# NOT PROTECTED" in text for text in deploy.files(made).values())
    for kind in (Kind.SGX, Kind.CONTAINER):
        assert "NOT PROTECTED" not in "".join([*deploy.lines(of(kind)), *deploy.files(of(kind))])


@pytest.mark.parametrize("kind", Kind)
def test_files_are_written_over_and_are_the_same_each_time(kind: Kind, tmp_path: Path) -> None:
    first = {path: path.read_bytes() for path in deploy.write(tmp_path / "one", of(kind))}
    deploy.write(tmp_path / "one", of(kind, "other:2"))
    again = deploy.write(tmp_path / "one", of(kind))
    assert {path: path.read_bytes() for path in again} == first
    assert sorted(tmp_path.rglob("*.yaml")) == sorted(first)
    assert all(path.parent.name == kind for path in first)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "deploy").write_text("")
    with pytest.raises(UserError, match="deploy"):
        deploy.write(tmp_path / "deploy", of(Kind.CONTAINER))


@pytest.mark.parametrize(
    ("page", "line"),
    [
        (
            "containers.md",
            deploy_run.line(
                of(Kind.CONTAINER), "collaborator", name="alice", host="aggregator.example.org"
            ),
        ),
        ("enclave-host.md", deploy_run.line(of(Kind.SGX), "aggregator")),
    ],
    ids=["containers", "enclave-host"],
)
def test_the_line_that_a_page_shows_is_the_one_that_is_printed(page: str, line: str) -> None:
    def words(text: str) -> str:
        return " ".join(text.replace("\\\n", " ").split())

    assert words(line) in words((DOCS / page).read_text(encoding="utf-8"))


@pytest.mark.parametrize("role", ROLES)
def test_the_variables_and_marks_that_a_page_names_exist(role: Role) -> None:
    made = {name for kind in Kind for name in deploy.files(of(kind))}
    texts = "".join(text for kind in Kind for text in deploy.files(of(kind)).values())
    for page in ("containers.md", "enclave-host.md"):
        shown = (DOCS / page).read_text(encoding="utf-8")
        for name in re.findall(r"FEDCLAVE_\w+", shown) + re.findall(r"`(<[A-Z_]+>)`", shown):
            assert name in texts
        for name in re.findall(r"(?:aggregator|collaborator|ROLE)[\w-]*\.\w+\.yaml", shown):
            assert name.replace("ROLE", role) in made
    assert deployment.SECCOMP_URL in (DOCS / "enclave-host.md").read_text(encoding="utf-8")


def test_a_container_may_have_the_threads_of_the_largest_enclave() -> None:
    assert deployment.PIDS > 1024 + manifest.HELPERS
