# SPDX-License-Identifier: Apache-2.0
"""Locks that the real pip makes, of wheels that were made here: no network is asked."""

import io
import os
import ssl
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.support import images

from fedclave.errors import UserError
from fedclave.workspace.images import lock, own


@pytest.fixture(autouse=True)
def pip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """pip finds what lies in a folder, and fedclave needs nothing; returns the folder."""
    for name in os.environ:
        if name.startswith("PIP_") or name.endswith("_CA_BUNDLE"):
            monkeypatch.delenv(name)
    known = tmp_path / "known"
    known.mkdir()
    settings = {"CONFIG_FILE": os.devnull, "NO_INDEX": "1", "FIND_LINKS": str(known)}
    settings |= {"RETRIES": "0", "CACHE_DIR": str(tmp_path / "cache")}
    for name, value in settings.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    monkeypatch.setattr(own.metadata, "requires", lambda name: [])
    return known


def asked(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "requirements.txt"
    path.write_text("".join(f"{line}\n" for line in ("fedclave", *lines)))
    return path


def made(tmp_path: Path, *lines: str) -> lock.Lock:
    return lock.make(asked(tmp_path, *lines), images.VERSION, tmp_path / "image")


def test_a_build_with_a_local_version_comes_before_the_same_without(
    tmp_path: Path, pip: Path
) -> None:
    """As CPU builds of torch do: 2.13.0+cpu (PEP 440, "Local version identifiers")."""
    for version in ("2.13.0", "2.13.0+cpu"):
        images.wheel(pip, "torch", {"torch.py": b""}, version=version)
    found = {pin.name: pin.version for pin in made(tmp_path, "torch>=2.2").pins}
    assert found["torch"] == "2.13.0+cpu"


def test_wheels_for_gpus_are_told_apart(tmp_path: Path, pip: Path) -> None:
    for name in ("nvidia_cublas", "cuda_toolkit", "cudaless"):
        images.wheel(pip, name, {f"{name}.py": b""})
    found = made(tmp_path, "nvidia-cublas", "cuda-toolkit", "cudaless")
    assert found.for_gpus == ("cuda-toolkit", "nvidia-cublas")


def test_what_no_wheel_answers_is_refused_by_name(tmp_path: Path, pip: Path) -> None:
    images.wheel(pip, "kit", {"kit.py": b""})
    with pytest.raises(UserError, match=r"requirements\.txt: pip finds no wheels.*kit>=2"):
        made(tmp_path, "kit>=2")
    assert not list((tmp_path / "image").glob("kit*"))


def test_requirements_that_contradict_each_other_are_refused(tmp_path: Path, pip: Path) -> None:
    for version in ("1.0", "2.0"):
        images.wheel(pip, "kit", {"kit.py": b""}, version=version)
    with pytest.raises(UserError, match=r"requirements\.txt: pip finds no wheels"):
        made(tmp_path, "kit<2", "kit>=2")


def test_a_package_that_would_have_to_be_built_is_refused_and_not_run(
    tmp_path: Path, pip: Path
) -> None:
    ran = tmp_path / "ran"
    setup = f"open({str(ran)!r}, 'w')\nfrom setuptools import setup\nsetup(name='kit')\n"
    with tarfile.open(pip / "kit-1.0.tar.gz", "w:gz") as archive:
        for name, text in (("setup.py", setup), ("PKG-INFO", "Name: kit\nVersion: 1.0\n")):
            info = tarfile.TarInfo(f"kit-1.0/{name}")
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    with pytest.raises(UserError, match="pip finds no wheels"):
        made(tmp_path, "kit")
    assert not ran.exists()


def test_the_lock_names_the_index_from_which_others_gather(
    tmp_path: Path, pip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    served = tmp_path / "served/simple/kit"
    served.mkdir(parents=True)
    images.wheel(served, "kit", {"kit.py": b""}, version="1.0+cpu")
    with index(tmp_path, monkeypatch) as url:
        found = made(tmp_path, f"--index-url {url}", "kit")
        path = tmp_path / "requirements.lock"
        path.write_text(lock.text_of(found))
        read = lock.read(path)
        assert read == found and read.indexes == (f"--index-url {url}",)
        wheels = lock.gather(read, tmp_path / "elsewhere", path)
    assert [wheel.version for wheel in wheels if wheel.name == "kit"] == ["1.0+cpu"]


@contextmanager
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An index over TLS of what lies in ``served``; pip knows its certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "index")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    certificate = (
        builder.not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    shown = tmp_path / "index.pem"
    shown.write_bytes(certificate.public_bytes(pem))
    kept = tmp_path / "index.key"
    kept.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    monkeypatch.setenv("PIP_CERT", str(shown))
    monkeypatch.setenv("NO_PROXY", "localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(shown, kept)
    answer = partial(Quiet, directory=str(tmp_path / "served"))
    with ThreadingHTTPServer(("localhost", 0), answer) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"https://localhost:{server.server_port}/simple"
        finally:
            server.shutdown()
            thread.join()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *values: object) -> None:
        pass
