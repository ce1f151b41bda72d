"""Readers of other people's data sets: right on miniatures of each layout, one sentence on all else."""

from __future__ import annotations

import copy
import json
import math
import shutil
import zipfile
from pathlib import Path
from typing import Any

import data_set_folders as made
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from avatar.capture_data import Splits
from avatar.checks import InputError
from capture.datasets.reading import as_array, read_arrays, read_numbers
from capture.datasets.recognise import read_data_set, recognised


def change(path: Path, edit) -> None:
    value = json.loads(path.read_text())
    edit(value)
    path.write_text(json.dumps(value))


def refused(folder: Path, *words: str, layout=None, fps=None) -> str:
    with pytest.raises(InputError) as caught:
        read_data_set(folder, layout, fps)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message
    return message


@pytest.mark.parametrize("layout", made.MINIATURES)
def test_each_layout_is_recognised_and_may_be_forced(layout: str, tmp_path: Path) -> None:
    folder = made.MINIATURES[layout](tmp_path)
    assert recognised(folder) == layout
    assert read_data_set(folder).layout == layout
    forced = read_data_set(folder, layout, 50.0)  # type: ignore[arg-type]
    assert forced.fps == 50
    assert not any("frame rate" in note for note in forced.notes)
    for row in forced.shots:
        for shot in row:
            assert shot is None or shot.picture.is_file()


def test_nerfstudio_cameras_stand_where_the_convention_says(tmp_path: Path) -> None:
    found = read_data_set(made.nerfstudio(tmp_path, frames=4, cameras=3))
    assert len(found) == 4
    assert [camera.name for camera in found.cameras] == ["cam0", "cam1", "cam2"]
    for k, camera in enumerate(found.cameras):
        assert camera.T_cam_world is not None
        np.testing.assert_allclose(camera.T_cam_world, made.opencv(made.pose(0.3 * k)), atol=1e-12)
        # The origin lies before each camera, a little below its axis: y is down.
        x, y, z = (camera.T_cam_world @ [0, 0, 0, 1])[:3]
        assert abs(x) < 1e-9
        assert y == pytest.approx(0.02)
        assert z == pytest.approx(0.8)
        assert camera.lens is not None
        np.testing.assert_array_equal(camera.lens.K, [[40, 0, 8], [0, 40, 8], [0, 0, 1]])
        assert camera.lens.size == (16, 16)
    assert [shot.picture.name for shot in found.shots[2] if shot] == [
        "0_002.png",
        "1_002.png",
        "2_002.png",
    ]
    assert found.fps == 25
    assert "25 frames/s are assumed" in found.notes[0]
    assert not found.moving
    assert found.splits() == (Splits.default(4), "")


def test_a_camera_of_one_picture_a_time_moves(tmp_path: Path) -> None:
    folder = made.nerfstudio(tmp_path)

    def turn(value: dict[str, Any]) -> None:
        for k, frame in enumerate(value["frames"]):
            frame["transform_matrix"] = made.pose(0.1 * k)

    change(folder / "transforms.json", turn)
    found = read_data_set(folder)
    assert found.moving
    assert len(found.cameras) == 1
    for k in range(6):
        shot = found.shots[k][0]
        assert shot is not None
        np.testing.assert_allclose(shot.T_cam_world, made.opencv(made.pose(0.1 * k)), atol=1e-12)


def test_pictures_without_times_follow_their_names(tmp_path: Path) -> None:
    folder = made.nerfstudio(tmp_path, frames=12, cameras=2)

    def untimed(value: dict[str, Any]) -> None:
        for frame in value["frames"]:
            del frame["time"]
        value["frames"].reverse()

    change(folder / "transforms.json", untimed)
    found = read_data_set(folder)
    assert len(found) == 12
    assert [len(row) for row in found.shots] == [2] * 12
    names = [shot.picture.stem.split("_") for row in found.shots for shot in row if shot]
    assert [int(frame) for _, frame in names] == [f for f in range(12) for _ in range(2)]


def test_blenders_angles_suffixes_and_parts(tmp_path: Path) -> None:
    found = read_data_set(made.blender(tmp_path))
    assert len(found) == 8
    lens = found.cameras[0].lens
    assert lens is not None
    assert lens.K[0, 0] == pytest.approx(8 / math.tan(0.3))
    assert lens.K[1, 1] == lens.K[0, 0]
    assert found.splits() == (Splits((0, 6), (5, 6), (6, 8)), "")
    assert found.shots[6][0] is not None
    assert found.shots[6][0].picture.name == "r_006.png"


def test_nerfstudios_lists_of_names_are_the_split(tmp_path: Path) -> None:
    names = [f"images/0_{k:03d}.png" for k in range(6)]
    folder = made.nerfstudio(
        tmp_path, train_filenames=names[:3], val_filenames=names[3:4], test_filenames=names[4:]
    )
    assert read_data_set(folder).splits() == (Splits((0, 4), (3, 4), (4, 6)), "")
    change(
        folder / "transforms.json",
        lambda v: v.update(test_filenames=names[:1], train_filenames=names[1:]),
    )
    splits, note = read_data_set(folder).splits()
    assert splits == Splits.default(6)
    assert "not the last" in note


def test_a_vhap_export_has_cameras_masks_parameters_and_held_out_parts(tmp_path: Path) -> None:
    found = read_data_set(made.vhap(tmp_path, steps=8))
    assert [camera.name for camera in found.cameras] == ["22220000", "22220001"]
    assert found.held_cameras == ("22220001",)
    assert found.metric
    splits, note = found.splits()
    assert (splits.train, splits.test, note) == ((0, 6), (6, 8), "")
    assert all(shot is not None and shot.mask is not None for row in found.shots for shot in row)
    head = found.head
    assert head is not None
    assert head.valid.all()
    for step in range(8):
        truth = made.flame_values(step)
        for name in ("expr", "rotation", "neck_pose", "jaw_pose", "eyes_pose", "translation"):
            np.testing.assert_array_equal(getattr(head, name)[step], truth[name][0])
    np.testing.assert_array_equal(head.shape, truth["shape"])
    assert head.static_offset is not None
    assert head.static_offset.shape == (5143, 3)


def test_a_camera_that_dropped_a_frame_lacks_it(tmp_path: Path) -> None:
    folder = made.vhap(tmp_path, cameras=2)
    change(folder / "transforms_train.json", lambda v: v["frames"].pop(1))
    found = read_data_set(folder)
    assert len(found) == 6
    assert [row[0] is None for row in found.shots] == [False, True, False, False, False, False]


def test_insta_moves_the_camera_and_keeps_its_parameters(tmp_path: Path) -> None:
    found = read_data_set(made.insta(tmp_path))
    assert found.moving
    assert len(found.cameras) == 1
    splits, note = found.splits()
    assert (splits.train, splits.test, note) == ((0, 4), (4, 6), "")
    for k in range(6):
        shot = found.shots[k][0]
        assert shot is not None
        np.testing.assert_allclose(
            shot.T_cam_world, made.opencv(made.pose(0.05 * (k + 1))), atol=1e-12
        )
        assert shot.mask is not None
        assert shot.mask.parent.name == "matted"
    head = found.head
    assert head is not None
    assert head.expr.shape == (6, 100)
    np.testing.assert_allclose(head.expr[5], np.linspace(0, 0.6, 100), atol=1e-6)
    np.testing.assert_allclose(head.jaw_pose[:, 0], 0.1 * np.arange(1, 7), atol=1e-6)
    np.testing.assert_allclose(head.eyes_pose[3], [0.1, 0.2, 0.3, -0.1, -0.2, -0.3], atol=1e-6)


def test_imavatars_camera_draws_points_where_its_own_formula_does(tmp_path: Path) -> None:
    found = read_data_set(made.imavatar(tmp_path))
    splits, _ = found.splits()
    assert (splits.train, splits.test) == ((0, 4), (4, 8))
    point = np.array([0.03, 0.05, 0.02, 1.0])
    for k in range(8):
        shot = found.shots[k][0]
        assert shot is not None
        assert shot.lens is not None
        assert shot.mask is not None
        X, Y, Z = point[:3] + np.array([0.01, -0.02, -0.5 - 0.01 * (k % 4 + 1)])
        expected = [16 * (0.5 - 2.5 * X / Z), 16 * (0.5 + 2.5 * Y / Z)]
        x, y, z = (shot.T_cam_world @ point)[:3]
        K = shot.lens.K
        assert z > 0
        np.testing.assert_allclose([K[0, 0] * x / z + K[0, 2], K[1, 1] * y / z + K[1, 2]], expected)
        assert np.linalg.det(shot.T_cam_world[:3, :3]) == pytest.approx(1)
        assert K[0, 0] > 0
        assert K[1, 1] > 0
    head = found.head
    assert head is not None
    np.testing.assert_allclose(head.neck_pose[0], [0.3, 0.4, 0.5], atol=1e-6)
    np.testing.assert_allclose(head.eyes_pose[0], [0.9, 1.0, 1.1, 1.2, 1.3, 1.4], atol=1e-6)


def test_flashavatars_pictures_are_read_and_its_pickles_are_not(tmp_path: Path) -> None:
    found = read_data_set(made.flashavatar(tmp_path))
    assert len(found) == 4
    assert found.cameras[0].lens is None
    assert found.head is None
    assert any("pickles" in note for note in found.notes)
    only = tmp_path / "checkpoint"
    only.mkdir()
    (only / "00001.frame").write_bytes(b"\x80\x04")
    refused(only, "pickles", "imgs/")


@pytest.mark.parametrize(
    "where", ["../outside.png", "/etc/passwd", "images/../../outside.png", "a\\..\\..\\b.png"]
)
@pytest.mark.parametrize("key", ["file_path", "fg_mask_path", "flame_param_path"])
def test_paths_that_leave_the_folder_are_refused(where: str, key: str, tmp_path: Path) -> None:
    made.draw(tmp_path / "outside.png", 0)
    folder = made.vhap(tmp_path / "set")
    change(folder / "transforms_train.json", lambda v: v["frames"][2].update({key: where}))
    refused(folder, "transforms_train.json", f"frames[2].{key}", "stays within")


CASES = {
    "no frames": (lambda v: v.pop("frames"), ("frames is missing",)),
    "frames no list": (lambda v: v.update(frames={"a": 1}), ("frames", "list")),
    "a frame no object": (lambda v: v["frames"].insert(1, 7), ("frames[1] is 7",)),
    "no matrix": (lambda v: v["frames"][0].pop("transform_matrix"), ("frames[0].transform_matrix is missing",)),
    "a matrix of 3x3": (
        lambda v: v["frames"][0].update(transform_matrix=np.eye(3).tolist()),
        ("frames[0].transform_matrix", "3x3"),
    ),
    "NaN": (
        lambda v: v["frames"][1]["transform_matrix"][0].__setitem__(3, math.nan),
        ("frames[1].transform_matrix", "finite"),
    ),
    "a mirrored camera": (
        lambda v: v["frames"][0].update(transform_matrix=np.diag([-1.0, 1, 1, 1]).tolist()),
        ("mirrors",),
    ),
    "a sheared camera": (
        lambda v: v["frames"][0]["transform_matrix"][0].__setitem__(1, 0.5),
        ("shears",),
    ),
    "a fisheye": (lambda v: v.update(camera_model="OPENCV_FISHEYE"), ("OPENCV_FISHEYE", "undistort")),
    "no focal length": (lambda v: v.pop("fl_x"), ("camera_angle_x is missing",)),
    "a focal length of 1e400": (lambda v: v.update(fl_x=10**400), ("fl_x", "a huge number")),
    "a focal length in words": (lambda v: v.update(fl_x="long"), ("fl_x is 'long'",)),
    "a width of a million": (lambda v: v.update(w=1e6), ("w is 1000000.0",)),
    "a missing picture": (lambda v: v["frames"][3].update(file_path="images/no.png"), ("frames[3].file_path", "not there")),
    "an unknown format": (lambda v: v["frames"][3].update(file_path="images/x.exr"), (".png, .jpg",)),
    "a time in words": (lambda v: v["frames"][0].update(time="noon"), ("frames[0].time is 'noon'",)),
    "two pictures at once": (
        lambda v: [f.update(camera_index=0, time=0) for f in v["frames"]],
        ("one picture a camera and time",),
    ),
    "a rate of nothing": (lambda v: v.update(fps=0), ("fps is 0",)),
    "a split that is no list": (lambda v: v.update(test_filenames="all"), ("test_filenames",)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_is_wrong_is_named_by_file_and_key(case: str, tmp_path: Path) -> None:
    edit, words = CASES[case]
    folder = made.nerfstudio(tmp_path)
    change(folder / "transforms.json", edit)
    refused(folder, "transforms.json", *words)


def test_files_that_are_no_json(tmp_path: Path) -> None:
    folder = made.nerfstudio(tmp_path)
    whole = (folder / "transforms.json").read_bytes()
    for content in (
        b"",
        whole[: len(whole) // 2],
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b"[1, 2]",
        b'{"a": 1' + b"0" * 5000 + b"}",
    ):
        (folder / "transforms.json").write_bytes(content)
        refused(folder, "transforms.json")


def test_folders_that_are_no_data_set(tmp_path: Path) -> None:
    refused(tmp_path, "no data set whose layout is known")
    refused(tmp_path / "nothing", "no folder")
    made.nerfstudio(tmp_path)
    refused(tmp_path, "flame_params.json", layout="imavatar")
    refused(tmp_path, "--fps", fps=0.0)
    refused(tmp_path, "timestep_index", layout="vhap")


GARBAGE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(
        [
            10**400,
            -1,
            "",
            "../..",
            "/",
            "images",
            [[1]],
            [[], []],
            {},
            [None] * 4,
            "a\0b",
            "0\n",
            "\ud800",
        ]
    ),
    st.recursive(st.floats(), lambda inner: st.lists(inner, max_size=5), max_leaves=20),
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, tuple[Path, Path, dict[str, Any]]]:
    """Of each layout a folder, its main file, and what that says."""
    names = {"nerfstudio": "transforms.json", "vhap": "transforms_train.json", "insta": "transforms_train.json", "imavatar": "MVI_1/train/flame_params.json"}  # fmt: skip
    found = {}
    for layout, name in names.items():
        folder = made.MINIATURES[layout](tmp_path_factory.mktemp(layout))
        found[layout] = folder, folder / name, json.loads((folder / name).read_text())
    return found


@pytest.mark.parametrize("layout", ["nerfstudio", "vhap", "insta", "imavatar"])
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(pick=st.data())
def test_any_field_may_hold_anything(layout: str, folders, pick) -> None:
    folder, path, good = folders[layout]
    value = copy.deepcopy(good)
    frame = value["frames"][pick.draw(st.integers(0, len(value["frames"]) - 1))]
    target = pick.draw(st.sampled_from([value, frame]))
    key = pick.draw(st.sampled_from(sorted(target)))
    if pick.draw(st.booleans()):
        target[key] = pick.draw(GARBAGE)
    else:
        del target[key]
    path.write_text(json.dumps(value))
    try:
        found = read_data_set(folder, layout)  # type: ignore[arg-type]
    except InputError as error:
        assert folder.name in str(error)
        assert "\n" not in str(error)
    else:
        for row in found.shots:
            for shot in row:
                if shot is not None:
                    assert np.isfinite(shot.T_cam_world).all()
                    assert shot.lens is None or np.isfinite(shot.lens.K).all()
                    assert shot.picture.resolve().is_relative_to(folder.resolve())
        assert found.splits()[0].train[0] == 0
    finally:
        path.write_text(json.dumps(good))


def test_an_npz_with_a_pickle_is_refused_unread(tmp_path: Path) -> None:
    folder = made.vhap(tmp_path)
    path = folder / "flame_param" / "00002.npz"
    values: dict[str, Any] = dict(made.flame_values(2))
    values["expr"] = np.array([Trap()], object)
    np.savez(path, **values)
    refused(folder, "00002.npz", "'expr'", "pickled")


class Trap:
    """Unpickling it fails the test."""

    def __reduce__(self) -> Any:
        return pytest.fail, ("unpickled",)


def edited_npz(path: Path, **changes: np.ndarray | None) -> None:
    values = {**made.flame_values(1), **changes}
    np.savez(path, **{name: value for name, value in values.items() if value is not None})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"expr": None}, "'expr' is missing"),
        ({"jaw_pose": np.zeros((1, 4))}, "'jaw_pose' is [1, 4]"),
        ({"expr": np.zeros((2, 50))}, "'expr' is [2, 50]"),
        ({"translation": np.array([[0, np.nan, 0]])}, "NaN"),
        ({"rotation": np.array([["a", "b", "c"]])}, "'rotation' holds"),
        ({"eyes_pose": np.zeros((1, 6), complex)}, "'eyes_pose' holds"),
    ],
)
def test_parameters_that_are_wrong_are_named(tmp_path: Path, changes: dict, words: str) -> None:
    folder = made.vhap(tmp_path)
    edited_npz(folder / "flame_param" / "00001.npz", **changes)
    refused(folder, "00001.npz", words)


def test_an_npz_that_claims_a_huge_array_allocates_nothing(tmp_path: Path) -> None:
    path = tmp_path / "huge.npz"
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000, 1000000), }"
    text = header.ljust(117) + "\n"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(
            "expr.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()
        )
        archive.writestr("shape.npy", b"\0" * (17 << 20))  # a bomb: 17 MiB of nothing
    with pytest.raises(InputError, match="expr"):
        read_arrays(path, ["expr"])
    with pytest.raises(InputError, match="16 MiB"):
        read_arrays(path, ["shape"])


@settings(max_examples=200, deadline=None)
@given(pick=st.data())
def test_a_damaged_npz_is_read_or_refused(tmp_path_factory, pick) -> None:
    folder = tmp_path_factory.mktemp("npz")
    path = folder / "a.npz"
    np.savez(path, expr=np.arange(100.0), rotation=np.zeros((1, 3), np.float32))
    content = bytearray(path.read_bytes())
    for _ in range(pick.draw(st.integers(0, 4))):
        content[pick.draw(st.integers(0, len(content) - 1))] = pick.draw(st.integers(0, 255))
    path.write_bytes(content[: pick.draw(st.integers(0, len(content)))])
    try:
        found = read_arrays(path, ["expr", "rotation"])
    except InputError as error:
        assert "a.npz" in str(error)
    else:
        assert all(np.isfinite(array).all() for array in found.values())
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize("content", ["", "a b", "1 2 nan", "1e999", "\0"])
def test_texts_that_are_no_numbers(content: str, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(content)
    with pytest.raises(InputError, match=r"a\.txt"):
        read_numbers(path)


@given(
    st.recursive(
        st.one_of(st.floats(), st.integers(), st.none(), st.text(max_size=2)),
        lambda x: st.lists(x, max_size=4),
    )
)
def test_nested_lists_are_arrays_as_numpy_has_them_or_nothing(value: Any) -> None:
    array = as_array(value)
    if array is not None:
        assert np.isfinite(array).all()
        np.testing.assert_array_equal(array, np.array(value, float).reshape(array.shape))
