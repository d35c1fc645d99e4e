# SPDX-License-Identifier: Apache-2.0
"""``fx attest measure`` on enclaves: made again by another party, who names what differs."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from tests.support import elves, images
from tests.unit.gramine.conftest import ROOT, Fx
from tests.unit.gramine.test_graminize import ENCLAVE, opened, raw

from fedclave.cli import main
from fedclave.errors import Refused
from fedclave.trust import enclave_key, sigstruct
from fedclave.workspace.gramine import recipe as recipes
from fedclave.workspace.gramine.measured import Measured
from fedclave.workspace.gramine.recipe import Recipe
from fedclave.workspace.images import oci_write, tree
from fedclave.workspace.images.tree import Node
from fedclave.workspace.layout import Workspace


@pytest.fixture
def measure(fx: Fx, made: Any, workspace: Workspace) -> Fx:
    def run(*options: str) -> tuple[int, Any]:
        return fx("attest", "measure", "-C", str(workspace.root), *options)

    return run


def refused(measure: Fx, *options: str) -> str:
    code, value = measure(*options)
    assert (code, value["error"]["code"]) == (3, "ATT-MRENCLAVE"), value
    return str(value["error"]["message"])


def rewritten(
    workspace: Workspace, change: Callable[[Recipe], Recipe], libpal: bytes = b""
) -> None:
    """The recipe, changed by somebody who also computes its measurements anew."""
    binary = workspace.libpal.read_bytes()
    recipe = change(recipes.parse(workspace.recipe.read_bytes(), "it"))
    found = {role: recipes.measure(recipe, role, binary) for role in ("aggregator", "collaborator")}
    workspace.recipe.write_bytes(replace(recipe, measurements=found).encoded)
    for role in found:
        workspace.signature(role).unlink(missing_ok=True)


def with_file(path: str, origin: str, sha256: str = "ab" * 32) -> Callable[[Recipe], Recipe]:
    """A recipe that has this file besides, or instead."""

    def change(recipe: Recipe) -> Recipe:
        others = [one for one in recipe.files if one.path != path]
        added = Measured(path=path, sha256=sha256, origin=origin)
        return replace(recipe, files=tuple(sorted([*others, added], key=lambda one: one.path)))

    return change


def test_a_party_with_the_workspace_alone_makes_most_of_it_again(
    measure: Fx, made: Any, workspace: Workspace
) -> None:
    code, value = measure()
    assert code == 0, value
    assert value["mr_enclave"] == made["mr_enclave"]
    assert set(value["mr_signer"].values()) == {made["mr_signer"]}
    assert set(value["made_again"]) == {"contract", "wheel", "made", "federation"}
    assert set(value["believed"]) == {"base", "gramine"}
    assert value["libpal"] == "believed"


def test_with_base_and_package_all_of_it_is_made_again(
    measure: Fx, made: Any, base: Path, gramine: Path, tmp_path: Path
) -> None:
    signature = tmp_path / "aggregator.sig"
    signature.write_bytes(raw(opened(made, tmp_path), f"{ENCLAVE}/aggregator.sig"))
    code, value = measure(
        "--base-image", str(base), "--gramine", str(gramine), "--image", made["archive"],
        "--compare", str(signature),
    )  # fmt: skip
    assert code == 0, value
    assert (value["believed"], value["libpal"]) == ({}, "made again")
    assert sum(value["made_again"].values()) == sum(made["measured"].values())
    assert value["same"] == [str(signature), made["archive"]]


def test_a_party_that_is_not_certified_yet_believes_in_the_ca(
    measure: Fx, workspace: Workspace
) -> None:
    shutil.rmtree(workspace.cert)
    code, value = measure()
    assert (code, value["believed"]["federation"]) == (0, 1)


@pytest.mark.parametrize(
    ("name", "text"),
    [("src/learner.py", "x = 1\n"), ("plan/plan.yaml", None), ("requirements.txt", "fedclave\n\n")],
)
def test_a_file_of_the_contract_that_differs_is_named(
    measure: Fx, workspace: Workspace, name: str, text: str | None
) -> None:
    path = workspace.root / name
    path.write_text(text if text is not None else path.read_text() + "\n# more\n")
    assert f"/workspace/{name} (contract) is another" in refused(measure)


def test_a_file_too_many_or_too_few_is_named(measure: Fx, workspace: Workspace) -> None:
    (workspace.src / "more.py").write_text("")
    assert "it lacks /workspace/src/more.py" in refused(measure)
    (workspace.src / "more.py").unlink()
    rewritten(workspace, with_file("/opt/fedclave/lib/evil.py", "wheel kit"))
    assert "it has /opt/fedclave/lib/evil.py, which these inputs do not make" in refused(measure)


@pytest.mark.parametrize(
    ("path", "origin", "words"),
    [
        ("/opt/fedclave/lib/python3/site-packages/evil.py", "base", "which has nothing there"),
        ("/workspace/src/evil.py", "base", "which has nothing there"),
        ("/opt/gramine/sgx/evil.so", "gramine", "which has nothing there"),
        ("/usr/lib/evil.so", "gramine", "which has nothing there"),
        ("/state/evil.py", "base", "which has nothing there"),
        ("/usr/lib/evil.so", "elsewhere", "of the origin 'elsewhere'"),
        ("/workspace/plan/plan.yaml", "base", "which has nothing there"),
    ],
)
def test_nothing_passes_for_a_file_that_is_believed(
    measure: Fx, workspace: Workspace, path: str, origin: str, words: str
) -> None:
    rewritten(workspace, with_file(path, origin))
    assert words in refused(measure)


def test_a_base_file_that_is_not_the_bases_is_named_once_the_base_is_there(
    measure: Fx, workspace: Workspace, base: Path
) -> None:
    path = f"/{images.STDLIB}/os.py"
    rewritten(workspace, with_file(path, "base"))
    assert measure()[0] == 0  # believed, and told so
    assert f"{path} (base) is another" in refused(measure, "--base-image", str(base))


def test_another_base_or_package_is_refused(
    measure: Fx, workspace: Workspace, gramine: Path, tmp_path: Path
) -> None:
    other = images.oci(tmp_path / "other", [images.layer({**ROOT, "etc/x": b"y"})])
    assert "stand on the base image" in refused(measure, "--base-image", str(other))
    libos = next(gramine.rglob("libsysdb.so"))
    libos.write_bytes(elves.library(["another"]))
    assert "libsysdb.so has the SHA-256" in refused(measure, "--gramine", str(gramine))
    workspace.libpal.write_bytes(elves.PAL + b"x")
    assert "libpal.so is not the one that the recipe names" in refused(measure)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: replace(r, folders=("/state",)), "is open to the host: loader.env.LD_LIBRARY"),
        (lambda r: replace(r, folders=("/usr/lib",)), "libraries are looked for in"),
        (lambda r: replace(r, contract="ab" * 32), "were made for the contract abababab"),
    ],
    ids=["host-libraries", "other-folders", "other-contract"],
)
def test_a_recipe_that_says_something_else_is_refused(
    measure: Fx, workspace: Workspace, base: Path, change: Any, words: str
) -> None:
    rewritten(workspace, change)
    options = ("--base-image", str(base)) if "looked for" in words else ()
    assert words in refused(measure, *options)


def test_a_measurement_that_is_claimed_and_not_made_is_refused(
    measure: Fx, workspace: Workspace
) -> None:
    recipe = recipes.parse(workspace.recipe.read_bytes(), "it")
    lie = {**recipe.measurements, "collaborator": "ab" * 32}
    workspace.recipe.write_bytes(replace(recipe, measurements=lie).encoded)
    assert "it claims abab" in refused(measure)


def test_a_signature_over_something_else_is_refused(
    measure: Fx, workspace: Workspace, key: Path
) -> None:
    one, other = workspace.signature("aggregator"), workspace.signature("collaborator")
    kept = one.read_bytes()
    one.write_bytes(other.read_bytes())
    assert "aggregator.sig signs" in refused(measure)
    one.write_bytes(kept)
    body = replace(sigstruct.parse(kept).body, flags_mask=2**64 - 1 - sigstruct.DEBUG)
    one.write_bytes(enclave_key.sign(body, enclave_key.load(key, lambda: None)))
    assert "in debug mode" in refused(measure)


def test_a_sig_of_somebody_elses_enclave_is_not_the_same(
    measure: Fx, key: Path, tmp_path: Path
) -> None:
    body = sigstruct.production(bytes(32), date(2026, 1, 1), isv_prod_id=1, isv_svn=1)
    (tmp_path / "x.sig").write_bytes(enclave_key.sign(body, enclave_key.load(key, lambda: None)))
    message = refused(measure, "--compare", str(tmp_path / "x.sig"))
    assert "neither of this workspace's enclaves" in message


def with_nodes(archive: Path, scratch: Path, nodes: dict[str, Node]) -> Path:
    """The image in an archive, with a layer more."""
    from fedclave.workspace.images import oci

    image = oci.read(archive, scratch / "layers")
    layer = oci_write.pack(tree.with_folders(nodes), scratch / "more.tar", 0)
    config = oci_write.configured(image, [layer], image.config["config"], 0)
    oci_write.write(scratch / "changed.tar", config, (*image.layers, layer), "x:1", 0)
    return scratch / "changed.tar"


@pytest.mark.parametrize(
    ("path", "data", "words"),
    [
        ("/workspace/src/learner.py", b"evil = 1\n", "/workspace/src/learner.py has the SHA-256"),
        ("/opt/gramine/libsysdb.so", b"x", "/opt/gramine/libsysdb.so has the SHA-256"),
        (f"{ENCLAVE}/aggregator.manifest.sgx", b"sgx.debug = true\n", "line 1 says"),
        (f"{ENCLAVE}/aggregator.sig", b"x" * 1808, "SIGSTRUCT"),
    ],
    ids=["code", "libos", "manifest", "signature"],
)
def test_an_image_whose_files_differ_is_refused_by_the_first(
    measure: Fx, made: Any, tmp_path: Path, path: str, data: bytes, words: str
) -> None:
    changed = with_nodes(Path(made["archive"]), tmp_path, {path: tree.of_bytes(data)})
    code, value = measure("--image", str(changed))
    assert (code, words in value["error"]["message"]) == (3, True), value


def test_a_manifest_edited_after_signing_does_not_fit_its_signature(
    fx: Fx, made: Any, workspace: Workspace, tmp_path: Path
) -> None:
    found = opened(made, tmp_path)
    text = raw(found, f"{ENCLAVE}/aggregator.manifest.sgx")
    (tmp_path / "a.manifest.sgx").write_bytes(text.replace(b'"strict"', b'"allow_all_but_log"'))
    (tmp_path / "a.sig").write_bytes(raw(found, f"{ENCLAVE}/aggregator.sig"))
    code, value = fx(
        "attest", "measure", "--manifest", str(tmp_path / "a.manifest.sgx"), "--libpal",
        str(workspace.libpal), "--compare", str(tmp_path / "a.sig"),
    )  # fmt: skip
    assert (code, value["error"]["code"]) == (3, "ATT-MRENCLAVE")


def test_without_a_recipe_it_measures_as_the_simulated_tee(
    fx: Fx, made: Any, measure: Fx, workspace: Workspace
) -> None:
    code, simulated = measure("--simulated")
    assert code == 0
    assert simulated["mr_enclave"] not in made["mr_enclave"].values()
    workspace.recipe.unlink()
    assert measure()[1] == simulated
    code, value = measure("--image", "x.tar")
    assert (code, "no plan/enclave.json" in value["error"]["message"]) == (2, True)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda raw: raw[:-1],
        lambda raw: raw + b" ",
        lambda raw: b"[]",
        lambda raw: raw.replace(b'"v":1', b'"v":2'),
        lambda raw: raw.replace(b'"threads":1', b'"threads":"1"'),
        lambda raw: raw.replace(b'"numpy"', b'"keras"'),
        lambda raw: raw.replace(b'"/opt/fedclave/bin/python"', b'"/opt/../bin/python"'),
        lambda raw: raw.replace(b'"folders":', b'"folder":'),
        lambda raw: json.dumps(json.loads(raw)).encode(),
    ],
    ids=["cut", "more", "list", "version", "type", "framework", "dots", "key", "not-canonical"],
)
def test_what_is_no_recipe_is_refused(measure: Fx, workspace: Workspace, spoil: Any) -> None:
    workspace.recipe.write_bytes(spoil(workspace.recipe.read_bytes()))
    code, value = measure()
    assert (code, value["error"]["code"]) == (3, "malformed")
    with pytest.raises(Refused):
        recipes.parse(workspace.recipe.read_bytes(), "it")


def test_people_read_what_is_believed(
    measure: Fx, workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["attest", "measure", "-C", str(workspace.root)]) == 0
    shown = capsys.readouterr().out
    assert "BELIEVED" in shown and "--base-image REF" in shown and "MRENCLAVE aggregator" in shown
