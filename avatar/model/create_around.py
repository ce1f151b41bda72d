"""Neck and torso of a first avatar that several cameras look at from around: their visual hull.

Cameras that stand apart tell how deep a chest is, so that nothing generic needs to be assumed: all
that stays inside the mask of every picture, in the torso's frame (Laurentini 1994).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from avatar.model.avatar import Person
from avatar.model.binding import TORSO
from avatar.model.create_features import CHIN, Part
from avatar.model.create_torso import torso_surface, without_head
from avatar.model.create_views import Views

AROUND_DEG = 50.0
"""Cameras whose directions from the torso are spread by as much tell its depth."""
VOXEL_M = 0.008
HALF_WIDTH_M, BELOW_CHIN_M = 0.36, 0.42
"""How far to the sides and down the torso may go."""
BACK_M, FRONT_M = -0.24, 0.16
"""How far it may go back and forward of the middle between the ears."""
INSIDE = 0.95
"""Share of the pictures that must show the person at a voxel: masks flicker, shoulders shrug."""
SEEN_BY, SEEN_BY_BEYOND = 2, 0.8
"""Cameras that must have a voxel in their picture or just beyond its edge, and the share of all that must
have it in the picture where it lies outside of a usual trunk: the hull of a few goes on without end."""
TRUNK_DEPTH_M, TRUNK_SEMI_AXES_M = -0.05, (0.28, 0.13)
"""A usual trunk: an ellipse seen from above, its middle so far forward of the ears', half its width and depth."""
BEYOND_M = 0.06
"""So far beyond a picture's edge the person is taken to go on as they leave it: what stood just beyond it
would reach into the picture, and hardly be seen by the fit."""
NECK_M, RISE_M = 0.085, 0.01
"""Half of the neck's width, and how far beside it a trunk may rise above the line of the shoulders."""
HIDDEN_DENSITY = 0.25
"""Density of Gaussians where no picture looks at the surface, as a share of where one does."""
HIDDEN_OPACITY, SEEN_OPACITY = 0.97, 0.7
"""Where the fit sees them it sets them itself; what it does not see must close the surface as it stands."""
LOOKING = 0.1
"""Cosine to the surface's normal above which a picture looks at it."""
CLEAR_VOXELS = 3.0
"""How far behind the nearest surface, in voxels, a point still counts as seen."""


def seen_from_around(views: Views) -> bool:
    """Whether the views' cameras stand around the torso, by ``AROUND_DEG`` at least."""
    eyes = _eyes(views.T_cam_torso)
    flat = torch.nn.functional.normalize(eyes[:, [0, 2]], dim=1)
    cosine = (flat @ flat.T).clamp(-1, 1)
    cameras = len(views.camera_of.unique())
    return cameras > 2 and float(cosine.min().acos().rad2deg()) >= AROUND_DEG


def _eyes(T_cam: Tensor) -> Tensor:
    """Return where cameras [n, 4, 4] stand [n, 3]."""
    return -(T_cam[:, :3, :3].transpose(1, 2) @ T_cam[:, :3, 3:])[..., 0]


def torso_hull(person: Person, views: Views) -> tuple[Tensor, Tensor]:
    """Carve neck and torso.

    Returns:
        Centres [n, 3] of its surface voxels (torso frame) and their outward normals [n, 3].
    """
    chin_y = float(person.lattice[CHIN, 1])
    axes = [
        torch.arange(-HALF_WIDTH_M, HALF_WIDTH_M, VOXEL_M),
        torch.arange(chin_y - BELOW_CHIN_M, chin_y + 0.02, VOXEL_M),
        torch.arange(BACK_M, FRONT_M, VOXEL_M),
    ]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    shape, points = grid.shape[:3], grid.reshape(-1, 3)
    seen, inside = torch.zeros(len(points)), torch.zeros(len(points))
    cameras = views.camera_of.unique()
    framed = torch.zeros(len(cameras), len(points), dtype=torch.bool)
    near = torch.zeros_like(framed)
    for view in range(len(views)):
        uv, z = views.project(view, points, views.T_cam_torso[view])
        height, width = views.masks[view].shape
        held = uv.clamp(min=0.5).minimum(torch.tensor([width - 0.5, height - 0.5]))
        beyond_m = torch.linalg.norm(uv - held, dim=1) * z / float(views.cameras[view].K[0, 0])
        told = (beyond_m < BEYOND_M) & (z > 0.05)
        _, person_there = views.covered(view, held)
        shown, _ = views.covered(view, uv)
        seen += told
        inside += person_there & told
        which = int((cameras == views.camera_of[view]).nonzero()[0, 0])
        framed[which] |= shown & told
        near[which] |= told
    usual = points[:, 0] / TRUNK_SEMI_AXES_M[0]
    usual = usual**2 + ((points[:, 2] - TRUNK_DEPTH_M) / TRUNK_SEMI_AXES_M[1]) ** 2 < 1
    # Nor does what the camera before the face does not frame rise above the line of the shoulders there.
    line = torso_surface(person, views, without_head(person, views, 0))
    usual &= (points[:, 1] < line.height_at(points[:, 0]) + RISE_M) | (points[:, 0].abs() < NECK_M)
    known = framed.sum(0) >= SEEN_BY_BEYOND * len(cameras)
    solid = (inside >= INSIDE * seen) & (known | (usual & (near.sum(0) >= SEEN_BY)))
    solid = _largest(solid.reshape(shape)).float()
    smooth = torch.nn.functional.avg_pool3d(solid[None, None], 5, 1, 2)[0, 0]
    slope = torch.stack(torch.gradient(smooth), -1)
    neighbours = torch.nn.functional.avg_pool3d(solid[None, None], 3, 1, 1)[0, 0]
    surface = (solid > 0) & (neighbours < 0.999)
    # The upper end is where the head goes on: no surface.
    surface[:, -2:] = False
    normals = -torch.nn.functional.normalize(slope[surface], dim=-1)
    return grid[surface], normals


def _largest(solid: Tensor) -> Tensor:
    """Return the largest connected part of voxels [x, y, z] bool."""
    from scipy.ndimage import label

    parts, count = label(solid.numpy())  # pyright: ignore[reportGeneralTypeIssues]
    if count < 2:
        return solid
    sizes = np.bincount(parts.ravel())[1:]
    return torch.from_numpy(parts == 1 + int(sizes.argmax()))


def best_views(
    views: Views,
    T_cam: Tensor,
    surface: Tensor,
    normals: Tensor,
    voxel_m: float,
    among: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return for each surface point [n, 3] the view that looks at it most squarely, and that cosine.

    A view does not look at what the surface itself hides from it, nor at what its mask leaves out.

    Args:
        views: the pictures.
        T_cam: [views, 4, 4] transforms from the surface's frame.
        surface: [n, 3] metres; all of it, as it hides itself.
        normals: [n, 3] outward.
        voxel_m: distance of neighbouring points.
        among: the views to choose from; all where None.

    Returns:
        Index [n] of the view, and the cosine [n] between its ray and the normal, -1 where none looks.
    """
    facing = torch.full((len(surface), len(views)), -1.0)
    eyes = _eyes(T_cam)
    for view in range(len(views)) if among is None else among:
        uv, z = views.project(view, surface, T_cam[view])
        _, there = views.covered(view, uv)
        focal = float(views.cameras[view].K[0, 0])
        cell = max(1.0, 1.5 * voxel_m * focal / float(z.median().clamp(min=0.1)))
        height, width = views.masks[view].shape
        columns = int(width / cell) + 2
        place = (uv / cell).floor().long()
        inside = (place >= 0).all(1) & (place[:, 0] < columns) & (place[:, 1] < height / cell + 1)
        index = torch.where(inside, place[:, 1] * columns + place[:, 0], 0)
        nearest = torch.full((int(height / cell + 2) * columns,), 1e9)
        nearest.scatter_reduce_(0, index[inside], z[inside], "amin")
        clear = inside & (z < nearest[index] + CLEAR_VOXELS * voxel_m)
        ray = torch.nn.functional.normalize(eyes[view] - surface, dim=1)
        cosine = (ray * normals).sum(1)
        facing[:, view] = torch.where(there & clear, cosine, facing[:, view])
    best, view_of = facing.max(1)
    return view_of, best


def torso_around(person: Person, views: Views, count: int, generator: torch.Generator) -> Part:
    """Sample the hull's surface, mostly where some view looks at it, and colour it by those that do."""
    surface, normals = torso_hull(person, views)
    nan = torch.full((count,), float("nan"))
    if len(surface) == 0:
        none = torch.zeros(0, 3)
        return Part(none, none, VOXEL_M, nan[:0], nan[:0], kind=TORSO)
    view_of, best = best_views(views, views.T_cam_torso, surface, normals, VOXEL_M)
    weight = torch.where(best > LOOKING, 1.0, HIDDEN_DENSITY)
    index = torch.multinomial(weight, count, replacement=True, generator=generator)
    points = surface[index] + (torch.rand(count, 3, generator=generator) - 0.5) * VOXEL_M
    colours = views.sample_best(view_of[index], points, views.T_cam_torso)
    hidden = best[index] <= LOOKING
    if hidden.any() and (~hidden).any():
        known = points[~hidden]
        for rows in hidden.nonzero()[:, 0].split(4096):
            nearest = torch.cdist(points[rows], known).argmin(1)
            colours[rows] = colours[~hidden][nearest]
    scale = 0.6 * VOXEL_M * (weight.sum() / weight[index] / count).sqrt()
    chin_y = float(person.lattice[CHIN, 1])
    logits = ((chin_y - 0.03 - points[:, 1]) / 0.015).clamp(-4, 5)
    opacity = torch.where(hidden, HIDDEN_OPACITY, SEEN_OPACITY)
    return Part(points, colours, scale, logits, nan, kind=TORSO, opacity=opacity)
