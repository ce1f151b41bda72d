"""Folders of numbered files appear whole or not at all; motion at another rate is the same motion."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from avatar.checks import InputError
from avatar.export.sequence import at_rate, new_folder, numbered, write_png
from avatar.rotations import matrix_to_rotvec, rigid, rotvec_to_matrix
from avatar.types import HeadState


def test_the_folder_is_there_when_all_of_it_is(tmp_path: Path) -> None:
    target = tmp_path / "frames"
    with new_folder(target) as folder:
        for i in range(3):
            (folder / numbered(i, ".png")).write_bytes(b"x")
        assert not target.exists()
    assert sorted(p.name for p in target.iterdir()) == ["000000.png", "000001.png", "000002.png"]
    assert list(tmp_path.iterdir()) == [target]
    umask = os.umask(0)
    os.umask(umask)
    assert target.stat().st_mode & 0o777 == 0o777 & ~umask


@pytest.mark.parametrize("error", [InputError, KeyboardInterrupt, OSError])
def test_after_an_error_the_old_folder_is_as_it_was(tmp_path: Path, error: type) -> None:
    target = tmp_path / "frames"
    target.mkdir()
    (target / "000007.png").write_bytes(b"old")
    with pytest.raises(error), new_folder(target, overwrite=True) as folder:
        (folder / "000000.png").write_bytes(b"new")
        raise error("broken off")
    assert list(tmp_path.iterdir()) == [target]
    assert [p.read_bytes() for p in target.iterdir()] == [b"old"]


def test_a_folder_with_something_in_it_is_replaced_only_when_told_to(tmp_path: Path) -> None:
    target = tmp_path / "frames"
    target.mkdir()
    with new_folder(target) as folder:  # empty: nothing is lost
        (folder / "000000.png").write_bytes(b"first")
    with pytest.raises(InputError, match="--overwrite"), new_folder(target):
        pass
    assert (target / "000000.png").read_bytes() == b"first"
    with new_folder(target, overwrite=True) as folder:
        (folder / "000001.compressed.ply").write_bytes(b"second")
    assert [p.name for p in target.iterdir()] == ["000001.compressed.ply"]
    assert list(tmp_path.iterdir()) == [target]


def test_a_full_disk_is_told_with_the_folders_own_name(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"frames'$") as caught, new_folder(tmp_path / "frames") as f:
        raise OSError(errno.ENOSPC, "No space left on device", str(f / "000001.png"))
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["letters.txt", "000001.png.bak1", "1.png", "sub"])
def test_overwrite_never_deletes_what_was_not_exported(tmp_path: Path, name: str) -> None:
    target = tmp_path / "home"
    target.mkdir()
    (target / "000000.png").write_bytes(b"frame")
    (target / name).mkdir() if name == "sub" else (target / name).write_bytes(b"dear")
    with pytest.raises(InputError, match=name), new_folder(target, overwrite=True):
        pass
    assert (target / name).exists()
    assert list(tmp_path.iterdir()) == [target]


def test_what_is_put_there_while_rendering_is_not_lost(tmp_path: Path) -> None:
    target = tmp_path / "frames"
    with pytest.raises(InputError, match="not empty"), new_folder(target) as folder:
        (folder / "000000.png").write_bytes(b"ours")
        target.mkdir()
        (target / "mine.txt").write_bytes(b"theirs")
    assert (target / "mine.txt").read_bytes() == b"theirs"
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_in_the_way_and_a_missing_parent_are_named(tmp_path: Path) -> None:
    (tmp_path / "frames").write_bytes(b"a file")
    with pytest.raises(InputError, match="frames is no folder"), new_folder(tmp_path / "frames"):
        pass
    with pytest.raises(InputError, match="cannot be written"), new_folder(tmp_path / "no" / "way"):
        pass
    link, target = tmp_path / "link", tmp_path / "target"
    target.mkdir()
    link.symlink_to(target)
    with pytest.raises(InputError, match="link is no folder"), new_folder(link, overwrite=True):
        pass


def test_ctrl_c_leaves_nothing_half_written(tmp_path: Path) -> None:
    """The real signal, to a real process in the middle of a folder."""
    program = (
        "import sys, time; from pathlib import Path\n"
        "from avatar.export.sequence import new_folder\n"
        "with new_folder(Path(sys.argv[1])) as folder:\n"
        "    (folder / '000000.png').write_bytes(b'x')\n"
        "    print('begun', flush=True)\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "frames")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    assert len(list(tmp_path.iterdir())) == 1
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    process.wait(30)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("channels", [3, 4])
def test_pngs_come_back_exactly(tmp_path: Path, channels: int) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (7, 5, channels)).astype(np.uint8)
    write_png(tmp_path / "a.png", picture)
    back = Image.open(tmp_path / "a.png")
    assert back.format == "PNG"
    np.testing.assert_array_equal(np.asarray(back), picture)
    with pytest.raises(InputError, match="cannot be written"):
        write_png(tmp_path / "missing" / "a.png", picture)


def motion(times: torch.Tensor) -> HeadState:
    """A steady motion: everything linear in time, turns of constant speed."""
    t = times.float()
    turn = torch.stack([0.1 * t, 0.7 * t, -0.2 * t], 1)
    pose = rigid(rotvec_to_matrix(turn), t[:, None] * torch.tensor([0.1, 0, -0.05]))
    return HeadState(
        t[:, None] * torch.linspace(0, 0.3, 54),
        t[:, None, None] * torch.ones(2, 2) * 0.1,
        pose,
        pose,
    )


@settings(max_examples=60, deadline=None)
@given(
    frames=st.integers(1, 90),
    fps=st.sampled_from([23.976, 24.0, 25.0, 29.97, 30.0, 60.0]),
    wanted=st.one_of(st.sampled_from([24.0, 25.0, 30.0, 50.0, 60.0]), st.floats(1.0, 240.0)),
)
def test_another_rate_shows_the_same_motion(frames: int, fps: float, wanted: float) -> None:
    states = at_rate(motion(torch.arange(frames) / fps), fps, wanted)
    count, length = len(states), (frames - 1) / fps
    assert (count - 1) / wanted <= length + 1e-5
    assert count / wanted > length - 1e-5
    expected = motion((torch.arange(count) / wanted).clamp(max=length))
    assert torch.allclose(states.expression, expected.expression, atol=1e-4)
    assert torch.allclose(states.gaze, expected.gaze, atol=1e-4)
    R = states.T_world_head[:, :3, :3].transpose(1, 2) @ expected.T_world_head[:, :3, :3]
    assert float(matrix_to_rotvec(R).abs().max()) < 2e-3
    assert torch.allclose(states.T_world_torso, expected.T_world_torso, atol=2e-3)


def test_rates_and_motions_that_are_none_are_refused() -> None:
    states = motion(torch.arange(3) / 25)
    for bad in ((states[:0], 25.0, 30.0), (states, 0.0, 30.0), (states, 25.0, -1.0)):
        with pytest.raises(ValueError, match="at_rate"):
            at_rate(*bad)
    assert at_rate(states, 25.0, 25.0) is states
