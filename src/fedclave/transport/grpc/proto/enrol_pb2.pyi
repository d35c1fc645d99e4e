# SPDX-License-Identifier: Apache-2.0
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class RootsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RootsReply(_message.Message):
    __slots__ = ("chain", "revocations", "challenge")
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    REVOCATIONS_FIELD_NUMBER: _ClassVar[int]
    CHALLENGE_FIELD_NUMBER: _ClassVar[int]
    chain: bytes
    revocations: bytes
    challenge: bytes
    def __init__(self, chain: _Optional[bytes] = ..., revocations: _Optional[bytes] = ..., challenge: _Optional[bytes] = ...) -> None: ...

class JoinRequest(_message.Message):
    __slots__ = ("secret", "request")
    SECRET_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    secret: str
    request: bytes
    def __init__(self, secret: _Optional[str] = ..., request: _Optional[bytes] = ...) -> None: ...

class RenewRequest(_message.Message):
    __slots__ = ("request", "certificate", "signature")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    request: bytes
    certificate: bytes
    signature: bytes
    def __init__(self, request: _Optional[bytes] = ..., certificate: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class Issued(_message.Message):
    __slots__ = ("certificate", "chain", "revocations")
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    REVOCATIONS_FIELD_NUMBER: _ClassVar[int]
    certificate: bytes
    chain: bytes
    revocations: bytes
    def __init__(self, certificate: _Optional[bytes] = ..., chain: _Optional[bytes] = ..., revocations: _Optional[bytes] = ...) -> None: ...
