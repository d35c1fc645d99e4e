# SPDX-License-Identifier: Apache-2.0
"""Known inputs, as ``seeds``: what a person writes, is handed as a line, or gives as a file."""

from datetime import timedelta

from fuzz import parties
from tests.support import enclaves

from fedclave.trust import policy_file, release, signing
from fedclave.trust.tokens import Token


def policies() -> list[bytes]:
    """As people write them."""
    mrenclave, mrtd = "ab" * 32, "cd" * 48
    whole = f"""schema: 1
name: kit
version: 2
previous: {mrenclave}
valid: {{from: 2031-01-01, until: 2031-12-31T12:00:00Z}}
roots: [intel, "simulated:{mrenclave}"]
roles:
  aggregator:
    measurements:
      - {{mr_enclave: {mrenclave}, until: 2031-06-30, note: release 1}}
      - {{mr_td: {mrtd}, rt_mr1: {mrtd}, rt_mr2: {mrtd}, rt_mr3: {mrtd}}}
  collaborator:
    signers: [{mrenclave}]
    product: {{isv_prod_id: 7, min_isv_svn: 2}}
    attributes: {{mask: 0xffffffffffffffff, value: 0x5}}
    unattested: {{members: [anna], reason: no TEE, receives: [model]}}
tcb:
  allowed: [UpToDate, SWHardeningNeeded]
  grace: {{statuses: [OutOfDate], days: 30}}
  accept_advisories: {{INTEL-SA-00615: why}}
platforms: {{deny: [{"ef" * 16}], deny_keys: [{mrenclave}]}}
freshness: {{session_s: 3600, reattest_s: 600}}
release: {{initial_model: attested}}
"""
    role = f"{{measurements: [{{mr_enclave: {mrenclave}}}]}}"
    short = (
        "{schema: 1, name: kit, version: 1, valid: {from: 2031-01-01, until: 2031-12-31},"
        f" roots: [intel], roles: {{aggregator: {role}}}}}"
    )
    return [short.encode(), whole.encode()]


def lines() -> list[bytes]:
    """A token, and public keys in each form."""
    token = Token(
        federation="kit", role="collaborator", name="anna", authority="ca:1", aggregator="agg:2",
        root="ab" * 32, secret="cd" * 16, expires=parties.NOW + timedelta(hours=1),
    )  # fmt: skip
    public = parties.AUTHOR.public_key()
    return [
        str(token).encode(),
        parties.PEER.line.encode(),
        policy_file.format_key(public).encode(),
        signing.public_pem(public),
        release.format_public(parties.PAIR.public),
    ]


def sigstructs() -> list[bytes]:
    """One that is signed."""
    return [enclaves.example()]
