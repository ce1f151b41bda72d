"""Anchor the lattice's points to the person's own skin.

A face detector's points slide over the skin as the head turns. Here each frame is warped into one
canonical texture by the posed lattice, compared by optical flow with the clip's mean texture, and
the points are moved by what the flow found: then a point stays on the same pore in all frames. Flow
is always against the mean, never from frame to frame, so nothing drifts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from scipy import sparse

from capture.track.threads import in_parallel

SPREAD = 9.0
"""Sigma of the local contrast normalisation, texture pixels at 256: larger than pores and lashes,
smaller than the shading that moves over the face as it turns."""
WINDOW = 2.6
"""Sigma of the window over which a point collects flow, texture pixels at 256."""
MIN_FACING = 0.15
"""Cosine to the line of sight below which skin is too foreshortened to be compared."""


@dataclass(frozen=True)
class FacePatch:
    """The face's part of one frame, grey, at about the texture's resolution."""

    grey: np.ndarray
    """[h, w] uint8."""
    scale: float
    """Patch pixels per frame pixel."""
    corner: tuple[float, float]
    """Frame position of the patch's top left corner, pixels."""
    person: np.ndarray | None = None
    """[h, w] uint8 mask, 255 on the person; None where the surface never leaves the person."""


def cut_patch(
    picture: np.ndarray, points: np.ndarray, size: int, mask: np.ndarray | None = None
) -> FacePatch:
    """Cut the face out of a frame [H, W, 3] uint8, ``points`` [n, 2] giving its extent.

    ``mask`` [H, W] uint8 is the person's, where the surface may reach past the person.
    """
    height, width = picture.shape[:2]
    low, high = points.min(0), points.max(0)
    margin = 0.12 * (high - low).max()
    x0, y0 = (int(max(v - margin, 0)) for v in low)
    x1 = int(min(high[0] + margin, width - 1)) + 1
    y1 = int(min(high[1] + margin, height - 1)) + 1
    x0, y0 = min(x0, width - 8), min(y0, height - 8)
    x1, y1 = max(x1, x0 + 8), max(y1, y0 + 8)
    grey = cv2.cvtColor(np.ascontiguousarray(picture[y0:y1, x0:x1]), cv2.COLOR_RGB2GRAY)
    scale = min(1.0, 1.3 * size / max(grey.shape))
    if scale < 1:
        grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    person = None
    if mask is not None:
        person = cv2.resize(mask[y0:y1, x0:x1], grey.shape[::-1], interpolation=cv2.INTER_AREA)
    # cv2 rounds the size: take the scale that it really used.
    return FacePatch(grey, grey.shape[1] / (x1 - x0), (float(x0), float(y0)), person)


@dataclass(frozen=True)
class TextureMap:
    """The canonical texture's layout."""

    size: int
    """Longer side in pixels; lengths in the texture are stated at 256."""
    shape: tuple[int, int]
    """Height and width in pixels."""
    inside: np.ndarray
    """[P] flat indices of the pixels that lie on the lattice."""
    to_pixels: sparse.csr_matrix
    """[P, L] barycentric weights: points to texture pixels."""
    collect: sparse.csr_matrix
    """[L, P] rows sum to 1: the window of each point."""


def unrolled(lattice: np.ndarray) -> np.ndarray:
    """Unroll a lattice [478, 3] about the head's vertical axis: [478, 2], y down."""
    angle = np.arctan2(lattice[:, 0], lattice[:, 2] + 0.02)
    radius = np.median(np.hypot(lattice[:, 0], lattice[:, 2] + 0.02))
    return np.stack([angle * radius, -lattice[:, 1]], 1)


def texture_map(
    flat: np.ndarray, depth: np.ndarray, triangles: np.ndarray, size: int, window: float = WINDOW
) -> TextureMap:
    """Lay a surface out as a texture.

    Args:
        flat: [L, 2] its points in the plane, any unit, y down.
        depth: [L] what lies behind; of triangles that overlap, the one of greater depth is kept.
        triangles: [T, 3] indices of points.
        size: longer side of the texture, pixels.
        window: sigma of the window over which a point collects flow, pixels at 256.
    """
    skin = np.unique(triangles)
    low, high = flat[skin].min(0), flat[skin].max(0)
    scale = (size - 4) / (high - low).max()
    flat = (flat - low) * scale + 2
    width, height = (int(v) for v in np.ceil((high - low) * scale + 4))
    # Far triangles first, so that the nose covers what lies behind its wings.
    order = np.argsort(depth[triangles].mean(1))
    owner = np.full((height, width), -1)
    weights = np.zeros((height, width, 3))
    for t in order:
        a, b, c = flat[triangles[t]]
        x0, y0 = np.floor(np.min([a, b, c], 0)).astype(int)
        x1, y1 = np.ceil(np.max([a, b, c], 0)).astype(int) + 1
        x, y = np.meshgrid(np.arange(x0, x1) + 0.5, np.arange(y0, y1) + 0.5)
        area = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
        if abs(area) < 1e-9:
            continue
        v = ((x - a[0]) * (c[1] - a[1]) - (y - a[1]) * (c[0] - a[0])) / area
        w = ((b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0])) / area
        hit = (v >= -1e-9) & (w >= -1e-9) & (v + w <= 1 + 1e-9)
        ys, xs = np.nonzero(hit)
        owner[ys + y0, xs + x0] = t
        weights[ys + y0, xs + x0] = np.stack([1 - v - w, v, w], -1)[hit]
    inside = np.nonzero(owner.reshape(-1) >= 0)[0]
    chosen, bary = triangles[owner.reshape(-1)[inside]], weights.reshape(-1, 3)[inside]
    rows = np.repeat(np.arange(len(inside)), 3)
    to_pixels = sparse.csr_matrix(
        (bary.reshape(-1).astype(np.float32), (rows, chosen.reshape(-1))),
        shape=(len(inside), len(flat)),
    )
    places = np.stack([inside % width, inside // width], 1) + 0.5
    sigma = window * size / 256
    entries: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for point in skin:
        squared = ((places - flat[point]) ** 2).sum(1)
        near = np.nonzero(squared < (2.5 * sigma) ** 2)[0]
        if len(near) == 0:
            near = np.array([squared.argmin()])
        value = np.exp(-0.5 * squared[near] / sigma**2)
        entries.append((np.full(len(near), point), near, value / value.sum()))
    row, column, value = (np.concatenate(part) for part in zip(*entries, strict=True))
    collect = sparse.csr_matrix(
        (value.astype(np.float32), (row, column)), shape=(len(flat), len(inside))
    )
    return TextureMap(size, (height, width), inside, to_pixels, collect)


@dataclass(frozen=True)
class _Texture:
    picture: np.ndarray
    """[h, w] contrast-normalised, 0 where unseen."""
    seen: np.ndarray
    """[h, w] in [0, 1]."""
    x: np.ndarray
    """[h, w] frame position of each texture pixel."""
    y: np.ndarray


def _blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Blur widely, zeros around: at a quarter of the size, which such a blur does not see."""
    height, width = image.shape[:2]
    small = cv2.resize(image, (-(-width // 4), -(-height // 4)), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), sigma / 4, borderType=cv2.BORDER_CONSTANT)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def _texture(
    layout: TextureMap, patch: FacePatch, points: np.ndarray, facing: np.ndarray
) -> _Texture:
    """Warp a patch into the texture with points [478, 2] (frame pixels) and facing [478] (cosine)."""
    values = layout.to_pixels @ np.concatenate([points, facing[:, None]], 1).astype(np.float32)
    x, y, front = (np.zeros(layout.shape, np.float32) for _ in range(3))
    for image, value in zip((x, y, front), values.T, strict=True):
        image.reshape(-1)[layout.inside] = value
    u = (x - patch.corner[0]) * patch.scale - 0.5
    v = (y - patch.corner[1]) * patch.scale - 0.5
    grey = cv2.remap(
        patch.grey.astype(np.float32), u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    seen = np.clip((front - MIN_FACING) / 0.25, 0, 1)
    h, w = patch.grey.shape
    seen *= (u > 0) & (u < w - 1) & (v > 0) & (v < h - 1)
    if patch.person is not None:
        seen *= cv2.remap(patch.person, u, v, cv2.INTER_LINEAR).astype(np.float32) / 255
    sigma = SPREAD * layout.size / 256
    sums = _blur(np.dstack([seen, grey * seen]), sigma)
    total = sums[..., 0] + 1e-3
    fine = (grey - sums[..., 1] / total) * seen
    spread = np.sqrt(_blur(fine * fine, sigma) / total)
    picture = fine / (spread + 3.0)
    return _Texture(picture, seen, x, y)


@dataclass(frozen=True)
class Anchored:
    """Points as the texture sees them."""

    points: np.ndarray
    """[F, 478, 2] pixels; where the confidence is 0, the guess."""
    confidence: np.ndarray
    """[F, 478] in [0, 1]; 0 for irises and unseen skin."""


def mean_texture(
    layout: TextureMap,
    patches: list[FacePatch],
    guess: np.ndarray,
    facing: np.ndarray,
    frames: np.ndarray,
    workers: int,
) -> np.ndarray:
    """Average the textures [h, w] of some frames, weighted by how squarely each pixel is seen."""

    def some(part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        total = np.zeros(layout.shape, np.float32)
        weight = np.full_like(total, 1e-3)
        for f in part:
            texture = _texture(layout, patches[f], guess[f], facing[f])
            total += texture.picture * texture.seen
            weight += texture.seen
        return total, weight

    # A fixed number of parts: sums do not depend on how many workers there are.
    parts = list(in_parallel(some, np.array_split(frames, 8), workers))
    return sum(p[0] for p in parts) / sum(p[1] for p in parts)  # type: ignore[no-any-return]


def _grey_of(texture: np.ndarray) -> np.ndarray:
    return np.clip(128 + 42 * texture, 0, 255).astype(np.uint8)


def anchor(
    layout: TextureMap,
    reference: np.ndarray,
    patches: list[FacePatch],
    guess: np.ndarray,
    facing: np.ndarray,
    workers: int,
    tick: Callable[[int], None],
    fine: bool = True,
) -> Anchored:
    """Move the guessed points of every frame to where the reference texture says they are.

    Args:
        layout: of the texture.
        reference: [h, w] mean texture.
        patches: of F frames.
        guess: [F, 478, 2] pixels; the model's projection.
        facing: [F, 478] cosine between skin normal and line of sight.
        workers: threads.
        tick: called with the number of frames finished.
        fine: compare at full resolution; half of it takes a third of the time.

    Returns:
        The anchored points and their confidence (facing times squared local correlation).
    """
    base = _grey_of(reference)
    height, width = layout.shape
    grid_x, grid_y = np.meshgrid(
        np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
    )
    sigma = 0.6 * SPREAD * layout.size / 256
    power = _blur(reference**2, sigma)
    still = np.zeros((height, width, 2), np.float32)
    points, confidence = guess.copy(), np.zeros(guess.shape[:2], np.float32)

    def some(part: np.ndarray) -> int:
        flow_of = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        # In the end at full resolution: at half of it 0.05 degrees of pose are lost on the rendered head.
        flow_of.setFinestScale(0 if fine else 1)
        # One step of variational refinement: five cost as much again as all the rest, and rounds of
        # anchoring gain nothing by them.
        flow_of.setVariationalRefinementIterations(1)
        flow_of.setPatchStride(5)
        for f in part:
            texture = _texture(layout, patches[f], guess[f], facing[f])
            flow = flow_of.calc(base, _grey_of(texture.picture), still.copy())
            u, v = grid_x + flow[..., 0], grid_y + flow[..., 1]
            border = cv2.BORDER_CONSTANT
            stack = np.dstack([texture.picture, texture.seen, texture.x, texture.y])
            moved, seen, x, y = cv2.split(
                cv2.remap(stack, u, v, cv2.INTER_LINEAR, borderMode=border)
            )
            seen = seen * texture.seen
            cross, own = cv2.split(_blur(np.dstack([reference * moved, moved**2]), sigma))
            alike = cross / np.sqrt(power * own + 1e-3)
            trust = seen * np.clip(alike, 0, 1) ** 2
            dx, dy = x - texture.x, y - texture.y
            w = trust.reshape(-1)[layout.inside]
            # Where the flow leaves the lattice the maps read 0: those pixels do not vote.
            reach = 0.06 * float(np.ptp(guess[f, :, 1]))
            w = w * (np.hypot(dx, dy).reshape(-1)[layout.inside] < reach)
            votes = np.stack(
                [w * dx.reshape(-1)[layout.inside], w * dy.reshape(-1)[layout.inside], w], 1
            )
            sums = layout.collect @ votes.astype(np.float32)
            ok = sums[:, 2] > 0.02
            points[f, ok] += sums[ok, :2] / sums[ok, 2:]
            confidence[f] = np.where(ok, sums[:, 2], 0)
        return len(part)

    done = 0
    chunks = [
        c for c in np.array_split(np.arange(len(patches)), max(1, len(patches) // 25)) if len(c)
    ]
    for count in in_parallel(some, chunks, workers):
        done += count
        tick(done)
    return Anchored(points, confidence)
