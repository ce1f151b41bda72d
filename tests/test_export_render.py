"""Rendering a small real avatar: cameras look where they say, pictures follow the states."""

from __future__ import annotations

import math
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from avatar.export.render import (
    MARGIN_M,
    ORBIT_DEG,
    camera_path,
    fitted,
    front_camera,
    orbit_path,
    render_states,
)
from avatar.export.video import write_video
from avatar.model.avatar import Avatar
from avatar.rotations import rigid, rotvec_to_matrix, transform_points
from avatar.types import Camera, HeadState, Progress


@pytest.fixture
def turned_avatar(tiny_avatar: Avatar) -> Avatar:
    """An avatar that rests turned, nodding and off the world's middle."""
    R = rotvec_to_matrix(torch.tensor([0.2, 0.5, 0.1]))
    T = rigid(R, torch.tensor([0.1, -0.05, 0.02]))
    rest = tiny_avatar.rest
    tiny_avatar.rest = HeadState(rest.expression, rest.gaze, T, T)
    return tiny_avatar


def project(camera: Camera, points: torch.Tensor) -> torch.Tensor:
    """Pixels [N, 2] of world points [N, 3], all of which must lie before the camera."""
    p = transform_points(camera.T_cam_world, points)
    assert (p[:, 2] > 0).all()
    return (p @ camera.K.T)[:, :2] / p[:, 2:]


def in_head(avatar: Avatar, *points: tuple[float, float, float]) -> torch.Tensor:
    return transform_points(avatar.rest.T_world_head, torch.tensor(points, dtype=torch.float32))


def moving(avatar: Avatar, frames: int) -> HeadState:
    rest = avatar.rest
    expression = torch.zeros(frames, len(avatar.expression_names))
    expression[:, 17] = torch.linspace(0, 1, frames)
    return HeadState(
        expression,
        rest.gaze.expand(frames, 2, 2),
        rest.T_world_head.expand(frames, 4, 4),
        rest.T_world_torso.expand(frames, 4, 4),
    )


def test_a_turned_head_looks_straight_into_the_front_camera(turned_avatar: Avatar) -> None:
    camera = front_camera(turned_avatar)
    origin, nose, crown, chin = project(
        camera, in_head(turned_avatar, (0, 0, 0), (0, 0, 0.1), (0, 0.1, 0), (0, -0.1, 0))
    )
    assert torch.allclose(origin, nose, atol=1e-2)
    assert float(origin[0]) == pytest.approx(camera.width / 2, abs=1e-2)
    assert crown[1] < chin[1]
    left, right = project(camera, in_head(turned_avatar, (0.05, 0, 0), (-0.05, 0, 0)))
    assert left[0] > right[0]  # the subject's left is at the picture's right
    # As upright as the filmed picture: its rows have no part in the filmed vertical.
    filmed_up = -turned_avatar.camera.T_cam_world[1, :3]
    assert float(camera.T_cam_world[0, :3] @ filmed_up) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("size", [None, (200, 100), (100, 200)])
def test_the_front_picture_ends_where_the_filmed_one_did(
    tiny_avatar: Avatar, size: tuple[int, int] | None
) -> None:
    """The front picture's lower edge lies MARGIN_M above the filmed one's, at the head's depth."""
    filmed = tiny_avatar.camera
    depth = 0.6  # tests/conftest.py puts the camera there
    below = (filmed.height - float(filmed.K[1, 2])) / float(filmed.K[1, 1]) * depth
    assert below < 0.38
    camera = front_camera(tiny_avatar, size)
    edge = project(camera, torch.tensor([[0.0, MARGIN_M - below, 0.0]]))[0]
    assert float(edge[1]) == pytest.approx(camera.height, abs=1e-2)


@pytest.mark.parametrize("size", [None, (200, 100), (100, 200), (64, 64)])
def test_the_front_camera_shows_the_whole_head_in_any_format(
    turned_avatar: Avatar, size: tuple[int, int] | None
) -> None:
    camera = front_camera(turned_avatar, size)
    assert size is None or (camera.width, camera.height) == size
    corners = in_head(
        turned_avatar, (0.09, 0.13, 0), (-0.09, 0.13, 0), (0.09, -0.13, 0), (0, 0, 0.1)
    )
    pixels = project(camera, corners)
    assert (pixels >= 0).all()
    assert (pixels <= torch.tensor([camera.width, camera.height])).all()
    assert float(camera.K[0, 0]) == float(camera.K[1, 1])


def test_the_front_camera_keeps_the_filmed_distance(turned_avatar: Avatar) -> None:
    def distance(camera: Camera) -> float:
        centre = turned_avatar.rest.T_world_head[None, :3, 3]
        return float(transform_points(camera.T_cam_world, centre).norm())

    filmed = distance(turned_avatar.camera)
    assert distance(front_camera(turned_avatar)) == pytest.approx(filmed, abs=1e-5)
    assert distance(front_camera(turned_avatar, yaw=0.5)) == pytest.approx(filmed, abs=1e-5)


def test_the_orbit_swings_to_both_sides_and_keeps_the_head_in_the_middle(
    turned_avatar: Avatar,
) -> None:
    path = orbit_path(turned_avatar, period_s=4.0)
    frames = round(4 * turned_avatar.fps)
    seen = []
    for frame in range(frames + 1):
        camera = path(frame, frames)
        T_head_cam = torch.linalg.inv(camera.T_cam_world @ turned_avatar.rest.T_world_head)
        x, _, z = T_head_cam[:3, 3].tolist()
        seen.append(math.degrees(math.atan2(x, z)))
        pixel = project(camera, in_head(turned_avatar, (0, 0, 0)))[0]
        assert float(pixel[0]) == pytest.approx(camera.width / 2, abs=1e-2)
    assert max(seen) == pytest.approx(ORBIT_DEG, abs=0.1)
    assert min(seen) == pytest.approx(-ORBIT_DEG, abs=0.1)
    assert seen[0] == pytest.approx(0, abs=1e-3)
    assert seen[-1] == pytest.approx(0, abs=1e-3)
    # Smooth: the fastest step of a sine.
    steps = np.abs(np.diff(seen))
    assert steps.max() <= ORBIT_DEG * 2 * math.pi / frames * 1.05


def test_the_capture_view_is_fitted_into_another_size_without_stretching(
    tiny_avatar: Avatar,
) -> None:
    camera = tiny_avatar.camera
    assert camera_path("capture", tiny_avatar)(0, 1) == camera
    wide = fitted(camera, (192, 96))
    assert float(wide.K[0, 0]) == float(wide.K[1, 1]) == float(camera.K[0, 0])
    corners = torch.tensor([[0.0, 0.0, 0.0], [0.05, 0.05, 0.0]])
    shift = project(wide, corners) - project(camera, corners)
    assert torch.allclose(shift, torch.tensor([48.0, 0.0]).expand(2, 2), atol=1e-4)
    half = fitted(camera, (48, 48))
    assert torch.allclose(project(half, corners), project(camera, corners) / 2, atol=1e-4)


def test_pictures_are_bytes_of_the_wanted_size_on_the_wanted_background(
    tiny_avatar: Avatar,
) -> None:
    path = camera_path("front", tiny_avatar, (80, 60))
    reports: list[Progress] = []
    pictures = list(
        render_states(
            tiny_avatar, moving(tiny_avatar, 3), path, background=(0, 0.5, 1), report=reports.append
        )
    )
    assert [(p.shape, p.dtype) for p in pictures] == [((60, 80, 3), np.dtype(np.uint8))] * 3
    assert pictures[0][0, 0].tolist() == [0, 128, 255]
    assert [(r.stage, r.done, r.total) for r in reports] == [("render", i, 3) for i in (1, 2, 3)]
    # The person is there, and moves.
    assert (pictures[0] != pictures[0][0, 0]).any(-1).mean() > 0.05
    assert not np.array_equal(pictures[0], pictures[2])


def test_rendering_the_same_states_again_gives_the_same_pictures(tiny_avatar: Avatar) -> None:
    path = camera_path("capture", tiny_avatar)
    first, again = (
        list(render_states(tiny_avatar, moving(tiny_avatar, 2), path)) for _ in range(2)
    )
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_a_stream_of_unknown_length_is_rendered_and_gradients_stay_as_they_were(
    tiny_avatar: Avatar,
) -> None:
    batch = moving(tiny_avatar, 2)
    totals = []
    path = camera_path("capture", tiny_avatar)

    def counting(frame: int, total: int) -> Camera:
        totals.append(total)
        return path(frame, total)

    for _ in render_states(tiny_avatar, (batch[i] for i in range(2)), counting):
        assert torch.is_grad_enabled()
    assert totals == [0, 0]


def test_the_subjects_left_side_comes_to_the_front_half_way_left(tiny_avatar: Avatar) -> None:
    """Paint the left half red, the right half blue: more red must show from the left."""
    with torch.no_grad():
        left = tiny_avatar.means[:, 0] > 0
        tiny_avatar.deformer.offsets.zero_()
        tiny_avatar.colours.copy_(
            torch.where(left[:, None], torch.tensor([1.0, 0, 0]), torch.tensor([0, 0, 1.0]))
        )
        tiny_avatar.logit_opacities.fill_(3.0)

    def redness(yaw: float) -> float:
        camera = front_camera(tiny_avatar, (64, 64), yaw)
        (picture,) = render_states(
            tiny_avatar, [tiny_avatar.rest], lambda frame, total: camera, background=(0, 0, 0)
        )
        total = picture.astype(float).sum((0, 1))
        return float(total[0] / (total[0] + total[2]))

    assert redness(0.6) > redness(0) + 0.05 > redness(-0.6) + 0.1


def test_a_drive_becomes_a_video(tiny_avatar: Avatar, tmp_path: Path) -> None:
    path = camera_path("orbit", tiny_avatar, (64, 48))
    frames = render_states(tiny_avatar, moving(tiny_avatar, 5), path)
    write_video(tmp_path / "out.mp4", frames, tiny_avatar.fps)
    with av.open(str(tmp_path / "out.mp4")) as container:
        back = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(back) == 5
    assert back[0].shape == (48, 64, 3)


def test_the_turntable_goes_all_the_way_round_at_one_distance(turned_avatar: Avatar) -> None:
    path = camera_path("turntable", turned_avatar)
    count = round(8 * turned_avatar.fps)
    cameras = [path(frame, count) for frame in (0, count // 4, count // 2, count)]
    centre = turned_avatar.rest.T_world_head[:3, 3]
    in_head_frame = []
    for camera in cameras:
        T = camera.T_cam_world
        eye = -T[:3, :3].T @ T[:3, 3]
        in_head_frame.append(turned_avatar.rest.T_world_head[:3, :3].T @ (eye - centre))
    lengths = [float(eye.norm()) for eye in in_head_frame]
    assert lengths == pytest.approx([lengths[0]] * 4, rel=1e-4)
    directions = [eye / eye.norm() for eye in in_head_frame]
    expected = [(0, 0, 1), (1, 0, 0), (0, 0, -1), (0, 0, 1)]  # x is the subject's left
    for direction, wanted in zip(directions, expected, strict=True):
        assert float(direction @ torch.tensor(wanted, dtype=torch.float32)) > 0.999
