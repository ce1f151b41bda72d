"""ARKit files: what the app and other programs write is read, and nothing else gets through."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from avatar.checks import InputError
from avatar.drive.arkit_csv import ANGLE_NAMES, read_arkit, write_arkit_csv
from avatar.drive.motion import FaceMotion, gaze_from_weights, head_angles, head_rotation
from avatar.rig.arkit import ARKIT_INDEX, ARKIT_NAMES

# The app writes Right before Left for jaw and mouth, unlike Apple's list of names.
APP_NAMES = [name[0].upper() + name[1:] for name in ARKIT_NAMES]
for pair in ("Jaw", "Mouth"):
    i, j = APP_NAMES.index(f"{pair}Left"), APP_NAMES.index(f"{pair}Right")
    APP_NAMES[i], APP_NAMES[j] = APP_NAMES[j], APP_NAMES[i]
APP_HEADER = ",".join(["Timecode", "BlendShapeCount", *APP_NAMES, *ANGLE_NAMES])


def app_line(timecode: str, **values: float) -> str:
    cells = [f"{values.get(name, 0.0):.10f}" for name in [*APP_NAMES, *ANGLE_NAMES]]
    return ",".join([timecode, "61", *cells])


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def weight(motion: FaceMotion, name: str) -> list[float]:
    return motion.weights[:, ARKIT_INDEX[name]].tolist()


def test_the_apps_recording_is_read_by_column_name(tmp_path: Path) -> None:
    lines = [
        APP_HEADER,
        app_line("13:13:59:58.500", JawLeft=0.7, HeadYaw=0.1, HeadPitch=0.2, HeadRoll=0.3),
        app_line("13:14:00:00.500", MouthRight=0.4, LeftEyeYaw=0.5, RightEyePitch=0.25),
    ]
    motion = read_arkit(write(tmp_path, "take.csv", "\n".join(lines)), fps=25)
    assert weight(motion, "jawLeft") == [0.7, 0]
    assert weight(motion, "jawRight") == [0, 0]
    assert weight(motion, "mouthRight") == [0, 0.4]
    assert motion.time_s.tolist() == pytest.approx([0, 2 / 60])
    assert motion.head is not None
    assert motion.gaze is not None
    assert motion.head[0].tolist() == pytest.approx([0.1, 0.2, 0.3])
    # The app counts eye yaw to the right and eye pitch down.
    assert motion.gaze[1].tolist() == [[-0.5, 0], [0, -0.25]]


def test_eye_angles_agree_with_the_eye_look_coefficients() -> None:
    weights = torch.zeros(4, 52)
    for row, name in enumerate(
        ("eyeLookOutLeft", "eyeLookInRight", "eyeLookUpLeft", "eyeLookDownRight")
    ):
        weights[row, ARKIT_INDEX[name]] = 1
    gaze = gaze_from_weights(weights)
    assert gaze[0, 0, 0] > 0  # the left eye looks outward: to the subject's left
    assert gaze[1, 1, 0] > 0  # the right eye looks inward: also to the left
    assert gaze[2, 0, 1] > 0
    assert gaze[3, 1, 1] < 0
    assert int((gaze != 0).sum()) == 4


def test_a_line_without_a_face_is_bridged(tmp_path: Path) -> None:
    lines = [
        APP_HEADER,
        app_line("00:00:01:00.000", JawOpen=0.2),
        "00:00:01:01.000,0" + "," * 61,
        "00:00:01:01.500,0",
        app_line("00:00:01:02.000", JawOpen=0.6),
    ]
    motion = read_arkit(write(tmp_path, "take.csv", "\n".join(lines)), fps=25)
    assert weight(motion, "jawOpen") == [0.2, 0.6]
    assert weight(motion.resampled(60), "jawOpen") == pytest.approx([0.2, 0.4, 0.6])


@pytest.mark.parametrize(("rate", "last_frame"), [(60, 59), (30, 29), (25, 24), (24, 23)])
def test_the_timecodes_rate_is_seen_in_its_frame_numbers(
    tmp_path: Path, rate: int, last_frame: int
) -> None:
    lines = [
        APP_HEADER,
        app_line(f"00:00:07:{last_frame}.000"),
        app_line("00:00:08:00.000"),
        app_line(f"00:00:08:{last_frame}.000"),
    ]
    motion = read_arkit(write(tmp_path, "take.csv", "\n".join(lines)), fps=25)
    assert motion.time_s.tolist() == pytest.approx([0, 1 / rate, 1])


def test_a_recording_passes_midnight(tmp_path: Path) -> None:
    lines = [APP_HEADER, app_line("23:59:59:59.000"), app_line("00:00:00:01.000")]
    motion = read_arkit(write(tmp_path, "take.csv", "\n".join(lines)), fps=25)
    assert motion.time_s.tolist() == pytest.approx([0, 2 / 60], abs=1e-9)


def test_repeated_and_slightly_corrected_timecodes_are_dropped(tmp_path: Path) -> None:
    codes = [
        "00:00:01:00.000",
        "00:00:01:02.000",
        "00:00:01:02.000",
        "00:00:01:01.500",
        "00:00:02:59.000",
    ]
    lines = [APP_HEADER, *(app_line(code, JawOpen=i / 10) for i, code in enumerate(codes))]
    motion = read_arkit(write(tmp_path, "take.csv", "\n".join(lines)), fps=25)
    assert weight(motion, "jawOpen") == [0, 0.1, 0.4]


def test_a_plain_csv_with_a_few_columns_in_any_case(tmp_path: Path) -> None:
    text = "TIME, jawopen ,EYEBLINKLEFT\n0,0,1\n0.5,1,0\n\n1.0,0.5,0.25\n"
    motion = read_arkit(write(tmp_path, "few.csv", text), fps=25)
    assert weight(motion, "jawOpen") == [0, 1, 0.5]
    assert weight(motion, "eyeBlinkLeft") == [1, 0, 0.25]
    assert float(motion.weights.sum()) == 2.75
    assert motion.head is None
    assert motion.gaze is None
    assert weight(motion.resampled(4), "jawOpen") == pytest.approx([0, 0.5, 1, 0.75, 0.5])


def test_rows_without_times_are_one_a_frame(tmp_path: Path) -> None:
    motion = read_arkit(write(tmp_path, "few.csv", "jawOpen\n0\n1\n0\n"), fps=25)
    assert motion.time_s.tolist() == pytest.approx([0, 0.04, 0.08])
    assert len(motion.resampled(25)) == 3
    assert len(motion.resampled(50)) == 5


def test_a_byte_order_mark_and_windows_lines_are_read(tmp_path: Path) -> None:
    path = tmp_path / "few.csv"
    path.write_bytes(b"\xef\xbb\xbfjawOpen,browInnerUp\r\n0.5,0.25\r\n")
    motion = read_arkit(path, fps=25)
    assert weight(motion, "jawOpen") == [0.5]


@pytest.mark.parametrize(
    "value",
    [
        [{"jawOpen": 0.5}, {"jawOpen": 1, "EyeBlinkLeft": 0.25}],
        {"fps": 10, "frames": [{"jawOpen": 0.5}, {"jawOpen": 1.0, "eyeblinkleft": 0.25}]},
        {"fps": 10, "names": ["eyeBlinkLeft", "jawOpen"], "weights": [[0, 0.5], [0.25, 1]]},
        {
            "exportFps": 10,
            "facsNames": ["eyeBlinkLeft", "jawOpen"],
            "weightMat": [[0, 0.5], [0.25, 1]],
        },
    ],
)
def test_json_forms(tmp_path: Path, value: object) -> None:
    motion = read_arkit(write(tmp_path, "face.json", json.dumps(value)), fps=10)
    assert weight(motion, "jawOpen") == [0.5, 1]
    assert weight(motion, "eyeBlinkLeft") == [0, 0.25]
    assert motion.time_s.tolist() == pytest.approx([0, 0.1])


def test_json_rate_goes_before_the_avatars(tmp_path: Path) -> None:
    value = {"fps": 50, "frames": [{"jawOpen": 0}, {"jawOpen": 1}]}
    motion = read_arkit(write(tmp_path, "face.json", json.dumps(value)), fps=10)
    assert motion.time_s.tolist() == pytest.approx([0, 0.02])


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    frames = 200
    motion = FaceMotion(
        torch.arange(frames, dtype=torch.float64) / 25,
        torch.rand(frames, 52, generator=generator, dtype=torch.float64),
        torch.rand(frames, 3, generator=generator, dtype=torch.float64) - 0.5,
        torch.rand(frames, 2, 2, generator=generator, dtype=torch.float64) - 0.5,
    )
    path = tmp_path / "out.csv"
    write_arkit_csv(path, motion)
    back = read_arkit(path, fps=1)
    assert back.head is not None
    assert back.gaze is not None
    # Ten digits of value; thousandths of a sixtieth of a second.
    assert torch.allclose(back.weights, motion.weights, atol=1e-9)
    assert torch.allclose(back.head, motion.head, atol=1e-9)  # pyright: ignore[reportArgumentType]
    assert torch.allclose(back.gaze, motion.gaze, atol=1e-9)  # pyright: ignore[reportArgumentType]
    assert torch.allclose(back.time_s, motion.time_s, atol=1e-4)
    header = path.read_text().splitlines()[0].split(",")
    assert len(header) == 2 + 61
    assert header[:3] == ["Timecode", "BlendshapeCount", "EyeBlinkLeft"]


def test_writing_where_nothing_can_be_written_names_the_path(tmp_path: Path) -> None:
    motion = FaceMotion(torch.zeros(1, dtype=torch.float64), torch.zeros(1, 52))
    with pytest.raises(InputError, match=r"missing/out\.csv cannot be written"):
        write_arkit_csv(tmp_path / "missing" / "out.csv", motion)


BAD_CSV = {
    "empty": ("", "names no ARKit coefficient"),
    "header only": ("jawOpen\n", "holds no sample"),
    "unknown column": ("jawOpn\n0\n", "unknown column 'jawOpn'. Did you mean jawOpen"),
    "foreign table": ("name,age\nx,3\n", "unknown column 'name'"),
    "twice": ("jawOpen,JawOpen\n0,0\n", "twice"),
    "only time": ("time\n0\n", "names no ARKit coefficient"),
    "text": (
        "time,jawOpen\n0,0\n1,wide\n",
        "line 3, column 'jawOpen': expected a finite number, found 'wide'",
    ),
    "nothing": (
        "time,jawOpen\n0,\n",
        "line 2, column 'jawOpen': expected a finite number, found ''",
    ),
    "nan": ("jawOpen\nnan\n", "line 2, column 'jawOpen'"),
    "infinity": ("jawOpen\n1e999\n", "line 2, column 'jawOpen'"),
    "percent": ("jawOpen\n57\n", "found 57. If the file holds percents"),
    "degrees": ("jawOpen,HeadYaw\n0,45\n", "radians"),
    "short line": ("jawOpen,jawLeft\n0,0\n0\n", "line 3: has 1 values where the header names 2"),
    "time back": ("time,jawOpen\n0,0\n1,0\n0.5,0\n", "line 4: its time lies 0.5 seconds before"),
    "milliseconds": ("time,jawOpen\n0,0\n16000000,0\n", "Are its times seconds"),
    "bad timecode": ("Timecode,jawOpen\n00:00:01,0\n", "HH:MM:SS:FF.sss, found '00:00:01'"),
    "two times": ("Timecode,time,jawOpen\n00:00:01:00,0,0\n", "both"),
    "open quote": ('jawOpen\n"0\n', "CSV"),
    "null": ("jawOpen\n\x00\n", "line 2"),
}


@pytest.mark.parametrize("case", BAD_CSV)
def test_a_bad_csv_is_refused_with_its_place(tmp_path: Path, case: str) -> None:
    text, message = BAD_CSV[case]
    path = write(tmp_path, "bad.csv", text)
    with pytest.raises(InputError) as caught:
        read_arkit(path, fps=25)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


BAD_JSON = {
    "empty": ("", "cannot be read as JSON"),
    "cut": ('[{"jawOpen": 0.5}', "cannot be read as JSON"),
    "deep": ("[" * 100_000, "cannot be read as JSON"),
    "number": ("3", "must hold a list"),
    "list of numbers": ("[1, 2]", "must hold a list"),
    "no frames": ('{"fps": 25}', "must hold a list"),
    "no frame": ("[]", "names no ARKit coefficient"),
    "unknown": ('[{"smile": 1}]', "unknown column 'smile'"),
    "text": ('[{"jawOpen": 0}, {"jawOpen": [1]}]', "frame 1, column 'jawOpen'"),
    "bool": ('[{"jawOpen": true}]', "expected a finite number, found True"),
    "nan": ('[{"jawOpen": NaN}]', "expected a finite number, found nan"),
    "huge": ('[{"jawOpen": 1' + "0" * 400 + "}]", "expected a finite number, found a huge number"),
    "bad rate": ('{"fps": 0, "frames": []}', "'fps' must be a number from 1 to 1000; found 0"),
    "bool rate": ('{"fps": true, "frames": []}', "'fps' must be a number"),
    "ragged": (
        '{"names": ["jawOpen"], "weights": [[0], [0, 1]]}',
        "frame 1: 'weights' must have 1 numbers",
    ),
    "flat": ('{"names": ["jawOpen"], "weights": [0]}', "frame 0: 'weights'"),
    "no weights": ('{"names": ["jawOpen"]}', "'weights' must be a list"),
    "names": ('{"names": [1], "weights": [[0]]}', "'names' must be a list of texts"),
    "time missing once": ('[{"time": 0, "jawOpen": 0}, {"jawOpen": 1}]', "frame 1, column 'time'"),
}


@pytest.mark.parametrize("case", BAD_JSON)
def test_a_bad_json_is_refused_with_its_place(tmp_path: Path, case: str) -> None:
    text, message = BAD_JSON[case]
    path = write(tmp_path, "bad.json", text)
    with pytest.raises(InputError) as caught:
        read_arkit(path, fps=25)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


def test_missing_folders_bytes_and_other_suffixes_are_refused(tmp_path: Path) -> None:
    binary = tmp_path / "binary.csv"
    binary.write_bytes(b"\xff\xfe\x00jaw")
    with pytest.raises(InputError, match="no UTF-8 text"):
        read_arkit(binary, fps=25)
    with pytest.raises(InputError, match=r"missing\.csv cannot be read"):
        read_arkit(tmp_path / "missing.csv", fps=25)
    with pytest.raises(InputError, match="cannot be read"):
        read_arkit(tmp_path, fps=25)
    with pytest.raises(InputError, match=r"neither a \.csv nor a \.json"):
        read_arkit(write(tmp_path, "face.txt", "jawOpen\n0\n"), fps=25)


FUZZ = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def read_or_refuse(path: Path) -> None:
    """The property of every file: InputError, or finite motion at increasing times."""
    try:
        motion = read_arkit(path, fps=25)
    except InputError:
        return
    assert torch.isfinite(motion.weights).all()
    assert bool((motion.time_s.diff() > 0).all())
    assert len(motion) >= 1
    resampled = motion.resampled(25)
    for values in (resampled.weights, resampled.head, resampled.gaze):
        assert values is None or (torch.isfinite(values).all() and len(values) == len(resampled))


cells = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True).map(repr),
    st.floats(0, 1).map(repr),
    st.sampled_from(
        ["", "0", "1", "00:00:01:02.5", "23:59:59:59.999", "0x1", "1_0", '"', "é", "0"]
    ),
    st.text(max_size=6),
)
names = st.one_of(
    st.sampled_from([*ARKIT_NAMES, *ANGLE_NAMES, "time", "Timecode", "BlendShapeCount", "frame"]),
    st.text(max_size=8),
)


@FUZZ
@given(content=st.binary(max_size=200), suffix=st.sampled_from([".csv", ".json"]))
def test_any_bytes_are_refused_or_read(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"fuzz{suffix}"
    path.write_bytes(content)
    read_or_refuse(path)


@FUZZ
@given(
    columns=st.lists(names, min_size=1, max_size=5),
    rows=st.lists(st.lists(cells, max_size=5), max_size=6),
)
def test_any_table_is_refused_or_read(
    tmp_path: Path, columns: list[str], rows: list[list[str]]
) -> None:
    text = "\n".join(",".join(line) for line in [columns, *rows])
    (tmp_path / "fuzz.csv").write_bytes(text.encode("utf-8", "surrogatepass"))
    read_or_refuse(tmp_path / "fuzz.csv")


@FUZZ
@given(
    columns=st.lists(
        st.sampled_from(["time", *ARKIT_NAMES, *ANGLE_NAMES]), min_size=1, unique=True
    ),
    rows=st.integers(0, 5),
    data=st.data(),
)
def test_numeric_tables_are_refused_or_read(
    tmp_path: Path, columns: list[str], rows: int, data: st.DataObject
) -> None:
    line = st.lists(st.floats(-4, 4), min_size=len(columns), max_size=len(columns))
    body = [",".join(map(repr, data.draw(line))) for _ in range(rows)]
    (tmp_path / "fuzz.csv").write_text("\n".join([",".join(columns), *body]))
    read_or_refuse(tmp_path / "fuzz.csv")


values = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.floats(0, 1), st.text(max_size=5)
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.one_of(names, st.sampled_from(["fps", "frames", "names", "weights", "facsNames"])),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=12,
)


@FUZZ
@given(value=values)
def test_any_json_is_refused_or_read(tmp_path: Path, value: object) -> None:
    (tmp_path / "fuzz.json").write_text(json.dumps(value))
    read_or_refuse(tmp_path / "fuzz.json")


@given(
    yaw=st.floats(-3, 3),
    pitch=st.floats(-1.4, 1.4),
    roll=st.floats(-3, 3),
)
def test_head_angles_invert_the_rotation(yaw: float, pitch: float, roll: float) -> None:
    angles = torch.tensor([yaw, pitch, roll], dtype=torch.float64)
    R = head_rotation(angles)
    assert torch.allclose(R @ R.T, torch.eye(3, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(head_angles(R), angles, atol=1e-9)


def test_head_angles_turn_the_face_the_way_their_names_say() -> None:
    out_of_the_face = torch.tensor([0.0, 0.0, 1.0])
    assert (head_rotation(torch.tensor([0.3, 0, 0])) @ out_of_the_face)[
        0
    ] > 0.2  # x: subject's left
    assert (head_rotation(torch.tensor([0, 0.3, 0])) @ out_of_the_face)[1] > 0.2  # y: up
    crown = torch.tensor([0.0, 1.0, 0.0])
    assert (head_rotation(torch.tensor([0, 0, 0.3])) @ crown)[0] < -0.2  # to the right shoulder


def test_a_wrapping_roll_is_unwrapped(tmp_path: Path) -> None:
    text = f"time,jawOpen,HeadRoll\n0,0,{math.pi - 0.01}\n1,0,{-math.pi + 0.01}\n"
    motion = read_arkit(write(tmp_path, "sideways.csv", text), fps=25)
    assert motion.head is not None
    assert motion.head[:, 2].diff().abs().max() < 0.05


def test_motion_needs_increasing_times_and_fitting_shapes() -> None:
    with pytest.raises(ValueError, match="increasing"):
        FaceMotion(torch.zeros(2, dtype=torch.float64), torch.zeros(2, 52))
    with pytest.raises(ValueError, match="weights"):
        FaceMotion(torch.arange(2.0), torch.zeros(2, 51))
    with pytest.raises(ValueError, match="gaze"):
        FaceMotion(torch.arange(2.0), torch.zeros(2, 52), gaze=torch.zeros(3, 2, 2))
