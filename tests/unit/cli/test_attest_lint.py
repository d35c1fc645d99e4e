# SPDX-License-Identifier: Apache-2.0
"""``fx attest lint``: what is printed, and the exit code."""

import json
from pathlib import Path

import pytest

from fedclave.cli import main

HASH = "a" * 64
CLOSED = f"""
libos.entrypoint = "/app/node"
loader.entrypoint = {{uri = "file:/gramine/libsysdb.so", sha256 = "{HASH}"}}
loader.argv = ["node"]
loader.env.LD_LIBRARY_PATH = "/app"
fs.root.type = "tmpfs"
fs.mounts = [{{path = "/app", uri = "file:/srv/app"}}]
sys.disallow_subprocesses = true
sgx.remote_attestation = "dcap"
sgx.isvsvn = 1
sgx.trusted_files = [{{uri = "file:/srv/app/node", sha256 = "{HASH}"}}]
"""
Capture = pytest.CaptureFixture[str]


def lint(path: Path, *options: str) -> int:
    return main.run(["attest", "lint", str(path), *options])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "node.manifest.sgx"
    path.write_text(CLOSED)
    return path


def add(file: Path, text: str) -> None:
    file.write_text(f"{file.read_text()}{text}\n")


def test_of_a_closed_manifest_nothing_is_refused(file: Path, capsys: Capture) -> None:
    assert lint(file) == 0
    assert capsys.readouterr().out == (
        "Nothing is refused, 0 warnings. Whether the files that it lists are good ones, a manifest"
        " does not say.\n"
    )


def test_a_refusal_names_rule_key_host_and_remedy_and_ends_with_3(
    file: Path, capsys: Capture
) -> None:
    add(file, "sgx.debug = true")
    assert lint(file) == 3
    assert capsys.readouterr().out.splitlines() == [
        "Refused",
        "  debug",
        "    sgx.debug = true",
        "      The host reads and writes all of the enclave's memory with a debugger (EDBGRD,"
        " EDBGWR).",
        "      Instead: Write sgx.debug = false.",
        "",
        "REFUSED: 1 finding, 0 warnings.",
    ]


def test_refusals_come_first_and_one_rule_tells_its_places_together(
    file: Path, capsys: Capture
) -> None:
    add(file, 'sys.enable_sigterm_injection = true\nsgx.allowed_files = ["file:/x", "file:/y"]')
    assert lint(file) == 3
    lines = capsys.readouterr().out.splitlines()
    assert [line.strip() for line in lines if "host" not in line and "Instead" not in line] == [
        *("Refused", "allowed-file", 'sgx.allowed_files[0] = "file:/x"'),
        *('sgx.allowed_files[1] = "file:/y"', ""),
        *("Warned", "sigterm", "sys.enable_sigterm_injection = true", ""),
        "REFUSED: 2 findings, 1 warning.",
    ]


def test_warnings_alone_end_with_0(file: Path, capsys: Capture) -> None:
    add(file, "sys.enable_sigterm_injection = true")
    assert lint(file) == 0
    assert "Nothing is refused, 1 warning." in capsys.readouterr().out.splitlines()[-1]


def test_as_json_it_is_one_object_with_the_same(file: Path, capsys: Capture) -> None:
    add(file, "sgx.debug = true\nsys.enable_sigterm_injection = true")
    assert lint(file, "--json") == 3
    found = json.loads(capsys.readouterr().out)
    assert (found["manifest"], found["final"], found["verdict"]) == (str(file), True, "refused")
    assert found["refused"] == [
        {
            "rule": "debug",
            "key": "sgx.debug",
            "value": "true",
            "detail": "",
            "host": "Reads and writes all of the enclave's memory with a debugger (EDBGRD,"
            " EDBGWR).",
            "remedy": "Write sgx.debug = false",
        }
    ]
    assert [one["rule"] for one in found["warned"]] == ["sigterm"]


def test_an_output_that_is_accepted_is_not_refused(file: Path, capsys: Capture) -> None:
    add(file, 'sgx.allowed_files = ["file:/srv/models/", "file:/srv/logs/run.jsonl"]')
    assert lint(file) == 3
    accepted = ("--allow-output", "file:/srv/models", "--allow-output", "file:/srv/logs")
    assert lint(file, *accepted) == 0
    assert lint(file, *accepted[:2]) == 3


def test_an_output_where_code_is_cannot_be_accepted(file: Path, capsys: Capture) -> None:
    assert lint(file, "--allow-output", "file:/usr/lib") == 2
    assert "cannot be accepted as an output" in capsys.readouterr().err


def test_a_signed_manifest_is_known_by_its_name_too(file: Path, capsys: Capture) -> None:
    file.write_text(
        file.read_text().replace(f', sha256 = "{HASH}"}}\nloader.argv', "}\nloader.argv")
    )
    assert lint(file) == 3
    assert "loader.entrypoint.sha256 is not set" in capsys.readouterr().out


def test_of_one_that_is_not_signed_that_is_said(file: Path, capsys: Capture) -> None:
    draft = file.with_name("node.manifest")
    draft.write_text(CLOSED.replace(f', sha256 = "{HASH}"', ""))
    assert lint(draft) == 0
    assert capsys.readouterr().out.startswith("It is not signed yet.")


@pytest.mark.parametrize("options", [(), ("--json",)], ids=["text", "json"])
def test_hostile_text_does_not_reach_the_terminal(
    file: Path, capsys: Capture, options: tuple[str, ...]
) -> None:
    add(file, '"\\u001b[2J" = "\\u009b0;\\u202e"\nsgx."x\\r\\n" = 1\nloader.env."\\u0007".x = 2')
    assert lint(file, *options) == 3
    said = capsys.readouterr()
    assert all(line.isprintable() for line in (said.out + said.err).splitlines())


def test_what_is_no_manifest_ends_with_2_and_a_reason(file: Path, capsys: Capture) -> None:
    file.write_bytes(b"\xff\xfe")
    assert lint(file, "--json") == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert (error["kind"], "is not UTF-8" in error["message"]) == ("user", True)
