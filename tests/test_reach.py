"""An avatar carries how far its person was filmed to turn; drives keep to it where no track is at hand."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from avatar.checks import InputError
from avatar.cli_common import own_capture
from avatar.drive.live import FaceSample, LiveConfig, StreamDriver
from avatar.drive.motion import head_angles
from avatar.drive.retarget import RetargetConfig, for_avatar
from avatar.drive.source import ArkitFileDriver, open_source
from avatar.model.avatar import Avatar
from avatar.model.reach import HEADER_KEY, Reach, reach_header, reach_in, reach_of
from avatar.rotations import head_rotation
from avatar.train.frames import training_frames
from avatar.train.loop import fit
from configs import PRESETS

STIFF = Reach((-0.2, -0.15, -0.1), (0.25, 0.15, 0.1), (-0.2, -0.1), (0.2, 0.1))
MARGIN = RetargetConfig().head_margin


def yaw(state, avatar: Avatar) -> float:
    R = avatar.rest.T_world_head[:3, :3].T @ state.T_world_head[:3, :3]
    return float(head_angles(R)[0])


def turning_file(folder: Path) -> Path:
    path = folder / "turn.csv"
    path.write_text("time,jawOpen,HeadYaw,LeftEyeYaw\n0,0,0,0\n1,0.5,1.4,-0.9\n")
    return path


def test_a_reach_comes_back_from_the_file_and_old_files_open(tiny_avatar, tmp_path) -> None:
    tiny_avatar.save(tmp_path / "old.avatar")
    assert reach_in(Avatar.load(tmp_path / "old.avatar").header) is None
    tiny_avatar.header |= reach_header(STIFF)
    tiny_avatar.save(tmp_path / "new.avatar")
    assert reach_in(Avatar.load(tmp_path / "new.avatar").header) == STIFF


@pytest.mark.parametrize(
    "damage",
    [3, "far", [], {}, {"head_low": [0, 0]}, {"head_low": [0, 0, "x"]}, {"head_low": [0.5, 0, 0]},
     {"head_high": [-1, 0, 0]}, {"gaze_low": [0, True]}, {"gaze_low": None}],
)  # fmt: skip
def test_a_damaged_reach_is_said_on_opening(tiny_avatar, tmp_path, damage) -> None:
    stored = reach_header(STIFF)[HEADER_KEY]
    tiny_avatar.header[HEADER_KEY] = (
        {**stored, **damage} if isinstance(damage, dict) and damage else damage
    )
    tiny_avatar.save(tmp_path / "me.avatar")
    with pytest.raises(InputError, match=r"header is damaged.*reach"):
        Avatar.load(tmp_path / "me.avatar")


def test_files_and_streams_keep_to_the_reach_that_the_avatar_carries(tiny_avatar, tmp_path) -> None:
    path = turning_file(tmp_path)
    usual = yaw(ArkitFileDriver(path, tiny_avatar).batch[-1], tiny_avatar)
    assert usual == pytest.approx(Reach().head_high[0] + MARGIN, abs=2e-3)
    tiny_avatar.header |= reach_header(STIFF)
    own = ArkitFileDriver(path, tiny_avatar).batch[-1]
    assert yaw(own, tiny_avatar) == pytest.approx(0.25 + MARGIN, abs=2e-3)
    gaze = float((own.gaze - tiny_avatar.rest.gaze)[0, 0])
    assert gaze == pytest.approx(0.2 + RetargetConfig().gaze_margin, abs=2e-3)
    stream = StreamDriver(tiny_avatar, LiveConfig(calibrate_s=0))
    weights = torch.zeros(52).numpy()
    for k in range(90):
        turned = FaceSample(weights, torch.tensor([1.4, 0, 0]).numpy())
        stream.push(turned, k / 60)
    assert yaw(stream.state(1.5), tiny_avatar) == pytest.approx(0.25 + MARGIN, abs=2e-3)


def test_what_is_asked_for_goes_before_what_the_avatar_carries(tiny_avatar) -> None:
    tiny_avatar.header |= reach_header(STIFF)
    wide = Reach(head_high=(1.0, 0.5, 0.5))
    assert for_avatar(RetargetConfig(reach=wide), tiny_avatar).reach == wide
    assert for_avatar(RetargetConfig(), tiny_avatar).reach == STIFF


def test_reach_counts_the_frames_asked_for_that_show_a_face(small_capture) -> None:
    track = small_capture.track
    rest = track.states()[0]
    angles = torch.zeros(len(track), 3)
    angles[:, 0] = torch.linspace(-0.5, 0.5, len(track))
    T = track.T_world_head.clone()
    T[:, :3, :3] = rest.T_world_head[:3, :3] @ head_rotation(angles)
    turned = replace(track, T_world_head=T, valid=torch.ones(len(track), dtype=torch.bool))
    whole = reach_of(turned, rest)
    assert whole.head_low[0] == pytest.approx(-0.48, abs=0.01)
    assert whole.head_high[0] == pytest.approx(0.48, abs=0.01)
    assert whole.head_high[1] == pytest.approx(0.1)  # nobody stays quite still
    half = reach_of(turned, rest, torch.arange(len(track) // 2))
    assert half.head_high[0] == pytest.approx(0.1)
    with pytest.raises(ValueError, match="at least one frame"):
        reach_of(replace(turned, valid=torch.zeros_like(turned.valid)), rest)


@pytest.fixture(scope="module")
def home(small_capture, tmp_path_factory) -> Path:
    """A folder as `avatar create` leaves it, after one step."""
    folder = tmp_path_factory.mktemp("me")
    fit(small_capture, folder / "me.run", replace(PRESETS["smoke"], steps=1))
    shutil.copyfile(folder / "me.run" / "avatar.avatar", folder / "me.avatar")
    shutil.copytree(small_capture.path, folder / "me.capture")
    return folder


def test_a_fit_writes_the_reach_of_its_training_frames(home, small_capture) -> None:
    avatar = Avatar.load(home / "me.avatar")
    measured = reach_of(small_capture.track, avatar.rest, training_frames(small_capture))
    found = reach_in(avatar.header)
    assert found is not None
    for name in ("head_low", "head_high", "gaze_low", "gaze_high"):
        assert getattr(found, name) == pytest.approx(getattr(measured, name), abs=1e-5)


def test_the_capture_is_looked_up_where_the_avatar_carries_nothing(home, tmp_path) -> None:
    avatar = Avatar.load(home / "me.avatar")
    drive = str(turning_file(tmp_path))
    assert own_capture("self", avatar, home) is not None
    assert own_capture(drive, avatar, home) is None  # it need not be opened
    del avatar.header[HEADER_KEY]  # an avatar of an earlier version
    own = own_capture(drive, avatar, home)
    assert own is not None
    driven = open_source(drive, avatar, track=own.track)
    limit = reach_of(own.track, avatar.rest).head_high[0] + MARGIN
    assert yaw(list(driven.states())[-1], avatar) == pytest.approx(limit, abs=0.01)
    avatar.header["source_sha256"] = "another clip's"
    assert own_capture(drive, avatar, home) is None


def test_a_broken_capture_stops_self_alone(home, tmp_path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(home, folder)
    avatar = Avatar.load(folder / "me.avatar")
    del avatar.header[HEADER_KEY]
    header = json.loads((folder / "me.capture" / "capture.json").read_text())
    (folder / "me.capture" / "capture.json").write_text(json.dumps(header | {"version": 999}))
    assert own_capture("take.csv", avatar, folder) is None
    with pytest.raises(InputError, match="version"):
        own_capture("self", avatar, folder)
