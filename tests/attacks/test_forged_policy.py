# SPDX-License-Identifier: Apache-2.0
"""A policy that somebody changed in a data owner's folder: every command that shows it says so."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support import trust
from tests.support.federation import Federation, federation

from fedclave.cli import main
from fedclave.workspace.layout import Workspace

Fx = Callable[..., tuple[int, Any]]


@pytest.fixture
def fed(tmp_path: Path) -> Iterator[Federation]:
    with federation(tmp_path / "ws", proving=("aggregator",), members={"anna": 1.0}) as made:
        yield made


@pytest.fixture
def fx(fed: Federation, capsys: pytest.CaptureFixture[str]) -> Fx:
    def run(*command: str) -> tuple[int, Any]:
        capsys.readouterr()
        code = main.run([*command, "-C", str(fed.folder), "--json"])
        return code, json.loads(capsys.readouterr().out)

    return run


def forge(fed: Federation) -> None:
    text = Workspace(fed.folder).attestation
    allowed = trust.measured(Workspace(fed.folder)).hex()
    assert allowed in text.read_text()
    text.write_text(text.read_text().replace(allowed, "ab" * 32))


ACCEPT = ("plan", "accept", "-n", "anna", "--yes")


def test_it_is_not_accepted(fed: Federation, fx: Fx) -> None:
    acceptance = Workspace(fed.folder).acceptance("anna")
    acceptance.unlink()
    forge(fed)
    code, said = fx(*ACCEPT)
    assert (code, said["error"]["code"]) == (3, "bad-signature")
    assert "attestation.yaml" in said["error"]["message"]
    assert not acceptance.exists()


def test_it_is_not_shown_as_what_was_signed(fed: Federation, fx: Fx) -> None:
    forge(fed)
    _, shown = fx("plan", "show", "--contract")
    standing = " ".join(shown["standing"])
    assert "NOT what the author" in standing and "NOT accepted for anna" in standing
    _, shown = fx("attest", "policy", "show")
    assert shown["signed_by"] == []
    code, said = fx("attest", "policy", "check")  # the text alone is good: it may be signed next
    assert (code, said["signed_by"]) == (0, [])


def test_it_is_said_aloud(fed: Federation, capsys: pytest.CaptureFixture[str]) -> None:
    forge(fed)
    capsys.readouterr()
    assert main.run(["attest", "policy", "show", "-C", str(fed.folder)]) == 0
    assert capsys.readouterr().out.startswith("NOT SIGNED by those whom the plan names")


def test_a_later_version_by_its_signers_is_accepted_and_named(fed: Federation, fx: Fx) -> None:
    later = {"freshness": {"session_s": 60, "reattest_s": 30}}
    digest = trust.follow(Workspace(fed.folder), fed.signer, fed.now, later)
    _, shown = fx("plan", "show", "--contract")
    standing = " ".join(shown["standing"])
    assert (
        f"but for plan/attestation.yaml: here it is policy kit-policy v2, digest {digest[:16]}"
        in (standing)
    )
    assert fx(*ACCEPT)[0] == 0
    code, said = fx("attest", "policy", "check")
    assert (code, len(said["signed_by"])) == (0, 1)


def test_the_contracts_own_file_needs_nothing_more(fed: Federation, fx: Fx) -> None:
    _, shown = fx("plan", "show", "--contract")
    assert "every file here is the one that was signed." in " ".join(shown["standing"])
    assert fx(*ACCEPT)[0] == 0
