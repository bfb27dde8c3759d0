from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RankRequest(_message.Message):
    __slots__ = ("user_id", "candidates", "bids", "slots", "context", "request_id")
    class ContextEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: ContextValue
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[ContextValue, _Mapping]] = ...) -> None: ...
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    BIDS_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    user_id: int
    candidates: _containers.RepeatedScalarFieldContainer[int]
    bids: _containers.RepeatedScalarFieldContainer[float]
    slots: int
    context: _containers.MessageMap[str, ContextValue]
    request_id: int
    def __init__(self, user_id: _Optional[int] = ..., candidates: _Optional[_Iterable[int]] = ..., bids: _Optional[_Iterable[float]] = ..., slots: _Optional[int] = ..., context: _Optional[_Mapping[str, ContextValue]] = ..., request_id: _Optional[int] = ...) -> None: ...

class ContextValue(_message.Message):
    __slots__ = ("text", "number")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    text: str
    number: int
    def __init__(self, text: _Optional[str] = ..., number: _Optional[int] = ...) -> None: ...

class RankAnswer(_message.Message):
    __slots__ = ("request_id", "arm", "model", "policy", "randomised", "ads", "marks")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ARM_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    RANDOMISED_FIELD_NUMBER: _ClassVar[int]
    ADS_FIELD_NUMBER: _ClassVar[int]
    MARKS_FIELD_NUMBER: _ClassVar[int]
    request_id: int
    arm: str
    model: str
    policy: str
    randomised: bool
    ads: _containers.RepeatedCompositeFieldContainer[ShownAd]
    marks: AnswerMarks
    def __init__(self, request_id: _Optional[int] = ..., arm: _Optional[str] = ..., model: _Optional[str] = ..., policy: _Optional[str] = ..., randomised: _Optional[bool] = ..., ads: _Optional[_Iterable[_Union[ShownAd, _Mapping]]] = ..., marks: _Optional[_Union[AnswerMarks, _Mapping]] = ...) -> None: ...

class ShownAd(_message.Message):
    __slots__ = ("ad_id", "slot", "impression_id", "p", "s", "propensity")
    AD_ID_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    IMPRESSION_ID_FIELD_NUMBER: _ClassVar[int]
    P_FIELD_NUMBER: _ClassVar[int]
    S_FIELD_NUMBER: _ClassVar[int]
    PROPENSITY_FIELD_NUMBER: _ClassVar[int]
    ad_id: int
    slot: int
    impression_id: int
    p: float
    s: float
    propensity: float
    def __init__(self, ad_id: _Optional[int] = ..., slot: _Optional[int] = ..., impression_id: _Optional[int] = ..., p: _Optional[float] = ..., s: _Optional[float] = ..., propensity: _Optional[float] = ...) -> None: ...

class AnswerMarks(_message.Message):
    __slots__ = ("user", "unknown_ads", "missing", "stale", "degraded")
    USER_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_ADS_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    STALE_FIELD_NUMBER: _ClassVar[int]
    DEGRADED_FIELD_NUMBER: _ClassVar[int]
    user: str
    unknown_ads: _containers.RepeatedScalarFieldContainer[int]
    missing: _containers.RepeatedScalarFieldContainer[str]
    stale: _containers.RepeatedScalarFieldContainer[str]
    degraded: str
    def __init__(self, user: _Optional[str] = ..., unknown_ads: _Optional[_Iterable[int]] = ..., missing: _Optional[_Iterable[str]] = ..., stale: _Optional[_Iterable[str]] = ..., degraded: _Optional[str] = ...) -> None: ...
