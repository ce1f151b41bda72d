"""The bundled sample: a clip that tracks like any clip, and the truth that lies beside it."""

from __future__ import annotations

import builtins
from pathlib import Path

import av
import numpy as np
import pytest

from avatar.checks import InputError
from avatar.drive.espeak import speech_available, synthesise
from avatar.drive.speech import Speech, TimedPhoneme
from avatar.rig.arkit import ARKIT_INDEX
from avatar.tensorfile import read_tensors
from capture.sample import (
    CONTROLS_FORMAT,
    CONTROLS_VERSION,
    SampleInfo,
    follow_speech,
    make_sample,
    plan_motion,
)
from capture.sample_portrait import Portrait, Pose

needs_speech = pytest.mark.skipif(
    not speech_available(), reason="needs the extra [speech] (espeakng-loader)"
)


def decode(path: Path) -> np.ndarray:
    """All frames of a clip, uint8 [F, H, W, 3]."""
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def read_controls(info: SampleInfo):
    return read_tensors(
        info.controls,
        format=CONTROLS_FORMAT,
        version=CONTROLS_VERSION,
        required={
            "expression": "F 52",
            "head_rotation": "F 3",
            "head_translation": "F 3",
            "gaze": "F 2 2",
        },
    )


@pytest.fixture(scope="module")
def silent_clip(tmp_path_factory) -> SampleInfo:
    folder = tmp_path_factory.mktemp("sample")
    return make_sample(folder / "silent.mp4", seconds=4, size=320, voice=False)


@pytest.fixture(scope="module")
def tracked(silent_clip) -> np.ndarray:
    """MediaPipe's points [F, 478, 3] in pixels; NaN where no face was found."""
    import mediapipe

    frames = decode(silent_clip.video)
    points = np.full((len(frames), 478, 3), np.nan)
    face_mesh = mediapipe.solutions.face_mesh  # type: ignore[attr-defined]
    with face_mesh.FaceMesh(max_num_faces=1, refine_landmarks=True) as mesh:
        for f, frame in enumerate(frames):
            found = mesh.process(frame).multi_face_landmarks
            if found:
                points[f] = [[p.x, p.y, p.z] for p in found[0].landmark]
    return points * frames.shape[1]


def apart(points: np.ndarray, a: int, b: int) -> np.ndarray:
    return np.linalg.norm(points[:, a] - points[:, b], axis=-1)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1])


def test_every_frame_shows_a_face(tracked: np.ndarray) -> None:
    assert np.isfinite(tracked).all()
    height = tracked[:, 152, 1] - tracked[:, 10, 1]
    assert height.min() > 0.34 * 320
    assert height.max() < 0.55 * 320


def test_tracked_mouth_follows_the_true_jaw(tracked: np.ndarray, silent_clip: SampleInfo) -> None:
    expression = read_controls(silent_clip)[0]["expression"].numpy()
    opening = apart(tracked, 13, 14) / apart(tracked, 33, 263)
    assert correlation(opening, expression[:, ARKIT_INDEX["jawOpen"]]) > 0.9


def test_tracked_lids_follow_the_true_blinks(tracked: np.ndarray, silent_clip: SampleInfo) -> None:
    expression = read_controls(silent_clip)[0]["expression"].numpy()
    for side, (upper, lower, a, b) in {
        "Right": (159, 145, 33, 133),
        "Left": (386, 374, 263, 362),
    }.items():
        gap = apart(tracked, upper, lower) / apart(tracked, a, b)
        assert correlation(-gap, expression[:, ARKIT_INDEX[f"eyeBlink{side}"]]) > 0.8


def test_tracked_turn_has_the_true_sign(tracked: np.ndarray, silent_clip: SampleInfo) -> None:
    rotation = read_controls(silent_clip)[0]["head_rotation"].numpy()
    across = tracked[:, 263] - tracked[:, 33]  # from the subject's right eye to the left one
    # Turned to the subject's left, the left eye goes away from the camera: MediaPipe's z grows.
    assert correlation(np.arctan2(across[:, 2], across[:, 0]), rotation[:, 1]) > 0.95
    # Picture y points down, so a roll that is positive about z (out of the face) lifts the left eye.
    assert correlation(-np.arctan2(across[:, 1], across[:, 0]), rotation[:, 2]) > 0.9


def test_irises_follow_the_true_gaze(tracked: np.ndarray, silent_clip: SampleInfo) -> None:
    gaze = read_controls(silent_clip)[0]["gaze"].numpy()
    middle = (tracked[:, 33, 0] + tracked[:, 133, 0]) / 2
    shift = (tracked[:, 468, 0] - middle) / apart(tracked, 33, 133)
    open_eye = read_controls(silent_clip)[0]["expression"][:, ARKIT_INDEX["eyeBlinkRight"]] < 0.3
    # The iris is 16 pixels wide at this size and MediaPipe's gaze is a coarse one.
    assert correlation(shift[open_eye], gaze[open_eye, 1, 0]) > 0.6


def test_clip_and_controls_say_the_same(silent_clip: SampleInfo) -> None:
    tensors, header = read_controls(silent_clip)
    frames = decode(silent_clip.video)
    assert frames.shape == (100, 320, 320, 3)
    assert (silent_clip.frames, silent_clip.silent, silent_clip.text) == (100, True, "")
    assert all(len(tensor) == 100 for tensor in tensors.values())
    assert (header["fps"], header["size"], header["text"]) == (25, 320, "")
    assert {p.name for p in silent_clip.video.parent.iterdir()} == {
        "silent.mp4",
        "silent.controls.safetensors",
    }
    moved = tensors["expression"].amax(0) > 0.05
    names = [name for name, index in ARKIT_INDEX.items() if moved[index]]
    for name in ("jawOpen", "mouthSmileLeft", "eyeBlinkRight", "browInnerUp", "browOuterUpLeft"):
        assert name in names


def test_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    voice = speech_available()
    first, second = (
        make_sample(tmp_path / name / "a.mp4", seconds=1, size=128, voice=voice)
        for name in ("one", "two")
        if (tmp_path / name).mkdir() is None
    )
    assert first.video.read_bytes() == second.video.read_bytes()
    assert first.controls.read_bytes() == second.controls.read_bytes()


def test_without_the_speech_extra_the_clip_is_silent_and_says_so(tmp_path, monkeypatch) -> None:
    real_import = builtins.__import__

    def no_speech(name, *args, **kwargs):
        if name == "espeakng_loader":
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_speech)
    messages: list[str] = []
    info = make_sample(
        tmp_path / "a.mp4", seconds=1, size=128, report=lambda p: messages.append(p.message)
    )
    assert info.silent
    assert any("silent" in m and "headsplat[speech]" in m for m in messages)
    with av.open(str(info.video)) as container:
        assert not container.streams.audio
    with pytest.raises(InputError, match=r"headsplat\[speech\]"):
        synthesise(["Hello."])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("missing/a.mp4", {}, "does not exist"),
        ("a.avi", {}, r"\.mp4"),
        ("a.mp4", {"size": 131}, "size must be even"),
        ("a.mp4", {"size": 4096}, "size must be even"),
        ("a.mp4", {"seconds": 0.1}, "seconds must lie"),
        ("a.mp4", {"seconds": float("nan")}, "seconds must lie"),
        ("a.mp4", {"fps": 1}, "fps must lie"),
        ("folder.mp4", {}, "cannot be written"),
    ],
)
def test_what_cannot_be_made_is_refused(tmp_path: Path, name: str, options: dict, message: str):
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(InputError, match=message):
        make_sample(tmp_path / name, voice=False, **options)
    assert [p.name for p in tmp_path.iterdir()] == ["folder.mp4"]


def test_full_disk_is_an_input_error(tmp_path: Path, monkeypatch) -> None:
    def refuse(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("capture.sample._encode", refuse)
    with pytest.raises(InputError, match="No space left"):
        make_sample(tmp_path / "a.mp4", seconds=1, size=128, voice=False)
    assert list(tmp_path.iterdir()) == []


def test_motion_starts_calm_and_the_last_fifth_shows_nothing_new() -> None:
    motion = plan_motion(250, 25)
    np.testing.assert_allclose(motion.rotation[0], 0, atol=1e-6)
    np.testing.assert_allclose(motion.translation_m[0], 0, atol=1e-6)
    assert motion.blink[0] < 1e-6
    assert motion.jaw[0] < 1e-6
    np.testing.assert_allclose(motion.gaze[0], 0, atol=1e-3)
    # Every held-out pose lies within a frame's motion of one that was seen (a cycle is 100 frames).
    for name, tolerance in (
        ("rotation", 1e-9),
        ("smile", 1e-9),
        ("brow_inner", 1e-9),
        ("blink", 1e-9),
        ("gaze", 1e-9),
    ):
        values = getattr(motion, name)
        np.testing.assert_allclose(values[200:], values[100:150], atol=tolerance)
    test, seen = motion.rotation[200:], motion.rotation[:200]
    assert np.ptp(test[:, 1]) > 0.95 * np.ptp(seen[:, 1])  # it turns as far as before


def test_photo_pose_gives_back_the_photo() -> None:
    portrait = Portrait(256)
    rest = Pose({}, 0.0, np.eye(3), np.zeros(3), np.zeros((2, 2)), 0.0)
    import cv2

    photo = cv2.resize(portrait.texture, (256, 256), interpolation=cv2.INTER_AREA)
    difference = np.abs(portrait.draw(rest).astype(float) - photo).mean(-1)
    # Resampling blurs a little; the neck below the chin and the eyes are made anew.
    assert difference.mean() < 2.0
    face = difference[90:130, 90:160]
    assert np.median(face) < 3.0


def test_open_jaw_shows_a_dark_mouth_between_lips() -> None:
    portrait = Portrait(256)
    shapes = {"calm": 1.0, "seal": 1.0}
    still = (np.eye(3), np.zeros(3), np.zeros((2, 2)), 0.0)
    closed = portrait.draw(Pose(shapes, 0.0, *still)).astype(float).mean(-1)
    opened = portrait.draw(Pose(shapes, 1.0, *still)).astype(float).mean(-1)
    mouth = np.s_[130:165, 105:150]
    assert (opened[mouth] < 60).sum() > (closed[mouth] < 60).sum() + 40
    # Nothing above the upper lip moves with the jaw.
    np.testing.assert_allclose(opened[20:110], closed[20:110], atol=1.0)


@needs_speech
def test_clip_talks_for_its_whole_length(tmp_path: Path) -> None:
    info = make_sample(tmp_path / "a.mp4", seconds=2, size=128)
    assert info.text
    with av.open(str(info.video)) as container:
        sound = np.concatenate(
            [frame.to_ndarray()[0] for frame in container.decode(container.streams.audio[0])]
        )
    # AAC works in blocks of 1024 samples and pads the first and the last.
    assert len(sound) / 44100 == pytest.approx(2.0, abs=0.08)
    assert np.sqrt((sound**2).mean()) > 0.01


def test_jaw_opens_for_vowels_and_closes_for_m() -> None:
    rate = 16000
    tone = (0.25 * np.sin(2 * np.pi * 150 * np.arange(2 * rate) / rate)).astype(np.float32)
    phonemes = [
        TimedPhoneme(name, 0.5 * i, 0.5 * (i + 1)) for i, name in enumerate(("m", "ˈa", "m", "u"))
    ]
    speech = Speech(tone, rate, tuple(phonemes))
    jaw, pucker = follow_speech(speech, 60, 25)
    assert jaw[6] < 0.05
    assert jaw[18] > 0.7
    assert jaw[31] < 0.05
    assert pucker[44] > 0.4 > pucker[18]
    assert jaw[-3:].max() < 0.05  # silence after the sound
