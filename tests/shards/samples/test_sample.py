"""Samples: every field is read as the contract has it, and everything else has a reason."""

import io
import json
import pickle
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shards.errors import BadSample, BadShard, reason_code
from shards.samples.metadata import MAX_TEXT_BYTES, encode_metadata
from shards.samples.npy import decode_features, encode_features
from shards.samples.sample import Sample, encode_sample, parse_sample


def npy(array: np.ndarray, version: tuple[int, int] | None = None) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, version=version)
    return stream.getvalue()


def npy_with_header(header: bytes, payload: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    length = len(header).to_bytes(2 if version[0] == 1 else 4, "little")
    return b"\x93NUMPY" + version + length + header + payload


def parse_json(text: str | bytes) -> Sample:
    data = text.encode() if isinstance(text, str) else text
    return parse_sample("k", {"flac": b"x", "json": data})


# The whole sample.


def test_every_field_arrives_where_it_belongs() -> None:
    """Each field of a full sample, made by hand, arrives where it belongs."""
    features = np.arange(6, dtype=np.float32).reshape(2, 3)
    metadata = {
        "speaker": "anna",
        "emotion": "Happy",
        "duration_seconds": 1.5,
        "ratings": {"voice": {"anger": 3}},
    }

    sample = parse_sample(
        "a/b",
        {
            "wav": b"sound",
            "webm": b"picture",
            "face.npy": npy(features),
            "txt": " Grüße\n".encode(),
            "json": json.dumps(metadata).encode(),
        },
    )

    assert (sample.key, sample.audio, sample.audio_format) == ("a/b", b"sound", "wav")
    assert (sample.video, sample.video_format) == (b"picture", "webm")

    assert sample.face_features is not None
    np.testing.assert_array_equal(sample.face_features, features)
    assert sample.transcript == "Grüße"
    assert (sample.speaker, sample.emotion, sample.metadata) == ("anna", "happiness", metadata)


def test_every_field_but_one_may_be_missing() -> None:
    """Audio, video, face or words alone make a sample."""
    for members in (
        {"mp3": b""},
        {"mkv": b""},
        {"face.npy": npy(np.ones((1, 2)))},
        {"txt": b"words"},
    ):
        sample = parse_sample("k", members)
        assert (sample.speaker, sample.emotion, sample.metadata) == (None, None, {})


def test_placeholders_count_as_absent() -> None:
    """The placeholders that a packer writes, to give all samples the same fields, are absent."""
    sample = parse_sample(
        "k", {"flac": b"x", "txt": b" \n", "face.npy": npy(np.empty((0, 512), np.float32))}
    )
    assert sample.transcript is None
    assert sample.face_features is None


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({}, "no_media"),
        ({"json": b"{}"}, "no_media"),
        ({"flac": b"x", "wav": b"y"}, "ambiguous_audio"),
        ({"mp4": b"x", "mkv": b"y"}, "ambiguous_video"),
        ({"flac": b"x", "pickle": b"y"}, "unknown_extension"),
        ({"flac": b"x", "npy": b"y"}, "unknown_extension"),
        ({"txt": b"\xff\xfe"}, "bad_transcript"),
        ({"txt": b"x" * (MAX_TEXT_BYTES + 1)}, "bad_transcript"),
    ],
)
def test_samples_outside_the_contract_have_a_reason(members: dict[str, bytes], code: str) -> None:
    """Missing, doubled, unknown and unreadable fields have a reason."""
    with pytest.raises(BadSample) as caught:
        parse_sample("k", members)
    assert caught.value.code == code


def test_a_format_comes_with_its_bytes() -> None:
    """A sample made in code cannot have audio without its format."""
    with pytest.raises(ValueError, match="audio_format: got None"):
        Sample(key="k", audio=b"x")
    with pytest.raises(ValueError, match="video_format: got 'avi'"):
        Sample(key="k", video=b"x", video_format="avi")
    with pytest.raises(ValueError, match="audio_format: got 'flac'"):
        Sample(key="k", audio_format="flac")


TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
METADATA = st.fixed_dictionaries(
    {},
    optional={
        "speaker": st.from_regex(r"[\w -]{1,20}", fullmatch=True) | st.integers(0, 99) | st.none(),
        "emotion": TEXT,
        "duration_seconds": st.floats(0, 1e6) | st.integers(0, 100),
        "anything": JSON,
    },
)
FEATURES = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2),
    elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
)


@settings(max_examples=100, deadline=None)
@given(
    metadata=METADATA,
    audio=st.none() | st.binary(),
    video=st.none() | st.binary(),
    features=st.none() | FEATURES,
    transcript=st.just("words"),
)
def test_a_sample_written_and_parsed_is_the_same(
    metadata: dict[str, object],
    audio: bytes | None,
    video: bytes | None,
    features: np.ndarray | None,
    transcript: str,
) -> None:
    """encode_sample and parse_sample are inverse, and encoding is deterministic."""
    sample = Sample(
        key="k",
        audio=audio,
        audio_format=None if audio is None else "opus",
        video=video,
        video_format=None if video is None else "mkv",
        face_features=features,
        transcript=transcript,
        metadata=metadata,
    )
    members = encode_sample(sample)
    back = parse_sample("k", members)

    assert (back.audio, back.audio_format, back.video, back.video_format) == (
        sample.audio,
        sample.audio_format,
        sample.video,
        sample.video_format,
    )
    assert (back.transcript, back.metadata) == (transcript, metadata)

    if features is None:
        assert back.face_features is None
    else:
        np.testing.assert_array_equal(back.face_features, features)

    assert encode_sample(back) == members
    assert members == encode_sample(
        Sample(key="k", **{**_fields(sample), "metadata": dict(reversed(metadata.items()))})
    )


def _fields(sample: Sample) -> dict[str, object]:
    names = ("audio", "audio_format", "video", "video_format", "face_features", "transcript")
    return {name: getattr(sample, name) for name in names}


# Metadata.


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nothing",
        "[]",
        "null",
        '"text"',
        "{",
        '{"a": NaN}',
        '{"a": Infinity}',
        '{"a": -Infinity}',
        '{"a": 1e999}',
        '{"a": 9223372036854775808}',
        '{"a": -9223372036854775809}',
        '{"a": ' + "9" * 100_000 + "}",
        '{"a": 1, "a": 2}',
        '{"b": {"a": 1, "a": 1}}',
        '{"a": "\\ud800"}',
        '{"\\udfff": 1}',
        '{"a": "\x00"}',
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"a":' * 20 + "1" + "}" * 20,
        b"\xff{}",
        '{"speaker": "a"}'.encode("utf-16"),
        b"{" + b" " * MAX_TEXT_BYTES + b"}",
    ],
)
def test_json_that_is_not_plain_json_is_refused(text: str | bytes) -> None:
    """json that is no plain object has one code, and never another exception.

    For example it is not finite, not UTF-8, too deep or too long, or repeats a name.
    """
    with pytest.raises(BadSample) as caught:
        parse_json(text)
    assert caught.value.code == "bad_json"
    assert len(caught.value.reason) < 200


def test_finding_the_repeated_name_is_quick_in_a_large_object() -> None:
    """Of a hundred thousand names, the message gives the one that is there twice."""
    names = [f'"{n:x}":0' for n in range(100_000)]
    with pytest.raises(BadSample, match="gives 'ff' twice"):
        parse_json("{" + ",".join(names) + ',"ff":1}')


def test_limits_do_not_touch_ordinary_metadata() -> None:
    """A byte order mark, big numbers, ordinary nesting and many brackets are all fine."""
    nested = '{"a":' * 15 + '{"speaker": [1]}' + "}" * 15
    assert parse_json('\ufeff{"speaker": "a"}').speaker == "a"
    assert parse_json('{"a": 9223372036854775807, "b": -1.5e300}').metadata["a"] == (1 << 63) - 1
    assert parse_json(json.dumps({"a": [[n] for n in range(1000)]})).metadata["a"]
    assert parse_json('{"a": "\\ud83d\\ude00 \\u00e9"}').metadata["a"] == "😀 é"

    with pytest.raises(BadSample, match="nested deeper"):
        parse_json(nested)
    assert parse_json(nested[5:-1].replace("[1]", "1")).metadata


@pytest.mark.parametrize(
    "metadata",
    [
        {"speaker": ["a"]},
        {"speaker": ""},
        {"speaker": True},
        {"speaker": 1.5},
        {"speaker": "a\nb"},
        {"speaker": "a" * 257},
        {"emotion": 3},
        {"language": ["en"]},
        {"duration_seconds": "1.5"},
        {"duration_seconds": -1},
        {"duration_seconds": True},
        {"demographics": "old"},
        {"ratings": [1]},
        {"ratings": {"smell": {}}},
        {"ratings": {"voice": [1, 2]}},
        {"ratings": {"voice": {"anger": -1}}},
        {"ratings": {"voice": {"anger": "two"}}},
        {"ratings": {"voice": {"anger": 0.5}}},
        {"ratings": {"voice": {"anger": 1e30}}},
    ],
)
def test_metadata_of_the_wrong_kind_is_refused(metadata: dict[str, object]) -> None:
    """Fields with a meaning must have the type that it needs."""
    with pytest.raises(BadSample) as caught:
        parse_json(json.dumps(metadata))
    assert caught.value.code == "bad_metadata"


def test_metadata_may_leave_out_or_null_anything() -> None:
    """Null counts as absent, and a number can be a speaker's name.

    An emotion outside the seven is no true emotion.
    """
    names = ("speaker", "emotion", "language", "duration_seconds", "demographics", "ratings")
    sample = parse_json(json.dumps(dict.fromkeys(names)))
    assert (sample.speaker, sample.emotion) == (None, None)
    assert parse_json('{"speaker": 17}').speaker == "17"
    assert parse_json('{"emotion": "contempt"}').emotion is None
    assert parse_json('{"emotion": " Fearful "}').emotion == "fear"


def test_metadata_is_written_canonically() -> None:
    """Metadata is written sorted, compact and as UTF-8, and never with NaN, which is not JSON."""
    assert encode_metadata({"b": 1, "a": "é"}) == '{"a":"é","b":1}'.encode()
    with pytest.raises(ValueError, match="JSON"):
        encode_metadata({"a": float("nan")})


@settings(max_examples=300, deadline=None)
@given(
    data=st.binary(max_size=60)
    | st.text('{}[]":,0eE-+.\\untNaI \u00e9', max_size=60).map(str.encode)
)
def test_any_bytes_are_metadata_or_a_bad_sample(data: bytes) -> None:
    """Any bytes are a bad sample, or what Python's own parser makes of them."""
    try:
        sample = parse_json(data)
    except BadSample:
        return
    assert sample.metadata == json.loads(data.decode("utf-8-sig"))


# Face features.


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f2", ">f4", ">f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_every_float_array_numpy_writes_is_read(
    version: tuple[int, int], dtype: str, order: str
) -> None:
    """Each format version, float width and order gives the values of numpy.load."""
    array = np.asarray(np.arange(12).reshape(3, 4) / 8, dtype=dtype, order=order)
    decoded = decode_features(npy(array, version))
    assert decoded.dtype == np.float32
    assert decoded.flags.c_contiguous
    assert decoded.flags.writeable
    np.testing.assert_array_equal(decoded, np.load(io.BytesIO(npy(array, version))))


def test_features_are_written_as_numpy_reads_them() -> None:
    """numpy.load, an independent reader, reads the features that were written.

    The same values in any memory order give the same bytes.
    """
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(np.load(io.BytesIO(encode_features(array))), array)
    assert encode_features(np.asfortranarray(array)) == encode_features(array)
    with pytest.raises(ValueError, match="got shape"):
        encode_features(array[0])


HEADER = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2), }\n"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "bad_features"),
        (b"\x93NUMPY", "bad_features"),
        (b"PK\x03\x04" + bytes(100), "bad_features"),
        (npy(np.ones((2, 2)))[:-1], "bad_features"),
        (npy(np.ones((2, 2))) + b"x", "bad_features"),
        (npy(np.ones((2, 2)))[:40], "bad_features"),
        (npy(np.ones((2, 2)), (1, 0)).replace(b"\x93NUMPY\x01", b"\x93NUMPY\x09"), "bad_features"),
        (npy(np.ones(3)), "bad_features"),
        (npy(np.ones((1, 2, 3))), "bad_features"),
        (npy(np.ones((2, 0))), "bad_features"),
        (npy(np.ones((2, 2), np.int32)), "bad_features"),
        (npy(np.ones((2, 2), np.complex64)), "bad_features"),
        (npy(np.ones((2, 2), np.longdouble)), "bad_features"),
        (npy(np.zeros((2, 2), [("a", "<f4")])), "bad_features"),
        (npy(np.array([[{}, []]], dtype=object)), "pickled_features"),
        (npy(np.array([[1.0, np.nan]])), "non_finite_features"),
        (npy(np.array([[1.0, np.inf]])), "non_finite_features"),
        (npy(np.array([[1e300, 1.0]])), "non_finite_features"),
        (
            npy_with_header(HEADER.replace(b"(1, 2)", b"(999999999, 999999999)"), bytes(8)),
            "bad_features",
        ),
        (
            npy_with_header(HEADER.replace(b"(1, 2)", b"(" + b"9" * 150 + b", 2)"), bytes(8)),
            "bad_features",
        ),
        (npy_with_header(HEADER.replace(b"(1, 2)", b"(-1, -2)"), bytes(8)), "bad_features"),
        (npy_with_header(HEADER.replace(b"(1, 2)", b"(True, 2)"), bytes(8)), "bad_features"),
        (npy_with_header(HEADER.replace(b"(1, 2)", b"(" * 3000), bytes(8)), "bad_features"),
        (npy_with_header(b"__import__('os').system('true')", bytes(8)), "bad_features"),
        (npy_with_header(b"-" * 4000, bytes(8)), "bad_features"),
        (npy_with_header(HEADER + b" " * 60_000, bytes(8)), "bad_features"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + HEADER, "bad_features"),
    ],
)
def test_arrays_outside_the_contract_have_a_reason(data: bytes, code: str) -> None:
    """A wrong shape, type, size or header has a reason; object arrays are not opened."""
    with pytest.raises(BadSample) as caught:
        decode_features(data)
    assert caught.value.code == code


def test_a_header_without_spaces_is_read() -> None:
    """A header of a writer in another language, without numpy's spaces, is read."""
    header = b'{"descr":"<f4","fortran_order":False,"shape":(1,2)}'
    np.testing.assert_array_equal(
        decode_features(npy_with_header(header, bytes(8))), np.zeros((1, 2))
    )


def test_no_code_in_a_pickled_array_runs() -> None:
    """An object array is refused, and its unpickling, which would raise, does not run."""

    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (exec, ("raise SystemExit('unpickled')",))

    with pytest.raises(BadSample, match="pickled_features"):
        decode_features(npy(np.array([[Trap()]], dtype=object)))


def test_memory_does_not_follow_the_claimed_shape() -> None:
    """A header of a hundred bytes that claims petabytes allocates nothing."""
    claims = [b"(999999999, 999999999)", b"(1, 999999999)", b"(999999999, 1)"]
    arrays = [npy_with_header(HEADER.replace(b"(1, 2)", claim), bytes(8)) for claim in claims]

    tracemalloc.start()
    try:
        for data in arrays:
            with pytest.raises(BadSample):
                decode_features(data)
        assert (
            decode_features(npy_with_header(HEADER.replace(b"(1, 2)", b"(0, 999999999)"))).size == 0
        )
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < 1 << 18


@settings(max_examples=200, deadline=None)
@given(position=st.integers(0, 200), replacement=st.binary(max_size=4), length=st.integers(0, 200))
def test_a_damaged_array_is_read_or_refused(position: int, replacement: bytes, length: int) -> None:
    """Changed or cut bytes give finite float32 values in two dimensions, or a reason."""
    data = npy(np.arange(8, dtype=np.float32).reshape(2, 4))
    data = (data[:position] + replacement + data[position + len(replacement) :])[:length]
    try:
        features = decode_features(data)
    except BadSample:
        return
    assert features.ndim == 2
    assert np.isfinite(features).all()


# Reasons.


def test_reasons_carry_code_and_detail_and_cross_processes() -> None:
    """A reason is `code: detail`, gives the code back, and keeps its kind when pickled."""
    for kind in (BadSample, BadShard):
        error = kind("cut_short", "at byte 3: nothing")
        assert str(error) == error.reason == "cut_short: at byte 3: nothing"
        assert reason_code(error.reason) == error.code == "cut_short"
        back = pickle.loads(pickle.dumps(error))
        assert type(back) is kind
        assert (back.code, back.detail) == (error.code, error.detail)
