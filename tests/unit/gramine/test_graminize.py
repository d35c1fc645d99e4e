# SPDX-License-Identifier: Apache-2.0
"""``fx workspace graminize``: what the image then holds, what is said, and what is refused.

The Gramine here has the shape of a real one and starts nowhere (``tests.support.gramines``); the
base and the wheels are small ELF files made by hand. Nothing else differs.
"""

import hashlib
import os
import shutil
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from tests.support import elves, gramines, images, policies
from tests.unit.gramine.conftest import LIBRARIES, ROOT, Fx

from fedclave.trust import elf, manifest_lint, mrenclave, policy, sigstruct
from fedclave.workspace import archive
from fedclave.workspace.gramine import recipe as recipes
from fedclave.workspace.images import oci, tree
from fedclave.workspace.images.tree import File, Node
from fedclave.workspace.layout import Workspace

ENCLAVE = "/opt/fedclave/enclave"
ROLES = ("aggregator", "collaborator")


def opened(value: Any, tmp_path: Path) -> dict[str, Node]:
    into = tmp_path / "into"
    shutil.rmtree(into, ignore_errors=True)
    return oci.files(oci.read(Path(value["archive"]), into))


def raw(found: dict[str, Node], path: str) -> bytes:
    node = found[path]
    assert isinstance(node, File)
    return tree.content(node)


def private(path: Path) -> RSAPrivateKey:
    key = load_pem_private_key(path.read_bytes(), None)
    assert isinstance(key, RSAPrivateKey)
    return key


def test_what_is_printed_is_what_the_image_measures(made: Any, key: Path, tmp_path: Path) -> None:
    found = opened(made, tmp_path)
    pal = elf.parse(raw(found, "/opt/gramine/sgx/libpal.so"))
    modulus = private(key).public_key().public_numbers().n
    assert made["mr_signer"] == hashlib.sha256(modulus.to_bytes(384, "little")).hexdigest()
    assert made["mr_enclave"]["aggregator"] != made["mr_enclave"]["collaborator"]
    for role in ROLES:
        text = raw(found, f"{ENCLAVE}/{role}.manifest.sgx")
        shape = mrenclave.shape_of(tomllib.loads(text.decode()))
        assert shape.threads == made["max_threads"] == 45
        measured = mrenclave.measure(text, pal, shape, mrenclave.RELEASES["1.9"])
        signed = sigstruct.parse(raw(found, f"{ENCLAVE}/{role}.sig"))
        assert made["mr_enclave"][role] == measured.hex() == signed.body.mrenclave.hex()
        assert signed.mrsigner.hex() == made["mr_signer"]
        assert not signed.body.allows_debug
        assert (signed.body.isv_prod_id, signed.body.isv_svn) == (1, 1)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("name", ["manifest.sgx", "manifest"])
def test_the_manifests_leave_nothing_to_the_host(
    made: Any, tmp_path: Path, role: str, name: str
) -> None:
    text = raw(opened(made, tmp_path), f"{ENCLAVE}/{role}.{name}").decode()
    value = tomllib.loads(text)
    found = manifest_lint.lint(value, allow_outputs=["file:/state/"], final=True)
    assert [one.rule.name for one in found] == ["host-dns"]
    assert value["loader"]["argv"][-2:] == ["enclave", role]
    assert value["sgx"]["allowed_files"] == ["file:/state/"]
    encrypted = [one for one in value["fs"]["mounts"] if one.get("type") == "encrypted"]
    assert [one["path"] for one in encrypted] == (["/state/cert"] if "sgx" in name else [])


EDITS: dict[str, tuple[str, str, str]] = {
    "debug": ("debug = false", "debug = true", "debug"),
    "no quotes": ('remote_attestation = "dcap"', 'remote_attestation = "none"', "attestation"),
    "children": ("disallow_subprocesses = true", "disallow_subprocesses = false", "subprocesses"),
    "file policy": ('"strict"', '"allow_all_but_log"', "file-policy"),
    "host's arguments": (
        "[loader]\n",
        "[loader]\ninsecure__use_cmdline_argv = true\n",
        "host-argv",
    ),
    "host's variables": ("[loader]\n", "[loader]\ninsecure__use_host_env = true\n", "host-env"),
    "one variable": ('HOME = "/state"', "HOME = {passthrough = true}", "env-passthrough"),
    "host's libraries": ("glibc:", "glibc:/state:", "env-path"),
    "preload": ("[loader.env]\n", '[loader.env]\nLD_PRELOAD = "/state/x.so"\n', "env-preload"),
    "host's root": ('type = "tmpfs"\n\n[libos]', 'uri = "file:/"\n\n[libos]', "host-mount"),
    "any code": ('"-m",\n    "fedclave.cli.main"', '"-c",\n    "import x"', "argv-code"),
    "open code": ('    "file:/state/",', '    "file:/workspace/",', "allowed-trusted"),
    "more files": ('    "file:/state/",', '    "file:/state/", "file:/srv/",', "allowed-file"),
    "signer's key": ("_sgx_mrenclave", "_sgx_mrsigner", "signer-key"),
    "log": ('log_level = "error"', 'log_level = "all"', "log-level"),
    "libos": ("sha256 = ", "# sha256 = ", "loader-unhashed"),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_that_opens_a_manifest_is_refused(made: Any, tmp_path: Path, name: str) -> None:
    old, new, rule = EDITS[name]
    text = raw(opened(made, tmp_path), f"{ENCLAVE}/aggregator.manifest.sgx").decode()
    assert old in text
    value = tomllib.loads(text.replace(old, new, 1))
    found = manifest_lint.lint(value, allow_outputs=["file:/state/"], final=True)
    refused = {
        one.rule.name for one in found if one.rule.severity is manifest_lint.Severity.REFUSED
    }
    assert rule in refused


def test_every_measured_file_is_in_the_image_and_nothing_else_is_opened(
    made: Any, tmp_path: Path
) -> None:
    found = opened(made, tmp_path)
    value = tomllib.loads(raw(found, f"{ENCLAVE}/aggregator.manifest.sgx").decode())
    listed = {
        one["uri"].removeprefix("file:"): one["sha256"] for one in value["sgx"]["trusted_files"]
    }
    for path, sha256 in listed.items():
        match = tree.find(found, path)
        assert match is not None and isinstance(match[1], File), path
        assert tree.sha256(match[1]) == sha256
    above = [one["uri"].removeprefix("file:") for one in value["fs"]["mounts"] if "uri" in one]
    assert all(path.startswith(tuple(f"{one}/" for one in above)) for path in listed)
    for needed in (
        "/opt/fedclave/bin/python", f"/{images.STDLIB}/os.py", f"/{LIBRARIES}/libz.so.1",
        f"/{LIBRARIES}/libcrypto.so.3", "/workspace/plan/plan.yaml", "/workspace/cert/root.pem",
        "/opt/gramine/runtime/glibc/libc.so.6", "/opt/fedclave/pyvenv.cfg",
        f"/opt/fedclave/pycache/{images.STDLIB}/os.{sys.implementation.cache_tag}.pyc",
    ):  # fmt: skip
        assert needed in listed, needed
    for never in ("libunused.so", "_tkinter", "test_os.py", "test_kit.py", "sbom.cdx", ".sgx"):
        assert not [path for path in listed if never in path]
    assert {one["uri"] for one in [value["loader"]["entrypoint"]]} == {
        "file:/opt/gramine/libsysdb.so"
    }


def test_a_library_that_a_wheel_does_without_is_told(made: Any) -> None:
    assert made["libraries_missing"] == [
        f"libtbb.so.12 (/opt/fedclave/lib/python{images.VERSION}/site-packages"
        "/kit.libs/libkit-1.so)"
    ]


def test_two_builds_in_two_folders_are_the_same(
    graminize: Fx, made: Any, signed: Path, key: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(signed, tmp_path / "elsewhere, a copy"))
    os.utime(other / "plan/plan.yaml", (1, 1))
    package = gramines.package(tmp_path / "gramine_1.9_amd64.deb")
    code, again = graminize("-s", str(key), "--gramine", str(package), root=other)
    assert code == 0
    for name in ("digest", "id", "mr_enclave", "mr_signer", "measured"):
        assert again[name] == made[name]
    assert Path(again["archive"]).read_bytes() == Path(made["archive"]).read_bytes()


def test_the_key_is_nowhere_in_what_is_written(made: Any, key: Path, workspace: Workspace) -> None:
    numbers = private(key).private_numbers()
    secrets = [key.read_bytes().splitlines()[1]]
    for number in (numbers.p, numbers.q, numbers.d, numbers.dmp1, numbers.dmq1, numbers.iqmp):
        size = (number.bit_length() + 7) // 8
        secrets += [number.to_bytes(size, "big"), number.to_bytes(size, "little")]
    written = [path for path in workspace.root.rglob("*") if path.is_file()]
    assert Path(made["archive"]) in written
    for path in written:
        data = path.read_bytes()
        assert not [one for one in secrets if one in data], path


def test_the_policy_entry_is_one_that_a_policy_takes(made: Any, workspace: Workspace) -> None:
    entry = yaml.safe_load(Path(made["policy_entry"]).read_text())
    rules = policy.parse(policies.written(**entry)).roles
    for role, rule in (("aggregator", rules.aggregator), ("collaborator", rules.collaborator)):
        assert [one.mr_enclave for one in rule.measurements] == [made["mr_enclave"][role]]
        assert rule.signers == (made["mr_signer"],)
        assert (rule.product.isv_prod_id, rule.product.min_isv_svn) == (1, 1)


def test_the_recipe_travels_with_the_workspace_and_is_no_part_of_the_contract(
    made: Any, workspace: Workspace, tmp_path: Path
) -> None:
    recipe = recipes.parse(workspace.recipe.read_bytes(), "it")
    assert recipe.measurements == made["mr_enclave"]
    assert not [
        name for name in archive.contracted(workspace) if "enclave" in name or ".so" in name
    ]
    archive.export(workspace, tmp_path / "for others.zip")
    vouching = {
        "plan/enclave.json",
        "plan/libpal.so",
        "plan/aggregator.sig",
        "plan/collaborator.sig",
    }
    assert vouching <= set(archive.names(tmp_path / "for others.zip"))


def test_without_a_key_it_is_for_gramine_direct_and_says_so(
    graminize: Fx, made: Any, workspace: Workspace, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert workspace.signature("aggregator").exists()
    code, value = graminize()
    assert (code, value["mr_signer"], value["policy_entry"]) == (0, None, None)
    assert value["mr_enclave"] == {"aggregator": None, "collaborator": None}
    found = opened(value, tmp_path)
    assert f"{ENCLAVE}/aggregator.manifest" in found
    assert not [path for path in found if path.endswith((".sig", ".manifest.sgx"))]
    assert not workspace.signature("aggregator").exists()  # the old one signs something else
    assert "policy-entry" not in str(value)


def test_a_command_signs_as_the_key_does(
    graminize: Fx, made: Any, key: Path, tmp_path: Path
) -> None:
    public = tmp_path / "key.pub"
    public.write_bytes(
        private(key).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    script = tmp_path / "sign.py"
    script.write_text(
        "import sys\n"
        "from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15\n"
        "from cryptography.hazmat.primitives.hashes import SHA256\n"
        "from cryptography.hazmat.primitives.serialization import load_pem_private_key\n"
        f"key = load_pem_private_key(open({str(key)!r}, 'rb').read(), None)\n"
        "sys.stdout.buffer.write(key.sign(sys.stdin.buffer.read(), PKCS1v15(), SHA256()))\n"
    )
    code, value = graminize("-s", f"exec:{sys.executable} '{script}'", "--public-key", str(public))
    assert code == 0, value
    assert value["digest"] == made["digest"]


def test_sizes_and_numbers_are_measured(
    graminize: Fx, made: Any, key: Path, tmp_path: Path
) -> None:
    code, value = graminize(
        "-s", str(key), "--enclave-size", "512M", "--threads", "2", "--isv-svn", "7",
        "--isv-prod-id", "3",
    )  # fmt: skip
    assert code == 0
    assert value["mr_enclave"]["aggregator"] != made["mr_enclave"]["aggregator"]
    text = raw(opened(value, tmp_path), f"{ENCLAVE}/aggregator.manifest.sgx").decode()
    sgx, env = tomllib.loads(text)["sgx"], tomllib.loads(text)["loader"]["env"]
    assert (sgx["enclave_size"], sgx["max_threads"], sgx["isvsvn"], sgx["isvprodid"]) == (
        "512M", 46, 7, 3,
    )  # fmt: skip
    assert env["OMP_NUM_THREADS"] == env["OPENBLAS_NUM_THREADS"] == "2"


def pem(
    tmp_path: Path, key: RSAPrivateKey, passphrase: bytes | None = None, mode: int = 0o600
) -> str:
    path = tmp_path / "other.pem"
    how = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how))
    path.chmod(mode)
    return str(path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (lambda key, at: ("-s", str(at / "gone.pem")), "gone.pem: No such file"),
        (lambda key, at: ("-s", pem(at, key, mode=0o644)), "other.pem"),
        (lambda key, at: ("-s", pem(at, generate_private_key(3, 2048))), "has 2048 bits"),
        (lambda key, at: ("-s", pem(at, generate_private_key(65537, 3072))), "exponent 65537"),
        (lambda key, at: ("-s", pem(at, key, b"secret")), "no passphrase was given"),
        (lambda key, at: ("-s", "exec:openssl"), "--public-key"),
        (lambda key, at: ("-s", "exec:'"), "--public-key"),
        (lambda key, at: ("--enclave-size", "3G"), "a power of two"),
        (lambda key, at: ("--enclave-size", "12"), "at least 256M"),
        (lambda key, at: ("--enclave-size", "much"), "is not the size of an enclave"),
        (lambda key, at: ("--enclave-size", "256M", "--threads", "1024"), "too small for"),
        (lambda key, at: ("--gramine", str(at / "gone")), "gone. Install Gramine"),
        (lambda key, at: ("--base-image", str(at / "gone")), "there is no file"),
    ],
    ids=[
        "no-key", "world-readable", "short-key", "exponent", "encrypted", "command-without-key",
        "bad-command", "odd-size", "tiny", "no-size", "too-many-threads", "no-gramine", "no-base",
    ],
)  # fmt: skip
def test_bad_input_is_refused_and_nothing_is_left(
    graminize: Fx, workspace: Workspace, key: Path, tmp_path: Path, options: Any, words: str
) -> None:
    before = sorted(workspace.root.rglob("*"))
    code, value = graminize(*options(private(key), tmp_path))
    assert (code, words in value["error"]["message"]) == (2, True), value
    assert sorted(workspace.root.rglob("*")) == before


def test_a_wrong_passphrase_is_refused(graminize: Fx, key: Path, tmp_path: Path) -> None:
    (tmp_path / "word").write_text("guess")
    options = ("-s", pem(tmp_path, private(key), b"secret"), "--passphrase-file")
    code, value = graminize(*options, str(tmp_path / "word"))
    assert (code, "does not open with this passphrase" in value["error"]["message"]) == (2, True)
    (tmp_path / "word").write_text("secret\n")
    assert graminize(*options, str(tmp_path / "word"))[0] == 0


def test_a_base_without_a_library_is_refused_by_its_name(
    graminize: Fx, base: Path, tmp_path: Path
) -> None:
    kept = {path: what for path, what in ROOT.items() if "libcrypto" not in path}
    other = images.oci(tmp_path / "poor", [images.layer(kept)])
    code, value = graminize("--base-image", str(other))
    assert code == 2
    assert "no libcrypto.so.3, which libssl.so.3 needs" in value["error"]["message"]


def test_a_party_without_a_ca_is_told_what_to_do(graminize: Fx, workspace: Workspace) -> None:
    (workspace.cert / "chain.pem").unlink()
    code, value = graminize()
    assert (code, "fx workspace certify" in value["error"]["message"]) == (2, True)


def test_files_that_are_not_those_that_were_signed_are_refused(
    graminize: Fx, workspace: Workspace
) -> None:
    (workspace.src / "learner.py").write_text("x = 1\n")
    code, value = graminize()
    assert (code, "src/learner.py" in value["error"]["message"]) == (3, True)


def test_elves_of_another_machine_are_no_gramine(graminize: Fx, gramine: Path) -> None:
    libpal = gramine / gramines.FOLDER / "sgx/libpal.so"
    libpal.write_bytes(elves.PAL[:18] + b"\xb7\0" + elves.PAL[20:])  # EM_AARCH64
    code, value = graminize()
    assert (code, "libpal.so" in value["error"]["message"]) == (3, True)
