# SPDX-License-Identifier: Apache-2.0
"""Archives that an attacker made: each is refused with its code, and nothing appears anywhere."""

import io
import shutil
import stat
import struct
import tracemalloc
import warnings
import zipfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedclave.errors import Code, Refused, UserError
from fedclave.workspace.archive import MAX_CODE, MAX_DIRECTORY, MAX_FILES, names, unpack

PLAN = (
    "plan/plan.yaml",
    b"schema: 1\nname: x\nrounds: 1\nlearner: {build: 'src.a:build'}\ntasks: {train: {run: fit}}\n",
)


def zipped(*files, method=zipfile.ZIP_STORED, mode=None):
    """The bytes of a zip of (name, content) pairs, any name, also twice."""
    out = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w", method) as archive:
        warnings.simplefilter("ignore")  # zipfile warns of duplicate names
        for name, content in (PLAN, *files):
            info = zipfile.ZipInfo(name)
            info.compress_type = method
            if mode is not None and name != PLAN[0]:
                info.external_attr = mode << 16
            archive.writestr(info, content)
    return out.getvalue()


@pytest.fixture
def refuse(tmp_path):
    def check(data, code=Code.MALFORMED):
        source = tmp_path / "archive.zip"
        source.write_bytes(data)
        before = set(tmp_path.parent.rglob("*"))
        with pytest.raises(Refused) as refused:
            unpack(source, tmp_path / "target")
        assert refused.value.code == code
        assert set(tmp_path.parent.rglob("*")) == before
        return refused.value.message

    return check


TRAVERSAL = [
    "../evil.py", "src/../../evil.py", "src/../plan/plan.yaml", "src/./a.py", "src//a.py", "src/",
    "/etc/cron.d/evil", "//host/share", "\\evil.py", "src\\..\\..\\evil.py", "C:/evil.py",
    "C:evil.py", "src/C:evil.py", "src/..", "src/...", "src/a./b.py", "src/ /a.py", "src/a.py ",
    "~/evil.py", "", ".", "..", "src", "src/\u202egpj.py", "src/a\nb.py", "src/con", "src/NUL.py",
    "src/" + "a" * 300, "src/" + "a/" * 40 + "a.py", "src/a.py::$DATA",
]  # fmt: skip


@pytest.mark.parametrize("name", TRAVERSAL)
def test_names_that_lead_elsewhere_are_refused(refuse, name):
    refuse(zipped((name, b"evil")))


@pytest.mark.parametrize("raw", [b"src/a.py\0.txt", b"src/\xff\xfe.py"])
def test_names_with_raw_bytes_are_refused_or_plain(refuse, raw):
    placeholder = "src/" + "x" * (len(raw) - 4)
    data = zipped((placeholder, b"evil")).replace(placeholder.encode(), raw)
    if b"\0" in raw:
        refuse(data)
    else:  # cp437, as the zip specification has it without the UTF-8 flag: odd, but harmless
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            assert "/" not in archive.namelist()[1].removeprefix("src/")


OWN = [
    "cert/alice.key", "data/alice.npz", "logs/events.jsonl", "plan/cols.yaml", "plan/data.yaml",
    "save/federation.db", "save/models/x.safetensors", "src/alice.key", "src/chain.PEM",
    "src/.hidden", "src/__pycache__/learner.pyc", "src/a.pyc", "setup.py", "PLAN/plan.yaml",
    ".gitignore",
]  # fmt: skip


@pytest.mark.parametrize("name", OWN)
def test_files_that_an_export_would_not_contain_are_refused(refuse, name):
    refuse(zipped((name, b"planted")))


@pytest.mark.parametrize(
    "kind", [stat.S_IFLNK, stat.S_IFDIR, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK]
)
def test_links_and_devices_are_refused(refuse, kind):
    message = refuse(zipped(("src/a.py", b"/etc/passwd"), mode=kind | 0o777))
    assert "not a regular file" in message


def test_set_user_id_is_not_taken_over(tmp_path):
    (tmp_path / "a.zip").write_bytes(zipped(("src/a.py", b""), mode=stat.S_IFREG | 0o6777))
    copy = unpack(tmp_path / "a.zip", tmp_path / "copy")
    assert (copy.src / "a.py").stat().st_mode & 0o7111 == 0


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("src/a.py", "src/a.py"),
        ("src/a.py", "src/A.py"),
        ("src/\u00e9.py", "src/e\u0301.py"),
        ("plan/plan.yaml", "plan/plan.yaml"),
        ("src/stra\u00dfe.py", "src/strasse.py"),
    ],
)
def test_two_files_of_one_name_are_refused(refuse, one, two):
    assert "twice" in refuse(zipped((one, b"good"), (two, b"evil")))


def test_a_name_that_is_a_file_and_a_folder_is_refused(refuse):
    assert "a file and a folder" in refuse(zipped(("src/a", b""), ("src/a/b.py", b"")))


def test_a_bomb_is_refused_by_its_ratio_before_it_is_unpacked(refuse):
    bomb = zipped(("src/a.py", bytes(32 * 2**20)), method=zipfile.ZIP_DEFLATED)
    assert len(bomb) < 2**16
    assert "would grow" in refuse(bomb, Code.TOO_LARGE)


def test_many_files_that_are_too_much_together_are_refused(refuse):
    noise = bytes(range(256)) * 4 * 1024  # 1 MiB
    files = [(f"src/{i}.py", noise) for i in range(MAX_CODE // 2**20 + 1)]
    assert "64 MiB" in refuse(zipped(*files), Code.TOO_LARGE)


def forge(data, name, **fields):
    """Change what the central directory and the local header say about a file."""
    places = {"crc": (16, 14), "compressed": (20, 18), "size": (24, 22), "flags": (8, 6)}
    forged = bytearray(data)
    raw = name.encode()
    central = forged.rindex(raw) - 46
    local = forged.index(raw) - 30
    for field, value in fields.items():
        form = "<H" if field == "flags" else "<I"
        struct.pack_into(form, forged, central + places[field][0], value)
        struct.pack_into(form, forged, local + places[field][1], value)
    return bytes(forged)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("claimed", [0, 1, 999, 1001])
def test_a_file_that_is_not_as_long_as_it_claims_is_refused(refuse, method, claimed):
    content = b"".join(b"%d," % i for i in range(400))[:1000]
    data = zipped(("src/a.py", content), method=method)
    code = Code.MALFORMED
    if method == zipfile.ZIP_STORED and claimed > 1000:
        code = Code.TOO_LARGE  # stored bytes do not grow
    refuse(forge(data, "src/a.py", size=claimed), code)


def test_a_small_claim_does_not_let_a_bomb_through(refuse):
    bomb = zipped(("src/a.py", bytes(64 * 2**20)), method=zipfile.ZIP_DEFLATED)
    tracemalloc.start()
    refuse(forge(bomb, "src/a.py", size=1000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 * 2**20


def test_a_wrong_checksum_is_refused(refuse):
    assert "damaged" in refuse(forge(zipped(("src/a.py", b"x" * 10)), "src/a.py", crc=1))


def test_an_encrypted_file_is_refused(refuse):
    assert "encrypted" in refuse(forge(zipped(("src/a.py", b"x" * 10)), "src/a.py", flags=1))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_refused(refuse, method):
    assert "compression method" in refuse(zipped(("src/a.py", b"x" * 10), method=method))


def test_files_that_share_bytes_are_refused(refuse):
    """The overlapping bomb (Fifield 2019): one kernel, quoted by many directory entries."""
    data = zipped(("src/a.py", bytes(2**20)))
    end = data.rindex(b"PK\5\6")
    start = struct.unpack_from("<I", data, end + 16)[0]
    entry = data[data.rindex(b"PK\1\2") : end]
    extra = [entry.replace(b"src/a.py", b"src/%c.py" % letter) for letter in b"bcdefgh"]
    directory = data[start:end] + b"".join(extra)
    count = 2 + len(extra)
    trailer = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count, count, len(directory), start, 0)
    refuse(data[:start] + directory + trailer)


def test_more_files_than_any_workspace_has_are_refused(refuse):
    files = [(f"src/{i}.py", b"") for i in range(MAX_FILES)]
    assert "4097 files" in refuse(zipped(*files), Code.TOO_LARGE)


def test_a_directory_of_millions_is_refused_before_it_is_parsed(refuse):
    data = zipped(("src/a.py", b""))
    end = data.rindex(b"PK\5\6")
    start = struct.unpack_from("<I", data, end + 16)[0]
    entry = data[data.rindex(b"PK\1\2") : end]
    directory = entry * (MAX_DIRECTORY // len(entry) + 1)
    trailer = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 9, 9, len(directory), start, 0)
    refuse(data[:start] + directory + trailer, Code.TOO_LARGE)


def test_an_archive_without_plan_is_refused(refuse):
    assert "no plan/plan.yaml" in refuse(zipped().replace(b"plan/plan.yaml", b"src/_plan.yaml"))


GOOD = zipped(("src/a.py", b"print(1)\n" * 50), method=zipfile.ZIP_DEFLATED)


@pytest.mark.parametrize(
    "data", [b"", b"PK", b"PK\5\6" + bytes(18), bytes(2**17), b"PK\3\4" * 999, GOOD[:-9], GOOD[40:]]
)
def test_garbage_leaves_nothing(tmp_path, data):
    source = tmp_path / "archive.zip"
    source.write_bytes(data)
    with pytest.raises((Refused, UserError)):
        unpack(source, tmp_path / "target")
    assert list(tmp_path.iterdir()) == [source]


def test_what_is_no_archive_at_all_is_the_mistake_of_who_names_it(tmp_path):
    source = tmp_path / "archive.zip"
    source.write_bytes(b"a letter")
    with pytest.raises(UserError, match="is not an archive"):
        unpack(source, tmp_path / "target")


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_a_flipped_byte_is_refused_or_harmless(tmp_path, data):
    at = data.draw(st.integers(0, len(GOOD) - 1))
    raw = bytearray(GOOD)
    raw[at] ^= data.draw(st.integers(1, 255))
    (tmp_path / "archive.zip").write_bytes(raw)
    target = tmp_path / f"target-{at}"
    try:
        copy = unpack(tmp_path / "archive.zip", target)
    except (Refused, UserError):
        assert not target.exists()
    else:
        for path in copy.root.rglob("*"):
            if path.is_file() and path.name != ".gitignore":
                assert path.read_bytes() in (PLAN[1], b"print(1)\n" * 50)
        names(tmp_path / "archive.zip")
        shutil.rmtree(target)
