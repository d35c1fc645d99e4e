# SPDX-License-Identifier: Apache-2.0
"""Attacks on the aggregator's port, a real process: each refused with its code, and the run ends
with the model that it would have had."""

import hashlib
import json
import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import numpy as np
import pytest
from tests.support.federation import Federation, Party, federation
from tests.support.hostile import Hostile, begin, code_of, commit, hostile

from fedclave import tensors
from fedclave.transport.grpc import frames
from fedclave.trust import pki

pytestmark = pytest.mark.timeout(180)
OLD = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def fed(tmp_path: Path) -> Iterator[Federation]:
    with federation(tmp_path / "ws", fraction=0.5, stall_s=1.0) as made:
        yield made


def ends_well(fed: Federation, aggregator: Party, rounds: int = 3) -> None:
    finished = aggregator.wait("run_finished")
    model = tensors.Stored(Path(finished["path"]))
    np.testing.assert_allclose(model["w"], fed.final(rounds), rtol=1e-5)
    assert aggregator.end() == 0


def refused(peer: Hostile, call: str, *arguments: object) -> str:
    with pytest.raises(grpc.RpcError) as caught:
        getattr(peer, call)(*arguments)
    return code_of(caught.value)


def leaves_no_event(aggregator: Party) -> bool:
    """gRPC ends what fails in TLS before we see it; docs/reference/errors.md says so."""
    return "peer_refused" not in {event["event"] for event in aggregator.events}


def test_no_certificate_gets_no_answer(fed: Federation) -> None:
    aggregator = fed.aggregator()
    with hostile(fed, None) as peer:
        assert refused(peer, "status") == "UNAVAILABLE"
    fed.all()
    ends_well(fed, aggregator)
    assert leaves_no_event(aggregator)


def test_certificate_of_another_ca_gets_no_answer(fed: Federation, tmp_path: Path) -> None:
    aggregator = fed.aggregator()
    other = pki.Authority.create(tmp_path / "other", "kit", b"x", datetime.now(UTC))
    with hostile(fed, fed.certify("collaborator", "anna", authority=other, into="x")) as peer:
        assert refused(peer, "status") == "UNAVAILABLE"
    fed.all()
    ends_well(fed, aggregator)


def test_expired_certificate_gets_no_answer(fed: Federation) -> None:
    aggregator = fed.aggregator()
    expired = fed.certify(
        "collaborator",
        "anna",
        at=datetime.now(UTC) - timedelta(hours=2),
        life=timedelta(hours=1),
        into="x",
    )
    with hostile(fed, expired) as peer:
        assert refused(peer, "status") == "UNAVAILABLE"
    fed.all()
    ends_well(fed, aggregator)


def test_certificate_revoked_while_the_server_runs_is_refused(fed: Federation) -> None:
    aggregator = fed.aggregator()
    dora = fed.certify("collaborator", "dora")
    with hostile(fed, dora) as peer:
        assert refused(peer, "status") == "unknown-member"
        fed.authority.revoke("dora", datetime.now(UTC))
        assert refused(peer, "status") == "certificate-revoked"
    fed.all()
    ends_well(fed, aggregator)


def test_certificate_of_the_wrong_role_is_refused(fed: Federation) -> None:
    aggregator = fed.aggregator()
    with hostile(fed, fed.certify("aggregator", "aggregator", into="x")) as peer:
        assert refused(peer, "status") in ("wrong-role", "UNAVAILABLE")
    fed.all()
    ends_well(fed, aggregator)


def test_garbage_and_half_open_connections_hurt_nobody(fed: Federation) -> None:
    aggregator = fed.aggregator()
    host, port = fed.address.rsplit(":", 1)
    with ExitStack() as stack:
        for index in range(40):
            connection = stack.enter_context(socket.create_connection((host, int(port))))
            if index % 2:
                connection.sendall(os.urandom(2000))
        fed.all()
        ends_well(fed, aggregator)
    assert leaves_no_event(aggregator)


def test_a_connection_that_never_speaks_tls_is_closed(fed: Federation) -> None:
    aggregator = fed.aggregator()
    host, port = fed.address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        assert connection.recv(1) == b""  # the handshake's limit is 10 s
    fed.all()
    ends_well(fed, aggregator)


def test_no_version_of_tls_before_1_3_is_spoken(fed: Federation) -> None:
    aggregator = fed.aggregator()
    own = fed.certify("collaborator", "anna", into="x")
    host, port = fed.address.rsplit(":", 1)
    spoken = {}
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.minimum_version = context.maximum_version = version
        context.set_alpn_protocols(["h2"])
        pem = fed.folder / "own.pem"
        pem.write_bytes(own.key + own.chain)
        context.load_cert_chain(pem)
        with socket.create_connection((host, int(port)), timeout=30) as raw:
            try:
                with context.wrap_socket(raw) as connection:
                    spoken[version.name] = connection.recv(1) != b""
            except OSError:
                spoken[version.name] = False
    assert spoken == {"TLSv1_2": False, "TLSv1_3": True}
    fed.all()
    ends_well(fed, aggregator)


def test_a_model_that_was_not_asked_about_is_not_given(fed: Federation) -> None:
    """It is there, and its digest is right: the member is just not asked to work on it."""
    aggregator = fed.aggregator()
    model = hashlib.sha256((fed.folder / "save/initial.safetensors").read_bytes()).hexdigest()
    assert (fed.folder / f"save/models/{model}.safetensors").is_file()
    with hostile(fed, fed.certify("collaborator", "anna", into="x")) as peer:
        assert refused(peer, "fetch", model) == "not-found"
    fed.all()
    ends_well(fed, aggregator)


def test_a_peer_cannot_fill_the_disk_with_events(fed: Federation) -> None:
    aggregator = fed.aggregator()
    with hostile(fed, fed.certify("collaborator", "anna", into="x")) as peer:
        for _ in range(60):
            assert refused(peer, "push", begin("x" * 50_000, "ab" * 32, 10)) != ""
        stream = peer.work(versions=list(range(100, 5000)))
        with pytest.raises(grpc.RpcError):
            stream.hear("welcome")
    told = [
        json.loads(line) for line in (fed.folder / "logs/events.jsonl").read_text().splitlines()
    ]
    assert len([e for e in told if e["event"] == "peer_refused"]) == 20
    assert (fed.folder / "logs/events.jsonl").stat().st_size < 40_000
    fed.all()
    ends_well(fed, aggregator)


def test_calls_without_a_request_are_refused(fed: Federation) -> None:
    aggregator = fed.aggregator()
    with hostile(fed, fed.certify("collaborator", "anna", into="x")) as peer:
        nothing = hashlib.sha256(b"").hexdigest()
        assert refused(peer, "fetch", nothing) == "not-found"
        assert refused(peer, "fetch", "../../cert/aggregator.key") == "malformed"
        assert refused(peer, "push", begin("x", nothing, 10)) == "not-asked"
        assert refused(peer, "push", b"?what") == "malformed"
        assert refused(peer, "push", b"B\xff\xff\xff") == "malformed"
    fed.all()
    ends_well(fed, aggregator)


def test_oversized_message_is_refused_unread(fed: Federation) -> None:
    aggregator = fed.aggregator()
    with hostile(fed, fed.certify("collaborator", "anna", into="x")) as peer:
        frame = frames.DATA + bytes(8 * 2**20)
        assert refused(peer, "push", frame) == "RESOURCE_EXHAUSTED"
    fed.all()
    ends_well(fed, aggregator)


def test_wrong_uploads_are_refused(fed: Federation) -> None:
    aggregator = fed.aggregator()
    with hostile(fed, fed.certify("collaborator", "anna", into="x")) as peer:
        stream = peer.work()
        fed.collaborator("bernd"), fed.collaborator("carla")
        request = stream.hear("request")
        model = tensors.views(peer.fetch(request.params))
        body = tensors.encode({n: np.zeros_like(a) for n, a in model.items()})
        digest, size = hashlib.sha256(body).hexdigest(), len(body)
        data = frames.DATA + body
        start = begin(request.id, digest, size)
        assert refused(peer, "fetch", request.params, 10**9) == "wrong-offset"
        assert refused(peer, "push", begin(request.id, digest, 2**40)) == "too-large"
        assert refused(peer, "push", begin(request.id, digest, 3)) == "wrong-tensors"
        assert refused(peer, "push", begin("other", digest, size)) == "late"
        assert refused(peer, "push", begin(request.id, "../../x", size)) == "malformed"
        assert refused(peer, "push", start, frames.DATA + b"x") == "wrong-offset"
        assert refused(peer, "push", start, data, data) == "wrong-offset"
        early = hashlib.sha256(b"early").hexdigest()
        nothing = (begin(request.id, early, size), commit(early, size))
        assert refused(peer, "push", *nothing) == "malformed"
        wrong = begin(request.id, hashlib.sha256(b"other").hexdigest(), size)
        end = commit(hashlib.sha256(b"other").hexdigest(), size)
        assert refused(peer, "push", wrong, data, end) == "wrong-digest"
        assert refused(peer, "push", start, data, commit(digest, 3)) == "wrong-digest"
        renamed = tensors.encode({n[::-1]: np.zeros_like(a) for n, a in model.items()})
        name = hashlib.sha256(renamed).hexdigest()
        frames_ = (frames.DATA + renamed, commit(name, size))
        assert refused(peer, "push", begin(request.id, name, size), *frames_) == "wrong-tensors"
        stream.end()
    fed.collaborator("anna")
    ends_well(fed, aggregator)


def test_a_stalled_upload_is_cut_off_and_slows_nobody(fed: Federation) -> None:
    aggregator = fed.aggregator()
    with hostile(fed, fed.certify("collaborator", "anna", into="x")) as peer:
        stream = peer.work()
        fed.collaborator("bernd"), fed.collaborator("carla")
        request = stream.hear("request")
        size = len(peer.fetch(request.params))
        start = begin(request.id, hashlib.sha256(b"slow").hexdigest(), size)
        with pytest.raises(grpc.RpcError) as caught:
            peer.push(start, hold=True)
        assert code_of(caught.value) == "too-slow"
        aggregator.wait("update_accepted", member="bernd")
        stream.end()
    fed.collaborator("anna")
    ends_well(fed, aggregator)


def test_flood_of_messages_ends_the_flooder_alone(fed: Federation) -> None:
    aggregator = fed.aggregator()
    with hostile(fed, fed.certify("collaborator", "anna", into="x")) as peer:
        stream = peer.work()
        stream.hear("welcome")
        from fedclave.transport.grpc.proto import federation_pb2 as pb

        for _ in range(2000):
            stream.say(pong=pb.Pong())
        with pytest.raises(grpc.RpcError) as caught:
            stream.hear("verdict")
        assert code_of(caught.value) == "over-quota"
    fed.all()
    ends_well(fed, aggregator)


def test_wrong_version_and_wrong_plan_are_refused(fed: Federation) -> None:
    aggregator = fed.aggregator()
    with hostile(fed, fed.certify("collaborator", "anna", into="x")) as peer:
        for hello, code in (({"versions": [99]}, "wrong-version"), ({"plan": "x"}, "wrong-plan")):
            with pytest.raises(grpc.RpcError) as caught:
                peer.work(**hello).hear("welcome")
            assert code_of(caught.value) == code
    fed.all()
    ends_well(fed, aggregator)


def test_second_process_with_a_live_name_is_refused(fed: Federation) -> None:
    aggregator = fed.aggregator()
    first = fed.collaborator("anna")
    aggregator.wait("member_joined", member="anna")
    with hostile(fed, fed.certify("collaborator", "anna", into="x")) as peer:
        with pytest.raises(grpc.RpcError) as caught:
            peer.work().hear("request")
        assert code_of(caught.value) == "name-in-use"
    fed.collaborator("bernd"), fed.collaborator("carla")
    ends_well(fed, aggregator)
    assert first.end() == 0


def test_replies_that_lie_are_refused_and_the_others_go_on(tmp_path: Path) -> None:
    from fedclave.transport.grpc.proto import federation_pb2 as pb

    members = {"anna": 1.0, "bernd": 2.0, "carla": 5.0}
    with federation(tmp_path / "ws", members=members, fraction=0.5, rounds=1) as fed:
        aggregator = fed.aggregator()
        with hostile(fed, fed.certify("collaborator", "carla", into="x")) as peer:
            stream = peer.work()
            fed.collaborator("anna"), fed.collaborator("bernd")
            request = stream.hear("request")
            stream.say(reply=pb.Reply(request="never asked"))
            assert stream.hear("verdict").refusal.code == "late"
            packet = pb.Packet(digest="0" * 64, size=1, weight=1)
            stream.say(reply=pb.Reply(request=request.id, packet=packet))
            assert stream.hear("verdict").refusal.code == "malformed"
            stream.end()
        fed.members.pop("carla")
        event = aggregator.wait("update_refused", member="carla")
        assert event["code"] == "malformed"
        ends_well(fed, aggregator, rounds=1)
