# SPDX-License-Identifier: Apache-2.0
"""A signed workspace of a certified party, a base image, a Gramine, and a key that signs."""

import io
import json
import shutil
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from tests.support import elves, gramines, images

from fedclave.cli import main
from fedclave.trust import enclave_key
from fedclave.workspace.images import own
from fedclave.workspace.layout import Workspace

LIBRARIES = "usr/lib/x86_64-linux-gnu"
ROOT: dict[str, str | bytes] = {
    **images.ROOT,
    "lib": "-> usr/lib",
    f"usr/bin/python{images.VERSION}": elves.library(["libz.so.1", "libc.so.6"]),
    f"{images.STDLIB}/lib-dynload/_ssl.so": elves.library(["libssl.so.3"]),
    f"{images.STDLIB}/lib-dynload/_tkinter.cpython.so": elves.library(["libtk8.6.so"]),
    f"{LIBRARIES}/libz.so.1": "-> libz.so.1.2.13",
    f"{LIBRARIES}/libz.so.1.2.13": elves.library(["libc.so.6"]),
    f"{LIBRARIES}/libssl.so.3": elves.library(["libcrypto.so.3", "libc.so.6"]),
    f"{LIBRARIES}/libcrypto.so.3": elves.library(["libc.so.6"]),
    f"{LIBRARIES}/libgcc_s.so.1": elves.library(["libc.so.6"]),
    f"{LIBRARIES}/libunused.so": elves.library([]),
}
Fx = Callable[..., tuple[int, Any]]


@pytest.fixture(scope="session")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("key") / "enclave key.pem"
    enclave_key.generate(path)
    return path


@pytest.fixture(scope="session")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a lock, a CA, and a signed contract."""
    root = tmp_path_factory.mktemp("enclaves") / "Heart study 2.1"
    folder = ("-C", str(root))
    assert main.run(["workspace", "create", str(root)]) == 0
    assert main.run(["plan", "initialize", *folder]) == 0
    workspace = Workspace(root)
    mine = own.build(workspace.image)
    kit = {
        "kit/__init__.py": b"import os\n",
        "kit/fast.so": elves.library(["libgcc_s.so.1", "libkit-1.so"], "$ORIGIN/../kit.libs"),
        "kit.libs/libkit-1.so": elves.library(["libtbb.so.12"]),
        "kit/tests/test_kit.py": b"",
    }
    path = images.wheel(workspace.image, "kit", kit)
    workspace.lock.write_text(
        f"# python {images.VERSION}\n"
        f"kit==1.0 --hash=sha256:{images.digest(path.read_bytes())}\n"
        f"fedclave=={mine.version} --hash=sha256:{mine.sha256}\n"
    )
    assert main.run(["plan", "sign", *folder]) == 0
    secret = root.parent / "passphrase"
    secret.write_text("correct horse battery staple")
    assert main.run(["workspace", "certify", "--passphrase-file", str(secret), *folder]) == 0
    return root


@pytest.fixture
def workspace(signed: Path, tmp_path: Path) -> Workspace:
    return Workspace(Path(shutil.copytree(signed, tmp_path / signed.name)))


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base image and a Gramine."""
    folder = tmp_path_factory.mktemp("sources")
    images.oci(folder / "base", [images.layer(ROOT)])
    gramines.folder(folder / "gramine")
    return folder


@pytest.fixture(scope="session")
def enclaves(
    signed: Path, sources: Path, key: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Any]:
    """The workspace once its enclaves are made, and what was said of them."""
    root = Path(shutil.copytree(signed, tmp_path_factory.mktemp("made") / signed.name))
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out):
        patch.setenv("PATH", str(root / "nothing"))
        command = ("-s", str(key), *small(sources, root), "--json")
        assert main.run(["workspace", "graminize", *command]) == 0
    return root, json.loads(out.getvalue())


def small(sources: Path, root: Path) -> tuple[str, ...]:
    """Options for a small enclave."""
    return (
        "--base-image", str(sources / "base"), "--gramine", str(sources / "gramine"),
        "--enclave-size", "256M", "--threads", "1", "-C", str(root),
    )  # fmt: skip


@pytest.fixture
def base(sources: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sources / "base", tmp_path / "base"))


@pytest.fixture
def gramine(sources: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sources / "gramine", tmp_path / "gramine"))


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No container engine, no date from outside, no passphrase of a key."""
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    for name in ("SOURCE_DATE_EPOCH", "FX_KEY_PASSPHRASE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def fx(capsys: pytest.CaptureFixture[str]) -> Fx:
    def run(*command: str) -> tuple[int, Any]:
        capsys.readouterr()
        code = main.run([*command, "--json"])
        return code, json.loads(capsys.readouterr().out)

    return run


@pytest.fixture
def graminize(fx: Fx, workspace: Workspace, sources: Path, base: Path, gramine: Path) -> Fx:
    """``fx workspace graminize`` of a small enclave; further options replace or add to those."""

    def run(*options: str, root: Path = workspace.root) -> tuple[int, Any]:
        words = small(base.parent, root)
        given = dict(zip(words[::2], words[1::2], strict=True))
        given |= dict(zip(options[::2], options[1::2], strict=True))
        return fx("workspace", "graminize", *(word for pair in given.items() for word in pair))

    return run


@pytest.fixture
def made(enclaves: tuple[Path, Any], workspace: Workspace) -> Any:
    """What was said of the enclaves that are made here."""
    root, value = enclaves
    shutil.copytree(root, workspace.root, dirs_exist_ok=True)
    moved = {
        name: str(workspace.root / Path(value[name]).relative_to(root))
        for name in ("archive", "policy_entry")
    }
    return {**value, **moved}
