# SPDX-License-Identifier: Apache-2.0
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ReleaseUp(_message.Message):
    __slots__ = ("challenge", "part", "end")
    CHALLENGE_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    challenge: bytes
    part: bytes
    end: int
    def __init__(self, challenge: _Optional[bytes] = ..., part: _Optional[bytes] = ..., end: _Optional[int] = ...) -> None: ...

class ReleaseDown(_message.Message):
    __slots__ = ("offer", "opened")
    OFFER_FIELD_NUMBER: _ClassVar[int]
    OPENED_FIELD_NUMBER: _ClassVar[int]
    offer: Offer
    opened: bool
    def __init__(self, offer: _Optional[_Union[Offer, _Mapping]] = ..., opened: _Optional[bool] = ...) -> None: ...

class Offer(_message.Message):
    __slots__ = ("certificate", "evidence", "nonce")
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    certificate: bytes
    evidence: bytes
    nonce: bytes
    def __init__(self, certificate: _Optional[bytes] = ..., evidence: _Optional[bytes] = ..., nonce: _Optional[bytes] = ...) -> None: ...
