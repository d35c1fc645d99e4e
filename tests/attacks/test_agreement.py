# SPDX-License-Identifier: Apache-2.0
"""A party starts only with what its author signed and its own owner accepted, byte for byte.

Each attack changes one thing at a site that has accepted; the site then refuses to start, and says
which file it is.
"""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support import contracts as kit
from tests.support.contracts import AUTHOR, MALLORY, OWNER, accepted, imported, loaded, of

from fedclave.errors import Code, Refused, UserError
from fedclave.trust import dsse, signing
from fedclave.trust.contract import ACCEPTANCE_TYPE, CONTRACT_TYPE, Acceptance, Contract, File
from fedclave.workspace import agreement
from fedclave.workspace.layout import Workspace


@pytest.fixture
def author(tmp_path: Path) -> Workspace:
    return kit.authored(tmp_path / "author")


@pytest.fixture
def site(author: Workspace, tmp_path: Path) -> Workspace:
    site = imported(author, tmp_path / "site")
    accepted(site)
    assert loaded(site) is not None
    return site


def refused(site: Workspace, party: str | None = "anna") -> Refused:
    with pytest.raises(Refused) as caught:
        loaded(site, party)
    return caught.value


SIGNED = (
    "plan/plan.yaml",
    "src/learner.py",
    "src/__init__.py",
    "requirements.txt",
    "README.md",
    "save/initial.safetensors",
)


@pytest.mark.parametrize("name", SIGNED)
@pytest.mark.parametrize("party", ["anna", None])
def test_one_byte_more_is_refused_and_the_file_is_named(
    name: str, party: str | None, site: Workspace
) -> None:
    with (site.root / name).open("ab") as file:
        file.write(b"\n")
    error = refused(site, party)
    assert error.code is Code.WRONG_CONTRACT
    assert error.message.startswith(f"{name} is not the file that was signed")


def test_another_plan_is_refused_by_its_name(site: Workspace) -> None:
    text = site.plan.read_text()
    site.plan.write_text(text.replace("\nseed: ", "\nseed: 1", 1))
    error = refused(site)
    assert error.code is Code.WRONG_PLAN
    assert "plan/plan.yaml: the contract is about plan" in error.message


@pytest.mark.parametrize("name", ["src/learner.py", "save/initial.safetensors", "README.md"])
def test_a_file_that_is_gone_is_named(name: str, site: Workspace) -> None:
    (site.root / name).unlink()
    assert refused(site).message.startswith(f"{name} is in the contract, but not here")


@pytest.mark.parametrize(
    "name",
    [
        "src/more.py",
        "src/nets/more.py",
        "src/__pycache__/more.py",
        "src/.hidden.py",
        "src/learner.py~",
        "src/old.pyc",
        "src/more.so",
        "src/secret.key",
        "src/__pycache__/deep/x.pyc",
        "plan/attestation.yaml",
    ],
)
@pytest.mark.parametrize("party", ["anna", None])
def test_a_file_too_many_is_named_wherever_code_could_come_from(
    name: str, party: str | None, site: Workspace
) -> None:
    (site.root / name).parent.mkdir(parents=True, exist_ok=True)
    (site.root / name).write_text("x = 1\n")
    error = refused(site, party)
    assert error.code is Code.WRONG_CONTRACT
    assert error.message.startswith(f"{name} is here, but not in the contract")


def link_file(site: Workspace) -> None:
    copy = site.root / "copy.py"
    shutil.copy(site.src / "learner.py", copy)
    (site.src / "learner.py").unlink()
    (site.src / "learner.py").symlink_to(copy)


def link_folder(site: Workspace) -> None:
    site.src.rename(site.root / "elsewhere")
    site.src.symlink_to("elsewhere")


def dangling(site: Workspace) -> None:
    (site.src / "more.py").symlink_to("nowhere")


@pytest.mark.parametrize("how", [link_file, link_folder, dangling])
def test_a_link_is_refused_though_the_bytes_behind_it_are_good(
    how: Callable[[Workspace], None], site: Workspace
) -> None:
    how(site)
    error = refused(site)
    assert error.code is Code.WRONG_CONTRACT
    assert error.message.startswith("src")


def test_a_folder_behind_a_link_is_not_looked_into(site: Workspace) -> None:
    (site.src / "loop").symlink_to(".")
    assert refused(site).message.startswith("src/loop is here, but not in the contract")


@pytest.mark.parametrize("name", ["src/a\x1b[2J.py", "src/a\u202e.py", "src/a\udcff.py", "src/a\n"])
def test_a_name_that_hides_on_a_screen_is_refused_and_shown_escaped(
    name: str, site: Workspace
) -> None:
    (site.root / name).write_text("")
    error = refused(site)
    assert error.code is Code.MALFORMED
    assert error.message.isprintable()


def signed_contract(site: Workspace) -> Contract:
    found = agreement.find(site)
    assert found is not None
    return found.contract


def put(site: Workspace, contract: Contract) -> None:
    """A contract that the author did sign, and the owner did accept."""
    site.contract.write_bytes(dsse.encode(dsse.sign(CONTRACT_TYPE, contract.bytes, AUTHOR)))
    word = Acceptance(contract=contract.id, federation=contract.federation, party="anna")
    site.acceptance("anna").write_bytes(dsse.encode(dsse.sign(ACCEPTANCE_TYPE, word.bytes, OWNER)))


@pytest.mark.parametrize("path", ["../outside.py", "/etc/passwd", "src/../../x", "src/learner.py"])
def test_a_signed_contract_with_a_path_outside_or_a_name_twice_is_refused(
    path: str, site: Workspace
) -> None:
    contract = signed_contract(site)
    more = (*contract.files, File(path=path, size=0, sha256="0" * 64))
    put(site, replace(contract, files=tuple(sorted(more, key=lambda file: file.path))))
    error = refused(site)
    assert error.code is Code.MALFORMED
    assert "contract" in error.message


def test_another_federations_contract_is_refused(site: Workspace) -> None:
    put(site, replace(signed_contract(site), federation="other"))
    assert refused(site).code is Code.WRONG_FEDERATION


def test_a_contract_that_somebody_else_signed_is_refused(site: Workspace) -> None:
    contract = signed_contract(site)
    site.contract.write_bytes(dsse.encode(dsse.sign(CONTRACT_TYPE, contract.bytes, MALLORY)))
    site.author.write_bytes(signing.public_pem(MALLORY.public_key()))
    for party in ("anna", None):
        error = refused(site, party)
        assert error.code is Code.BAD_SIGNATURE
        assert "plan/contract.dsse.json" in error.message


def word(site: Workspace, **changed: str) -> bytes:
    usual = {"contract": signed_contract(site).id, "federation": of(site).name, "party": "anna"}
    return Acceptance(**(usual | changed)).bytes


COUNTERSIGNATURES: dict[str, tuple[Code, Callable[[Workspace], dsse.Envelope]]] = {
    "of another owner": (
        Code.BAD_SIGNATURE,
        lambda site: dsse.sign(ACCEPTANCE_TYPE, word(site), MALLORY),
    ),
    "of the author": (
        Code.BAD_SIGNATURE,
        lambda site: dsse.sign(ACCEPTANCE_TYPE, word(site), AUTHOR),
    ),
    "for another party": (
        Code.WRONG_CONTRACT,
        lambda site: dsse.sign(ACCEPTANCE_TYPE, word(site, party="bernd"), OWNER),
    ),
    "for another contract": (
        Code.WRONG_CONTRACT,
        lambda site: dsse.sign(ACCEPTANCE_TYPE, word(site, contract="0" * 64), OWNER),
    ),
    "for another federation": (
        Code.WRONG_CONTRACT,
        lambda site: dsse.sign(ACCEPTANCE_TYPE, word(site, federation="other"), OWNER),
    ),
    "of another type": (
        Code.BAD_SIGNATURE,
        lambda site: dsse.sign(CONTRACT_TYPE, word(site), OWNER),
    ),
}


@pytest.mark.parametrize("attack", COUNTERSIGNATURES)
def test_a_countersignature_counts_only_for_what_it_says(attack: str, site: Workspace) -> None:
    code, forge = COUNTERSIGNATURES[attack]
    site.acceptance("anna").write_bytes(dsse.encode(forge(site)))
    error = refused(site)
    assert error.code is code
    assert "anna.acceptance.dsse.json" in error.message


def test_an_acceptance_is_not_carried_over_to_the_next_contract(
    author: Workspace, site: Workspace
) -> None:
    (author.src / "learner.py").write_bytes((author.src / "learner.py").read_bytes() + b"\n")
    agreement.sign(author, of(author), AUTHOR)
    for name in ("src/learner.py", "plan/contract.dsse.json"):
        shutil.copy(author.root / name, site.root / name)
    assert refused(site).code is Code.WRONG_CONTRACT
    assert loaded(site, None) is not None
    accepted(site)
    assert loaded(site) is not None


REMAINS = {
    "contract": ["plan/contract.dsse.json"],
    "author's pin": ["cert/author.pub"],
    "owner's pin": ["cert/owner.pub"],
    "acceptance": ["cert/anna.acceptance.dsse.json"],
    "contract and author's key": ["plan/contract.dsse.json", "plan/author.pub"],
    "contract and pins": [
        "plan/contract.dsse.json", "plan/author.pub", "cert/author.pub", "cert/owner.pub",
    ],
    "all but the owner's pin": [
        "plan/contract.dsse.json", "plan/author.pub", "cert/author.pub",
        "cert/anna.acceptance.dsse.json",
    ],
}  # fmt: skip


@pytest.mark.parametrize("gone", REMAINS)
def test_who_deletes_a_part_does_not_get_rid_of_the_rest(gone: str, site: Workspace) -> None:
    for name in REMAINS[gone]:
        (site.root / name).unlink()
    with pytest.raises(UserError) as caught:
        loaded(site)
    assert any(Path(name).name in str(caught.value) for name in REMAINS[gone]) or (
        "fx plan accept -n anna" in str(caught.value)
    )


def test_a_link_that_leads_nowhere_is_not_taken_for_a_missing_contract(site: Workspace) -> None:
    for name in ("plan/author.pub", "cert/author.pub", "cert/owner.pub"):
        (site.root / name).unlink()
    site.acceptance("anna").unlink()
    site.contract.unlink()
    assert loaded(site) is None
    site.contract.symlink_to("nowhere")
    with pytest.raises(UserError):
        loaded(site)


@pytest.mark.parametrize("name", ["plan/contract.dsse.json", "cert/anna.acceptance.dsse.json"])
@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", b"[" * 100_000, b"null"])
def test_garbage_in_an_envelope_is_refused(name: str, data: bytes, site: Workspace) -> None:
    (site.root / name).write_bytes(data)
    assert refused(site).code is Code.MALFORMED


@pytest.mark.parametrize("who", ["author", "owner"])
def test_garbage_in_place_of_a_pin_is_the_users_to_mend(who: str, site: Workspace) -> None:
    (site.cert / f"{who}.pub").write_bytes(b"garbage")
    with pytest.raises(UserError, match=rf"{who}\.pub"):
        loaded(site)
