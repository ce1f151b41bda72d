"""A data set of three cameras that stand still, from its pictures to a tracked capture."""

from __future__ import annotations

from pathlib import Path

import cv2
import data_set_folders as made
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from avatar.capture_data import Capture
from avatar.cli import capture as capture_command
from capture.sample import plan_motion
from capture.sample_mesh import CROP, IRIS_M, VIEW_DISTANCE
from capture.sample_portrait import Portrait, Pose

FRAMES = 44
YAWS_DEG = (0.0, -16.0, 14.0)
SIZES = (256, 256, 320)
MISSING = (2, 5)
"""A camera, and a frame of which it has no picture."""
FLIP = np.diag([1.0, -1.0, -1.0])


def known_camera(portrait: Portrait, yaw_deg: float) -> tuple[np.ndarray, np.ndarray]:
    """(K, T_cam_world in metres) of a camera that goes around the portrait's head.

    The world has the portrait's axes and origin; what such a camera sees of a head is what the
    portrait's own sees of the head turned.
    """
    pivot, unit = portrait.mesh.pivot, IRIS_M / portrait.mesh.iris_px
    R = Rotation.from_euler("y", yaw_deg, degrees=True).as_matrix()
    T = np.eye(4)
    T[:3, :3] = R
    T[:3, 3] = unit * (pivot - R @ pivot - [CROP / 2, CROP / 2, -VIEW_DISTANCE])
    focal = VIEW_DISTANCE * portrait.scale
    return np.array([[focal, 0, portrait.size / 2], [0, focal, portrait.size / 2], [0, 0, 1]]), T


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray, np.ndarray]:
    """(nerfstudio's folder, T_cam_world [3, 4, 4], the head's rotations [F, 3, 3] in the world)."""
    folder = tmp_path_factory.mktemp("several") / "person"
    (folder / "images").mkdir(parents=True)
    motion = plan_motion(FRAMES, 25)
    turns = FLIP @ Rotation.from_rotvec(motion.rotation).as_matrix() @ FLIP
    portraits = {size: Portrait(size) for size in set(SIZES)}
    rows, poses = [], []
    for k, (yaw, size) in enumerate(zip(YAWS_DEG, SIZES, strict=True)):
        portrait = portraits[size]
        K, T = known_camera(portrait, yaw)
        poses.append(T)
        for f in range(FRAMES):
            if (k, f) == MISSING:
                continue
            name = f"images/{f:03d}_{k}.png"
            shapes = {"calm": 1.0, "seal": 1.0, "narrow": float(motion.jaw[f])}
            pose = Pose(
                shapes,
                float(motion.jaw[f]),
                T[:3, :3] @ turns[f],
                np.zeros(3),
                np.zeros((2, 2)),
                0.0,
            )
            picture = cv2.cvtColor(portrait.draw(pose), cv2.COLOR_RGB2BGR)
            cv2.imwrite(str(folder / name), picture)
            rows.append(
                {
                    "file_path": name,
                    "timestep_index": f,
                    "camera_index": k,
                    "transform_matrix": (np.linalg.inv(T) @ np.diag([1, -1, -1, 1])).tolist(),
                    "fl_x": K[0, 0],
                    "fl_y": K[1, 1],
                    "cx": K[0, 2],
                    "cy": K[1, 2],
                    "w": size,
                    "h": size,
                }
            )
    made.write_json(folder / "transforms.json", {"fps": 25, "metric": True, "frames": rows})
    return folder, np.stack(poses), turns


@pytest.mark.slow
def test_three_known_cameras_become_one_tracked_capture(
    folder: tuple[Path, np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    source, T_cam_world, turns = folder
    output = tmp_path / "me.capture"
    capture_command((source,), output=output)
    made_of = Capture(output)
    track = made_of.track
    assert [camera.size for camera in made_of.cameras] == [(size, size) for size in SIZES]
    assert [sorted(camera.missing) for camera in made_of.cameras] == [[], [], [MISSING[1]]]
    assert "<h2>Cameras</h2>" in (output / "report.html").read_text()
    # The cameras are the data set's: their places are in metres, and only the world is another.
    between = T_cam_world @ np.linalg.inv(T_cam_world[track.main])
    found = track.T_cam_world.double().numpy()
    np.testing.assert_allclose(found @ np.linalg.inv(found[track.main]), between, atol=1e-5)
    for k, size in enumerate(SIZES):
        focal = VIEW_DISTANCE * size / CROP
        assert float(track.K[k, 0, 0]) == pytest.approx(focal, rel=1e-4)
    # One head for all of them, and as the portrait turned it.
    assert track.valid.float().mean() > 0.9
    seen = (track.T_cam_world[track.main] @ track.T_world_head)[:, :3, :3].double().numpy()
    truth = T_cam_world[track.main, :3, :3] @ turns
    offset = (
        np.swapaxes(truth, 1, 2) @ seen
    )  # from the lattice's axes to the portrait's: one for all
    middle = Rotation.from_matrix(offset[track.valid.numpy()]).mean()
    apart = np.degrees((middle.inv() * Rotation.from_matrix(offset)).magnitude())
    assert np.median(apart[track.valid.numpy()]) < 1.5
    # Run again: nothing is made anew.
    stamps = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()}
    capture_command((source,), output=output)
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
