# SPDX-License-Identifier: Apache-2.0
"""What leaves a data owner's site, in plain words: what an owner reads before accepting a contract.

Made from the plan and the model's layout alone, and pure: the same contract gives the same report
at every party. It says what the engine enforces, and, as plainly, what nothing enforces. Whatever
the author chose the name of is shown in quotes, so that no name passes for a sentence of ours.
"""

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from fedclave.algorithms.folds import delta_layout
from fedclave.engine import metrics
from fedclave.plan import Plan
from fedclave.tensors import Layout
from fedclave.trust.attesting import MAX_EVIDENCE

SHOWN = 12  # tensors that are listed by name
_LONGEST = 80  # characters of a name that is shown
_FIGURE = 4 * metrics.MAX_NAME + 8  # bytes: its name in UTF-8, and a float64


@dataclass(frozen=True, kw_only=True)
class Leaving:
    """One tensor of an update, as it travels."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    elements: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a run under a contract takes from a party at most, and what it gives."""

    to: str
    """Where the aggregator is: HOST:PORT."""
    rounds: int
    tensors: tuple[Leaving, ...]
    """Of an update; none where no task trains."""
    elements: int
    update_bytes: int
    """Of one update, to the byte: no more is taken, no less."""
    total_bytes: int
    """Of the updates of all rounds, if the party trains in each."""
    measures: tuple[str, ...]
    """Series of figures that go up in a round."""
    most_figures: int
    """Named numbers that one series may have."""
    figure_bytes: int
    """Of all figures of one round, at most."""
    measures_at_end: bool
    """Whether the final model comes down, and figures of it go up, after the last round."""
    model_bytes: int
    """What comes down in each round."""
    clipping: str | None
    noise: str | None
    masking: str | None
    """What protects an update on its way into the model; None: nothing."""
    most_change: float
    most_weight: int
    code: str
    """Where the code that is run begins, MODULE:FUNCTION."""
    attested: tuple[str, ...]
    """Who proves what it runs before anything leaves."""
    evidence: bool
    """Whether this party proves itself too: its evidence names its machine."""
    evidence_bytes: int
    """Of one piece of evidence, at most."""

    @property
    def lines(self) -> tuple[str, ...]:
        """The report for people."""
        return tuple(_lines(self))

    def as_json(self) -> dict[str, Any]:
        """The same as an object."""
        return asdict(self)


def make(plan: Plan, model: Layout) -> Report:
    """The report on a plan whose model has this layout."""
    steps = metrics.steps(plan, tuple(plan.tasks))
    trains = any(metrics.trains(step) for step in steps)
    update = delta_layout(model)
    size = update.size if trains else 0
    attested = plan.attestation.required if plan.attestation else ()
    return Report(
        to=plan.network.address,
        rounds=plan.rounds,
        tensors=tuple(
            Leaving(
                name=e.name, dtype=e.dtype, shape=e.shape, elements=e.count, bytes=e.end - e.start
            )
            for e in (update.entries if trains else ())
        ),
        elements=sum(e.count for e in update.entries) if trains else 0,
        update_bytes=size,
        total_bytes=size * plan.rounds,
        measures=steps,
        most_figures=metrics.MAX_METRICS,
        figure_bytes=len(steps) * metrics.MAX_METRICS * _FIGURE,
        measures_at_end=metrics.measures_global(plan),
        model_bytes=model.size,
        clipping=None,  # the plan has no section that could ask for one of the three
        noise=None,
        masking=None,
        most_change=plan.fold.limit,
        most_weight=plan.fold.max_weight,
        code=plan.learner.build,
        attested=attested,
        evidence="collaborators" in attested,
        evidence_bytes=MAX_EVIDENCE if "collaborators" in attested else 0,
    )


def plainly(text: str) -> str:
    r"""A name that somebody else chose, for a screen: nothing in it hides or moves the cursor.

    >>> plainly("layer1.weight"), plainly("w" + chr(27) + "[2J")
    ('layer1.weight', "'w\\x1b[2J'")
    """
    short = text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
    return short if re.fullmatch(r"[A-Za-z0-9_./:\[\]-]+", short) else ascii(short)


def _lines(report: Report) -> Iterator[str]:
    yield "WHAT LEAVES THIS SITE"
    yield f"  fedclave sends this to the aggregator ({plainly(report.to)}), over TLS 1.3:"
    if report.tensors:
        yield (
            f"  1. In each of {report.rounds} rounds an update: how training here changed the model"
            f" ({len(report.tensors)} tensor{'' if len(report.tensors) == 1 else 's'})."
        )
        yield (
            f"     {report.elements} numbers, {report.update_bytes} bytes a round,"
            f" {report.total_bytes} bytes in all:"
        )
    else:
        yield "  1. No update: no task of this plan trains."
    for one in report.tensors[:SHOWN]:
        yield f"       {plainly(one.name)} ({one.dtype}, {_shape(one.shape)}, {one.bytes} bytes)"
    if len(report.tensors) > SHOWN:
        yield f"       and {len(report.tensors) - SHOWN} more; --json lists all"
    yield f"  2. Figures of {', '.join(map(plainly, report.measures)) or 'nothing'}: of each the"
    yield f"     number of examples, and at most {report.most_figures} numbers (loss, ...) under"
    yield f"     names that the code chooses; at most {report.figure_bytes} bytes a round."
    if report.measures_at_end:
        yield "     After the last round, once more, of the final model."
    yield "  3. If the code fails: the task, the place in the code and the kind of error. What the"
    yield "     error says stays here, in a file."
    yield from _evidence(report)
    yield "  The aggregator sees the party's name and network address, and when it works."
    yield ""
    yield "WHAT PROTECTS AN UPDATE"
    yield f"  Clipping:  {report.clipping or 'NONE.'}"
    yield f"  Noise:     {report.noise or 'NONE. Updates are not differentially private.'}"
    yield f"  Masking:   {report.masking or 'NONE. The aggregator reads the update of each party,'}"
    if report.masking is None:
        yield "             and its operator may have it keep them ('--keep-updates')."
    yield "  An update can tell much about the data that it was computed from."
    yield f"  A change of more than {report.most_change:g} in one number is refused, not clipped."
    yield f"  An update counts for its number of examples, at most {report.most_weight}."
    yield ""
    yield "WHO PROVES WHAT IT RUNS BEFORE ANYTHING LEAVES"
    if "aggregator" in report.attested:
        yield f"  {' and '.join(report.attested)}, as plan/attestation.yaml demands; 'fx attest"
        yield "  policy show' says it in words. A SIMULATED TEE proves nothing; it counts only if"
        yield "  this party is started with --allow-simulated."
    else:
        yield "  NOBODY. Whoever runs the aggregator can read every update, and run what they like."
    yield ""
    yield "WHAT COMES DOWN"
    final = "model" if report.measures_at_end else "model's SHA-256"
    yield f"  The model of each round, {report.model_bytes} bytes, and names of tasks; at the end"
    yield f"  the final {final}."
    yield ""
    yield "WHAT THE CODE MAY READ"
    yield f"  {plainly(report.code)} is given the path of the data, as the operator names it."
    yield "  NOTHING holds the code in src/ to that path: it runs with the rights of the user who"
    yield "  starts the collaborator, can read that user's other files and open connections, and"
    yield "  itself computes the numbers above. Read src/ before you accept. Run it as a user, or"
    yield "  in a container, that reaches no more than the data and the aggregator."


def _evidence(report: Report) -> Iterator[str]:
    """What attesting tells of a party; PPID and FMSPC: Intel SGX PCK Certificate Specification."""
    if report.evidence:
        yield "  4. At each connection, and again while it lasts, evidence of what runs here: a"
        yield "     quote, with the certificates of this machine's processor (PCK chain). THEY"
        yield "     NAME THE MACHINE: an identifier of its processor that is the same in every"
        yield "     federation (PPID), often one of the platform (platform instance id), its model"
        yield "     (FMSPC), how recent its microcode is. With it the party's name, public keys and"
        yield f"     clock. About 5 kB, at most {report.evidence_bytes} bytes each time."
        yield "     A simulated TEE has made these up."
    if report.attested:
        yield "  The ids of contract and policy, and which head of the aggregator's log was seen."
        yield "  That log keeps the party's name, and of each round its number of examples and the"
        yield "  SHA-256 of its update. Whoever gets a copy of the log reads it."
    if report.evidence:
        yield "  It keeps, too, what the party runs and how its platform stands."


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "one number"
