# SPDX-License-Identifier: Apache-2.0
"""``enclave.yaml`` is strict, and has no word on what is trusted."""

import pytest

from fedclave.errors import PlanError
from fedclave.workspace import enclave_yaml
from fedclave.workspace.enclave_yaml import EnclaveFile


def test_what_a_host_chooses_is_read() -> None:
    text = "name: anna\naddress: fl.example.org:8443\ndata: data/anna.npz\nhosts: [10.0.0.1, a.b]\n"
    found = enclave_yaml.parse(text)
    assert (found.name, found.data, found.hosts) == ("anna", "data/anna.npz", ("10.0.0.1", "a.b"))
    assert found.listen is None


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("allow_simulated: true", "allow_simulated"),
        ("signers: []", "signers"),
        ("root: abc", "root"),
        ("plan: other.yaml", "plan"),
        ("name: ../x", "name"),
        ("listen: nowhere", "listen"),
        ("address: 8443", "address"),
        ("hosts: 'a b'", "hosts"),
        ("hosts: ['a b']", "hosts"),
        ("data: ''", "data"),
    ],
    ids=lambda value: value.replace(" ", "-"),
)
def test_anything_else_is_refused_with_its_line(line: str, key: str) -> None:
    with pytest.raises(PlanError) as refused:
        enclave_yaml.parse(f"# the host's\n{line}\n", "enclave.yaml")
    (problem,) = refused.value.problems
    assert problem.file == "enclave.yaml"
    assert problem.line == 2
    assert problem.path.startswith(key)


def test_nothing_in_it_decides_what_is_trusted() -> None:
    assert set(EnclaveFile.model_fields) == {
        "name", "listen", "address", "hosts", "data", "release_listen"
    }  # fmt: skip
