# SPDX-License-Identifier: Apache-2.0
"""How ``scripts/integration-test`` starts containers: what a shell makes of its lines."""

import os
import subprocess
from pathlib import Path

import pytest
from tests.integration import ways
from tests.integration.programs import Container

from fedclave.workspace.images.deployment import Deployment, Kind
from fedclave.workspace.images.engines import ENGINES

RECORD = '#!/bin/sh\nfor word; do printf "%s\\n" "$word"; done >> "$0.said"\n'
ENDED = """#!/bin/sh
case $1 in
  run) echo 0123abcd ;;
  inspect) echo exited 3 ;;
  logs) echo to stdout; echo to stderr >&2 ;;
  rm) echo "$@" >> "$0.said" ;;
esac
"""


def tool(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A docker of our own on PATH; what it was told is in the file beside it."""
    path = folder / "docker"
    path.write_text(text)
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder / "docker.said"


@pytest.mark.parametrize(
    ("kind", "ending"),
    [
        (Kind.CONTAINER, ["digits:8e", "enclave", "aggregator"]),
        (
            Kind.DIRECT,
            [
                *("--entrypoint", "/opt/gramine/direct/loader", "digits:8e"),
                *("/opt/gramine/direct/libpal.so", "init", "/opt/fedclave/enclave/aggregator"),
            ],
        ),
        (
            Kind.SGX,
            [
                *("--entrypoint", "/opt/gramine/sgx/loader", "digits:8e"),
                *("/opt/gramine/sgx/libpal.so", "init", "/opt/fedclave/enclave/aggregator"),
            ],
        ),
    ],
)
def test_a_role_starts_as_printed_but_by_its_own_name_on_this_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind, ending: list[str]
) -> None:
    said = tool(tmp_path, RECORD, monkeypatch)
    folder = tmp_path / "host, of 'nobody'"
    folder.mkdir()
    made = Deployment(image="digits:8e", kind=kind, enclave_size="4G")
    line = ways.line_of(
        "docker", made, "aggregator", "own-1", folder, ["enclave", "aggregator"], None
    )
    subprocess.run(["sh", "-c", line], check=True, timeout=20)
    words = said.read_text().splitlines()
    assert words[:2] == ["run", "--detach"]
    assert words[words.index("--name") + 1 :][:3] == ["own-1", "--network", "host"]
    assert f'type=bind,"src={folder}",dst=/state' in words
    assert "--restart" not in words
    assert words[-len(ending) :] == ending
    assert ("--device" in words) == (kind is Kind.SGX)


def test_the_root_is_mounted_where_the_image_brings_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = tool(tmp_path, RECORD, monkeypatch)
    made = Deployment(image="digits:8e", kind=Kind.CONTAINER)
    root = tmp_path / "root.pem"
    line = ways.line_of("docker", made, "alice", "own-2", tmp_path, ["enclave", "x"], root)
    subprocess.run(["sh", "-c", line], check=True, timeout=20)
    assert f"type=bind,src={root},dst=/workspace/cert/root.pem,readonly" in said.read_text()


def test_a_container_tells_how_it_ended_and_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = tool(tmp_path, ENDED, monkeypatch)
    container = Container("docker", "own-3", "docker run --detach digits:8e")
    assert container.ended() == 3
    assert container.said() == "to stdout\nto stderr\n"
    container.stop()
    assert said.read_text() == "rm --force own-3\n"


def test_one_that_does_not_start_is_removed_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = tool(tmp_path, ENDED.replace("echo 0123abcd", "exit 125"), monkeypatch)
    with pytest.raises(SystemExit):
        Container("docker", "own-4", "docker run --detach digits:8e")
    assert said.read_text() == "rm --force own-4\n"


def test_what_a_way_lacks_is_named(tmp_path: Path) -> None:
    by_name = {engine.name: engine for engine in ENGINES}
    lacking = {way.kind: way.missing for way in ways.ways(by_name["buildah"], tmp_path)}
    assert lacking[Kind.CONTAINER] == ()
    for kind in (Kind.SGX, Kind.DIRECT):
        assert "docker or podman" in lacking[kind]
        assert any(str(tmp_path) in one for one in lacking[kind])
