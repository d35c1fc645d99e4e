# SPDX-License-Identifier: Apache-2.0
"""What a Gramine manifest leaves to the host that should be the enclave's.

MRENCLAVE proves which manifest runs, not that it is a good one: Gramine starts an insecure one as
well, and at most prints a warning to the host. The rules are tables, each beside the checks that
need more than one value: ``manifest_switches``, ``manifest_program``,
``manifest_environment``, ``manifest_files``, ``manifest_form``. The facts are those of Gramine 1.9.

A lint reads one text. It does not know whether the listed files are good ones.
"""

from collections.abc import Iterator, Mapping, Sequence

from fedclave.trust import manifest_environment as environment
from fedclave.trust import manifest_files as files
from fedclave.trust import manifest_form as form
from fedclave.trust import manifest_program as program
from fedclave.trust import manifest_switches as switches
from fedclave.trust.manifest_layout import layout
from fedclave.trust.manifest_rule import Finding, Hit, Rule, Severity, key_text, value_text

__all__ = ["RULES", "Finding", "Rule", "Severity", "is_final", "lint"]

RULES: tuple[Rule, ...] = (
    *switches.RULES,
    *program.RULES,
    *environment.RULES,
    *files.RULES,
    *form.RULES,
)
"""Every rule, in the order in which findings are told."""

_BY_NAME = {rule.name: rule for rule in RULES}


def is_final(manifest: Mapping[str, object]) -> bool:
    """Whether the signer was here: it writes the hash of the LibOS, which authors leave out."""
    loader = manifest.get("loader")
    entrypoint = loader.get("entrypoint") if isinstance(loader, dict) else None
    return isinstance(entrypoint, dict) and "sha256" in entrypoint


def lint(
    manifest: Mapping[str, object], *, allow_outputs: Sequence[str] = (), final: bool | None = None
) -> tuple[Finding, ...]:
    """Everything that is wrong with a manifest: what is refused first, then warnings.

    ``allow_outputs`` are URIs of the host under which ``sgx.allowed_files`` may lie: public outputs
    that somebody accepts. In a ``final`` manifest each file has its hash; None: as ``is_final``
    says. Raises ``UserError`` for an output that cannot be accepted.

    >>> [finding.rule.name for finding in lint({"sgx": {"debug": True}})][:2]
    ['debug', 'attestation']
    """
    accepted = files.outputs(allow_outputs)
    sound = form.sound(manifest)
    signed = is_final(manifest) if final is None else final
    where = layout(sound)
    hits = [
        *_values(sound),
        *switches.check(sound),
        *program.check(sound, where, signed),
        *environment.check(sound, where),
        *files.check(sound, where, accepted, signed),
        *sound.hits,
    ]
    order = {name: place for place, name in enumerate(_BY_NAME)}
    hits.sort(key=lambda hit: (_BY_NAME[hit.rule].severity, order[hit.rule]))
    return tuple(map(_finding, hits))


def _values(manifest: form.Sound) -> Iterator[Hit]:
    """The rules that judge the value of one key."""
    for rule in RULES:
        path = tuple(rule.key.split("."))
        if rule.bad is None or manifest.is_broken(*path):
            continue
        if rule.bad(value := manifest.get(*path)):
            yield Hit(rule.name, path, value)


def _finding(hit: Hit) -> Finding:
    return Finding(
        rule=_BY_NAME[hit.rule],
        key=key_text(hit.path),
        value=value_text(hit.value),
        detail=hit.detail,
    )
