# SPDX-License-Identifier: Apache-2.0
"""Every way in for bytes of others into ``fedclave.trust``, by name.

A target takes any bytes. It parses them as its part of fedclave does, and goes on with what parsed:
to the profile, the signature, the policy. Where a signature would end each changed input at once,
the target plays who may sign (an enclave that says anything, an author who signs anything), so that
what lies behind it is reached too. Where there is one form only, what parsed must give back the
bytes: ``Other`` is raised if it does not, which no target refuses with.
"""

from collections.abc import Callable
from contextlib import suppress

from fuzz import parties, seeds, written
from fuzz.watch import Target

from fedclave import canonical
from fedclave.errors import Code, PlanError, Refused, UserError
from fedclave.trust import (
    checkpoint,
    claims,
    collateral,
    contract,
    crl,
    dsse,
    gate,
    heads,
    log_proof,
    merkle,
    pck,
    pckext,
    policy,
    policy_file,
    quotes,
    ratls,
    records,
    release,
    requests,
    sealed,
    sgx_verify,
    signing,
    sigstruct,
    stated,
    tcb,
    tokens,
)
from fedclave.trust.adopt import adopt, root_sha256
from fedclave.trust.names import Identity
from fedclave.trust.releasing import CHALLENGE_TYPE, Challenge, Offer


class Other(Exception):
    """What was read is not what was written."""


def _same(again: bytes, data: bytes) -> None:
    if again != data:
        raise Other(f"{again[:80]!r} and not {data[:80]!r}")


def _quote(data: bytes) -> None:
    quote = quotes.parse(data)
    if quote.version == 3 and quote.chain:
        body = quotes.pack_header(quote.header) + quotes.pack_sgx_report(quote.body)  # type: ignore[arg-type]
        packed = quotes.pack_quote_v3(quote)
        if not any(quote.signed[at] for at in _RESERVED):
            _same(body, quote.signed)
        _same(packed, data[: len(packed)])
    sgx_verify.check_supported(quote)
    root = pck.choose_root(quote.chain, seeds.roots())
    about = (root, quote.tee, pck.platform(quote.chain, root).extension.fmspc)
    if about not in seeds.judges():
        raise Refused(Code.ATT_COLLATERAL_MISSING, "as the store says it")
    parts, now = seeds.judges()[about]
    sgx_verify.judge(quote, parts, root, now)


# Reserved bytes of an SGX report, which are signed and not kept, and so not packed again.
_RESERVED = tuple(
    48 + at
    for start, size in ((20, 12), (96, 32), (160, 32), (262, 42))
    for at in range(start, start + size)
)


def _claims(data: bytes) -> None:
    """A genuine enclave says this."""
    said = claims.decode(data)
    _same(claims.encode(said), data)
    claims.binding(data)
    parties.vouched(parties.quoted(data), parties.EXPECTED)


def _evidence(data: bytes) -> None:
    quote, said = ratls.decode(data)
    _same(ratls.encode(quote, said), data)
    parties.vouched(data, parties.EXPECTED)


def _certificate(data: bytes) -> None:
    """What shows a certificate: RA-TLS, and the gate's first step."""
    problems = []
    for read in (
        lambda: ratls.bound(ratls.read(data)),
        lambda: gate.foresee(data, role="aggregator", now=parties.NOW),
        lambda: gate.fingerprint(data),
        lambda: gate.admit(
            data, anchors=parties.anchors(), role="collaborator", now=parties.NOW, members={"anna"}
        ),
    ):
        try:
            read()
        except Refused as refused:
            problems.append(refused)
    if len(problems) == 4:
        raise problems[0]


def _chain(data: bytes) -> None:
    root = pck.choose_root(data, seeds.roots())
    pck.platform(data, root)


def _platform(data: bytes) -> None:
    """One certificate of the PCK's CA, in each role."""
    last: Refused | None = None
    for role in pck.Role:
        try:
            found = pck.certificate(data, role, "the certificate", seeds.CHAIN)
        except Refused as refused:
            last = refused
            continue
        with suppress(Refused):
            pck.check_issued(found, pck.root(pck.INTEL_ROOT), "it", seeds.CHAIN)
        return
    if last is not None:
        raise last


def _crl(data: bytes) -> None:
    for issuer in seeds.issuers():
        try:
            pck.crl(data, issuer, "the list", seeds.CHAIN)
            return
        except Refused as refused:
            last = refused
    try:
        crl.number(crl.parse(data, parties.anchors().issuing))
    except ValueError:  # ``crl.parse`` refuses so, and ``is_revoked`` and ``adopt`` know
        raise last from None


def _anchors(data: bytes) -> None:
    """What a CA sends to who joins: its chain, its length (4 bytes) before it, and its list."""
    size = int.from_bytes(data[:4], "big")
    adopt(
        parties.folder() / "joined",
        data[4 : 4 + size],
        data[4 + size :],
        root=root_sha256(parties.anchors()),
    )


def _collateral(data: bytes) -> None:
    collateral.parse(data)
    for root in seeds.roots():
        try:
            vouched = collateral.vouch(data, root)
        except Refused as refused:
            last = refused
        else:
            with suppress(Refused):
                collateral.check_current(vouched, parties.NOW)
            return
    raise last


def _tcb(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    try:
        tcb.tcb_info(text)
    except Refused:
        tcb.qe_identity(text)


def _one_form(parse: Callable[[bytes], object], form: Callable[[object], bytes]) -> Callable:  # type: ignore[type-arg]
    def run(data: bytes) -> None:
        _same(form(parse(data)), data)

    return run


def _envelope(data: bytes) -> None:
    found = dsse.decode(data)
    if dsse.decode(dsse.encode(found)) != found:
        raise Other("an envelope is another one when it is written and read again")
    dsse.verified(found, found.type, [parties.AUTHOR.public_key()])


def _accepted(data: bytes) -> None:
    """An author signs this, and the owner of a site too."""
    signed = dsse.sign(contract.CONTRACT_TYPE, data, parties.AUTHOR)
    accepted = dsse.sign(contract.ACCEPTANCE_TYPE, data, parties.OWNER)
    try:
        gate.authored(
            signed, authors=[parties.AUTHOR.public_key()], federation="kit", plan="b0" * 32
        )
    except Refused:
        gate.accept(
            parties.signed_contract(),
            accepted,
            authors=[parties.AUTHOR.public_key()],
            owner=parties.OWNER.public_key(),
            party="anna",
            federation="kit",
            plan="b0" * 32,
        )


def _growth(data: bytes) -> None:
    """A proof that a log grew from 5 entries to 8, or that an entry is one of 5: its hashes."""
    hashes = [data[at : at + merkle.HASH] for at in range(0, len(data), merkle.HASH)]
    old, new = seeds.trees()
    try:
        merkle.check_consistency(old, new, hashes)
    except Refused:
        size, root = old
        at = len(data) % 8
        merkle.check_inclusion(seeds.leaf(at), at, hashes, size=size, root=root)


def _proof(data: bytes) -> None:
    found = log_proof.decode(data)
    _same(log_proof.encode(found), data)
    log_proof.verified(found, parties.LOG.public_key())


def _policy(data: bytes) -> None:
    found = policy.parse(data.decode("utf-8", "replace"))
    canonical.decode(found.bytes)


def _challenge(data: bytes) -> None:
    """The releaser whom the party answers signs this."""
    signed = dsse.encode(dsse.sign(CHALLENGE_TYPE, data, parties.AUTHOR))
    parties.receiver().offer(signed)


def _offer(data: bytes) -> None:
    """A certificate, evidence and a nonce; the first two with their lengths (4 bytes) before."""
    fields = []
    for _ in range(2):
        size = int.from_bytes(data[:4], "big")
        fields.append(data[4 : 4 + size])
        data = data[4 + size :]
    offer = Offer(certificate=fields[0], evidence=fields[1], nonce=data)
    parties.releaser().judge(parties.challenge(), b"envelope", offer)


def _sealed(data: bytes) -> None:
    """A sealed file, and a sealed message."""
    path = parties.folder() / "sealed"
    path.write_bytes(data)
    try:
        key = sealed.file_key(parties.PAIR, path, context=parties.CONTEXT)
        with (parties.folder() / "opened").open("wb") as out:
            sealed.decrypt(key, path, out)
    except Refused:
        release.open(parties.PAIR, data, context=parties.CONTEXT)


def _request(data: bytes) -> None:
    requests.check(
        requests.parse(data), Identity(federation="kit", role="collaborator", name="anna")
    )


def _line(data: bytes) -> None:
    """What a person is handed as text: tokens and public keys."""
    text, last = data.decode("utf-8", "replace"), None
    for read in (
        lambda: tokens.parse(text, parties.NOW),
        lambda: checkpoint.parse_verifier_key(text),
        lambda: policy_file.parse_key(text),
        lambda: signing.parse_public(data, "the file"),
        lambda: release.parse_public(data, "the file"),
    ):
        try:
            read()
            return
        except (Refused, UserError) as error:
            last = error
    if last is not None:
        raise last


def _bytes_of(value: object) -> bytes:
    return value.bytes  # type: ignore[attr-defined, no-any-return]


TARGETS: dict[str, Target] = {
    "quote": Target(what="quotes, v3, v4 and v5", seeds=seeds.quotes_, run=_quote),
    "claims": Target(what="claims in a genuine quote", seeds=seeds.claims_, run=_claims),
    "evidence": Target(what="a quote with its claims", seeds=seeds.evidence, run=_evidence),
    "certificate": Target(what="RA-TLS; the gate", seeds=seeds.certificates, run=_certificate),
    "chain": Target(what="a quote's PEM chain", seeds=seeds.chains, run=_chain),
    "platform": Target(what="PCK, its CA, TCB signing", seeds=seeds.platforms, run=_platform),
    "extension": Target(what="Intel's SGX extension", seeds=seeds.extensions, run=pckext.parse),
    "anchors": Target(what="a CA's chain and list", seeds=seeds.anchors, run=_anchors),
    "crl": Target(what="revocation lists", seeds=seeds.crls, run=_crl),
    "collateral": Target(what="collateral", seeds=seeds.collaterals, run=_collateral),
    "tcb": Target(what="TCB info, QE identity", seeds=seeds.texts, run=_tcb),
    "contract": Target(
        what="contracts", seeds=seeds.contracts, run=_one_form(contract.parse, _bytes_of)
    ),
    "acceptance": Target(
        what="acceptances",
        seeds=seeds.acceptances,
        run=_one_form(contract.parse_acceptance, _bytes_of),
    ),
    "accepted": Target(what="either, signed", seeds=seeds.agreed, run=_accepted),
    "envelope": Target(what="DSSE envelopes", seeds=seeds.envelopes, run=_envelope),
    "head": Target(what="a log's head with its key", seeds=seeds.shown, run=heads.read),
    "stated": Target(
        what="how far a run has come",
        seeds=seeds.stated_,
        run=_one_form(stated.parse, lambda made: made.raw),  # type: ignore[attr-defined]
    ),
    "split": Target(
        what="two heads that contradict",
        seeds=seeds.splits,
        run=lambda data: heads.verify_evidence(data, parties.PEER),
    ),
    "growth": Target(what="a log's growth, proved", seeds=seeds.growths, run=_growth),
    "proof": Target(what="a log's entry, proved", seeds=seeds.proofs, run=_proof),
    "record": Target(what="a log's entry", seeds=seeds.records_, run=records.decode),
    "challenge": Target(what="release: challenges, signed", seeds=seeds.challenges, run=_challenge),
    "payload": Target(
        what="release: challenges",
        seeds=seeds.challenges,
        run=_one_form(Challenge.parse, lambda made: made.encoded),  # type: ignore[attr-defined]
    ),
    "offer": Target(what="release: offers", seeds=seeds.offers, run=_offer),
    "sealed": Target(what="sealed files and messages", seeds=seeds.sealed_, run=_sealed),
    "request": Target(what="certificate requests", seeds=seeds.requests_, run=_request),
    "policy": Target(
        what="policies", seeds=written.policies, run=_policy, refusals=(Refused, PlanError)
    ),
    "line": Target(
        what="tokens, public keys", seeds=written.lines, run=_line, refusals=(Refused, UserError)
    ),
    "sigstruct": Target(what="SIGSTRUCT", seeds=written.sigstructs, run=sigstruct.parse),
}
