# SPDX-License-Identifier: Apache-2.0
"""A host that owns the disk of a party that seals what it keeps: it reads, changes, exchanges."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.support.local import Chaser, Federation, plan, sealed

from fedclave.engine.medium import Sealed
from fedclave.engine.notebook import Notebook
from fedclave.engine.store import Store
from fedclave.errors import Code, Refused, UserError
from fedclave.tensors import encode
from fedclave.trust.vault import CHUNK, HEADER, TAG, Vault

VAULT = Vault(b"a" * 32)
CONTENT = b"".join(bytes([number]) * CHUNK for number in range(3)) + b"end"
PART = CHUNK + TAG


def other(purpose: str = "content", name: str = "one", vault: Vault = VAULT) -> bytes:
    return vault.seal(CONTENT, purpose=purpose, name=name)


def parts(raw: bytes) -> tuple[bytes, list[bytes]]:
    body = raw[HEADER:]
    return raw[:HEADER], [body[at : at + PART] for at in range(0, len(body), PART)]


def exchanged(raw: bytes) -> bytes:
    head, (a, b, c, d) = parts(raw)
    return head + b + a + c + d


def repeated(raw: bytes) -> bytes:
    head, (a, _, c, d) = parts(raw)
    return head + a + a + c + d


def of_another_file(raw: bytes) -> bytes:
    head, (_, b, c, d) = parts(raw)
    return head + parts(other())[1][0] + b + c + d


ATTACKS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda raw: b"",
    "not sealed at all": lambda raw: CONTENT,
    "cut in the header": lambda raw: raw[:50],
    "cut after the header": lambda raw: raw[:HEADER],
    "cut after a chunk": lambda raw: raw[: HEADER + 2 * PART],
    "cut by a byte": lambda raw: raw[:-1],
    "a byte more": lambda raw: raw + b"\0",
    "a chunk more": lambda raw: raw + raw[HEADER : HEADER + PART],
    "a bit in the magic": lambda raw: bytes([raw[0] ^ 1]) + raw[1:],
    "a bit in the salt": lambda raw: raw[:9] + bytes([raw[9] ^ 1]) + raw[10:],
    "another size": lambda raw: raw[:47] + bytes([raw[47] ^ 1]) + raw[48:],
    "a huge size": lambda raw: raw[:40] + b"\xff" * 8 + raw[48:],
    "a bit in the header's tag": lambda raw: raw[:79] + bytes([raw[79] ^ 1]) + raw[80:],
    "a bit in a chunk": lambda raw: raw[:-100] + bytes([raw[-100] ^ 1]) + raw[-99:],
    "a bit in the last tag": lambda raw: raw[:-1] + bytes([raw[-1] ^ 1]),
    "chunks exchanged": exchanged,
    "a chunk repeated": repeated,
    "a chunk of another file": of_another_file,
    "the header of another file": lambda raw: other()[:HEADER] + raw[HEADER:],
    "another name": lambda raw: other(name="two"),
    "a longer name": lambda raw: other(name="onetwo"),
    "another purpose": lambda raw: other(purpose="journal"),
    "another vault": lambda raw: other(vault=Vault(b"b" * 32)),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_a_host_did_to_a_sealed_file_is_refused_with_its_name(
    attack: str, tmp_path: Path
) -> None:
    path = tmp_path / "one"
    path.write_bytes(ATTACKS[attack](other()))
    with (
        pytest.raises(Refused, match="one is not as this party sealed it") as refused,
        VAULT.reader(path, purpose="content", name="one") as file,
    ):
        file.readall()
    assert refused.value.code is Code.CANNOT_OPEN


def test_a_file_changed_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "one"
    path.write_bytes(other())
    with VAULT.reader(path, purpose="content", name="one") as file:
        assert file.read(10) == CONTENT[:10]
        with path.open("r+b") as raw:
            raw.seek(HEADER + PART)
            raw.write(b"x")
        file.seek(CHUNK)
        with pytest.raises(Refused, match="its part 2 of 1 MiB"):
            file.read(10)


def finished(folder: Path, rounds: int = 3) -> Federation:
    """A run whose parties seal what they keep, with uploads in files."""
    learners = {"anna": Chaser(1.0), "bernd": Chaser(2.0)}
    fed = Federation(
        folder=folder, plan=plan(rounds=rounds), learners=learners, small=0, medium=sealed
    )
    fed.run()
    return fed


def test_no_byte_of_a_model_or_an_update_is_on_the_disk(tmp_path: Path) -> None:
    fed = finished(tmp_path)
    run = fed.run()
    plain = finished_plain(tmp_path / "plain")
    assert run.model == plain.model
    secrets = {
        "model": np.asarray(run.params["w"]).tobytes(),
        "file": encode(run.params)[:48],
        "half of a number": np.asarray(run.params["w"]).tobytes()[:8],
        "journal": b"SQLite format 3",
    }
    found = {path for path in tmp_path.rglob("*") if path.is_file() and "plain" not in path.parts}
    assert {path.suffix for path in found} >= {".vault"}
    for path in found - {tmp_path / "cert/vault.key"}:
        raw = path.read_bytes()
        assert [what for what, secret in secrets.items() if secret in raw] == [], path


def finished_plain(folder: Path) -> object:
    learners = {"anna": Chaser(1.0), "bernd": Chaser(2.0)}
    fed = Federation(folder=folder, plan=plan(rounds=3), learners=learners, small=0)
    run = fed.run()
    w = np.asarray(run.params["w"]).tobytes()
    assert any(w in path.read_bytes() for path in folder.rglob("*.safetensors"))  # this finds it
    return run


def test_a_checkpoint_that_was_changed_costs_a_round_and_no_more(tmp_path: Path) -> None:
    fed = finished(tmp_path)
    before = fed.run()
    path = tmp_path / f"save/models/{before.model}.vault"
    raw = bytearray(path.read_bytes())
    raw[-20] ^= 1
    path.write_bytes(raw)
    again = fed.run()
    assert again.model == before.model
    assert [event["path"] for event in again.of("checkpoint_damaged")] == [str(path)]


@pytest.mark.parametrize("other_name", ["anna", "bernd"])
def test_a_journal_stands_in_for_no_other(other_name: str, tmp_path: Path) -> None:
    fed = finished(tmp_path)
    journals = {name: tmp_path / name / "collaborator.vault" for name in fed.learners}
    victim = next(name for name in journals if name != other_name)
    journals[victim].write_bytes(journals[other_name].read_bytes())
    with pytest.raises(Refused) as refused:
        Notebook(tmp_path / victim, medium=sealed(tmp_path))
    assert refused.value.code is Code.CANNOT_OPEN
    assert str(journals[victim]) in str(refused.value)


def test_a_plain_journal_is_not_taken_for_a_sealed_one(tmp_path: Path) -> None:
    finished_plain(tmp_path)
    path = tmp_path / "save/federation.vault"
    (tmp_path / "save/federation.db").rename(path)
    with pytest.raises(Refused):
        Store(tmp_path / "save", plan(rounds=3).digest, medium=sealed(tmp_path))


def test_without_its_key_a_sealed_run_is_not_begun_anew(tmp_path: Path) -> None:
    fed = finished(tmp_path)
    (tmp_path / "cert/vault.key").unlink()
    with pytest.raises(Refused, match=r"federation.vault is not as this party sealed it"):
        fed.store()


def test_a_journal_that_was_hidden_is_missed(tmp_path: Path) -> None:
    fed = finished(tmp_path)
    (tmp_path / "save/federation.vault").unlink()
    with pytest.raises(UserError, match=r"its journal \(federation.vault\) is empty or new"):
        fed.store()


@pytest.mark.parametrize("key", [b"", b"k" * 31, b"k" * 33], ids=["empty", "short", "long"])
def test_a_key_of_another_length_is_refused(key: bytes, tmp_path: Path) -> None:
    path = tmp_path / "vault.key"
    path.write_bytes(key)
    path.chmod(0o600)
    with pytest.raises(UserError, match=r"vault.key has \d+ bytes, not 32"):
        Vault.open(path)


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "vault.key"
    Vault.open(path)
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    with pytest.raises(UserError, match="is open to other users"):
        Vault.open(path)


def test_what_a_members_own_code_said_is_sealed(tmp_path: Path) -> None:
    medium = Sealed(VAULT, tmp_path)
    notebook = Notebook(tmp_path / "anna", medium=medium)
    for number in (1, 2):
        notebook.report(f"task {number}", ValueError("patient 4711"))
    notebook.close()
    assert b"4711" not in b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    text = medium.read_text(tmp_path / "anna/failures.log")
    assert text.count("patient 4711") == 2
    assert notebook.failures == tmp_path / "anna/failures.log.vault"
    assert notebook.failures.is_file()
