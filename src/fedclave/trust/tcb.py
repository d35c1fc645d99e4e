# SPDX-License-Identifier: Apache-2.0
"""What Intel says about platforms and quoting enclaves, and how it becomes one status.

Two signed texts (Intel PCS API 4; ``collateral`` checks the signatures): TCB info, version 3, has
the levels of one kind of platform; QE identity, version 2, is the quoting enclave that may speak
for it. The levels are matched, and the statuses merged, as Intel's QVL 1.22 does (the numbers are
those of the clauses in its sources, from the ECDSA quote library API document):

    4.1.2.4.17.1-2   the first level that no component and no PCE SVN of the platform is below
    4.1.2.4.17.3     for a TD also none of the TEE TCB SVNs
    4.1.2.9.9        the level of the quoting enclave

What is TDX's own is in ``tdx``. A text may have keys that a later API adds; a status or a version
that is not known is refused.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

from fedclave.trust.foreign import Object

Tee = Literal["sgx", "tdx"]

COMPONENTS = 16


class Status(StrEnum):
    """How a platform stands, in Intel's words. Whether that is good enough, a policy decides."""

    UP_TO_DATE = "UpToDate"
    SW_HARDENING = "SWHardeningNeeded"
    CONFIGURATION = "ConfigurationNeeded"
    CONFIGURATION_AND_SW_HARDENING = "ConfigurationAndSWHardeningNeeded"
    RELAUNCH = "TDRelaunchAdvised"
    RELAUNCH_CONFIGURATION = "TDRelaunchAdvisedConfigurationNeeded"
    OUT_OF_DATE = "OutOfDate"
    OUT_OF_DATE_CONFIGURATION = "OutOfDateConfigurationNeeded"
    REVOKED = "Revoked"


_SIGNED = set(Status) - {Status.RELAUNCH, Status.RELAUNCH_CONFIGURATION}
_OF_ENCLAVES = {Status.UP_TO_DATE, Status.OUT_OF_DATE, Status.REVOKED}


@dataclass(frozen=True, kw_only=True)
class Level:
    """What a TCB level says of those who reach it."""

    status: Status
    date: datetime
    advisories: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class PlatformLevel(Level):
    """A level of a kind of platforms: 16 SGX (and TDX) components, and the PCE."""

    sgx: bytes
    tdx: bytes
    """16 bytes; empty in a text about SGX."""
    pce_svn: int


@dataclass(frozen=True, kw_only=True)
class EnclaveLevel(Level):
    """A level of one enclave or TDX module."""

    isv_svn: int


@dataclass(frozen=True, kw_only=True)
class TdxModule:
    """A TDX module that a platform may run; ``version`` 0 is that of ``tdxModule``."""

    version: int
    mr_signer: bytes
    attributes: int
    levels: tuple[EnclaveLevel, ...]


@dataclass(frozen=True, kw_only=True)
class TcbInfo:
    """The TCB levels of one kind of platform, best first."""

    tee: Tee
    issued: datetime
    next_update: datetime
    fmspc: bytes
    pce_id: bytes
    evaluation: int
    levels: tuple[PlatformLevel, ...]
    modules: tuple[TdxModule, ...]


@dataclass(frozen=True, kw_only=True)
class QeIdentity:
    """The quoting enclave of one TEE."""

    tee: Tee
    issued: datetime
    next_update: datetime
    evaluation: int
    misc_select: int
    misc_select_mask: int
    attributes: bytes
    attributes_mask: bytes
    mr_signer: bytes
    isv_prod_id: int
    levels: tuple[EnclaveLevel, ...]


def tcb_info(text: str) -> TcbInfo:
    """TCB info from its signed text; ``Refused`` if it is not of version 3, or not complete."""
    raw = Object.read(text, "TCB info")
    raw.one_of("version", {3: 3})
    raw.one_of("tcbType", {0: 0})  # how the levels are compared: this is the only way there is
    tees: dict[str, Tee] = {"SGX": "sgx", "TDX": "tdx"}
    tee = raw.one_of("id", tees)
    modules: tuple[TdxModule, ...] = ()
    if tee == "tdx":
        named = raw.objects("tdxModuleIdentities") if raw.value.get("tdxModuleIdentities") else []
        modules = (
            _module(raw.object("tdxModule"), None),
            *(_module(o, o.text("id")) for o in named),
        )
        if len({one.version for one in modules}) != len(modules):
            raw.fail("has a TDX module twice")
    levels = [_platform_level(one, tee) for one in raw.objects("tcbLevels")]
    return TcbInfo(
        tee=tee,
        issued=raw.moment("issueDate"),
        next_update=raw.moment("nextUpdate"),
        fmspc=raw.hex("fmspc", 6),
        pce_id=raw.hex("pceId", 2),
        evaluation=raw.number("tcbEvaluationDataNumber"),
        # Intel's QVL sorts too: the order in the text does not count.
        levels=tuple(sorted(levels, key=lambda one: (one.sgx, one.pce_svn, one.tdx), reverse=True)),
        modules=modules,
    )


def qe_identity(text: str) -> QeIdentity:
    """QE identity from its signed text; ``Refused`` if it is not of version 2, or not complete."""
    raw = Object.read(text, "QE identity")
    raw.one_of("version", {2: 2})
    tees: dict[str, Tee] = {"QE": "sgx", "TD_QE": "tdx"}
    return QeIdentity(
        tee=raw.one_of("id", tees),
        issued=raw.moment("issueDate"),
        next_update=raw.moment("nextUpdate"),
        evaluation=raw.number("tcbEvaluationDataNumber"),
        misc_select=int.from_bytes(raw.hex("miscselect", 4), "little"),
        misc_select_mask=int.from_bytes(raw.hex("miscselectMask", 4), "little"),
        attributes=raw.hex("attributes", 16),
        attributes_mask=raw.hex("attributesMask", 16),
        mr_signer=raw.hex("mrsigner", 32),
        isv_prod_id=raw.number("isvprodid", 0xFFFF),
        levels=_enclave_levels(raw),
    )


def match_platform(
    levels: Sequence[PlatformLevel], components: bytes, pce_svn: int, tee_tcb_svn: bytes | None
) -> PlatformLevel | None:
    """The first level that the platform reaches (4.1.2.4.17.1-3). ``tee_tcb_svn`` is a TD's.

    Where it names a TDX module version, the module's own levels stand for its first two bytes.
    """
    tdx = tee_tcb_svn or b""
    begin = 2 if tdx[1:2] > b"\0" else 0
    for level in levels:
        if (
            _reaches(components, level.sgx)
            and pce_svn >= level.pce_svn
            and (tee_tcb_svn is None or _reaches(tdx[begin:], level.tdx[begin:]))
        ):
            return level
    return None


def match_enclave(levels: Sequence[EnclaveLevel], isv_svn: int) -> EnclaveLevel | None:
    """The first level that an enclave's SVN reaches (4.1.2.9.9)."""
    return next((level for level in levels if isv_svn >= level.isv_svn), None)


def merge(platform: Status, enclave: Status) -> Status:
    """The status of a platform whose quoting enclave, or TDX module, has a status of its own.

    >>> merge(Status.CONFIGURATION, Status.OUT_OF_DATE).value
    'OutOfDateConfigurationNeeded'
    """
    if Status.REVOKED in (platform, enclave):
        return Status.REVOKED
    if enclave is not Status.OUT_OF_DATE:
        return platform
    return {
        Status.UP_TO_DATE: Status.OUT_OF_DATE,
        Status.SW_HARDENING: Status.OUT_OF_DATE,
        Status.CONFIGURATION: Status.OUT_OF_DATE_CONFIGURATION,
        Status.CONFIGURATION_AND_SW_HARDENING: Status.OUT_OF_DATE_CONFIGURATION,
    }.get(platform, platform)


def behind_since(status: Status, levels: Sequence[Level]) -> datetime:
    """The earliest date of the levels that a merged status comes from; ``levels[0]``'s if of none.

    Updates of after it are not all there. A level that lacks none of what the status says does not
    count: under a quoting enclave that is out of date, a platform that needs software hardening.
    """
    dates = [one.date for one in levels if _LACKS[one.status] & _LACKS[status]]
    return min(dates, default=levels[0].date)


_LACKS: dict[Status, frozenset[str]] = {
    Status.UP_TO_DATE: frozenset(),
    Status.SW_HARDENING: frozenset({"software"}),
    Status.CONFIGURATION: frozenset({"configuration"}),
    Status.CONFIGURATION_AND_SW_HARDENING: frozenset({"configuration", "software"}),
    Status.RELAUNCH: frozenset({"updates"}),
    Status.RELAUNCH_CONFIGURATION: frozenset({"updates", "configuration"}),
    Status.OUT_OF_DATE: frozenset({"updates"}),
    Status.OUT_OF_DATE_CONFIGURATION: frozenset({"updates", "configuration"}),
    Status.REVOKED: frozenset({"everything"}),
}
"""What is wrong with who has a status; ``merge`` keeps the worst of it."""


def _reaches(svns: bytes, least: bytes) -> bool:
    return len(svns) == len(least) and all(a >= b for a, b in zip(svns, least, strict=True))


def _platform_level(raw: Object, tee: Tee) -> PlatformLevel:
    tcb = raw.object("tcb")
    return PlatformLevel(
        **_level(raw, _SIGNED),
        sgx=_components(tcb, "sgxtcbcomponents"),
        tdx=_components(tcb, "tdxtcbcomponents") if tee == "tdx" else b"",
        pce_svn=tcb.number("pcesvn", 0xFFFF),
    )


def _components(raw: Object, key: str) -> bytes:
    svns = bytes(one.number("svn", 0xFF) for one in raw.objects(key))
    return svns if len(svns) == COMPONENTS else raw.fail(f"has {len(svns)} {key}; expected 16")


def _enclave_levels(raw: Object) -> tuple[EnclaveLevel, ...]:
    return tuple(  # in the order of the text: here Intel's QVL does not sort
        EnclaveLevel(
            **_level(one, _OF_ENCLAVES), isv_svn=one.object("tcb").number("isvsvn", 0xFFFF)
        )
        for one in raw.objects("tcbLevels")
    )


def _level(raw: Object, statuses: set[Status]) -> dict[str, Any]:
    return {
        "status": raw.one_of("tcbStatus", {one.value: one for one in statuses}),
        "date": raw.moment("tcbDate"),
        "advisories": raw.texts("advisoryIDs"),
    }


def _module(raw: Object, name: str | None) -> TdxModule:
    """``tdxModule`` without a name, or an identity that is called TDX_ and two hex digits."""
    version = 0
    if name is not None:
        match = re.fullmatch(r"TDX_([0-9A-Fa-f]{2})", name, re.IGNORECASE)
        version = int(match[1], 16) if match else 0
        if version == 0:
            raw.fail(f"is called {name!r}; expected TDX_ and a version from 01 to FF")
    attributes = int.from_bytes(raw.hex("attributes", 8), "little")
    raw.hex("attributesMask", 8)  # not applied: every attribute has to be 0 (4.1.2.4.11.2)
    return TdxModule(
        version=version,
        mr_signer=raw.hex("mrsigner", 48),
        attributes=attributes,
        levels=() if name is None else _enclave_levels(raw),
    )
