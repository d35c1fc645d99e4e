# SPDX-License-Identifier: Apache-2.0
"""A plan is loaded whole or refused with every mistake, each with line, path, reason and remedy."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from fedclave import plan
from fedclave.errors import PlanError

MINIMAL = """\
schema: 1
name: digits
rounds: 20
learner: {build: src.learner:build}
tasks:
  train: {run: fit, epochs: 1}
  validate: {run: evaluate, on: [global, local]}
"""
NAMES = (
    "Names are 1 to 64 letters, digits, dots, dashes and underscores, and begin and end with a"
    " letter or digit."
)
TOP = (
    "Keys here: schema, name, rounds, seed, learner, tasks, assignment, algorithm, quorum, fold,"
    " best, network, attestation."
)
METRIC = "Write TASK/METRIC, or TASK/global/METRIC for a task that measures the global model."
SCALAR = "Write a number, a text, true or false."


def mistakes(text: str) -> list[str]:
    with pytest.raises(PlanError) as caught:
        plan.parse(text, "plan.yaml")
    return str(caught.value).split("\n")


def test_a_small_plan_has_the_defaults_of_the_reference() -> None:
    loaded = plan.parse(MINIMAL)
    assert (loaded.name, loaded.rounds, loaded.seed) == ("digits", 20, 0)
    assert loaded.tasks["train"].settings == {"epochs": 1}
    assert loaded.tasks["validate"].on == ("global", "local")
    assert (loaded.algorithm.name, loaded.quorum.minimum, loaded.assignment.sample) == (
        "fedavg",
        1,
        1.0,
    )


def test_settings_keep_the_type_that_was_written() -> None:
    text = MINIMAL.replace("epochs: 1", "a: 1e-5, b: 1, c: 1.0, d: true, e: on, f: '1', é: ü")
    settings = plan.parse(text).tasks["train"].settings
    assert [(k, type(v).__name__) for k, v in settings.items()] == [
        ("a", "float"),
        ("b", "int"),
        ("c", "float"),
        ("d", "bool"),
        ("e", "str"),
        ("f", "str"),
        ("é", "str"),
    ]


def test_a_loaded_plan_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        plan.parse(MINIMAL).rounds = 3  # type: ignore[misc]


def test_digest_names_what_was_agreed_and_not_how_it_was_written() -> None:
    digest = plan.parse(MINIMAL).digest
    reordered = "# a note\n" + "\n".join(reversed(MINIMAL.split("\n")[:4])) + "\n"
    reordered += "tasks:\n" + "\n".join(MINIMAL.split("\n")[5:])
    assert plan.parse(reordered).digest == digest
    assert plan.parse(MINIMAL + "seed: 0\nquorum: {deadline_s: 600}\n").digest == digest
    assert plan.parse(MINIMAL + "seed: 1\n").digest != digest
    assert plan.parse(MINIMAL.replace("epochs: 1", "epochs: 1.0")).digest != digest


ONE_MISTAKE = [
    # (what is replaced, by what, the message after "plan.yaml:")
    ("schema: 1", "schema: 2", "1 schema: must be 1, got 2. Write 1."),
    ("name: digits", "name: -digits", f"2 name: '-digits' has not the form of a name. {NAMES}"),
    ("name: digits", "name: a b", f"2 name: 'a b' has not the form of a name. {NAMES}"),
    ("name: digits", "name: 5", "2 name: expected str, got int 5. Write it in quotes."),
    ("name: digits\n", "", "1 name: missing. Add it."),
    (
        "rounds: 20",
        "rounds: '20'",
        "3 rounds: expected int, got str '20'. Write it without quotes.",
    ),
    ("rounds: 20", "rounds: many", "3 rounds: expected int, got str 'many'. Write a whole number."),
    ("rounds: 20", "rounds: true", "3 rounds: expected int, got bool True. Write a whole number."),
    ("rounds: 20", "rounds: 2.0", "3 rounds: expected int, got float 2.0. Write a whole number."),
    ("rounds: 20", "rounds:", "3 rounds: expected int, got nothing. Write a whole number."),
    ("rounds: 20", "rounds: 0", "3 rounds: must be at least 1, got 0. Raise it."),
    ("rounds: 20", "rounds: 1000001", "3 rounds: must be at most 1000000, got 1000001. Lower it."),
    ("rounds: 20", "rounds: 20\nseed: -1", "4 seed: must be at least 0, got -1. Raise it."),
    ("rounds", "ronds", None),
    (
        "src.learner:build",
        "learner.py",
        "4 learner.build: 'learner.py' has not the form of a reference. Write MODULE:FUNCTION, for"
        " example src.learner:build.",
    ),
    (
        "{build: src.learner:build}",
        "{build: src.learner:build, device: gpu}",
        "4 learner.device: 'gpu' has not the form of a device. Write auto, cpu, cuda or cuda:N.",
    ),
    (
        "{build: src.learner:build}",
        "{build: src.learner:build, settings: {hidden: [64, 32]}}",
        f"4 learner.settings.hidden: expected one value, got [64, 32]. {SCALAR}",
    ),
    (
        "{build: src.learner:build}",
        "{build: src.learner:build, settings: {rate: .nan}}",
        "4 learner.settings.rate: must be a finite number, got nan. Write an ordinary number.",
    ),
    (
        "{build: src.learner:build}",
        "{build: src.learner:build, optimizer_state: forget}",
        "4 learner.optimizer_state: must be 'reset' or 'keep', got 'forget'. Write 'reset' or"
        " 'keep'.",
    ),
    (
        "epochs: 1",
        "epochs: {a: 1}",
        f"6 tasks.train.epochs: expected one value, got {{'a': 1}}. {SCALAR}",
    ),
    ("run: fit, ", "", "6 tasks.train.run: missing. Add it."),
    (
        "on: [global, local]",
        "on: [everywhere]",
        "7 tasks.validate.on[0]: must be 'global' or 'local', got 'everywhere'. Write 'global' or"
        " 'local'.",
    ),
    (
        "on: [global, local]",
        "on: global",
        "7 tasks.validate.on: expected a list, got str 'global'. Write [ONE, ANOTHER].",
    ),
]
ONE_ADDED = [
    ("colour: red", f"8 colour: unknown key. {TOP}"),
    ("quorom: {}", f"8 quorom: unknown key. Did you mean 'quorum'? {TOP}"),
    (
        "quorum: {minimun: 2}",
        "8 quorum.minimun: unknown key. Did you mean 'minimum'? Keys here: minimum, fraction,"
        " deadline_s.",
    ),
    (
        "assignment: {groups: [{name: a, tasks: [train], size: 2}]}",
        "8 assignment.groups[0].size: unknown key. Keys here: name, tasks, members, share.",
    ),
    ("quorum: 3", "8 quorum: expected a mapping, got int 3. Write KEY: VALUE lines."),
    ("quorum: {fraction: 0}", "8 quorum.fraction: must be more than 0.0, got 0. Raise it."),
    ("quorum: {fraction: 1.5}", "8 quorum.fraction: must be at most 1.0, got 1.5. Lower it."),
    (
        "quorum: {deadline_s: .inf}",
        "8 quorum.deadline_s: must be a finite number, got inf. Write an ordinary number.",
    ),
    ("quorum: {deadline_s: 0}", "8 quorum.deadline_s: must be more than 0.0, got 0. Raise it."),
    (
        "quorum: {minimum: 500}",
        "8 quorum.minimum: 500 is more than fold.max_members (256). Raise fold.max_members or lower"
        " quorum.minimum.",
    ),
    (
        "fold: {limit: 1e12, max_members: 1000000}",
        "8 fold: limit * max_weight * max_members leave -18 binary places, fewer than 16. Lower one"
        " of them.",
    ),
    (
        "assignment: {groups: [{name: a, tasks: [tain]}]}",
        "8 assignment.groups[0].tasks[0]: no task is called 'tain'. Tasks here: train, validate.",
    ),
    (
        "assignment: {groups: [{name: a, tasks: [train], members: [x], share: 0.5}]}",
        "8 assignment.groups[0]: members and share are two ways to fill a group. Keep one of them.",
    ),
    (
        "assignment: {groups: [{name: a, tasks: [train], members: [x/y]}]}",
        f"8 assignment.groups[0].members[0]: 'x/y' has not the form of a name. {NAMES}",
    ),
    (
        "assignment: {groups: [{name: a, tasks: [train], share: 0.6},"
        " {name: b, tasks: [train], share: 0.6}]}",
        "8 assignment: a group has no share, or they add up to more than 1. Give one to every"
        " group.",
    ),
    (
        "assignment: {groups: [{name: a, tasks: [train], share: 0.6}, {name: b, tasks: [train]}]}",
        "8 assignment: a group has no share, or they add up to more than 1. Give one to every"
        " group.",
    ),
    (
        "assignment: {function: 'src.who:assign', groups: [{name: a, tasks: [train]}]}",
        "8 assignment: groups and function are two rules. Keep one of them.",
    ),
    ("best: {metric: tain/loss}", f"8 best.metric: no task measures 'tain/loss'. {METRIC}"),
    (
        "best: {metric: train/global/loss}",
        f"8 best.metric: no task measures 'train/global/loss'. {METRIC}",
    ),
    ("best: {metric: validate/loss}", f"8 best.metric: no task measures 'validate/loss'. {METRIC}"),
    ("best: {metric: loss}", f"8 best.metric: no task measures 'loss'. {METRIC}"),
    (
        "best: {direction: up}",
        "8 best.direction: must be 'max' or 'min', got 'up'. Write 'max' or 'min'.",
    ),
    (
        "network: {address: https://example.org}",
        "8 network.address: 'https://example.org' has not the form of an address. Write HOST:PORT,"
        " for example aggregator.example.org:8443.",
    ),
    (
        "network: {address: 'example.org:84\uff143'}",  # a digit of Unicode is not one of ASCII
        "8 network.address: 'example.org:84\uff143' has not the form of an address. Write"
        " HOST:PORT, for example aggregator.example.org:8443.",
    ),
    (
        "network: {address: 'example.org:70000'}",
        "8 network.address: no port has this number, got 'example.org:70000'. Ports are 1 to"
        " 65535.",
    ),
    ("rounds: 5", "8 rounds: duplicate key. It stands on line 3 too; keep one."),
]


@pytest.mark.parametrize(("old", "new", "message"), ONE_MISTAKE, ids=lambda t: repr(t)[:40])
def test_mistake_in_a_required_part(old: str, new: str, message: str | None) -> None:
    assert MINIMAL.count(old) == 1
    expected = [f"plan.yaml:{message}"]
    if message is None:  # a misspelt required key is two mistakes: one missing, one unknown
        expected = [
            "plan.yaml:1 rounds: missing. Add it.",
            f"plan.yaml:3 ronds: unknown key. Did you mean 'rounds'? {TOP}",
        ]
    assert mistakes(MINIMAL.replace(old, new)) == expected


@pytest.mark.parametrize(("added", "message"), ONE_ADDED, ids=lambda t: repr(t)[:60])
def test_mistake_in_an_optional_part(added: str, message: str) -> None:
    assert mistakes(MINIMAL + added + "\n") == [f"plan.yaml:{message}"]


def test_all_mistakes_are_told_at_once_in_file_order() -> None:
    text = "schema: 1\nname: digits\nrounds: x\nlearner: {build: 3}\nextra: 1\nseed: -1\n"
    assert mistakes(text) == [
        "plan.yaml:1 tasks: missing. Add it.",
        "plan.yaml:3 rounds: expected int, got str 'x'. Write a whole number.",
        "plan.yaml:4 learner.build: expected str, got int 3. Write it in quotes.",
        f"plan.yaml:5 extra: unknown key. {TOP}",
        "plan.yaml:6 seed: must be at least 0, got -1. Raise it.",
    ]


def test_all_contradictions_are_told_at_once() -> None:
    text = MINIMAL + "quorum: {minimum: 300}\nbest: {metric: x/y}\n"
    assert [line.split(":")[1] for line in mistakes(text)] == ["8 quorum.minimum", "9 best.metric"]


def test_plan_without_tasks_is_refused() -> None:
    text = MINIMAL[: MINIMAL.index("tasks:")] + "tasks: {}\n"
    assert mistakes(text) == ["plan.yaml:5 tasks: must not be empty, got {}. Add one."]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n", "expected a mapping, got list ['a']. Write KEY: VALUE lines."),
        ("hello\n", "expected a mapping, got str 'hello'. Write KEY: VALUE lines."),
        ("", "the file is empty. Write KEY: VALUE lines."),
    ],
)
def test_file_that_is_no_mapping_is_refused(text: str, message: str) -> None:
    assert mistakes(text) == [f"plan.yaml:1: {message}"]


def test_a_long_value_is_shown_short() -> None:
    assert len(mistakes(MINIMAL.replace("rounds: 20", "rounds: " + "x" * 10_000))[0]) < 100


def test_missing_file_tells_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(PlanError) as caught:
        plan.load(tmp_path / "plan.yaml")
    assert str(caught.value) == (
        f"{tmp_path / 'plan.yaml'}: no such file. Run this in a workspace, or make one with"
        " 'fx workspace create'."
    )


def test_file_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_bytes(MINIMAL.replace("digits", "é").encode("latin-1"))
    with pytest.raises(PlanError, match=r"plan\.yaml:2: byte 0xe9 is not UTF-8"):
        plan.load(path)


def test_names_of_every_length_up_to_64() -> None:
    for length in range(1, 65):
        assert plan.NAME.fullmatch("a" * length)
    for name in ("", "a" * 65, ".a", "a.", "..", "a/b", "a b", "é", "a\n"):
        assert not plan.NAME.fullmatch(name)


@pytest.mark.parametrize(
    "address", ["localhost:1", "a.example.org:65535", "[::1]:8443", "10.0.0.1:80"]
)
def test_addresses_that_are_good(address: str) -> None:
    loaded = plan.parse(MINIMAL + f"network: {{address: '{address}'}}\n")
    assert loaded.network.address == address


@pytest.mark.parametrize(
    ("minimum", "fraction", "asked", "needed"),
    [
        (1, 0.5, 0, 1),
        (1, 0.5, 3, 2),
        (2, 0.8, 3, 3),
        (1, 0.1, 10, 1),
        (1, 0.7, 10, 7),
        (5, 0.1, 10, 5),
    ],
)
def test_quorum_counts(minimum: int, fraction: float, asked: int, needed: int) -> None:
    assert plan.QuorumPart(minimum=minimum, fraction=fraction).needed(asked) == needed


@pytest.mark.parametrize(
    ("limit", "weight", "members", "bits"),
    [(1.0, 1, 1, 62), (256.0, 2**20, 2**8, 26), (255.5, 2**20, 2**8, 26), (257.0, 2**20, 2**8, 25)],
)
def test_fraction_bits_are_what_the_bounds_leave(
    limit: float, weight: int, members: int, bits: int
) -> None:
    part = plan.FoldPart(limit=limit, max_weight=weight, max_members=members)
    assert part.fraction_bits == bits
    assert limit * weight * members * 2**bits <= 2**62


@pytest.mark.parametrize(
    ("added", "lines"),
    [
        ("rounds: 5\nquorum: {minimum: 500, fraction: 0}", None),
        ("seed: -1\nquorum: {minimum: 500}", ["9 quorum.minimum: 500 is more", "8 seed: must"]),
        (
            "seed: x\nassignment: {sample: 2, function: 's.a:b', groups: [{name: a, tasks: []}]}",
            ["9 assignment: groups and function", "8 seed: expected", "9 assignment.sample: must"],
        ),
        ("seed: x\nbest: {metric: loss}", ["9 best.metric: no task measures", "8 seed: expected"]),
        (
            "seed: x\nassignment: {groups: [{name: a, tasks: [tain]}, {tasks: [x]}]}",
            ["8 seed: expected", "9 assignment.groups[1].name: missing"],
        ),
    ],
)
def test_a_mistake_hides_no_other(added: str, lines: list[str] | None) -> None:
    found = mistakes(MINIMAL + added + "\n")
    if lines is None:  # YAML itself: nothing behind it can be trusted
        assert len(found) == 1 and "duplicate key" in found[0]
        return
    assert len(found) == len(lines)
    for start in lines:
        assert any(text.startswith(f"plan.yaml:{start}") for text in found), found


@pytest.mark.parametrize(
    ("old", "new", "count"),
    [
        ("{run: evaluate, on: [global, local]}", "{on: [global], rn: evaluate}", 1),
        ("{run: evaluate, on: [global, local]}", "{run: 3, on: [global, local]}", 1),
        ("tasks:", "tasks: 3\nother:", 2),
        ("learner: {build: src.learner:build}", "learner: [1]", 1),
        ("  train: {run: fit, epochs: 1}\n", "", 0),
    ],
)
def test_what_a_mistake_leaves_out_makes_no_other(old: str, new: str, count: int) -> None:
    """A plan names what another part defines: that part's own mistake is told, once."""
    text = MINIMAL + "best: {metric: validate/global/accuracy}\n"
    assert text.count(old) == 1
    found = mistakes(text.replace(old, new)) if count else []
    assert len(found) == count, found


KEY, OTHER = (f"ed25519:{'A' * 42}{last}=" for last in "AE")
ATTESTATION = f"""\
attestation:
  required: [aggregator]
  signers: ['{KEY}', '{OTHER}']
  threshold: 2
"""
PUBLIC_KEY = (
    "has not the form of a public key. Write ed25519: and its 32 bytes in base64, as 'fx attest"
    " policy sign' prints it."
)


def test_a_plan_without_attestation_keeps_the_digest_that_it_had_before_there_was_any() -> None:
    digest = "68974e464df49c83bd1230be0e8d2228b3a3acc93b4b201d0b38523837c2f7f0"
    assert plan.parse(MINIMAL).digest == digest


def test_every_key_of_attestation_is_in_the_digest() -> None:
    texts = [
        "",
        ATTESTATION,
        ATTESTATION.replace("[aggregator]", "[aggregator, collaborators]"),
        ATTESTATION.replace("threshold: 2", "threshold: 1"),
        ATTESTATION.replace(f", '{OTHER}'", "").replace("threshold: 2", "threshold: 1"),
    ]
    assert len({plan.parse(MINIMAL + text).digest for text in texts}) == len(texts)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("[aggregator]", "[collaborators]", " required has another form. Write [aggregator] or"),
        ("[aggregator]", "[]", " required has another form. Write [aggregator] or"),
        ("[aggregator]", "[collaborators, aggregator]", " required has another form."),
        ("[aggregator]", "[server]", ".required[0]: must be 'aggregator' or 'collaborators', got"),
        ("[aggregator]", "aggregator", ".required: expected a list, got str"),
        ("  required: [aggregator]\n", "", ".required: missing. Add it."),
        (OTHER, KEY, " a key stands twice among the signers. Keep one of the two."),
        (OTHER, OTHER[:-2] + "B=", f".signers[1]: 'ed25519:AAAA...AAAAAAAAAAAB=' {PUBLIC_KEY}"),
        (OTHER, "AAAA", f".signers[1]: 'AAAA' {PUBLIC_KEY}"),
        ("threshold: 2", "threshold: 3", " threshold is more than all 2 signers. Lower it, or"),
        ("threshold: 2", "threshold: 0", ".threshold: must be at least 1, got 0. Raise it."),
        ("threshold: 2", "threshold: true", ".threshold: expected int, got bool True."),
        ("threshold: 2", "treshold: 2", ".treshold: unknown key. Did you mean 'threshold'? Keys"),
    ],
)
def test_mistake_in_attestation(old: str, new: str, expected: str) -> None:
    at = "attestation" if expected.startswith(".") else "attestation:"
    found = mistakes(MINIMAL + ATTESTATION.replace(old, new))
    assert any(f"{at}{expected}" in one for one in found), found


@pytest.mark.parametrize("nothing", ["", " null", " ~"])
def test_an_empty_attestation_does_not_switch_it_off(nothing: str) -> None:
    assert mistakes(f"{MINIMAL}attestation:{nothing}\n") == [
        "plan.yaml:8 attestation: expected a mapping, got nothing. Write KEY: VALUE lines, or"
        " remove it."
    ]
