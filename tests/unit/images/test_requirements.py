# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest

from fedclave.errors import UserError
from fedclave.workspace.images import requirements
from fedclave.workspace.images.requirements import Wanted

CPU = "https://download.pytorch.org/whl/cpu"
TEMPLATES = Path(requirements.__file__).parents[2] / "templates"


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "requirements.txt"
    path.write_text(text)
    return path


def test_requirements_indexes_and_extras_are_told_apart(tmp_path: Path) -> None:
    text = f"""
# what the code needs
--extra-index-url={CPU}   # builds for CPUs
-i https://example.org:8443/simple/
fedclave[torch, attest]
fedclave-plugin
numpy >=1.23 , \\
    <3
ruamel.yaml[jinja2] (>=0.18) ; python_version < "3.13"
"""
    assert requirements.read(written(tmp_path, text)) == Wanted(
        lines=(
            "fedclave-plugin",
            "numpy >=1.23 , <3",
            'ruamel.yaml[jinja2] (>=0.18) ; python_version < "3.13"',
        ),
        extras=frozenset({"torch", "attest"}),
        indexes=(
            f"--extra-index-url {CPU}",
            "--index-url https://example.org:8443/simple/",
        ),
    )


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--no-binary kit", "'--no-binary'"),
        ("--find-links wheels", "'--find-links'"),
        ("--trusted-host example.org", "'--trusted-host'"),
        ("-r more.txt", "'-r'"),
        ("-e .", "'-e'"),
        ("kit @ https://example.org/kit-1.0.tar.gz", "not a requirement by name"),
        ("kit>=1 @ https://example.org/kit.whl", "not a requirement by name"),
        ("git+https://example.org/kit.git", "not a requirement by name"),
        ("./kit", "not a requirement by name"),
        ("kit-1.0-py3-none-any.whl", "not a requirement by name"),
        ("kit-1.0.tar.gz", "not a requirement by name"),
        (f"kit==1.0 --hash=sha256:{'a' * 64}", "hashes of its own"),
        ("kit==1.0 --config-settings=x=y", "not a requirement by name"),
    ],
)
def test_what_a_lock_cannot_take_is_refused_with_its_line(
    tmp_path: Path, line: str, words: str
) -> None:
    with pytest.raises(UserError, match=words) as refused:
        requirements.read(written(tmp_path, f"numpy\n{line}\n"))
    assert "requirements.txt:2: " in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/simple",
        "file:///opt/simple",
        "https://anna:secret@example.org/simple",
        "https://${TOKEN}@example.org/simple",
        "https://example.org/simple?token=secret",
        "../simple",
    ],
    ids=["in-the-clear", "of-this-machine", "password", "variable", "token", "path"],
)
@pytest.mark.parametrize("option", ["--index-url ", "--extra-index-url=", "-i "])
def test_an_index_that_not_everybody_may_ask_is_refused_and_not_repeated(
    tmp_path: Path, option: str, url: str
) -> None:
    with pytest.raises(UserError, match=r"requirements\.txt:1: .*PIP_EXTRA_INDEX_URL") as refused:
        requirements.read(written(tmp_path, f"{option}{url}\n"))
    assert url not in str(refused.value)


def test_requirements_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"requirements\.txt cannot be read"):
        requirements.read(tmp_path / "requirements.txt")


def test_torch_of_a_template_is_that_of_the_index_for_cpus() -> None:
    wanted = requirements.read(TEMPLATES / "torch-digits/requirements.txt")
    assert wanted.indexes == (f"--extra-index-url {CPU}",)
    assert wanted.extras == {"torch"}
