"""True novel views: an avatar of one camera, looked at from another camera of a rendered clip.

The track of one camera lives in a world of its own: its metric scale and its focal length are what
one view cannot tell apart from a head further away. Both are taken for what they are, a gauge: one
factor brings the tracked distances to the true ones, and the other cameras' focal lengths are
multiplied by the ratio of the tracked to the true one. Everything else is the cameras' true
relative pose, and nothing is fitted to the novel pictures.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from avatar.capture_data import Capture, on_white, shrunk
from avatar.checks import InputError
from avatar.model.avatar import Avatar
from avatar.raster import rasterize
from avatar.rotations import invert_rigid, matrix_to_rotvec, rigid
from avatar.train.evaluate import PictureListener, trained_side
from avatar.train.metrics import psnr, ssim
from avatar.train.regions import RegionErrors, label_regions
from avatar.types import Camera, Progress, Reporter, ignore_progress

KEYS = ("K", "world_to_camera_R", "world_to_camera_t_cm", "landmarks68_cm")
CORNERS_68 = (36, 39, 42, 45)
"""Eye corners among the 68 landmarks of the iBUG scheme, from the subject's right to the left."""
CORNERS_LATTICE = (33, 133, 362, 263)
"""The same points of the lattice."""
SAME_CLIP = 0.03
"""Largest median distance of the true eye corners from the detected ones, share of the picture's
width, at which a capture is taken to be filmed by one of the truth's cameras."""


@dataclass(frozen=True)
class CameraRig:
    """The true cameras of a rendered clip, and points of the head that they see."""

    K: torch.Tensor
    """[3, 3] pixels; the same for all cameras, principal point in the picture's middle."""
    T_cam_world: torch.Tensor
    """[C, 4, 4] metres."""
    corners_m: torch.Tensor
    """[F, 4, 3] eye corners in the world, metres."""

    @staticmethod
    def load(path: Path) -> CameraRig:
        """Read the truth.npz of a rendered multi-camera clip; raises InputError saying what is wrong."""
        remedy = "Give the truth.npz of a rendered clip of several cameras."
        try:
            with np.load(path, allow_pickle=False) as file:
                values = {key: file[key] for key in KEYS if key in file.files}
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise InputError(
                f"{path} cannot be read as a truth file ({error}). {remedy}"
            ) from error
        if missing := [key for key in KEYS if key not in values]:
            raise InputError(f"{path} has no {', '.join(missing)}. {remedy}")
        numbers = {key: torch.from_numpy(value.astype(np.float64)) for key, value in values.items()}
        return CameraRig(
            K=numbers["K"],
            T_cam_world=rigid(numbers["world_to_camera_R"], numbers["world_to_camera_t_cm"] / 100),
            corners_m=numbers["landmarks68_cm"][:, list(CORNERS_68)] / 100,
        )

    def corners_seen(self, camera: int) -> torch.Tensor:
        """Return the eye corners [F, 4, 3] in a camera's frame, metres."""
        T = self.T_cam_world[camera]
        return self.corners_m @ T[:3, :3].T + T[:3, 3]


@dataclass(frozen=True)
class NovelView:
    """A camera that the avatar was not fitted to."""

    name: str
    """What to call it."""
    camera: int
    """Which of the rig's cameras."""
    clip: Any
    """Called without arguments, gives an iterator of (picture uint8 [H, W, 3], mask uint8 [H, W]),
    one pair for every frame of the capture."""


def filmed_by(capture: Capture, rig: CameraRig) -> int | None:
    """Return the rig's camera that filmed a capture, by where it sees the eyes; None for another clip."""
    track = capture.track
    if len(track) != len(rig.corners_m):
        return None
    valid = track.valid.bool()
    if not valid.any():
        return None
    found = track.landmarks_px[valid][:, list(CORNERS_LATTICE)].double()
    scale = capture.width / (2 * float(rig.K[0, 2]))
    errors = []
    for camera in range(len(rig.T_cam_world)):
        points = rig.corners_seen(camera)[valid] @ rig.K.T
        pixels = points[..., :2] / points[..., 2:].clamp(min=1e-6) * scale
        errors.append(float(torch.linalg.norm(pixels - found, dim=-1).median()))
    best = int(np.argmin(errors))
    return best if errors[best] <= SAME_CLIP * capture.width else None


def true_scale(capture: Capture, rig: CameraRig, camera: int) -> float:
    """Return how many true metres a tracked metre is: the median over valid training frames.

    Compared is the distance from the camera to the middle of the eye corners, a point that truth
    and track both know; the head frames' own origins differ.

    Raises:
        InputError: no training frame is valid.
    """
    track = capture.track
    begin, end = capture.splits.train
    frames = torch.nonzero(track.valid[begin:end])[:, 0] + begin
    if len(frames) == 0:
        raise InputError(
            f"{capture.path} has no valid training frame, so its scale cannot be told. Capture the "
            "clip again."
        )
    moved = torch.einsum("fe,evc->fvc", track.expression[frames], track.basis)
    corners = (track.lattice + moved)[:, list(CORNERS_LATTICE)].mean(1)
    T = track.T_cam_world[track.main] @ track.T_world_head[frames]
    middle = torch.einsum("fij,fj->fi", T[:, :3, :3], corners) + T[:, :3, 3]
    tracked = torch.linalg.norm(middle.double(), dim=1)
    true = torch.linalg.norm(rig.corners_seen(camera)[frames].mean(1), dim=1)
    return float((true / tracked).median())


def calibration_errors(capture: Capture, rig: CameraRig) -> dict[str, float]:
    """Return how far a capture's own cameras are from the true ones, as they stand to each other.

    Args:
        capture: filmed by all cameras of the rig, in its order.
        rig: the true cameras.

    Returns:
        ``rotation_deg``: largest angle between the cameras' true and own rotations relative to the main
        one. ``centre_share``: largest distance of a camera's centre from its true place, after the best
        common scale, as a share of the main camera's distance from the eyes.

    Raises:
        InputError: the numbers of cameras differ.
    """
    main, own = capture.track.main, capture.track.T_cam_world.double()
    if len(own) != len(rig.T_cam_world):
        raise InputError(
            f"{capture.path} has {len(own)} cameras and the truth {len(rig.T_cam_world)}. Give the truth of "
            "the clips that were captured, all of them and in their order."
        )
    from_main = [T @ invert_rigid(T[main])[None] for T in (own, rig.T_cam_world)]
    turn = matrix_to_rotvec(from_main[0][:, :3, :3].transpose(1, 2) @ from_main[1][:, :3, :3])
    found, true = (-(T[:, :3, :3].transpose(1, 2) @ T[:, :3, 3:])[..., 0] for T in from_main)
    scale = float((found * true).sum() / found.square().sum().clamp(min=1e-12))
    apart = torch.linalg.norm(scale * found - true, dim=1).max()
    distance = torch.linalg.norm(rig.corners_seen(main).mean(1), dim=1).median()
    return {
        "rotation_deg": round(float(torch.linalg.norm(turn, dim=1).max().rad2deg()), 4),
        "centre_share": round(float(apart / distance), 5),
    }


def novel_camera(
    capture: Capture, rig: CameraRig, trained: int, novel: int, scale: float
) -> Camera:
    """Return a camera of the rig in the capture's world, at the stored frames' size.

    X_novel = T_novel_trained (true) x scale x X_trained; pictures do not change when everything is
    divided by ``scale``, so that it is the distance between the cameras that is.

    Args:
        capture: filmed by camera ``trained`` of the rig.
        rig: the true cameras.
        trained: which one filmed the capture.
        novel: which one to return.
        scale: true metres of a tracked metre.
    """
    track = capture.track
    T_novel_trained = rig.T_cam_world[novel] @ invert_rigid(rig.T_cam_world[trained])
    T_novel_trained[:3, 3] /= scale
    # All cameras of the rig are alike, so what the tracker made of one focal length holds for each.
    T = T_novel_trained.to(track.T_cam_world.dtype) @ track.T_cam_world[track.main]
    return Camera(track.K[track.main], T, capture.width, capture.height)


def measure_view(
    avatar: Avatar,
    capture: Capture,
    rig: CameraRig,
    view: NovelView,
    *,
    picture: PictureListener | None = None,
    report: Reporter = ignore_progress,
) -> dict[str, Any]:
    """Compare an avatar with what another camera saw, person on white, on the capture's valid frames.

    Args:
        avatar: fitted to ``capture``.
        capture: filmed by one of the rig's cameras.
        rig: the true cameras.
        view: the other camera and its pictures.
        picture: is given every held-out pair of pictures.
        report: listener of progress, stage "novel view".

    Returns:
        ``view``, ``camera``, ``trained_camera``, ``scale``; ``psnr`` and ``ssim`` over the held-out
        frames, ``psnr_all`` and ``ssim_all`` over all; ``frames`` held out; ``regions`` over the
        held-out frames as in ``evaluate``, labelled by the track as it is seen from there.

    Raises:
        InputError: the capture was filmed by none of the cameras, there is no such camera, or the clip
            is shorter than the capture.
    """
    trained = filmed_by(capture, rig)
    if trained is None:
        raise InputError(
            f"{capture.path} was filmed by none of the truth's cameras. Give the truth of the clip that "
            "was captured, whole."
        )
    if not 0 <= view.camera < len(rig.T_cam_world):
        raise InputError(
            f"{view.name}: the truth has cameras 0 to {len(rig.T_cam_world) - 1}; got {view.camera}."
        )
    scale = true_scale(capture, rig, trained)
    camera = novel_camera(capture, rig, trained, view.camera, scale)
    size = capture.size_within(trained_side(avatar) or max(capture.width, capture.height))
    track, camera, white = capture.track, camera.scaled(*size), torch.ones(3)
    states = track.states()
    begin, end = capture.splits.test
    rows: dict[str, list[float]] = {"psnr": [], "ssim": [], "psnr_all": [], "ssim_all": []}
    regions = RegionErrors()
    pairs: Iterator[tuple[np.ndarray, np.ndarray]] = view.clip()
    frame = -1
    for frame, (filmed, mask) in zip(range(capture.frames), pairs, strict=False):
        if not track.valid[frame]:
            continue
        filmed, mask = shrunk(filmed, size), shrunk(mask, size)
        truth = torch.from_numpy(on_white(filmed, mask))
        with torch.no_grad():
            image = rasterize(avatar.pose(states[frame]), camera, background=white).rgb.clamp(0, 1)
        values = {"psnr": psnr(image, truth), "ssim": ssim(image, truth)}
        for name, value in values.items():
            rows[f"{name}_all"].append(value)
        if begin <= frame < end:
            for name, value in values.items():
                rows[name].append(value)
            labels = label_regions(states[frame], track.lattice, track.basis, camera, mask)
            regions.add(image, truth, labels)
            if picture is not None:
                picture(frame, *((p * 255).round().byte().numpy() for p in (truth, image)))
        report(Progress("novel view", frame + 1, capture.frames))
    if frame + 1 < capture.frames:
        raise InputError(
            f"{view.name} has {frame + 1} pictures, the capture {capture.frames}. Give the clip that "
            "was filmed at the same time, whole, and its mask clip."
        )
    means = {k: round(float(np.mean(v)), 4) if v else None for k, v in rows.items()}
    return {
        "view": view.name,
        "camera": view.camera,
        "trained_camera": trained,
        "scale": round(scale, 4),
        "frames": len(rows["psnr"]),
        **means,
        "regions": regions.result(),
    }
