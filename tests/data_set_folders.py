"""Miniatures of public data set layouts, written by their public descriptions and not by the program's code."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIDE = 16
FOCAL = 40.0


def pose(angle: float = 0.2, distance: float = 0.8) -> list[list[float]]:
    """Camera to world, OpenGL axes: turned by an angle about y, looking at the origin."""
    c, s = math.cos(angle), math.sin(angle)
    return [[c, 0, s, distance * s], [0, 1, 0, 0.02], [-s, 0, c, distance * c], [0, 0, 0, 1]]


def opencv(c2w: Sequence[Sequence[float]]) -> np.ndarray:
    """World to camera, OpenCV axes, of ``pose``'s matrix: by columns, as the conventions are documented."""
    m = np.array(c2w)
    rows = np.stack([m[:3, 0], -m[:3, 1], -m[:3, 2]])  # right, down, forward
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = rows, -rows @ m[:3, 3]
    return T


def draw(
    path: Path, frame: int, *, size: tuple[int, int] = (SIDE, SIDE), mode: str = "RGB"
) -> None:
    """Write a picture that differs from frame to frame."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0], *(() if mode == "L" else (len(mode),)))
    values = (np.arange(np.prod(shape)).reshape(shape) * 7 + 13 * frame) % 256
    if mode == "RGBA":
        values[..., 3] = 255 * (np.arange(size[0]) < size[0] // 2)
    Image.fromarray(values.astype(np.uint8), mode).save(path)


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))


def nerfstudio(folder: Path, frames: int = 6, cameras: int = 1, **top: Any) -> Path:
    entries = []
    for frame in range(frames):
        for camera in range(cameras):
            name = f"images/{camera}_{frame:03d}.png"
            draw(folder / name, frame)
            entries.append(
                {
                    "file_path": name,
                    "transform_matrix": pose(0.3 * camera),
                    "time": frame / max(frames - 1, 1),
                }
            )
    head = {
        "camera_model": "OPENCV",
        "fl_x": FOCAL,
        "fl_y": FOCAL,
        "cx": 8,
        "cy": 8,
        "w": SIDE,
        "h": SIDE,
    }
    write_json(folder / "transforms.json", {**head, **top, "frames": entries})
    return folder


def blender(folder: Path) -> Path:
    """D-NeRF's form of Blender's: angles, no suffixes, a file for each part."""
    for part, first, count in (("train", 0, 5), ("val", 5, 1), ("test", 6, 2)):
        entries = []
        for k in range(first, first + count):
            draw(folder / part / f"r_{k:03d}.png", k, mode="RGBA")
            entries.append(
                {
                    "file_path": f"./{part}/r_{k:03d}",
                    "time": k / 7,
                    "rotation": 0.1,
                    "transform_matrix": pose(),
                }
            )
        write_json(folder / f"transforms_{part}.json", {"camera_angle_x": 0.6, "frames": entries})
    return folder


def flame_values(frame: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(frame)
    sizes = {
        "expr": 100,
        "rotation": 3,
        "neck_pose": 3,
        "jaw_pose": 3,
        "eyes_pose": 6,
        "translation": 3,
    }
    values = {name: rng.normal(size=(1, n)).astype(np.float32) * 0.1 for name, n in sizes.items()}
    shape = np.linspace(-1, 1, 300, dtype=np.float32)
    return {**values, "shape": shape, "static_offset": np.full((1, 5143, 3), 1e-4, np.float32)}


def vhap(folder: Path, steps: int = 6, cameras: int = 2) -> Path:
    """Time steps 0 .. steps - 3 train, the last two test; the last camera is held out."""
    (folder / "flame_param").mkdir(parents=True)
    parts: dict[str, list[dict[str, Any]]] = {"train": [], "val": [], "test": []}
    for step in range(steps):
        np.savez(folder / "flame_param" / f"{step:05d}.npz", **flame_values(step))
        for camera in range(cameras):
            stem = f"{step:05d}_{camera:02d}.png"
            draw(folder / "images" / stem, step)
            draw(folder / "fg_masks" / stem, step, mode="L")
            part = "test" if step >= steps - 2 else "val" if camera == cameras - 1 else "train"
            parts[part].append(
                {
                    "timestep_index": step,
                    "timestep_id": f"frame_{step:05d}",
                    "camera_index": camera,
                    "camera_id": f"2222000{camera}",
                    "cx": 8.0,
                    "cy": 8.0,
                    "fl_x": FOCAL,
                    "fl_y": FOCAL,
                    "w": SIDE,
                    "h": SIDE,
                    "camera_angle_x": 0.4,
                    "transform_matrix": pose(0.3 * camera),
                    "file_path": f"images/{stem}",
                    "fg_mask_path": f"fg_masks/{stem}",
                    "flame_param_path": f"flame_param/{step:05d}.npz",
                }
            )
    for part, entries in parts.items():
        write_json(folder / f"transforms_{part}.json", {"frames": entries})
    np.savez(folder / "canonical_flame_param.npz", **flame_values(0))
    return folder


def insta(folder: Path, frames: int = 6) -> Path:
    """The last two frames test; one camera that moves around the head."""
    parts: dict[str, list[dict[str, Any]]] = {"train": [], "test": []}
    for kind in ("exp", "eyes", "jaw"):
        (folder / "flame" / kind).mkdir(parents=True)
    for k in range(1, frames + 1):
        stem = f"{k:05d}"
        draw(folder / "images" / f"{stem}.png", k)
        draw(folder / "matted" / f"{stem}.png", k, mode="RGBA")
        draw(folder / "seg_mask" / f"{stem}.png", k)
        np.savetxt(folder / "flame" / "exp" / f"{stem}.txt", np.linspace(0, 0.1 * k, 100))
        turn = 0.1 * k  # about x: the matrix's first two rows
        rows = [1, 0, 0, 0, math.cos(turn), -math.sin(turn)]
        np.savetxt(folder / "flame" / "jaw" / f"{stem}.txt", rows)
        np.savetxt(folder / "flame" / "eyes" / f"{stem}.txt", [0.1, 0.2, 0.3, -0.1, -0.2, -0.3])
        parts["test" if k > frames - 2 else "train"].append(
            {
                "file_path": f"images/{stem}.png",
                "seg_mask_path": f"seg_mask/{stem}.png",
                "depth_path": f"depth/{stem}.png",
                "mesh_path": f"meshes/{stem}.obj",
                "exp_path": f"flame/exp/{stem}.txt",
                "eyes_path": f"flame/eyes/{stem}.txt",
                "transform_matrix": pose(0.05 * k),
            }
        )
    head = {
        "fl_x": FOCAL,
        "fl_y": FOCAL,
        "cx": 8,
        "cy": 8,
        "w": SIDE,
        "h": SIDE,
        "camera_angle_x": 0.4,
    }
    head |= {"integer_depth_scale": 0.001, "x_offset": 0, "y_offset": 0}
    for part, entries in parts.items():
        write_json(folder / f"transforms_{part}.json", {**head, "frames": entries})
    write_json(folder / "transforms_val.json", {**head, "frames": parts["test"]})
    (folder / "canonical.obj").write_text("v 0 0 0\n")
    return folder


def imavatar(folder: Path, frames: int = 4) -> Path:
    """Two clips: a training one and a test one; a camera that looks down its own -z, fx negative."""
    for clip, first in (("MVI_1/train", 1), ("MVI_2/test", 1)):
        home = folder / clip
        entries = []
        for k in range(first, first + frames):
            draw(home / "image" / f"{k}.png", k)
            draw(home / "mask" / f"{k}.png", k, mode="L")
            entries.append(
                {
                    "file_path": f"./image/{k}",
                    "world_mat": [[1, 0, 0, 0.01], [0, 1, 0, -0.02], [0, 0, 1, -0.5 - 0.01 * k]],
                    "expression": [0.01 * k] * 50,
                    "pose": [0.1 * j for j in range(15)],
                    "bbox": [-0.5, 0.5, -0.5, 0.5],
                    "flame_keypoints": [[0.0, 0.0]] * 68,
                }
            )
        value = {
            "shape_params": [0.5] * 100,
            "intrinsics": [-2.5, 2.5, 0.5, 0.5],
            "frames": entries,
        }
        write_json(home / "flame_params.json", value)
    return folder


def flashavatar(folder: Path, frames: int = 4) -> Path:
    for k in range(1, frames + 1):
        draw(folder / "imgs" / f"{k:05d}.jpg", k)
        draw(folder / "alpha" / f"{k:05d}.jpg", k, mode="L")
        draw(folder / "parsing" / f"{k:05d}_mouth.png", k, mode="L")
    return folder


MINIATURES: dict[str, Callable[[Path], Path]] = {
    "nerfstudio": nerfstudio,
    "vhap": vhap,
    "insta": insta,
    "imavatar": imavatar,
    "flashavatar": flashavatar,
}
