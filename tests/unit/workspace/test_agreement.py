# SPDX-License-Identifier: Apache-2.0
"""A contract is closed, signed, accepted, and held to; without any, nothing is asked."""

from pathlib import Path

import pytest
from tests.support import contracts as kit
from tests.support.contracts import AUTHOR, MALLORY, OWNER, accepted, imported, loaded, of

from fedclave.errors import Code, PlanError, Refused, UserError
from fedclave.trust import dsse, signing
from fedclave.trust.contract import CONTRACT_TYPE
from fedclave.workspace import agreement, archive, layout
from fedclave.workspace.layout import Workspace

KEY = "ed25519:" + "A" * 43 + "="
SECTION = f"attestation: {{required: [aggregator], signers: ['{KEY}'], threshold: 1}}\n"


@pytest.fixture
def author(tmp_path: Path) -> Workspace:
    return kit.authored(tmp_path / "author")


@pytest.fixture
def site(author: Workspace, tmp_path: Path) -> Workspace:
    return imported(author, tmp_path / "site")


def attest(workspace: Workspace) -> None:
    with workspace.plan.open("a") as file:
        file.write(SECTION)


def test_without_contract_and_attestation_nothing_is_asked(tmp_path: Path) -> None:
    workspace = layout.create("numpy-digits", tmp_path / "ws")
    assert loaded(workspace) is None
    assert loaded(workspace, None) is None


def test_a_plan_that_asks_for_attestation_does_not_run_without_a_contract(tmp_path: Path) -> None:
    workspace = layout.create("numpy-digits", tmp_path / "ws")
    attest(workspace)
    for party in ("anna", None):
        with pytest.raises(UserError, match="nobody here has said whose contracts count"):
            loaded(workspace, party)


def test_the_contract_is_what_the_archive_ships_without_its_signatures(
    author: Workspace, tmp_path: Path
) -> None:
    author.attestation_signatures.write_text("{}")
    target = tmp_path / "ws.zip"
    archive.export(author, target)
    closed = {file.path for file in agreement.close(author, of(author)).files}
    signatures = {"plan/contract.dsse.json", "plan/attestation.dsse.json", "plan/author.pub"}
    assert set(archive.names(target)) == closed | signatures
    assert "save/initial.safetensors" in closed


def test_what_was_signed_and_accepted_runs_at_site_and_author(
    author: Workspace, site: Workspace
) -> None:
    accepted(site)
    here, there = loaded(site), loaded(author, None)
    assert here is not None and there is not None
    assert (here.id, here.party, there.id, there.party) == (there.id, "anna", here.id, None)


def test_the_aggregator_needs_the_author_alone(site: Workspace) -> None:
    with pytest.raises(UserError, match="whose contracts count"):
        loaded(site, None)
    agreement.pin(site, agreement.AUTHOR, AUTHOR.public_key())
    assert loaded(site, None) is not None
    with pytest.raises(UserError, match=r"has not accepted contract .* fx plan accept -n anna"):
        loaded(site, "anna")


def test_signing_the_same_again_changes_nothing_and_keeps_other_signatures(
    author: Workspace,
) -> None:
    before = author.contract.read_bytes()
    agreement.sign(author, of(author), AUTHOR)
    assert author.contract.read_bytes() == before
    both = dsse.add(dsse.decode(before), MALLORY)
    author.contract.write_bytes(dsse.encode(both))
    agreement.sign(author, of(author), AUTHOR)
    assert {s.key for s in dsse.decode(author.contract.read_bytes()).signatures} == {
        signing.key_id(key.public_key()) for key in (AUTHOR, MALLORY)
    }


def test_a_wrong_signature_under_the_authors_id_is_replaced(author: Workspace) -> None:
    good = dsse.decode(author.contract.read_bytes())
    bad = dsse.Signature(key=good.signatures[0].key, value=bytes(64))
    forged = dsse.Envelope(type=CONTRACT_TYPE, payload=good.payload, signatures=(bad,))
    author.contract.write_bytes(dsse.encode(forged))
    agreement.sign(author, of(author), AUTHOR)
    assert dsse.decode(author.contract.read_bytes()) == good


def test_a_change_makes_another_contract_and_says_which_files(author: Workspace) -> None:
    old = agreement.close(author, of(author))
    (author.src / "learner.py").write_text("changed = 1\n")
    (author.src / "more.py").write_text("")
    (author.root / "README.md").unlink()
    new = agreement.close(author, of(author))
    assert new.id != old.id
    assert agreement.changes(old, new) == (
        "README.md was removed",
        "src/learner.py was changed",
        "src/more.py was added",
    )


def test_the_measured_contract_is_the_same_under_another_policy_alone(author: Workspace) -> None:
    ids = {agreement.close(author, of(author)).measured_id}
    for text in ("name: one\n", "name: two\n"):
        author.attestation.write_text(text)
        ids.add(agreement.close(author, of(author)).measured_id)
    assert len(ids) == 1
    assert ids != {agreement.close(author, of(author)).id}
    (author.src / "learner.py").write_text("changed = 1\n")
    assert agreement.close(author, of(author)).measured_id not in ids


def test_nothing_is_signed_without_initial_weights_or_a_policy_that_the_plan_asks_for(
    author: Workspace,
) -> None:
    attest(author)
    with pytest.raises(PlanError, match=r"attestation\.yaml"):
        agreement.sign(author, of(author), AUTHOR)
    author.initial.unlink()
    with pytest.raises(UserError, match="fx plan initialize"):
        agreement.close(author, of(author))


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("src/.hidden.py", "", "would not be exported"),
        ("src/__pycache__/more.py", "", "would not be exported"),
        ("src/alice.key", "", "would not be exported"),
        ("src/a:b.py", "", "not a name on every system"),
        ("src/note.txt", "-----BEGIN PRIVATE KEY-----", "contains a private key"),
    ],
)
def test_what_no_archive_would_carry_is_not_signed(
    name: str, text: str, words: str, author: Workspace
) -> None:
    path = author.root / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        agreement.close(author, of(author))
    assert str(path.name) in str(caught.value)


def test_what_python_compiles_by_itself_is_no_part_of_a_contract(site: Workspace) -> None:
    cache = site.src / "__pycache__"
    cache.mkdir()
    (cache / "learner.cpython-311.pyc").write_bytes(b"")
    accepted(site)
    assert loaded(site) is not None


def test_an_acceptance_pins_author_and_owner_and_another_of_either_is_refused(
    site: Workspace,
) -> None:
    accepted(site)
    word = site.acceptance("anna").read_bytes()
    for who, key in ((agreement.AUTHOR, AUTHOR), (agreement.OWNER, OWNER)):
        assert agreement.pinned(site, who) == key.public_key()
        with pytest.raises(Refused, match=f"this site knows the {who} by the key") as caught:
            agreement.pin(site, who, MALLORY.public_key())
        assert caught.value.code is Code.BAD_SIGNATURE
    with pytest.raises(Refused, match="knows the owner"):
        accepted(site, owner=MALLORY)
    with pytest.raises(Refused, match="knows the author"):
        agreement.sign(site, of(site), MALLORY)
    assert site.acceptance("anna").read_bytes() == word


def test_a_refused_owner_leaves_no_author_pinned(site: Workspace) -> None:
    agreement.pin(site, agreement.OWNER, OWNER.public_key())
    with pytest.raises(Refused, match="knows the owner"):
        accepted(site, owner=MALLORY)
    assert agreement.pinned(site, agreement.AUTHOR) is None
