# SPDX-License-Identifier: Apache-2.0
"""Quotes of Intel SGX (version 3) and TDX (versions 4 and 5), taken apart; nothing is verified.

Layouts: Intel SGX ECDSA Quote Library Reference, appendix A (version 3, and A.3 for 4 and 5); all
integers are little-endian. Lengths are exact: a field that claims more than is there is refused,
and after the signature data only zero bytes may follow (drivers hand out padded buffers). Those
bytes, and the certificates inside, are not signed: a quote's own bytes are no identity.
"""

from dataclasses import dataclass
from typing import Literal

from fedclave.errors import Code, Refused

MAX_SIZE = 2**16  # bytes; real quotes have 4 to 8 KiB
SGX_REPORT = 384  # bytes
HEADER = 48  # bytes
INTEL_QE = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
"""The vendor of the quoting enclave, in every header."""

_ECDSA_P256 = 2
_SGX, _TDX = 0x00, 0x81
_TD_10, _TD_15 = 584, 648  # bytes
_PEM_CHAIN, _QE_REPORT = 5, 6  # types of certification data

DEBUG_SGX = 1 << 1
DEBUG_TD = 1 << 0


@dataclass(frozen=True, kw_only=True)
class Header:
    """What stands before the report. ``user_data``: 20 bytes, free, signed."""

    att_key_type: int
    qe_svn: int
    pce_svn: int
    vendor_id: bytes  # 16
    user_data: bytes  # 20


@dataclass(frozen=True, kw_only=True)
class SgxReport:
    """An SGX enclave's report body (SDM vol. 3D, REPORT): 384 bytes."""

    cpu_svn: bytes  # 16
    misc_select: int
    isv_ext_prod_id: bytes  # 16
    flags: int  # ATTRIBUTES.FLAGS
    xfrm: int  # ATTRIBUTES.XFRM
    mr_enclave: bytes  # 32
    mr_signer: bytes  # 32
    config_id: bytes  # 64
    isv_prod_id: int
    isv_svn: int
    config_svn: int
    isv_family_id: bytes  # 16
    report_data: bytes  # 64

    @property
    def debug(self) -> bool:
        """Whether the host can read the enclave's memory."""
        return bool(self.flags & DEBUG_SGX)


@dataclass(frozen=True, kw_only=True)
class TdReport:
    """A TD's report body: TDX 1.0 (584 bytes), or 1.5 (648), which has the last two fields."""

    tee_tcb_svn: bytes  # 16
    mr_seam: bytes  # 48
    mr_signer_seam: bytes  # 48
    seam_attributes: int
    td_attributes: int
    xfam: int
    mr_td: bytes  # 48
    mr_config_id: bytes  # 48
    mr_owner: bytes  # 48
    mr_owner_config: bytes  # 48
    rt_mr: tuple[bytes, bytes, bytes, bytes]  # 48 each
    report_data: bytes  # 64
    tee_tcb_svn_2: bytes | None = None  # 16
    mr_service_td: bytes | None = None  # 48

    @property
    def debug(self) -> bool:
        """Whether the host can read the TD's memory."""
        return bool(self.td_attributes & DEBUG_TD)


@dataclass(frozen=True, kw_only=True)
class Quote:
    """A quote in its parts. ``signed`` is what the attestation key signs."""

    version: int
    tee: Literal["sgx", "tdx"]
    header: Header
    body: SgxReport | TdReport
    signed: bytes
    signature: bytes  # 64: r, s
    attestation_key: bytes  # 64: x, y on P-256
    qe_report: SgxReport
    qe_report_raw: bytes  # 384
    qe_signature: bytes  # 64: r, s; by the PCK key over qe_report_raw
    qe_auth: bytes
    certification_type: int
    chain: bytes  # PEM: PCK, CA, root; empty for other types of certification data


def parse(raw: bytes) -> Quote:
    """The quote in these bytes. Raises ``Refused``: ATT_MALFORMED, ATT_UNSUPPORTED."""
    if len(raw) > MAX_SIZE:
        raise _malformed(f"{len(raw)} bytes; the longest that is read has {MAX_SIZE}")
    reader = _Reader(raw, "the quote")
    version, header, tee = _header(reader)
    body = _body(reader, version, tee)
    signed = raw[: reader.at]
    length = reader.u32()
    inner = _Reader(reader.take(length), "its signature data")
    if any(reader.rest()):
        raise _malformed("bytes other than zero follow the signature data")
    signature, attestation_key = inner.take(64), inner.take(64)
    if version > 3:
        inner = _nested(inner)
    report, qe_signature = inner.take(SGX_REPORT), inner.take(64)
    qe_auth = inner.take(inner.u16())
    kind = inner.u16()
    certification = inner.take(inner.u32())
    inner.finish()
    return Quote(
        version=version,
        tee="sgx" if tee == _SGX else "tdx",
        header=header,
        body=body,
        signed=signed,
        signature=signature,
        attestation_key=attestation_key,
        qe_report=sgx_report(report),
        qe_report_raw=report,
        qe_signature=qe_signature,
        qe_auth=qe_auth,
        certification_type=kind,
        chain=certification if kind == _PEM_CHAIN else b"",
    )


def sgx_report(raw: bytes) -> SgxReport:
    """The report body in 384 bytes. Raises ``Refused(ATT_MALFORMED)`` for another length."""
    reader = _Reader(raw, "the report")
    report = SgxReport(
        cpu_svn=reader.take(16),
        misc_select=reader.u32(),
        isv_ext_prod_id=reader.skip(12).take(16),
        flags=reader.u64(),
        xfrm=reader.u64(),
        mr_enclave=reader.take(32),
        mr_signer=reader.skip(32).take(32),
        config_id=reader.skip(32).take(64),
        isv_prod_id=reader.u16(),
        isv_svn=reader.u16(),
        config_svn=reader.u16(),
        isv_family_id=reader.skip(42).take(16),
        report_data=reader.take(64),
    )
    reader.finish()
    return report


def pack_sgx_report(report: SgxReport) -> bytes:
    """The 384 bytes of a report body; reserved bytes are zero."""
    return b"".join(
        (
            report.cpu_svn,
            report.misc_select.to_bytes(4, "little"),
            bytes(12),
            report.isv_ext_prod_id,
            report.flags.to_bytes(8, "little"),
            report.xfrm.to_bytes(8, "little"),
            report.mr_enclave,
            bytes(32),
            report.mr_signer,
            bytes(32),
            report.config_id,
            report.isv_prod_id.to_bytes(2, "little"),
            report.isv_svn.to_bytes(2, "little"),
            report.config_svn.to_bytes(2, "little"),
            bytes(42),
            report.isv_family_id,
            report.report_data,
        )
    )


def pack_header(header: Header) -> bytes:
    """The 48 bytes of an SGX quote's header, version 3."""
    return b"".join(
        (
            (3).to_bytes(2, "little"),
            header.att_key_type.to_bytes(2, "little"),
            bytes(4),
            header.qe_svn.to_bytes(2, "little"),
            header.pce_svn.to_bytes(2, "little"),
            header.vendor_id,
            header.user_data,
        )
    )


def pack_quote_v3(quote: Quote) -> bytes:
    """The bytes of an SGX quote, version 3; ``parse`` gives the same back."""
    data = b"".join(
        (
            quote.signature,
            quote.attestation_key,
            quote.qe_report_raw,
            quote.qe_signature,
            len(quote.qe_auth).to_bytes(2, "little"),
            quote.qe_auth,
            quote.certification_type.to_bytes(2, "little"),
            len(quote.chain).to_bytes(4, "little"),
            quote.chain,
        )
    )
    return quote.signed + len(data).to_bytes(4, "little") + data


class _Reader:
    """Takes fields off the front of bytes; never more than there are."""

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._what = what
        self.at = 0

    def take(self, count: int) -> bytes:
        end = self.at + count
        if end > len(self._data):
            raise _malformed(f"{self._what} ends at byte {len(self._data)}, a field at {end}")
        taken, self.at = self._data[self.at : end], end
        return taken

    def skip(self, count: int) -> "_Reader":
        self.take(count)
        return self

    def u16(self) -> int:
        return int.from_bytes(self.take(2), "little")

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def u64(self) -> int:
        return int.from_bytes(self.take(8), "little")

    def rest(self) -> bytes:
        return self.take(len(self._data) - self.at)

    def finish(self) -> None:
        if left := len(self._data) - self.at:
            raise _malformed(f"{left} bytes too many at the end of {self._what}")


def _header(reader: _Reader) -> tuple[int, Header, int]:
    version, key_type, tee = reader.u16(), reader.u16(), reader.u32()
    if (version, tee) not in ((3, _SGX), (4, _TDX), (5, _TDX)):
        raise _unsupported(f"version {version} of TEE type {tee:#x}")
    if key_type != _ECDSA_P256:
        raise _unsupported(f"attestation key type {key_type}, not ECDSA on P-256")
    header = Header(
        att_key_type=key_type,
        qe_svn=reader.u16(),
        pce_svn=reader.u16(),
        vendor_id=reader.take(16),
        user_data=reader.take(20),
    )
    if header.vendor_id != INTEL_QE:
        raise _unsupported(f"a quoting enclave of vendor {header.vendor_id.hex()}")
    return version, header, tee


def _body(reader: _Reader, version: int, tee: int) -> SgxReport | TdReport:
    if tee == _SGX:
        return sgx_report(reader.take(SGX_REPORT))
    size = _TD_10
    if version == 5:  # says what the body is, and how long: both must agree
        kind, size = reader.u16(), reader.u32()
        if (kind, size) not in ((2, _TD_10), (3, _TD_15)):
            raise _unsupported(f"a body of type {kind} with {size} bytes")
    return _td_report(_Reader(reader.take(size), "the report"), size)


def _td_report(reader: _Reader, size: int) -> TdReport:
    def mr() -> bytes:
        return reader.take(48)

    report = TdReport(
        tee_tcb_svn=reader.take(16),
        mr_seam=mr(),
        mr_signer_seam=mr(),
        seam_attributes=reader.u64(),
        td_attributes=reader.u64(),
        xfam=reader.u64(),
        mr_td=mr(),
        mr_config_id=mr(),
        mr_owner=mr(),
        mr_owner_config=mr(),
        rt_mr=(mr(), mr(), mr(), mr()),
        report_data=reader.take(64),
        tee_tcb_svn_2=reader.take(16) if size == _TD_15 else None,
        mr_service_td=mr() if size == _TD_15 else None,
    )
    reader.finish()
    return report


def _nested(outer: _Reader) -> _Reader:
    """Versions 4 and 5 keep the QE's report and its certification data in one more layer."""
    kind = outer.u16()
    if kind != _QE_REPORT:
        raise _unsupported(f"certification data of type {kind} around the quoting enclave's report")
    inner = _Reader(outer.take(outer.u32()), "its certification data")
    outer.finish()
    return inner


def _malformed(reason: str) -> Refused:
    return Refused(Code.ATT_MALFORMED, f"not a quote: {reason}. Ask the peer for fresh evidence")


def _unsupported(what: str) -> Refused:
    return Refused(
        Code.ATT_UNSUPPORTED,
        f"{what}. Verified are SGX quotes of version 3 and TDX quotes of versions 4 and 5, by Intel"
        " quoting enclaves",
    )
