"""Pictures of a head's mesh, for a face detector to look at, and the way back onto the mesh.

Made once, at import, a few hundred pixels wide, in numpy: which triangle each pixel sees, and shading.
It is no renderer of the program, whose pictures are made of Gaussians.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

SIDE = 480
"""Pixels a side of a picture."""
DISTANCE = 6.0
"""Camera to head in face widths: nearly without perspective, as portraits are."""
SQUARE = 0.25
"""Cosine between surface and sight below which a pixel says too little of where it lies."""

Detect = Callable[[np.ndarray], np.ndarray | None]
"""Finds the lattice's points in a uint8 [H, W, 3] picture: [478, 3] pixels, or None without a face."""


@dataclass(frozen=True)
class View:
    """A picture of a mesh."""

    triangle: np.ndarray
    """[H, W] the triangle seen, -1 for none."""
    facing: np.ndarray
    """[H, W] cosine between its normal and the line of sight."""
    camera: np.ndarray
    """[3, 4] pixels from points of the mesh's frame."""


def look(
    vertices: np.ndarray, triangles: np.ndarray, centre: np.ndarray, width: float, turn: np.ndarray
) -> View:
    """Look at a mesh whose face is towards +z with y up.

    Args:
        vertices: [V, 3].
        triangles: [T, 3], wound outwards.
        centre: [3] the middle of the picture.
        width: how wide the face is; the picture shows twice as much.
        turn: [3, 3] how the head is turned before the camera.
    """
    # OpenCV's axes: x right, y down, z forward; the subject's left is at the right of the picture.
    R = np.diag([1.0, -1.0, -1.0]) @ turn
    t = np.array([0.0, 0.0, DISTANCE * width]) - R @ centre
    focal = SIDE * DISTANCE / 2
    K = np.array([[focal, 0, SIDE / 2], [0, focal, SIDE / 2], [0, 0, 1.0]])
    camera = K @ np.c_[R, t]
    seen = vertices @ camera[:, :3].T + camera[:, 3]
    pixels, depth = seen[:, :2] / seen[:, 2:], seen[:, 2]
    posed = vertices @ R.T + t
    a, b, c = (posed[triangles[:, k]] for k in range(3))
    normal = np.cross(b - a, c - a)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-20)
    sight = (a + b + c) / np.maximum(np.linalg.norm(a + b + c, axis=1, keepdims=True), 1e-20)
    cosine = -(normal * sight).sum(1)
    return View(*_nearest(pixels, depth, triangles, cosine), camera)


def _nearest(
    pixels: np.ndarray, depth: np.ndarray, triangles: np.ndarray, cosine: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Find the nearest triangle of every pixel, and its cosine."""
    corners, z = pixels[triangles], depth[triangles]
    low = np.floor(corners.min(1) - 0.5).astype(int)
    size = (np.ceil(corners.max(1) - 0.5).astype(int) - low + 1).max(1)
    inside = (corners.max(1) > 0).all(1) & (corners.min(1) < SIDE).all(1) & (z > 0).all(1)
    kept: list[np.ndarray] = []
    step = 2
    while step < 2 * SIDE:  # triangles of like size together, each with all the pixels it may cover
        rows = np.nonzero(inside & (cosine > 0) & (size <= step) & (size > step // 2))[0]
        if step == 2:
            rows = np.nonzero(inside & (cosine > 0) & (size <= 2))[0]
        chunk = max(1, 2_000_000 // step**2)
        for part in (rows[k : k + chunk] for k in range(0, len(rows), chunk)):
            kept.append(_covered(corners[part], z[part], low[part], part, step))
        step *= 2
    every = np.concatenate(kept) if kept else np.zeros((0, 3))
    order = np.lexsort((every[:, 1], every[:, 0]))
    every = every[order]
    first = np.r_[True, every[1:, 0] != every[:-1, 0]] if len(every) else np.zeros(0, bool)
    where, which = every[first, 0].astype(int), every[first, 2].astype(int)
    triangle = np.full(SIDE * SIDE, -1)
    facing = np.zeros(SIDE * SIDE)
    triangle[where], facing[where] = which, cosine[which]
    return triangle.reshape(SIDE, SIDE), facing.reshape(SIDE, SIDE)


def _covered(
    corners: np.ndarray, z: np.ndarray, low: np.ndarray, rows: np.ndarray, step: int
) -> np.ndarray:
    """List the pixels of triangles: [n, 3] of pixel number, depth, triangle."""
    grid = np.stack(np.meshgrid(np.arange(step), np.arange(step), indexing="xy"), -1)
    at = low[:, None] + grid.reshape(1, -1, 2)
    weights = _barycentric(at + 0.5, corners[:, None])
    on = (weights >= -1e-9).all(-1) & (at >= 0).all(-1) & (at < SIDE).all(-1)
    deep = 1 / np.maximum((weights / z[:, None]).sum(-1), 1e-12)
    number = at[..., 1] * SIDE + at[..., 0]
    index = np.broadcast_to(rows[:, None], on.shape)
    return np.stack([number[on], deep[on], index[on]], 1).astype(float)


def _barycentric(at: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Weights [..., 3] of picture points [..., 2] in triangles [..., 3, 2]."""
    a, b, c = corners[..., 0, :], corners[..., 1, :], corners[..., 2, :]

    def cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        return u[..., 0] * v[..., 1] - u[..., 1] * v[..., 0]

    area = cross(b - a, c - a)
    area = np.where(np.abs(area) < 1e-12, 1e-12, area)
    v, w = cross(at - a, c - a) / area, cross(b - a, at - a) / area
    return np.stack([1 - v - w, v, w], -1)


def paint(view: View, colours: np.ndarray) -> np.ndarray:
    """Shade a view with one colour [T, 3] a triangle, in [0, 1]: uint8 [H, W, 3]."""
    seen = view.triangle >= 0
    picture = np.full((SIDE, SIDE, 3), 0.35)
    light = 0.25 + 0.75 * view.facing[seen]
    picture[seen] = colours[view.triangle[seen]] * light[:, None]
    return np.round(np.clip(picture, 0, 1) ** (1 / 2.2) * 255).astype(np.uint8)


def on_mesh(
    view: View, vertices: np.ndarray, triangles: np.ndarray, points: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find where pixels [P, 2] lie on the mesh.

    Returns:
        Triangles [P] (-1 where there is none), barycentric weights [P, 3], cosines [P].
    """
    x, y = (np.clip(np.floor(points[:, k]).astype(int), 0, SIDE - 1) for k in (0, 1))
    which, cosine = view.triangle[y, x], view.facing[y, x]
    seen = vertices @ view.camera[:, :3].T + view.camera[:, 3]
    corners = seen[triangles[which]]
    weights = _barycentric(points, corners[..., :2] / corners[..., 2:])
    weights = np.clip(weights, 0, None) / corners[..., 2]  # the perspective's own
    weights /= weights.sum(1, keepdims=True)
    return np.where(cosine > SQUARE, which, -1), weights, cosine


def turned(yaw: float, pitch: float) -> np.ndarray:
    """Rotation [3, 3] of a head that looks ``yaw`` to its left and ``pitch`` up, degrees."""
    cy, sy = np.cos(np.radians(yaw)), np.sin(np.radians(yaw))
    cp, sp = np.cos(np.radians(-pitch)), np.sin(np.radians(-pitch))
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    return about_y @ about_x


TURNS = tuple(turned(yaw, pitch) for yaw, pitch in ((0, 0), (15, 0), (-15, 0), (0, 12), (0, -12)))
"""Nearly frontal: the detector's points slide over the skin as the head turns."""


def find_points(
    detect: Detect,
    rest: np.ndarray,
    posed: np.ndarray,
    triangles: np.ndarray,
    colours: np.ndarray,
    use: Sequence[int],
    turns: Sequence[np.ndarray] = TURNS,
) -> tuple[np.ndarray, np.ndarray]:
    """Let a detector find lattice points on pictures of a posed mesh, and carry them to it at rest.

    Args:
        detect: the detector.
        rest: [V, 3] the mesh at rest, face towards +z, y up.
        posed: [V, 3] as it is looked at: with an open mouth, inner lips lie apart.
        triangles: [T, 3].
        colours: [T, 3] in [0, 1].
        use: lattice points to find.
        turns: heads to look at, [3, 3] each.

    Returns:
        Places [P, 3] on the mesh at rest, and how often each was seen, as a share, [P].
    """
    low, high = np.quantile(posed, 0.02, axis=0), np.quantile(posed, 0.98, axis=0)
    width = float(high[0] - low[0])
    front = posed[posed[:, 2] > 0.5 * (low[2] + high[2])]
    centre = np.array([*np.median(front[:, :2], axis=0), posed[:, 2].max() - 0.5 * width])
    total, weight = np.zeros((len(use), 3)), np.zeros(len(use))
    found = 0
    for turn in turns:
        view = look(posed, triangles, centre, width, turn)
        points = detect(paint(view, colours))
        if points is None:
            continue
        found += 1
        which, at, cosine = on_mesh(view, posed, triangles, points[list(use), :2].astype(float))
        here = (rest[triangles[which]] * at[..., None]).sum(1)
        w = np.where(which >= 0, cosine, 0.0)
        total += w[:, None] * here
        weight += w
    if not found:
        return np.full((len(use), 3), np.nan), np.zeros(len(use))
    return total / np.maximum(weight, 1e-9)[:, None], weight / len(turns)
