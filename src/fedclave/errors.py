# SPDX-License-Identifier: Apache-2.0
"""Every error of fedclave, grouped by who must act.

    FedclaveError
      UserError      you wrote it: a command, a file, a passphrase     exit 2
        PlanError    ... in the plan, all mistakes at once
        SettingsError  ... in what the plan hands to code
      PeerError      they did it                                       exit 3
        Refused      ... with a stable ``Code``, here or at the peer
      Unavailable    the world: network, disk, a party that is away    exit 4
      Bug            us                                                exit 70

A message says what, where, and the next step. Only ``cli/main.py`` prints them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar


class Code(StrEnum):
    """Why a peer was refused. The value is stable: it is on the wire, in events and in the docs."""

    NO_CERTIFICATE = "no-certificate"
    FOREIGN_CERTIFICATE = "foreign-certificate"
    CERTIFICATE_EXPIRED = "certificate-expired"
    CERTIFICATE_NOT_YET_VALID = "certificate-not-yet-valid"
    CERTIFICATE_REVOKED = "certificate-revoked"
    REVOCATION_UNKNOWN = "revocation-unknown"
    WRONG_ROLE = "wrong-role"
    WRONG_FEDERATION = "wrong-federation"
    UNKNOWN_MEMBER = "unknown-member"
    BAD_REQUEST = "bad-request"
    NAME_IN_USE = "name-in-use"
    WRONG_VERSION = "wrong-version"
    WRONG_PLAN = "wrong-plan"
    NOT_ASKED = "not-asked"
    LATE = "late"
    DUPLICATE = "duplicate"
    MALFORMED = "malformed"
    WRONG_TENSORS = "wrong-tensors"
    NOT_FINITE = "not-finite"
    OUT_OF_RANGE = "out-of-range"
    BAD_WEIGHT = "bad-weight"
    TOO_LARGE = "too-large"
    TOO_SLOW = "too-slow"
    OVER_QUOTA = "over-quota"
    WRONG_OFFSET = "wrong-offset"
    WRONG_DIGEST = "wrong-digest"
    NOT_FOUND = "not-found"
    TASK_FAILED = "task-failed"
    TOKEN_UNKNOWN = "token-unknown"  # noqa: S105 - the name of a refusal
    TOKEN_USED = "token-used"  # noqa: S105 - likewise
    TOKEN_EXPIRED = "token-expired"  # noqa: S105 - likewise

    BAD_SIGNATURE = "bad-signature"
    WRONG_CONTRACT = "wrong-contract"
    CANNOT_OPEN = "cannot-open"
    LOG_PROOF = "log-proof"
    LOG_OLDER = "log-older"
    LOG_FORK = "log-fork"
    LOG_AGGREGATE = "log-aggregate"
    SET_BACK = "set-back"

    # Attestation: what a verifier of evidence finds (RFC 9334); docs/reference/errors.md
    ATT_MALFORMED = "ATT-MALFORMED"
    ATT_UNSUPPORTED = "ATT-UNSUPPORTED"
    ATT_SIGNATURE = "ATT-SIGNATURE"
    ATT_CHAIN = "ATT-CHAIN"
    ATT_REVOKED = "ATT-REVOKED"
    ATT_COLLATERAL = "ATT-COLLATERAL"
    ATT_COLLATERAL_MISSING = "ATT-COLLATERAL-MISSING"
    ATT_COLLATERAL_EXPIRED = "ATT-COLLATERAL-EXPIRED"
    ATT_COLLATERAL_FUTURE = "ATT-COLLATERAL-FUTURE"
    ATT_COLLATERAL_SIGNER = "ATT-COLLATERAL-SIGNER"
    ATT_COLLATERAL_OLDER = "ATT-COLLATERAL-OLDER"
    ATT_PLATFORM = "ATT-PLATFORM"
    ATT_PCE_ID = "ATT-PCE-ID"
    ATT_QE = "ATT-QE"
    ATT_TCB = "ATT-TCB"
    ATT_TCB_STATUS = "ATT-TCB-STATUS"
    ATT_ADVISORY = "ATT-ADVISORY"
    ATT_DEBUG = "ATT-DEBUG"
    ATT_ATTRIBUTES = "ATT-ATTRIBUTES"
    ATT_MRENCLAVE = "ATT-MRENCLAVE"
    ATT_MRSIGNER = "ATT-MRSIGNER"
    ATT_PRODUCT = "ATT-PRODUCT"
    ATT_KEY_BINDING = "ATT-KEY-BINDING"
    ATT_NONCE = "ATT-NONCE"
    ATT_ROLE = "ATT-ROLE"
    ATT_CONTRACT = "ATT-CONTRACT"
    ATT_POLICY = "ATT-POLICY"
    ATT_POLICY_EMPTY = "ATT-POLICY-EMPTY"
    ATT_POLICY_VERSION = "ATT-POLICY-VERSION"
    ATT_SIMULATED = "ATT-SIMULATED"
    ATT_REQUIRED = "ATT-REQUIRED"
    ATT_DISAGREE = "ATT-DISAGREE"


MEANING: dict[Code, str] = {
    Code.NO_CERTIFICATE: "the peer showed no certificate",
    Code.FOREIGN_CERTIFICATE: "the certificate was not issued by this federation's CA",
    Code.CERTIFICATE_EXPIRED: "the certificate's validity has ended (or a clock is wrong)",
    Code.CERTIFICATE_NOT_YET_VALID: "the certificate is not valid yet (or a clock is wrong)",
    Code.CERTIFICATE_REVOKED: "the certificate is on the CA's revocation list",
    Code.REVOCATION_UNKNOWN: "the revocation list is missing, damaged or stale; nobody is admitted",
    Code.WRONG_ROLE: "the certificate was issued for another role",
    Code.WRONG_FEDERATION: "the certificate belongs to another federation",
    Code.UNKNOWN_MEMBER: "the certificate is good, but its name is not on the list of members",
    Code.BAD_REQUEST: "the certificate request is damaged, or asks for other than was granted",
    Code.NAME_IN_USE: "another live process takes part under this name",
    Code.WRONG_VERSION: "the two sides share no version of the wire protocol",
    Code.WRONG_PLAN: "the two sides hold different plans",
    Code.NOT_ASKED: "no open request asks this member for this",
    Code.LATE: "the round had closed",
    Code.DUPLICATE: "this member's update is already in the round",
    Code.MALFORMED: "the message or file does not parse",
    Code.WRONG_TENSORS: "tensor names, shapes or dtypes differ from the model's",
    Code.NOT_FINITE: "a value is NaN or infinite",
    Code.OUT_OF_RANGE: "a value exceeds the plan's fold.limit",
    Code.BAD_WEIGHT: "the weight is not in 1..fold.max_weight",
    Code.TOO_LARGE: "more bytes than the round's model allows",
    Code.TOO_SLOW: "the sender made no progress for too long",
    Code.OVER_QUOTA: "more calls or bytes than one member may use",
    Code.WRONG_OFFSET: "a chunk does not continue where the transfer stands",
    Code.WRONG_DIGEST: "the bytes do not have the SHA-256 that was promised",
    Code.NOT_FOUND: "no such object is offered",
    Code.TASK_FAILED: "the member's own code failed; its message follows",
    Code.TOKEN_UNKNOWN: "the join token is not one of this CA's",
    Code.TOKEN_USED: "the join token was used before",
    Code.TOKEN_EXPIRED: "the join token has expired",
    Code.BAD_SIGNATURE: "too few valid signatures by keys that are trusted for it",
    Code.WRONG_CONTRACT: "a file, or the peer, is not of the contract that was signed",
    Code.LOG_PROOF: "a log's files, or a proof, do not lead to the head that its key signed",
    Code.LOG_OLDER: "a log's head is older than one that was seen before",
    Code.LOG_FORK: "a log's key signed two histories: it shows each party its own, or rewrote one",
    Code.LOG_AGGREGATE: "a round computed again from its updates is not what the log says",
    Code.SET_BACK: "the aggregator's state is older than what it stated before",
    Code.CANNOT_OPEN: "something sealed was changed, or is for another key, contract or purpose",
    Code.ATT_MALFORMED: "the evidence does not parse, or has bytes that no format explains",
    Code.ATT_UNSUPPORTED: "a kind or version of evidence that this build does not verify",
    Code.ATT_SIGNATURE: "a signature inside the quote is not valid",
    Code.ATT_CHAIN: "the quote's certificates do not lead to a root that the policy trusts",
    Code.ATT_REVOKED: "a certificate of the platform, or its TCB level, was revoked",
    Code.ATT_COLLATERAL: "the collateral is damaged, or its signature is not valid",
    Code.ATT_COLLATERAL_MISSING: "no collateral for this platform is in the local store",
    Code.ATT_COLLATERAL_EXPIRED: "the collateral's next update is past",
    Code.ATT_COLLATERAL_FUTURE: "the collateral was issued in the future (or a clock is wrong)",
    Code.ATT_COLLATERAL_SIGNER: "the collateral is not signed by the certificate that may sign it",
    Code.ATT_COLLATERAL_OLDER: "older collateral than what was accepted before",
    Code.ATT_PLATFORM: "the quote and the collateral are of different kinds of platforms (FMSPC)",
    Code.ATT_PCE_ID: "the quote and the collateral name different provisioning enclaves (pceId)",
    Code.ATT_QE: "the quoting enclave is not the one that its vendor vouches for",
    Code.ATT_TCB: "the platform's TCB is below every known level",
    Code.ATT_TCB_STATUS: "the platform's TCB status is not one that the policy allows",
    Code.ATT_ADVISORY: "a security advisory applies that the policy does not accept",
    Code.ATT_DEBUG: "a debug enclave: its host reads its memory",
    Code.ATT_ATTRIBUTES: "the enclave's attributes are not those that the policy demands",
    Code.ATT_MRENCLAVE: "the code is not one that the policy allows",
    Code.ATT_MRSIGNER: "the enclave's signer is not one that the policy allows",
    Code.ATT_PRODUCT: "the enclave's product or security version is not one that the policy allows",
    Code.ATT_KEY_BINDING: "the evidence belongs to another TLS key (possible relay)",
    Code.ATT_NONCE: "the evidence does not answer this challenge (possible replay)",
    Code.ATT_ROLE: "the evidence was made for another role",
    Code.ATT_CONTRACT: "the evidence names another contract",
    Code.ATT_POLICY: "the policy does not allow this peer, or is not valid now",
    Code.ATT_POLICY_EMPTY: "the policy admits nobody: it names no measurement",
    Code.ATT_POLICY_VERSION: "the two sides follow different versions of the policy",
    Code.ATT_SIMULATED: "a simulated TEE where hardware is demanded",
    Code.ATT_REQUIRED: "a call before the peer has attested, or after its session ended",
    Code.ATT_DISAGREE: "two verifiers disagree about the evidence",
}
"""One sentence for each code; the reference page of the docs is checked against it."""


class FedclaveError(Exception):
    """Anything that fedclave reports. ``exit_code`` is the process's."""

    exit_code: ClassVar[int] = 70


class UserError(FedclaveError):
    """The caller's own mistake: fix it and run again."""

    exit_code = 2


class SettingsError(UserError):
    """What settings are wrong, unknown or missing; ``mistakes`` has a sentence for each of them."""

    def __init__(self, mistakes: Sequence[tuple[str, str]]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("; ".join(sentence for _, sentence in mistakes))


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One mistake in a file: ``file:line path: reason. remedy``. Line 0: it is about no line."""

    file: str
    line: int
    path: str
    reason: str
    remedy: str = ""

    def __str__(self) -> str:
        where = self.file + (f":{self.line}" if self.line else "")
        where += f" {self.path}" if self.path else ""
        return f"{where}: {self.reason}." + (f" {self.remedy}" if self.remedy else "")


class PlanError(UserError):
    """The plan has mistakes; ``problems`` lists every one of them in file order."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class PeerError(FedclaveError):
    """The other side did something that it must not."""

    exit_code = 3


class Refused(PeerError):
    """One side refused the other, for a reason with a stable code. Not worth retrying as it is.

    >>> str(Refused(Code.LATE, "round 3 closed before alice's update came"))
    "late: round 3 closed before alice's update came"
    """

    def __init__(self, code: Code, message: str) -> None:
        self.code = code
        self.message = message
        super().__init__(f"{code}: {message}")


class Unavailable(FedclaveError):
    """Something that may come back: a peer, the network, disk space. Trying again can help."""

    exit_code = 4


class Bug(FedclaveError):
    """An invariant of fedclave itself does not hold. Please report it."""
