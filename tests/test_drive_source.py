"""Drivers: a person's own track, another person's, a file; on a small real avatar."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from avatar.capture_data import CAPTURE_FORMAT, CAPTURE_VERSION, Track
from avatar.checks import InputError
from avatar.drive.arkit_csv import write_arkit_csv
from avatar.drive.motion import head_angles, head_rotation, interpolated, motion_from_states
from avatar.drive.source import (
    ArkitFileDriver,
    RetargetConfig,
    RetargetedTrackDriver,
    TrackDriver,
    open_source,
    retargeted,
    track_states,
)
from avatar.model.avatar import Avatar, Binding, Person
from avatar.rig.arkit import ARKIT_INDEX, ARKIT_NAMES
from avatar.rotations import rigid
from avatar.types import Camera, Driver, HeadState

NAMES = (*ARKIT_NAMES, "personal0", "personal1")
JAW = ARKIT_INDEX["jawOpen"]
BROW = ARKIT_INDEX["browInnerUp"]
BLINK = ARKIT_INDEX["eyeBlinkLeft"]


def pose(yaw: float = 0, pitch: float = 0, x: float = 0, z: float = 0) -> torch.Tensor:
    return rigid(head_rotation(torch.tensor([yaw, pitch, 0.0])), torch.tensor([x, 0.0, z]))


@pytest.fixture(scope="module")
def avatar() -> Avatar:
    """A person of two triangles whose jaw was seen from 0 to 0.4 and whose lids hardly closed."""
    generator = torch.Generator().manual_seed(0)
    gaussians = 6
    high = torch.full((len(NAMES),), 0.5)
    high[JAW], high[BLINK] = 0.4, 0.15
    person = Person(
        lattice=torch.tensor([[0.0, 0, 0.1], [0.1, 0, 0.1], [0, 0.1, 0.1], [0.1, 0.1, 0.1]]),
        basis=0.01 * torch.randn(len(NAMES), 4, 3, generator=generator),
        triangles=torch.tensor([[0, 1, 2], [1, 3, 2]]),
        eyeballs=torch.tensor([[0.03, 0.02, 0.08], [-0.03, 0.02, 0.08]]),
        expression_names=NAMES,
        expression_low=torch.zeros(len(NAMES)),
        expression_high=high,
        rest=HeadState(
            torch.zeros(len(NAMES)),
            torch.tensor([[0.05, -0.1], [0.03, -0.1]]),
            pose(0.2, 0.1, 0.02, -0.6),
            pose(0.1, 0.0, 0.01, -0.62),
        ),
        camera=Camera(
            torch.tensor([[500.0, 0, 32], [0, 500, 32], [0, 0, 1]]),
            torch.diag(torch.tensor([1.0, -1, -1, 1])),
            64,
            64,
        ),
        fps=25.0,
    )
    binding = Binding(
        triangle=torch.tensor([0, 0, 0, 1, 1, 1]),
        barycentric=torch.full((gaussians, 3), 1 / 3),
        follow=torch.ones(gaussians),
        eye=torch.tensor([-1, -1, -1, -1, 0, 1]),
        part=torch.zeros(gaussians, dtype=torch.long),
    )
    parameters = {
        "means": 0.05 * torch.randn(gaussians, 3, generator=generator),
        "quats": torch.tensor([[1.0, 0, 0, 0]]).repeat(gaussians, 1),
        "log_scales": torch.full((gaussians, 3), -4.0),
        "logit_opacities": torch.full((gaussians,), 2.0),
        "colours": torch.rand(gaussians, 3, generator=generator),
        "torso_logits": torch.linspace(-4, 4, gaussians),
    }
    return Avatar(
        person,
        binding,
        parameters,
        settings={"shapes": 2, "hidden": 8},
        generator=generator,
        header={"source_sha256": "me"},
    )


def make_track(frames: int = 40, fps: float = 30.0) -> Track:
    """Another person: the jaw swings from 0.1 to 0.9, the head turns and sways, one gap."""
    phase = torch.linspace(0, 4 * torch.pi, frames)
    expression = torch.zeros(frames, len(NAMES))
    expression[:, JAW] = 0.5 - 0.4 * torch.cos(phase)
    expression[:, -1] = 3.0
    heads = [pose(0.3 * s + 0.4, -0.2, 0.05 * s, -0.8) for s in torch.sin(phase).tolist()]
    torsos = [pose(0.2 * s + 0.3, 0, 0.05 * s, -0.8) for s in torch.sin(phase).tolist()]
    valid = torch.ones(frames, dtype=torch.bool)
    valid[10:13] = False
    expression[10:13] = 77.0
    return Track(
        K=torch.eye(3)[None],
        T_cam_world=torch.eye(4)[None],
        lattice=torch.zeros(478, 3),
        basis=torch.zeros(len(NAMES), 478, 3),
        eyeballs=torch.zeros(2, 3),
        expression=expression,
        gaze=torch.stack([torch.sin(phase)] * 4, -1).reshape(frames, 2, 2) * 0.2 + 0.1,
        T_world_head=torch.stack(heads),
        T_world_torso=torch.stack(torsos),
        landmarks_px=torch.zeros(frames, 478, 2),
        residual_px=torch.zeros(frames),
        valid=valid,
        expression_names=NAMES,
        rig="lattice",
        fps=fps,
    )


@pytest.fixture(scope="module")
def track() -> Track:
    return make_track()


def stacked(driver: Driver) -> list[HeadState]:
    return list(driver.states())


def test_a_track_is_played_frame_by_frame_and_again(track: Track) -> None:
    driver = TrackDriver(track, (20, 30))
    assert isinstance(driver, Driver)
    assert driver.fps == 30
    states = stacked(driver)
    assert len(states) == len(driver) == 10
    assert len(stacked(driver)) == 10
    assert torch.equal(states[3].expression, track.expression[23])
    assert torch.equal(states[3].T_world_head, track.T_world_head[23])


def test_frames_without_a_face_are_filled_in_between(track: Track) -> None:
    states = track_states(track)
    jaw = states.expression[:, JAW]
    assert float(jaw[10:13].max()) < 1
    assert float(jaw[11]) == pytest.approx(float(track.expression[[9, 13], JAW].mean()), abs=1e-6)
    R = states.T_world_head[:, :3, :3]
    assert torch.allclose(R @ R.transpose(1, 2), torch.eye(3).expand_as(R), atol=1e-5)
    yaw = head_angles(R)[:, 0]
    assert float(yaw[11]) == pytest.approx(float(yaw[[9, 13]].mean()), abs=1e-3)


def test_the_ends_are_held_where_no_face_was_found(track: Track) -> None:
    known = torch.zeros(5, dtype=torch.bool)
    known[2] = True
    states = interpolated(track.states()[:5], known)
    assert torch.equal(states.expression, track.expression[2].expand(5, -1))
    assert torch.allclose(states.T_world_head, track.T_world_head[2].expand(5, 4, 4), atol=1e-6)


@pytest.mark.parametrize("frames", [(0, 0), (5, 3), (-1, 4), (0, 41)])
def test_a_part_outside_of_the_track_is_refused(track: Track, frames: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="40 frames"):
        TrackDriver(track, frames)


def test_a_part_without_a_face_is_refused(track: Track) -> None:
    with pytest.raises(InputError, match="10 to 12 of the track show no face"):
        TrackDriver(track, (10, 13))


def test_another_persons_jaw_is_scaled_to_the_avatars_range(track: Track, avatar: Avatar) -> None:
    batch = retargeted(track, avatar, None, RetargetConfig(largest_gain=10, headroom=1))
    jaw = batch.expression[:, JAW]
    seen = track.expression[track.valid, JAW]
    closed, wide = torch.quantile(seen, 0.1), torch.quantile(seen, 0.98)
    expected = 0.4 * (track.expression[5, JAW] - closed) / (wide - closed)
    assert float(jaw[5]) == pytest.approx(float(expected), abs=1e-5)
    assert float(jaw.max()) == pytest.approx(0.4, abs=0.02)


def test_gain_and_headroom_are_limited(track: Track, avatar: Avatar) -> None:
    loud = replace(track, expression=track.expression.clone())
    # A brow that trembles by a hundredth must not be blown up, nor a huge jaw tear the mouth.
    loud.expression[:, BROW] = 0.01 * (torch.arange(len(track)) % 2)
    loud.expression[:, JAW] *= 5
    batch = retargeted(loud, avatar, None, RetargetConfig())
    assert float(batch.expression[:, BROW].max()) <= 0.02 + 1e-6
    assert float(batch.expression[:, JAW].max()) <= 0.4 + 0.25 + 1e-6
    assert float(batch.expression.min()) >= 0


def test_a_rare_blink_closes_the_lids(track: Track, avatar: Avatar) -> None:
    blinking = replace(track, expression=track.expression.clone())
    blinking.expression[:, BLINK] = 0.05
    blinking.expression[20, BLINK] = 1.05  # one frame of forty: no percentile shows it
    batch = retargeted(blinking, avatar, None, RetargetConfig())
    assert float(batch.expression[20, BLINK]) == pytest.approx(1)
    assert float(batch.expression[19, BLINK]) == pytest.approx(0, abs=1e-6)


def test_the_sources_personal_shapes_are_dropped(track: Track, avatar: Avatar) -> None:
    assert (
        float(retargeted(track, avatar, None, RetargetConfig()).expression[:, 52:].abs().max()) == 0
    )


def test_poses_are_relative_to_the_sources_middle_and_the_avatars_rest(
    track: Track, avatar: Avatar
) -> None:
    still = replace(track, T_world_head=track.T_world_head[:1].expand(40, 4, 4).clone())
    batch = retargeted(still, avatar, None, RetargetConfig())
    assert torch.allclose(batch.T_world_head, avatar.rest.T_world_head.expand(40, 4, 4), atol=1e-5)

    moved = retargeted(track, avatar, None, RetargetConfig())
    R = avatar.rest.T_world_head[:3, :3].T @ moved.T_world_head[:, :3, :3]
    yaw = head_angles(R)[:, 0]
    assert float(yaw.max()) == pytest.approx(0.3, abs=0.05)
    assert float(yaw.min()) == pytest.approx(-0.3, abs=0.05)


def test_a_nod_stays_a_nod_from_another_camera(track: Track, avatar: Avatar) -> None:
    heads = torch.stack([pose(0.4, 0.2 * s) for s in torch.linspace(-1, 1, 40).tolist()])
    source = replace(track, T_world_head=heads, valid=torch.ones(40, dtype=torch.bool))
    T_new_old = rigid(head_rotation(torch.tensor([0.5, -0.3, 0.2])), torch.tensor([1.0, 2, 3]))
    elsewhere = replace(
        source, T_world_head=T_new_old @ heads, T_world_torso=T_new_old @ track.T_world_torso
    )
    a = retargeted(source, avatar, None, RetargetConfig())
    b = retargeted(elsewhere, avatar, None, RetargetConfig())
    # Equal but for single precision of the polar decomposition.
    assert torch.allclose(a.T_world_head, b.T_world_head, atol=1e-5)
    R = avatar.rest.T_world_head[:3, :3].T @ a.T_world_head[:, :3, :3]
    angles = head_angles(R)
    assert float(angles[:, 1].max()) == pytest.approx(0.2, abs=0.01)
    assert float(angles[:, [0, 2]].abs().max()) < 0.01


def test_damping_halves_turns_and_stops_translation(track: Track, avatar: Avatar) -> None:
    full = retargeted(track, avatar, None, RetargetConfig())
    half = retargeted(track, avatar, None, RetargetConfig(head=0.5, translation=0, torso=0))
    R_rest = avatar.rest.T_world_head[:3, :3]
    yaw = [head_angles(R_rest.T @ batch.T_world_head[:, :3, :3])[:, 0] for batch in (full, half)]
    assert torch.allclose(yaw[1], 0.5 * yaw[0], atol=1e-3)
    still = avatar.rest.T_world_head[:3, 3].expand(40, 3)
    assert torch.allclose(half.T_world_head[:, :3, 3], still, atol=1e-6)
    assert torch.allclose(half.T_world_torso, avatar.rest.T_world_torso.expand(40, 4, 4), atol=1e-5)


def test_gaze_motion_is_kept(track: Track, avatar: Avatar) -> None:
    batch = RetargetedTrackDriver(track, avatar).batch
    assert torch.allclose(
        batch.gaze[20] - batch.gaze[15], track.gaze[20] - track.gaze[15], atol=1e-6
    )
    assert torch.allclose(batch.gaze.median(0).values, avatar.rest.gaze, atol=0.02)


def test_every_driver_yields_states_that_the_avatar_can_take(
    track: Track, avatar: Avatar, tmp_path: Path
) -> None:
    (tmp_path / "face.csv").write_text("time,jawOpen,HeadYaw\n0,0,0\n1,1,0.3\n")
    drivers = [
        TrackDriver(track, (0, 3)),
        RetargetedTrackDriver(track, avatar, (0, 3)),
        ArkitFileDriver(tmp_path / "face.csv", avatar, (0, 3)),
    ]
    for driver in drivers:
        states = stacked(driver)
        assert len(states) == len(driver) == 3
        gaussians = avatar.pose(states[-1])
        assert torch.isfinite(gaussians.means).all()


def test_a_file_moves_the_avatar_from_its_rest(avatar: Avatar, tmp_path: Path) -> None:
    (tmp_path / "face.csv").write_text("time,jawOpen,HeadYaw,LeftEyeYaw\n0,0,0,0\n1,0.5,0.3,-0.2\n")
    driver = ArkitFileDriver(tmp_path / "face.csv", avatar)
    assert driver.fps == avatar.fps
    states = stacked(driver)
    assert len(states) == 26
    first, last = states[0], states[-1]
    assert torch.allclose(first.T_world_head, avatar.rest.T_world_head, atol=1e-6)
    assert torch.allclose(first.gaze, avatar.rest.gaze)
    assert float(states[13].expression[JAW]) == pytest.approx(0.26)
    R = avatar.rest.T_world_head[:3, :3].T @ last.T_world_head[:3, :3]
    assert head_angles(R).tolist() == pytest.approx([0.3, 0, 0], abs=1e-5)
    assert (last.gaze - avatar.rest.gaze)[0].tolist() == pytest.approx([0.2, 0], abs=1e-6)
    assert torch.equal(last.T_world_torso, avatar.rest.T_world_torso)


def test_states_written_as_arkit_motion_come_back(avatar: Avatar, tmp_path: Path) -> None:
    rest = avatar.rest
    frames = 10
    angles = torch.stack([torch.linspace(-0.3, 0.3, frames)] * 3, -1)
    states = HeadState(
        torch.rand(frames, len(NAMES), generator=torch.Generator().manual_seed(2)),
        rest.gaze + torch.linspace(-0.2, 0.2, frames)[:, None, None],
        rest.T_world_head @ rigid(head_rotation(angles), torch.zeros(frames, 3)),
        rest.T_world_torso.expand(frames, 4, 4),
    )
    write_arkit_csv(tmp_path / "out.csv", motion_from_states(states, rest, avatar.fps))
    back = ArkitFileDriver(tmp_path / "out.csv", avatar).batch
    assert len(back) == frames
    # Timecodes have thousandths of a sixtieth of a second: values move by less than 1e-3 a frame.
    assert torch.allclose(back.expression[:, :52], states.expression[:, :52], atol=2e-3)
    assert torch.allclose(back.gaze, states.gaze, atol=1e-4)
    assert torch.allclose(back.T_world_head[:, :3, :3], states.T_world_head[:, :3, :3], atol=1e-4)


def make_capture(folder: Path, sha: str, audio: bool) -> Path:
    folder.mkdir()
    track = make_track()
    track.save(folder / "track.safetensors")
    header = {
        "format": CAPTURE_FORMAT,
        "version": CAPTURE_VERSION,
        "frames": len(track),
        "fps": track.fps,
        "cameras": [{"width": 64, "height": 64}],
        "source_sha256": sha,
    }
    (folder / "capture.json").write_text(json.dumps(header))
    if audio:
        (folder / "audio.wav").write_bytes(b"RIFF")
    return folder


def test_a_capture_of_the_same_clip_is_played_and_another_retargeted(
    avatar: Avatar, tmp_path: Path
) -> None:
    mine = open_source(str(make_capture(tmp_path / "me.capture", "me", True)), avatar)
    assert isinstance(mine, Driver)
    assert isinstance(mine.driver, TrackDriver)
    assert (mine.frames, len(mine), mine.fps) == (40, 40, 30)
    assert mine.audio == tmp_path / "me.capture" / "audio.wav"
    other = make_capture(tmp_path / "you.capture", "you", False)
    yours = open_source(str(other), avatar, frames=(15, 30))
    assert isinstance(yours.driver, RetargetedTrackDriver)
    assert yours.audio is None
    assert yours.audio_start_s == pytest.approx(0.5)
    assert len(list(yours.states())) == 15


def test_the_folder_of_a_finished_avatar_stands_for_its_capture(
    avatar: Avatar, tmp_path: Path
) -> None:
    make_capture(tmp_path / "me.capture", "me", False)
    source = open_source(str(tmp_path), avatar)
    assert isinstance(source.driver, TrackDriver)


def test_a_track_of_another_rig_is_not_retargeted(track: Track, avatar: Avatar) -> None:
    foreign = replace(track, expression_names=tuple(f"pc{i}" for i in range(len(NAMES))))
    with pytest.raises(InputError, match="52 ARKit coefficients"):
        RetargetedTrackDriver(foreign, avatar)


def test_self_needs_the_track_and_a_fitting_one(avatar: Avatar, track: Track) -> None:
    source = open_source("self", avatar, track=track, frames=(30, 40))
    assert len(list(source.states())) == 10
    assert source.audio_start_s == pytest.approx(1)
    with pytest.raises(InputError, match="not at hand"):
        open_source("self", avatar)
    renamed = replace(track, expression_names=(*NAMES[:-1], "other"))
    with pytest.raises(InputError, match="train the avatar again"):
        open_source("self", avatar, track=renamed)


def test_sources_that_cannot_drive_are_refused_with_the_next_step(
    avatar: Avatar, tmp_path: Path
) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "empty.capture").mkdir()
    cases = {
        "nowhere.csv": "There is no driving source",
        "clip.mp4": "Run: avatar capture",
        "notes.txt": "is no driving source",
        "empty.capture": "was not finished",
    }
    for name, message in cases.items():
        with pytest.raises(InputError, match=message):
            open_source(str(tmp_path / name), avatar)


def test_a_part_outside_of_a_file_is_refused(avatar: Avatar, tmp_path: Path) -> None:
    (tmp_path / "face.csv").write_text("jawOpen\n0\n1\n")
    with pytest.raises(InputError, match="has 2 frames"):
        open_source(str(tmp_path / "face.csv"), avatar, frames=(0, 3))
