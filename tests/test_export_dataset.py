"""Captures as data sets: an independent reader finds the face where the tracker saw it; our own reads it back."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from avatar.capture_data import Capture, Splits
from avatar.checks import InputError
from avatar.cli_common import UsageError
from avatar.cli_export import export
from avatar.export.capture_dataset import (
    DatasetOptions,
    export_nerfstudio,
    export_vhap_like,
)
from avatar.flame_data import FlameTrack
from avatar.types import Progress
from capture.datasets.recognise import read_data_set

# --- an independent reader: numpy and the documented conventions alone ------------------------------------


def seen_by(entry: dict, top: dict, points: np.ndarray) -> np.ndarray:
    """Pixels [n, 2] of world points [n, 3], by nerfstudio's documentation: -z forward, +y up, c at w / 2."""
    value = {**top, **entry}
    matrix = np.array(value["transform_matrix"])
    right, up, back, eye = (matrix[:3, k] for k in range(4))
    away = points - eye
    depth = -(away @ back)
    assert (depth > 0).all()
    u = value["cx"] + value["fl_x"] * (away @ right) / depth
    v = value["cy"] - value["fl_y"] * (away @ up) / depth
    return np.stack([u, v], 1)


def read_ply(path: Path) -> tuple[np.ndarray, np.ndarray]:
    head, _, body = path.read_bytes().partition(b"end_header\n")
    lines = head.decode().splitlines()
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    names = [line.split()[1:] for line in lines if line.startswith("property")]
    table = np.frombuffer(body, [(n, {"float": "<f4", "uchar": "u1"}[kind]) for kind, n in names])
    assert f"element vertex {len(table)}" in lines
    return (
        np.stack([table[k] for k in "xyz"], 1),
        np.stack([table[k] for k in ("red", "green", "blue")], 1),
    )


def face(capture: Capture, frame: int, *, in_world: bool) -> np.ndarray:
    """The tracked lattice of a frame, deformed, in the head's frame or the world."""
    track = capture.track
    points = track.lattice + torch.einsum("e,epc->pc", track.expression[frame], track.basis)
    if in_world:
        T = track.T_world_head[frame]
        points = points @ T[:3, :3].T + T[:3, 3]
    return points.double().numpy()


def expected_pixels(capture: Capture, frame: int, camera: int = 0) -> np.ndarray:
    """Where the track itself says the lattice falls (OpenCV axes)."""
    track = capture.track
    T = track.T_cam_world[camera].double().numpy()
    q = face(capture, frame, in_world=True) @ T[:3, :3].T + T[:3, 3]
    K = track.K[camera].double().numpy()
    return q[:, :2] / q[:, 2:] * K[[0, 1], [0, 1]] + K[:2, 2]


def two_cameras(source: Capture, folder: Path) -> Capture:
    """The capture with a second camera of the same pictures, moved aside, that lacks frames 3 and 4."""
    shutil.copytree(source.path, folder)
    for kind in ("frames", "masks"):
        shutil.copytree(folder / kind / "cam0", folder / kind / "cam1")
        for frame in (3, 4):
            next((folder / kind / "cam1").glob(f"{frame:06d}.*")).unlink()
    header = json.loads((folder / "capture.json").read_text())
    header["cameras"].append({**header["cameras"][0], "missing": [[3, 5]], "gain": [1.1, 1.0, 0.9]})
    (folder / "capture.json").write_text(json.dumps(header))
    track = source.track
    T = track.T_cam_world.repeat(2, 1, 1)
    T[1, 0, 3] += 0.05
    K = track.K.repeat(2, 1, 1)
    K[1, :2, :2] *= 1.1
    replace(track, K=K, T_cam_world=T).save(folder / "track.safetensors")
    return Capture(folder)


@pytest.fixture(scope="module")
def fixed(small_capture: Capture, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "fixed"
    done = export_nerfstudio(small_capture, folder)
    assert done.head_fixed
    assert done.pictures == int(small_capture.track.valid.sum())
    return folder


def test_an_independent_reader_finds_the_face_with_the_head_fixed(
    small_capture: Capture, fixed: Path
) -> None:
    top = json.loads((fixed / "transforms.json").read_text())
    assert top["camera_model"] == "PINHOLE"
    assert len(top["frames"]) == int(small_capture.track.valid.sum())
    errors = []
    for entry in top["frames"]:
        frame = int(Path(entry["file_path"]).stem)
        pixels = seen_by(entry, top, face(small_capture, frame, in_world=False))
        assert np.abs(pixels - expected_pixels(small_capture, frame)).max() < 0.01
        seen = small_capture.track.landmarks_px[frame].numpy()
        errors.append(np.median(np.linalg.norm(pixels[:468] - seen[:468], axis=1)))
        matrix = np.array(entry["transform_matrix"])
        assert np.linalg.det(matrix[:3, :3]) == pytest.approx(1, abs=1e-5)
    # What the detector saw, of a face of about 100 pixels.
    assert np.median(errors) < 1.5


def test_the_parts_are_the_captures_split_and_do_not_overlap(
    small_capture: Capture, fixed: Path
) -> None:
    top = json.loads((fixed / "transforms.json").read_text())
    named = {part: set(top[f"{part}_filenames"]) for part in ("train", "val", "test")}
    assert set.union(*named.values()) == {entry["file_path"] for entry in top["frames"]}
    assert sum(map(len, named.values())) == len(top["frames"])
    splits = small_capture.splits
    for part, (a, b) in (("test", splits.test), ("val", splits.validation)):
        assert {int(Path(name).stem) for name in named[part]} <= set(range(a, b))
        assert named[part]


def test_masks_are_black_where_the_person_is_not(small_capture: Capture, fixed: Path) -> None:
    top = json.loads((fixed / "transforms.json").read_text())
    for entry in top["frames"][::10]:
        frame = int(Path(entry["file_path"]).stem)
        mask = cv2.imread(str(fixed / entry["mask_path"]), cv2.IMREAD_UNCHANGED)
        assert set(np.unique(mask)) == {0, 255}
        np.testing.assert_array_equal(mask > 0, small_capture.mask(frame) >= 128)
        nose = small_capture.track.landmarks_px[frame, 1].int().tolist()
        assert mask[nose[1], nose[0]] == 255
        assert mask[0, 0] == 0
        picture = cv2.cvtColor(cv2.imread(str(fixed / entry["file_path"])), cv2.COLOR_BGR2RGB)
        np.testing.assert_array_equal(picture, small_capture.frame(frame))


def test_the_points_lie_on_the_head_and_have_its_colours(
    small_capture: Capture, fixed: Path
) -> None:
    points, colours = read_ply(fixed / "points.ply")
    np.testing.assert_allclose(points[:478], small_capture.track.lattice.numpy(), atol=1e-6)
    assert len(points) > 8000
    assert np.abs(points).max() < 0.4
    # Skull and hair lie behind the face.
    assert points[:, 2].min() < small_capture.track.lattice[:, 2].min() - 0.02
    # A cheek is skin: redder than blue.
    assert colours[50, 0] > colours[50, 2] + 10


def test_our_reader_reads_it_back(small_capture: Capture, fixed: Path, tmp_path: Path) -> None:
    track = small_capture.track
    kept = torch.nonzero(track.valid)[:, 0].tolist()
    found = read_data_set(fixed)
    assert (found.layout, found.metric, found.fps) == ("nerfstudio", True, small_capture.fps)
    assert len(found) == len(kept)
    lens = found.cameras[0].lens
    assert lens is not None
    np.testing.assert_allclose(lens.K, track.K[0].numpy(), rtol=1e-6)
    for row, frame in zip(found.shots, kept, strict=True):
        assert row[0] is not None
        T = track.T_cam_world[0].double() @ track.T_world_head[frame].double()
        np.testing.assert_allclose(row[0].T_cam_world, T.numpy(), atol=1e-6)
        assert row[0].mask is not None
    if len(kept) == small_capture.frames:
        assert found.splits() == (small_capture.splits, "")
    in_world = tmp_path / "world"
    assert not export_nerfstudio(
        small_capture, in_world, DatasetOptions(head_fixed=False)
    ).head_fixed
    found = read_data_set(in_world)
    T_cam_world = found.cameras[0].T_cam_world
    assert T_cam_world is not None
    np.testing.assert_allclose(T_cam_world, track.T_cam_world[0].numpy(), atol=1e-6)
    assert found.splits() == (small_capture.splits, "")


def test_several_cameras_keep_their_own_intrinsics_colours_and_gaps(
    small_capture: Capture, tmp_path: Path
) -> None:
    both = two_cameras(small_capture, tmp_path / "both.capture")
    folder = tmp_path / "out"
    done = export_nerfstudio(both, folder)
    assert (done.cameras, done.head_fixed) == (2, False)
    assert done.pictures == 2 * both.frames - 2
    top = json.loads((folder / "transforms.json").read_text())
    assert "fl_x" not in top
    for entry in top["frames"]:
        frame, camera = entry["timestep_index"], entry["camera_index"]
        if not both.track.valid[frame]:
            continue
        pixels = seen_by(entry, top, face(both, frame, in_world=True))
        assert np.abs(pixels - expected_pixels(both, frame, camera)).max() < 0.01
    other = next(e for e in top["frames"] if e["camera_index"] == 1)
    picture = cv2.cvtColor(cv2.imread(str(folder / other["file_path"])), cv2.COLOR_BGR2RGB)
    matched = both.frame(other["timestep_index"], 1).astype(float)
    assert np.abs(picture - matched).mean() < 1.5
    assert np.abs(small_capture.frame(other["timestep_index"]) - matched).mean() > 4
    found = read_data_set(folder)
    assert [camera.name for camera in found.cameras] == ["cam0", "cam1"]
    assert [f for f, row in enumerate(found.shots) if row[1] is None] == [3, 4]
    for k, camera in enumerate(found.cameras):
        assert camera.T_cam_world is not None
        np.testing.assert_allclose(camera.T_cam_world, both.track.T_cam_world[k], atol=1e-6)


def test_without_flame_the_parameters_are_named_after_the_lattice(
    small_capture: Capture, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    done = export_vhap_like(small_capture, folder, DatasetOptions(link=True))
    assert not done.flame
    assert not (folder / "flame_param").exists()
    assert "NOT FLAME" in (folder / "README.txt").read_text()
    track = small_capture.track
    whole = json.loads((folder / "transforms.json").read_text())["frames"]
    rest = np.load(folder / "canonical_lattice_param.npz")
    assert rest["expression_names"].tolist() == list(track.expression_names)
    for entry in whole[::7]:
        frame = entry["timestep_index"]
        values = np.load(folder / entry["lattice_param_path"])
        np.testing.assert_array_equal(values["expression"], track.expression[frame])
        points = rest["lattice"] + np.einsum("e,epc->pc", values["expression"], rest["basis"])
        T = values["T_world_head"]
        pixels = seen_by(entry, {}, points @ T[:3, :3].T + T[:3, 3])
        assert np.abs(pixels - expected_pixels(small_capture, frame)).max() < 0.05
        assert (folder / entry["file_path"]).is_symlink()
        assert (folder / entry["fg_mask_path"]).is_file()
    parts = {
        part: json.loads((folder / f"transforms_{part}.json").read_text())["frames"]
        for part in ("train", "val", "test")
    }
    assert sum(map(len, parts.values())) == len(whole)
    found = read_data_set(folder)
    assert found.layout == "vhap"
    assert found.head is None
    if bool(track.valid.all()):
        assert found.splits() == (small_capture.splits, "")


def test_flame_comes_out_as_it_went_in(small_capture: Capture, tmp_path: Path) -> None:
    copied = tmp_path / "me.capture"
    shutil.copytree(small_capture.path, copied)
    frames = small_capture.frames
    generator = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    valid = torch.ones(frames, dtype=torch.bool)
    valid[:2] = False
    T = torch.eye(4).repeat(frames, 1, 1, 1)
    T[:, :, 2, 3] = 1 + 0.01 * torch.arange(frames)[:, None]
    flame = FlameTrack(
        shape=normal(300),
        expr=normal(frames, 100),
        rotation=normal(frames, 3),
        neck_pose=normal(frames, 3),
        jaw_pose=normal(frames, 3),
        eyes_pose=normal(frames, 6),
        translation=normal(frames, 3),
        valid=valid,
        K=small_capture.track.K,
        T_cam_flame=T,
        static_offset=normal(7, 3),
    )
    flame.save(copied / "flame.safetensors")
    folder = tmp_path / "out"
    assert export_vhap_like(Capture(copied), folder).flame
    found = read_data_set(folder)
    head = found.head
    assert head is not None
    kept = [f for f in range(frames) if valid[f] and small_capture.track.valid[f]]
    assert len(found) == len(kept)
    for name in ("expr", "rotation", "neck_pose", "jaw_pose", "eyes_pose", "translation"):
        np.testing.assert_array_equal(getattr(head, name), getattr(flame, name)[kept].numpy())
    np.testing.assert_array_equal(head.shape, flame.shape.numpy())
    assert head.static_offset is not None
    np.testing.assert_array_equal(head.static_offset, flame.static_offset)
    for row, frame in zip(found.shots, kept, strict=True):
        assert row[0] is not None
        np.testing.assert_allclose(row[0].T_cam_world, T[frame, 0].numpy(), atol=1e-6)
    (copied / "flame.safetensors").write_bytes(b"no tensors")
    with pytest.raises(InputError, match=r"flame\.safetensors"):
        export_vhap_like(Capture(copied), tmp_path / "again")
    replace(flame, expr=flame.expr[:-1]).save(copied / "flame.safetensors")
    with pytest.raises(InputError, match=r"T_cam_flame|rotation"):
        export_vhap_like(Capture(copied), tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_the_person_on_a_colour_or_on_nothing_has_no_mask(
    small_capture: Capture, tmp_path: Path
) -> None:
    options = DatasetOptions(background="transparent", frames=3)
    export_nerfstudio(small_capture, tmp_path / "cut", options)
    entry = json.loads((tmp_path / "cut" / "transforms.json").read_text())["frames"][0]
    assert "mask_path" not in entry
    picture = cv2.imread(str(tmp_path / "cut" / entry["file_path"]), cv2.IMREAD_UNCHANGED)
    frame = int(Path(entry["file_path"]).stem)
    np.testing.assert_array_equal(picture[..., 3], small_capture.mask(frame))
    export_nerfstudio(
        small_capture, tmp_path / "green", replace(options, background=(0.0, 1.0, 0.0))
    )
    picture = cv2.imread(str(tmp_path / "green" / entry["file_path"].replace(".png", ".jpg")))
    np.testing.assert_allclose(picture[2, 2], (0, 255, 0), atol=6)


def test_a_folder_is_whole_or_not_there_and_others_are_left_alone(
    small_capture: Capture, tmp_path: Path
) -> None:
    folder = tmp_path / "out"

    def stop(progress: Progress) -> None:
        if progress.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_nerfstudio(small_capture, folder, report=stop)
    assert list(tmp_path.iterdir()) == []
    few = DatasetOptions(frames=2)
    export_nerfstudio(small_capture, folder, few)
    with pytest.raises(InputError, match="--overwrite"):
        export_nerfstudio(small_capture, folder, few)
    with pytest.raises(KeyboardInterrupt):
        export_nerfstudio(small_capture, folder, DatasetOptions(overwrite=True), stop)
    before = json.loads((folder / "transforms.json").read_text())
    assert len(before["frames"]) == 2
    export_vhap_like(small_capture, folder, DatasetOptions(frames=3, overwrite=True))
    assert (folder / "lattice_param").is_dir()
    theirs = tmp_path / "theirs"
    (theirs / "images").mkdir(parents=True)
    (theirs / "transforms.json").write_text('{"frames": []}')
    with pytest.raises(InputError, match="would delete"):
        export_nerfstudio(small_capture, theirs, DatasetOptions(overwrite=True))
    assert (theirs / "images").is_dir()


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "avatar.cli", "export", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_command_writes_them_and_refuses_what_they_have_no_use_for(
    small_capture: Capture, tmp_path: Path
) -> None:
    done = run(small_capture.path, "--format", "nerfstudio", "-o", tmp_path / "a", "--frames", 2)
    assert done.returncode == 0, done.stderr
    assert "the head is the world" in " ".join((done.stdout + done.stderr).split())
    assert len(json.loads((tmp_path / "a" / "transforms.json").read_text())["frames"]) == 2
    refusals = (
        ({"format": "vhap-like", "head_fixed": True}, "--head-fixed"),
        ({"format": "vhap-like", "background": "white"}, "--background"),
        ({"format": "nerfstudio", "link": True, "background": "white"}, "--link"),
        ({"format": "nerfstudio", "expression": "jawOpen=1"}, "--expression"),
        ({"format": "ply"}, "--format nerfstudio"),
    )
    for options, words in refusals:
        with pytest.raises(InputError, match=words):
            export(small_capture.path, tmp_path / "b", **options)
        assert not (tmp_path / "b").exists()
    with pytest.raises(InputError, match="no capture"):
        export(tmp_path / "a", tmp_path / "b", format="nerfstudio")
    with pytest.raises(UsageError, match="contradict"):
        export(
            small_capture.path,
            tmp_path / "b",
            format="nerfstudio",
            head_fixed=True,
            cameras_fixed=True,
        )


def test_nerfstudio_itself_reads_it(small_capture: Capture, fixed: Path) -> None:
    parser = pytest.importorskip(
        "nerfstudio.data.dataparsers.nerfstudio_dataparser", reason="needs nerfstudio installed"
    )
    config = parser.NerfstudioDataParserConfig(
        data=fixed,
        orientation_method="none",
        center_method="none",
        auto_scale_poses=False,
        load_3D_points=False,
    )
    found = config.setup().get_dataparser_outputs(split="test")
    begin, end = small_capture.splits.test
    frames = [int(path.stem) for path in found.image_filenames]
    assert frames == [f for f in range(begin, end) if small_capture.track.valid[f]]
    for k, frame in enumerate(frames):
        camera = found.cameras[k]
        matrix = np.eye(4)
        matrix[:3] = camera.camera_to_worlds.numpy()
        entry = {"transform_matrix": matrix, **{key: float(getattr(camera, name)) for key, name in (("fl_x", "fx"), ("fl_y", "fy"), ("cx", "cx"), ("cy", "cy"))}}  # fmt: skip
        pixels = seen_by(entry, {}, face(small_capture, frame, in_world=False))
        assert np.abs(pixels - expected_pixels(small_capture, frame)).max() < 0.05


def test_a_split_survives(small_capture: Capture, fixed: Path) -> None:
    """The reader's split is the capture's in frames that were written."""
    splits, note = read_data_set(fixed).splits()
    assert note == ""
    assert isinstance(splits, Splits)
    kept = torch.nonzero(small_capture.track.valid)[:, 0]
    assert splits.test[1] - splits.test[0] == int((kept >= small_capture.splits.test[0]).sum())
