# SPDX-License-Identifier: Apache-2.0
"""A host is told as it is, whatever lies on it; what cannot be told is never called ready."""

import os
import shutil
import signal
import socket
import ssl
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from tests.support.fake_hosts import (
    AESM,
    GIB,
    QCNL,
    SGX_FLAGS,
    TRACKING,
    XEON,
    FakeHost,
    lacks,
    sgx_host,
    vm,
)

from fedclave.workspace import host_asking, host_files, host_sgx, readiness

ENCLAVE, SOCKET = "dev/sgx_enclave", "var/run/aesmd/aesm.socket"
CONF = "etc/sgx_default_qcnl.conf"


@pytest.fixture
def root() -> Iterator[Path]:
    """A short path: a Unix socket's has at most 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="fxh-"))
    yield folder / "h"
    shutil.rmtree(folder)


@pytest.fixture
def full(root: Path) -> Iterator[FakeHost]:
    made = sgx_host(root)
    yield made
    made.close()


@pytest.fixture
def bare(root: Path) -> FakeHost:
    return vm(root)


def fixes(found: dict[str, list[readiness.Missing]], way: str) -> str:
    return "\n".join(f"{one.what} -> {one.fix}" for one in found[way])


def test_a_host_with_everything_is_ready_for_all(full: FakeHost) -> None:
    found = full.survey()
    assert lacks(found) == {}
    assert (found.cpu.vendor, found.cpu.model) == ("GenuineIntel", XEON)
    assert (found.cpu.x86_64, found.cpu.virtual) == (True, False)
    sgx = found.sgx
    assert (sgx.in_cpu, sgx.enabled, sgx.launch_control, sgx.sgx2, sgx.edmm) == (True,) * 5
    assert sgx.epc_bytes == 2 * 63 * GIB
    assert (sgx.enclave.state, sgx.enclave.group) == ("usable", "sgx")
    assert (found.aesm.present, found.aesm.problem) == (True, "")
    assert found.qcnl.url == "https://pccs.example.org:8081/sgx/certification/v4/"
    assert not found.qcnl.secure
    assert found.gramine["gramine-sgx"].version == "1.0"
    assert found.engines["docker"].version == "28.2.2"
    assert found.system == "Debian GNU/Linux 12 (bookworm)"
    assert (found.clock, found.as_root) == (True, False)
    assert (found.room.memory, found.room.memory_free) == (16 * GIB, 8 * GIB)
    assert found.room.open_files == 1024


SGX_AND_QUOTES = {"sgx", "sgx-image", "quote"}
CONTAINERS = {"container", "sgx-image"}
BREAKAGES: dict[str, tuple[Callable[[FakeHost], object], set[str], str]] = {
    "no driver": (lambda h: h.remove(ENCLAVE), SGX_AND_QUOTES, "dmesg"),
    "no provision device": (lambda h: h.remove("dev/sgx_provision"), {"quote"}, "sgx_provision"),
    "no launch control": (
        lambda h: h.cpu("GenuineIntel", XEON, SGX_FLAGS.replace("sgx_lc", "")),
        SGX_AND_QUOTES,
        "BIOS",
    ),
    "off in the BIOS": (
        lambda h: h.cpu("GenuineIntel", XEON, "fpu lm"), SGX_AND_QUOTES, "SGX is off",
    ),
    "no gramine-sgx": (lambda h: h.remove("usr/bin/gramine-sgx"), {"sgx"}, "apt install gramine"),
    "no gramine-direct": (
        lambda h: h.remove("usr/bin/gramine-direct"), {"gramine-direct"}, "apt install gramine",
    ),
    "no AESM, installed": (lambda h: h.remove(SOCKET), {"quote"}, "systemctl start aesmd"),
    "no AESM at all": (
        lambda h: (h.remove(SOCKET), h.packages("gramine")),
        {"quote"},
        "apt install sgx-aesm-service",
    ),
    "AESM that has ended": (lambda h: h.close(), {"quote"}, "restart aesmd"),
    "AESM's socket is a file": (
        lambda h: (h.remove(SOCKET), h.file(SOCKET, "")), {"quote"}, "not a socket",
    ),
    "AESM without its DCAP part": (
        lambda h: h.packages("gramine", "sgx-aesm-service", "libsgx-aesm-ecdsa-plugin"),
        {"quote"},
        "apt install libsgx-aesm-quote-ex-plugin &&",
    ),
    "no qcnl.conf": (lambda h: h.remove(CONF), {"quote"}, "libsgx-dcap-default-qpl"),
    "qcnl.conf is rubbish": (lambda h: h.file(CONF, b"\x00\xff{"), {"quote"}, "pccs_url"),
    "no engine": (lambda h: h.remove("usr/bin/docker"), CONTAINERS, "apt install podman"),
    "engine without its daemon": (
        lambda h: h.program("docker", '[ "$1" = --version ] || { echo no daemon >&2; exit 1; }'),
        CONTAINERS,
        "no daemon",
    ),
    "engine for others": (
        lambda h: h.program(
            "docker", '[ "$1" = --version ] || { echo dial: permission denied >&2; exit 1; }'
        ),
        CONTAINERS,
        "usermod -aG docker",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BREAKAGES)
def test_one_thing_missing_takes_just_its_ways_and_says_what_helps(
    full: FakeHost, name: str
) -> None:
    change, ways, helps = BREAKAGES[name]
    change(full)
    found = lacks(full.survey())
    assert set(found) == ways
    for way in ways:
        assert len(found[way]) == 1
        assert helps in fixes(found, way)


def test_a_user_without_the_group_is_told_which(full: FakeHost) -> None:
    full.group("sgx_users")
    found = full.survey(access=lambda path, how: path.name != "sgx_enclave")
    assert found.sgx.enclave.state == "no access"
    assert set(lacks(found)) == SGX_AND_QUOTES
    assert "sudo usermod -aG sgx_users $USER" in fixes(lacks(found), "sgx")


def test_a_device_of_root_alone_gets_a_udev_rule(full: FakeHost) -> None:
    full.group("root")
    found = full.survey(access=lambda path, how: False)
    helps = fixes(lacks(found), "sgx")
    assert 'KERNEL=="sgx_enclave", GROUP="sgx", MODE="0660"' in helps
    assert "usermod -aG root" not in helps


def test_quotes_need_no_right_of_ours_to_the_provision_device(full: FakeHost) -> None:
    found = full.survey(access=lambda path, how: path.name != "sgx_provision")
    assert found.sgx.provision.state == "no access"
    assert lacks(found) == {}


def test_the_right_to_read_and_write_is_asked_for(full: FakeHost) -> None:
    asked: set[tuple[str, int]] = set()
    full.survey(access=lambda path, how: bool(asked.add((path.name, how))))
    assert asked == {(name, os.R_OK | os.W_OK) for name in ("sgx_enclave", "sgx_provision")}


def test_a_vm_with_nothing_can_run_a_process(bare: FakeHost) -> None:
    found = bare.survey()
    assert set(lacks(found)) == {*SGX_AND_QUOTES, "gramine-direct", "container"}
    assert found.cpu.virtual
    assert found.packages == {}
    # The wrong CPU is all that is said: nothing that can be installed helps.
    for way in SGX_AND_QUOTES:
        assert [one.what for one in lacks(found)[way]] == [
            "SGX: only Intel makes it, and this CPU is of AuthenticAMD"
        ]


def test_an_intel_vm_without_sgx_is_sent_to_its_host(bare: FakeHost) -> None:
    bare.cpu("GenuineIntel", XEON, "fpu lm hypervisor")
    found = lacks(bare.survey())
    assert "memory-backend-epc" in fixes(found, "sgx")
    assert "BIOS" not in fixes(found, "sgx")


def test_a_snp_guest_is_told_that_it_proves_nothing_yet(bare: FakeHost) -> None:
    bare.device("dev/sev-guest")
    found = bare.survey()
    assert found.vms.snp_guest and not found.vms.tdx_guest and not found.vms.snp_host
    assert any("SEV-SNP" in note.what for note in readiness.judge(found).notes)


@pytest.mark.parametrize("by", ["flag", "device"])
def test_a_tdx_guest_is_known_by_its_flag_or_its_device(bare: FakeHost, by: str) -> None:
    bare.cpu("GenuineIntel", XEON, "fpu lm hypervisor" + (" tdx_guest" if by == "flag" else ""))
    if by == "device":
        bare.device("dev/tdx_guest")
    found = bare.survey()
    assert found.vms.tdx_guest and not found.vms.snp_guest
    assert any("TDX" in note.what for note in readiness.judge(found).notes)


@pytest.mark.parametrize(
    ("said", "on"), [("Y\n", True), ("1\n", True), ("N\n", False), ("0\n", False), ("", False)]
)
def test_hosts_of_confidential_vms_say_so_in_kvm(bare: FakeHost, said: str, on: bool) -> None:
    bare.file("sys/module/kvm_intel/parameters/tdx", said)
    bare.file("sys/module/kvm_amd/parameters/sev_snp", said)
    vms = bare.survey().vms
    assert (vms.tdx_host, vms.snp_host) == (on, on)
    assert (vms.tdx_guest, vms.snp_guest) == (False, False)


@pytest.mark.parametrize("release", ["5.4.0-150-generic", "4.19.0", "custom", ""])
def test_an_old_kernel_is_all_that_is_said(full: FakeHost, release: str) -> None:
    full.kernel(release)
    full.cpu("GenuineIntel", XEON, "fpu lm")  # which has no flags for SGX then
    found = full.survey()
    assert (found.sgx.enabled, found.sgx.launch_control) == (None, None)
    assert found.sgx.in_cpu is True  # by CPUID
    for way in SGX_AND_QUOTES:
        (one,) = lacks(found)[way]
        assert "Linux 5.11" in one.what


@pytest.mark.parametrize(
    ("release", "sgx2", "edmm"),
    [
        ("5.15.0", True, False),
        ("5.15.0", None, False),
        ("6.0.0", True, True),
        ("6.0.0", False, False),
        ("6.0.0", None, None),
        ("no version", True, None),
    ],
)
def test_edmm_needs_sgx2_and_linux_6(
    full: FakeHost, release: str, sgx2: bool | None, edmm: bool | None
) -> None:
    full.kernel(release)
    if sgx2 is None:
        full.remove("dev/cpu/0/cpuid")
    else:
        full.cpuid(sgx=True, sgx2=sgx2)
    found = full.survey().sgx
    assert (found.sgx2, found.edmm) == (sgx2, edmm)


def test_the_epc_is_read_by_cpuid_where_the_kernel_does_not_say(full: FakeHost) -> None:
    full.remove("sys/devices")
    assert full.survey().sgx.epc_bytes == 128 * GIB
    full.cpuid(sgx=True, sgx2=False, sections=(93 * 2**20,))
    assert full.survey().sgx.epc_bytes == 93 * 2**20
    full.remove("dev/cpu/0/cpuid")
    assert full.survey().sgx.epc_bytes is None


@pytest.mark.parametrize(("vendor", "level"), [("AuthenticAMD", 27), ("GenuineIntel", 13)])
def test_leaf_12h_counts_only_where_it_means_sgx(full: FakeHost, vendor: str, level: int) -> None:
    full.cpu(vendor, "another", "fpu lm", level=level)
    found = full.survey().sgx
    assert (found.in_cpu, found.sgx2, found.edmm) == (False, False, False)


def test_cpuid_of_the_real_device_has_the_vendor_of_cpuinfo() -> None:
    registers = host_sgx.cpuid(Path("/dev/cpu/0/cpuid"), 0, 0)
    if registers is None:
        pytest.skip("this user may not read /dev/cpu/0/cpuid")
    spelled = b"".join(registers[at].to_bytes(4, "little") for at in (1, 3, 2))
    info = host_files.cpuinfo(Path("/proc/cpuinfo").read_bytes())
    assert spelled.decode() == info["vendor_id"]
    assert registers[0] == int(info["cpuid level"])


FILES = (
    "proc/cpuinfo",
    "proc/sys/kernel/osrelease",
    "proc/meminfo",
    "proc/self/limits",
    "proc/self/status",
    "etc/os-release",
    "etc/group",
    "etc/sgx_default_qcnl.conf",
    "var/lib/dpkg/status",
    "dev/cpu/0/cpuid",
    "dev/sgx_enclave",
    "dev/sgx_provision",
    "dev/tdx_guest",
    "dev/sev-guest",
    "var/run/aesmd/aesm.socket",
    "sys/devices/system/node/node0/x86/sgx_total_bytes",
    "sys/module/kvm_amd/parameters/sev_snp",
    "run/systemd/timesync/synchronized",
    "usr/bin/docker",
    "usr/bin/gramine-sgx",
)
DAMAGE: dict[str, Callable[[Path], object]] = {
    "folder": lambda path: path.mkdir(),
    "rubbish": lambda path: path.write_bytes(bytes(range(256)) * 300),
    "empty": lambda path: path.touch(),
    "fifo": lambda path: os.mkfifo(path),
    "loop": lambda path: path.symlink_to(path.name),
    "nowhere": lambda path: path.symlink_to("/nonexistent/there"),
    "endless": lambda path: path.symlink_to("/dev/zero"),
    "unreadable": lambda path: path.symlink_to("/proc/self/mem"),  # EIO, even for root
}
NEEDED = {
    "proc/cpuinfo": {*SGX_AND_QUOTES, "gramine-direct"},
    "proc/sys/kernel/osrelease": SGX_AND_QUOTES,
    "etc/sgx_default_qcnl.conf": {"quote"},
    "dev/sgx_enclave": SGX_AND_QUOTES,
    "dev/sgx_provision": {"quote"},
    "var/run/aesmd/aesm.socket": {"quote"},
    "usr/bin/docker": CONTAINERS,
    "usr/bin/gramine-sgx": {"sgx"},
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("path", FILES)
def test_damage_ends_no_survey_and_is_never_called_ready(
    full: FakeHost, path: str, damage: str
) -> None:
    DAMAGE[damage](full.remove(path))
    found = lacks(full.survey())
    if (path, damage) in {(f"dev/sgx_{one}", "endless") for one in ("enclave", "provision")}:
        return  # a device, which is all that can be seen without opening it
    assert set(found) == NEEDED.get(path, set())


def test_an_unreadable_file_is_told_from_an_absent_one(full: FakeHost) -> None:
    DAMAGE["unreadable"](full.remove(CONF))
    assert full.survey().qcnl.state == "unreadable"
    full.device(CONF)
    assert full.survey().qcnl.state == "unreadable"
    full.remove(CONF)
    assert full.survey().qcnl.state == "absent"


@given(raw=st.binary(max_size=400))
def test_no_bytes_end_a_reading(raw: bytes) -> None:
    host_sgx.cpu(host_files.cpuinfo(raw))
    host_files.packages(raw, AESM)
    host_files.version_in(raw)
    assert all(" " <= letter <= "~" for letter in host_files.text(raw))


CONFIGURATIONS = {
    "json with comments": (QCNL, "https://pccs.example.org:8081/sgx/certification/v4/", False),
    "json": ('{"pccs_url": "http://10.0.0.1:8081/"}', "http://10.0.0.1:8081/", True),
    "lines": (
        "# PCCS\nPCCS_URL=https://localhost:8081/sgx/certification/v3/\nUSE_SECURE_CERT=FALSE\n",
        "https://localhost:8081/sgx/certification/v3/",
        False,
    ),
    "lines with spaces": (" PCCS_URL = https://a/ \n #USE_SECURE_CERT=FALSE", "https://a/", True),
    "a password": ('{"pccs_url": "https://me:secret@a.example/x"}', "https://a.example/x", True),
}


@pytest.mark.parametrize("form", CONFIGURATIONS)
def test_both_forms_of_the_configuration_are_read(full: FakeHost, form: str) -> None:
    written, url, secure = CONFIGURATIONS[form]
    full.file(CONF, written)
    assert full.survey().qcnl == host_files.Qcnl(state="found", url=url, secure=secure)


@pytest.mark.parametrize(
    "written",
    [
        "",
        "{",
        "[]",
        '{"pccs_url": 7}',
        '{"pccs_url": "ftp://a/"}',
        '{"pccs_url": "https://[::1"}',
        '{"pccs_url": "https://a:b/"}',
        '{"pccs_url": "https://a/\\u001b[2J"}',
        "[" * 50_000,
        "PCCS_URL",
        '// "pccs_url": "https://a/"',
    ],
    ids=range(11),
)
def test_a_configuration_without_a_good_url_is_damaged(full: FakeHost, written: str) -> None:
    full.file(CONF, written)
    assert full.survey().qcnl == host_files.Qcnl(state="damaged")


def test_names_on_the_host_do_not_move_the_cursor(full: FakeHost) -> None:
    full.cpu("GenuineIntel", "\x1b[2J\x07Xeon\u202e", SGX_FLAGS)
    full.file("etc/os-release", b"PRETTY_NAME=\x1b]0;pwned\x07\n")
    full.program("podman", "printf '\\033[31mno\\n' >&2; exit 1")
    found = full.survey()
    assert found.cpu.model == "?[2J?Xeon?"
    assert found.system == "?]0;pwned?"
    assert found.engines["podman"].problem == "?[31mno"


@contextmanager
def pccs(
    status: int = 200, context: ssl.SSLContext | None = None
) -> Iterator[tuple[str, list[str]]]:
    """A server's URL, and the paths that it was asked for."""
    asked: list[str] = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, format: str, *values: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, address: object) -> None:
            pass  # a client that hangs up in the handshake

    with Server(("127.0.0.1", 0), Answer) as server:
        if context is not None:
            server.socket = context.wrap_socket(
                server.socket, server_side=True, do_handshake_on_connect=False
            )
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        scheme = "https" if context else "http"
        try:
            yield f"{scheme}://127.0.0.1:{server.server_port}/sgx/certification/v4/", asked
        finally:
            server.shutdown()
            thread.join()


def test_the_pccs_is_asked_only_when_told_to(full: FakeHost) -> None:
    with pccs() as (url, asked):
        full.file(CONF, f"PCCS_URL={url}")
        offline = full.survey()
        assert asked == [] and offline.pccs is None
        assert any("was not asked" in note.what for note in readiness.judge(offline).notes)
        online = full.survey(online=True)
        assert asked == ["/sgx/certification/v4/pckcrl?ca=processor"]
    assert online.pccs == host_asking.Said(good=True, words="HTTP 200")
    assert lacks(online) == {} and readiness.judge(online).notes == ()


def test_a_pccs_that_complains_is_told(full: FakeHost) -> None:
    with pccs(502) as (url, _):
        full.file(CONF, f"PCCS_URL={url}")
        found = full.survey(online=True)
    assert lacks(found) == {}
    assert any("HTTP 502" in note.what for note in readiness.judge(found).notes)


def test_a_pccs_that_is_away_takes_quotes(full: FakeHost) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    full.file(CONF, f"PCCS_URL=http://127.0.0.1:{port}/")
    found = lacks(full.survey(online=True))
    assert set(found) == {"quote"}
    assert "refused" in fixes(found, "quote")


def test_a_pccs_that_trickles_does_not_hold_up() -> None:
    """Each byte comes within the timeout of a read; only the deadline of the whole ends it."""
    done = threading.Event()

    def trickle(server: socket.socket) -> None:
        end, _ = server.accept()
        with end, suppress(OSError):
            while not done.wait(0.02):
                end.sendall(b"H")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=trickle, args=(server,))
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        said = host_asking.pccs(url, secure=True, deadline_s=0.3)
        done.set()
        thread.join()
    assert said == host_asking.Said(good=False, words="did not answer within 0.3 s")


@pytest.fixture(scope="module")
def self_signed(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pccs")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "pccs.pem"
    pem = serialization.Encoding.PEM
    path.write_bytes(
        certificate.public_bytes(pem)
        + key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


@pytest.mark.parametrize("secure", [True, False])
def test_a_self_signed_pccs_counts_only_where_the_host_accepts_it(
    self_signed: ssl.SSLContext, secure: bool
) -> None:
    with pccs(context=self_signed) as (url, asked):
        said = host_asking.pccs(url, secure=secure)
    assert said.good is not secure
    assert bool(asked) is not secure
    assert ("self-signed" in said.words) is secure


def test_an_engine_that_hangs_is_ended_with_its_children(
    full: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_asking, "PROGRAM_S", 0.5)
    held = full.root / "held"
    os.mkfifo(held)
    # A child keeps the FIFO open: once nobody does any more, reading it comes to the end.
    full.program("docker", f"sleep 600 > {held} & sleep 600")
    reader = os.open(held, os.O_RDONLY | os.O_NONBLOCK)
    try:
        found = full.survey()
        assert found.engines["docker"].problem == "did not answer within 0.5 s"
        assert set(lacks(found)) == CONTAINERS
        os.set_blocking(reader, True)
        assert os.read(reader, 1) == b""
    finally:
        os.close(reader)


def test_an_engine_that_leaves_its_output_open_is_ended_too(
    full: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_asking, "PROGRAM_S", 0.5)
    full.program("docker", "sleep 600 &")
    assert "did not answer" in full.survey().engines["docker"].problem


@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
def test_an_engine_that_cannot_be_ended_is_left_behind(
    full: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_asking, "PROGRAM_S", 0.5)
    monkeypatch.setattr(host_asking, "GRACE_S", 0.1)
    left: list[int] = []

    def denied(group: int, number: int) -> None:
        left.append(group)
        raise PermissionError(1, "Operation not permitted")

    with monkeypatch.context() as patched:
        patched.setattr(os, "killpg", denied)
        full.program("docker", "exec sleep 600")
        try:
            assert "did not answer" in full.survey().engines["docker"].problem
        finally:
            for group in left:
                os.kill(group, signal.SIGKILL)
    assert left


def test_podman_alone_is_enough_and_buildah_is_not(bare: FakeHost) -> None:
    bare.engine("buildah", "1.28.2")
    assert "buildah" in fixes(lacks(bare.survey()), "container")
    bare.engine("podman", "4.3.1")
    found = bare.survey()
    assert "container" not in lacks(found)
    assert (found.engines["podman"].version, found.engines["docker"].path) == ("4.3.1", None)


def test_gramine_outside_of_packages_tells_its_version(full: FakeHost) -> None:
    full.packages(*AESM)
    assert full.survey().gramine["gramine-direct"].version == ""
    full.file(
        "usr/lib/python3/dist-packages/graminelibos.dist-info/METADATA",
        "Metadata-Version: 2.1\nName: graminelibos\nVersion: 1.9\n",
    )
    assert full.survey().gramine["gramine-direct"].version == "1.9"


@pytest.mark.parametrize("state", ["deinstall ok config-files", "install ok half-installed"])
def test_a_package_that_is_not_whole_is_not_installed(full: FakeHost, state: str) -> None:
    full.packages(*AESM, state=state)
    assert full.survey().packages == {}


@pytest.mark.parametrize(
    ("sign", "environ"),
    [(".dockerenv", {}), ("run/.containerenv", {}), (None, {"container": "lxc"})],
    ids=["docker", "podman", "lxc"],
)
def test_in_a_container_the_host_has_to_give(
    full: FakeHost, sign: str | None, environ: dict[str, str]
) -> None:
    if sign is not None:
        full.file(sign, "")
    for path in (ENCLAVE, SOCKET, CONF):
        full.remove(path)
    found = fixes(lacks(full.survey(environ=environ)), "quote")
    assert "--device /dev/sgx_enclave" in found
    assert "-v /var/run/aesmd/aesm.socket:/var/run/aesmd/aesm.socket" in found
    assert "qcnl" not in found


@pytest.mark.parametrize(
    ("leap", "clock"), [("Normal", True), ("Insert second", True), ("Not synchronised", False)]
)
def test_chrony_tells_whether_the_clock_is_held(bare: FakeHost, leap: str, clock: bool) -> None:
    bare.remove("run/systemd/timesync")
    bare.program("chronyc", f"cat <<'END'\n{TRACKING.format(leap=leap)}END")
    found = bare.survey()
    assert found.clock is clock
    assert any("clock" in note.what for note in readiness.judge(found).notes) is not clock


def test_a_clock_that_nothing_tells_of_is_not_called_synchronised(bare: FakeHost) -> None:
    bare.remove("run/systemd/timesync/synchronized")
    assert bare.survey().clock is False
    bare.remove("run/systemd/timesync")
    found = bare.survey()
    assert found.clock is None
    assert any("may not be" in note.what for note in readiness.judge(found).notes)


def test_shortages_are_noted(bare: FakeHost) -> None:
    bare.file("proc/meminfo", "MemTotal: 2097152 kB\nMemAvailable: 1000 kB\n")
    bare.file("proc/self/limits", "Max open files  256  256  files\n")
    notes = [note.what for note in readiness.judge(bare.survey()).notes]
    assert any("memory" in note for note in notes)
    assert any("256 files" in note for note in notes)


def test_root_is_told_that_others_may_have_fewer_rights(full: FakeHost) -> None:
    assert readiness.judge(full.survey()).notes[-1].what.endswith("was not asked")
    full.file("proc/self/status", "Uid:\t1000\t0\t0\t0\n")
    found = full.survey()
    assert found.as_root
    assert readiness.judge(found).notes[-1].what.startswith("root may open every device")
