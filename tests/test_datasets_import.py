"""Data sets become captures: pictures in any of their forms, given masks, splits, focal length, FLAME's numbers."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import data_set_folders as made
import numpy as np
import pytest
import torch
from PIL import Image

from avatar.capture_data import Capture, Landmarks, Splits
from avatar.checks import InputError
from avatar.export.capture_dataset import DatasetOptions, export_nerfstudio
from avatar.flame_data import FlameTrack
from avatar.types import Progress
from capture.datasets.capturing import DataSetConfig, capture_data_set
from capture.datasets.description import DataSet
from capture.datasets.importing import (
    calibration_of,
    make_data_frames,
    make_data_masks,
    only_camera,
    plan_cameras,
)
from capture.datasets.pictures import plan_pictures
from capture.datasets.recognise import read_data_set
from capture.following import Picture, store_and_follow

SIDE = 256


def entries(folder: Path) -> dict:
    return json.loads((folder / "transforms.json").read_text())


def rewrite(folder: Path, **top: object) -> None:
    (folder / "transforms.json").write_text(json.dumps({**entries(folder), **top}))


def one_camera(
    folder: Path, pictures: list[np.ndarray], suffix: str = ".png", **top: object
) -> DataSet:
    """A nerfstudio folder of these pictures, as OpenCV writes them."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    height, width = pictures[0].shape[:2]
    frames = []
    for k, picture in enumerate(pictures):
        name = f"images/{k:03d}{suffix}"
        cv2.imwrite(str(folder / name), picture)
        frames.append({"file_path": name, "transform_matrix": made.pose(), "time": k})
    head = {"fl_x": 500, "fl_y": 500, "cx": width / 2, "cy": height / 2, "w": width, "h": height}
    made.write_json(folder / "transforms.json", {**head, **top, "frames": frames})
    return read_data_set(folder)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (9, 9, shape[2] if len(shape) > 2 else 1))
    return cv2.resize(small.astype(np.uint8), shape[1::-1], interpolation=cv2.INTER_CUBIC)


def test_transparent_pictures_are_their_own_masks(tmp_path: Path) -> None:
    pictures = [noise(SIDE, SIDE, 4, seed=k) for k in range(3)]
    for picture in pictures:
        picture[..., 3] = 0
        picture[64:192, 64:192, 3] = 255
        picture[64:192, 192, 3] = 100
    plan = plan_pictures(one_camera(tmp_path, pictures), 0, 4096)
    assert plan.masked
    for k, picture in enumerate(pictures):
        read = plan.read(k)
        assert read is not None
        np.testing.assert_array_equal(plan.mask(k), picture[..., 3])
        shown = picture[..., 3] > 0
        np.testing.assert_array_equal(read.rgb[shown], picture[shown][:, 2::-1])
        assert (read.rgb[~shown] == 255).all()
    # Alpha that is full everywhere is no mask.
    for picture in pictures:
        picture[..., 3] = 255
    assert not plan_pictures(one_camera(tmp_path, pictures), 0, 4096).masked


@pytest.mark.parametrize("kind", ["grey", "sixteen bits"])
def test_grey_and_deep_pictures_become_eight_bit_colour(kind: str, tmp_path: Path) -> None:
    picture = noise(SIDE, SIDE) if kind == "grey" else noise(SIDE, SIDE, 3)
    given = picture if kind == "grey" else picture.astype(np.uint16) * 257
    plan = plan_pictures(one_camera(tmp_path, [given]), 0, 4096)
    read = plan.read(0)
    assert read is not None
    expected = np.dstack([picture] * 3) if kind == "grey" else picture[..., ::-1]
    np.testing.assert_array_equal(read.rgb, expected)
    assert not plan.masked


def test_a_jpeg_that_needs_no_change_keeps_its_very_bytes(tmp_path: Path) -> None:
    data = one_camera(tmp_path, [noise(SIDE, SIDE, 3)], ".jpg")
    plan = plan_pictures(data, 0, 4096)
    read = plan.read(0)
    assert read is not None
    assert read.copied == tmp_path / "images" / "000.jpg"
    smaller = plan_pictures(data, 0, 250).read(0)
    assert smaller is not None
    assert smaller.copied is None
    assert smaller.rgb.shape == (250, 250, 3)


def test_a_jpeg_that_asks_to_be_turned_is_taken_as_its_pixels_lie(tmp_path: Path) -> None:
    data = one_camera(tmp_path, [noise(SIDE, SIDE + 60, 3)], ".jpg")
    path = tmp_path / "images" / "000.jpg"
    plain = plan_pictures(data, 0, 4096).read(0)
    with Image.open(path) as image:
        exif = image.getexif()
        exif[0x0112] = 6  # a quarter turn
        image.save(path, quality=98, exif=exif)
    read = plan_pictures(data, 0, 4096).read(0)
    assert plain is not None
    assert read is not None
    assert read.copied is None
    assert read.rgb.shape == plain.rgb.shape == (SIDE, SIDE + 60, 3)
    assert np.abs(read.rgb.astype(int) - plain.rgb).mean() < 3


def test_odd_sides_lose_a_row_and_larger_pictures_shrink_with_their_focal_length(
    tmp_path: Path,
) -> None:
    data = one_camera(tmp_path, [noise(301, 401, 3)])
    plan = plan_pictures(data, 0, 4096)
    assert plan.size == (400, 300)
    assert plan.K is not None
    np.testing.assert_allclose(plan.K, [[500, 0, 200.5], [0, 500, 150.5], [0, 0, 1]])
    read = plan.read(0)
    assert read is not None
    assert read.rgb.shape == (300, 400, 3)
    plan = plan_pictures(data, 0, 350)
    assert plan.K is not None
    assert plan.size == (350, 262)
    assert plan.K[0, 0] == pytest.approx(500 * 350 / 401)
    assert plan.K[1, 1] == pytest.approx(500 * 262 / 301)


def test_intrinsics_of_another_size_are_scaled_and_of_another_aspect_refused(
    tmp_path: Path,
) -> None:
    folder = tmp_path
    one_camera(folder, [noise(300, 400, 3)])
    rewrite(folder, w=800, h=600, fl_x=1000, fl_y=1000, cx=400, cy=300)
    plan = plan_pictures(read_data_set(folder), 0, 4096)
    assert plan.K is not None
    np.testing.assert_allclose(plan.K, [[500, 0, 200], [0, 500, 150], [0, 0, 1]])
    assert "scaled" in plan.notes[0]
    rewrite(folder, w=600, h=800)
    with pytest.raises(InputError, match="another aspect"):
        plan_pictures(read_data_set(folder), 0, 4096)


def test_distortion_is_taken_out(tmp_path: Path) -> None:
    """A grid of dots drawn where the distorted camera sees them comes out where a pinhole would."""
    k1, k2, p1, p2 = 0.12, -0.05, 0.004, -0.003
    picture = np.zeros((400, 500, 3), np.uint8)
    points = np.array([(x, y) for x in (-0.3, 0, 0.3) for y in (-0.25, 0, 0.25)])
    r2 = (points**2).sum(1)
    x, y = points.T
    radial = 1 + k1 * r2 + k2 * r2**2  # OpenCV's documentation of its camera model
    seen = np.stack(
        [
            x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x**2),
            y * radial + p1 * (r2 + 2 * y**2) + 2 * p2 * x * y,
        ],
        1,
    )
    ys, xs = np.mgrid[:400, :500] + 0.5
    for u, v in 500 * seen + (250, 200):
        picture[np.hypot(xs - u, ys - v) < 5] = 255
    plan = plan_pictures(one_camera(tmp_path, [picture], k1=k1, k2=k2, p1=p1, p2=p2), 0, 4096)
    read = plan.read(0)
    assert read is not None
    for u, v in 500 * points + (250, 200):
        near = np.hypot(xs - u, ys - v) < 12
        weight = read.rgb[..., 0] * near
        centre = np.array([(xs * weight).sum(), (ys * weight).sum()]) / weight.sum()
        assert np.hypot(*(centre - (u, v))) < 0.3  # it lay 2 to 4 pixels off


def test_pictures_that_do_not_fit_are_named(tmp_path: Path) -> None:
    data = one_camera(tmp_path, [noise(SIDE, SIDE, 3)] * 2)
    cv2.imwrite(str(tmp_path / "images" / "001.png"), noise(SIDE, SIDE + 2, 3))
    with pytest.raises(InputError, match=r"001\.png is 258x256, but 256x256"):
        plan_pictures(data, 0, 4096).read(1)
    whole = (tmp_path / "images" / "000.png").read_bytes()
    (tmp_path / "images" / "001.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"001\.png cannot be read"):
        plan_pictures(data, 0, 4096).read(1)
    (tmp_path / "images" / "001.png").write_bytes(whole[:60])
    with pytest.raises(InputError, match=r"001\.png"):
        plan_pictures(data, 0, 4096).read(1)
    small = one_camera(tmp_path / "small", [noise(100, 100, 3)])
    with pytest.raises(InputError, match="240 pixels"):
        plan_pictures(small, 0, 4096)


def test_too_few_slow_or_wandering_frames_are_refused(tmp_path: Path) -> None:
    data = one_camera(tmp_path / "few", [noise(SIDE, SIDE, 3)] * 3)
    with pytest.raises(InputError, match="3 time steps"):
        plan_cameras(data, 4096)
    folder = made.nerfstudio(tmp_path / "many", frames=50, cameras=2)
    with pytest.raises(InputError, match="--fps"):
        plan_cameras(read_data_set(folder, fps=2.0), 4096)
    value = entries(folder)
    for k, frame in enumerate(value["frames"]):
        frame |= {"camera_index": k % 2, "transform_matrix": made.pose(0.01 * k)}
    made.write_json(folder / "transforms.json", value)
    with pytest.raises(InputError, match="moves among 2 cameras"):
        plan_cameras(read_data_set(folder), 4096)
    with pytest.raises(InputError, match="Name one of them"):
        only_camera(read_data_set(folder), None)
    with pytest.raises(InputError, match="no camera '7'"):
        only_camera(read_data_set(folder), "7")
    assert len(only_camera(read_data_set(folder), "1").cameras) == 1


def test_a_zoom_is_refused(tmp_path: Path) -> None:
    one_camera(tmp_path, [noise(SIDE, SIDE, 3)] * 2)
    value = entries(tmp_path)
    value["frames"][1]["fl_x"] = 600
    value["frames"] = [{**frame, "camera_index": 0} for frame in value["frames"]]
    made.write_json(tmp_path / "transforms.json", value)
    with pytest.raises(InputError, match="focal length"):
        plan_pictures(read_data_set(tmp_path), 0, 4096)


# --- with a real face --------------------------------------------------------------------------------------


def insta_of(source: Capture, folder: Path) -> Path:
    """An INSTA-style folder of a capture: the head is the world, masks as alpha, made-up expressions."""
    for name in ("images", "matted", "flame/exp"):
        (folder / name).mkdir(parents=True)
    K = source.track.K[0].numpy()
    head = {
        "fl_x": float(K[0, 0]),
        "fl_y": float(K[1, 1]),
        "cx": float(K[0, 2]),
        "cy": float(K[1, 2]),
    }
    parts: dict[str, list] = {"train": [], "test": []}
    for frame in range(source.frames):
        stem = f"{frame + 1:05d}"
        bgr = cv2.cvtColor(source.frame(frame), cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(folder / "images" / f"{stem}.png"), bgr)
        cv2.imwrite(str(folder / "matted" / f"{stem}.png"), np.dstack([bgr, source.mask(frame)]))
        np.savetxt(folder / "flame" / "exp" / f"{stem}.txt", np.full(50, 0.01 * frame))
        parts["test" if frame >= source.frames - 10 else "train"].append(
            {
                "file_path": f"images/{stem}.png",
                "exp_path": f"flame/exp/{stem}.txt",
                "mesh_path": f"meshes/{stem}.obj",
                "transform_matrix": made.pose(0.002 * frame, 0.7),
            }
        )
    for part, frames in parts.items():
        value = {**head, "w": source.width, "h": source.height, "frames": frames}
        made.write_json(folder / f"transforms_{part}.json", value)
    return folder


class Stopped(Exception):
    """Ctrl-C, placed exactly."""


def stop_at_track(progress: Progress) -> None:
    if progress.stage not in ("ingest", "matte"):
        raise Stopped


def test_an_insta_folder_becomes_a_still_camera_with_masks_split_and_parameters(
    small_capture: Capture, tmp_path: Path
) -> None:
    folder, output = insta_of(small_capture, tmp_path / "person"), tmp_path / "me.capture"
    with pytest.raises(Stopped):
        capture_data_set(folder, output, report=stop_at_track)
    frames = small_capture.frames
    splits = json.loads((output / "splits.json").read_text())
    assert (splits["train"], splits["test"]) == ([0, frames - 10], [frames - 10, frames])
    for frame in range(0, frames, 9):
        mask = cv2.imread(str(output / "masks" / "cam0" / f"{frame:06d}.png"), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(mask, small_capture.mask(frame))
        picture = cv2.imread(str(output / "frames" / "cam0" / f"{frame:06d}.jpg"))
        kept = cv2.cvtColor(small_capture.frame(frame), cv2.COLOR_RGB2BGR)
        assert np.abs(picture.astype(int) - kept).mean() < 1
    found = Landmarks.load(output / "landmarks.safetensors")
    assert found.valid.float().mean() > 0.95
    known = Landmarks.load(small_capture.landmarks_path())
    both = found.valid & known.valid
    assert float((found.points - known.points)[both][..., :2].norm(dim=-1).median()) < 0.5
    flame = FlameTrack.load(output / "flame.safetensors", frames=frames, cameras=1)
    assert flame.valid.all()
    assert torch.allclose(flame.expr[:, 0], 0.01 * torch.arange(frames))
    assert torch.allclose(flame.K, small_capture.track.K)
    for frame in (0, 20):
        T = made.opencv(made.pose(0.002 * frame, 0.7))
        np.testing.assert_allclose(flame.T_cam_flame[frame, 0], T, atol=1e-6)
    stages = json.loads((output / "stages.json").read_text())["stages"]
    (camera,) = stages["ingest"]["values"]["cameras"]
    assert any("head is this data set's world" in warning for warning in camera["warnings"])

    # Run again, nothing is made anew; a changed picture is another data set.
    stamp = (output / "frames" / "cam0" / "000000.jpg").stat().st_mtime_ns
    with pytest.raises(Stopped):
        capture_data_set(folder, output, report=stop_at_track)
    assert (output / "frames" / "cam0" / "000000.jpg").stat().st_mtime_ns == stamp
    shutil.copyfile(folder / "images" / "00002.png", folder / "images" / "00001.png")
    with pytest.raises(InputError, match="another"):
        capture_data_set(folder, output, report=stop_at_track)
    with pytest.raises(Stopped):
        capture_data_set(folder, output, DataSetConfig(overwrite=True), stop_at_track)


def test_frames_of_several_cameras_share_a_time_line(
    small_capture: Capture, tmp_path: Path
) -> None:
    """All cameras' frames, points, masks and the calibration, for the tracker of several cameras."""
    folder = tmp_path / "set"
    (folder / "images").mkdir(parents=True)
    (folder / "fg_masks").mkdir()
    rows = []
    for frame in range(40):
        for camera in range(2):
            if (frame, camera) == (7, 1):
                continue
            stem = f"{frame:05d}_{camera:02d}"
            shutil.copyfile(small_capture.frame_path(frame), folder / "images" / f"{stem}.jpg")
            shutil.copyfile(small_capture.mask_path(frame), folder / "fg_masks" / f"{stem}.png")
            rows.append(
                {
                    "file_path": f"images/{stem}.jpg",
                    "fg_mask_path": f"fg_masks/{stem}.png",
                    "timestep_index": 10 * frame,
                    "camera_index": camera,
                    "transform_matrix": made.pose(0.3 * camera),
                    "camera_angle_x": 0.5,
                }
            )
    made.write_json(folder / "transforms.json", {"fps": 30, "frames": rows})
    data = read_data_set(folder)
    plans = plan_cameras(data, 4096)
    output = tmp_path / "me.capture"
    output.mkdir()
    values = make_data_frames(data, plans, output, lambda _: None)
    assert [one["missing"] for one in values] == [[], [[7, 8]]]
    assert all(one["frames"] == 40 and one["fps"] == 30 for one in values)
    assert not (output / "frames" / "cam1" / "000007.jpg").exists()
    second = Landmarks.load(output / "landmarks1.safetensors")
    assert not second.valid[7]
    assert second.valid.sum() >= 37
    given = (folder / "images" / "00003_01.jpg").read_bytes()
    assert (output / "frames" / "cam1" / "000003.jpg").read_bytes() == given
    masks = make_data_masks(plans[1], 1, output, lambda _: None)
    assert len(masks["looks"]["sharpness"]) == 40
    assert masks["looks"]["sharpness"][7] is None
    assert len(list((output / "masks" / "cam1").iterdir())) == 39
    known = calibration_of(data, plans)
    assert known is not None
    assert known.names == ("0", "1")
    assert known.metric
    for k in range(2):
        np.testing.assert_allclose(
            known.T_cam_world[k], made.opencv(made.pose(0.3 * k)), atol=1e-12
        )
        assert float(known.K[k, 0, 0]) == pytest.approx(128 / np.tan(0.25))


@pytest.mark.slow  # up to the tracker, the same is tested above, and reading it back with the exporter
def test_what_was_exported_is_captured_again_as_it_was(
    small_capture: Capture, tmp_path: Path
) -> None:
    folder, output = tmp_path / "set", tmp_path / "back.capture"
    export_nerfstudio(small_capture, folder, DatasetOptions(head_fixed=False))
    done = subprocess.run(
        [sys.executable, "-m", "avatar.cli", "capture", str(folder), "-o", str(output)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    back = Capture(output)
    assert (back.frames, back.fps) == (small_capture.frames, small_capture.fps)
    assert isinstance(back.splits, Splits)
    assert back.splits == small_capture.splits
    assert "nerfstudio data set" in (output / "report.html").read_text()
    # One camera's focal length is believed as it is stated.
    assert float(back.track.K[0, 0, 0]) == pytest.approx(
        float(small_capture.track.K[0, 0, 0]), rel=0.01
    )
    both = back.track.valid & small_capture.track.valid
    assert both.float().mean() > 0.9
    turn = (
        back.track.T_world_head[both, :3, :3].transpose(1, 2)
        @ small_capture.track.T_world_head[both, :3, :3]
    )
    angle = torch.rad2deg(
        torch.arccos(((turn.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2).clamp(-1, 1))
    )
    assert float(angle.median()) < 1.5


def test_cuts_are_counted_in_frames_where_pictures_are_missing(tmp_path: Path) -> None:
    still, other = noise(256, 256, 3), 255 - noise(256, 256, 3)
    scenes = [None] * 5 + [still] * 20 + [other] * 15
    pictures = (None if one is None else Picture(one) for one in scenes)
    counts: list[int] = []
    seen = store_and_follow(pictures, (256, 256), tmp_path, counts.append, first=3)
    assert seen.cuts == [25]
    assert (seen.frames, counts) == (40, list(range(1, 41)))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"{frame:06d}.jpg" for frame in range(8, 43)
    ]
    assert not seen.face.landmarks.valid.any()


def test_the_command_says_what_does_not_go_with_a_folder(tmp_path: Path) -> None:
    from avatar.cli import capture
    from avatar.cli_clips import ClipOptions
    from avatar.cli_common import UsageError

    made.nerfstudio(tmp_path / "set")
    for options, name in (
        (ClipOptions(mirrored=True), "--mirrored"),
        (ClipOptions(mirrored_clips=("a.mp4",)), "--mirrored-clips"),
        (ClipOptions(focal_mm=(26.0,)), "--focal-mm"),
    ):
        with pytest.raises(InputError, match=f"{name} is for clips"):
            capture((tmp_path / "set",), tmp_path / "a", options=options)
    with pytest.raises(InputError, match="--max-side must be at least"):
        capture((tmp_path / "set",), tmp_path / "a", options=ClipOptions(max_side=8))
    with pytest.raises(InputError, match="6 time steps"):
        capture((tmp_path / "set",), tmp_path / "a")
    with pytest.raises(UsageError, match="--fps"):
        capture((tmp_path / "clip.mp4",), tmp_path / "a", fps=25.0)
    (tmp_path / "set" / "capture.json").write_text("{}")
    with pytest.raises(InputError, match="a capture already"):
        capture((tmp_path / "set",), tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_pictures_are_never_all_in_memory(tmp_path: Path) -> None:
    """Reading 60 pictures of 12 MB takes no more memory than a few of them."""
    data = one_camera(tmp_path, [noise(2000, 2000, 3)])
    shot = data.shots[0]
    plan = plan_pictures(DataSet(**{**vars(data), "shots": (shot,) * 60}), 0, 4096)
    next(iter(plan.pictures()))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert sum(picture is not None for picture in plan.pictures()) == 60
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert (after - before) * 1024 < 10 * 12e6
