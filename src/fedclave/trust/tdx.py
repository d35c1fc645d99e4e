# SPDX-License-Identifier: Apache-2.0
"""What is TDX's own in judging a quote: the TDX module under a TD, and the TD's attributes.

The module is named by TEE_TCB_SVN: byte 0 is its security version, byte 1 its version, byte 2 that
of the SEAM loader. Version 0 is judged by the platform's levels; the others have an identity with
levels of their own in TCB info (Intel's ECDSA quote library API, 4.1.2.4.11 and 4.1.2.4.17.4). A TD
of TDX 1.5 also reports TEE_TCB_SVN_2: the module that runs now, when the one that launched the TD
was replaced under it.
"""

from fedclave.errors import Code, Refused
from fedclave.trust import tcb
from fedclave.trust.quotes import TdReport
from fedclave.trust.tcb import Status

SEPT_VE_DISABLE = 1 << 28
UNTRUSTED = 0xFF
"""The TUD byte: bit 0 is DEBUG, the others are reserved (Intel TDX module ABI, ATTRIBUTES)."""
ALLOWED = SEPT_VE_DISABLE | 1 << 30 | 1 << 31 | 1 << 63
"""A TD may have these: also PKS, KL and PERFMON. Not MIGRATABLE, nor anything unknown."""


def check_td(body: TdReport) -> None:
    """Nobody reads or changes the TD from outside; ``ATT-DEBUG`` or ``ATT-ATTRIBUTES``.

    Two kinds of genuine quotes are refused here (as dcap-qvl refuses them). A TD without
    SEPT_VE_DISABLE lets its host raise exceptions in it at will, unless a paravisor takes them
    (Azure) - and then the report data is the paravisor's, so that none of our claims can be in it.
    A TD with a service TD can be moved, or changed, by code that its measurements leave out.
    """
    attributes = body.td_attributes
    if attributes & UNTRUSTED:
        raise Refused(
            Code.ATT_DEBUG,
            f"a debug TD (attributes {attributes:#x}): its host reads its memory. Launch"
            " it without debug",
        )
    if not attributes & SEPT_VE_DISABLE:
        raise Refused(
            Code.ATT_ATTRIBUTES,
            f"the TD (attributes {attributes:#x}) runs without SEPT_VE_DISABLE: its host"
            " can interrupt it where it likes. Launch it with that attribute; a TD under a"
            " paravisor (as in Azure) cannot take part",
        )
    if attributes & ~ALLOWED:
        raise Refused(
            Code.ATT_ATTRIBUTES,
            f"the TD has attributes {attributes:#x}, of which"
            f" {attributes & ~ALLOWED:#x} are migration or unknown. Launch it without them",
        )
    if body.mr_service_td is not None and any(body.mr_service_td):
        raise Refused(
            Code.ATT_ATTRIBUTES,
            f"a service TD ({body.mr_service_td.hex()}) has power over the TD, and none is allowed."
            " Launch it without one",
        )


def module_level(body: TdReport, known: tcb.TcbInfo) -> tcb.EnclaveLevel | None:
    """The level of the module that launched the TD; None for version 0. ``ATT-TCB``."""
    module = _module(known, body.tee_tcb_svn[1])
    version = module.version
    if body.mr_signer_seam != module.mr_signer:
        raise _unknown(version, f"was signed by {body.mr_signer_seam.hex()}")
    if body.seam_attributes != 0 or module.attributes != 0:
        raise _unknown(version, f"has the attributes {body.seam_attributes:#x}")
    return _level(body.tee_tcb_svn, known)


def running(
    body: TdReport, known: tcb.TcbInfo, components: bytes, pce_svn: int
) -> tuple[Status, ...]:
    """The statuses of the module that runs now under a TD of 1.5; it must reach known levels.

    Intel's QVL asks no more of it than ``status`` does; dcap-qvl does. A TD is as safe as the
    module that it runs on, so here one that is revoked, or not known, is refused as well.
    """
    if body.tee_tcb_svn_2 is None:
        return ()
    level = tcb.match_platform(known.levels, components, pce_svn, body.tee_tcb_svn_2)
    if level is None:
        raise _unknown(body.tee_tcb_svn_2[1], "that runs now is below every known level")
    module = _level(body.tee_tcb_svn_2, known)
    return (level.status,) if module is None else (level.status, module.status)


def status(
    body: TdReport,
    known: tcb.TcbInfo,
    *,
    sgx: Status,
    platform: Status,
    module: tcb.EnclaveLevel | None,
    enclave: Status,
) -> Status:
    """The status of platform and module together; the quoting enclave's is merged after it.

    ``sgx`` is that of the platform's level by its SGX components alone, ``platform`` with the TDX
    components. Where only the module that launched the TD is behind, while the platform and the
    module that runs now are not, launching the TD again is the cure (4.1.2.4.17.4.3).
    """
    if module is None:
        return platform
    merged = tcb.merge(platform, module.status)
    behind = {Status.OUT_OF_DATE, Status.OUT_OF_DATE_CONFIGURATION}
    if (
        module.status is not Status.OUT_OF_DATE
        or merged not in behind
        or sgx in {*behind, Status.REVOKED}
        or enclave is not Status.UP_TO_DATE
        or body.tee_tcb_svn_2 is None
        or not _is_current(body.tee_tcb_svn_2, known)
    ):
        return merged
    configuration = {
        Status.CONFIGURATION,
        Status.CONFIGURATION_AND_SW_HARDENING,
        Status.OUT_OF_DATE_CONFIGURATION,
    }
    return Status.RELAUNCH_CONFIGURATION if {sgx, merged} & configuration else Status.RELAUNCH


def _level(tee_tcb_svn: bytes, known: tcb.TcbInfo) -> tcb.EnclaveLevel | None:
    svn, version = tee_tcb_svn[:2]
    if version == 0:
        return None
    level = tcb.match_enclave(_module(known, version).levels, svn)
    if level is None:
        raise _unknown(version, f"has security version {svn}, below every known one")
    return level


def _is_current(tee_tcb_svn_2: bytes, known: tcb.TcbInfo) -> bool:
    """Whether the module that runs now reaches the newest level."""
    svn, version, loader = tee_tcb_svn_2[:3]
    newest = known.levels[0].tdx
    least = newest[0] if version == 0 else _module(known, version).levels[0].isv_svn
    return svn >= least and loader >= newest[2]


def _module(known: tcb.TcbInfo, version: int) -> tcb.TdxModule:
    module = next((one for one in known.modules if one.version == version), None)
    if module is None:
        raise _unknown(version, "is not in the collateral")
    return module


def _unknown(version: int, problem: str) -> Refused:
    return Refused(
        Code.ATT_TCB,
        f"the TDX module (version {version}) under the TD {problem}. Update the platform's TDX"
        " module, or import newer collateral if the module is newer",
    )
