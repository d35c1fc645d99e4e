# SPDX-License-Identifier: Apache-2.0
"""The certificates of a platform: each has the profile of its role, and leads to the root."""

import ssl
from collections.abc import Callable
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st
from tests.support.dcap_pki import (
    CA,
    DAY,
    LEAF,
    NOW,
    ROOT,
    SIGNING,
    Vendor,
    certificate,
    crl,
    extension,
    new_key,
    pem,
    tlv,
    usage,
)

from fedclave.errors import Code, Refused
from fedclave.trust import der as der_walk
from fedclave.trust import pck

VENDOR = Vendor()
GOOD = (VENDOR.pck, VENDOR.ca, VENDOR.root)


def leaf(**wrong: Any) -> x509.Certificate:
    given = {"name": LEAF, "key": VENDOR.pck_key, "issuer": CA, "issuer_key": VENDOR.ca_key}
    return certificate(**{**given, "sgx": extension(), **wrong})


def ca(**wrong: Any) -> x509.Certificate:
    given = {"name": CA, "key": VENDOR.ca_key, "issuer": ROOT, "issuer_key": VENDOR.root_key}
    return certificate(**{**given, "path_length": 0, **wrong})


def code_of(call: Callable[[], object]) -> Code:
    with pytest.raises(Refused) as refused:
        call()
    return refused.value.code


def is_refused(*chain: x509.Certificate) -> bool:
    return code_of(lambda: pck.platform(pem(*chain), VENDOR.root_der)) is Code.ATT_CHAIN


def test_a_platform_is_read_from_its_chain() -> None:
    found = pck.platform(pem(*GOOD), VENDOR.root_der)
    assert (found.leaf.name, found.ca.name, found.root.name) == (LEAF, CA, ROOT)
    assert found.ca.kind == "platform"
    assert found.extension.fmspc.hex() == "514d000000ff"


def test_the_root_in_the_chain_is_never_read() -> None:
    other = Vendor()
    assert pck.platform(pem(VENDOR.pck, VENDOR.ca, other.root), VENDOR.root_der)
    assert is_refused(other.pck, other.ca, VENDOR.root)


def test_a_chain_may_leave_the_root_out_and_end_with_a_zero_byte() -> None:
    assert pck.platform(pem(VENDOR.pck, VENDOR.ca) + b"\0", VENDOR.root_der)


def test_the_processor_ca_is_known_by_its_name() -> None:
    name = "Test SGX PCK Processor CA"
    chain = pem(leaf(issuer=name), ca(name=name))
    assert pck.platform(chain, VENDOR.root_der).ca.kind == "processor"


WRONG_LEAFS: dict[str, dict[str, Any]] = {
    "a CA": {"path_length": 0},
    "a CA by its key usage": {"key_usage": usage(leaf=False)},
    "without the SGX extension": {"sgx": None},
    "with a damaged SGX extension": {"sgx": b"\x30\x00"},
    "called otherwise": {"name": SIGNING},
    "with two names": {"names": 2},
    "whose name would break a line in a log": {"name": f"a\nb {LEAF}"},
    "with a critical extension that nobody knows": {
        "more": ((x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b""), True),)
    },
    "without key usage": {"without": (x509.KeyUsage,)},
    "without basic constraints": {"without": (x509.BasicConstraints,)},
    "without its key's identifier": {"without": (x509.SubjectKeyIdentifier,)},
    "without its issuer's": {"without": (x509.AuthorityKeyIdentifier,)},
    "that names another key of its issuer": {
        "authority": x509.AuthorityKeyIdentifier(bytes(20), None, None)
    },
    "signed with SHA-384": {"digest": hashes.SHA384()},
    "with a key on P-384": {"key": ec.generate_private_key(ec.SECP384R1())},
    "that the root issued": {"issuer": ROOT, "issuer_key": VENDOR.root_key},
}


@pytest.mark.parametrize("wrong", WRONG_LEAFS)
def test_a_pck_certificate_is_refused(wrong: str) -> None:
    assert is_refused(leaf(**WRONG_LEAFS[wrong]), VENDOR.ca, VENDOR.root)


WRONG_CAS: dict[str, dict[str, Any]] = {
    "not a CA": {"path_length": None, "key_usage": usage(leaf=False)},
    "that may have CAs below it": {"path_length": 1},
    "without a limit": {"path_length": None, "ca": True, "key_usage": usage(leaf=False)},
    "that may not sign certificates": {"key_usage": usage(leaf=True)},
    "called otherwise": {"name": "Test SGX Other CA"},
    "with a platform's extension": {"sgx": extension()},
    "issued by itself": {"issuer": CA, "issuer_key": VENDOR.ca_key},
}


@pytest.mark.parametrize("wrong", WRONG_CAS)
def test_a_pck_ca_is_refused(wrong: str) -> None:
    made = ca(**WRONG_CAS[wrong])
    name = made.subject.rfc4514_string().removeprefix("CN=")
    assert is_refused(leaf(issuer=name), made, VENDOR.root)


def test_a_signature_of_another_key_is_refused() -> None:
    forged = leaf(
        issuer_key=new_key(),
        authority=x509.AuthorityKeyIdentifier.from_issuer_public_key(VENDOR.ca_key.public_key()),
    )
    assert is_refused(forged, VENDOR.ca, VENDOR.root)


@pytest.mark.parametrize(
    "chain",
    [
        b"",
        pem(VENDOR.pck),
        pem(*GOOD, VENDOR.root),
        pem(*GOOD, VENDOR.root, VENDOR.root),
        b"hello " + pem(*GOOD),
        pem(*GOOD) + b"hello",
        pem(*GOOD) + b"\0\0",
        pem(VENDOR.ca, VENDOR.pck, VENDOR.root),
        pem(*GOOD) + b" " * pck.MAX_CHAIN,
        pem(*GOOD).replace(b"CERTIFICATE", b"PUBLIC KEY"),
        pem(*GOOD).replace(b"M", b"!", 1),
    ],
    ids=["empty", "leaf", "four", "five", "before", "after", "zeros", "order", "long", "kind", "b"],
)
def test_a_list_that_is_no_chain_is_refused(chain: bytes) -> None:
    assert code_of(lambda: pck.platform(chain, VENDOR.root_der)) is Code.ATT_CHAIN


@pytest.mark.parametrize("wrong", ["a CA", "a leaf", "of another key", "garbage"])
def test_a_root_must_be_one(wrong: str) -> None:
    key = new_key()
    der = {
        "a CA": VENDOR.ca.public_bytes(Encoding.DER),
        "a leaf": VENDOR.pck.public_bytes(Encoding.DER),
        "of another key": certificate(ROOT, key, ROOT, VENDOR.root_key, path_length=1).public_bytes(
            Encoding.DER
        ),
        "garbage": b"\x30\x00",
    }[wrong]
    assert code_of(lambda: pck.root(der)) is Code.ATT_CHAIN


def test_dates_are_checked_by_the_second() -> None:
    one = pck.root(VENDOR.root_der)
    for now in (one.begins, one.ends):
        pck.check_dates(one, now)
    for now in (one.begins - DAY / 86400, one.ends + DAY / 86400):
        assert code_of(lambda now=now: pck.check_dates(one, now)) is Code.ATT_CHAIN


def issuer() -> pck.Certificate:
    return pck.platform(pem(*GOOD), VENDOR.root_der).ca


def read_crl(der: bytes) -> pck.Crl:
    return pck.crl(der, issuer(), "the list", Code.ATT_COLLATERAL)


def test_a_crl_revokes_the_serials_that_it_names() -> None:
    found = read_crl(crl(CA, VENDOR.ca_key, VENDOR.pck.serial_number).public_bytes(Encoding.DER))
    assert found.revokes(pck.platform(pem(*GOOD), VENDOR.root_der).leaf)
    assert not read_crl(VENDOR.pck_crl.public_bytes(Encoding.DER)).revokes(issuer())


@pytest.mark.parametrize(
    "der",
    [
        b"",
        VENDOR.root_crl.public_bytes(Encoding.DER),
        crl(CA, new_key()).public_bytes(Encoding.DER),
        crl(ROOT, VENDOR.ca_key).public_bytes(Encoding.DER),
        crl(CA, VENDOR.ca_key, more=((x509.DeltaCRLIndicator(1), True),)).public_bytes(
            Encoding.DER
        ),
        VENDOR.pck_crl.public_bytes(Encoding.DER) + b"\0",
        VENDOR.pck_crl.public_bytes(Encoding.DER)[:-1] + b"\xff",
    ],
    ids=["empty", "root's", "other key", "other name", "delta", "trailing", "signature"],
)
def test_a_crl_is_refused(der: bytes) -> None:
    assert code_of(lambda: read_crl(der)) is Code.ATT_COLLATERAL


def test_the_root_is_chosen_by_the_key_that_the_chain_names() -> None:
    other = Vendor()
    roots = (VENDOR.root_der, other.root_der)
    assert pck.choose_root(pem(other.pck, other.ca), roots) == other.root_der
    assert pck.choose_root(pem(Vendor().pck), roots) == VENDOR.root_der
    assert code_of(lambda: pck.choose_root(pem(*GOOD), ())) is Code.ATT_CHAIN


@pytest.mark.parametrize("signature", [b"", bytes(64), b"\xff" * 64, bytes(63), bytes(65)])
def test_odd_signatures_are_no_signatures(signature: bytes) -> None:
    assert not pck.is_signature(VENDOR.pck_key.public_key(), signature, b"data")


@given(st.data())
def test_changed_certificates_and_lists_are_refused_or_read(data: st.DataObject) -> None:
    """Whatever the bytes: the result is a value, or ``Refused``."""
    original = data.draw(st.sampled_from([pem(*GOOD), VENDOR.pck.public_bytes(Encoding.DER)]))
    changed = bytearray(original)
    for at in data.draw(st.lists(st.integers(0, len(original) - 1), min_size=1, max_size=4)):
        changed[at] = data.draw(st.integers(0, 255))
    raw = bytes(changed)[: data.draw(st.integers(0, len(original)))]
    for read in (
        lambda: pck.platform(raw, VENDOR.root_der),
        lambda: pck.choose_root(raw, (VENDOR.root_der,)),
        lambda: pck.certificate(raw, pck.Role.PCK, "it", Code.ATT_CHAIN),
        lambda: read_crl(raw),
    ):
        try:
            read()
        except Refused as error:
            assert error.code in (Code.ATT_CHAIN, Code.ATT_COLLATERAL)


def test_a_message_says_which_certificate_and_what_to_do() -> None:
    with pytest.raises(Refused, match="PCK Platform CA") as refused:
        pck.platform(pem(*GOOD), Vendor().root_der)
    assert "simulated" in refused.value.message
    with pytest.raises(Refused, match=f"{NOW + 366 * DAY:%Y-%m-%d}"):
        pck.check_dates(pck.root(VENDOR.root_der), NOW + 366 * DAY)


def refielded(one: x509.Certificate, at: int, field: bytes) -> bytes:
    """It with another field in this place of what its signature is over."""
    der = one.public_bytes(Encoding.DER)
    fields = [item.raw for item in der_walk._signed_fields(der)]
    fields[at] = field
    (outer,) = der_walk.items(der)
    _, *rest = (item.raw for item in der_walk.items(outer.value))
    return tlv(0x30, tlv(0x30, b"".join(fields)) + b"".join(rest))


def named(kind: str, text: bytes, tag: int = 0x0C) -> bytes:
    return tlv(0x30, tlv(0x31, tlv(0x30, tlv(6, bytes.fromhex(kind)) + tlv(tag, text))))


SERIAL, SUBJECT = 1, 5  # RFC 5280 4.1: TBSCertificate, from its version on
ODD: dict[str, bytes] = {
    "negative-serial": refielded(VENDOR.pck, SERIAL, tlv(2, b"\x80\1")),
    "zero-serial": refielded(VENDOR.pck, SERIAL, tlv(2, b"\0")),
    "long-name": refielded(
        VENDOR.pck, SUBJECT, named("550403", b"SGX PCK Certificate".rjust(65, b"x"))
    ),
    "empty-name": refielded(VENDOR.pck, SUBJECT, named("550403", b"")),
    "long-country": refielded(VENDOR.pck, SUBJECT, named("550406", b"USA")),
    "old-encoding": refielded(
        VENDOR.pck, SUBJECT, named("550403", ("\N{EURO SIGN}" * 22).encode("utf-16-be"), 0x1E)
    ),
}


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("odd", ODD)
def test_what_the_library_would_warn_of_is_refused_without_a_word(
    odd: str, recwarn: pytest.WarningsRecorder
) -> None:
    with pytest.raises(Refused) as refused:
        pck.certificate(ODD[odd], pck.Role.PCK, "it", Code.ATT_CHAIN)
    assert refused.value.code is Code.ATT_CHAIN
    chain = b"".join(
        ssl.DER_cert_to_PEM_cert(one).encode()
        for one in (ODD[odd], VENDOR.ca.public_bytes(Encoding.DER))
    )
    assert pck.choose_root(chain, (VENDOR.root_der,)) == VENDOR.root_der
    assert [str(one.message) for one in recwarn] == []


def test_a_serial_number_that_no_list_could_name_is_refused() -> None:
    for odd in ("negative-serial", "zero-serial"):
        with pytest.raises(Refused, match="serial number that is not positive"):
            pck.certificate(ODD[odd], pck.Role.PCK, "it", Code.ATT_CHAIN)


@pytest.mark.filterwarnings("default")
def test_the_odd_certificates_are_such_as_the_library_warns_of() -> None:
    """What the tests above are worth: without our checks, each would be on stderr."""
    for one in ODD.values():
        with pytest.warns(UserWarning, match="positive|length"):
            repr(x509.load_der_x509_certificate(one).subject)
