"""A picture of a head model and of the lattice on it, to look at what an import made."""

from __future__ import annotations

import numpy as np
import torch

from avatar.rig.arkit import ARKIT_INDEX
from avatar.rig.external import LEFT_EYE, RIGHT_EYE, ExternalRig
from avatar.rig.lattice import REGIONS, SKIN_POINTS
from avatar.rig.mesh_views import SIDE, look, paint, turned

POSES = (
    ({}, (0.0, 0.0)),
    ({}, (40.0, 0.0)),
    ({"jawOpen": 0.8}, (0.0, 0.0)),
    ({"mouthSmileLeft": 0.9, "mouthSmileRight": 0.9, "browInnerUp": 0.8}, (20.0, 0.0)),
    ({"eyeBlinkLeft": 1.0, "mouthPucker": 0.8}, (-20.0, 0.0)),
)
"""Expressions, and yaw and pitch in degrees."""
_DOTS = (
    ("lip_upper", (1.0, 0.1, 0.1)), ("lip_lower", (1.0, 0.6, 0.0)), ("lid", (0.1, 0.3, 1.0)),
    ("brow", (0.0, 0.6, 0.2)), ("iris", (1.0, 1.0, 0.0)),
)  # fmt: skip


def picture_of(rig: ExternalRig) -> np.ndarray:
    """Draw the head in a few expressions, the lattice's points as dots: uint8 [480, 2400, 3].

    Lips are red (upper) and orange (lower), lids blue, brows green, irises yellow, all else black.
    """
    # Lashes and fluids lie over the eyes: only what reaches a face's outside is of use here.
    triangles = rig.triangles[_solid(rig)].numpy()
    part = rig.part.numpy()[triangles[:, 0]]
    colours = np.tile(np.array([0.8, 0.6, 0.5]), (len(triangles), 1))
    colours[(part == LEFT_EYE) | (part == RIGHT_EYE)] = (0.9, 0.9, 0.9)
    dots = np.zeros((len(rig.face.neutral), 3))
    for start, colour in _DOTS:
        for name, region in REGIONS.items():
            if name.startswith(start):
                dots[list(region)] = colour
    lattice = rig.face.neutral
    basis = rig.face.shapes(lattice)
    centre = lattice[:SKIN_POINTS].mean(0).double().numpy() - [0.0, 0.0, 0.02]
    width = float((lattice[454] - lattice[234]).norm())
    pictures = []
    for named, angles in POSES:
        expression = torch.zeros(len(rig.expression_names))
        for name, value in named.items():
            expression[ARKIT_INDEX[name]] = value
        posed = rig.vertices(expression).double().numpy()
        view = look(posed, triangles, centre, 0.75 * width, turned(*angles))
        picture = paint(view, colours)
        points = (lattice + torch.einsum("e,elc->lc", expression, basis)).double().numpy()
        seen = points @ view.camera[:, :3].T + view.camera[:, 3]
        at = np.floor(seen[:, :2] / seen[:, 2:]).astype(int)
        for (x, y), colour in zip(at, dots, strict=True):
            if 1 <= x < SIDE - 1 and 1 <= y < SIDE - 1:
                picture[y - 1 : y + 1, x - 1 : x + 1] = np.round(255 * colour)
        pictures.append(picture)
    return np.concatenate(pictures, 1)


def _solid(rig: ExternalRig) -> np.ndarray:
    """Which triangles to draw: all but those of the thin sheets that lie on the eyes."""
    from avatar.rig.ict_layout import EYEBALLS

    if rig.kind != "ict":
        return np.ones(len(rig.triangles), bool)
    return (rig.triangles < EYEBALLS[1][1]).all(1).numpy()
