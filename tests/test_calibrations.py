"""Calibrations of other programs: read, matched to clips, scaled, straightened; damaged ones named."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from avatar.checks import InputError
from capture.calibration import KnownCameras, read_calibration, straightener
from capture.calibration_colmap import MODEL_PARAMETERS, read_colmap
from capture.calibration_json import read_transforms
from capture.calibration_opencv import read_storage
from capture.ingest import ClipInfo
from capture.known_camera import KnownCamera, bends, pinhole, pose

SIZE = (1280, 720)
FUZZ = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def rig(count: int = 3, seed: int = 0, bend: tuple[float, ...] = ()) -> list[KnownCamera]:
    """Cameras in an arc about a head."""
    rng = np.random.default_rng(seed)
    cameras = []
    for k in range(count):
        R = Rotation.from_euler("yxz", [-50 + 50 * k, 5 * k, 3], degrees=True).as_matrix()
        K = pinhole(1500 + 20 * k, 1490, 650.5 + k, 355.25)
        cameras.append(KnownCamera((f"cam{k}",), SIZE, K, pose(R, rng.normal(0, 1, 3)), bend))
    return cameras


def clip(name: str, width: int = 1280, height: int = 720, rotation: int = 0) -> ClipInfo:
    """A clip as ``probe`` would find it."""
    source = (height, width) if rotation % 180 else (width, height)
    return ClipInfo(
        path=Path(f"{name}.mp4"), codec="h264", pixel_format="yuv420p", source_width=source[0],
        source_height=source[1], source_fps=25, source_frames=100, duration_s=4, start_s=0,
        rotation=rotation, mirrored=False, hdr=False, variable_rate=False, interlaced=False,
        has_audio=False, width=width, height=height, fps=25, frames=100,
    )  # fmt: skip


def as_transforms(cameras: list[KnownCamera], **extra) -> bytes:
    """Independent writer: camera-to-world, OpenGL axes."""
    frames = []
    for camera in cameras:
        to_world = np.linalg.inv(camera.T_cam_world)
        to_world[:3, 1:3] *= -1
        k = dict(zip(("k1", "k2", "p1", "p2", "k3"), camera.distortion, strict=False))
        frames.append(
            {
                "file_path": f"images/{camera.names[0]}.png",
                "transform_matrix": to_world.tolist(),
                "fl_x": camera.K[0, 0], "fl_y": camera.K[1, 1],
                "cx": camera.K[0, 2], "cy": camera.K[1, 2], "w": SIZE[0], "h": SIZE[1], **k,
            }
        )  # fmt: skip
    return json.dumps({"camera_model": "OPENCV", "frames": frames, **extra}).encode()


def as_colmap(cameras: list[KnownCamera], binary: bool) -> dict[str, bytes]:
    """Independent writer of a model, each picture with two 2D points."""
    lenses, pictures = "# a comment\n", "# a comment\n"
    lens_bytes, picture_bytes = struct.pack("<Q", len(cameras)), struct.pack("<Q", len(cameras))
    for k, camera in enumerate(cameras, 1):
        numbers = [*camera.K[[0, 1, 0, 1], [0, 1, 2, 2]], *((camera.distortion or (0,) * 4)[:4])]
        x, y, z, w = Rotation.from_matrix(camera.T_cam_world[:3, :3]).as_quat()
        placed = [w, x, y, z, *camera.T_cam_world[:3, 3]]
        name = f"{camera.names[0]}.jpg"
        lenses += f"{k} OPENCV {SIZE[0]} {SIZE[1]} {' '.join(map(repr, map(float, numbers)))}\n"
        pictures += f"{k} {' '.join(map(repr, map(float, placed)))} {k} {name}\n1.5 2.5 -1 3 4 7\n"
        lens_bytes += struct.pack("<iiQQ8d", k, 4, *SIZE, *numbers)
        picture_bytes += struct.pack("<i7di", k, *placed, k) + name.encode() + b"\0"
        picture_bytes += struct.pack("<Qddqddq", 2, 1.5, 2.5, -1, 3, 4, 7)
    if binary:
        return {"cameras.bin": lens_bytes, "images.bin": picture_bytes}
    return {"cameras.txt": lenses.encode(), "images.txt": pictures.encode()}


def as_storage(cameras: list[KnownCamera], path: Path, layout: str) -> bytes:
    """Written by OpenCV itself."""
    storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_WRITE)
    centre = np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
    if layout == "list":
        storage.startWriteStruct("cameras", cv2.FileNode_SEQ)
    else:
        storage.write("image_width", SIZE[0])
        storage.write("image_height", SIZE[1])
        storage.startWriteStruct("names", cv2.FileNode_SEQ)
        for camera in cameras:
            storage.write("", camera.names[0])
        storage.endWriteStruct()
    for camera in cameras:
        R, t = camera.T_cam_world[:3, :3], camera.T_cam_world[:3, 3:]
        bend = np.array([camera.distortion or (0.0,) * 5])
        if layout == "list":
            storage.startWriteStruct("", cv2.FileNode_MAP)
            storage.write("name", camera.names[0])
            storage.write("camera_matrix", camera.K - centre)
            storage.write("distortion_coefficients", bend)
            storage.write("rvec", cv2.Rodrigues(R)[0])
            storage.write("tvec", t)
            storage.write("image_width", SIZE[0])
            storage.write("image_height", SIZE[1])
            storage.endWriteStruct()
        else:
            for key, value in (("K", camera.K - centre), ("dist", bend), ("Rot", R), ("T", t)):
                storage.write(f"{key}_{camera.names[0]}", value)
    if layout == "list":
        storage.endWriteStruct()
    storage.release()
    return path.read_bytes()


def same(found: list[KnownCamera], expected: list[KnownCamera]) -> None:
    assert [camera.names[0] for camera in found] == [camera.names[0] for camera in expected]
    for a, b in zip(found, expected, strict=True):
        assert a.size == b.size
        np.testing.assert_allclose(a.K, b.K, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(a.T_cam_world, b.T_cam_world, atol=1e-9)
        bend = np.zeros(8)
        bend[: len(a.distortion)] = a.distortion
        np.testing.assert_allclose(bend[: len(b.distortion)], b.distortion, atol=1e-12)


BEND = (-0.2, 0.05, 0.001, -0.002)


@pytest.mark.parametrize("bend", [(), BEND])
@pytest.mark.parametrize("kind", ["json", "txt", "bin", "list", "keyed.yml", "keyed.xml", "pair"])
def test_every_kind_gives_back_the_rig(tmp_path: Path, kind: str, bend: tuple[float, ...]) -> None:
    expected, path = rig(4, bend=bend), tmp_path
    if kind == "json":
        path = tmp_path / "transforms.json"
        path.write_bytes(as_transforms(expected))
    elif kind in ("txt", "bin"):
        folder = tmp_path / "sparse" / "0"
        folder.mkdir(parents=True)
        for name, content in as_colmap(expected, kind == "bin").items():
            (folder / name).write_bytes(content)
    elif kind == "pair":
        whole = as_storage(expected, tmp_path / "whole.yml", "keyed").decode().splitlines(True)
        starts = [k for k, line in enumerate(whole) if line[:2] in ("K_", "di", "Ro", "T_")] + [
            len(whole)
        ]
        head = "".join(whole[: starts[0]])
        blocks = ["".join(whole[a:b]) for a, b in itertools.pairwise(starts)]
        outer = [block for block in blocks if block[:2] in ("Ro", "T_")]
        (tmp_path / "intri.yml").write_text(head + "".join(b for b in blocks if b not in outer))
        (tmp_path / "extri.yml").write_text("%YAML:1.0\n---\n" + "".join(outer))
        (tmp_path / "whole.yml").unlink()
    else:
        path = tmp_path / ("rig." + (kind.split(".")[1] if "." in kind else "yaml"))
        as_storage(expected, path, kind.split(".")[0])
    known = read_calibration(path)
    same(list(known.cameras), expected)
    assert known.metres == (None if kind in ("txt", "bin") else 1.0)
    assert read_calibration(path, "mm").metres == 0.001
    assert read_calibration(path, "arbitrary").metres is None


def test_a_stereo_pair_is_read(tmp_path: Path) -> None:
    first, second = rig(2)
    storage = cv2.FileStorage(str(tmp_path / "s.yml"), cv2.FILE_STORAGE_WRITE)
    relative = second.T_cam_world @ np.linalg.inv(first.T_cam_world)
    for name, value in (
        ("M1", first.K), ("D1", np.zeros((1, 5))), ("M2", second.K), ("D2", np.zeros((1, 5))),
        ("R", relative[:3, :3]), ("T", relative[:3, 3:]),
    ):  # fmt: skip
        storage.write(name, value)
    storage.write("image_width", 1280)
    storage.write("image_height", 720)
    storage.release()
    one, two = read_calibration(tmp_path / "s.yml").cameras
    np.testing.assert_allclose(one.T_cam_world, np.eye(4))
    np.testing.assert_allclose(two.T_cam_world, relative, atol=1e-9)


def test_angles_of_both_sides_and_their_range(tmp_path: Path) -> None:
    path = tmp_path / "transforms.json"
    frame = {"file_path": "./a", "transform_matrix": np.eye(4).tolist()}
    stated = {"w": 800, "h": 600, "camera_angle_x": 0.8, "camera_angle_y": 0.65}
    path.write_text(json.dumps({**stated, "frames": [frame]}))
    (camera,) = read_calibration(path).cameras
    assert camera.K[0, 0] == pytest.approx(400 / math.tan(0.4))
    assert camera.K[1, 1] == pytest.approx(300 / math.tan(0.325))
    assert (camera.K[0, 2], camera.K[1, 2]) == (400, 300)
    path.write_text(json.dumps({**stated, "camera_angle_y": 3.2, "frames": [frame]}))
    with pytest.raises(InputError, match=r"camera_angle_y is 3\.2"):
        read_calibration(path)


def test_blenders_angle_takes_the_clips_size(tmp_path: Path) -> None:
    frames = [{"file_path": "./a", "transform_matrix": np.eye(4).tolist()}]
    path = tmp_path / "transforms.json"
    path.write_text(json.dumps({"camera_angle_x": 0.8, "frames": frames}))
    placed = read_calibration(path).placed([clip("a", 800, 800)])
    K = placed.calibration.K[0]
    assert K[0, 0] == pytest.approx(400 / math.tan(0.4))
    assert K[0, 2] == 400
    # A camera at the origin that looks along -z with y up is OpenCV's half turn about x.
    np.testing.assert_allclose(
        placed.calibration.T_cam_world[0].numpy(), np.diag([1.0, -1, -1, 1]), atol=1e-12
    )


def test_pictures_of_one_fixed_camera_are_one_camera() -> None:
    cameras = rig(2)
    value = json.loads(as_transforms(cameras))
    frames = [
        {**frame, "file_path": f"images/cam{k}/{number:05d}.png"}
        for k, frame in enumerate(value["frames"])
        for number in range(5)
    ]
    found = read_transforms(Path("t"), json.dumps({"frames": frames}).encode())
    assert [camera.names[0] for camera in found] == ["cam0", "cam1"]


def test_clips_find_their_cameras_by_name_in_any_order_or_all_by_order() -> None:
    known = KnownCameras("rig", tuple(rig(4)), 0.01)
    placed = known.placed([clip("cam2"), clip("cam0")])
    assert placed.calibration.names == ("cam2", "cam0")
    assert placed.calibration.metric
    assert not placed.notes
    np.testing.assert_allclose(
        placed.calibration.T_cam_world[0, :3, 3].numpy(), 0.01 * rig(4)[2].T_cam_world[:3, 3]
    )
    placed = known.placed([clip(name) for name in "wxyz"])
    assert placed.calibration.names == ("cam0", "cam1", "cam2", "cam3")
    assert "w is cam0" in placed.notes[0]
    with pytest.raises(InputError, match=r"has 4 cameras .* none called like one of the 2 clips"):
        known.placed([clip("left"), clip("right")])
    with pytest.raises(InputError, match="has no camera called 'left'"):
        known.placed([clip("cam0"), clip("left")])


def test_another_resolution_is_scaled_and_another_aspect_refused() -> None:
    known = KnownCameras("rig", tuple(rig(2)), 1.0)
    placed = known.placed([clip("cam0", 640, 360), clip("cam1")])
    np.testing.assert_allclose(placed.calibration.K[0, :2].numpy(), rig(2)[0].K[:2] / 2)
    np.testing.assert_allclose(placed.calibration.K[1].numpy(), rig(2)[1].K)
    assert len(placed.notes) == 1
    assert "1280x720 pixels, its clip has 640x360" in placed.notes[0]
    with pytest.raises(InputError, match=r"cam1\.mp4 has another aspect \(640x480\)"):
        known.placed([clip("cam0"), clip("cam1", 640, 480)])
    with pytest.raises(InputError, match="has another aspect"):
        known.placed([clip("cam0"), clip("cam1", 720, 1280, rotation=90)])


def test_a_distorted_picture_is_straightened() -> None:
    (camera,) = rig(1, bend=(-0.25, 0.05, 0.001, 0.0))
    assert bends(camera)
    assert not bends(rig(1, bend=(1e-9, 0, 0, 0))[0])
    rays = np.array([[x, y, 1.0] for x in (-0.3, 0.0, 0.3) for y in (-0.15, 0.0, 0.15)])
    own = camera.K - np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
    bent, _ = cv2.projectPoints(rays, np.zeros(3), np.zeros(3), own, np.array(camera.distortion))
    picture = np.zeros((720, 1280), np.float32)
    for x, y in bent[:, 0]:
        cv2.circle(picture, (round(x * 16), round(y * 16)), 80, (255.0,), -1, cv2.LINE_AA, 4)
    straight = straightener(camera.K, camera.distortion, SIZE)(picture)
    for x, y, _ in rays:
        place = own @ [x, y, 1]
        patch = straight[
            int(place[1]) - 9 : int(place[1]) + 10, int(place[0]) - 9 : int(place[0]) + 10
        ]
        rows, columns = np.mgrid[:19, :19]
        middle = np.array([(patch * columns).sum(), (patch * rows).sum()]) / patch.sum()
        expected = place[:2] - place[:2].astype(int) + 9
        assert np.abs(middle - expected).max() < 0.4
    moved = np.abs(bent[:, 0] - (rays @ own.T)[:, :2]).max()
    assert moved > 5, "the lens bent it visibly"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda T: T @ np.diag([-1.0, 1, 1, 1]), "is mirrored"),
        (lambda T: T @ np.diag([1.1, 1, 1, 1]), "not a rotation"),
        (lambda T: T + np.eye(4, k=-3), "bottom row"),
        (lambda T: T * np.array([[1, 1, 1, 1e9]] * 3 + [[1.0] * 4]), "units away"),
    ],
)
def test_poses_that_no_camera_has_are_refused(change, message: str) -> None:
    (camera,) = rig(1)
    damaged = KnownCamera(camera.names, SIZE, camera.K, change(camera.T_cam_world))
    with pytest.raises(InputError, match=message):
        read_transforms(Path("transforms.json"), as_transforms([damaged]))


@pytest.mark.parametrize("model", ["OPENCV_FISHEYE", "FOV", "THIN_PRISM_FISHEYE"])
def test_lenses_that_are_not_known_are_refused_by_name(model: str) -> None:
    numbers = " ".join(["500", "500", "320", "240", *["0.1"] * 8][: MODEL_PARAMETERS[model]])
    files = {
        "cameras.txt": f"1 {model} 640 480 {numbers}\n".encode(),
        "images.txt": b"1 1 0 0 0 0 0 1 1 cam0.jpg\n\n",
    }
    with pytest.raises(InputError, match=f"camera model {model} is not known"):
        read_colmap("sparse", files)
    with pytest.raises(InputError, match="camera model EQUIRECTANGULAR"):
        read_transforms(Path("t"), json.dumps(
            {"camera_model": "EQUIRECTANGULAR", "frames": [{"transform_matrix": np.eye(4).tolist()}]}
        ).encode())  # fmt: skip
    with pytest.raises(InputError, match=r"k4 = 0\.1"):
        read_transforms(Path("t"), as_transforms(rig(1)).replace(b'"fl_x"', b'"k4": 0.1, "fl_x"'))


def test_simple_colmap_lenses_become_pinholes() -> None:
    files = {
        "cameras.txt": b"1 SIMPLE_RADIAL 640 480 500 320 240 -0.1\n2 SIMPLE_PINHOLE 640 480 510 320 240\n",
        "images.txt": b"1 1 0 0 0 0 0 1 1 left/0001.jpg\n\n2 2 0 0 0 1 0 1 2 right/0001.jpg\n\n",
    }
    left, right = read_colmap("sparse", files)
    assert (left.names[0], right.names[0]) == ("left", "right")
    assert left.distortion == (-0.1, 0, 0, 0)
    assert right.distortion == ()
    np.testing.assert_allclose(right.K, pinhole(510, 510, 320, 240))
    np.testing.assert_allclose(right.T_cam_world, pose(np.eye(3), np.array([1.0, 0, 1])))


def test_what_is_no_calibration_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    for path in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(InputError, match="is no calibration that is known"):
            read_calibration(path)
    with pytest.raises(InputError, match="does not exist"):
        read_calibration(tmp_path / "gone.json")
    with pytest.raises(InputError, match="--calibration-unit must be one of"):
        read_calibration(tmp_path, "inch")
    huge = tmp_path / "huge.yml"
    huge.write_text(
        "%YAML:1.0\n---\nK_a: !!opencv-matrix\n  rows: 900000\n  cols: 900000\n  dt: d\n  data: [1]\n"
    )
    with pytest.raises(InputError, match="a matrix whose rows are 900000"):
        read_calibration(huge)


def read_any(kind: str, content: bytes) -> list[KnownCamera]:
    """Read one file's content; the other file of a model is sound."""
    if kind == "json":
        return read_transforms(Path("t.json"), content)
    if kind == "yml":
        return read_storage("rig.yml", [content])
    name = kind.split("/")[1]
    return read_colmap("sparse", {**as_colmap(rig(2), name.endswith("bin")), name: content})


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    path = tmp_path_factory.mktemp("sound") / "rig.yml"
    models = {**as_colmap(rig(2), False), **as_colmap(rig(2), True)}
    return {
        "json": as_transforms(rig(2)),
        "yml": as_storage(rig(2), path, "keyed"),
        **{f"colmap/{name}": content for name, content in models.items()},
    }


KINDS = [
    "json", "yml", "colmap/cameras.txt", "colmap/images.txt", "colmap/cameras.bin", "colmap/images.bin",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@FUZZ
@given(data=st.data())
def test_damaged_files_are_refused_in_a_sentence_or_read(
    sound: dict[str, bytes], kind: str, data: st.DataObject
) -> None:
    content = bytearray(sound[kind])
    way = data.draw(st.sampled_from(["cut", "flip", "insert", "number"]))
    place = data.draw(st.integers(0, len(content) - 1))
    if way == "cut":
        content = content[:place]
    elif way == "flip":
        content[place] = data.draw(st.integers(0, 255))
    elif way == "insert":
        content[place:place] = data.draw(st.binary(min_size=1, max_size=12))
    else:
        word = data.draw(
            st.sampled_from([b"nan", b"-1", b"1e400", b"[]", b"null", b'"x"', b"99999999999"])
        )
        digits = [k for k, byte in enumerate(content) if 48 <= byte <= 57]
        at = digits[place % len(digits)]
        content[at : at + 1] = word
    try:
        cameras = read_any(kind, bytes(content))
    except InputError as error:
        assert len(str(error)) < 700
        return
    for camera in cameras:
        assert np.isfinite(camera.K).all()
        assert np.linalg.det(camera.T_cam_world[:3, :3]) > 0.9


@pytest.mark.parametrize("kind", KINDS)
@FUZZ
@given(content=st.binary(max_size=400))
def test_noise_is_refused(kind: str, content: bytes) -> None:
    try:
        cameras = read_any(kind, content)
    except InputError:
        return
    assert not cameras or kind.startswith("colmap"), "noise has no cameras"


@FUZZ
@given(
    value=st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5) | st.integers(),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(
                    ["frames", "transform_matrix", "fl_x", "w", "h", "camera_angle_x", "cx"]
                ),
                inner,
                max_size=5,
            )
        ),
        max_leaves=20,
    )
)
def test_json_of_any_shape_is_refused_or_read(value) -> None:
    with contextlib.suppress(InputError):
        read_transforms(Path("t.json"), json.dumps(value).encode())
