"""Scores of tracking against a known truth: exact where the answer is known by construction."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import roma
import torch
from rich.console import Console

from avatar.capture_data import Track
from avatar.checks import InputError
from avatar.rig.arkit import ARKIT_INDEX, ARKIT_NAMES
from avatar.rig.arkit_basis import generic_arkit_basis
from avatar.rig.lattice import eyeball_centres, lattice_table
from capture.bench_track import Truth, bench_track, print_rows, score

FRAMES = 120
FPS = 25.0


def turn(yaw_deg: np.ndarray | float, pitch_deg: np.ndarray | float = 0.0) -> np.ndarray:
    """Rotations [F, 3, 3] of a head: yaw about y, then pitch about x."""
    yaw, pitch = np.broadcast_arrays(np.atleast_1d(yaw_deg), np.atleast_1d(pitch_deg))
    vector = np.zeros((2, len(yaw), 3))
    vector[0, :, 1], vector[1, :, 0] = np.radians(yaw), np.radians(pitch)
    about = roma.rotvec_to_rotmat(torch.from_numpy(vector)).numpy()
    return about[0] @ about[1]


def yaws() -> np.ndarray:
    return 40 * np.sin(np.arange(FRAMES) / FRAMES * 2 * np.pi)


def weights() -> np.ndarray:
    """Truth curves [F, 4]: jawOpen, both halves of browInnerUp, and one eyeLook."""
    t = np.arange(FRAMES) / FPS
    jaw = 0.5 + 0.5 * np.sin(5 * t)
    return np.stack([jaw, jaw**2, np.zeros(FRAMES), 0.3 + 0.3 * np.cos(3 * t)], 1)


@pytest.fixture
def truth_file(tmp_path: Path) -> Path:
    """A head that turns before two cameras; the second stands to the side."""
    aside = turn(30.0)[0] @ np.diag([1.0, -1.0, -1.0])
    path = tmp_path / "truth.npz"
    t = np.arange(FRAMES) / FPS
    np.savez(
        path,
        names=np.array(["jawOpen", "browInnerUp_L", "browInnerUp_R", "eyeLookOut_L"]),
        weights=weights(),
        head_rotation=turn(yaws()),
        head_translation_cm=np.stack([np.sin(t), np.cos(t), 0.5 * t], 1),
        neck_pivot_cm=np.array([0.0, -10.0, -4.0]),
        K=np.array([[800.0, 0, 256], [0, 800, 256], [0, 0, 1]]),
        world_to_camera_R=np.stack([np.diag([1.0, -1.0, -1.0]), aside]),
        world_to_camera_t_cm=np.array([[0.0, 0.0, 60.0], [5.0, 0.0, 70.0]]),
        fps=FPS,
    )
    return path


def track_of(truth: Truth, scale: float = 1.0, extra: np.ndarray | None = None) -> Track:
    """A track that knows the truth, in a head frame of its own, larger by ``scale``.

    ``extra`` [F, 3, 3] are errors of its rotation in the head's frame.
    """
    own = turn(7.0, -12.0)[0]
    T = np.tile(np.eye(4), (FRAMES, 1, 1))
    T[:, :3, :3] = truth.rotation @ own
    if extra is not None:
        T[:, :3, :3] = T[:, :3, :3] @ extra
    offset = np.array([0.01, 0.1, 0.05])
    T[:, :3, 3] = scale * truth.position_m + truth.rotation @ offset
    curves = weights()
    expression = torch.zeros(FRAMES, len(ARKIT_NAMES))
    expression[:, ARKIT_INDEX["jawOpen"]] = torch.from_numpy(0.5 * curves[:, 0] + 0.1).float()
    neutral = lattice_table().neutral
    return Track(
        K=torch.tensor([[[880.0, 0, 256], [0, 880, 256], [0, 0, 1]]]),
        T_cam_world=torch.eye(4)[None],
        lattice=neutral,
        basis=generic_arkit_basis(),
        eyeballs=eyeball_centres(neutral),
        expression=expression,
        gaze=torch.zeros(FRAMES, 2, 2),
        T_world_head=torch.from_numpy(T),
        T_world_torso=torch.from_numpy(T),
        landmarks_px=torch.zeros(FRAMES, 478, 2),
        residual_px=torch.ones(FRAMES),
        valid=torch.ones(FRAMES, dtype=torch.bool),
        expression_names=ARKIT_NAMES,
        rig="lattice",
        fps=FPS,
    )


@pytest.mark.parametrize("camera", [0, 1])
def test_a_constant_offset_and_scale_are_no_error(truth_file: Path, camera: int) -> None:
    truth = Truth.load(truth_file, camera)
    found = score(track_of(truth, scale=1.1), truth, camera)
    assert found["rotation_deg"] < 1e-4  # arccos near 1 keeps half of the digits
    assert found["rotation_jitter_deg"] < 1e-9
    assert found["translation_mm"] < 1e-6
    assert found["scale"] == pytest.approx(1.1)
    assert found["focal_ratio"] == pytest.approx(1.1)


def test_curves_have_correlation_and_slope(truth_file: Path) -> None:
    truth = Truth.load(truth_file)
    assert set(truth.curves) == {"jawOpen", "browInnerUp", "eyeLookOutLeft"}
    assert truth.curves["browInnerUp"] == pytest.approx(weights()[:, 1] / 2)
    found = score(track_of(truth), truth)
    assert found["curves"]["jawOpen"]["r"] == pytest.approx(1)
    assert found["curves"]["jawOpen"]["slope"] == pytest.approx(0.5)
    assert found["curves"]["browInnerUp"] == {"r": 0.0, "slope": 0.0}
    assert found["expression_r"] == pytest.approx(1 / 3)
    assert found["expression_r_core"] == pytest.approx(1 / 2)
    assert found["expression_slope_core"] == pytest.approx(0.25)
    assert found["gaze_r"] == 0


def test_the_error_budget_finds_where_the_error_is(truth_file: Path) -> None:
    truth = Truth.load(truth_file)
    nod = np.zeros(FRAMES)
    nod[30] = 4.0  # at the far left turn: yaw 40
    nod[90] = -4.0  # at the far right one; together they leave the constant offset alone
    found = score(track_of(truth, extra=turn(0.0, nod)), truth)
    budget = found["budget"]
    assert [w["frame"] for w in budget["worst"][:2]] in ([30, 90], [90, 30])
    assert budget["worst"][0]["rotation_deg"] == pytest.approx(4, abs=0.2)
    assert abs(budget["worst"][0]["yaw_deg"]) == pytest.approx(40, abs=0.1)
    assert len(budget["worst"]) == 5
    bins = {tuple(b["yaw_deg"]): b for b in budget["by_yaw"]}
    assert sum(b["frames"] for b in bins.values()) == FRAMES
    far = bins[(35.0, 180.0)]
    assert far["rotation_deg"] == pytest.approx(8 / far["frames"], rel=0.1)
    assert bins[(0.0, 8.0)]["rotation_deg"] < 0.05
    assert budget["rms_deg"]["pitch"] > 10 * budget["rms_deg"]["yaw"]
    # A lone error e has second differences e, -2e, e; two of them over FRAMES - 2.
    assert found["rotation_jitter_deg"] == pytest.approx((2 * 6 * 16 / 118) ** 0.5, rel=0.01)


def test_frames_that_are_not_valid_do_not_count(truth_file: Path) -> None:
    truth = Truth.load(truth_file)
    wrong = np.zeros(FRAMES)
    wrong[50:60] = 90.0
    track = track_of(truth, extra=turn(wrong))
    track.valid[50:60] = False
    assert score(track, truth)["rotation_deg"] < 1e-4
    track.valid[:] = False
    with pytest.raises(InputError, match="fewer than 3 valid"):
        score(track, truth)


def test_what_is_no_truth_is_named(truth_file: Path, tmp_path: Path) -> None:
    text = tmp_path / "truth.txt"
    text.write_text("not a truth")
    with pytest.raises(InputError, match=r"truth\.txt cannot be read"):
        Truth.load(text)
    with pytest.raises(InputError, match="has cameras 0 to 1"):
        Truth.load(truth_file, 2)
    np.savez(tmp_path / "half.npz", names=np.array(["jawOpen"]), weights=np.zeros((3, 1)))
    with pytest.raises(InputError, match=r"half\.npz has no head_rotation"):
        Truth.load(tmp_path / "half.npz")
    truth = Truth.load(truth_file)
    short = Truth(truth.rotation[:50], truth.position_m[:50], truth.focal_px, truth.curves)
    with pytest.raises(InputError, match="120 frames and the truth 50"):
        score(track_of(truth), short)
    with pytest.raises(InputError, match="at least one"):
        bench_track([])
    with pytest.raises(InputError, match="was not finished"):
        bench_track([tmp_path])


@pytest.mark.slow
def test_a_clip_is_captured_in_a_process_of_its_own(small_clip: Path) -> None:
    result = bench_track([small_clip])
    (row,) = result["rows"]
    assert row["frames"] == 60
    assert row["peak_mib"] > 200, "torch alone takes that much"
    assert row["wall_s"] >= row["seconds"]["total"] * 0.9
    shown = io.StringIO()
    print_rows(result, Console(file=shown, width=220))
    assert small_clip.name in shown.getvalue()
