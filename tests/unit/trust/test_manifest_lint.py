# SPDX-License-Identifier: Apache-2.0
"""A closed manifest has no findings; each way to open it has its rule."""

import tomllib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedclave.errors import UserError
from fedclave.trust import manifest_lint
from fedclave.trust.manifest_keys import MANIFEST, Either, Names, Rows, Shape, Table
from fedclave.trust.manifest_lint import RULES, Severity, lint

A, B, C, D = (digit * 64 for digit in "abcd")
GOOD = f"""
[loader]
entrypoint = {{uri = "file:/gramine/libsysdb.so", sha256 = "{A}"}}
argv = ["python3", "-I", "-B", "-m", "fedclave.cli.main", "aggregator", "start"]
log_level = "error"
uid = 1000
gid = 1000
env.LD_LIBRARY_PATH = "/gramine/lib:/usr/lib"
env.OMP_NUM_THREADS = {{value = "4"}}

[libos]
entrypoint = "/usr/bin/python3.11"

[fs]
root = {{type = "tmpfs"}}
start_dir = "/app"
mounts = [
  {{path = "/gramine/lib", uri = "file:/gramine/lib"}},
  {{type = "chroot", path = "/usr/lib", uri = "file:/image/usr/lib"}},
  {{path = "/usr/bin/python3.11", uri = "file:/image/usr/bin/python3.11"}},
  {{path = "/app", uri = "file:/image/app"}},
  {{path = "/outputs", uri = "file:/srv/run/outputs"}},
  {{type = "encrypted", path = "/secrets", uri = "file:/srv/run/secrets", key_name = "release"}},
  {{type = "tmpfs", path = "/tmp"}},
  {{type = "tmpfs", path = "/dev/shm"}},
]

[sys]
stack.size = "8M"
brk.max_size = "256M"
fds.limit = 4096
disallow_subprocesses = true

[sgx]
debug = false
enclave_size = "8G"
max_threads = 32
use_exinfo = true
remote_attestation = "dcap"
file_check_policy = "strict"
isvprodid = 1
isvsvn = 1
cpu_features.avx512 = "unspecified"
insecure__rpc_thread_num = 0
trusted_files = [
  {{uri = "file:/gramine/libsysdb.so", sha256 = "{A}"}},
  {{uri = "file:/gramine/lib/libc.so.6", sha256 = "{B}"}},
  {{uri = "file:/image/usr/bin/python3.11", sha256 = "{C}"}},
  {{uri = "file:/image/app/plan.yaml", sha256 = "{D}"}},
  {{uri = "file:/image/app/plan.yaml", sha256 = "{D}"}},
]
"""
PYTHON = ["python3", "-IB"]
Change = Callable[[dict[str, Any]], object]


def manifest() -> dict[str, Any]:
    return tomllib.loads(GOOD)


def names(value: Mapping[str, object], **options: Any) -> list[str]:
    return [finding.rule.name for finding in lint(value, **options)]


def sets(key: str, value: object) -> Change:
    """The change that gives a key a value."""

    def change(value_of: dict[str, Any]) -> None:
        *tables, last = key.split(".")
        for table in tables:
            value_of = value_of.setdefault(table, {})
        value_of[last] = value

    return change


def drops(key: str) -> Change:
    """The change that leaves a key out."""

    def change(value_of: dict[str, Any]) -> None:
        *tables, last = key.split(".")
        for table in tables:
            value_of = value_of[table]
        del value_of[last]

    return change


def argv(*words: str) -> Change:
    return sets("loader.argv", list(words))


def env(name: str, value: object) -> Change:
    return lambda value_of: value_of["loader"]["env"].update({name: value})


def mounts(path: str, uri: str, kind: str = "chroot", **more: object) -> Change:
    entry = {"type": kind, "path": path, "uri": uri, **more}
    return lambda value_of: value_of["fs"]["mounts"].append(entry)


def trusts(*entries: object) -> Change:
    return lambda value_of: value_of["sgx"]["trusted_files"].extend(entries)


def allows(*uris: str) -> Change:
    return sets("sgx.allowed_files", list(uris))


def both(*changes: Change) -> Change:
    return lambda value_of: [change(value_of) for change in changes]


def starts(program: str, *words: str) -> Change:
    """Another program, mounted and trusted, with these arguments."""
    uri = f"file:/image{program}"
    trusted = trusts({"uri": uri, "sha256": A})
    given = argv(*words) if words else drops("loader.argv")
    return both(sets("libos.entrypoint", program), mounts(program, uri), trusted, given)


def argv_from(uri: str) -> Change:
    return both(drops("loader.argv"), sets("loader.argv_src_file", uri))


MUTATIONS: list[tuple[str, str, Change]] = [
    ("debug", "on", sets("sgx.debug", True)),
    ("attestation", "none", sets("sgx.remote_attestation", "none")),
    ("attestation", "epid", sets("sgx.remote_attestation", "epid")),
    ("attestation", "absent", drops("sgx.remote_attestation")),
    ("subprocesses", "allowed", sets("sys.disallow_subprocesses", False)),
    ("subprocesses", "absent", drops("sys")),
    ("host-argv", "on", sets("loader.insecure__use_cmdline_argv", True)),
    ("host-env", "on", sets("loader.insecure__use_host_env", True)),
    ("no-aslr", "on", sets("loader.insecure__disable_aslr", True)),
    ("host-eventfd", "on", sets("sys.insecure__allow_eventfd", True)),
    ("flock", "on", sets("sys.experimental__enable_flock", True)),
    ("exitless", "some threads", sets("sgx.insecure__rpc_thread_num", 8)),
    ("memory-faults", "on", sets("sgx.insecure__allow_memfaults_without_exinfo", True)),
    ("ioctls", "one", sets("sys.allowed_ioctls", [{"request_code": 7, "struct": ""}])),
    *(("log-level", one, sets("loader.log_level", one)) for one in ("warning", "trace", "all")),
    ("log-file", "set", sets("loader.log_file", "gramine.log")),
    ("stats", "on", sets("sgx.enable_stats", True)),
    ("profile", "main", sets("sgx.profile.enable", "main")),
    ("vtune", "on", sets("sgx.vtune_profile", True)),
    ("mocked-call", "getrandom", sets("sys.debug__mock_syscalls", [{"name": "getrandom"}])),
    (
        "mocked-call",
        "futex returns 0",
        sets("sys.debug__mock_syscalls", [{"name": "futex", "return": 0}]),
    ),
    ("mock-syscalls", "yield", sets("sys.debug__mock_syscalls", [{"name": "sched_yield"}])),
    (
        "mock-syscalls",
        "a call that fails",
        sets("sys.debug__mock_syscalls", [{"name": "eventfd2", "return": -38}]),
    ),
    ("sigterm", "on", sets("sys.enable_sigterm_injection", True)),
    ("host-dns", "on", sets("sys.enable_extra_runtime_domain_names_conf", True)),
    ("pointer-checks", "off", sets("libos.check_invalid_pointers", False)),
    ("no-svn", "absent", drops("sgx.isvsvn")),
    ("no-svn", "zero", sets("sgx.isvsvn", 0)),
    # The program
    ("entrypoint-untrusted", "not listed", drops("sgx.trusted_files")),
    (
        "entrypoint-untrusted",
        "not mounted",
        sets("libos.entrypoint", "/nowhere/python3.11"),
    ),
    (
        "entrypoint-untrusted",
        "on an encrypted mount",
        mounts("/usr/bin", "file:/image/usr/bin", "encrypted"),
    ),
    (
        "entrypoint-untrusted",
        "covered by a later mount",
        mounts("/usr/bin", "file:/elsewhere"),
    ),
    ("entrypoint-relative", "name", sets("libos.entrypoint", "python3.11")),
    ("shell", "the program", starts("/bin/bash", "bash", "run.sh")),
    ("shell", "the program, without arguments", starts("/bin/sh")),
    ("shell", "of env", starts("/usr/bin/env", "env", "bash")),
    ("shell", "an argument", argv(*PYTHON, "-m", "launcher", "/bin/zsh")),
    ("argv-code", "-c", argv(*PYTHON, "-c", "print(1)")),
    ("argv-code", "-c in a cluster", argv("python3", "-IBcpass")),
    ("argv-code", "perl", starts("/usr/bin/perl", "perl", "-e", "1")),
    (
        "argv-code",
        "by the dynamic linker",
        starts("/lib/ld-linux-x86-64.so.2", "ld.so", "/usr/bin/python3", "-IB", "-c", "pass"),
    ),
    ("argv-module", "pdb", argv(*PYTHON, "-m", "pdb", "app.py")),
    ("argv-module", "pdb in a cluster", argv("python3", "-IBmpdb", "app.py")),
    ("argv-module", "a part of one", argv(*PYTHON, "-m", "idlelib.idle")),
    ("python-stdin", "no script", argv(*PYTHON)),
    ("python-stdin", "no arguments", drops("loader.argv")),
    ("python-stdin", "a dash", argv(*PYTHON, "-")),
    ("python-stdin", "a dash after the options", argv(*PYTHON, "--", "-")),
    ("python-stdin", "-i", argv(*PYTHON, "-i", "app.py")),
    ("python-stdin", "an option's value is no script", argv(*PYTHON, "-X", "dev")),
    ("python-isolated", "no -I", argv("python3", "-B", "app.py")),
    ("python-isolated", "-I is the script's", argv("python3", "-B", "app.py", "-I")),
    ("python-bytecode", "no -B", argv("python3", "-I", "app.py")),
    ("argv-twice", "both", sets("loader.argv_src_file", "file:/image/app/plan.yaml")),
    ("argv-file", "not trusted", argv_from("file:/image/app/args")),
    ("argv-file-early", "trusted", argv_from("file:/image/app/plan.yaml")),
    ("loader-unhashed", "no hash", drops("loader.entrypoint.sha256")),
    # The environment
    ("env-file", "not trusted", sets("loader.env_src_file", "file:/image/app/env")),
    ("env-file-early", "trusted", sets("loader.env_src_file", "file:/image/app/plan.yaml")),
    ("env-passthrough", "any", env("TZ", {"passthrough": True})),
    *(("env-preload", one, env(one, "/x.so")) for one in ("LD_PRELOAD", "LD_AUDIT", "GCONV_PATH")),
    ("env-preload", "in a table", env("LD_PRELOAD", {"value": "/gramine/lib/libc.so.6"})),
    ("env-path", "nothing trusted", env("PYTHONPATH", "/app:/outputs")),
    ("env-path", "not mounted", env("PYTHONHOME", "/nowhere")),
    ("env-path", "in memory", env("PYTHONPYCACHEPREFIX", "/tmp/cache")),
    ("env-path", "encrypted", env("PYTHONSTARTUP", "/secrets/start.py")),
    ("env-path", "relative", env("PYTHONPATH", "/app:lib")),
    ("env-path", "the current folder", env("PYTHONPATH", "/app:")),
    ("env-path", "certificates", env("SSL_CERT_FILE", "/outputs/ca.pem")),
    ("env-path", "libraries of the current folder", env("LD_LIBRARY_PATH", ":/usr/lib")),
    ("env-interactive", "set", env("PYTHONINSPECT", "1")),
    ("env-keylog", "set", env("SSLKEYLOGFILE", "/outputs/keys")),
    ("env-ratls", "any enclave", env("RA_TLS_MRENCLAVE", "any")),
    ("env-ratls", "debug enclaves", env("RA_TLS_ALLOW_DEBUG_ENCLAVE_INSECURE", "1")),
    ("env-ratls", "a name to come", env("RA_TLS_ALLOW_X_INSECURE", {"value": "1"})),
    ("no-library-path", "absent", drops("loader.env.LD_LIBRARY_PATH")),
    # Files and mounts
    ("file-policy", "all allowed", sets("sgx.file_check_policy", "allow_all_but_log")),
    ("allowed-file", "a folder", allows("file:/srv/run/outputs/")),
    ("allowed-file", "a device", allows("dev:/dev/video0")),
    ("allowed-code", "/etc", allows("file:/etc")),
    ("allowed-code", "a library", allows("file:/srv/plugin.so.1")),
    ("allowed-code", "a module", allows("file:/srv/run/model.py")),
    (
        "allowed-code",
        "seen in /usr/lib",
        both(mounts("/usr/lib/x", "file:/srv/x"), allows("file:/srv/x/data")),
    ),
    (
        "allowed-code",
        "around what is seen in /usr/lib",
        both(mounts("/usr/lib/x", "file:/srv/x/y"), allows("file:/srv/x")),
    ),
    ("allowed-trusted", "the file", allows("file:/image/app/plan.yaml")),
    ("allowed-trusted", "under another spelling", allows("file:/image//app/./plan.yaml")),
    ("allowed-trusted", "a folder around it", allows("file:/image/app")),
    ("trusted-unhashed", "a text", trusts("file:/image/app/x")),
    ("trusted-unhashed", "a table", trusts({"uri": "file:/image/app/x"})),
    ("trusted-folder", "a text", trusts("file:/image/app/src/")),
    (
        "trusted-conflict",
        "two hashes",
        trusts({"uri": "file:/image/./app/plan.yaml", "sha256": A}),
    ),
    ("uri-dotdot", "trusted", trusts({"uri": "file:/image/app/../x", "sha256": A})),
    ("uri-dotdot", "mounted", mounts("/x", "file:/image/../x")),
    ("uri-relative", "trusted", trusts({"uri": "file:app/x", "sha256": A})),
    ("uri-relative", "mounted", mounts("/x", "file:app")),
    ("uri-relative", "the folder of the moment", mounts("/x", "file:.")),
    ("host-root", "absent", drops("fs.root")),
    ("host-root", "the folder of the moment", sets("fs.root", {"uri": "file:./"})),
    ("host-mount", "/", mounts("/host", "file:/")),
    ("host-mount", "/ as root", sets("fs.root", {"type": "chroot", "uri": "file:/"})),
    ("host-mount", "/proc", mounts("/host", "file:/proc")),
    ("host-mount", "in /sys", mounts("/host", "file:/sys/devices")),
    ("host-mount", "/dev under another spelling", mounts("/host", "file://dev/./")),
    ("mount-over-system", "attestation", mounts("/dev/attestation", "file:/image/fake")),
    ("mount-over-system", "/proc", mounts("/proc", "file:/image/fake", "encrypted")),
    ("mount-path", "relative", mounts("app", "file:/image/app")),
    ("untrusted-shm", "mounted", mounts("/shm", "dev:/dev/shm", "untrusted_shm")),
    ("signer-key", "used", mounts("/k", "file:/srv/k", "encrypted", key_name="_sgx_mrsigner")),
    ("keys-in-manifest", "one", sets("fs.insecure__keys", {"default": "0" * 32})),
    # The form
    ("removed-key", "fs.mount", sets("fs.mount.lib", {"type": "chroot", "path": "/l"})),
    ("removed-key", "sgx.thread_num", sets("sgx.thread_num", 8)),
    ("removed-key", "sgx.require_avx", sets("sgx.require_avx", True)),
    ("removed-key", "sgx.protected_files", sets("sgx.protected_files", {"a": "file:b"})),
    ("removed-key", "sgx.ra_client_spid", sets("sgx.ra_client_spid", "00")),
    ("removed-key", "sgx.sigfile", sets("sgx.sigfile", "x.sig")),
    ("removed-key", "sgx.nonpie_binary", sets("sgx.nonpie_binary", True)),
    ("removed-key", "loader.pal_internal_mem_size", sets("loader.pal_internal_mem_size", "1M")),
    ("removed-key", "loader.entrypoint", sets("loader.entrypoint", "file:/gramine/libsysdb.so")),
    ("removed-key", "remote_attestation", sets("sgx.remote_attestation", True)),
    ("insecure-key", "on", sets("sgx.insecure__new", True)),
    ("insecure-key", "off", sets("sys.insecure__new", False)),
    ("insecure-key", "in a mount", mounts("/x", "file:/image/x", insecure__new=1)),
    ("debug-key", "known elsewhere", sets("sgx.debug__mock_syscalls", [])),
    ("experimental-key", "on", sets("fs.experimental__enable_sysfs_topology", True)),
    ("unknown-key", "misspelt", sets("sgx.remote_attestations", "dcap")),
    ("unknown-key", "a table", sets("tdx", {"debug": False})),
    ("unknown-key", "a dotted name", sets("sgx", manifest()["sgx"] | {"sgx.debug": True})),
    ("unknown-key", "in a trusted file", trusts({"uri": "file:/x", "sha256": A, "size": 1})),
    ("missing-key", "fs.mounts", both(drops("fs.mounts"), drops("libos.entrypoint"))),
    ("missing-key", "a mount's uri", lambda m: m["fs"]["mounts"].append({"path": "/x"})),
    ("missing-key", "a mount's path", lambda m: m["fs"]["mounts"].append({"uri": "file:/x"})),
    ("missing-key", "a trusted file's uri", trusts({"sha256": A})),
    ("wrong-type", "a text for false", sets("sgx.debug", "false")),
    ("wrong-type", "a number for true", sets("sys.disallow_subprocesses", 1)),
    ("wrong-type", "true for a number", sets("sgx.isvsvn", True)),
    ("wrong-type", "17 bits", sets("sgx.isvsvn", 2**16)),
    ("wrong-type", "a huge number", sets("sgx.max_threads", 1 << 100_000)),
    ("wrong-type", "a word to come", sets("sgx.file_check_policy", "lenient")),
    ("wrong-type", "a text for a list", sets("loader.argv", "python3 -IB app.py")),
    ("wrong-type", "a short hash", trusts({"uri": "file:/x", "sha256": "ab"})),
    ("wrong-type", "no URI", trusts("/image/app/x")),
    ("wrong-type", "a mount without scheme", mounts("/x", "/image/x")),
    ("wrong-type", "an endless path", trusts({"uri": "file:" + "/a" * 3000, "sha256": A})),
    ("wrong-type", "no passthrough", env("TZ", {"passthrough": False})),
    ("wrong-type", "value and passthrough", env("TZ", {"value": "", "passthrough": True})),
    ("wrong-type", "neither", env("TZ", {})),
]  # fmt: skip


def test_a_closed_manifest_has_no_findings() -> None:
    assert lint(manifest()) == ()


@pytest.mark.parametrize(
    ("rule", "change"),
    [(rule, change) for rule, _, change in MUTATIONS],
    ids=[f"{rule}: {how}" for rule, how, _ in MUTATIONS],
)
def test_each_way_to_open_it_is_found_by_its_rule(rule: str, change: Change) -> None:
    value = manifest()
    change(value)
    assert set(names(value, final=True)) == {rule}


def test_every_rule_is_exercised_and_described() -> None:
    every = [rule.name for rule in RULES]
    assert len(set(every)) == len(every)
    assert set(every) == {rule for rule, _, _ in MUTATIONS}
    for rule in RULES:
        assert rule.host[0].isupper() and rule.host.endswith("."), rule.name
        assert not rule.remedy.endswith("."), rule.name


OLD = """
loader.entrypoint = "file:/usr/lib/gramine/libsysdb.so"
loader.log_level = "warning"
loader.insecure__use_cmdline_argv = true
loader.insecure__use_host_env = true
loader.pal_internal_mem_size = "128M"
loader.env.LD_LIBRARY_PATH = "/lib:/usr/lib"
libos.entrypoint = "/usr/bin/python3.8"
fs.mount.lib = {type = "chroot", path = "/lib", uri = "file:/usr/lib/gramine/runtime"}
fs.mounts = [{path = "/usr", uri = "file:/usr"}, {path = "/workspace", uri = "file:/workspace"}]
sys.insecure__allow_eventfd = true
sys.enable_sigterm_injection = true
sgx.debug = false
sgx.nonpie_binary = true
sgx.thread_num = 512
sgx.require_avx = true
sgx.enclave_size = "16G"
sgx.remote_attestation = "none"
sgx.trusted_files = ["file:/usr/", "file:/workspace/src/"]
sgx.allowed_files = [
  "file:/etc", "file:/workspace/cert", "file:/workspace/data", "file:/workspace/save",
  "file:/workspace/logs", "file:/workspace/plan/cols.yaml", "file:/workspace/plan/data.yaml",
]
"""


def test_an_old_template_is_refused_for_all_that_it_leaves_open() -> None:
    found = lint(tomllib.loads(OLD))
    assert {one.rule.name for one in found if one.rule.severity is Severity.REFUSED} == {
        *("removed-key", "host-argv", "host-env", "host-eventfd", "log-level", "attestation"),
        *("subprocesses", "host-root", "allowed-code", "allowed-file"),
    }
    assert {one.rule.name for one in found if one.rule.severity is Severity.WARNED} == {
        *("sigterm", "no-svn"),
    }
    assert {one.key for one in found if one.rule.name == "removed-key"} == {
        *("loader.entrypoint", "loader.pal_internal_mem_size", "fs.mount"),
        *("sgx.nonpie_binary", "sgx.thread_num", "sgx.require_avx"),
    }
    assert [one.value for one in found if one.rule.name == "allowed-file"] == [
        f'"file:/workspace/{name}"'
        for name in ("cert", "data", "save", "logs", "plan/cols.yaml", "plan/data.yaml")
    ]


def test_what_is_refused_comes_before_warnings() -> None:
    found = [finding.rule.severity for finding in lint(tomllib.loads(OLD))]
    assert found == sorted(found)
    assert set(found) == set(Severity)


def test_a_manifest_to_be_signed_may_list_folders_and_files_without_hashes() -> None:
    value = manifest()
    del value["loader"]["entrypoint"]["sha256"]
    value["sgx"]["trusted_files"] = ["file:/image/", {"uri": "file:/gramine/lib/libc.so.6"}]
    assert not manifest_lint.is_final(value)
    assert lint(value) == ()
    found = names(value, final=True)
    assert found == ["loader-unhashed", "trusted-unhashed", "trusted-folder"]


def test_what_is_allowed_in_a_trusted_folder_is_found_before_it_is_signed() -> None:
    value = manifest()
    del value["loader"]["entrypoint"]["sha256"]
    value["sgx"]["trusted_files"] = ["file:/image/", "file:/srv/run/"]
    value["sgx"]["allowed_files"] = ["file:/srv/run/outputs"]
    assert names(value) == ["allowed-trusted"]


@pytest.mark.parametrize(
    ("uri", "rules"),
    [
        ("file:/srv/run/outputs", []),
        ("file:/srv/run/outputs/", []),
        ("file:/srv/run/outputs/model.safetensors", []),
        ("file:/srv/run/outputs2", ["allowed-file"]),
        ("file:/srv/run", ["allowed-file"]),
        ("dev:/srv/run/outputs/x", ["allowed-file"]),
        ("file:/srv/run/outputs/../keys", ["allowed-file", "uri-dotdot"]),
        ("file:/srv/run/outputs/x.py", ["allowed-code"]),
        ("file:/srv/run/outputs/lib/x", ["allowed-code"]),
    ],
)
def test_an_accepted_output_accepts_what_is_under_it_and_no_more(
    uri: str, rules: list[str]
) -> None:
    value = manifest()
    value["sgx"]["allowed_files"] = [uri]
    assert names(value, allow_outputs=["file:/srv/run/outputs"]) == rules


def test_an_accepted_output_never_makes_a_trusted_file_one_of_the_hosts() -> None:
    value = manifest()
    value["sgx"]["allowed_files"] = ["file:/image/app/plan.yaml"]
    assert names(value, allow_outputs=["file:/image/app"]) == ["allowed-trusted"]


@pytest.mark.parametrize(
    "uri",
    [
        *("file:/", "file:.", "file:/etc/ssl", "file:/opt/app/lib", "file:/dev/shm", "file:/proc"),
        *("file:/srv/../etc", "file:/srv/x.so", "/srv/outputs", "dev:/srv/outputs", "file:", ""),
    ],
)
def test_code_settings_and_devices_cannot_be_accepted_as_outputs(uri: str) -> None:
    with pytest.raises(UserError, match=r"file:PATH|Name a folder"):
        lint(manifest(), allow_outputs=[uri])


def test_allowing_everything_takes_the_trust_from_everything() -> None:
    value = manifest()
    value["sgx"]["allowed_files"] = ["file:/"]
    assert set(names(value)) == {"allowed-trusted", "entrypoint-untrusted", "env-path"}


def test_a_finding_names_place_value_and_what_is_wrong() -> None:
    value = manifest()
    value["loader"]["env"]["A B\x1b[2J"] = {"passthrough": True}
    value["sgx"]["debug"] = "false\u202e"
    assert list(map(str, lint(value))) == [
        'loader.env."A B\\u001b[2J".passthrough = true',
        'sgx.debug = "false\\u202e"  (expected true or false)',
    ]
    del value["loader"]["env"]["A B\x1b[2J"], value["sgx"]["debug"], value["sgx"]["isvsvn"]
    assert list(map(str, lint(value))) == ["sgx.isvsvn is not set"]


def test_a_misspelt_key_is_told_with_the_one_that_is_near() -> None:
    value = manifest()
    value["sgx"]["remote_attestaton"] = value["sgx"].pop("remote_attestation")
    assert [one.detail for one in lint(value)] == ["", "did you mean remote_attestation?"]


def test_elements_keep_their_index_after_a_broken_one() -> None:
    value = manifest()
    value["sgx"]["allowed_files"] = [7, "file:/srv/x"]
    assert [one.key for one in lint(value)] == ["sgx.allowed_files[1]", "sgx.allowed_files[0]"]


HARMLESS: dict[str, Change] = {
    "switches that are off": both(
        sets("loader.insecure__use_cmdline_argv", False),
        sets("loader.insecure__use_host_env", False),
        sets("sys.insecure__allow_eventfd", False),
        sets("sys.experimental__enable_flock", False),
        sets("sys.enable_sigterm_injection", False),
        sets("sgx.profile.enable", "none"),
    ),
    "empty lists": both(
        allows(),
        sets("sys.allowed_ioctls", []),
        sets("fs.insecure__keys", {}),
        env("LD_PRELOAD", ""),
    ),
    "no log level and no policy": both(drops("loader.log_level"), drops("sgx.file_check_policy")),
    "no log": sets("loader.log_level", "none"),
    "trusted modules": env("PYTHONPATH", "/app:/usr/bin/python3.11"),
    "a peer that is named": env("RA_TLS_MRENCLAVE", A),
    "an insecure peer that is not allowed": env("RA_TLS_ALLOW_OUTDATED_TCB_INSECURE", "0"),
    "the same hash in capitals": trusts({"uri": "file:/image/app/plan.yaml", "sha256": D.upper()}),
    "a root of the image": sets("fs.root", {"uri": "file:/image"}),
    "dots that are no folders": trusts({"uri": "file:/image/app/a..b", "sha256": A}),
    "a key that belongs to this code": mounts(
        "/k", "file:/srv/k", "encrypted", key_name="_sgx_mrenclave", enable_recovery=True
    ),
    "a mount of a tmpfs with a name": mounts("/scratch", "anything", "tmpfs"),
    "an option of Python's with a value": argv(
        "python3", "--check-hash-based-pycs", "never", "-X", "utf8", "-Wdefault", "-IB", "app.py"
    ),
    "long options": argv("python3", "-IB", "--", "-c"),
    "isolation in parts": argv("python3", "-E", "-s", "-P", "-B", "app.py"),
    "options of the script": argv("python3", "-IB", "app.py", "-c", "-i", "-"),
    "no Python and no arguments": starts("/app/node"),
}


@pytest.mark.parametrize("change", HARMLESS.values(), ids=HARMLESS)
def test_what_is_harmless_is_no_finding(change: Change) -> None:
    value = manifest()
    change(value)
    assert [str(finding) for finding in lint(value)] == []


def keys(shape: Shape = MANIFEST, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every known key, and some place in each list and table of free names."""
    yield path
    if isinstance(shape, Table):
        for key, inner in shape.keys.items():
            yield from keys(inner, (*path, key))
    elif isinstance(shape, Names | Rows):
        yield from keys(shape.each, (*path, "*"))
    elif isinstance(shape, Either):
        yield from keys(shape.table, path)


scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.dates() | st.datetimes()
    | st.text(max_size=8) | st.sampled_from(["file:", "file:/..", "file:a/", "dev:/", "-c", "/"])
    | st.sampled_from(["file:/" * 900, "any", "python3", "x\x00", "\ud800", "\u202e"])
    | st.just(20_000).map(lambda bits: 1 << bits)  # more digits than Python writes
)  # fmt: skip
known = st.sampled_from(sorted({key for path in keys() for key in path})) | st.text(max_size=4)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(known, inner, max_size=4),
    max_leaves=12,
)


def planted(value: Any, path: tuple[str, ...], alien: object) -> Any:
    """A copy of a value with something alien at a path; lists get it as one more element."""
    if not path:
        return alien
    head, *rest = path
    if isinstance(value, list):
        first = value[0] if value else {}
        return [*value, planted(first, tuple(rest), alien)]
    inner = dict(value) if isinstance(value, dict) else {}
    return inner | {head: planted(inner.get(head), tuple(rest), alien)}


@settings(max_examples=300)
@given(st.sampled_from(sorted(keys())), anything, st.booleans() | st.none())
def test_whatever_stands_in_a_manifest_is_judged_and_shown(
    path: tuple[str, ...], alien: object, final: bool | None
) -> None:
    value = planted(manifest(), path, alien)
    if isinstance(value, dict):
        for finding in lint(value, final=final):
            assert str(finding).isascii()
            assert str(finding).isprintable()


@settings(max_examples=200)
@given(st.dictionaries(known, anything, max_size=5))
def test_whatever_is_given_as_a_manifest_is_refused(value: dict[str, Any]) -> None:
    found = lint(value)
    assert any(finding.rule.severity is Severity.REFUSED for finding in found)
    assert all(str(finding).isprintable() for finding in found)
