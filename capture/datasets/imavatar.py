"""IMavatar's folders (PointAvatar's and MonoGaussianAvatar's too), and FlashAvatar's pictures.

IMavatar's public layout, one folder a clip, any of them in one data set::

    CLIP/flame_params.json    intrinsics [4] · shape_params [100] · frames [{file_path "./image/1",
                              expression [50], pose [15], world_mat [3, 4], bbox}]
    CLIP/image/1.png · CLIP/mask/1.png · CLIP/semantic/1.png

``pose`` is axis-angle of head, neck, jaw and both eyes. A point p of FLAME's space falls on
u = c + f X / Z with X, Y, Z = world_mat (p, 1) and intrinsics f_x, f_y, c_x, c_y as shares of the picture's
sides; signs of f and Z say which way the axes point, so that nothing need be assumed of them.

FlashAvatar keeps pictures in ``imgs`` and masks in ``alpha``; its head parameters are ``.frame`` files, which
are pickles and are not read.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from avatar.checks import InputError
from capture.datasets.description import (
    DataSet,
    HeadParameters,
    Lens,
    Part,
    Shot,
    assembled,
    natural,
)
from capture.datasets.reading import PICTURE_SUFFIXES, Fields, read_json
from capture.datasets.transforms import picture_size, read_fps

PARAMETERS = "flame_params.json"
CAMERA = "cam0"
NORMALISED = 4.0
"""A principal point beyond this is meant in pixels, not in shares of the picture's sides."""


def parameter_files(folder: Path) -> list[Path]:
    """Return the files of a data set's clips: its own, or those of the folders in it, test clips last."""
    if (folder / PARAMETERS).is_file():
        return [folder / PARAMETERS]
    found = [path for depth in ("*", "*/*") for path in folder.glob(f"{depth}/{PARAMETERS}")]

    def order(path: Path) -> tuple[bool, tuple[tuple[int, int, str], ...]]:
        return _part(path, folder) == "test", natural(path.as_posix())

    return sorted(found, key=order)


def _part(path: Path, folder: Path) -> Part:
    return "test" if "test" in path.relative_to(folder).parent.parts else "train"


def read_imavatar(folder: Path, fps: float | None = None) -> DataSet:
    """Read IMavatar's layout, its clips one after the other; raises InputError naming file and key."""
    files = parameter_files(folder)
    placed: list[tuple[float, str, Shot]] = []
    parameters: list[dict[str, np.ndarray]] = []
    shape: np.ndarray | None = None
    head: dict[str, object] = {}
    for path in files:
        value = read_json(path)
        head = head or {"fps": value.get("fps")}
        top = Fields(value, path)
        intrinsics = top.array("intrinsics", (4,))
        if "shape_params" in top and shape is None:
            shape = top.array("shape_params", (-1,), (1, -1)).ravel()
        frames = value.get("frames")
        if not isinstance(frames, list) or not frames:
            raise top.wrong("frames", "is missing or empty", "a list of pictures was expected")
        entries = [Fields(frame, path, f"frames[{i}]") for i, frame in enumerate(frames)]
        entries.sort(key=lambda entry: natural(entry.text("file_path")))
        size: tuple[int, int] | None = None
        for entry in entries:
            picture = entry.picture("file_path", path.parent)
            size = size or picture_size(picture)
            lens, T = _camera(entry, intrinsics, size)
            mask = picture.parent.parent / "mask" / f"{picture.stem}.png"
            shot = Shot(picture, lens, T, mask if mask.is_file() else None, _part(path, folder))
            placed.append((float(len(placed)), CAMERA, shot))
            parameters.append(
                {
                    "expr": entry.array("expression", (-1,), (1, -1)).ravel(),
                    "pose": entry.array("pose", (15,), (1, 15)).ravel(),
                }
            )
            if len(parameters[-1]["expr"]) != len(parameters[0]["expr"]):
                raise entry.wrong(
                    "expression",
                    f"has {len(parameters[-1]['expr'])} numbers",
                    f"{len(parameters[0]['expr'])} were expected, as in the first frame",
                )
    rate, notes = read_fps(head, files[0], fps)
    cameras, shots = assembled(placed, files[0])
    pose = np.stack([one["pose"] for one in parameters]).astype(np.float32)
    flame = HeadParameters(
        shape=np.zeros(100, np.float32) if shape is None else shape.astype(np.float32),
        expr=np.stack([one["expr"] for one in parameters]).astype(np.float32),
        rotation=pose[:, :3],
        neck_pose=pose[:, 3:6],
        jaw_pose=pose[:, 6:9],
        eyes_pose=pose[:, 9:],
        translation=np.zeros_like(pose[:, :3]),
        valid=np.ones(len(pose), bool),
    )
    more = "The head is this data set's world; it is taken to move before a still camera."
    return DataSet(
        "imavatar", folder, cameras, shots, rate, metric=True, head=flame, notes=(*notes, more)
    )


def _camera(
    entry: Fields, intrinsics: np.ndarray, size: tuple[int, int]
) -> tuple[Lens, np.ndarray]:
    """Turn u = c + f X / Z of any signs into a camera with OpenCV's axes."""
    given = entry.array("world_mat", (3, 4), (4, 4))[:3]
    fx, fy, cx, cy = intrinsics
    if max(abs(cx), abs(cy)) <= NORMALISED:
        fx, cx, fy, cy = fx * size[0], cx * size[0], fy * size[1], cy * size[1]
    depth = given[2, 3]  # of FLAME's origin, which lies in the head: the camera looks at it
    if min(abs(fx), abs(fy)) < 1 or max(abs(fx), abs(fy)) > 1e7 or abs(depth) < 1e-6:
        raise entry.wrong(
            "world_mat",
            "and intrinsics draw no picture",
            "a focal length and a distance were expected",
        )
    z = np.sign(depth)
    signs = np.array([np.sign(fx) * z, np.sign(fy) * z, z])
    flipped = Fields({"world_mat": (signs[:, None] * given).tolist()}, entry.path, entry.where)
    K = np.array([[abs(fx), 0, cx], [0, abs(fy), cy], [0, 0, 1.0]])
    return Lens(K, size), flipped.rigid("world_mat")


FLASH_PICTURES, FLASH_MASKS = "imgs", "alpha"


def read_flashavatar(folder: Path, fps: float | None = None) -> DataSet:
    """Read FlashAvatar's pictures and masks; raises InputError where there are none."""
    pictures = sorted(
        (p for p in (folder / FLASH_PICTURES).iterdir() if p.suffix.lower() in PICTURE_SUFFIXES),
        key=lambda path: natural(path.name),
    )
    if not pictures:
        raise InputError(
            f"{folder / FLASH_PICTURES} holds no pictures ({', '.join(PICTURE_SUFFIXES)}). Get the data set "
            f"again."
        )
    masks = {path.stem: path for path in (folder / FLASH_MASKS).glob("*.*")}
    placed = [
        (float(i), CAMERA, Shot(path, None, np.eye(4), masks.get(path.stem)))
        for i, path in enumerate(pictures)
    ]
    cameras, shots = assembled(placed, folder)
    rate, notes = read_fps({}, folder, fps)
    return DataSet(
        "flashavatar",
        folder,
        cameras,
        shots,
        rate,
        notes=(
            *notes,
            "FlashAvatar's head parameters are pickles (.frame) and are not read; pictures and masks are.",
        ),
    )
