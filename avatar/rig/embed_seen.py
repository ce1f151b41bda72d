"""Where the face detector sees the lattice's points on a head whose layout names none of them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from avatar.checks import InputError
from avatar.rig.lattice import REGIONS, SKIN_POINTS, lattice_table
from avatar.rig.mesh_views import Detect, find_points
from avatar.rig.similarity import similarity

FIRM, LOOSE = 0.5, 0.1
"""Trust in points of eyes, lips and nose, which a bare mesh shows, and in those of bare skin."""
OFTEN = 0.4
"""A point counts that is seen this squarely, on average over the pictures."""
SKIN_COLOUR, EYE_COLOUR, IRIS_COLOUR = (0.8, 0.6, 0.5), (0.9, 0.9, 0.9), (0.12, 0.08, 0.05)
IRIS_RADIUS_M = 0.00585

_VAGUE = ("face_oval", "jaw_line", "nostril_left", "nostril_right")
_CLEAR = ("lip_", "lid_", "eye_corners", "nose_bridge", "nose_tip")


def seen_places(
    detect: Detect,
    vertices: Tensor,
    triangles: Tensor,
    eyes: tuple[Tensor, Tensor],
    centres: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Find lattice points on a mesh in metres that looks along +z, y up.

    The outline of the face slides with the view and is left out: it follows from the rest. Both halves
    of the face are averaged, as heads of the families that this is for are all but symmetric.

    Args:
        detect: the face detector.
        vertices: [V, 3].
        triangles: [T, 3] long, eyeballs included.
        eyes: vertices of the left and the right eyeball.
        centres: [2, 3] of them.

    Returns:
        As ``embed.lay_lattice`` takes them: known points [K], their places [K, 3], trust [K].

    Raises:
        InputError: no face is seen.
    """
    colours = np.tile(np.array(SKIN_COLOUR), (len(triangles), 1))
    middles = vertices[triangles].mean(1)
    for eye, rows in enumerate(eyes):
        ball = torch.isin(triangles, rows).all(1)
        off = middles - centres[eye]
        iris = ball & (off[:, :2].norm(dim=-1) < IRIS_RADIUS_M) & (off[:, 2] > 0)
        colours[ball.numpy()] = EYE_COLOUR
        colours[iris.numpy()] = IRIS_COLOUR
    mesh = vertices.double().numpy()
    places, often = find_points(detect, mesh, mesh, triangles.numpy(), colours, range(SKIN_POINTS))
    seen = torch.from_numpy(often > OFTEN)
    if int(seen.sum()) < SKIN_POINTS // 2:
        raise InputError(
            "No face is seen on pictures of the head model, so it is not the model that its layout says, "
            "or does not look along its z axis. Give the file as it was published."
        )
    found = torch.from_numpy(np.where(often[:, None] > 0, places, 0.0))
    found = _evened(found, seen)
    trust = torch.full((SKIN_POINTS,), LOOSE, dtype=torch.float64)
    for name, region in REGIONS.items():
        if name.startswith(_CLEAR):
            trust[list(region)] = FIRM
    for name in _VAGUE:
        trust[list(REGIONS[name])] = 0.0
    known = torch.nonzero(seen & (trust > 0))[:, 0]
    return known, found[known], trust[known]


def _evened(places: Tensor, seen: Tensor) -> Tensor:
    """Average places [468, 3] with their mirror images, where both sides are seen."""
    table = lattice_table()
    generic, partner = table.neutral.double()[:SKIN_POINTS], table.partner[:SKIN_POINTS]
    R, scale, shift = similarity(places[seen], generic[seen])
    even = scale * places @ R.T + shift
    mirrored = even[partner] * even.new_tensor([-1.0, 1.0, 1.0])
    both = (seen & seen[partner])[:, None]
    even = torch.where(both, 0.5 * (even + mirrored), even)
    return (even - shift) @ R / scale
