# SPDX-License-Identifier: Apache-2.0
"""``fx attest show FILE.sig``: a SIGSTRUCT in words."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fedclave.cli import console

if TYPE_CHECKING:
    from fedclave.trust.sigstruct import Body

# Intel SDM vol. 3D, 38.7.1 (ATTRIBUTES), 38.7.2 (MISCSELECT); vol. 1, 13.1 (XCR0)
FLAGS = {
    "INIT": 1 << 0,
    "DEBUG": 1 << 1,
    "MODE64": 1 << 2,
    "PROVISIONKEY": 1 << 4,
    "EINITTOKENKEY": 1 << 5,
    "CET": 1 << 6,
    "KSS": 1 << 7,
    "AEXNOTIFY": 1 << 10,
}
XFRM = {
    "x87": 1 << 0,
    "SSE": 1 << 1,
    "AVX": 1 << 2,
    "MPX": 0b11 << 3,
    "AVX-512": 0b111 << 5,
    "PKRU": 1 << 9,
    "AMX": 0b11 << 17,
}
MISC = {"EXINFO": 1 << 0, "CPINFO": 1 << 1}


def is_one(raw: bytes) -> bool:
    """Whether bytes begin as a SIGSTRUCT does."""
    from fedclave.trust.sigstruct import HEADER

    return raw.startswith(HEADER)


def show(raw: bytes, as_json: bool) -> None:
    """Print what a SIGSTRUCT says. ``Refused(MALFORMED)`` if it is damaged beyond that."""
    from fedclave.errors import Refused
    from fedclave.trust import sigstruct

    found = sigstruct.read(raw)
    body = found.body
    try:
        sigstruct.verify(found)
        signature = "valid"
    except Refused as error:
        signature = f"NOT VALID: {error.message}"
    value = {
        "kind": "SIGSTRUCT",
        "mr_enclave": body.mrenclave.hex(),
        "mr_signer": found.mrsigner.hex(),
        "isv_prod_id": body.isv_prod_id,
        "isv_svn": body.isv_svn,
        "date": body.date.isoformat(),
        "vendor": f"{body.vendor:#06x}",
        "mode": _mode(body),
        **_masked("attributes", body.flags, body.flags_mask, FLAGS, 64),
        **_masked("xfrm", body.xfrm, body.xfrm_mask, XFRM, 64),
        **_masked("misc_select", body.miscselect, body.miscmask, MISC, 32),
        **_rare(body),
        "signature": signature,
    }
    lines = [
        *console.rows(value),
        "",
        "Anybody can sign, with a key of his own: compare mr_signer with the signer that you trust,"
        " and mr_enclave with what you expect to run."
        if signature == "valid"
        else "DO NOT USE IT: its fields may have been changed after it was signed.",
    ]
    facts = {"verified": False, "debug": body.debug, "allows_debug": body.allows_debug, **value}
    console.answer(facts, lines, as_json)


def _mode(body: "Body") -> str:
    if body.debug:
        return "DEBUG: its host reads its memory"
    if body.allows_debug:
        return "OPEN: its mask lets the host start it in debug mode, and read its memory"
    return "production: no host can start it in debug mode"


def _masked(
    name: str, value: int, mask: int, names: Mapping[str, int], bits: int
) -> dict[str, str]:
    """A field, its mask, and what the two say: which bits must be set, which are the host's."""
    everything = 2**bits - 1
    digits = bits // 4
    words = [
        f"{verb} {'all' if found == everything else _words(found, names)}"
        for verb, found in (("demands", value & mask), ("leaves open", everything & ~mask))
        if found
    ]
    if everything & mask & ~value:
        words.append("forbids all others" if words else "forbids all")
    return {
        name: f"{value:#0{digits + 2}x}",
        f"{name}_mask": f"{mask:#0{digits + 2}x}",
        f"{name}_rule": "; ".join(words),
    }


def _words(found: int, names: Mapping[str, int]) -> str:
    """Bits by their names; those without one, or of whose name only a part is set, as a number.

    >>> _words(0b101, FLAGS), _words(1 << 62 | 1 << 5 | 1, XFRM)
    ('INIT, MODE64', 'x87, bits 0x4000000000000020')
    """
    whole = {name: bits for name, bits in names.items() if found & bits == bits}
    rest = found & ~sum(whole.values())
    return ", ".join([*whole, *([f"bits {rest:#x}"] if rest else [])])


def _rare(body: "Body") -> dict[str, Any]:
    """Fields that most enclaves do not use, if this one does."""
    fields = {
        "swdefined": f"{body.swdefined:#010x}" if body.swdefined else "",
        "cet": f"{body.cet:#04x} (mask {body.cet_mask:#04x})" if body.cet or body.cet_mask else "",
        "isv_family_id": body.isv_family_id.hex() if any(body.isv_family_id) else "",
        "isv_ext_prod_id": body.isv_ext_prod_id.hex() if any(body.isv_ext_prod_id) else "",
    }
    return {name: value for name, value in fields.items() if value}
