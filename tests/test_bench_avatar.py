"""The bench of avatars: resumable, honest about what it is given; novel views are where they truly are."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from avatar.capture_data import CAPTURE_FORMAT, Capture, Track
from avatar.checks import InputError
from avatar.model.avatar import Avatar
from avatar.model.deformers import DEFORMERS
from avatar.raster import rasterize
from avatar.rotations import invert_rigid, rigid, rotvec_to_matrix, transform_points
from avatar.train.bench_avatar import (
    Sheet,
    bench_avatars,
    deformer_kinds,
    print_table,
    with_deformer,
)
from avatar.train.config import TrainConfig
from avatar.train.evaluate import EvaluateConfig
from avatar.train.novel_views import (
    CORNERS_68,
    CORNERS_LATTICE,
    CameraRig,
    NovelView,
    filmed_by,
    measure_view,
    novel_camera,
    true_scale,
)
from avatar.types import Camera, Gaussians, HeadState
from configs import PRESETS

FRAMES = 20
SCALE = 1.3
"""True metres of a metre in the world of the track."""
TRAINED, NOVEL = 1, 2
QUICK = EvaluateConfig(flip_frames=1, speed_frames=2)


@dataclass(frozen=True)
class Scene:
    """A small avatar filmed by one of three cameras, and all that is true about it."""

    avatar: Avatar
    capture: Capture
    truth: Path
    states: HeadState
    T_cam_world: torch.Tensor
    """[3, 4, 4] true cameras, metres."""

    def filmed(self, camera: int) -> Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]]:
        """What a true camera sees: the Gaussians themselves, in true metres, in the true world."""
        own = self.avatar.camera
        T_true_tracked = invert_rigid(self.T_cam_world[TRAINED])
        view = Camera(own.K, self.T_cam_world[camera], own.width, own.height)

        def clip() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for frame in range(FRAMES):
                posed = self.avatar.pose(self.states[frame])
                seen = transform_points(own.T_cam_world, posed.means) * SCALE
                R = T_true_tracked[:3, :3] @ own.T_cam_world[:3, :3]
                moved = Gaussians(
                    transform_points(T_true_tracked, seen),
                    rotated(R, posed.quats),
                    posed.scales * SCALE,
                    posed.opacities,
                    posed.colours,
                )
                output = rasterize(moved, view, background=torch.zeros(3))
                rgb, alpha = output.rgb.detach(), output.alpha.detach()
                colour = rgb / alpha.clamp(min=1e-3)[..., None]
                picture = (colour.clamp(0, 1) * 255).round().byte().numpy()
                yield picture, (alpha * 255).round().byte().numpy()

        return clip


def rotated(R: torch.Tensor, quats: torch.Tensor) -> torch.Tensor:
    from avatar.rotations import matrix_to_quat, quat_multiply

    return quat_multiply(matrix_to_quat(R).expand_as(quats), quats)


@pytest.fixture
def scene(tiny_avatar: Avatar, tmp_path: Path) -> Scene:
    torch.manual_seed(0)
    t = torch.linspace(0, 6, FRAMES)
    turn = torch.stack([0.1 * t.cos(), 0.3 * t.sin(), 0 * t], 1)
    T_head = rigid(rotvec_to_matrix(turn), torch.stack([0.02 * t.sin(), 0 * t, 0.03 * t.cos()], 1))
    expression = torch.zeros(FRAMES, len(tiny_avatar.expression_names))
    expression[:, 17] = t / 6
    states = HeadState(
        expression, torch.zeros(FRAMES, 2, 2), T_head, torch.eye(4).expand(FRAMES, 4, 4)
    )
    own = tiny_avatar.camera

    # The true world is turned and moved against the tracked one; cameras stand about the head.
    T_trained = rigid(
        rotvec_to_matrix(torch.tensor([3.0, 0.2, 0.1])), torch.tensor([0.1, 0.2, 0.9])
    )
    about = torch.tensor([0.0, 0.0, 0.6 * SCALE])  # the head, in the training camera's frame
    T_cams = []
    for yaw in (-0.5, 0.0, 0.35):
        R = rotvec_to_matrix(torch.tensor([0.1 * yaw, yaw, 0.0]))
        T_cams.append(rigid(R, about - R @ about) @ T_trained)
    T_cam_world = torch.stack(T_cams)

    moved = tiny_avatar.lattice + torch.einsum("fe,evc->fvc", expression, tiny_avatar.basis)
    corners = torch.stack(
        [
            transform_points(own.T_cam_world @ T_head[f], moved[f][list(CORNERS_LATTICE)])
            for f in range(FRAMES)
        ]
    )
    pixels = corners @ own.K.T
    points_px = torch.zeros(FRAMES, 478, 2)
    points_px[:, list(CORNERS_LATTICE)] = pixels[..., :2] / pixels[..., 2:]
    landmarks = torch.zeros(FRAMES, 68, 3)
    landmarks[:, list(CORNERS_68)] = transform_points(
        invert_rigid(T_trained), corners.reshape(-1, 3) * SCALE
    ).reshape(FRAMES, 4, 3)
    truth = tmp_path / "truth.npz"
    np.savez(
        truth,
        K=own.K.numpy(),
        world_to_camera_R=T_cam_world[:, :3, :3].numpy(),
        world_to_camera_t_cm=T_cam_world[:, :3, 3].numpy() * 100,
        landmarks68_cm=landmarks.numpy() * 100,
    )

    folder = tmp_path / "me.capture"
    folder.mkdir()
    header = {
        "format": CAPTURE_FORMAT,
        "version": 1,
        "frames": FRAMES,
        "fps": 25.0,
        "cameras": [{"width": own.width, "height": own.height}],
    }
    (folder / "capture.json").write_text(json.dumps(header))
    splits = {"train": [0, 14], "validation": [12, 14], "test": [14, FRAMES]}
    (folder / "splits.json").write_text(json.dumps(splits))
    Track(
        K=own.K[None],
        T_cam_world=own.T_cam_world[None],
        lattice=tiny_avatar.lattice,
        basis=tiny_avatar.basis,
        eyeballs=tiny_avatar.eyeballs,
        expression=expression,
        gaze=states.gaze,
        T_world_head=T_head,
        T_world_torso=states.T_world_torso,
        landmarks_px=points_px,
        residual_px=torch.zeros(FRAMES),
        valid=torch.ones(FRAMES, dtype=torch.bool),
        expression_names=tiny_avatar.expression_names,
        rig="lattice",
        fps=25.0,
    ).save(folder / "track.safetensors")
    tiny_avatar.requires_grad_(False)
    return Scene(tiny_avatar, Capture(folder), truth, states, T_cam_world)


def test_the_camera_that_filmed_and_the_scale_are_found(scene: Scene) -> None:
    rig = CameraRig.load(scene.truth)
    assert filmed_by(scene.capture, rig) == TRAINED
    assert true_scale(scene.capture, rig, TRAINED) == pytest.approx(SCALE, rel=1e-4)


@pytest.mark.parametrize("camera", [0, TRAINED, NOVEL])
def test_an_avatar_is_seen_from_another_camera_as_it_truly_is(scene: Scene, camera: int) -> None:
    rig = CameraRig.load(scene.truth)
    view = NovelView("other", camera, scene.filmed(camera))
    shown = []
    found = measure_view(
        scene.avatar, scene.capture, rig, view, picture=lambda f, *_: shown.append(f)
    )
    # Both are the same Gaussians; truth went through bytes and through another world's numbers.
    assert found["psnr"] > 40
    assert found["psnr_all"] > 40
    assert found["ssim"] > 0.99
    assert found["trained_camera"] == TRAINED
    assert found["frames"] == 6
    assert shown == list(range(14, FRAMES))


def test_without_the_scale_a_novel_view_is_elsewhere(scene: Scene) -> None:
    """The test above must be able to fail: at a scale of one the same pictures do not fit."""
    rig = CameraRig.load(scene.truth)
    white = torch.ones(3)
    pictures = [
        rasterize(
            scene.avatar.pose(scene.states[0]),
            novel_camera(scene.capture, rig, TRAINED, NOVEL, scale),
            background=white,
        ).rgb
        for scale in (SCALE, 1.0)
    ]
    mse = float((pictures[0] - pictures[1]).square().mean())
    assert -10 * np.log10(mse) < 20


def test_frames_that_are_not_valid_do_not_count_in_a_novel_view(scene: Scene) -> None:
    track = scene.capture.track
    valid = track.valid.clone()
    valid[[2, 15, 16]] = False
    scene.capture.__dict__["track"] = replace(track, valid=valid)
    view = NovelView("other", NOVEL, scene.filmed(NOVEL))
    found = measure_view(scene.avatar, scene.capture, CameraRig.load(scene.truth), view)
    assert found["frames"] == 4
    assert found["psnr"] > 40


def test_what_does_not_belong_together_is_refused(scene: Scene, tmp_path: Path) -> None:
    rig = CameraRig.load(scene.truth)
    filmed = scene.filmed(NOVEL)

    def measure(view: NovelView, rig: CameraRig = rig) -> None:
        measure_view(scene.avatar, scene.capture, rig, view)

    with pytest.raises(InputError, match="cameras 0 to 2; got 7"):
        measure(NovelView("other", 7, filmed))
    with pytest.raises(InputError, match="has 3 pictures, the capture 20"):
        measure(NovelView("short", NOVEL, lambda: iter(list(filmed())[:3])))
    elsewhere = replace(rig, corners_m=rig.corners_m + 0.3)
    with pytest.raises(InputError, match="filmed by none of the truth's cameras"):
        measure(NovelView("other", NOVEL, filmed), elsewhere)
    assert filmed_by(scene.capture, replace(rig, corners_m=rig.corners_m[:-1])) is None
    with pytest.raises(InputError, match=r"none\.npz cannot be read"):
        CameraRig.load(tmp_path / "none.npz")
    np.savez(tmp_path / "half.npz", K=np.eye(3))
    with pytest.raises(InputError, match=r"half\.npz has no world_to_camera_R"):
        CameraRig.load(tmp_path / "half.npz")


def test_kinds_of_deformers() -> None:
    assert deformer_kinds("all") == tuple(DEFORMERS)
    assert deformer_kinds(" blendshapes,blendshapes") == ("blendshapes",)
    for wrong in ("blendshape", "", "blendshapes,,"):
        with pytest.raises(InputError, match="is unknown; known are blendshapes"):
            deformer_kinds(wrong)
    config = with_deformer(TrainConfig(steps=7), "rigid")
    assert (config.steps, config.create.deformer) == (7, "rigid")


def test_finished_runs_are_measured_and_not_fitted_again(
    small_capture: Capture, tmp_path: Path
) -> None:
    config = replace(PRESETS["smoke"], steps=3)
    sheets: list[Sheet] = []

    def bench(config: TrainConfig) -> dict:
        return bench_avatars(
            [small_capture.path],
            config,
            ["blendshapes"],
            tmp_path,
            evaluation=QUICK,
            sheet=sheets.append,
        )

    first = bench(config)
    (row,) = first["rows"]
    file = tmp_path / "me-blendshapes.run" / "avatar.avatar"
    written = file.stat().st_mtime_ns
    assert row["bytes"] == file.stat().st_size
    assert row["fit_s"] > 0
    assert row["pose_ms"] > 0
    assert row["novel"] == []
    assert list(sheets[0].rows) == ["truth", "blendshapes"]
    assert 1 < len(sheets[0].rows["truth"]) <= 6
    again = bench(config)
    assert file.stat().st_mtime_ns == written
    assert again["rows"][0]["psnr"] == row["psnr"]
    assert again["rows"][0]["fit_s"] == row["fit_s"]
    other = bench(replace(config, steps=4))
    assert file.stat().st_mtime_ns > written
    assert other["rows"][0]["capture"] == "me"

    file.unlink()  # killed after its last checkpoint: gone on with, and finished
    resumed = bench(replace(config, steps=4))
    assert resumed["rows"][0]["psnr"] == other["rows"][0]["psnr"]

    shown = io.StringIO()
    print_table(first, Console(file=shown, width=130))
    assert f"{row['psnr']:.2f}" in shown.getvalue()


def test_novel_views_without_their_truth_or_capture_are_refused(
    small_capture: Capture, scene: Scene, tmp_path: Path
) -> None:
    def bench(captures: list[Path], **options) -> None:
        bench_avatars(captures, PRESETS["smoke"], ["blendshapes"], tmp_path / "out", **options)

    view = NovelView("other", NOVEL, scene.filmed(NOVEL))
    with pytest.raises(InputError, match="at least one"):
        bench([])
    with pytest.raises(InputError, match="belong together"):
        bench([small_capture.path], views=[view])
    with pytest.raises(InputError, match="None of the captures was filmed"):
        bench([small_capture.path], views=[view], rig=CameraRig.load(scene.truth))
    with pytest.raises(InputError, match="one name"):
        bench([small_capture.path, small_capture.path])
    assert not (tmp_path / "out").exists()


def test_the_command_prints_its_table_and_refuses_what_it_does_not_know(
    small_capture: Capture, tmp_path: Path
) -> None:
    from test_cli import fails_with_one_sentence, run

    options = ("bench", "avatar", small_capture.path, "-o", tmp_path, "--preset", "smoke")
    one = ("--steps", "2", "--deformers", "blendshapes")
    done = run(*options, *one)
    assert done.returncode == 0, done.stderr
    assert "PSNR dB" in done.stdout
    assert "blendshapes" in done.stdout
    assert (tmp_path / "me.jpg").is_file()
    read = run(*options, *one, "--json", "-")
    (row,) = json.loads(read.stdout)["rows"]
    assert f"{row['psnr']:.2f}" in done.stdout
    fails_with_one_sentence(run(*options, "--deformers", "magic"), "magic", "blendshapes")
    fails_with_one_sentence(run(*options, "--novel-view", "clip.mp4"), "CLIP:CAMERA:MASKCLIP")
