# SPDX-License-Identifier: Apache-2.0
"""The documentation says what the code does: generated pages, links, commands, snippets, names."""

import doctest
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
import typer.main
import yaml

from fedclave import yamlfile
from fedclave.cli.main import app
from fedclave.plan import Plan, load
from fedclave.workspace import assemble, layout

ROOT = Path(__file__).parents[2]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
MACHINE = re.compile(r"/(home|root|work|Users|tmp|private)/\w")


def blocks(*languages: str) -> list[tuple[str, str]]:
    return [
        (page, code)
        for page, text in PAGES.items()
        for language, code in FENCE.findall(text)
        if language in languages
    ]


def prose(text: str) -> str:
    return FENCE.sub("", text)


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.strip().replace(" ", "-") for heading in plain}


def commands() -> Iterator[tuple[str, str]]:
    """Every ``fx`` command that a page shows: in code blocks, and in the running text."""
    for page, code in blocks("bash", "console", "text"):
        for line in code.replace("\\\n", " ").splitlines():
            shown = re.match(r"(?:\$ )?(?:\w+=\S+ )*(fx .+)", line.strip())
            if shown and "[OPTIONS]" not in line:
                yield page, shown[1]
    for page, text in PAGES.items():
        for shown in re.findall(r"`(fx [^`]+)`", ours(page, prose(text))):
            if "NOUN" not in shown and "..." not in shown:
                yield from ((page, one) for one in alternatives(shown))


def ours(page: str, text: str) -> str:
    """The text without OpenFL's own commands: a table's first column, and those without a match."""
    if not page.endswith("coming-from-openfl.md"):
        return text
    return re.sub(r"^(\| [^|]*\||Not here: (.+\n)+)", "", text, flags=re.MULTILINE)


def alternatives(command: str) -> list[str]:
    """``fx plan check|show`` is two commands."""
    several = re.search(r"\S+\|\S+", command)
    if several is None:
        return [command]
    return [command.replace(several[0], one) for one in several[0].split("|")]


def words(command: str) -> list[str]:
    found = shlex.split(command, comments=True)
    ends = [at for at, word in enumerate(found) if word in {"|", ">", "<", "&&", "&", ";", "·"}]
    return found[: ends[0]] if ends else found


def unknown(command: str) -> str:
    """What of a command the application does not have; empty if it has all of it."""
    _, *rest = words(command)
    group = typer.main.get_command(app)
    context = group.context_class(group, info_name="fx")
    while rest and hasattr(group, "get_command") and not rest[0].startswith("-"):
        inner = group.get_command(context, rest[0])
        if inner is None:
            return rest[0]
        group, rest = inner, rest[1:]
    known = {name for p in group.params for name in (*p.opts, *p.secondary_opts)} | {"--help"}
    given = {word.partition("=")[0] for word in rest if re.match(r"--?[A-Za-z]", word)}
    return ", ".join(sorted(given - known))


def test_reference_pages_are_what_the_code_says() -> None:
    check = [sys.executable, "scripts/reference", "--check"]
    done = subprocess.run(check, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in LINK.findall(prose(PAGES[page])):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file.read_text(encoding="utf-8")), target


@pytest.mark.parametrize("page", PAGES)
def test_pages_begin_with_their_licence(page: str) -> None:
    assert PAGES[page].startswith("<!-- SPDX-License-Identifier: Apache-2.0 -->")


@pytest.mark.parametrize("page", PAGES)
def test_pages_name_no_folder_of_a_machine(page: str) -> None:
    assert not MACHINE.search(PAGES[page])


@pytest.mark.parametrize(("page", "command"), sorted(set(commands())))
def test_shown_commands_exist(page: str, command: str) -> None:
    assert not unknown(command)


@pytest.mark.parametrize(("page", "code"), blocks("python"))
def test_python_snippets_run_or_compile(page: str, code: str) -> None:
    if ">>> " not in code:
        compile(code, page, "exec")


@pytest.mark.parametrize("page", [page for page, text in PAGES.items() if ">>> " in text])
def test_examples_give_what_they_show(page: str) -> None:
    code = "\n".join(code for at, code in blocks("python") if at == page)
    examples = doctest.DocTestParser().get_doctest(code, {}, page, page, 0)
    failed, tried = doctest.DocTestRunner().run(examples)
    assert tried and not failed


@pytest.mark.parametrize(("page", "code"), blocks("yaml"))
def test_yaml_snippets_are_parts_of_a_plan(page: str, code: str) -> None:
    template = ROOT / "src/fedclave/templates/numpy-digits/plan/plan.yaml"
    snippet = yamlfile.parse(code, page).value
    if set(snippet) <= {"collaborators"} or "schema" in snippet:
        return
    whole = yamlfile.parse(template.read_text(encoding="utf-8"), str(template)).value
    Plan.model_validate({**whole, **snippet})


def test_the_own_task_and_rules_of_the_howto_are_accepted(tmp_path: Path) -> None:
    page = "docs/howto/own-tasks-and-assignment.md"
    task, rule = (code for at, code in blocks("python") if at == page)
    workspace = layout.create("numpy-digits", tmp_path / "ws")
    learner = workspace.src / "learner.py"
    method = "\n" + textwrap.indent(task, "    ") + "\n\ndef forward"
    learner.write_text(learner.read_text().replace("\n\ndef forward", method, 1))
    (workspace.src / "assignment.py").write_text(rule)
    whole = yamlfile.parse(workspace.plan.read_text(), "plan").value
    for at, code in blocks("yaml"):
        if at == page:
            whole |= yamlfile.parse(code, page).value
            workspace.plan.write_text(yaml.safe_dump(whole, sort_keys=False))
            assemble.check(workspace)
    given = assemble.assignment_function(workspace, load(workspace.plan))
    assert given is not None
    assert given(1, ["a", "b"], Random(1)) == {m: ["train", "validate"] for m in "ab"}
    assert sorted(given(2, ["a", "b"], Random(1)).values())[1] == ["validate"]


def test_tests_that_the_threat_model_names_exist() -> None:
    text = PAGES["docs/explanation/threat-model.md"]
    for file, names in re.findall(r"`(tests/[\w/]+\.py)((?:::\w+`(?:, `(?=::))?)+)", text):
        source = (ROOT / file).read_text(encoding="utf-8")
        for name in re.findall(r"::(\w+)", names):
            assert f"def {name}(" in source, f"{file}::{name}"
    assert "tests/attacks" in text
