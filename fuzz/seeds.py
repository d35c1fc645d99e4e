# SPDX-License-Identifier: Apache-2.0
"""Inputs that are known: those of the test vectors, and what the code itself makes.

The first of each is accepted by its target.
"""

import json
import ssl
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from fuzz import parties

from fedclave import canonical
from fedclave.errors import Code
from fedclave.trust import (
    checkpoint,
    claims,
    collateral,
    dsse,
    heads,
    log_proof,
    merkle,
    pck,
    quotes,
    ratls,
    records,
    release,
    requests,
    sealed,
    stated,
)
from fedclave.trust.checkpoint import Head
from fedclave.trust.collateral import Collateral
from fedclave.trust.contract import Acceptance
from fedclave.trust.judgement import Word
from fedclave.trust.releasing import CHALLENGE_TYPE
from fedclave.trust.simulated import Faults

VECTORS = Path(__file__).parents[1] / "tests" / "vectors" / "attestation"
CHAIN = Code.ATT_CHAIN


@cache
def _cases(kind: str) -> tuple[dict[str, Any], ...]:
    return tuple(json.loads((VECTORS / "cases.json").read_text(encoding="utf-8"))[kind])


def _files(kind: str, what: str) -> list[bytes]:
    """The files that the cases name, genuine ones first, each once."""
    cases = sorted(_cases(kind), key=lambda case: bool(case["must_reject"]))
    return [(VECTORS / name).read_bytes() for name in dict.fromkeys(case[what] for case in cases)]


@cache
def roots() -> tuple[bytes, ...]:
    """The roots that are trusted here: Intel's, the vectors' simulated one, our own."""
    named = sorted({case["root"] for case in _cases("quote_cases")} - {"intel"})
    return (pck.INTEL_ROOT, (VECTORS / named[0]).read_bytes(), parties.platform().root)


@cache
def judges() -> dict[tuple[bytes, str, bytes], tuple[Collateral, datetime]]:
    """By root, TEE and FMSPC: collateral, and a time at which it is good."""
    found: dict[tuple[bytes, str, bytes], tuple[Collateral, datetime]] = {}
    for case in _cases("quote_cases"):
        if not case["must_reject"]:
            parts = collateral.parse((VECTORS / case["collateral"]).read_bytes())
            root = pck.INTEL_ROOT if case["root"] == "intel" else _read(case["root"])
            about = (root, parts.tcb_info.tee, parts.tcb_info.fmspc)
            found[about] = (parts, datetime.fromtimestamp(case["now"], UTC))
    return found


@cache
def issuers() -> tuple[pck.Certificate, ...]:
    """Who signs revocation lists: the roots, and the CAs of the vectors' collateral."""
    named = [pck.root(root) for root in roots()]
    for parts, _ in judges().values():
        block = pck.split(parts.pck_crl_chain.encode(), "", CHAIN)[0]
        named.append(pck.certificate(pck.decode(block), pck.Role.PCK_CA, "", CHAIN))
    return tuple({one.parsed: one for one in named}.values())


def quotes_() -> list[bytes]:
    """Of all versions, genuine, changed and cut short."""
    return _files("quote_cases", "quote")


def claims_() -> list[bytes]:
    """Of this code, with either kind of key to seal to, and of the vectors' certificates."""
    longer = replace(parties.CLAIMS, hpke_key=bytes(claims.HPKE_KEYS[1]), checkpoint=b"")
    own = [claims.encode(one) for one in (parties.CLAIMS, longer)]
    return own + [one.claims for one in _ratls() if one.claims is not None]


def evidence() -> list[bytes]:
    """Genuine, and about claims of others."""
    said = claims_()[0]
    return [parties.quoted(said)] + [
        ratls.encode(one.quote, one.claims) for one in _ratls() if one.claims is not None
    ]


def certificates() -> list[bytes]:
    """With evidence of several makers; of this federation's parties, in both encodings."""
    leaf, _ = parties.certified("collaborator", "anna")
    server, _ = parties.certified("aggregator", "aggregator")
    forms = [
        one.public_bytes(form) for one in (leaf, server) for form in (Encoding.DER, Encoding.PEM)
    ]
    return [*_shown(), *forms]


def chains() -> list[bytes]:
    """Of the quotes."""
    parsed = [quotes.parse(_read(case["quote"])) for case in _genuine()]
    return list(dict.fromkeys(one.chain for one in parsed if one.chain))


def platforms() -> list[bytes]:
    """The certificates of those chains, and those behind collateral."""
    texts = [*chains()]
    for parts, _ in judges().values():
        texts += [parts.signed_tcb_info.chain.encode(), parts.pck_crl_chain.encode()]
    blocks = [block for text in texts for block in pck.split(text, "", CHAIN)]
    return list(dict.fromkeys(map(pck.decode, blocks)))


def extensions() -> list[bytes]:
    """Intel's extension of the PCK certificates."""
    found = []
    for der in platforms():
        with suppress(ValueError):  # a bit of an embedded root was flipped
            for one in x509.load_der_x509_certificate(der).extensions:
                if one.oid == pck.EXTENSION and isinstance(one.value, x509.UnrecognizedExtension):
                    found.append(one.value.value)
    return found


def crls() -> list[bytes]:
    """Intel's, the simulated ones, and this federation's."""
    found = [one for parts, _ in judges().values() for one in (parts.root_crl, parts.pck_crl)]
    return [*dict.fromkeys(found), parties.authority().crl(parties.NOW)]


def anchors() -> list[bytes]:
    """Those of this federation."""
    chain = parties.anchors().chain
    return [len(chain).to_bytes(4, "big") + chain + parties.authority().crl(parties.NOW)]


def collaterals() -> list[bytes]:
    """Of a platform of now; Intel's, simulated and forged."""
    own = parties.platform()
    faulty = Faults(status="OutOfDate", advisories=("SIMULATED-SA-00001",), revoked=["pck"])
    made = [own.collateral(parties.NOW), own.collateral(parties.NOW, faulty)]
    return made + _files("quote_cases", "collateral")


def texts() -> list[bytes]:
    """What is signed in collateral."""
    parts = [one for one, _ in judges().values()]
    signed = [
        text for one in parts for text in (one.signed_tcb_info.text, one.signed_qe_identity.text)
    ]
    return [text.encode() for text in dict.fromkeys(signed)]


def contracts() -> list[bytes]:
    """One of three files, one of none."""
    return [parties.CONTRACT.bytes, replace(parties.CONTRACT, files=()).bytes]


def acceptances() -> list[bytes]:
    """Of that contract, and of another."""
    own = Acceptance(contract=parties.CONTRACT.id, federation="kit", party="anna")
    return [own.bytes, replace(own, party="ä b", contract="00" * 32).bytes]


def agreed() -> list[bytes]:
    """Both."""
    return [*contracts(), *acceptances()]


def envelopes() -> list[bytes]:
    """With one signature, two, none; of several types."""
    one = parties.signed_contract()
    two = dsse.add(one, parties.OWNER)
    challenge = dsse.sign(CHALLENGE_TYPE, parties.challenge().encoded, parties.AUTHOR)
    none = replace(one, signatures=(), payload=b"")
    return [dsse.encode(envelope) for envelope in (one, two, challenge, none)]


def shown() -> list[bytes]:
    """Heads of a log with their key."""
    return [heads.show(_note(size), parties.PEER) for size in (5, 0, 1)]


def stated_() -> list[bytes]:
    """How far runs have come."""
    made = [
        stated.state(
            parties.LOG,
            plan="a" * 64,
            contract="c" * 64,
            round_=number,
            model="b" * 64,
            head=_note(5).decode(),
        )
        for number in (0, 5)
    ]
    return [one.raw for one in made]


def splits() -> list[bytes]:
    """Two heads of one size."""
    fields = {
        "heads": [_note(5).decode(), _note(5, b"other").decode()],
        "key": parties.PEER.line,
        "proof": ["ab" * 32],
        "time": "2031-05-01T12:00:00Z",
        "type": heads.EVIDENCE,
    }
    return [canonical.encode(fields) + b"\n"]


def leaf(at: int) -> bytes:
    """The hash of an entry of a log."""
    return merkle.leaf_hash(bytes([at]))


def trees() -> tuple[tuple[int, bytes], tuple[int, bytes]]:
    """A log of 5 entries, and of 8: sizes and roots."""
    return (5, merkle.root(map(leaf, range(5)))), (8, merkle.root(map(leaf, range(8))))


def growths() -> list[bytes]:
    """From the one to the other; entry 0 of the smaller one."""
    return [
        b"".join(merkle.consistency(5, 8, _node)),
        b"".join(merkle.inclusion(0, 5, _node)),
    ]


def proofs() -> list[bytes]:
    """Entry 3 of 5; the one entry of a log."""
    return [_proof(3, 5), _proof(0, 1)]


def records_() -> list[bytes]:
    """One of each kind."""
    at, digest = parties.NOW, "ab" * 32
    part = records.Part(
        name="anna", word=Word.SIMULATED, packet=digest, weight=12, outcome="folded"
    )
    shared: dict[str, Any] = {"contract": digest, "plan": digest}
    made: list[records.Record] = [
        records.RoundRecord(
            at=at, **shared, round=3, word=Word.SIMULATED, members=(part,), aggregate=digest,
            model_before=digest, model_after=digest, codec={"name": "dense"}, privacy={},
        ),
        records.ContractRecord(at=at, **shared, author=digest),
        records.PolicyRecord(at=at, version=7, policy=digest, signers=(digest,)),
        records.AdmissionRecord(
            at=at, peer="anna", role="collaborator", certificate=digest, word=Word.SIMULATED,
            measurement=digest, tcb_status="UpToDate", evidence=digest, policy=digest,
        ),
        records.RefusalRecord(at=at, code=Code.LATE, peer="eve", word=None, message="é runs"),
        records.ReleaseRecord(
            at=at, to="anna", purpose="data-key", word=Word.SIMULATED, key=digest, object=digest,
            transcript=digest,
        ),
    ]  # fmt: skip
    return [records.encode(one) for one in made]


def challenges() -> list[bytes]:
    """That of the releaser, an old one, one for another."""
    one = parties.challenge()
    old = replace(one, time=one.time - timedelta(days=1))
    return [made.encoded for made in (one, old, replace(one, name="anna", purpose="data-key"))]


def offers() -> list[bytes]:
    """A good one; one of another party."""
    leaf, evidence_, nonce = parties.offered()
    other, _ = parties.certified("collaborator", "anna")
    made = []
    for one in (leaf, other):
        fields = (one.public_bytes(Encoding.PEM), evidence_)
        made.append(b"".join(len(f).to_bytes(4, "big") + f for f in fields) + nonce)
    return made


def sealed_() -> list[bytes]:
    """A file, and a message."""
    source, target = parties.folder() / "plain", parties.folder() / "made"
    source.write_bytes(bytes(range(256)))
    sealed.seal_file(parties.PAIR.public, source, target, context=parties.CONTEXT)
    return [
        target.read_bytes(),
        release.seal(parties.PAIR.public, b"secret", context=parties.CONTEXT),
    ]


def requests_() -> list[bytes]:
    """In both encodings; of a server, with hosts."""
    _, key = parties.certified("collaborator", "anna")
    made: dict[str, Any] = {"federation": "kit", "role": "collaborator", "name": "anna"}
    one = requests.make_request(key, **made)
    server: dict[str, Any] = {"federation": "kit", "role": "aggregator", "name": "agg"}
    other = requests.make_request(key, **server, hosts=["localhost", "127.0.0.1"])
    return [
        *(one.public_bytes(form) for form in (Encoding.DER, Encoding.PEM)),
        other.public_bytes(Encoding.DER),
    ]


def _read(name: str) -> bytes:
    return (VECTORS / name).read_bytes()


def _genuine() -> list[dict[str, Any]]:
    """Bytes that nobody signed follow one that is genuine otherwise: that does not parse."""
    lenient = [case for case in _cases("quote_cases") if case["must_reject"] is False]
    return [case for case in lenient if case["id"] != "t-sgx-trailing"]


def _shown() -> list[bytes]:
    found = []
    for case in _cases("ratls_cases"):
        raw = _read(case["cert"])
        pem = case["cert"].endswith(".pem")
        found.append(ssl.PEM_cert_to_DER_cert(raw.decode()) if pem else raw)
    return found


def _ratls() -> list[ratls.RaTls]:
    good = [case["cert"] for case in _cases("ratls_cases") if not case["must_reject"]]
    return [ratls.read(_read(name)) for name in good]


@cache
def _leaves(last: bytes) -> tuple[bytes, ...]:
    return tuple(map(merkle.leaf_hash, (b"a", b"b", b"c", records_()[0], last)))


def _note(size: int, last: bytes = b"e") -> bytes:
    head = Head(origin=parties.PEER.origin, size=size, root=merkle.root(_leaves(last)[:size]))
    return checkpoint.sign(head, parties.LOG)


def _node(level: int, at: int) -> bytes:
    return merkle.root(map(leaf, range(at << level, (at + 1) << level)))


def _proof(index: int, size: int) -> bytes:
    def node(level: int, at: int) -> bytes:
        return merkle.root(_leaves(b"e")[at << level : (at + 1) << level])

    made = log_proof.LogProof(
        origin=parties.PEER.origin,
        index=index,
        entry=(b"a", b"b", b"c", records_()[0], b"e")[index],
        path=tuple(merkle.inclusion(index, size, node)),
        note=_note(size),
    )
    return log_proof.encode(made)
