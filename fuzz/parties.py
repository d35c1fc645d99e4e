# SPDX-License-Identifier: Apache-2.0
"""Whom the targets play: a CA, a simulated platform, an author, an owner, a log, a releaser."""

import shutil
import tempfile
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedclave.trust import (
    claims,
    collateral,
    contract,
    dsse,
    gate,
    keys,
    pki,
    policy,
    quotes,
    ratls,
    requests,
    roots,
    sgx_verify,
    signing,
)
from fedclave.trust.attesting import Side, Terms, key_hash
from fedclave.trust.claims import Claims, Expected
from fedclave.trust.contract import Contract, File
from fedclave.trust.dsse import Envelope
from fedclave.trust.gate import Anchors, Standing
from fedclave.trust.heads import Peer
from fedclave.trust.policy_file import SignedPolicy
from fedclave.trust.quoting import QuotingEnclave
from fedclave.trust.release import Context, KeyPair
from fedclave.trust.releasing import Challenge, Receiver, Releaser
from fedclave.trust.sgx_verify import Appraisal
from fedclave.trust.simulated import SimulatedPlatform

NOW = datetime(2031, 5, 1, 12, tzinfo=UTC)
AUTHOR, OWNER, LOG = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2, 3))
PEER = Peer(origin="fedclave/kit", key=LOG.public_key())
PAIR = KeyPair(bytes(range(32)))
CONTEXT = Context(contract="c0" * 32, policy="d0" * 32, transcript="e0" * 32, purpose="model")
CODE = b"\xab" * 32

CONTRACT = Contract(
    federation="kit",
    plan="b0" * 32,
    files=tuple(
        File(path=path, size=n, sha256=f"{n:02x}" * 32)
        for n, path in enumerate(("plan/attestation.yaml", "plan/plan.yaml", "src/ä b.py"))
    ),
)
EXPECTED = Expected(
    role="aggregator",
    name="aggregator",
    federation="kit",
    contract="c0" * 32,
    policy="d0" * 32,
    key=b"k" * 32,
    peer=b"p" * 32,
    nonce=b"n" * 32,
    own_nonce=b"o" * 32,
)
CLAIMS = Claims(
    role="aggregator",
    name="aggregator",
    federation="kit",
    contract="c0" * 32,
    policy="d0" * 32,
    key=b"k" * 32,
    peer=b"p" * 32,
    nonce=b"n" * 32,
    own_nonce=b"o" * 32,
    time=NOW,
    hpke_key=PAIR.public,
    checkpoint=b"head",
)


@cache
def folder() -> Path:
    """A folder of this process; ``clean`` removes it."""
    return Path(tempfile.mkdtemp(prefix="fuzz-"))


def clean() -> None:
    """Remove it."""
    shutil.rmtree(folder(), ignore_errors=True)
    folder.cache_clear()


class OneVerifier:
    """Our own judgement, by the collateral of the simulated platform; without dcap-qvl, which is
    another process.
    """

    def verify(self, raw_quote: bytes, now: datetime) -> Appraisal:
        """As ``verify.Verifier`` has it."""
        return sgx_verify.judge(quotes.parse(raw_quote), _collateral(), platform().root, now)


@cache
def platform() -> SimulatedPlatform:
    """The platform of all quotes that are made here."""
    return SimulatedPlatform.create(folder() / "platform", "kit", NOW)


@cache
def signed_policy() -> SignedPolicy:
    """A policy that admits ``CODE`` on that platform, and releases models to it."""
    role = f"{{measurements: [{{mr_enclave: {CODE.hex()}}}]}}"
    found = policy.parse(
        "{schema: 1, name: kit, version: 1, valid: {from: 2031-01-01, until: 2031-12-31},"
        f' roots: ["{roots.SIMULATED}{platform().root_hash}"],'
        f" roles: {{aggregator: {role}, collaborator: {role}}},"
        " release: {initial_model: attested, data_key: attested}}"
    )
    return SignedPolicy(policy=found, digest=found.digest, signed_by=())


def quoted(said: bytes) -> bytes:
    """Evidence: a genuine enclave says this."""
    return ratls.encode(_enclave().quote(CODE, claims.report_data(said)), said)


def vouched(evidence: bytes, expected: Expected) -> Standing:
    """The gate's verdict."""
    return gate.vouch(
        evidence,
        expected=expected,
        verifier=OneVerifier(),  # type: ignore[arg-type]
        policy=signed_policy(),
        allow_simulated=True,
        now=NOW,
    )


def signed_contract() -> Envelope:
    """``CONTRACT``, signed by its author."""
    return dsse.sign(contract.CONTRACT_TYPE, CONTRACT.bytes, AUTHOR)


@cache
def authority() -> pki.Authority:
    """The CA of the federation."""
    return pki.Authority.create(folder() / "ca", "kit", b"correct horse", NOW)


def anchors() -> Anchors:
    """What it vouches for."""
    return authority().anchors


@cache
def certified(role: str, name: str) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A party's certificate and key."""
    key = keys.generate()
    asked = requests.make_request(key, federation="kit", role=role, name=name)  # type: ignore[arg-type]
    life = timedelta(days=7)
    leaf = authority().issue(asked, role=role, name=name, now=NOW, life=life)  # type: ignore[arg-type]
    return leaf, key


@cache
def releaser() -> Releaser:
    """Who holds the initial model."""
    return Releaser(
        key=AUTHOR,
        purpose="initial-model",
        name="aggregator",
        terms=_terms(),
        verifier=OneVerifier(),  # type: ignore[arg-type]
        anchors=anchors(),
        allow_simulated=True,
        now=lambda: NOW,
    )


@cache
def challenge() -> Challenge:
    """What it asks."""
    return Challenge(
        purpose="initial-model",
        name="aggregator",
        contract=CONTRACT.id,
        policy=signed_policy().digest,
        nonce=b"n" * 32,
        time=NOW,
    )


def offered() -> tuple[x509.Certificate, bytes, bytes]:
    """A good answer: certificate, evidence, nonce."""
    leaf, _ = certified("aggregator", "aggregator")
    said = Claims(
        role="aggregator",
        name="aggregator",
        federation="kit",
        contract=CONTRACT.id,
        policy=signed_policy().digest,
        key=key_hash(leaf),
        peer=bytes.fromhex(signing.key_id(AUTHOR.public_key())),
        nonce=challenge().nonce,
        own_nonce=b"o" * 32,
        time=NOW,
        hpke_key=PAIR.public,
        checkpoint=b"",
    )
    return leaf, quoted(claims.encode(said)), b"o" * 32


def receiver() -> Receiver:
    """Who waits for it: a new one, which has answered nothing yet."""
    side = Side(
        terms=_terms(),
        role="aggregator",
        name="aggregator",
        attester=_Attester(),
        verifier=OneVerifier(),  # type: ignore[arg-type]
        allow_simulated=True,
        pair=PAIR,
        now=lambda: NOW,
    )
    return Receiver(
        side=side,
        purpose="initial-model",
        releaser=AUTHOR.public_key(),
        leaf=lambda: certified("aggregator", "aggregator")[0],
    )


class _Attester:
    def evidence(self, report_data: bytes) -> bytes:
        return _enclave().quote(CODE, report_data)


@cache
def _enclave() -> QuotingEnclave:
    return QuotingEnclave(platform().quoting)


@cache
def _collateral() -> collateral.Collateral:
    return collateral.parse(platform().collateral(NOW))


@cache
def _terms() -> Terms:
    return Terms(
        federation="kit",
        contract=CONTRACT.id,
        policy=signed_policy(),
        required=frozenset({"aggregator", "collaborator"}),
    )
