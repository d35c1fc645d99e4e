# SPDX-License-Identifier: Apache-2.0
"""The text of an attestation policy: its defaults, its digest, and every mistake with its line."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.support.policies import BASE, CODE, ROLE, made, written

from fedclave import canonical
from fedclave.errors import PlanError
from fedclave.trust import pck, policy, policy_values, quoting, roots
from fedclave.trust.tcb import Status

HEX = "0a" * 32
TD = {"mr_td": "0b" * 48, "rt_mr1": "01" * 48, "rt_mr2": "02" * 48, "rt_mr3": "03" * 48}


def mistakes(text: str) -> list[str]:
    with pytest.raises(PlanError) as caught:
        policy.parse(text, "a.yaml")
    return [str(problem) for problem in caught.value.problems]


def aggregator(**keys: Any) -> str:
    return written(roles={"aggregator": keys})


def test_what_is_not_written_is_not_allowed() -> None:
    found = made(roles={"aggregator": ROLE})
    assert not found.roles.collaborator.admits
    assert not found.roles.collaborator.unattested.members
    assert (found.tcb.allowed, found.tcb.grace.days) == (("UpToDate",), 0)
    assert not (found.tcb.smt or found.tcb.dynamic_platform or found.tcb.cached_keys)
    assert found.release.initial_model == "none"


def test_by_default_an_enclave_has_the_attributes_of_one_that_gramine_signs() -> None:
    rules = made().roles.aggregator
    good = quoting.INIT | quoting.MODE64
    assert (rules.attributes.mask, rules.attributes.value) == (2**64 - 1, good)
    for xfrm, fits in ((0x3, True), (0xE7, True), (0x600E7, True), (0x1, False), (0x203, False)):
        assert (xfrm & rules.xfrm.mask == rules.xfrm.value) is fits, hex(xfrm)
    assert (rules.misc_select.mask, rules.misc_select.value) == (2**32 - 1, 0)


def test_the_digest_names_what_was_decided_and_not_how_it_was_written() -> None:
    one = policy.parse("# a remark\n" + written())
    value = dict(reversed(BASE.items())) | {"tcb": {"smt": False}}
    assert one.digest == policy.parse(json.dumps(value)).digest
    assert one.digest == canonical.digest("policy", canonical.decode(one.bytes))
    upper = {"aggregator": {"measurements": [{"mr_enclave": CODE.hex().upper()}]}}
    lower = {"aggregator": {"measurements": [{"mr_enclave": CODE.hex()}]}}
    assert made(roles=upper).digest == made(roles=lower).digest


@pytest.mark.parametrize(
    "part",
    [
        {"name": "other"},
        {"version": 2, "previous": HEX},
        {"roots": ["intel", f"simulated:{HEX}"]},
        {"roles": {"aggregator": ROLE}},
        {"tcb": {"smt": True}},
        {"tcb": {"accept_advisories": {"INTEL-SA-00615": "no use of MMIO"}}},
        {"platforms": {"deny": ["0c" * 16]}},
        {"freshness": {"session_s": 30000}},
        {"release": {"initial_model": "attested"}},
        {"valid": {"from": "2031-01-01", "until": "2031-12-30"}},
    ],
    ids=lambda part: "+".join(part),
)
def test_every_change_is_another_digest(part: dict[str, Any]) -> None:
    assert made(**part).digest != made().digest


def test_a_policy_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        made().tcb.smt = True


def test_a_date_that_ends_something_includes_its_day() -> None:
    valid = made(valid={"from": "2031-05-01", "until": "2031-05-01"}).valid
    assert valid.from_ == datetime(2031, 5, 1, tzinfo=UTC)
    assert valid.until == datetime(2031, 5, 1, 23, 59, 59, tzinfo=UTC)
    exact = made(valid={"from": "2031-05-01T08:00:00Z", "until": "2031-05-01T09:30:00Z"}).valid
    assert exact.until == datetime(2031, 5, 1, 9, 30, tzinfo=UTC)


def test_a_text_may_be_written_over_several_lines() -> None:
    text = written(roles={"aggregator": ROLE}).replace("release 1.4.0", ">\n        a\n        b\n")
    found = policy.parse(text)
    assert found.roles.aggregator.measurements[0].note == "a b"


def test_intels_root_is_the_one_that_is_built_in() -> None:
    assert policy_values.intel_root_hash() == roots.spki_hash(pck.INTEL_ROOT)


def test_every_status_can_be_allowed_but_revoked() -> None:
    assert set(get_args(policy_values.StatusName)) == set(Status) - {Status.REVOKED}


def test_the_policy_of_the_reference_page_is_one() -> None:
    page = Path(__file__).parents[3] / "docs/reference/attestation-policy.md"
    (example,) = re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    found = policy.parse(example)
    assert [one.note for one in found.roles.aggregator.measurements] == [
        "release 1.4.0",
        "release 1.3.2",
    ]
    assert found.roles.collaborator.unattested.members == (policy_values.ALL,)


NOT_A_TIME = "is not a date or a time. Write for example 2031-12-31"
UNATTESTED = "a.yaml:{} roles.collaborator.unattested: "
BAD: dict[str, tuple[str, str]] = {
    "unknown key": (written(ttl=3), "ttl: unknown key. Keys here: schema, name, version"),
    "unknown key within": (aggregator(mesurements=[]), "Did you mean 'measurements'?"),
    "no roles": (written().partition("roles:")[0], "roles: missing. Add it."),
    "no end": (written(valid={"from": "2031-01-01"}), "valid.until: missing. Add it."),
    "roles are empty": (written(roles={}), "the policy admits nobody. Give measurements"),
    "every role is empty": (
        written(roles={"aggregator": {"signers": []}, "collaborator": {"measurements": []}}),
        "roles: the policy admits nobody. Give measurements",
    ),
    "no root": (written(roots=[]), "roots: must not be empty. Add one."),
    "another root": (written("amd"), "'amd' is not a root. Write intel, or simulated:"),
    "half a root": (written("simulated:0a0a"), "is not a root"),
    "a root by its hash alone": (written(HEX), "is not a root"),
    "intel, simulated": (
        written(roots.SIMULATED + roots.spki_hash(pck.INTEL_ROOT).upper()),
        "this is Intel's root, which nobody simulates. Write intel.",
    ),
    "short measurement": (
        aggregator(measurements=[{"mr_enclave": "41aa"}]),
        "'41aa' is not 32 bytes in hex. Write 64 hexadecimal digits.",
    ),
    "a measurement that YAML takes for a number": (
        aggregator(**ROLE).replace(CODE.hex(), "1" * 64),
        "Write it in quotes.",
    ),
    "measurement of nothing": (
        aggregator(measurements=[{"note": "x"}]),
        "measurements[0]: it is no measurement of one thing. Give either mr_enclave or mr_td.",
    ),
    "measurement of two things": (aggregator(measurements=[{**TD, "mr_enclave": HEX}]), "either"),
    "td without its kernel": (
        aggregator(measurements=[{"mr_td": TD["mr_td"]}]),
        "mr_td alone allows every kernel and application. Give rt_mr1, rt_mr2 and rt_mr3.",
    ),
    "enclave with a kernel": (
        aggregator(measurements=[{"mr_enclave": HEX, "rt_mr1": TD["rt_mr1"]}]),
        "rt_mr0 to rt_mr3 are a TD's",
    ),
    "measurement twice": (
        aggregator(measurements=[{"mr_enclave": HEX}, {"mr_enclave": HEX, "until": "2031-01-01"}]),
        "a measurement stands twice. Keep one of the two.",
    ),
    "td and signers": (
        aggregator(measurements=[TD], signers=[HEX]),
        "a TD has no signer that could fit. Remove mr_td or signers.",
    ),
    "signers alone": (
        aggregator(signers=[HEX]),
        "signers alone would admit all that they ever signed. Give product.isv_prod_id",
    ),
    "product without signers": (
        aggregator(**ROLE, product={"min_isv_svn": 3}),
        "product says nothing without signers",
    ),
    "product too large": (aggregator(signers=[HEX], product={"isv_prod_id": 65536}), "65535"),
    "bits outside the mask": (
        aggregator(**ROLE, attributes={"mask": 4, "value": 5}),
        "value has bits that the mask leaves out",
    ),
    "mask alone": (aggregator(**ROLE, xfrm={"mask": 4}), "xfrm.value: missing. Add it."),
    "65 bits": (aggregator(**ROLE, xfrm={"mask": 2**64, "value": 0}), "must be less than"),
    "version 0": (written(version=0), "version: must be at least 1"),
    "version 1 with a previous one": (written(previous=HEX), "version 1 has no previous version"),
    "version 2 without a previous one": (
        written(version=2),
        "version 2 needs previous. Write the digest of version 1.",
    ),
    "schema 2": (written(schema=2), "schema: must be 1"),
    "name": (written(name="-"), "has not the form of a name"),
    "not a date": (written(valid={"from": "1.5.2031", "until": "2031-12-31"}), NOT_A_TIME),
    "30 February": (written(valid={"from": "2031-02-30", "until": "2031-12-31"}), NOT_A_TIME),
    "no time zone": (
        written(valid={"from": "2031-01-01T00:00:00", "until": "2031-12-31"}),
        NOT_A_TIME,
    ),
    "a date that is a number": (written(valid={"from": 2031, "until": "2031-12-31"}), NOT_A_TIME),
    "ends before it begins": (
        written(valid={"from": "2031-05-02", "until": "2031-05-01"}),
        "valid: until is not after from. Correct one of them.",
    ),
    "revoked": (written(tcb={"allowed": ["Revoked"]}), "tcb.allowed[0]: must be 'UpToDate'"),
    "no status": (written(tcb={"allowed": []}), "tcb.allowed: must not be empty. Add one."),
    "a switch that is a word": (written(tcb={"smt": "yes"}), "expected bool, got str 'yes'"),
    "grace without days": (written(tcb={"grace": {"statuses": ["OutOfDate"]}}), "need each other"),
    "grace for nothing": (written(tcb={"grace": {"days": 3}}), "need each other"),
    "grace for what is allowed": (
        written(tcb={"grace": {"statuses": ["UpToDate"], "days": 3}}),
        "UpToDate is allowed without an end. Remove it from grace.",
    ),
    "advisory accepted and rejected": (
        written(tcb={"reject_advisories": ["SA-1"], "accept_advisories": {"SA-1": "why"}}),
        "SA-1 is both rejected and accepted. Keep one of the two.",
    ),
    "advisory without a reason": (
        written(tcb={"accept_advisories": {"SA-1": " "}}),
        "is not a text of 1 to 300 printable characters",
    ),
    "advisory that is none": (
        written(tcb={"accept_advisories": {"everything": "why"}}),
        "'everything' is not the name of an advisory",
    ),
    "machine allowed and denied": (
        written(platforms={"allow": ["0c" * 16], "deny": ["0C" * 16]}),
        f"{'0c' * 16} is both allowed and denied. Keep one of the two.",
    ),
    "re-attestation after the session": (
        written(freshness={"session_s": 60}),
        "freshness: reattest_s comes after session_s. Lower it.",
    ),
    "endless session": (written(freshness={"session_s": 10**9}), "must be at most 604800"),
    "excused without a reason": (
        written(roles={"collaborator": {"unattested": {"members": "all", "receives": ["model"]}}}),
        "members without evidence, but not why or what they get. Give reason and receives.",
    ),
    "excused, and nothing is said of what they get": (
        written(roles={"collaborator": {"unattested": {"members": "all", "reason": "no SGX"}}}),
        "Give reason and receives.",
    ),
    "excuse for nobody": (
        written(roles={"aggregator": ROLE, "collaborator": {"unattested": {"reason": "no SGX"}}}),
        "it names nobody. Give members, or remove it.",
    ),
    "everybody in a list": (
        written(roles={"collaborator": {"unattested": {"members": ["*"]}}}),
        "is neither all nor a list of names. Write all, or [NAME, ANOTHER].",
    ),
    "keys for who is not attested": (
        written(
            roles={
                "collaborator": {
                    "unattested": {"members": "all", "reason": "x", "receives": ["keys"]}
                }
            }
        ),
        "must be 'model', got 'keys'",
    ),
    "an excused aggregator": (aggregator(**ROLE, unattested={"members": "all"}), "unknown key"),
    "a release that nothing enforces": (
        written(release={"final_model": "attested"}),
        "unknown key",
    ),
    "not a mapping": ("- 1\n", "expected a mapping"),
    "empty": ("", "the file is empty"),
}


@pytest.mark.parametrize(("text", "message"), BAD.values(), ids=BAD)
def test_mistakes_are_told_with_their_line_and_remedy(text: str, message: str) -> None:
    (told,) = mistakes(text)
    assert told.startswith("a.yaml:")
    assert message in told


def test_all_mistakes_are_told_at_once_in_file_order() -> None:
    text = written(
        "amd",
        roles={"aggregator": {"signers": ["0a"], "xfrm": {"mask": 0, "value": 1}}},
        tcb={"smt": 1, "grace": {"days": 2}},
        freshness={"session_s": 60},
        ttl=3,
    )
    told = mistakes(text)
    places = [line.split()[1].rstrip(":") for line in told]
    role = "roles.aggregator"
    assert places == [
        *("roots[0]", f"{role}.signers[0]", f"{role}.xfrm", "tcb.smt", "tcb.grace"),
        *("freshness", "ttl"),
    ]
    lines = [int(line.split(":")[1].split()[0]) for line in told]
    assert lines == sorted(lines) and text.splitlines()[lines[0] - 1] == "- amd"


def test_a_missing_file_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="no such file"):
        policy.load(tmp_path / "attestation.yaml")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*BASE, "measurements", "mr_enclave", "x"]), inner)
    ),
    max_leaves=8,
)


@given(st.sampled_from([*BASE, "tcb", "platforms", "freshness", "release"]), VALUES)
def test_whatever_stands_in_a_section_is_a_policy_or_a_told_mistake(part: str, value: Any) -> None:
    try:
        found = made(**{part: value})
    except PlanError as error:
        assert all(problem.reason for problem in error.problems)
    else:
        assert canonical.decode(found.bytes)["schema"] == 1
