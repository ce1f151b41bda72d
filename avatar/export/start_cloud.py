"""Points of a tracked head with their colours, from which Gaussian trainers start."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from avatar.capture_data import Capture
from avatar.checks import InputError
from avatar.export.splat_common import naming_path
from avatar.model.create import describe_person, hull, spread_frames, with_pictures
from avatar.model.create_views import Views
from avatar.rig.lattice import lattice_table
from avatar.tensorfile import write_bytes

FACE_POINTS = 6000
"""Points spread over the face's triangles beside the lattice's own: about 1.5 mm apart."""
HULL_VIEWS = 20
"""Frames whose masks carve the skull and hair."""
HULL_POINTS = 10000
"""Most points of skull and hair."""


def start_cloud(capture: Capture) -> tuple[int, Tensor, np.ndarray]:
    """Return points on face, skull and hair.

    The face is the neutral lattice; skull and hair are the visual hull of the main camera's masks, as in a
    fit's start. Colours are those of the most usual frame; what it does not show has its nearest edge's.

    Returns:
        The frame that the colours are of; points [n, 3] float32, head frame, metres; colours uint8 [n, 3].

    Raises:
        InputError: no frame with a tracked face has a picture of the main camera.
    """
    track = capture.track
    frames = with_pictures(capture, torch.nonzero(track.valid.bool())[:, 0], capture.main)
    if not len(frames):
        raise InputError(
            f"{capture.path}: the main camera has no picture with a tracked face, of which the points to start "
            "from are made. Capture again, the face in view."
        )
    person = describe_person(capture, frames)
    chosen = spread_frames(track, frames, HULL_VIEWS)
    apart = (track.T_world_head[frames] - person.rest.T_world_head).abs().amax((1, 2))
    usual = frames[int(apart.argmin())]
    chosen = torch.cat([usual[None], chosen[chosen != usual]])
    views = Views(capture, chosen)
    generator = torch.Generator().manual_seed(0)
    skin = track.lattice[lattice_table().triangles]
    area = torch.linalg.cross(skin[:, 1] - skin[:, 0], skin[:, 2] - skin[:, 0]).norm(dim=1)
    triangle = torch.multinomial(area, FACE_POINTS, replacement=True, generator=generator)
    r = torch.rand(FACE_POINTS, 2, generator=generator)
    root = r[:, 0].sqrt()
    weights = torch.stack([1 - root, root * (1 - r[:, 1]), root * r[:, 1]], 1)
    face = (skin[triangle] * weights[..., None]).sum(1)
    skull, _ = hull(person, views)
    if len(skull) > HULL_POINTS:
        skull = skull[torch.randperm(len(skull), generator=generator)[:HULL_POINTS]]
    points = torch.cat([track.lattice, face, skull]).float()
    colours = (255 * views.colours(points)).round().clamp(0, 255).to(torch.uint8)
    return int(usual), points, colours.numpy()


def write_cloud(path: Path, points: np.ndarray, colours: np.ndarray) -> None:
    """Write points [n, 3] and colours uint8 [n, 3] as a binary PLY point cloud, atomically."""
    names = [*((axis, "<f4") for axis in "xyz"), *((c, "u1") for c in ("red", "green", "blue"))]
    table = np.empty(len(points), names)
    for k, (name, _) in enumerate(names):
        table[name] = points[:, k] if k < 3 else colours[:, k - 3]
    kinds = {"<f4": "float", "u1": "uchar"}
    header = [
        "ply",
        "format binary_little_endian 1.0",
        f"element vertex {len(points)}",
        *(f"property {kinds[kind]} {name}" for name, kind in names),
        "end_header",
        "",
    ]
    with naming_path(path):
        write_bytes(path, "\n".join(header).encode("ascii") + table.tobytes())
