"""From a data set to a capture: the stages that stand in for decoding a clip.

``make_data_frames`` does for all cameras what ``capture.ingesting.make_frames`` does for a clip, and
``make_data_masks`` what ``capture.matting.make_masks`` does for a given one; landmarks, tracking and the report
are the clips' own. Pictures are read one by one and never kept.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from avatar.capture_data import Landmarks
from avatar.checks import InputError
from avatar.flame_data import FLAME_FILE, FlameTrack
from avatar.tensorfile import write_json
from avatar.types import Progress, Reporter
from capture.datasets.description import DataSet, HeadParameters
from capture.datasets.pictures import PicturePlan, plan_pictures
from capture.folder import fresh_folder, key_of, write_image
from capture.following import Followed, store_and_follow
from capture.ingest import MIN_FPS, MIN_FRAMES, ClipInfo
from capture.ingesting import LOST_S, spells
from capture.matting import looks_of
from capture.quality import FrameLook, look_at_face
from capture.threads import Writer, prefetched
from capture.timeline import ranges_of
from capture.track.footage import Calibration

PER_FRAME = ("expr", "rotation", "neck_pose", "jaw_pose", "eyes_pose", "translation", "valid")
HEAD_ARRAYS = ("shape", *PER_FRAME)

AHEAD = 3
"""Pictures that are decoded ahead, and that wait to be written."""


def plan_cameras(data_set: DataSet, max_side: int) -> tuple[PicturePlan, ...]:
    """Decide how all cameras' pictures are stored.

    Raises:
        InputError: too few or too slow frames, several cameras that move, or pictures that cannot be.
    """
    if len(data_set) < MIN_FRAMES:
        raise InputError(
            f"{data_set.folder} has {len(data_set)} time steps; a capture needs at least {MIN_FRAMES}. "
            f"Give a longer part of the data set."
        )
    if data_set.fps < MIN_FPS:
        raise InputError(
            f"{data_set.folder} is at {data_set.fps:g} frames/s; at least {MIN_FPS:g} are needed to see "
            f"blinks and speech. If it is faster, say so with --fps."
        )
    if data_set.moving and len(data_set.cameras) > 1:
        moving = next(c.name for c in data_set.cameras if c.T_cam_world is None)
        raise InputError(
            f"{data_set.folder}: camera {moving!r} moves among {len(data_set.cameras)} cameras, and several "
            f"cameras can be read only where they stand still. Name one with --only, or leave it out."
        )
    return tuple(plan_pictures(data_set, k, max_side) for k in range(len(data_set.cameras)))


def calibration_of(data_set: DataSet, plans: Sequence[PicturePlan]) -> Calibration | None:
    """Return the known cameras, in pixels of stored pictures; None where any is not known.

    A single camera that moves with the frame stands still here, at the world's origin: the head's motion
    is the tracker's to find.
    """
    K = [plan.K for plan in plans]
    if any(one is None for one in K):
        return None
    T = [np.eye(4) if c.T_cam_world is None else c.T_cam_world for c in data_set.cameras]
    return Calibration(
        names=tuple(camera.name for camera in data_set.cameras),
        sizes=tuple(plan.size for plan in plans),
        K=torch.from_numpy(np.stack([one for one in K if one is not None])),
        T_cam_world=torch.from_numpy(np.stack(T)),
        metric=data_set.metric,
    )


def make_data_frames(
    data_set: DataSet, plans: Sequence[PicturePlan], output: Path, report: Reporter
) -> list[dict[str, Any]]:
    """Write every camera's pictures and the main person's points, the split, and FLAME's numbers.

    Returns:
        Of each camera what ``make_frames`` returns of a clip, its ``name``, and ``missing``: ranges of frames without a picture.

    Raises:
        InputError: no face in any picture, or a picture that cannot be read.
    """
    if (output / "frames").exists():
        shutil.rmtree(output / "frames")
    for path in (*output.glob("landmarks*.safetensors"), output / "audio.wav"):
        path.unlink(missing_ok=True)
    for name in ("track.safetensors", "splits.json", FLAME_FILE):
        (output / name).unlink(missing_ok=True)
    values = [_one_camera(data_set, k, plan, output, report) for k, plan in enumerate(plans)]
    if not sum(one["faces"] for one in values):
        raise InputError(
            f"{data_set.folder} shows no face in any of its pictures. Check that it is a data set of a head, "
            f"in colour, the face towards a camera."
        )
    splits, note = data_set.splits()
    write_json(output / "splits.json", asdict(splits))
    _keep_flame(data_set, plans, output)
    values[0]["warnings"] = [*data_set.notes, *filter(None, [note]), *values[0]["warnings"]]
    return values


def _one_camera(
    data_set: DataSet, camera: int, plan: PicturePlan, output: Path, report: Reporter
) -> dict[str, Any]:
    start = time.perf_counter()
    frames, cameras = len(data_set), len(data_set.cameras)
    seen = store_and_follow(
        plan.pictures(),
        plan.size,
        fresh_folder(output / "frames", camera),
        lambda done: report(Progress("ingest", camera * frames + done, cameras * frames)),
    )
    face = seen.face
    face.landmarks.save(output / f"landmarks{camera or ''}.safetensors")
    return {
        "name": plan.name,
        "frames": frames,
        "fps": data_set.fps,
        "width": plan.size[0],
        "height": plan.size[1],
        "audio": False,
        "camera": camera,
        "missing": ranges_of(plan.missing),
        "faces": int(face.landmarks.valid.sum()),
        "frames_with_others": face.frames_with_others,
        "frames_of_others": list(face.frames_of_others),
        "cuts": seen.cuts,
        "warnings": [*plan.notes, *_warnings(plan, seen, data_set.fps, cameras)],
        "seconds": {
            "ingest": time.perf_counter() - start - seen.detecting_s,
            "landmarks": seen.detecting_s,
        },
    }


def _warnings(plan: PicturePlan, seen: Followed, fps: float, cameras: int) -> list[str]:
    """Sentences on what was found in a camera's pictures."""
    warnings, cuts = [], seen.cuts
    if cuts:
        times = ", ".join(f"{cut / fps:.1f} s" for cut in cuts[:3])
        more = f" and {len(cuts) - 3} more" if len(cuts) > 3 else ""
        warnings.append(
            f"Camera {plan.name}: other sequences begin at {times}{more}. The parts that show the same face "
            f"are used."
        )
    known = seen.face.landmarks.valid.numpy().copy()
    known[plan.missing] = True
    lost = spells(~known, fps, LOST_S)
    if lost and cameras == 1:  # of several, others see it
        times = ", ".join(f"{a:.1f} to {b:.1f} s" for a, b in lost[:3])
        warnings.append(
            f"The face is not found from {times}{' and on' if len(lost) > 3 else ''}: those frames are left "
            f"out."
        )
    return warnings


def _keep_flame(data_set: DataSet, plans: Sequence[PicturePlan], output: Path) -> None:
    head = data_set.head
    if head is None or any(plan.K is None for plan in plans):
        return
    T = np.tile(np.eye(4), (len(data_set), len(plans), 1, 1))
    for k, camera in enumerate(data_set.cameras):
        for frame, row in enumerate(data_set.shots):
            shot = row[k]
            own = camera.T_cam_world if shot is None else shot.T_cam_world
            if own is not None:
                T[frame, k] = own
    values = {
        name: torch.from_numpy(np.ascontiguousarray(getattr(head, name))) for name in HEAD_ARRAYS
    }
    offset = head.static_offset
    FlameTrack(
        **values,
        K=torch.from_numpy(np.stack([plan.K for plan in plans if plan.K is not None])),
        T_cam_flame=torch.from_numpy(T),
        static_offset=None if offset is None else torch.from_numpy(offset),
    ).save(output / FLAME_FILE)


def make_data_masks(
    plan: PicturePlan, camera: int, output: Path, report: Reporter
) -> dict[str, Any]:
    """Write the masks that the data set has of a camera; returns what ``make_masks`` returns."""
    start = time.perf_counter()
    folder = fresh_folder(output / "masks", camera)
    landmarks = Landmarks.load(output / f"landmarks{camera or ''}.safetensors")
    points, valid = landmarks.points.numpy(), landmarks.valid.numpy()
    frames = [frame for frame, shot in enumerate(plan.shots) if shot is not None]
    looks: list[FrameLook | None] = [None] * len(plan.shots)
    masks = (plan.mask(frame) for frame in frames)
    with Writer(AHEAD) as writer, prefetched(masks, AHEAD) as ahead:
        for done, (frame, mask) in enumerate(zip(frames, ahead, strict=True), 1):
            options = [cv2.IMWRITE_PNG_COMPRESSION, 1]
            writer.put(write_image, folder / f"{frame:06d}.png", mask, options)
            if valid[frame]:
                stored = cv2.imread(str(output / "frames" / f"cam{camera}" / f"{frame:06d}.jpg"))
                looks[frame] = look_at_face(cv2.cvtColor(stored, cv2.COLOR_BGR2RGB), points[frame])
            report(Progress("matte", done, len(frames)))
    return {
        "looks": looks_of(looks),
        "background": None,
        "seconds": {"matte": time.perf_counter() - start},
    }


def source_hash(data_set: DataSet) -> str:
    """Return the SHA-256 of what a data set says, and of its pictures' names, sizes and times."""
    digest = hashlib.sha256()
    said = [
        data_set.layout,
        [(c.name, None if c.lens is None else c.lens.K.tolist()) for c in data_set.cameras],
        data_set.fps,
        None if data_set.head is None else float(np.abs(data_set.head.expr).sum()),
    ]
    digest.update(key_of(*said).encode())
    for row in data_set.shots:
        for shot in row:
            if shot is None:
                digest.update(b"-")
                continue
            digest.update(shot.part.encode() + shot.T_cam_world.tobytes())
            for path in filter(None, (shot.picture, shot.mask)):
                state = path.stat()
                digest.update(f"{path.name} {state.st_size} {state.st_mtime_ns}".encode())
    return digest.hexdigest()


def only_camera(data_set: DataSet, name: str | None) -> DataSet:
    """Return the data set with one camera alone, and the frames that it has a picture of.

    Raises:
        InputError: no camera of that name, or several and none named.
    """
    names = [camera.name for camera in data_set.cameras]
    if name is None and len(names) == 1:
        return data_set
    if name not in names:
        known = ", ".join(names[:20]) + (" ..." if len(names) > 20 else "")
        asked = "has several" if name is None else f"has no camera {name!r}; it has"
        raise InputError(
            f"{data_set.folder} {asked} cameras: {known}. Name one of them with --only NAME."
        )
    k = names.index(name)
    return replace(
        data_set,
        cameras=(data_set.cameras[k],),
        shots=tuple((row[k],) for row in data_set.shots if row[k] is not None),
        head=_head_of(data_set, k),
    )


def _head_of(data_set: DataSet, k: int) -> HeadParameters | None:
    if data_set.head is None:
        return None
    kept = np.array([row[k] is not None for row in data_set.shots])
    return replace(data_set.head, **{n: getattr(data_set.head, n)[kept] for n in PER_FRAME})


def clip_of(data_set: DataSet, plan: PicturePlan) -> ClipInfo:
    """Describe a camera's pictures as a clip is described, for capture.json and the report."""
    width, height = plan.source_size
    first = next(shot for shot in plan.shots if shot is not None)
    return ClipInfo(
        path=data_set.folder,
        codec=f"{data_set.layout} data set, {first.picture.suffix[1:].lower()} pictures",
        pixel_format="",
        source_width=width,
        source_height=height,
        source_fps=data_set.fps,
        source_frames=len(data_set),
        duration_s=len(data_set) / data_set.fps,
        start_s=0.0,
        rotation=0,
        mirrored=False,
        hdr=False,
        variable_rate=False,
        interlaced=False,
        has_audio=False,
        width=plan.size[0],
        height=plan.size[1],
        fps=data_set.fps,
        frames=len(data_set),
    )
