"""A capture as a data set for other trainers: nerfstudio's layout, and one like VHAP's.

Both describe a picture by ``file_path`` and ``transform_matrix``: OpenGL camera axes (y up, z backwards) to the
world. A folder appears whole or not at all; see docs/datasets.md for what each file holds.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from torch import Tensor

from avatar.capture_data import UNIT_GAIN, Capture
from avatar.checks import InputError
from avatar.export.sequence import new_folder
from avatar.export.start_cloud import start_cloud, write_cloud
from avatar.flame_data import FlameTrack, find_flame
from avatar.rotations import invert_rigid, transform_points
from avatar.tensorfile import write_bytes, write_json
from avatar.types import Progress, Reporter, ignore_progress

OPENGL = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))
"""OpenCV camera axes to OpenGL's, and back."""
MADE_BY = "headsplat"
"""What ``made_by`` says in the transforms files of a folder that --overwrite may replace."""
OPAQUE = 128
"""Masks are cut here: nerfstudio's are black or not."""
JPEG = (
    cv2.IMWRITE_JPEG_QUALITY, 95,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
)  # fmt: skip
"""As captures store pictures: full chroma, for lips and irises."""

Background = Literal["as filmed", "transparent"] | tuple[float, float, float]


@dataclass(frozen=True)
class DatasetOptions:
    """How a capture is written out."""

    head_fixed: bool | None = None
    """The head is the world and cameras move around it, so that what learns static scenes learns the head;
    None does so for one camera. nerfstudio's layout alone."""
    link: bool = False
    """Link pictures and masks to the capture's instead of copying them."""
    background: Background = "as filmed"
    """Pictures as they are, with masks beside them; or the person alone, transparent around (PNG) or on a
    colour, and no masks. nerfstudio's layout alone."""
    frames: int | None = None
    """Time steps at most."""
    overwrite: bool = False
    """Replace an earlier export."""


@dataclass(frozen=True)
class Exported:
    """What was written."""

    pictures: int
    steps: int
    """Time steps with a picture."""
    cameras: int
    head_fixed: bool
    flame: bool
    """Whether FLAME parameters are in it."""


def export_nerfstudio(
    capture: Capture,
    output: Path,
    options: DatasetOptions = DatasetOptions(),
    report: Reporter = ignore_progress,
) -> Exported:
    """Write ``transforms.json``, pictures, masks and a point cloud to start from.

    Frames without a tracked face are left out where the head is fixed; they have no head to be fixed to.

    Raises:
        InputError: no frame can be written, or the folder is there and must not be replaced.
    """
    track, count = capture.track, len(capture.cameras)
    fixed = count == 1 if options.head_fixed is None else options.head_fixed
    shown = _shots(capture, options.frames, tracked=fixed)
    frames: list[dict[str, Any]] = []
    named: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    last = max(shown[-1][0], 1)
    with new_folder(output, overwrite=options.overwrite, strange=_strange) as folder:
        for done, (frame, camera) in enumerate(shown, 1):
            T = track.T_cam_world[camera].double()
            if fixed:
                T = T @ track.T_world_head[frame].double()
            stem = f"cam{camera}/{frame:06d}"
            entry = _picture(capture, frame, camera, folder, stem, options)
            entry |= {
                "transform_matrix": _opengl(T),
                "time": frame / last,
                "timestep_index": frame,
                "camera_index": camera,
                "camera_id": f"cam{camera}",
            }
            if count > 1:
                entry |= _intrinsics(track.K[camera], capture.cameras[camera].size)
            frames.append(entry)
            named[_part(capture, frame)].append(entry["file_path"])
            report(Progress("export", done, len(shown)))
        write_cloud(folder / "points.ply", *_cloud(capture, fixed))
        shared = _intrinsics(track.K[0], capture.cameras[0].size) if count == 1 else {}
        value = {
            "made_by": MADE_BY,
            "camera_model": "PINHOLE",
            **shared,
            "fps": capture.fps,
            "metric": True,
            "head_fixed": fixed,
            "ply_file_path": "points.ply",
            **{f"{part}_filenames": names for part, names in named.items()},
            "frames": frames,
        }
        write_json(folder / "transforms.json", value)
        write_bytes(folder / "README.txt", _nerfstudio_readme(fixed).encode())
    steps = len({frame for frame, _ in shown})
    return Exported(len(shown), steps, count, fixed, False)


def export_vhap_like(
    capture: Capture,
    output: Path,
    options: DatasetOptions = DatasetOptions(),
    report: Reporter = ignore_progress,
) -> Exported:
    """Write the layout of VHAP's exports, with FLAME parameters where the capture has them.

    A capture without them gets the parameters of this program's own rig, in files named after it.

    Raises:
        InputError: no frame can be written, a damaged flame.safetensors, or the folder is there and must not
            be replaced.
    """
    flame = find_flame(capture.path, frames=capture.frames, cameras=len(capture.cameras))
    shown = _shots(capture, options.frames, tracked=True)
    if flame is not None:
        shown = [pair for pair in shown if flame.valid[pair[0]]]
        if not shown:
            raise InputError(
                f"{capture.path}: flame.safetensors has parameters of no tracked frame. Capture the data set "
                f"again, or remove that file to export the lattice's parameters."
            )
    kind = "lattice_param" if flame is None else "flame_param"
    parts: dict[str, list[dict[str, Any]]] = {"train": [], "val": [], "test": []}
    with new_folder(output, overwrite=options.overwrite, strange=_strange) as folder:
        (folder / kind).mkdir()
        written: set[int] = set()
        for done, (frame, camera) in enumerate(shown, 1):
            K, T = _vhap_camera(capture, flame, frame, camera)
            stem = f"{frame:05d}_{camera:02d}"
            entry = _files(capture, frame, camera, folder, stem, "fg_masks", options.link)
            parameters = f"{kind}/{frame:05d}.npz"
            if frame not in written:
                values = _lattice(capture, frame) if flame is None else _flame(flame, frame)
                write_npz(folder / parameters, values)
                written.add(frame)
            entry = {
                "timestep_index": frame,
                "timestep_id": f"{frame:05d}",
                "camera_index": camera,
                "camera_id": f"{camera:02d}",
                "file_path": entry["file_path"],
                "fg_mask_path": entry["mask_path"],
                f"{kind}_path": parameters,
                "transform_matrix": _opengl(T),
                **_intrinsics(K, capture.cameras[camera].size),
            }
            parts[_part(capture, frame)].append(entry)
            report(Progress("export", done, len(shown)))
        canonical = _lattice_canonical(capture) if flame is None else _flame_canonical(flame)
        write_npz(folder / f"canonical_{kind}.npz", canonical)
        for part, entries in (*parts.items(), ("", [one for p in parts.values() for one in p])):
            if not entries and part:
                continue
            steps = sorted({entry["timestep_index"] for entry in entries})
            name = f"transforms{'_' if part else ''}{part}.json"
            value = {
                "made_by": MADE_BY,
                "fps": capture.fps,
                "camera_indices": sorted({entry["camera_index"] for entry in entries}),
                "timestep_indices": steps,
                "frames": entries,
            }
            write_json(folder / name, value)
        write_bytes(folder / "README.txt", _vhap_readme(flame is not None).encode())
    steps = len({frame for frame, _ in shown})
    return Exported(len(shown), steps, len(capture.cameras), False, flame is not None)


def _shots(capture: Capture, limit: int | None, *, tracked: bool) -> list[tuple[int, int]]:
    """Return the (frame, camera) pairs to write, by frame and then camera."""
    valid = capture.track.valid.bool()
    frames = [f for f in range(capture.frames) if not tracked or bool(valid[f])]
    shown = [
        (frame, k)
        for frame in frames[:limit]
        for k, camera in enumerate(capture.cameras)
        if frame not in camera.missing
    ]
    if not shown:
        raise InputError(
            f"{capture.path} has no frame with a tracked face, so there is nothing to export. Capture again, "
            f"the face in view."
        )
    return shown


def _part(capture: Capture, frame: int) -> str:
    """The part of a frame: validation frames are not among training's, as trainers expect."""
    splits = capture.splits
    if splits.test[0] <= frame < splits.test[1]:
        return "test"
    return "val" if splits.validation[0] <= frame < splits.validation[1] else "train"


def _opengl(T_cam_world: Tensor) -> list[list[float]]:
    """Return the camera-to-world matrix with OpenGL's camera axes, as lists."""
    return (invert_rigid(T_cam_world.double()) @ OPENGL).tolist()


def _intrinsics(K: Tensor, size: tuple[int, int]) -> dict[str, Any]:
    (fx, _, cx), (_, fy, cy) = K.double().tolist()[:2]
    angles = {
        "camera_angle_x": 2 * float(np.arctan(size[0] / (2 * fx))),
        "camera_angle_y": 2 * float(np.arctan(size[1] / (2 * fy))),
    }
    sides = {"w": size[0], "h": size[1]}
    return {"fl_x": fx, "fl_y": fy, "cx": cx, "cy": cy, **sides, **angles}


def _picture(
    capture: Capture, frame: int, camera: int, folder: Path, stem: str, options: DatasetOptions
) -> dict[str, Any]:
    """Write a picture of nerfstudio's layout, and its mask where the background is kept."""
    if options.background == "as filmed":
        return _files(capture, frame, camera, folder, stem, "masks", options.link)
    picture, mask = capture.frame(frame, camera), capture.mask(frame, camera)
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    if options.background == "transparent":
        name = f"images/{stem}.png"
        _encode(folder / name, np.dstack([bgr, mask]), [cv2.IMWRITE_PNG_COMPRESSION, 3])
        return {"file_path": name}
    alpha = mask[..., None].astype(np.float32) / 255
    behind = 255 * np.array(options.background[::-1], np.float32)
    name = f"images/{stem}.jpg"
    _encode(folder / name, np.round(bgr * alpha + behind * (1 - alpha)).astype(np.uint8), JPEG)
    return {"file_path": name}


def _files(
    capture: Capture, frame: int, camera: int, folder: Path, stem: str, masks: str, link: bool
) -> dict[str, str]:
    """Put a frame's picture and mask in place; return their paths in the folder."""
    source = capture.frame_path(frame, camera)
    names = {"file_path": f"images/{stem}{source.suffix}", "mask_path": f"{masks}/{stem}.png"}
    picture, mask = (folder / name for name in names.values())
    if capture.cameras[camera].gain != UNIT_GAIN:  # colours are matched as they are read
        bgr = cv2.cvtColor(capture.frame(frame, camera), cv2.COLOR_RGB2BGR)
        _encode(picture, bgr, JPEG)
    else:
        _place(source, picture, link)
    if masks == "masks":
        cut = np.where(capture.mask(frame, camera) >= OPAQUE, np.uint8(255), np.uint8(0))
        _encode(mask, cut, [cv2.IMWRITE_PNG_COMPRESSION, 3])
    else:
        _place(capture.mask_path(frame, camera), mask, link)
    return names


def _place(source: Path, target: Path, link: bool) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if not source.is_file():
        raise InputError(
            f"{source} is missing from the capture. Run the avatar capture that made it again."
        )
    if link:
        os.symlink(source.resolve(), target)
    else:
        shutil.copyfile(source, target)


def _encode(path: Path, image: np.ndarray, options: Sequence[int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    good, content = cv2.imencode(path.suffix, image, list(options))
    assert good
    path.write_bytes(content.tobytes())


def _cloud(capture: Capture, fixed: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return points of the head and their colours, in the export's world."""
    frame, points, colours = start_cloud(capture)
    if not fixed:
        points = transform_points(capture.track.T_world_head[frame], points)
    return points.numpy(), colours


def _vhap_camera(
    capture: Capture, flame: FlameTrack | None, frame: int, camera: int
) -> tuple[Tensor, Tensor]:
    """Return K and T_cam_world: those in whose world the parameters place the head."""
    if flame is None:
        return capture.track.K[camera], capture.track.T_cam_world[camera]
    return flame.K[camera], flame.T_cam_flame[frame, camera]


def _flame(flame: FlameTrack, frame: int) -> dict[str, np.ndarray]:
    names = ("expr", "rotation", "neck_pose", "jaw_pose", "eyes_pose", "translation")
    values = {name: getattr(flame, name)[frame : frame + 1].numpy() for name in names}
    return {**_flame_canonical(flame), **values}


def _flame_canonical(flame: FlameTrack) -> dict[str, np.ndarray]:
    values = {"shape": flame.shape.numpy()}
    if flame.static_offset is not None:
        values["static_offset"] = flame.static_offset[None].numpy()
    return values


def _lattice(capture: Capture, frame: int) -> dict[str, np.ndarray]:
    track = capture.track
    names = ("expression", "gaze", "T_world_head", "T_world_torso")
    return {name: getattr(track, name)[frame].numpy() for name in names}


def _lattice_canonical(capture: Capture) -> dict[str, np.ndarray]:
    track = capture.track
    arrays = {name: getattr(track, name).numpy() for name in ("lattice", "basis", "eyeballs")}
    return {**arrays, "expression_names": np.array(track.expression_names)}


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays of numbers and texts; nothing is pickled."""
    assert all(array.dtype.kind in "biufU" for array in arrays.values())
    np.savez(path, **arrays)


def _strange(folder: Path) -> str | None:
    """Name what keeps a folder from being replaced; None where it is an export of this program."""
    try:
        value = json.loads((folder / "transforms.json").read_bytes())
        if isinstance(value, dict) and value.get("made_by") == MADE_BY:
            return None
    except (OSError, ValueError, RecursionError):
        pass
    return next((entry.name for entry in sorted(folder.iterdir())), None)


def _nerfstudio_readme(fixed: bool) -> str:
    world = (
        "The head is the world: each picture's camera is where it stood from the head, so that a method for\n"
        "static scenes learns the head (what does not move with it, torso and background, blurs)."
        if fixed
        else "The head moves in the world, the cameras stand still: for methods that take time (time, from 0 "
        "to 1)."
    )
    return (
        "A capture of a head, written by headsplat for nerfstudio.\n\n"
        f"{world}\nMetres; head frame: x to the subject's left, y up, z out of the face.\n\n"
        "transforms.json  cameras, pictures, split (train_, val_, test_filenames)\n"
        "images/          pictures\n"
        "masks/           white on the person, black is ignored in training\n"
        "points.ply       points of the head to start from\n\n"
        "  ns-train splatfacto --data THIS_FOLDER\n"
    )


def _vhap_readme(flame: bool) -> str:
    first = (
        "flame_param/     FLAME parameters of each time step, as they came with the data set that was captured\n"
        if flame
        else "lattice_param/   this program's own rig, NOT FLAME: expression [E] (the first 52 are ARKit's, by\n"
        "                 expression_names), gaze [2, 2] radians, T_world_head and T_world_torso [4, 4]\n"
        "canonical_lattice_param.npz   lattice [478, 3] metres, basis [E, 478, 3], eyeballs, expression_names\n"
        "                 A point of the face: T_world_head (lattice + sum of expression * basis).\n"
        "                 Trainers that need flame_param cannot read it; those that need cameras, pictures and\n"
        "                 masks can.\n"
    )
    return (
        "A capture of a head, written by headsplat in the layout of VHAP's exports.\n\n"
        "transforms_train.json, transforms_val.json, transforms_test.json   pictures and cameras; OpenGL axes\n"
        "images/          TIMESTEP_CAMERA.jpg\n"
        "fg_masks/        white on the person, soft edges\n"
        f"{first}"
    )
