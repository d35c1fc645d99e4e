# SPDX-License-Identifier: Apache-2.0
"""``fx attest`` on real quotes and their collateral, offline."""

import hashlib
import json
import os
import re
import ssl
import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID
from tests.support.dcap_pki import CA, LEAF, NOW, Vendor, certificate, extension
from tests.support.federation import FX
from tests.support.policies import written

from fedclave.cli import attest, collateral, main
from fedclave.trust import quoting
from fedclave.trust.quoting import QuotingEnclave
from fedclave.trust.simulated import SimulatedPlatform
from fedclave.workspace import layout

pytest.importorskip("dcap_qvl")

VECTORS = Path(__file__).parents[2] / "vectors/attestation"
QUOTE = VECTORS / "quotes/sgx-automata.bin"
COLLATERAL = VECTORS / "collateral/sgx00606A-2025-08.json"
AT = "2025-08-16T12:00:00Z"
CASES = json.loads((VECTORS / "cases.json").read_text(encoding="utf-8"))
MR_ENCLAVE = "a4f45c39dac622cb1dd32ddb35a52ec92db41d0fa88a1c911c49e59c534f61cd"

Fx = Callable[..., tuple[int, Any]]


@pytest.fixture
def fx(capsys: pytest.CaptureFixture[str]) -> Fx:
    def run(*arguments: str | Path) -> tuple[int, Any]:
        code = main.run(["attest", *map(str, arguments), "--json"])
        return code, json.loads(capsys.readouterr().out)

    return run


def test_a_quote_is_shown_and_said_to_be_unverified(
    fx: Fx, capsys: pytest.CaptureFixture[str]
) -> None:
    code, shown = fx("show", QUOTE)
    assert code == 0
    assert (shown["verified"], shown["tee"], shown["mr_enclave"]) == (False, "sgx", MR_ENCLAVE)
    assert main.run(["attest", "show", str(VECTORS / "quotes/tdx-v5-gtg.bin")]) == 0
    text = capsys.readouterr().out
    assert "NOT VERIFIED" in text and "mr_td" in text


def test_a_genuine_quote_is_verified_with_its_status_and_advisories(
    fx: Fx, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found = fx("verify", QUOTE, "--collateral", COLLATERAL, "--now", AT)
    assert code == 0
    expected = {
        "verified": True,
        "word": "GENUINE",
        "code": None,
        "simulated": False,
        "mr_enclave": MR_ENCLAVE,
        "tcb_status": "SWHardeningNeeded",
        "advisories": "INTEL-SA-00615",
        "evaluation": 17,
        "root": "Intel SGX Root CA",
    }
    assert expected.items() <= found.items()
    options = ["--collateral", str(COLLATERAL), "--now", AT]
    assert main.run(["attest", "verify", str(QUOTE), *options]) == 0
    text = capsys.readouterr().out
    assert text.startswith("GENUINE at 2025-08-16 12:00 UTC: the platform is SWHardeningNeeded.")


@pytest.mark.parametrize(
    ("quote", "collateral", "at", "code"),
    [
        ("t-sgx-body-mrenclave", "sgx00606A-2025-08", AT, "ATT-SIGNATURE"),
        ("t-sgx-empty", "sgx00606A-2025-08", AT, "ATT-MALFORMED"),
        ("sgx-automata-debug", "sgx00A067-2025-05", "2025-05-28T12:00:00Z", "ATT-DEBUG"),
        ("sgx-automata", "sgx00606A-2025-08", "2026-08-16T12:00:00Z", "ATT-COLLATERAL-EXPIRED"),
        ("sgx-automata", "sgx00A067-2025-06", "2025-06-20T12:00:00Z", "ATT-PLATFORM"),
    ],
)
def test_what_is_not_genuine_ends_with_3_and_a_code(
    quote: str, collateral: str, at: str, code: str, fx: Fx
) -> None:
    files = (VECTORS / f"quotes/{quote}.bin", VECTORS / f"collateral/{collateral}.json")
    ended, found = fx("verify", files[0], "--collateral", files[1], "--now", at)
    assert (ended, found["code"], found["verified"], found["word"]) == (3, code, False, "REFUSED")
    assert found["reason"]


def test_a_refusal_has_all_that_was_established_and_says_what_was_not(
    fx: Fx, capsys: pytest.CaptureFixture[str]
) -> None:
    late = ["verify", QUOTE, "--collateral", COLLATERAL, "--now", "2026-08-16T12:00:00Z"]
    code, found = fx(*late)
    expected = {
        "mr_enclave": MR_ENCLAVE,
        "tcb_status": None,
        "advisories": None,
        "fmspc": "00606a000000",
        "simulated": False,
        "collateral": str(COLLATERAL),
        "collateral_sha256": hashlib.sha256(COLLATERAL.read_bytes()).hexdigest(),
        "evaluation": 17,
        "collateral_age_days": 366,
        "collateral_until": "2025-09-14T04:36:46+00:00",
        "root": "Intel SGX Root CA",
    }
    assert (code, {key: found[key] for key in expected}) == (3, expected)
    assert main.run(["attest", *map(str, late)]) == 3
    text = capsys.readouterr().out
    assert text.startswith("REFUSED at 2026-08-16 12:00 UTC: ATT-COLLATERAL-EXPIRED\nthe ")
    for line in (
        "What it says (NOT PROVED)\n",
        f"  mr_enclave   {MR_ENCLAVE}\n",
        "  tcb_status  not established\n",
        "  collateral_age_days  366\n",
        "  root                 Intel SGX Root CA\n",
    ):
        assert line in text, line


def test_of_bytes_that_are_no_quote_the_basis_is_still_told(fx: Fx) -> None:
    quote = VECTORS / "quotes/t-sgx-empty.bin"
    code, found = fx("verify", quote, "--collateral", COLLATERAL, "--now", AT)
    assert (code, found["evidence_sha256"], found["root"]) == (3, None, "Intel SGX Root CA")
    assert (found["evaluation"], found["collateral_age_days"]) == (17, 1)
    assert "mr_enclave" not in found


def test_the_time_to_judge_at_is_iso_8601_or_unix_seconds(fx: Fx) -> None:
    for time in (AT, "2025-08-16T12:00:00", "1755345600", "2025-08-16T14:00:00+02:00"):
        code, found = fx("verify", QUOTE, "--collateral", COLLATERAL, "--now", time)
        assert (code, found["at"]) == (0, "2025-08-16T12:00:00+00:00"), time
    for time in ("tomorrow", "12", "999999999999", "0001-01-01T00:00:00+14:00", ""):
        assert fx("verify", QUOTE, "--collateral", COLLATERAL, "--now", time)[0] == 2, time


def case(name: str) -> dict[str, Any]:
    (found,) = (one for one in CASES["quote_cases"] if one["id"] == name)
    return dict(found)


SIM = {name: VECTORS / path for name, path in case("sim-ok").items() if name in ("quote", "root")}
SIM_BASIS = ["--collateral", VECTORS / case("sim-ok")["collateral"], "--now", case("sim-ok")["now"]]


def test_simulated_evidence_is_refused_unless_it_is_borne_with(
    fx: Fx, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["verify", SIM["quote"], *SIM_BASIS, "--root", SIM["root"]]
    code, found = fx(*given)
    assert (code, found["code"], found["verified"]) == (3, "ATT-SIMULATED", False)
    assert main.run(["attest", *map(str, given)]) == 3
    assert "GENUINE" not in capsys.readouterr().out
    code, found = fx(*given, "--allow-simulated")
    assert (code, found["word"], found["simulated"]) == (0, "SIMULATED", True)
    assert found["root"].endswith("(not Intel's)")
    assert main.run(["attest", *map(str, given), "--allow-simulated"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("SIMULATED: ")
    assert "it protects nobody" in text.splitlines()[0]
    assert "GENUINE" not in text


def test_a_simulated_root_is_told_by_the_root_and_not_by_what_the_host_wrote(
    fx: Fx, tmp_path: Path
) -> None:
    made = platform(tmp_path, datetime.now(UTC))
    plain = replace(quoting._HEADER, user_data=bytes(20))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quoting, "_HEADER", plain)
        quote = QuotingEnclave(made.quoting).quote(bytes(32), bytes(64))
    assert b"SIMULATED-TEE" not in quote
    (tmp_path / "quote").write_bytes(quote)
    given = ["--collateral", tmp_path / "c.json", "--root", tmp_path / "root.der"]
    assert fx("verify", tmp_path / "quote", *given)[1]["code"] == "ATT-SIMULATED"
    assert "not Intel's" in fx("show", tmp_path / "quote")[1]["root"]


def test_a_simulated_quote_has_no_place_under_intels_root(fx: Fx) -> None:
    for allowed in ([], ["--allow-simulated"]):
        code, found = fx("verify", SIM["quote"], *SIM_BASIS, *allowed)
        assert (code, found["code"], found["simulated"]) == (3, "ATT-CHAIN", None)


RATLS = {one["id"]: one for one in CASES["ratls_cases"]}
RATLS_CODES = {
    "ratls-sim-relay-wrong-key": "ATT-KEY-BINDING",
    "ratls-sim-claims-not-in-quote": "ATT-KEY-BINDING",
    "ratls-sim-wrong-tag": "ATT-MALFORMED",
    "ratls-sim-cbor-truncated": "ATT-MALFORMED",
    "ratls-sim-cbor-trailing": "ATT-MALFORMED",
    "ratls-gramine-interoperable.pem": "ATT-DEBUG",
}


def ratls(name: str) -> list[str | Path]:
    one = RATLS[name]
    files = ["--collateral", VECTORS / one["collateral"], "--now", str(one["now"])]
    root = [] if one["root"] == "intel" else ["--root", VECTORS / one["root"], "--allow-simulated"]
    return ["verify", VECTORS / one["cert"], *files, *root]


@pytest.mark.parametrize("name", sorted(RATLS))
def test_a_certificate_is_verified_with_the_quote_that_it_carries(name: str, fx: Fx) -> None:
    code, found = fx(*ratls(name))
    assert found["code"] == RATLS_CODES.get(name)
    assert (code, found["verified"]) == ((3, False) if RATLS[name]["must_reject"] else (0, True))
    if code == 0:
        assert (found["bound_to_key"], found["nonce"]) == (
            "yes",
            RATLS[name].get("nonce") or "none",
        )
        assert found["simulated"] == (RATLS[name]["root"] != "intel")


def test_a_certificate_in_pem_form_is_read_and_others_after_it_are_not(
    fx: Fx, tmp_path: Path
) -> None:
    good, other = (VECTORS / RATLS[f"ratls-sim-{one}"]["cert"] for one in ("ok", "relay-wrong-key"))
    chain = "".join(ssl.DER_cert_to_PEM_cert(one.read_bytes()) for one in (good, other))
    (tmp_path / "chain.pem").write_text(chain)
    verb, _, *given = ratls("ratls-sim-ok")
    assert fx(verb, tmp_path / "chain.pem", *given)[0] == 0
    assert fx("show", tmp_path / "chain.pem")[1]["bound_to_key"] == "yes"
    (tmp_path / "cut.pem").write_text(chain[:600])
    for command in (["show"], [verb, *given]):
        code, found = fx(command[0], tmp_path / "cut.pem", *command[1:])
        assert (code, (found.get("error") or found)["code"]) == (3, "ATT-MALFORMED")


def test_evidence_of_another_certificates_key_is_told_with_whose_quote_it_is(fx: Fx) -> None:
    code, found = fx(*ratls("ratls-sim-relay-wrong-key"))
    assert (code, found["bound_to_key"], len(found["mr_enclave"])) == (3, None, 64)


def test_a_policys_refusal_leaves_the_platforms_standing_in_the_result(
    fx: Fx, tmp_path: Path
) -> None:
    (tmp_path / "policy.yaml").write_text(
        written(valid={"from": "2020-01-01", "until": "9999-12-31"})
    )
    basis = ["--collateral", COLLATERAL, "--now", AT, "--policy", tmp_path / "policy.yaml"]
    code, found = fx("verify", QUOTE, *basis)
    assert (code, found["code"]) == (3, "ATT-MRENCLAVE")
    assert (found["tcb_status"], found["policy"]) == ("SWHardeningNeeded", "policy digits v1")
    role = {"measurements": [{"mr_enclave": MR_ENCLAVE, "note": "release 1"}]}
    (tmp_path / "policy.yaml").write_text(
        written(
            valid={"from": "2020-01-01", "until": "9999-12-31"},
            roles={"aggregator": role},
            tcb={
                "allowed": ["SWHardeningNeeded"],
                "accept_advisories": {"INTEL-SA-00615": "no MMIO"},
                "smt": True,
                "dynamic_platform": True,
                "cached_keys": True,
            },
        )
    )
    code, found = fx("verify", QUOTE, *basis)
    assert (code, found["word"], found["note"]) == (0, "VERIFIED", "release 1"), found["reason"]
    assert fx("verify", QUOTE, *basis, "--role", "collaborator")[1]["code"] == "ATT-POLICY-EMPTY"
    assert fx("verify", QUOTE, *basis, "--role", "judge")[0] == 2


def test_the_users_mistakes_are_told_as_such(fx: Fx, tmp_path: Path) -> None:
    assert fx("show", tmp_path / "none")[0] == 2
    assert fx("verify", QUOTE, "--collateral", tmp_path / "none")[0] == 2
    assert fx("verify", QUOTE, "--collateral", COLLATERAL, "--now", "tomorrow")[0] == 2
    code, found = fx("verify", QUOTE, "--collateral", COLLATERAL, "--root", QUOTE)
    assert (code, found["error"]["message"].startswith(f"{QUOTE}: ")) == (2, True)
    (tmp_path / "c.json").write_text("{}")
    assert fx("verify", QUOTE, "--collateral", tmp_path / "c.json")[1]["code"] == "ATT-COLLATERAL"


@pytest.mark.parametrize("warnings", ["default", "error"])
def test_what_is_odd_about_a_peers_certificate_is_not_told_by_the_library(
    tmp_path: Path, warnings: str
) -> None:
    """An extension that nobody reads, with a name of 65 letters: borne, and without a word."""
    with pytest.warns(UserWarning, match="length"):
        long = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x" * 65, _validate=False)])
    alternative = x509.SubjectAlternativeName([x509.DirectoryName(long)])
    vendor = Vendor()
    vendor.pck = certificate(
        LEAF, vendor.pck_key, CA, vendor.ca_key, sgx=extension(), more=((alternative, False),)
    )
    for name, data in (
        ("quote", vendor.quote()),
        ("collateral", vendor.collateral()),
        ("root", vendor.root_der),
    ):
        (tmp_path / name).write_bytes(data)
    parts = [f"--{name}={tmp_path / name}" for name in ("collateral", "root")]
    done = subprocess.run(
        [
            *FX,
            "attest",
            "verify",
            tmp_path / "quote",
            *parts,
            "--now",
            NOW.isoformat(),
            "--allow-simulated",
            "--json",
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": warnings},
        timeout=60,
    )
    assert (done.stderr, done.returncode) == ("", 0), done.stdout
    assert json.loads(done.stdout)["verified"] is True


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    layout.create("numpy-digits", tmp_path / "ws")
    return tmp_path / "ws"


def platform(folder: Path, now: datetime, *, days_old: int = 0) -> SimulatedPlatform:
    """A new simulated platform; its root and collateral are in the folder."""
    made = SimulatedPlatform.create(folder / "sim", "digits", now - timedelta(days=days_old))
    (folder / "root.der").write_bytes(made.root)
    (folder / "c.json").write_bytes(made.collateral(now - timedelta(days=days_old)))
    return made


def test_imported_collateral_is_used_and_only_gets_newer(
    fx: Fx, tmp_path: Path, workspace: Path
) -> None:
    platform(tmp_path, datetime.now(UTC))
    plain = ["-C", workspace]
    here = [*plain, "--root", tmp_path / "root.der"]
    code, missing = fx("verify", QUOTE, *plain)
    assert (code, missing["code"]) == (3, "ATT-COLLATERAL-MISSING")
    code, found = fx("collateral", "import", tmp_path / "c.json", *here)
    assert (code, len(found["imported"])) == (0, 1)
    good = {"folder": found["folder"], "checked": 1, "unusable": 0, "warnings": []}
    assert fx("collateral", "check", *here) == (0, good)
    assert fx("collateral", "check", *plain) == (0, good)
    (kept,) = Path(found["folder"]).glob("sgx-*.json")
    kept.write_bytes(COLLATERAL.read_bytes())  # of another root, and expired
    for root in (here, plain):
        code, checked = fx("collateral", "check", *root)
        assert (code, checked["unusable"], len(checked["warnings"])) == (3, 1, 1)
    code, refused = fx("collateral", "import", tmp_path / "c.json", *plain)
    assert (code, refused["error"]["code"]) == (3, "ATT-COLLATERAL-SIGNER")
    code, refused = fx("collateral", "import", COLLATERAL, *plain)
    assert (code, refused["error"]["code"]) == (3, "ATT-COLLATERAL-EXPIRED")


def test_collateral_of_several_roots_is_checked_at_once(
    fx: Fx, tmp_path: Path, workspace: Path
) -> None:
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
        platform(folder, datetime.now(UTC))
        root = ["--root", folder / "root.der", "-C", workspace]
        assert fx("collateral", "import", folder / "c.json", *root)[0] == 0
    code, found = fx("collateral", "check", "-C", workspace)
    assert (code, found["checked"], found["warnings"]) == (0, 2, [])
    for folder in folders:
        root = ["--root", folder / "root.der", "-C", workspace]
        assert fx("collateral", "check", *root)[1]["checked"] == 1


def test_an_empty_store_is_not_called_good(
    fx: Fx, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fx("collateral", "check", "-C", workspace)[1]["checked"] == 0
    assert main.run(["attest", "collateral", "check", "-C", str(workspace)]) == 0
    text = capsys.readouterr().out
    assert text.startswith("none imported: ")
    assert "good" not in text


def test_collateral_whose_root_nobody_kept_is_not_passed_over(
    fx: Fx, tmp_path: Path, workspace: Path
) -> None:
    platform(tmp_path, datetime.now(UTC))
    root = ["--root", tmp_path / "root.der", "-C", workspace]
    folder = Path(fx("collateral", "import", tmp_path / "c.json", *root)[1]["folder"])
    (kept,) = (folder / "roots").glob("*.der")
    kept.unlink()
    code, found = fx("collateral", "check", "-C", workspace)
    assert (code, found["checked"], found["unusable"]) == (3, 0, 1)
    assert "its root is not known here" in found["warnings"][0]


def test_collateral_that_ends_within_a_week_is_warned_of_and_good_still(
    fx: Fx, tmp_path: Path, workspace: Path
) -> None:
    platform(tmp_path, datetime.now(UTC), days_old=25)
    root = ["--root", tmp_path / "root.der", "-C", workspace]
    assert fx("collateral", "import", tmp_path / "c.json", *root)[0] == 0
    code, found = fx("collateral", "check", "-C", workspace)
    assert (code, found["unusable"], len(found["warnings"])) == (0, 0, 1)


def test_of_several_files_the_one_that_is_refused_is_named_and_the_first_stays(
    fx: Fx, tmp_path: Path, workspace: Path
) -> None:
    platform(tmp_path, datetime.now(UTC))
    here = ["--root", tmp_path / "root.der", "-C", workspace]
    code, found = fx("collateral", "import", tmp_path / "c.json", COLLATERAL, *here)
    message = found["error"]["message"]
    assert code == 3
    assert f"{COLLATERAL} (1 file before it imported): " in message
    assert fx("collateral", "check", "-C", workspace)[1]["checked"] == 1


def test_a_quote_is_verified_in_any_folder_by_a_file_of_collateral(
    fx: Fx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert fx("verify", QUOTE, "--collateral", COLLATERAL, "--now", AT)[0] == 0
    code, found = fx("verify", QUOTE)
    assert (code, "--collateral" in found["error"]["message"]) == (2, True)


def test_every_command_of_the_page_on_verifying_works_in_a_fresh_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Then(datetime):
        """The days on which the vectors are good: the collateral of real quotes, then simulated."""

        moment = datetime.fromisoformat(AT)

        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return cls.moment

    for module in (attest, collateral):
        monkeypatch.setattr(module, "datetime", Then)
    enclave = (VECTORS / RATLS["ratls-gramine-legacy-konvera.der"]["cert"]).read_bytes()
    real = {"quote.bin": QUOTE.read_bytes(), "sgx-00606a.json": COLLATERAL.read_bytes()}
    real["enclave.pem"] = ssl.DER_cert_to_PEM_cert(enclave).encode()
    trial = {"quote.bin": SIM["quote"].read_bytes(), "simulated-root.der": SIM["root"].read_bytes()}
    trial["simulated.json"] = (VECTORS / case("sim-ok")["collateral"]).read_bytes()
    page = Path(__file__).parents[3] / "docs/howto/verify-a-quote.md"
    blocks = re.findall(r"^```bash\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    for number, (block, there) in enumerate(zip(blocks, (real, real, trial), strict=True)):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name, raw in there.items():
            (folder / name).write_bytes(raw)
        monkeypatch.chdir(folder)
        if there is trial:
            monkeypatch.setattr(Then, "moment", datetime.fromtimestamp(case("sim-ok")["now"], UTC))
        for line in block.splitlines():
            for command in line.partition(" # ")[0].split(" && "):
                word, *arguments = command.split()
                if word == "fx":
                    assert main.run(arguments) == 0, (line, capsys.readouterr())
                elif word == "cd":
                    monkeypatch.chdir(arguments[0])
