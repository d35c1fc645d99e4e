# SPDX-License-Identifier: Apache-2.0
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Up(_message.Message):
    __slots__ = ("hello", "reply", "progress", "pong", "countersigned")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    REPLY_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    PONG_FIELD_NUMBER: _ClassVar[int]
    COUNTERSIGNED_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    reply: Reply
    progress: Progress
    pong: Pong
    countersigned: Countersigned
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., reply: _Optional[_Union[Reply, _Mapping]] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., pong: _Optional[_Union[Pong, _Mapping]] = ..., countersigned: _Optional[_Union[Countersigned, _Mapping]] = ...) -> None: ...

class Down(_message.Message):
    __slots__ = ("welcome", "request", "verdict", "withdrawn", "ping", "done", "stated")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    WITHDRAWN_FIELD_NUMBER: _ClassVar[int]
    PING_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    STATED_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    request: Request
    verdict: Verdict
    withdrawn: Withdrawn
    ping: Ping
    done: Done
    stated: Stated
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., request: _Optional[_Union[Request, _Mapping]] = ..., verdict: _Optional[_Union[Verdict, _Mapping]] = ..., withdrawn: _Optional[_Union[Withdrawn, _Mapping]] = ..., ping: _Optional[_Union[Ping, _Mapping]] = ..., done: _Optional[_Union[Done, _Mapping]] = ..., stated: _Optional[_Union[Stated, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("versions", "plan", "instance", "software", "stated")
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_FIELD_NUMBER: _ClassVar[int]
    STATED_FIELD_NUMBER: _ClassVar[int]
    versions: _containers.RepeatedScalarFieldContainer[int]
    plan: str
    instance: str
    software: str
    stated: bytes
    def __init__(self, versions: _Optional[_Iterable[int]] = ..., plan: _Optional[str] = ..., instance: _Optional[str] = ..., software: _Optional[str] = ..., stated: _Optional[bytes] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("version", "federation", "rounds")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FEDERATION_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    version: int
    federation: str
    rounds: int
    def __init__(self, version: _Optional[int] = ..., federation: _Optional[str] = ..., rounds: _Optional[int] = ...) -> None: ...

class Request(_message.Message):
    __slots__ = ("id", "plan", "round", "tasks", "params", "size")
    ID_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    PARAMS_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    id: str
    plan: str
    round: int
    tasks: _containers.RepeatedScalarFieldContainer[str]
    params: str
    size: int
    def __init__(self, id: _Optional[str] = ..., plan: _Optional[str] = ..., round: _Optional[int] = ..., tasks: _Optional[_Iterable[str]] = ..., params: _Optional[str] = ..., size: _Optional[int] = ...) -> None: ...

class Reply(_message.Message):
    __slots__ = ("request", "packet", "measurements", "failure")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    PACKET_FIELD_NUMBER: _ClassVar[int]
    MEASUREMENTS_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    request: str
    packet: Packet
    measurements: _containers.RepeatedCompositeFieldContainer[Measurement]
    failure: Refusal
    def __init__(self, request: _Optional[str] = ..., packet: _Optional[_Union[Packet, _Mapping]] = ..., measurements: _Optional[_Iterable[_Union[Measurement, _Mapping]]] = ..., failure: _Optional[_Union[Refusal, _Mapping]] = ...) -> None: ...

class Packet(_message.Message):
    __slots__ = ("digest", "size", "weight")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    digest: str
    size: int
    weight: int
    def __init__(self, digest: _Optional[str] = ..., size: _Optional[int] = ..., weight: _Optional[int] = ...) -> None: ...

class Measurement(_message.Message):
    __slots__ = ("series", "examples", "values")
    class ValuesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    SERIES_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    series: str
    examples: int
    values: _containers.ScalarMap[str, float]
    def __init__(self, series: _Optional[str] = ..., examples: _Optional[int] = ..., values: _Optional[_Mapping[str, float]] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("code", "message")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    code: str
    message: str
    def __init__(self, code: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class Verdict(_message.Message):
    __slots__ = ("request", "refusal")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    request: str
    refusal: Refusal
    def __init__(self, request: _Optional[str] = ..., refusal: _Optional[_Union[Refusal, _Mapping]] = ...) -> None: ...

class Withdrawn(_message.Message):
    __slots__ = ("request",)
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    request: str
    def __init__(self, request: _Optional[str] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("request", "step")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    request: str
    step: str
    def __init__(self, request: _Optional[str] = ..., step: _Optional[str] = ...) -> None: ...

class Ping(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Pong(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Done(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    def __init__(self, model: _Optional[str] = ...) -> None: ...

class Stated(_message.Message):
    __slots__ = ("statement",)
    STATEMENT_FIELD_NUMBER: _ClassVar[int]
    statement: bytes
    def __init__(self, statement: _Optional[bytes] = ...) -> None: ...

class Countersigned(_message.Message):
    __slots__ = ("statement", "signature")
    STATEMENT_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    statement: bytes
    signature: bytes
    def __init__(self, statement: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class AttestUp(_message.Message):
    __slots__ = ("challenge", "evidence", "refusal")
    CHALLENGE_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    challenge: Challenge
    evidence: Evidence
    refusal: Refusal
    def __init__(self, challenge: _Optional[_Union[Challenge, _Mapping]] = ..., evidence: _Optional[_Union[Evidence, _Mapping]] = ..., refusal: _Optional[_Union[Refusal, _Mapping]] = ...) -> None: ...

class AttestDown(_message.Message):
    __slots__ = ("evidence", "standing")
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    STANDING_FIELD_NUMBER: _ClassVar[int]
    evidence: Evidence
    standing: Standing
    def __init__(self, evidence: _Optional[_Union[Evidence, _Mapping]] = ..., standing: _Optional[_Union[Standing, _Mapping]] = ...) -> None: ...

class Challenge(_message.Message):
    __slots__ = ("versions", "nonce", "contract", "policy", "key", "seen")
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    CONTRACT_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    SEEN_FIELD_NUMBER: _ClassVar[int]
    versions: _containers.RepeatedScalarFieldContainer[int]
    nonce: bytes
    contract: str
    policy: str
    key: bytes
    seen: int
    def __init__(self, versions: _Optional[_Iterable[int]] = ..., nonce: _Optional[bytes] = ..., contract: _Optional[str] = ..., policy: _Optional[str] = ..., key: _Optional[bytes] = ..., seen: _Optional[int] = ...) -> None: ...

class Evidence(_message.Message):
    __slots__ = ("evidence", "nonce", "growth")
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    GROWTH_FIELD_NUMBER: _ClassVar[int]
    evidence: bytes
    nonce: bytes
    growth: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, evidence: _Optional[bytes] = ..., nonce: _Optional[bytes] = ..., growth: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Standing(_message.Message):
    __slots__ = ("word", "expires", "again_s")
    WORD_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_FIELD_NUMBER: _ClassVar[int]
    AGAIN_S_FIELD_NUMBER: _ClassVar[int]
    word: str
    expires: float
    again_s: float
    def __init__(self, word: _Optional[str] = ..., expires: _Optional[float] = ..., again_s: _Optional[float] = ...) -> None: ...

class FetchRequest(_message.Message):
    __slots__ = ("digest", "offset")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    digest: str
    offset: int
    def __init__(self, digest: _Optional[str] = ..., offset: _Optional[int] = ...) -> None: ...

class PushBegin(_message.Message):
    __slots__ = ("request", "digest", "size")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    request: str
    digest: str
    size: int
    def __init__(self, request: _Optional[str] = ..., digest: _Optional[str] = ..., size: _Optional[int] = ...) -> None: ...

class PushCommit(_message.Message):
    __slots__ = ("digest", "size")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    digest: str
    size: int
    def __init__(self, digest: _Optional[str] = ..., size: _Optional[int] = ...) -> None: ...

class PushReply(_message.Message):
    __slots__ = ("offset", "complete")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    offset: int
    complete: bool
    def __init__(self, offset: _Optional[int] = ..., complete: _Optional[bool] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatusReply(_message.Message):
    __slots__ = ("versions", "federation", "plan", "member", "round", "rounds", "connected", "time")
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    FEDERATION_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    MEMBER_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    CONNECTED_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    versions: _containers.RepeatedScalarFieldContainer[int]
    federation: str
    plan: str
    member: str
    round: int
    rounds: int
    connected: _containers.RepeatedScalarFieldContainer[str]
    time: float
    def __init__(self, versions: _Optional[_Iterable[int]] = ..., federation: _Optional[str] = ..., plan: _Optional[str] = ..., member: _Optional[str] = ..., round: _Optional[int] = ..., rounds: _Optional[int] = ..., connected: _Optional[_Iterable[str]] = ..., time: _Optional[float] = ...) -> None: ...
