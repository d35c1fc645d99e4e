# SPDX-License-Identifier: Apache-2.0
"""The attestation policy: what a peer must run, where, and in which state. Frozen, strict.

People write it (``plan/attestation.yaml``), some of them sign its canonical bytes
(``policy_file``), every party applies it for itself (``judgement``). What it does not name is not
allowed: a role without measurement and signer admits nobody, and every switch is off. An unknown
key, a wrong type, a rule that contradicts another: all are refused at once, each with its line.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from fedclave import canonical, mistakes, yamlfile
from fedclave.errors import PlanError
from fedclave.plan import Name, Part
from fedclave.trust.policy_values import (
    Advisory,
    Begin,
    Bits,
    Bytes16,
    Bytes32,
    Bytes48,
    End,
    Listed,
    Members,
    NotEmpty,
    Root,
    StatusName,
    Text,
)

Purpose = Literal["initial-model", "data-key"]
"""What secrets are released for (``releasing``)."""

ALL_BITS = 2**64 - 1
GRAMINE_XFRM_MASK = 0xFFFFFFFFFFF9FF1B
"""What Gramine signs into XFRM's mask: AVX, AVX-512 and AMX are the machine's to have or not."""


class ValidPart(Part):
    """When the policy holds. Outside, it admits nobody."""

    from_: Begin = Field(alias="from")
    """From then on; a date begins at 0:00 UTC."""
    until: End
    """Until then; a date includes its whole day, UTC."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.until <= self.from_:
            raise ValueError("until is not after from. Correct one of them")
        return self


class MeasurementPart(Part):
    """Code that may run: an SGX enclave, or a TD with its kernel and application."""

    mr_enclave: Bytes32 | None = None
    """MRENCLAVE of an SGX enclave; the measurement of a simulated one."""
    mr_td: Bytes48 | None = None
    """MRTD of a TD: its firmware, no more. The run-time measurements must stand beside it."""
    rt_mr0: Bytes48 | None = None
    """RTMR 0 of the TD, the virtual machine's configuration. Left out: any."""
    rt_mr1: Bytes48 | None = None
    """RTMR 1 of the TD: its kernel. Required with ``mr_td``."""
    rt_mr2: Bytes48 | None = None
    """RTMR 2 of the TD: command line and initial disk. Required with ``mr_td``."""
    rt_mr3: Bytes48 | None = None
    """RTMR 3 of the TD: its application; zeros if nothing was measured. Required likewise."""
    until: End | None = None
    """The last day, or moment, on which this code is admitted. Left out: no end of its own."""
    note: Text | None = None
    """What it is, for people: a release, a commit."""

    @property
    def run_time(self) -> tuple[str | None, ...]:
        """RTMR 0 to 3; None is any."""
        return (self.rt_mr0, self.rt_mr1, self.rt_mr2, self.rt_mr3)

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.mr_enclave is None) == (self.mr_td is None):
            raise ValueError("it is no measurement of one thing. Give either mr_enclave or mr_td")
        if self.mr_td is None and any(self.run_time):
            raise ValueError("rt_mr0 to rt_mr3 are a TD's. Remove them, or give mr_td")
        if self.mr_td is not None and None in self.run_time[1:]:
            raise ValueError(
                "mr_td alone allows every kernel and application. Give rt_mr1, rt_mr2 and rt_mr3"
            )
        return self


class ProductPart(Part):
    """Which product of the signers, and from which security version on (SGX)."""

    isv_prod_id: int | None = Field(None, ge=0, le=0xFFFF)
    """ISVPRODID. Left out: any product of theirs."""
    min_isv_svn: int = Field(0, ge=0, le=0xFFFF)
    """The least ISVSVN."""


class BitsPart(Part):
    """Bits of a field of the enclave's report: those under ``mask`` must be as in ``value``."""

    mask: Bits
    """Which bits count."""
    value: Bits
    """What they must be; 0 where the mask is 0."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.value & ~self.mask:
            raise ValueError(
                "value has bits that the mask leaves out, so nothing would ever match. Set them in"
                " mask, or clear them in value"
            )
        return self


class RolePart(Part):
    """What a peer in this role must run. Without measurements and signers: nobody is admitted.

    With both, both must fit.
    """

    measurements: Annotated[tuple[MeasurementPart, ...], Listed] = ()
    """Code that is admitted, one of these. Left out: whatever the signers signed."""
    signers: Annotated[tuple[Bytes32, ...], Listed] = ()
    """MRSIGNER of an enclave, one of these. Left out: any."""
    product: ProductPart = ProductPart()
    attributes: BitsPart = BitsPart(mask=ALL_BITS, value=0x05)
    """ATTRIBUTES.FLAGS of an enclave. By default INIT and MODE64, and no other: value 0x5."""
    xfrm: BitsPart = BitsPart(mask=GRAMINE_XFRM_MASK, value=0x03)
    """ATTRIBUTES.XFRM of an enclave. By default as Gramine signs it: x87 and SSE are on; AVX,
    AVX-512 and AMX may be; nothing else is."""
    misc_select: BitsPart = BitsPart(mask=0xFFFFFFFF, value=0)
    """MISCSELECT of an enclave. By default 0; with Gramine's `sgx.use_exinfo`, bit 0 is set."""

    @property
    def admits(self) -> bool:
        """Whether any evidence at all would do."""
        return bool(self.measurements or self.signers)

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        named = [(one.mr_enclave, one.mr_td, one.run_time) for one in self.measurements]
        if len(set(named)) != len(named):
            raise ValueError("a measurement stands twice. Keep one of the two")
        if not self.signers and self.product != ProductPart():
            raise ValueError(
                "product says nothing without signers: everybody can write any number there. Give"
                " signers, or remove product"
            )
        if self.signers and not self.measurements and self.product.isv_prod_id is None:
            raise ValueError(
                "signers alone would admit all that they ever signed. Give product.isv_prod_id,"
                " or measurements"
            )
        if self.signers and any(one.mr_td for one in self.measurements):
            raise ValueError("a TD has no signer that could fit. Remove mr_td or signers")
        return self


class UnattestedPart(Part):
    """Collaborators that take part without evidence. By default none."""

    members: Members = ()
    """Who; ``all`` is every collaborator."""
    reason: Text | None = None
    """Why. It is shown wherever such a member is."""
    receives: Annotated[tuple[Literal["model"], ...], Listed] = ()
    """What they may receive: ``model``, the model of each round in the clear. Never keys. ``[]`` is
    nothing: they may connect, and are asked for no task."""

    @model_validator(mode="after")
    def _explained(self) -> Self:
        if self.members and not (self.reason and "receives" in self.model_fields_set):
            raise ValueError(
                "members without evidence, but not why or what they get. Give reason and receives"
            )
        if not self.members and (self.reason or self.receives):
            raise ValueError("it names nobody. Give members, or remove it")
        return self


class CollaboratorPart(RolePart):
    """What a collaborator must run: the keys of ``roles.aggregator``, and who is excused."""

    unattested: UnattestedPart = UnattestedPart()


class RolesPart(Part):
    """What peers must run, role by role."""

    aggregator: RolePart = RolePart()
    collaborator: CollaboratorPart = CollaboratorPart()

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if not (
            self.aggregator.admits
            or self.collaborator.admits
            or self.collaborator.unattested.members
        ):
            raise ValueError(
                "the policy admits nobody. Give measurements or signers to at least one role"
            )
        return self


class GracePart(Part):
    """Statuses that are borne with for a while."""

    statuses: Annotated[tuple[StatusName, ...], Listed] = ()
    """Which."""
    days: int = Field(0, ge=0, le=3650)
    """Most days since the date (`tcbDate`) of the level that the status comes from: the platform's,
    its TDX module's or its quoting enclave's, the oldest of several."""

    @model_validator(mode="after")
    def _both(self) -> Self:
        if bool(self.statuses) != bool(self.days):
            raise ValueError("statuses and days need each other. Give both, or neither")
        return self


class TcbPart(Part):
    """The state that a platform must be in, as its maker sees it."""

    allowed: Annotated[tuple[StatusName, ...], Listed, NotEmpty] = ("UpToDate",)
    """TCB statuses that are admitted. `Revoked` never is."""
    grace: GracePart = GracePart()
    min_evaluation: int = Field(0, ge=0, lt=2**31)
    """Least `tcbEvaluationDataNumber` of the collateral: older ones do not know newer flaws."""
    reject_advisories: Annotated[tuple[Advisory, ...], Listed] = ()
    """Advisories that keep a platform out even within its grace."""
    accept_advisories: dict[Advisory, Text] = Field({})
    """Advisories that may apply, each with the reason why. All others keep a platform out, unless
    it is within its grace."""
    smt: bool = False
    """Whether two threads may share a core: they can learn of each other (side channels)."""
    dynamic_platform: bool = False
    """Whether packages may be added to the platform; so it is on most servers."""
    cached_keys: bool = False
    """Whether the platform's root keys may be kept by Intel's registration service."""

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if both := set(self.reject_advisories) & self.accept_advisories.keys():
            raise ValueError(f"{min(both)} is both rejected and accepted. Keep one of the two")
        if always := set(self.allowed) & set(self.grace.statuses):
            raise ValueError(f"{min(always)} is allowed without an end. Remove it from grace")
        return self


class PlatformsPart(Part):
    """Single machines and keys."""

    allow: Annotated[tuple[Bytes16, ...], Listed] = ()
    """PPIDs of CPU packages: only these are admitted. Left out: any."""
    deny: Annotated[tuple[Bytes16, ...], Listed] = ()
    """PPIDs that are not admitted."""
    deny_keys: Annotated[tuple[Bytes32, ...], Listed] = ()
    """TLS keys that are not admitted, with or without evidence: SHA-256 of the
    SubjectPublicKeyInfo."""

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if both := set(self.allow) & set(self.deny):
            raise ValueError(f"{min(both)} is both allowed and denied. Keep one of the two")
        return self


class FreshnessPart(Part):
    """How old things may be."""

    session_s: int = Field(12 * 3600, ge=1, le=7 * 86400)
    """Seconds after its evidence at which a session ends."""
    reattest_s: int = Field(6 * 3600, ge=1, le=7 * 86400)
    """Seconds after which a peer is asked for new evidence; at most ``session_s``."""
    evidence_s: int = Field(60, ge=1, le=3600)
    """Most seconds since evidence was made, by the clock of who made it."""
    clock_skew_s: int = Field(300, ge=0, le=3600)
    """Most seconds that the clocks of two parties may differ."""
    collateral_max_age_days: int = Field(30, ge=1, le=365)
    """Most days since the collateral was issued."""

    @model_validator(mode="after")
    def _in_time(self) -> Self:
        if self.reattest_s > self.session_s:
            raise ValueError("reattest_s comes after session_s. Lower it")
        return self


class ReleasePart(Part):
    """What is given to peers that have proved what they run."""

    initial_model: Literal["attested", "none"] = "none"
    """``attested``: the model's owner may give the initial model to an aggregator in an attested
    session. ``none``: to nobody."""
    data_key: Literal["attested", "none"] = "none"
    """``attested``: a data owner may give the key of sealed data to a collaborator in an attested
    session. ``none``: to nobody."""


class Policy(Part):
    """Everything that the signers allow. ``digest`` names it."""

    schema_: Literal[1] = Field(alias="schema")
    """Version of this format."""
    name: Name
    """What the policy is called; the same in all of its versions."""
    version: int = Field(ge=1, lt=2**31)
    """1, then one more with each change. A party never goes back to an older one."""
    previous: Bytes32 | None = Field(None, validate_default=True)
    """The digest of the version before (`fx attest policy show`); version 1 has none."""
    valid: ValidPart
    roots: Annotated[tuple[Root, ...], Listed, NotEmpty]
    """Who may vouch for platforms. A simulated root is named by the SHA-256 of its public key
    (SPKI), as `fx attest simulate` prints it; it protects nobody, and needs `--allow-simulated`
    too."""
    roles: RolesPart
    tcb: TcbPart = TcbPart()
    platforms: PlatformsPart = PlatformsPart()
    freshness: FreshnessPart = FreshnessPart()
    release: ReleasePart = ReleasePart()

    @property
    def releases(self) -> Mapping[Purpose, Literal["attested", "none"]]:
        """To whom each kind of secret may go."""
        part = self.release
        return {"initial-model": part.initial_model, "data-key": part.data_key}

    @field_validator("previous")
    @classmethod
    def _chained(cls, value: str | None, info: ValidationInfo) -> str | None:
        version = info.data.get("version")
        if version == 1 and value is not None:
            raise ValueError("version 1 has no previous version. Remove previous, or raise version")
        if version is not None and version > 1 and value is None:
            raise ValueError(
                f"version {version} needs previous. Write the digest of version {version - 1}"
            )
        return value

    @property
    def bytes(self) -> bytes:
        """The canonical bytes, defaults filled in: what is signed."""
        return canonical.encode(self.model_dump(mode="json", by_alias=True))

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the policy under its own domain: what claims name it by."""
        return canonical.digest("policy", self.model_dump(mode="json", by_alias=True))

    @property
    def label(self) -> str:
        """How messages call it."""
        return f"policy {self.name} v{self.version}"


def load(path: Path) -> Policy:
    """The policy in a file, unsigned. Raises ``PlanError`` with all of its mistakes."""
    return parse(yamlfile.read(path), str(path))


def parse(text: str, file: str = "plan/attestation.yaml") -> Policy:
    """The policy in a text; ``file`` is what ``PlanError`` calls it."""
    document = yamlfile.parse(text, file)
    try:
        return Policy.model_validate(document.value)
    except ValidationError as error:
        found = mistakes.found(error, document, Policy).values()
        raise PlanError(sorted(found, key=lambda problem: problem.line)) from error
