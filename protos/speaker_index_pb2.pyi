from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CalibrationMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CALIBRATION_MODE_UNSPECIFIED: _ClassVar[CalibrationMode]
    CALIBRATION_MODE_MU: _ClassVar[CalibrationMode]
    CALIBRATION_MODE_SIGMA: _ClassVar[CalibrationMode]
    CALIBRATION_MODE_BOTH: _ClassVar[CalibrationMode]
CALIBRATION_MODE_UNSPECIFIED: CalibrationMode
CALIBRATION_MODE_MU: CalibrationMode
CALIBRATION_MODE_SIGMA: CalibrationMode
CALIBRATION_MODE_BOTH: CalibrationMode

class Vector(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, values: _Optional[_Iterable[float]] = ...) -> None: ...

class LabelStatistics(_message.Message):
    __slots__ = ("dimension", "mean", "standard_deviation", "count")
    DIMENSION_FIELD_NUMBER: _ClassVar[int]
    MEAN_FIELD_NUMBER: _ClassVar[int]
    STANDARD_DEVIATION_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    dimension: str
    mean: float
    standard_deviation: float
    count: int
    def __init__(self, dimension: _Optional[str] = ..., mean: _Optional[float] = ..., standard_deviation: _Optional[float] = ..., count: _Optional[int] = ...) -> None: ...

class Speaker(_message.Message):
    __slots__ = ("id", "vector", "num_utterances", "labels", "metadata")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    VECTOR_FIELD_NUMBER: _ClassVar[int]
    NUM_UTTERANCES_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    id: str
    vector: Vector
    num_utterances: int
    labels: _containers.RepeatedCompositeFieldContainer[LabelStatistics]
    metadata: _containers.ScalarMap[str, str]
    def __init__(self, id: _Optional[str] = ..., vector: _Optional[_Union[Vector, _Mapping]] = ..., num_utterances: _Optional[int] = ..., labels: _Optional[_Iterable[_Union[LabelStatistics, _Mapping]]] = ..., metadata: _Optional[_Mapping[str, str]] = ...) -> None: ...

class Neighbour(_message.Message):
    __slots__ = ("id", "similarity", "labels")
    ID_FIELD_NUMBER: _ClassVar[int]
    SIMILARITY_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    id: str
    similarity: float
    labels: _containers.RepeatedCompositeFieldContainer[LabelStatistics]
    def __init__(self, id: _Optional[str] = ..., similarity: _Optional[float] = ..., labels: _Optional[_Iterable[_Union[LabelStatistics, _Mapping]]] = ...) -> None: ...

class SearchRequest(_message.Message):
    __slots__ = ("encoder_fingerprint", "vectors", "k", "exclude_ids", "metadata_equals")
    class MetadataEqualsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ENCODER_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    VECTORS_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_IDS_FIELD_NUMBER: _ClassVar[int]
    METADATA_EQUALS_FIELD_NUMBER: _ClassVar[int]
    encoder_fingerprint: str
    vectors: _containers.RepeatedCompositeFieldContainer[Vector]
    k: int
    exclude_ids: _containers.RepeatedScalarFieldContainer[str]
    metadata_equals: _containers.ScalarMap[str, str]
    def __init__(self, encoder_fingerprint: _Optional[str] = ..., vectors: _Optional[_Iterable[_Union[Vector, _Mapping]]] = ..., k: _Optional[int] = ..., exclude_ids: _Optional[_Iterable[str]] = ..., metadata_equals: _Optional[_Mapping[str, str]] = ...) -> None: ...

class Neighbours(_message.Message):
    __slots__ = ("neighbours",)
    NEIGHBOURS_FIELD_NUMBER: _ClassVar[int]
    neighbours: _containers.RepeatedCompositeFieldContainer[Neighbour]
    def __init__(self, neighbours: _Optional[_Iterable[_Union[Neighbour, _Mapping]]] = ...) -> None: ...

class SearchResponse(_message.Message):
    __slots__ = ("generation", "results")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    generation: int
    results: _containers.RepeatedCompositeFieldContainer[Neighbours]
    def __init__(self, generation: _Optional[int] = ..., results: _Optional[_Iterable[_Union[Neighbours, _Mapping]]] = ...) -> None: ...

class Predictions(_message.Message):
    __slots__ = ("dimension", "values")
    DIMENSION_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    dimension: str
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, dimension: _Optional[str] = ..., values: _Optional[_Iterable[float]] = ...) -> None: ...

class CalibrateRequest(_message.Message):
    __slots__ = ("encoder_fingerprint", "vector", "speaker_id", "k", "mode", "predictions", "exclude_ids")
    ENCODER_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    VECTOR_FIELD_NUMBER: _ClassVar[int]
    SPEAKER_ID_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    PREDICTIONS_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_IDS_FIELD_NUMBER: _ClassVar[int]
    encoder_fingerprint: str
    vector: Vector
    speaker_id: str
    k: int
    mode: CalibrationMode
    predictions: _containers.RepeatedCompositeFieldContainer[Predictions]
    exclude_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, encoder_fingerprint: _Optional[str] = ..., vector: _Optional[_Union[Vector, _Mapping]] = ..., speaker_id: _Optional[str] = ..., k: _Optional[int] = ..., mode: _Optional[_Union[CalibrationMode, str]] = ..., predictions: _Optional[_Iterable[_Union[Predictions, _Mapping]]] = ..., exclude_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class CalibrateResponse(_message.Message):
    __slots__ = ("generation", "calibrated", "neighbours")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    CALIBRATED_FIELD_NUMBER: _ClassVar[int]
    NEIGHBOURS_FIELD_NUMBER: _ClassVar[int]
    generation: int
    calibrated: _containers.RepeatedCompositeFieldContainer[Predictions]
    neighbours: _containers.RepeatedCompositeFieldContainer[Neighbour]
    def __init__(self, generation: _Optional[int] = ..., calibrated: _Optional[_Iterable[_Union[Predictions, _Mapping]]] = ..., neighbours: _Optional[_Iterable[_Union[Neighbour, _Mapping]]] = ...) -> None: ...

class UpsertRequest(_message.Message):
    __slots__ = ("encoder_fingerprint", "speakers")
    ENCODER_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    SPEAKERS_FIELD_NUMBER: _ClassVar[int]
    encoder_fingerprint: str
    speakers: _containers.RepeatedCompositeFieldContainer[Speaker]
    def __init__(self, encoder_fingerprint: _Optional[str] = ..., speakers: _Optional[_Iterable[_Union[Speaker, _Mapping]]] = ...) -> None: ...

class UpsertResponse(_message.Message):
    __slots__ = ("generation",)
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    generation: int
    def __init__(self, generation: _Optional[int] = ...) -> None: ...

class DeleteRequest(_message.Message):
    __slots__ = ("ids",)
    IDS_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, ids: _Optional[_Iterable[str]] = ...) -> None: ...

class DeleteResponse(_message.Message):
    __slots__ = ("generation", "num_deleted")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    NUM_DELETED_FIELD_NUMBER: _ClassVar[int]
    generation: int
    num_deleted: int
    def __init__(self, generation: _Optional[int] = ..., num_deleted: _Optional[int] = ...) -> None: ...

class GetRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class GetResponse(_message.Message):
    __slots__ = ("generation", "speaker")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    SPEAKER_FIELD_NUMBER: _ClassVar[int]
    generation: int
    speaker: Speaker
    def __init__(self, generation: _Optional[int] = ..., speaker: _Optional[_Union[Speaker, _Mapping]] = ...) -> None: ...

class DescribeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DescribeResponse(_message.Message):
    __slots__ = ("num_speakers", "dimension", "encoder_fingerprint", "index_kind", "generation", "encoder", "label_dimensions", "max_vectors", "max_k")
    NUM_SPEAKERS_FIELD_NUMBER: _ClassVar[int]
    DIMENSION_FIELD_NUMBER: _ClassVar[int]
    ENCODER_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    INDEX_KIND_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    ENCODER_FIELD_NUMBER: _ClassVar[int]
    LABEL_DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    MAX_VECTORS_FIELD_NUMBER: _ClassVar[int]
    MAX_K_FIELD_NUMBER: _ClassVar[int]
    num_speakers: int
    dimension: int
    encoder_fingerprint: str
    index_kind: str
    generation: int
    encoder: str
    label_dimensions: _containers.RepeatedScalarFieldContainer[str]
    max_vectors: int
    max_k: int
    def __init__(self, num_speakers: _Optional[int] = ..., dimension: _Optional[int] = ..., encoder_fingerprint: _Optional[str] = ..., index_kind: _Optional[str] = ..., generation: _Optional[int] = ..., encoder: _Optional[str] = ..., label_dimensions: _Optional[_Iterable[str]] = ..., max_vectors: _Optional[int] = ..., max_k: _Optional[int] = ...) -> None: ...
