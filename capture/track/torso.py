"""The torso's own pose: the picture below the chin, registered frame by frame to one reference frame.

The head turns on shoulders that hardly follow, so an avatar whose shoulders are bound to the head
loses a decibel or two. Registration is of the picture on a white ground (a busy background that
stands still must not vote), by inverse-compositional Gauss-Newton (Baker and Matthews, Lucas-Kanade
20 Years On, 2004) of a similarity, coarse to fine, always against the reference: errors do not add up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from scipy.ndimage import convolve1d, gaussian_filter1d, median_filter
from torch import Tensor

from avatar.capture_data import Track
from avatar.rotations import invert_rigid
from capture.track.threads import in_parallel


@dataclass(frozen=True)
class TorsoConfig:
    """Settings of the torso's registration."""

    height_px: int = 256
    """Height of the picture at the finest level; smaller clips are used as they are."""
    levels: int = 3
    """Pyramid levels, each half the size of the one before."""
    iterations: int = 12
    """Most Gauss-Newton steps a level."""
    below_chin: float = 0.12
    """Top of the region, in face heights below the reference frame's chin."""
    good_correlation: float = 0.8
    """A registration whose weighted correlation is less is not believed."""


@dataclass(frozen=True)
class TorsoMotion:
    """A picture similarity per frame: pixel = scale R(angle) (pixel_ref - centre) + centre + shift."""

    centre: np.ndarray
    """[2] pixels: the middle of the region in the reference frame."""
    shift: np.ndarray
    """[F, 2] pixels."""
    angle: np.ndarray
    """[F] radians, from picture x towards picture y."""
    scale: np.ndarray
    """[F]."""
    correlation: np.ndarray
    """[F] weighted correlation with the reference; 0 where nothing was found."""


@dataclass(frozen=True)
class _Level:
    template: np.ndarray
    rows: np.ndarray
    cols: np.ndarray
    jacobian: np.ndarray
    factor: float


def _levels(
    picture: np.ndarray, region: np.ndarray, centre: np.ndarray, count: int, factor: float
) -> list[_Level]:
    """Precompute template, pixel places about the centre, and steepest-descent images per level."""
    levels = []
    image, weight = picture, region.astype(np.float32)
    for _ in range(count):
        smooth = cv2.GaussianBlur(image, (0, 0), 1.0)
        gx = convolve1d(smooth, [0.5, 0, -0.5], axis=1, mode="nearest")
        gy = convolve1d(smooth, [0.5, 0, -0.5], axis=0, mode="nearest")
        rows, cols = np.nonzero(weight > 0.99)
        x = (cols + 0.5) / factor - centre[0]
        y = (rows + 0.5) / factor - centre[1]
        gx, gy = gx[rows, cols] * factor, gy[rows, cols] * factor
        # d T(W(x; p)) / dp at the identity for p = (shift x, shift y, angle, log scale).
        J = np.stack([gx, gy, -y * gx + x * gy, x * gx + y * gy], 1)
        levels.append(_Level(smooth[rows, cols], rows, cols, J.astype(np.float32), factor))
        image = cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        weight = cv2.resize(weight, image.shape[::-1], interpolation=cv2.INTER_AREA)
        factor /= 2
    return levels[::-1]


def _warp(p: np.ndarray) -> np.ndarray:
    """Similarity [3, 3] about the origin of (shift x, shift y, angle, log scale)."""
    c, s = np.exp(p[3]) * np.cos(p[2]), np.exp(p[3]) * np.sin(p[2])
    return np.array([[c, -s, p[0]], [s, c, p[1]], [0, 0, 1.0]])


def _unwarp(M: np.ndarray) -> np.ndarray:
    return np.array(
        [M[0, 2], M[1, 2], np.arctan2(M[1, 0], M[0, 0]), np.log(np.hypot(M[0, 0], M[1, 0]))]
    )


def _folded(values: np.ndarray) -> np.ndarray:
    """Fold a list into rows of 4096: ``cv2.remap`` takes no more than 32767 columns."""
    return np.pad(values.astype(np.float32), (0, -values.size % 4096)).reshape(-1, 4096)


def _register(
    levels: list[_Level],
    pyramid: list[tuple[np.ndarray, np.ndarray]],
    centre: np.ndarray,
    start: np.ndarray,
    iterations: int,
) -> tuple[np.ndarray, float]:
    """Refine a similarity from ``start``; returns it and the correlation at the finest level."""
    M = _warp(start)
    correlation = 0.0
    for level, (image, usable) in zip(levels, pyramid, strict=True):
        x = (level.cols + 0.5) / level.factor - centre[0]
        y = (level.rows + 0.5) / level.factor - centre[1]
        for _ in range(iterations):
            places = M[:2, :2] @ np.stack([x, y]) + (M[:2, 2] + centre)[:, None]
            u, v = (_folded(p * level.factor - 0.5) for p in places)
            seen = cv2.remap(
                image, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=(-1.0,)
            ).reshape(-1)[: len(x)]
            free = cv2.remap(usable, u, v, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT)
            weight = free.reshape(-1)[: len(x)] * (seen >= 0)
            if weight.sum() < 0.2 * len(x):
                return _unwarp(M), 0.0
            T = level.template
            total = weight.sum()
            mt, ms = (weight * T).sum() / total, (weight * seen).sum() / total
            dt, ds = T - mt, seen - ms
            vt, vs = (weight * dt * dt).sum(), (weight * ds * ds).sum()
            cross = (weight * dt * ds).sum()
            correlation = float(cross / np.sqrt(vt * vs + 1e-12))
            gain = np.clip(cross / (vs + 1e-12), 0.7, 1.4)
            error = gain * ds - dt
            w = weight / (1 + (error / 0.1) ** 2)
            Jw = level.jacobian * w[:, None]
            H = Jw.T @ level.jacobian
            step = np.linalg.solve(H + 1e-6 * np.diag(np.diag(H)) + 1e-9 * np.eye(4), Jw.T @ error)
            M = M @ np.linalg.inv(_warp(step))
            reach = np.hypot(*np.ptp(np.stack([x, y]), axis=1)) / 2
            if (
                max(np.hypot(step[0], step[1]), reach * np.hypot(step[2], step[3])) * level.factor
                < 0.01
            ):
                break
    return _unwarp(M), correlation


def register_torso(
    picture: Callable[[int], np.ndarray],
    face: Callable[[int], np.ndarray],
    frames: int,
    reference: int,
    config: TorsoConfig | None = None,
    workers: int = 1,
    missing: frozenset[int] = frozenset(),
) -> TorsoMotion | None:
    """Register the region below the chin of every frame to the reference frame's.

    Args:
        picture: frame index to the person on white, float32 grey [H, W] in [0, 1].
        face: frame index to the face's outline [n, 2] in pixels; what it covers is not used.
        frames: how many frames.
        reference: the frame that all are compared with.
        config: settings.
        workers: threads; two are of use, and the result does not depend on them.
        missing: frames that have no picture.

    Returns:
        The motion, or None where the reference shows too little below the chin.
    """
    config = config or TorsoConfig()
    first = picture(reference)
    height, width = first.shape
    factor = min(1.0, config.height_px / height)

    def small(image: np.ndarray) -> np.ndarray:
        if factor == 1.0:
            return image
        return cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)

    outline = face(reference)
    tall = float(np.ptp(outline[:, 1]))
    top = outline[:, 1].max() + config.below_chin * tall
    template = small(first)
    region = np.zeros(template.shape, np.uint8)
    region[max(int(top * factor), 0) :, :] = 1
    # Stay near the person: the white ground far away says nothing and costs time.
    person = cv2.dilate((template < 0.98).astype(np.uint8), np.ones((3, 3), np.uint8), iterations=6)
    region = region * person.astype(np.uint8)
    if region.sum() < 0.01 * region.size:
        return None
    rows, cols = np.nonzero(region)
    centre = np.array([cols.mean() + 0.5, rows.mean() + 0.5]) / factor
    levels = _levels(template, region, centre, config.levels, factor)

    def pyramid(f: int) -> list[tuple[np.ndarray, np.ndarray]]:
        image = small(picture(f))
        hull = cv2.convexHull(face(f).astype(np.float32))[:, 0]
        middle = hull.mean(0)
        hull = ((hull - middle) * 1.12 + middle) * factor
        usable = np.ones(image.shape, np.float32)
        cv2.fillConvexPoly(usable, np.round(hull).astype(np.int32), (0.0,))
        out = []
        for _ in range(config.levels):
            out.append((cv2.GaussianBlur(image, (0, 0), 1.0), usable))
            image = cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
            usable = cv2.resize(usable, image.shape[::-1], interpolation=cv2.INTER_NEAREST)
        return out[::-1]

    found = np.zeros((frames, 4))
    correlation = np.zeros(frames)

    def follow(order: range) -> None:
        last = np.zeros(4)
        for f in order:
            if f in missing:
                continue
            images = pyramid(f)
            best, quality = _register(levels, images, centre, last, config.iterations)
            if quality < config.good_correlation and np.abs(last).max() > 0:
                other, second = _register(levels, images, centre, np.zeros(4), config.iterations)
                if second > quality:
                    best, quality = other, second
            far = (
                np.hypot(best[0], best[1]) > 0.5 * width or abs(best[2]) > 0.7 or abs(best[3]) > 0.5
            )
            if far:
                quality = 0.0
            found[f], correlation[f] = best, quality
            if quality >= config.good_correlation:
                last = best

    # Forwards and backwards from the reference, at the same time.
    halves = [range(reference, frames), range(reference - 1, -1, -1)]
    for _ in in_parallel(follow, halves, workers):
        pass
    return TorsoMotion(centre, found[:, :2], found[:, 2], np.exp(found[:, 3]), correlation)


def fill_gaps(motion: TorsoMotion, good: float) -> TorsoMotion | None:
    """Interpolate frames whose registration is not believed; None where hardly any is."""
    ok = motion.correlation >= good
    if ok.mean() < 0.3:
        return None
    index, known = np.arange(len(ok)), np.nonzero(ok)[0]

    def filled(values: np.ndarray) -> np.ndarray:
        return np.interp(index, known, values[known])

    shift = np.stack([filled(motion.shift[:, 0]), filled(motion.shift[:, 1])], 1)
    scale = np.exp(filled(np.log(motion.scale)))
    return TorsoMotion(motion.centre, shift, filled(motion.angle), scale, motion.correlation)


def calmed(motion: TorsoMotion, reference: int) -> TorsoMotion:
    """Take out frames that jumped to another fit, and the last shake.

    A running median of 5 and a Gaussian of 0.8 frames: shoulders are slow. The reference keeps the
    identity.
    """

    def calm(values: np.ndarray) -> np.ndarray:
        steady = median_filter(values, size=5, mode="nearest")
        steady = gaussian_filter1d(steady, 0.8, mode="nearest")
        return steady - steady[reference]

    shift = np.stack([calm(motion.shift[:, 0]), calm(motion.shift[:, 1])], 1)
    scale = np.exp(calm(np.log(motion.scale)))
    return TorsoMotion(motion.centre, shift, calm(motion.angle), scale, motion.correlation)


def torso_poses(motion: TorsoMotion, T_cam_head_ref: np.ndarray, K: np.ndarray) -> np.ndarray:
    """Turn picture similarities into rigid poses T_cam_torso [F, 4, 4].

    The torso frame is the head frame of the reference frame. Scale reads as depth, the picture's
    turn as roll about the optical axis; yaw and pitch of the torso stay those of the reference.

    Args:
        motion: of all frames.
        T_cam_head_ref: [4, 4] head pose of the reference frame.
        K: [3, 3] pixels.
    """
    frames = len(motion.angle)
    depth_ref = T_cam_head_ref[2, 3]
    inverse = np.linalg.inv(K)
    anchor = inverse @ [*motion.centre, 1.0] * depth_ref
    poses = np.tile(np.eye(4), (frames, 1, 1))
    c, s = np.cos(motion.angle), np.sin(motion.angle)
    roll = np.tile(np.eye(3), (frames, 1, 1))
    roll[:, 0, 0], roll[:, 0, 1], roll[:, 1, 0], roll[:, 1, 1] = c, -s, s, c
    pixel = np.concatenate([motion.centre + motion.shift, np.ones((frames, 1))], 1)
    moved = pixel @ inverse.T * (depth_ref / motion.scale)[:, None]
    poses[:, :3, :3] = roll @ T_cam_head_ref[:3, :3]
    poses[:, :3, 3] = (roll @ (T_cam_head_ref[:3, 3] - anchor)) + moved
    return poses


def slow_torso(T_world_head: Tensor, reference: int, fps: float) -> Tensor:
    """Let a torso that is not seen follow the head's slow shifts, without turning [F, 4, 4]."""
    shift = T_world_head[:, :3, 3].double().numpy()
    slow = torch.from_numpy(gaussian_filter1d(shift, fps, axis=0, mode="nearest"))
    T = T_world_head[reference].expand(len(T_world_head), 4, 4).clone()
    T[:, :3, 3] += (slow - slow[reference]).to(T.dtype)
    return T


def watch_torso(
    face: np.ndarray,
    reference: int,
    frame: Callable[[int], np.ndarray],
    mask: Callable[[int], np.ndarray],
    config: TorsoConfig,
    workers: int = 1,
    missing: frozenset[int] = frozenset(),
) -> TorsoMotion | None:
    """Register the torso in all frames of a clip; knows nothing of heads but where their faces are.

    Args:
        face: [F, n, 2] outline of the face, pixels; frames without one have a guess.
        reference: the frame that all are compared with.
        frame: index to picture, uint8 [H, W, 3].
        mask: index to person mask, uint8 [H, W].
        config: settings.
        workers: threads.
        missing: frames that have no picture.

    Returns:
        The motion, gaps filled; None where the clip shows too little below the chin.
    """

    def on_white(f: int) -> np.ndarray:
        grey = cv2.cvtColor(np.ascontiguousarray(frame(f)), cv2.COLOR_RGB2GRAY)
        alpha = mask(f).astype(np.float32) / 255
        return grey.astype(np.float32) / 255 * alpha + 1 - alpha

    motion = register_torso(
        on_white, lambda f: face[f], len(face), reference, config, workers, missing
    )
    motion = fill_gaps(motion, config.good_correlation) if motion else None
    return calmed(motion, reference) if motion else None


def place_torso(track: Track, motion: TorsoMotion | None, reference: int) -> Tensor:
    """Turn the torso's motion in the picture into poses T_world_torso [F, 4, 4].

    Equal to T_world_head in the reference frame. Without a motion, the head's slow one.
    """
    if motion is None:
        return slow_torso(track.T_world_head, reference, track.fps)
    T_cam_head = (track.T_cam_world[track.main] @ track.T_world_head).double()
    poses = torso_poses(motion, T_cam_head[reference].numpy(), track.K[track.main].double().numpy())
    T_world_cam = invert_rigid(track.T_cam_world[track.main].double())
    return (T_world_cam @ torch.from_numpy(poses)).to(track.T_world_head.dtype)
