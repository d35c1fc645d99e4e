# SPDX-License-Identifier: Apache-2.0
"""What the simulated TEE makes is judged as hardware is: by dcap-qvl, and by our own checks."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from fedclave.errors import Refused, UserError
from fedclave.trust import collateral, quotes, sgx_verify
from fedclave.trust.quoting import QuotingEnclave
from fedclave.trust.simulated import ADVISORY, FMSPC, HEALTHY, Faults, SimulatedPlatform

dcap_qvl = pytest.importorskip("dcap_qvl")

NOW = datetime(2031, 5, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
REPORT_DATA = bytes(range(64))


@pytest.fixture
def platform(tmp_path: Path) -> SimulatedPlatform:
    return SimulatedPlatform.create(tmp_path / "tee", "digits", NOW)


def judge(
    platform: SimulatedPlatform, faults: Faults = HEALTHY, now: datetime = NOW, debug: bool = False
) -> tuple[str, list[str]]:
    """The status and the advisories of a fresh quote, as dcap-qvl and our own checks find them;
    ``ValueError`` if both refuse it.
    """
    quote = QuotingEnclave(platform.quoting, debug=debug).quote(b"m" * 32, REPORT_DATA)
    raw, root = platform.collateral(NOW, faults), platform.root
    parsed = dcap_qvl.QuoteCollateralV3.from_json(raw.decode())
    try:
        report = dcap_qvl.verify_with_root_ca(quote, parsed, root, int(now.timestamp()))
    except ValueError:
        with pytest.raises(Refused):
            sgx_verify.judge(quotes.parse(quote), collateral.parse(raw), root, now)
        raise
    appraisal = sgx_verify.judge(quotes.parse(quote), collateral.parse(raw), root, now)
    assert (appraisal.status, sorted(appraisal.advisories)) == (report.status, report.advisory_ids)
    assert (appraisal.root_hash, appraisal.evaluation) == (platform.root_hash, faults.evaluation)
    return report.status, report.advisory_ids


def texts(raw: bytes) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(raw)
    return value


def chains(platform: SimulatedPlatform) -> Iterator[x509.Certificate]:
    found = texts(platform.collateral(NOW))
    for chain in (text for name, text in found.items() if name.endswith("_chain")):
        yield from x509.load_pem_x509_certificates(chain.encode())
    yield from x509.load_pem_x509_certificates((platform.quoting / "chain.pem").read_bytes())


def crl_number(raw: bytes, name: str) -> int:
    crl = x509.load_der_x509_crl(bytes.fromhex(texts(raw)[name]))
    return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number


def test_a_healthy_platform_passes_the_strictest_policy(platform: SimulatedPlatform) -> None:
    now = int(NOW.timestamp())
    quote = QuotingEnclave(platform.quoting).quote(b"m" * 32, REPORT_DATA)
    parsed = dcap_qvl.QuoteCollateralV3.from_json(platform.collateral(NOW).decode())
    verifier = dcap_qvl.QuoteVerifier(platform.root)
    strict = dcap_qvl.QuotePolicy.strict(now)
    claims = json.loads(verifier.verify_with_policy(quote, parsed, now, strict).to_json())
    assert claims["tcb"]["status"] == "UpToDate"
    assert bytes(claims["platform"]["pck"]["fmspc"]) == FMSPC
    assert len(set(claims["platform"]["pck"]["ppid"])) > 1


@pytest.mark.parametrize(
    ("faults", "status", "advisories"),
    [
        (Faults(status="SWHardeningNeeded"), "SWHardeningNeeded", []),
        (Faults(status="OutOfDate", advisories=(ADVISORY,)), "OutOfDate", [ADVISORY]),
        (
            Faults(status="ConfigurationAndSWHardeningNeeded"),
            "ConfigurationAndSWHardeningNeeded",
            [],
        ),
        (Faults(qe_status="OutOfDate"), "OutOfDate", []),
        (Faults(evaluation=3), "UpToDate", []),
    ],
)
def test_a_fault_shows_in_the_verdict(
    platform: SimulatedPlatform, faults: Faults, status: str, advisories: list[str]
) -> None:
    assert judge(platform, faults) == (status, advisories)


@pytest.mark.parametrize(
    ("faults", "reason"),
    [
        (Faults(status="Revoked"), "Revoked"),
        (Faults(qe_status="Revoked"), "Revoked"),
        (Faults(revoked={"pck"}), "certificate chain"),
        (Faults(revoked={"pck-ca"}), "certificate chain"),
        (Faults(revoked={"pck", "pck-ca"}), "certificate chain"),
    ],
)
def test_what_is_revoked_is_refused(
    platform: SimulatedPlatform, faults: Faults, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        judge(platform, faults)


def test_a_debug_enclave_is_refused(platform: SimulatedPlatform) -> None:
    with pytest.raises(ValueError, match="Debug"):
        judge(platform, debug=True)


def test_a_platform_that_missed_an_update_is_out_of_date(tmp_path: Path) -> None:
    platform = SimulatedPlatform.create(tmp_path, "digits", NOW, svn=1)
    assert judge(platform) == ("OutOfDate", [ADVISORY])


def test_a_platform_below_every_level_is_refused(tmp_path: Path) -> None:
    platform = SimulatedPlatform.create(tmp_path, "digits", NOW, svn=0)
    with pytest.raises(ValueError, match="No matching TCB level"):
        judge(platform)


@pytest.mark.parametrize(("svn", "der"), [(127, "02017f"), (128, "02020080"), (255, "020200ff")])
def test_security_versions_are_der_integers(tmp_path: Path, svn: int, der: str) -> None:
    """X.690 8.3: never negative, in the fewest bytes."""
    platform = SimulatedPlatform.create(tmp_path, "digits", NOW, svn=svn)
    pck = x509.load_pem_x509_certificate((platform.quoting / "chain.pem").read_bytes())
    oid = x509.ObjectIdentifier("1.2.840.113741.1.13.1")
    extension = pck.extensions.get_extension_for_oid(oid).value
    assert isinstance(extension, x509.UnrecognizedExtension)
    assert extension.value.count(bytes.fromhex(der)) == 16
    assert judge(platform) == ("UpToDate", [])


def test_collateral_is_good_for_30_days(platform: SimulatedPlatform) -> None:
    assert judge(platform, now=NOW + 29 * DAY) == ("UpToDate", [])
    with pytest.raises(ValueError, match=r"(?i)expired"):
        judge(platform, now=NOW + 31 * DAY)
    with pytest.raises(ValueError, match="future"):
        judge(platform, now=NOW - timedelta(hours=1))


def test_later_collateral_is_newer_in_every_part(platform: SimulatedPlatform) -> None:
    first, later = platform.collateral(NOW), platform.collateral(NOW + DAY)
    for name in ("tcb_info", "qe_identity"):
        dates = [json.loads(texts(one)[name])["issueDate"] for one in (first, later)]
        assert dates == ["2031-05-01T11:55:00Z", "2031-05-02T11:55:00Z"]
    for name in ("root_ca_crl", "pck_crl"):
        assert crl_number(later, name) > crl_number(first, name)


def test_a_levels_date_does_not_move_with_the_collateral(platform: SimulatedPlatform) -> None:
    found = [json.loads(texts(platform.collateral(at))["tcb_info"]) for at in (NOW, NOW + DAY)]
    dates = {level["tcbDate"] for info in found for level in info["tcbLevels"]}
    assert dates == {"2031-05-01T11:55:00Z"}


def test_every_certificate_says_that_it_is_simulated(platform: SimulatedPlatform) -> None:
    for certificate in chains(platform):
        for name in (certificate.subject, certificate.issuer):
            text = name.rfc4514_string()
            assert "CN=SIMULATED " in text
            assert "O=SIMULATED TEE - NOT HARDWARE - NOT INTEL" in text
            assert "OU=digits" in text


def test_the_tcb_signer_is_no_ca_and_the_pck_key_signs_no_collateral(
    platform: SimulatedPlatform,
) -> None:
    by_name = {one.subject.rfc4514_string().split(",")[0]: one for one in chains(platform)}
    assert by_name.keys() == {
        "CN=SIMULATED SGX Root CA",
        "CN=SIMULATED SGX PCK Platform CA",
        "CN=SIMULATED SGX PCK Certificate",
        "CN=SIMULATED SGX TCB Signing",
    }
    constraints = {
        name: one.extensions.get_extension_for_class(x509.BasicConstraints).value
        for name, one in by_name.items()
    }
    assert {name for name, one in constraints.items() if not one.ca} == {
        "CN=SIMULATED SGX PCK Certificate",
        "CN=SIMULATED SGX TCB Signing",
    }
    root = platform.root_certificate.subject
    assert by_name["CN=SIMULATED SGX TCB Signing"].issuer == root


def test_its_keys_are_for_its_owner_alone(platform: SimulatedPlatform) -> None:
    paths = [platform.folder, *platform.folder.rglob("*")]
    assert {path.stat().st_mode & 0o777 for path in paths if path.is_dir()} == {0o700}
    found = {path.name: path.stat().st_mode & 0o777 for path in paths if path.suffix == ".key"}
    assert found == dict.fromkeys(("root.key", "pck-ca.key", "tcb-signing.key", "pck.key"), 0o600)


def test_what_quotes_holds_no_key_of_the_root(platform: SimulatedPlatform) -> None:
    assert [path.name for path in platform.quoting.glob("*.key")] == ["pck.key"]


def test_it_is_the_same_when_it_is_opened_again(platform: SimulatedPlatform) -> None:
    again = SimulatedPlatform.open(platform.folder)
    assert (again.root, again.root_hash) == (platform.root, platform.root_hash)
    assert judge(again) == ("UpToDate", [])


def test_a_second_one_has_another_root(platform: SimulatedPlatform, tmp_path: Path) -> None:
    other = SimulatedPlatform.create(tmp_path / "other", "digits", NOW)
    assert other.root_hash != platform.root_hash
    assert other.root_certificate.subject == platform.root_certificate.subject


def test_one_is_not_made_over_another(platform: SimulatedPlatform) -> None:
    with pytest.raises(UserError, match="holds a simulated TEE already"):
        SimulatedPlatform.create(platform.folder, "digits", NOW)
    assert SimulatedPlatform.open(platform.folder).root == platform.root


def test_an_interrupted_making_is_made_anew(platform: SimulatedPlatform) -> None:
    (platform.folder / "authority" / "root.pem").unlink()
    again = SimulatedPlatform.create(platform.folder, "digits", NOW)
    assert judge(again) == ("UpToDate", [])


def test_a_name_that_no_federation_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="federation name"):
        SimulatedPlatform.create(tmp_path / "tee", "a/b", NOW)
    assert not (tmp_path / "tee").exists()


@pytest.mark.parametrize("damage", [b"", b"garbage", b"-----BEGIN CERTIFICATE-----\nAAAA"])
def test_a_damaged_folder_names_the_file_and_the_remedy(
    platform: SimulatedPlatform, damage: bytes
) -> None:
    (platform.folder / "authority" / "root.pem").write_bytes(damage)
    with pytest.raises(UserError, match=r"root\.pem holds no certificates.*Make a simulated TEE"):
        SimulatedPlatform.open(platform.folder)


def test_a_missing_folder_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"No such file.*Make a simulated TEE"):
        SimulatedPlatform.open(tmp_path)
