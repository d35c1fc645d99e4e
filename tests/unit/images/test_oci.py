# SPDX-License-Identifier: Apache-2.0
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from tests.support import images

from fedclave.errors import FedclaveError, Refused, UserError
from fedclave.workspace.images import oci, oci_write, tree
from fedclave.workspace.images.tree import File, Folder, Link

ONE = {"etc/a": b"one", "etc/b": b"two", "lib": "-> usr/lib", "usr/lib/x": b"x"}


def files(source: Path, into: Path) -> dict[str, Any]:
    """What is in an image: bytes of files, targets of links."""
    found = oci.files(oci.read(source, into))
    return {
        path: tree.content(node) if isinstance(node, File) else getattr(node, "target", None)
        for path, node in found.items()
        if not isinstance(node, Folder)
    }


EXPECTED = {"/etc/a": b"one", "/etc/b": b"two", "/lib": "usr/lib", "/usr/lib/x": b"x"}


@pytest.mark.parametrize("compress", [True, False])
def test_a_layout_is_read(tmp_path: Path, compress: bool) -> None:
    layers = [images.layer(ONE)]
    made = images.oci(tmp_path / "layout", layers, compress=compress)
    assert files(made, tmp_path / "into") == EXPECTED


def test_an_archive_of_docker_is_read_and_is_the_same_image(tmp_path: Path) -> None:
    layers = [images.layer(ONE)]
    saved = images.docker(tmp_path / "saved.tar", layers)
    assert files(saved, tmp_path / "a") == EXPECTED
    layout = images.oci(tmp_path / "layout", layers)
    assert oci.read(saved, tmp_path / "b").id == oci.read(layout, tmp_path / "c").id


def test_a_later_layer_changes_removes_and_empties(tmp_path: Path) -> None:
    above = {"etc/a": b"new", "etc/.wh.b": b"", "usr/lib/.wh..wh..opq": b"", "usr/lib/y": b"y"}
    layers = [images.layer(ONE), images.layer(above)]
    # An opaque folder hides what is below it, not what the same layer puts into it.
    found = files(images.oci(tmp_path / "layout", layers), tmp_path / "into")
    assert found == {"/etc/a": b"new", "/lib": "usr/lib", "/usr/lib/y": b"y"}


def test_links_are_followed_within_the_image(tmp_path: Path) -> None:
    found = {
        "/a": Link(target="b/../c"),
        "/c": Link(target="/usr/c"),
        "/b": Folder(),
        "/usr/c": tree.of_bytes(b"found"),
        "/up": Link(target="../../../usr/c"),
        "/round": Link(target="round"),
    }
    assert tree.find(found, "/a") == ("/usr/c", found["/usr/c"])
    assert tree.find(found, "/up") == ("/usr/c", found["/usr/c"])
    assert tree.find(found, "/usr/nothing") is None
    with pytest.raises(UserError, match="circle"):
        tree.find(found, "/round")


def changed(folder: Path, what: str) -> Path:
    """A layout of which one thing is not as it should be."""
    own = {"windows": {"os": "windows"}, "fewer": {"rootfs": {"diff_ids": []}}}.get(what, {})
    made = images.oci(folder, [images.layer(ONE)], **own)
    blobs = made / "blobs/sha256"
    index = json.loads((made / "index.json").read_text())
    manifest = blobs / index["manifests"][0]["digest"][7:]
    layer = blobs / json.loads(manifest.read_text())["layers"][0]["digest"][7:]
    match what:
        case "layer":
            layer.write_bytes(gzip.compress(images.layer({"etc/a": b"planted"})))
        case "cut":
            layer.write_bytes(layer.read_bytes()[:-20])
        case "gone":
            layer.unlink()
        case "manifest":
            manifest.write_bytes(manifest.read_bytes() + b" ")
        case "zstd":
            layer.write_bytes(b"\x28\xb5\x2f\xfd" + bytes(100))
        case "path":
            index["manifests"][0]["digest"] = "sha256:../../etc/passwd"
            (made / "index.json").write_text(json.dumps(index))
        case "two":
            index["manifests"] *= 2
            (made / "index.json").write_text(json.dumps(index))
        case "json":
            (made / "index.json").write_text("{" * 100_000)
    return made


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("layer", "not the .* that its config names"),
        ("cut", "does not unpack"),
        ("gone", "missing"),
        ("manifest", "other bytes"),
        ("path", "not a SHA-256"),
        ("two", "2 images"),
        ("json", "does not parse"),
        ("windows", "windows/amd64"),
        ("fewer", "count other layers"),
        ("zstd", "zstd"),
    ],
)
def test_what_is_damaged_or_foreign_is_refused(tmp_path: Path, what: str, words: str) -> None:
    with pytest.raises(FedclaveError, match=words):
        oci.read(changed(tmp_path / "layout", what), tmp_path / "into")


@pytest.mark.parametrize("name", ["../up", "a/../../up"])
def test_a_layer_that_names_what_lies_above_it_is_refused(tmp_path: Path, name: str) -> None:
    made = images.oci(tmp_path / "layout", [images.layer({name: b"x"})])
    with pytest.raises(Refused, match="names"):
        files(made, tmp_path / "into")


@pytest.mark.parametrize(
    "raw", [b"", b"no tar at all", bytes(2000)], ids=["empty", "text", "zeros"]
)
def test_what_is_no_image_is_refused(tmp_path: Path, raw: bytes) -> None:
    file = tmp_path / "x.tar"
    file.write_bytes(raw)
    with pytest.raises(UserError, match="not a"):
        oci.read(file, tmp_path / "into")


def test_an_image_that_is_written_is_read_back_with_either_kind_of_index(tmp_path: Path) -> None:
    base = oci.read(images.oci(tmp_path / "layout", [images.layer(ONE)]), tmp_path / "into")
    more = tree.with_folders({"/opt/x/y": tree.of_bytes(b"y", 0o755), "/opt/l": Link(target="x")})
    layer = oci_write.pack(more, tmp_path / "more.tar", 86_400)
    config = oci_write.configured(base, [layer], {"User": "7"}, 86_400)
    target = tmp_path / "image.tar"
    written = oci_write.write(target, config, (*base.layers, layer), "kit:1", 86_400)
    found = oci.read(target, tmp_path / "a")
    assert found.id == written.id
    assert found.config["config"] == {"User": "7"}
    expected = {**EXPECTED, "/opt/x/y": b"y", "/opt/l": "x"}
    assert files(target, tmp_path / "b") == expected
    folder = tmp_path / "unpacked"
    oci._extract(target, folder)
    (folder / "index.json").unlink()  # what an old docker sees of it
    assert files(folder, tmp_path / "c") == expected


def test_equal_trees_make_equal_layers_whatever_their_order(tmp_path: Path) -> None:
    one = {"/a": tree.of_bytes(b"a"), "/b": tree.of_bytes(b"b"), "/" + "long/" * 60: Folder()}
    first = oci_write.pack(one, tmp_path / "1.tar", 86_400)
    second = oci_write.pack(dict(reversed(list(one.items()))), tmp_path / "2.tar", 86_400)
    assert first.diff_id == second.diff_id
    assert first.path.read_bytes() == second.path.read_bytes()
