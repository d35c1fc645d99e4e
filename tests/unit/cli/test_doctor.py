# SPDX-License-Identifier: Apache-2.0
"""``fx doctor`` reports on the host that it runs on, whatever that lacks."""

import json
import platform
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.fake_hosts import FakeHost, sgx_host, vm

from fedclave.cli import doctor, main
from fedclave.workspace import readiness

WAYS = ["sgx", "sgx-image", "quote", "gramine-direct", "container", "process"]


@pytest.fixture
def root() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="fxh-"))
    yield folder / "h"
    shutil.rmtree(folder)


def shown(host: FakeHost) -> str:
    found = host.survey()
    return "\n".join(doctor.report(found, readiness.judge(found)))


def test_this_host_is_told_as_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["doctor", "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    value = json.loads(line)
    assert list(value["ways"]) == WAYS
    assert value["ways"]["process"] == {"verdict": "ready", "missing": []}
    for way in value["ways"].values():
        assert way["verdict"] == ("missing" if way["missing"] else "ready")
        assert all(one["what"] and one["fix"] for one in way["missing"])
    assert value["host"]["kernel"] == platform.release()
    assert value["host"]["python"] == platform.python_version()
    assert value["host"]["pccs"] is None
    with Path("/proc/meminfo").open() as file:
        assert value["host"]["room"]["memory"] == int(file.readline().split()[1]) * 1024


def test_this_host_is_told_in_plain_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["doctor"]) == 0
    text = capsys.readouterr().out
    assert text.isascii() and "\x1b" not in text
    assert platform.release() in text
    for way in WAYS:
        assert f"\n  {way} " in text


def test_a_full_host_has_nothing_to_mend(root: Path) -> None:
    host = sgx_host(root)
    text = shown(host)
    host.close()
    assert "What is missing" not in text
    assert "  epc                 126.0 GiB\n" in text
    assert "  /dev/sgx_enclave    usable (group sgx, mode " in text
    assert "https://pccs.example.org:8081/sgx/certification/v4/ (not asked, its certificate" in text


def test_what_several_ways_lack_is_said_once(root: Path) -> None:
    text = shown(vm(root))
    assert text.count("only Intel makes it") == 1
    assert "  sgx, sgx-image, quote: SGX: only Intel makes it" in text
