"""Neck and torso of a first avatar: the picture below the chin, laid on a generic body.

One camera does not tell how deep a chest is. What is seen is set on a surface that fits most people; what is
not seen from there, behind the outline and below the picture, goes on as a rounded body would, so that a
look from aside finds a person and no cut-out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from avatar.model.avatar import Person
from avatar.model.binding import TORSO
from avatar.model.create_features import CHIN, Part, nearest_vertex
from avatar.model.create_views import Views, grid_pixels
from avatar.rotations import invert_rigid

RIDGE_M, ACROMION_M = (0.08, -0.085), (0.18, -0.045)
"""The shoulders' upper edge at the neck and at its outer end: distance from the middle, and depth from the
middle between the ears."""
CHEST_ROUND_M = 0.16
"""How far below the shoulders' edge the chest has come all the way forward."""
BEYOND_PICTURE_M = 0.08
"""How far the chest goes on below the picture's lower edge, and the shoulders beside it."""
STEEPEST = 3.0
"""Columns a row, at most, by which an outline goes on beyond the picture."""
BEYOND_COARSER = 2.0
"""There Gaussians stand so much further apart, and are so much larger."""
BEHIND_COARSER = 2.5
"""The same for those that the capture's views do not see."""
BEHIND_SIGMA = 0.75
"""Their standard deviation, in distances between them."""
SEEN_OPACITY, HIDDEN_OPACITY = 0.7, 0.97
"""Where the fit sees them it sets them itself; what it does not see must close the surface as it stands."""
BACKING_M = 0.025
"""Distance of the surface that backs neck and chest."""
BEHIND_M = 0.09
"""How far neck and shoulders go on behind their outline, where no view of theirs is filmed."""


@dataclass(frozen=True)
class _Torso:
    """A generic neck and chest under a person's own shoulder line, torso frame, metres."""

    chin_y: float
    x: Tensor
    """[n] ascending."""
    shoulder_y: Tensor
    """[n] height of the shoulders' upper edge there."""

    def depth(self, x: Tensor, y: Tensor) -> Tensor:
        """Depth z of the surface at x, y [n]: a cylinder, the neck, that opens to a rounded chest.

        The shoulders' edge is where the trunk turns away from the camera, so it lies further back than
        the chest: in upright people acromion and trapezius are some 4 cm behind the ears, and the notch
        above the breastbone 2 cm before them.
        """
        below = self.chin_y - y
        neck = -0.03 + (0.065**2 - x.clamp(-0.06, 0.06) ** 2).sqrt()
        edge = _edge_depth(x)
        front = torch.maximum(0.035 - 1.2 * x**2, edge)
        down = ((self.height_at(x) - y) / CHEST_ROUND_M).clamp(0, 1)
        chest = torch.lerp(edge, front, (down * (math.pi / 2)).sin())
        apart = torch.maximum((below - 0.03) / 0.07, (x.abs() - 0.055) / 0.03).clamp(0, 1)
        return torch.lerp(neck, chest, apart)

    def stretch(self, x: Tensor, y: Tensor) -> Tensor:
        """How much longer [n] the surface at x, y [n] is than it looks from straight ahead, 1 to 3."""
        h = 0.002
        along_x = (self.depth(x + h, y) - self.depth(x - h, y)) / (2 * h)
        along_y = (self.depth(x, y + h) - self.depth(x, y - h)) / (2 * h)
        return (1 + along_x**2 + along_y**2).sqrt().clamp(max=3.0)

    def height_at(self, x: Tensor) -> Tensor:
        """Height of the shoulders' upper edge at x [n]; beyond the ends it stays."""
        at = torch.searchsorted(self.x, x.contiguous()).clamp(1, len(self.x) - 1)
        low, high = self.x[at - 1], self.x[at]
        share = ((x - low) / (high - low)).clamp(0, 1)
        return torch.lerp(self.shoulder_y[at - 1], self.shoulder_y[at], share)

    def meet(self, uv: Tensor, views: Views, view: int) -> Tensor:
        """Return where [n, 3] the rays of a view's pixels [n, 2] meet the surface, torso frame."""
        z = torch.zeros(len(uv))
        # Fixed point, damped: the ray meets a surface that slopes little along it.
        for _ in range(6):
            p = _at_depth(uv, z, views, view)
            z = torch.lerp(z, self.depth(p[:, 0], p[:, 1]), 0.7)
        return _at_depth(uv, z, views, view)


def _edge_depth(x: Tensor) -> Tensor:
    """Depth z [n] of the shoulders' upper edge at x [n], torso frame, metres."""
    (x_neck, z_neck), (x_side, z_side) = RIDGE_M, ACROMION_M
    outward = ((x.abs() - x_neck) / (x_side - x_neck)).clamp(0, 1)
    return z_neck + (z_side - z_neck) * outward


def _at_depth(uv: Tensor, z: Tensor, views: Views, view: int) -> Tensor:
    """Return where [n, 3] the rays of a view's pixels [n, 2] reach depth z [n], torso frame."""
    K, T_torso_cam = views.cameras[view].K, invert_rigid(views.T_cam_torso[view])
    rays = torch.cat([(uv - K[:2, 2]) / K.diag()[:2], torch.ones(len(uv), 1)], 1)
    direction, origin = rays @ T_torso_cam[:3, :3].T, T_torso_cam[:3, 3]
    return origin + direction * ((z - origin[2]) / direction[:, 2])[:, None]


def torso_surface(person: Person, views: Views, free: np.ndarray) -> _Torso:
    """Take the shoulder line from the mask below the head, ``free`` [H, W] of the reference view."""
    chin_y = float(person.lattice[CHIN, 1])
    columns = np.nonzero(free.any(0))[0]
    level = _Torso(chin_y, torch.tensor([-1.0, 1.0]), torch.full((2,), chin_y - 0.08))
    if len(columns) < 8:
        return level
    top = free.argmax(0)[columns]
    uv = torch.from_numpy(np.stack([columns + 0.5, top + 0.5], 1)).float()
    p = _at_depth(uv, torch.full((len(uv),), ACROMION_M[1]), views, 0)
    p = _at_depth(uv, _edge_depth(p[:, 0]), views, 0)
    # At the neck the mask's edge is neck, and above the chin it is hair; the line goes straight across.
    p = p[(p[:, 0].abs() > 0.085) & (p[:, 1] < chin_y - 0.01)]
    if len(p) < 8:
        return level
    p = p[p[:, 0].argsort()]
    return _Torso(chin_y, p[:, 0].contiguous(), p[:, 1].contiguous())


def _behind_surface(
    surface: _Torso, views: Views, step: float, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Back the surface with a coarser one; returns what ``_behind_edge`` does.

    The fit closes gaps between Gaussians only as its own views see them; from aside there are others, and
    what stands behind them must not be the background.
    """
    width = 2 * round(2 * BEHIND_SIGMA * step) + 1
    free = (views.masks[0] > 127) & _below_chin(surface.chin_y, views)
    uv = grid_pixels(
        cv2.erode(free.astype(np.uint8), np.ones((width, width), np.uint8)) > 0, step, generator
    )
    points = surface.meet(uv, views, 0)
    eye = invert_rigid(views.T_cam_torso[0])[:3, 3]
    # Where the surface slopes away its points stand further apart than they look.
    stretch = surface.stretch(points[:, 0], points[:, 1])
    points = points + torch.nn.functional.normalize(points - eye, dim=1) * BACKING_M
    return points, views.sample(0, uv), stretch


def _behind_edge(
    surface: _Torso, views: Views, step: float, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Let neck and shoulders go on behind their outline in the reference view, as a rounded body does.

    No pixel of that view sees it; a camera from aside or from above does.

    Args:
        surface: neck and chest.
        views: the views; the first is the reference.
        step: distance of the points, pixels.
        generator: source of randomness.

    Returns:
        Points [n, 3] in the torso frame, their colours [n, 3], and how many times the usual their sizes
        [n] are.
    """
    mask = (views.masks[0] > 127).astype(np.uint8)
    below = _below_chin(surface.chin_y, views)
    inner = cv2.erode(mask, np.ones((3, 3), np.uint8), borderValue=(1.0,))
    rows, columns = np.nonzero((mask > inner) & below)
    if len(rows) == 0:
        return torch.zeros(0, 3), torch.zeros(0, 3), torch.zeros(0)
    soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 4.0, borderType=cv2.BORDER_REPLICATE)
    inward = np.stack([np.gradient(soft, axis=1), np.gradient(soft, axis=0)], -1)[rows, columns]
    inward = torch.nn.functional.normalize(torch.from_numpy(inward).float(), dim=1)
    uv = torch.from_numpy(np.stack([columns + 0.5, rows + 0.5], 1)).float()
    pixels_m = float(views.T_cam_torso[0, 2, 3]) / float(views.cameras[0].K[0, 0])
    layers = max(2, round(BEHIND_M / (step * pixels_m)))
    count = max(1, round(len(uv) / step)) * layers
    which = torch.randint(0, len(uv), (count,), generator=generator)
    depth = torch.rand(count, generator=generator) * BEHIND_M * 0.98
    # A quarter of a circle: it leaves the outline straight backwards and ends going inwards.
    # Two standard deviations further in, or the Gaussians themselves would show.
    aside = BEHIND_M - (BEHIND_M**2 - depth**2).sqrt() + 2 * BEHIND_SIGMA * step * pixels_m
    start = surface.meet(uv[which] + inward[which], views, 0)
    R = views.T_cam_torso[0, :3, :3].T
    eye = invert_rigid(views.T_cam_torso[0])[:3, 3]
    away = torch.nn.functional.normalize(start - eye, dim=1)
    flat = torch.cat([inward[which], torch.zeros(count, 1)], 1) @ R.T
    points = start + away * depth[:, None] + flat * aside[:, None]
    keep = (points[:, 1] < surface.chin_y) & (start[:, 2].abs() < 0.2)
    keep &= (start[:, 0].abs() > 0.085) & (depth > 0.03)
    colours = views.sample(0, uv[which] + 3 * inward[which])
    return points[keep], colours[keep], torch.ones(int(keep.sum()))


def _below_chin(chin_y: float, views: Views) -> np.ndarray:
    """Which pixels [H, W] of the reference view lie below the chin."""
    chin, _ = views.project(0, torch.tensor([[0.0, chin_y, 0.0]]), views.T_cam_torso[0])
    height, width = views.masks[0].shape
    rows = np.arange(height) > float(chin[0, 1])
    return np.repeat(rows[:, None], width, 1)


def torso(person: Person, views: Views, count: int, generator: torch.Generator) -> Part:
    """Set the mask's pixels that are no head on a generic surface, first from the reference view.

    Where the picture's lower edge cuts the chest, it goes on for a hand's breadth, mirrored: a camera
    that looks from a little further up would see a hole there.
    """
    chin_y = float(person.lattice[CHIN, 1])
    points: list[Tensor] = []
    colours: list[Tensor] = []
    scales: list[Tensor] = []
    opacities: list[Tensor] = []
    step = 1.0
    surface = torso_surface(person, views, without_head(person, views, 0))
    pixels_m = float(views.T_cam_torso[0, 2, 3]) / float(views.cameras[0].K[0, 0])
    # The reference view, then the few that differ most, for what it does not show.
    for order, view in enumerate(range(0, len(views.frames), max(1, len(views.frames) // 6))):
        free = without_head(person, views, view)
        if order == 0:
            step = max(1.0, math.sqrt((np.count_nonzero(free) or 1) / (0.9 * count)))
        uv = grid_pixels(free, step, generator)
        coarse = torch.zeros(len(uv))
        if order == 0:
            beyond = round(BEYOND_PICTURE_M / pixels_m)
            more = grid_pixels(_beyond_picture(free, beyond), BEYOND_COARSER * step, generator)
            uv = torch.cat([uv, more - torch.tensor([beyond, 0])])
            coarse = torch.cat([coarse, torch.ones(len(more))])
        p = surface.meet(uv, views, view)
        # Where a ray grazes the surface the fixed point runs away; a torso is not out there.
        keep = (p[:, 1] < chin_y + 0.03) & (p[:, 2].abs() < 0.2) & (p[:, 0].abs() < 0.5)
        if points and len(p):
            _, distance = nearest_vertex(torch.cat(points), p)
            keep &= distance > 1.5 * step * float(views.cameras[0].K[0, 0]) ** -1 * 0.6
        if order > 0:
            keep[torch.randperm(len(p), generator=generator)[int(0.1 * count) :]] = False
        p, uv, coarse = p[keep], uv[keep], coarse[keep]
        points.append(p)
        opacities.append(torch.where(coarse > 0, HIDDEN_OPACITY, SEEN_OPACITY))
        scales.append(0.6 * step * pixels_m * torch.where(coarse > 0, BEYOND_COARSER, 1.0))
        colours.append(views.sample(view, _mirrored(uv, views, view)))
    wide = BEHIND_COARSER * step
    for more, their_colours, larger in (
        _behind_surface(surface, views, wide, generator),
        _behind_edge(surface, views, wide, generator),
    ):
        points.append(more)
        colours.append(their_colours)
        scales.append(BEHIND_SIGMA * wide * pixels_m * larger)
        opacities.append(torch.full((len(more),), HIDDEN_OPACITY))
    p, c, scale = torch.cat(points), torch.cat(colours), torch.cat(scales)
    logits = ((chin_y - 0.03 - p[:, 1]) / 0.015).clamp(-4, 5)
    nan = torch.full((len(p),), float("nan"))
    return Part(p, c, scale, logits, nan, kind=TORSO, opacity=torch.cat(opacities))


def _beyond_picture(free: np.ndarray, beyond: int) -> np.ndarray:
    """Continue a mask that the picture cuts, ``free`` [H, W], by ``beyond`` pixels.

    Below the picture the body goes on, and where it leaves the picture at a side its outline does, less
    and less aslant, as shoulders turn into arms.

    Returns:
        bool [H + beyond, W + 2 beyond], the picture's own pixels (from column ``beyond`` on) left out.
    """
    height, width = free.shape
    wide = np.zeros((height + beyond, width + 2 * beyond), bool)
    rows = np.nonzero(free.any(1))[0]
    if len(rows) == 0 or not free[-1].any():
        return wide
    y = np.arange(height + beyond)
    ends = []
    for flipped in (False, True):
        edge = (free[:, ::-1] if flipped else free).argmax(1).astype(float)
        touching = rows[edge[rows] == 0]
        last = int(touching[0]) if len(touching) else height - 1
        above = np.arange(max(int(rows[0]), last - beyond // 3), last + 1)
        slope = np.polyfit(above, edge[above], 1)[0] if len(above) > 2 else 0.0
        slope = float(np.clip(slope, -STEEPEST, STEEPEST / 4))
        further = (1 - np.exp(-(y - last).clip(0) / beyond)) * beyond * slope
        end = np.where(y <= last, edge[np.minimum(y, height - 1)], edge[last] + further)
        ends.append(np.round(end).clip(-beyond).astype(int))
    first, last = ends[0] + beyond, width + beyond - ends[1]
    columns = np.arange(width + 2 * beyond)
    wide |= (columns >= first[:, None]) & (columns < last[:, None])
    wide[: rows[0]] = False
    wide[:height, beyond : beyond + width] = False
    return wide


def _mirrored(uv: Tensor, views: Views, view: int) -> Tensor:
    """Bring pixels [n, 2] beyond the picture back into it, mirrored where that falls on the person."""
    height, width = views.masks[view].shape
    size = torch.tensor([width, height])
    back = torch.minimum(uv.abs(), 2 * size - uv.abs())
    _, there = views.covered(view, back)
    back[~there] = torch.minimum(uv, size - 2.0).clamp(min=1.0)[~there]
    return back


def without_head(person: Person, views: Views, view: int) -> np.ndarray:
    """The person mask of a view less the head: bool [H, W]."""
    T = views.T_cam_head[view]
    outline, _ = views.project(view, person.lattice, T)
    convex = cv2.convexHull(outline.numpy().astype(np.int32))
    free = views.masks[view] > 127
    head = np.zeros(free.shape, np.uint8)
    cv2.fillConvexPoly(head, convex, (1,))
    # Above the ears' height nothing is torso.
    ears, _ = views.project(view, torch.tensor([[-0.07, -0.03, 0.0], [0.07, -0.03, 0.0]]), T)
    top = int(np.clip(float(ears[:, 1].max()), 0, free.shape[0]))
    free[:top] = False
    return free & (head == 0)
