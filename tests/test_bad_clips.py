"""Clips as people really make them: somebody walks in, the face is lost, a cut, dark glasses, a still."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import skimage.data
from skimage.data import astronaut
from test_ingest import write_clip

from avatar.capture_data import Landmarks
from avatar.checks import InputError
from capture.face_look import DARK_LENS, LENS, look_at, same_face
from capture.folder import (
    WORKING_SIDE,
    Pictures,
    fresh_folder,
    jpeg_options,
    working_size,
    write_image,
)
from capture.ingest import IngestConfig, probe
from capture.ingesting import make_frames, spells
from capture.landmarks import FaceDetector, box_of
from capture.scene import SceneWatch

SIZE = 320


def portrait(x: float = 0.0, y: float = 0.0, zoom: float = 1.2, size: int = SIZE) -> np.ndarray:
    """The astronaut's head and shoulders, moved by fractions of the picture and enlarged."""
    scale = size / 400 * zoom
    matrix = np.array([[scale, 0, 0], [0, scale, 0]], np.float32)
    matrix[:, 2] = (size * (0.5 + x) - 225 * scale, size * (0.42 + y) - 120 * scale)
    return cv2.warpAffine(
        astronaut(), matrix, (size, size), flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REFLECT
    )


def swaying(count: int, **place: float) -> list[np.ndarray]:
    """The astronaut's portrait, swaying as somebody who talks does."""
    return [
        portrait(0.03 * np.sin(k / 4), 0.02 * np.cos(k / 5), **place)  # type: ignore[arg-type]
        for k in range(count)
    ]


def bytes_of(levels: np.ndarray) -> np.ndarray:
    """Levels of any kind as a picture."""
    return np.clip(levels, 0, 255).astype(np.uint8)


@cache
def wall() -> np.ndarray:
    """A wall with some structure, no face."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(70, 150, (16, 16, 3), np.uint8)
    return cv2.resize(coarse, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)


@cache
def stranger(width: int, number: int = 0) -> np.ndarray:
    """A face of scikit-image's Labeled Faces in the Wild, ``width`` pixels a side."""
    faces = np.load(Path(skimage.data.__file__).with_name("lfw_subset.npy"))
    grey = cv2.resize(
        (255 * faces[number]).astype(np.uint8), (width, width), interpolation=cv2.INTER_CUBIC
    )
    return np.dstack([grey] * 3)


def with_stranger(picture: np.ndarray, x: int, y: int, width: int) -> np.ndarray:
    """The picture with a stranger's face at (x, y), cut off where it leaves the picture."""
    picture = picture.copy()
    face = stranger(width)
    x0, x1 = max(x, 0), min(x + width, picture.shape[1])
    if x1 > x0:
        picture[y : y + width, x0:x1] = face[:, x0 - x : x1 - x]
    return picture


def beside(picture: np.ndarray) -> np.ndarray:
    """The picture on the left, a wall on the right."""
    return np.hstack([picture, wall()])


def ingest(
    folder: Path, pictures: Iterable[np.ndarray], config: IngestConfig = IngestConfig(), **how: Any
) -> tuple[dict[str, Any], Landmarks]:
    """Encode a clip and run the ingest stage on it."""
    clip = probe(write_clip(folder / "clip.mp4", pictures, **how), config)
    values = make_frames(clip, folder, lambda _: None)
    return values, Landmarks.load(folder / "landmarks.safetensors")


def centres(landmarks: Landmarks) -> np.ndarray:
    """Middle of the face's points in x, [F]."""
    return landmarks.points[..., 0].mean(1).numpy()


# -- who is in the clip -----------------------------------------------------------------------


def test_a_face_lost_for_seconds_is_a_flag_and_a_sentence(tmp_path: Path) -> None:
    there = swaying(50)
    values, landmarks = ingest(tmp_path, [*there[:25], *[wall()] * 40, *there[25:]])
    valid = landmarks.valid.numpy()
    assert valid[:25].all()
    assert valid[67:].all(), "found again within two searches"
    assert not valid[25:65].any()
    lost = [w for w in values["warnings"] if "is lost from 1.0 to 2.6 s" in w]
    assert len(lost) == 1


@pytest.mark.parametrize("width", [110, 230])
def test_somebody_who_walks_in_is_not_followed(tmp_path: Path, width: int) -> None:
    pictures = []
    for k, picture in enumerate(swaying(70)):
        x = 2 * SIZE - 12 * max(0, k - 30)
        pictures.append(with_stranger(beside(picture), max(x, 2 * SIZE - 300), 40, width))
    values, landmarks = ingest(tmp_path, pictures)
    assert landmarks.valid.all()
    assert (centres(landmarks) < SIZE).all(), "the astronaut on the left, from first to last"
    assert 10 <= values["frames_with_others"] <= 40
    assert values["frames_of_others"] == []


def test_somebody_who_takes_the_place_is_left_out_and_told_of(tmp_path: Path) -> None:
    person, other = swaying(60), []
    for k in range(30):
        other.append(with_stranger(wall(), 80 + round(5 * np.sin(k / 4)), 60, 160))
    values, landmarks = ingest(tmp_path, [*person[:40], *other, *person[40:]])
    valid = landmarks.valid.numpy()
    assert valid[:40].all()
    assert not valid[40:70].any()
    assert valid[72:].all()
    assert set(values["frames_of_others"]) >= set(range(45, 70))
    assert any("only somebody else's face" in warning for warning in values["warnings"])
    assert not any("is lost" in warning for warning in values["warnings"])


def test_faces_are_told_apart_and_known_again() -> None:
    with FaceDetector(single=True) as detector:

        def look(picture: np.ndarray) -> Any:
            face = detector.detect(picture)
            assert face is not None
            found = look_at(picture, face)
            assert found is not None
            return found

        person = [look(portrait(0.02 * k, 0, 1.1 + 0.05 * k)) for k in range(-2, 3)]
        shade = np.linspace(0.45, 1.1, SIZE)[None, :, None]
        shaded = [look(bytes_of(portrait(0.02 * k) * shade)) for k in range(5)]
        assert same_face(person, shaded), "light from the side"
        assert same_face(person[:1], person[4:])
        for number in range(12):
            picture = np.full((SIZE, SIZE, 3), 90, np.uint8)
            picture[60:220, 80:240] = stranger(160, number)
            assert not same_face(person, [look(picture)])


# -- scenes -----------------------------------------------------------------------------------


def other_scene(count: int) -> list[np.ndarray]:
    """The same person, nearer and lit otherwise, before a dark background."""
    pictures = []
    rows, columns = np.mgrid[:SIZE, :SIZE] / SIZE
    near = ((columns - 0.5) / 0.4) ** 2 + ((rows - 0.45) / 0.5) ** 2 < 1
    for picture in swaying(count, zoom=1.7):
        pictures.append(np.where(near[..., None], picture * 0.8, 25).astype(np.uint8))
    return pictures


def test_a_cut_to_another_scene_with_the_same_face_is_used_and_told_of(tmp_path: Path) -> None:
    values, landmarks = ingest(tmp_path, [*swaying(35), *other_scene(25)])
    assert values["cuts"] == [35]
    assert landmarks.valid.numpy().mean() > 0.95
    assert any("is cut at 1.4 s" in warning for warning in values["warnings"])


def test_a_cut_to_another_face_in_the_same_place_is_left_out(tmp_path: Path) -> None:
    face = with_stranger(np.full((SIZE, SIZE, 3), 60, np.uint8), 90, 60, 140)
    moved = [np.roll(face, round(4 * np.sin(k / 3)), 1) for k in range(25)]
    values, landmarks = ingest(tmp_path, [*swaying(35), *moved])
    assert values["cuts"] == [35]
    assert landmarks.valid.tolist() == [True] * 35 + [False] * 25


def test_motion_light_and_repeated_frames_are_no_cut() -> None:
    watch = SceneWatch()
    for k in range(60):
        shaken = portrait(0.08 * np.sin(k / 3), 0.05 * np.cos(k / 2))
        bright = bytes_of(shaken * (1 + 0.2 * np.sin(k / 5)))
        watch.add(bright)
        watch.add(bright)
    assert watch.cuts == []


def test_real_clips_have_no_cut_and_one_person(data) -> None:
    for name in ("phone_selfie.mp4", "oracle_multi/cam3.mp4"):
        from capture.ingest import read_frames

        watch = SceneWatch()
        for image in read_frames(probe(data(name), IngestConfig(max_frames=120))):
            watch.add(image)
        assert watch.cuts == []
        assert watch.motion_levels > 50


# -- pictures that are no video of a face -----------------------------------------------------


@pytest.mark.parametrize("kind", ["exact", "compressed", "noise"])
def test_a_still_picture_as_a_video_is_refused_in_one_sentence(tmp_path: Path, kind: str) -> None:
    still = portrait()
    rng = np.random.default_rng(0)
    pictures = [still] * 60
    if kind == "noise":  # a photograph filmed from a tripod
        pictures = [bytes_of(still + rng.normal(0, 6, still.shape)) for _ in pictures]
    # Few bits and many key frames: the picture pulses as the coder starts over.
    options = {"crf": "34", "g": "10"} if kind == "compressed" else {"crf": "20"}
    with pytest.raises(InputError, match="shows one still picture") as caught:
        ingest(tmp_path, pictures, options=options)
    assert str(caught.value).endswith("speaks.")


def test_somebody_who_hardly_moves_is_not_a_still_picture(tmp_path: Path) -> None:
    pictures = [portrait(0.006 * np.sin(k / 6), 0.004 * np.sin(k / 9)) for k in range(60)]
    values, landmarks = ingest(tmp_path, pictures)
    assert landmarks.valid.all()
    assert values["warnings"] == []


# -- eyes -------------------------------------------------------------------------------------


def sunglasses(picture: np.ndarray, face: np.ndarray, transmission: float) -> np.ndarray:
    """Paint lenses that let a share of the light through, once in and once out."""
    worn = picture.astype(float)
    for outline in LENS:
        points = face[list(outline), :2]
        grown = (points - points.mean(0)) * 1.3 + points.mean(0)
        lens = np.zeros(picture.shape[:2], np.uint8)
        cv2.fillConvexPoly(lens, cv2.convexHull(np.round(grown).astype(np.int32)), (1,))
        worn[lens > 0] *= (transmission**2) ** (1 / 2.2)
    return bytes_of(worn)


def test_dark_glasses_are_told_of_and_bare_eyes_are_not(tmp_path: Path) -> None:
    pictures = swaying(50)
    with FaceDetector() as detector:
        faces = [detector.detect(picture) for picture in pictures]
    assert all(face is not None for face in faces)
    pairs = [
        (picture, face) for picture, face in zip(pictures, faces, strict=True) if face is not None
    ]
    for picture, face in pairs[::10]:
        bare, tinted = look_at(picture, face), look_at(sunglasses(picture, face, 0.8), face)
        assert bare is not None
        assert tinted is not None
        assert bare.lens_level > tinted.lens_level > DARK_LENS, "clear and lightly tinted glasses"
    values, landmarks = ingest(tmp_path, [sunglasses(p, f, 0.15) for p, f in pairs])
    assert landmarks.valid.float().mean() > 0.9
    assert [w for w in values["warnings"] if "Dark glasses" in w] == values["warnings"]
    assert len(values["warnings"]) == 1


# -- profile ----------------------------------------------------------------------------------


def test_a_head_turned_past_the_profile_is_lost_and_found_again(data, tmp_path: Path) -> None:
    """Camera 7 stands far to the side: the head is beyond 80 degrees in frames 16 to 24."""
    clip = probe(data("oracle_multi/cam7.mp4"), IngestConfig(max_frames=48))
    values = make_frames(clip, tmp_path, lambda _: None)
    valid = Landmarks.load(tmp_path / "landmarks.safetensors").valid.numpy()
    assert valid[:12].all()
    assert not valid[18:22].any()
    assert valid[30:].all(), "and is known to be the same person"
    assert values["frames_with_others"] == 0


# -- size and memory --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stored", "working"),
    [
        ((512, 512), (512, 512)),
        ((720, 1280), (720, 1280)),
        ((1920, 1080), (1280, 720)),
        ((2160, 3840), (720, 1280)),
        ((4096, 2160), (1280, 675)),
    ],
)
def test_the_working_size_keeps_the_shape(
    stored: tuple[int, int], working: tuple[int, int]
) -> None:
    assert working_size(*stored) == working


def test_any_working_size_has_one_scale() -> None:
    for width in range(1282, 4097, 62):
        for height in range(240, 4097, 182):
            w, h = working_size(width, height)
            assert 0.95 * WORKING_SIDE < max(w, h) <= WORKING_SIDE or (w, h) == (width, height)
            # The far edge of the shorter side is off by less than a third of a pixel.
            scale = max(w, h) / max(width, height)
            assert abs(scale * min(width, height) - min(w, h)) < 1 / 3


def test_large_frames_are_stored_in_full_and_looked_at_small(tmp_path: Path) -> None:
    person, pictures = portrait(size=640), []
    for k in range(40):
        picture = np.full((900, 1600, 3), 90, np.uint8)
        picture[100:740, 400 + 5 * k : 1040 + 5 * k] = person
        pictures.append(picture)
    values, landmarks = ingest(tmp_path, pictures, options={"preset": "ultrafast", "crf": "18"})
    assert (values["width"], values["height"]) == (1600, 900)
    assert landmarks.valid.all()
    for k in (0, 20, 39):
        box = box_of(landmarks.points[k].numpy())
        assert 400 + 5 * k < box[0] < box[2] < 1040 + 5 * k, "pixels of the stored frame"
        assert box[2] - box[0] > 160
    image, scale = Pictures(tmp_path, 1600, 900).working(20)
    assert image.shape == (720, 1280, 3)
    assert scale == 0.8
    with FaceDetector(single=True) as detector:
        again = detector.detect(image)
    assert again is not None
    moved = np.abs(again[:, :2] - scale * landmarks.points[20, :, :2].numpy()).mean()
    assert moved < 2, "the same points, in working pixels"


@pytest.mark.parametrize("size", [(2576, 1472), (1500, 4000), (640, 480)])
def test_working_pictures_are_the_stored_ones_made_smaller(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    width, height = size
    picture = cv2.resize(portrait(size=640), size, interpolation=cv2.INTER_CUBIC)
    for kind, suffix, image in (
        ("frames", "jpg", picture[..., ::-1]),
        ("masks", "png", picture[..., 0]),
    ):
        folder = fresh_folder(tmp_path / kind)
        options = jpeg_options(width, height) if suffix == "jpg" else []
        write_image(folder / f"000003.{suffix}", image, options)
    pictures = Pictures(tmp_path, width, height)
    image, scale = pictures.working(3)
    expected = cv2.resize(pictures.frame(3), pictures.working_size, interpolation=cv2.INTER_AREA)
    assert image.shape == expected.shape
    # Decoding at half the size filters a little otherwise than averaging the whole.
    assert np.abs(image.astype(float) - expected).mean() < 1
    assert pictures.working_mask(3).shape == image.shape[:2]
    assert scale == min(1, max(pictures.working_size) / max(size))
    (tmp_path / "frames/cam0/000003.jpg").unlink()
    with pytest.raises(InputError, match=r"000003\.jpg cannot be read"):
        pictures.working(3)


def test_memory_does_not_grow_with_pictures(tmp_path: Path) -> None:
    """At most 200 KiB a frame stay; a picture of these would be 300."""
    path = write_clip(tmp_path / "clip.mp4", swaying(160), options={"preset": "ultrafast"})
    peaks = []
    for frames in (60, 160):
        clip = probe(path, IngestConfig(max_frames=frames))
        tracemalloc.start()
        make_frames(clip, tmp_path / str(frames), lambda _: None)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 100 * 200 * 1024


def test_spells_are_runs_of_a_length() -> None:
    lost = np.zeros(100, bool)
    lost[:30] = lost[50:60] = lost[70:] = True
    assert spells(lost, 10.0, 2.0) == [(0.0, 3.0), (7.0, 10.0)]
    assert spells(np.zeros(5, bool), 10.0, 0.1) == []
