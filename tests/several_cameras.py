"""A capture of three cameras of different sizes, generated: a real avatar, drawn from three sides."""

from __future__ import annotations

import json
import math
from pathlib import Path

import cv2
import numpy as np
import torch
from conftest import make_avatar

from avatar.capture_data import (
    CAPTURE_FORMAT,
    CAPTURE_VERSION,
    RIG,
    Capture,
    CaptureCamera,
    Splits,
    Track,
)
from avatar.raster import rasterize
from avatar.rotations import rigid, rotvec_to_matrix
from avatar.types import HeadState, look_at

FRAMES = 30
MAIN = 1
SIZES = ((96, 96), (128, 96), (80, 120))
YAWS_DEG = (-55.0, 0.0, 50.0)
MISSING = (frozenset({0, 1, 2, 11}), frozenset({5, 6, 26}), frozenset({11, 20, 21, 28, 29}))


def make_capture(folder: Path, scale: int = 1) -> Capture:
    """Draw ``FRAMES`` frames into a capture folder; pictures that a camera lacks are not there.

    Args:
        folder: the folder to make.
        scale: pictures are so many times ``SIZES``.
    """
    person = make_avatar(4000)
    with torch.no_grad():
        person.logit_opacities.add_(3)
        person.log_scales.add_(0.6)
    names, white = person.expression_names, torch.ones(3)
    turn = torch.linspace(0, 2 * math.pi, FRAMES)
    poses = torch.stack([0.15 * turn.sin(), 0.3 * (2 * turn).cos(), 0 * turn], 1)
    T = rigid(rotvec_to_matrix(poses), torch.stack([0.01 * turn.cos(), 0 * turn, 0 * turn], 1))
    expression = torch.zeros(FRAMES, len(names))
    expression[:, names.index("jawOpen")] = 0.5 - 0.5 * (3 * turn).cos()
    states = HeadState(expression, torch.zeros(FRAMES, 2, 2), T, torch.eye(4).repeat(FRAMES, 1, 1))
    K, T_cam_world = [], []
    for (width, height), yaw in zip(SIZES, YAWS_DEG, strict=True):
        focal = 1.45 * min(width, height)
        intrinsic = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
        intrinsic[:2] *= scale
        K.append(intrinsic)
        angle = math.radians(yaw)
        eye = 0.6 * torch.tensor([math.sin(angle), 0.05, math.cos(angle)])
        T_cam_world.append(look_at(eye, torch.zeros(3)))
    valid = torch.ones(FRAMES, dtype=torch.bool)
    valid[9] = False
    track = Track(
        K=torch.stack(K),
        T_cam_world=torch.stack(T_cam_world),
        lattice=person.lattice,
        basis=person.basis,
        eyeballs=person.eyeballs,
        expression=expression,
        gaze=states.gaze,
        T_world_head=T,
        T_world_torso=states.T_world_torso,
        landmarks_px=torch.ones(FRAMES, 478, 2),
        residual_px=torch.zeros(FRAMES),
        valid=valid,
        expression_names=names,
        rig=RIG,
        fps=25.0,
        main=MAIN,
    )
    folder.mkdir(parents=True)
    track.save(folder / "track.safetensors")
    splits = Splits.default(FRAMES)
    (folder / "splits.json").write_text(json.dumps(splits.__dict__))
    cameras = [
        CaptureCamera(f"side{k}.mp4", scale * width, scale * height, MISSING[k]).to_json()
        for k, (width, height) in enumerate(SIZES)
    ]
    header = {"format": CAPTURE_FORMAT, "version": CAPTURE_VERSION, "frames": FRAMES, "fps": 25.0}
    header |= {"cameras": cameras, "main": MAIN, "source_sha256": "0" * 64}
    (folder / "capture.json").write_text(json.dumps(header))
    capture = Capture(folder)
    for k in range(len(SIZES)):
        capture.frame_path(0, k).parent.mkdir(parents=True)
        capture.mask_path(0, k).parent.mkdir(parents=True)
        for frame in set(range(FRAMES)) - MISSING[k]:
            with torch.no_grad():
                posed = person.pose(states[frame])
                drawn = rasterize(posed, capture.camera(k), background=white)
            picture = (drawn.rgb.clamp(0, 1) * 255).byte().numpy()
            cv2.imwrite(str(capture.frame_path(frame, k)), picture[..., ::-1].copy())
            mask = (drawn.alpha.clamp(0, 1) * 255).byte().numpy()
            cv2.imwrite(str(capture.mask_path(frame, k)), np.ascontiguousarray(mask))
    return capture
