"""The portrait behind ``avatar sample``: a photograph that a few controls move.

A frame is drawn back to front: torso and background, the neck with the shadow of the chin, the
head as a textured triangle mesh, and in the holes of the mesh eyeballs and the inside of the mouth.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from capture.sample_layers import (
    Eye,
    Patch,
    coverage,
    cut_eye,
    cut_mouth,
    cut_plate,
    detect,
    enlarge,
    head_matte,
    load_photo,
)
from capture.sample_mesh import CROP, CROP_X, CROP_Y, HeadMesh, lift, project

_CHIN_SHADOW = (0.42, 0.5, 0.55)
"""How much of red, green and blue the chin takes from the neck right below it."""


@dataclass(frozen=True)
class Pose:
    """One frame's controls, in portrait units."""

    shapes: dict[str, float]
    """Name of a shape of the portrait to its weight, [0, 1]."""
    jaw: float
    """Opening of the jaw, [0, 1]."""
    rotation: np.ndarray
    """[3, 3] rotation of the head about the point between its ears, picture axes."""
    translation: np.ndarray
    """[3] translation of the head, portrait pixels, picture axes."""
    gaze: np.ndarray
    """[2, 2] radians as in ``HeadState``: eye (left, right) x (yaw to the subject's left, pitch up)."""
    breath: float
    """Breathing, [-1, 1]."""


class Portrait:
    """The photograph as layers; ``draw`` is a pure function of a pose."""

    def __init__(self, size: int) -> None:
        """Cut the photograph for frames of ``size`` x ``size`` pixels.

        Raises:
            InputError: scikit-image or MediaPipe do not have what they should.
        """
        self.size = size
        self.scale = size / CROP  # frame pixels a portrait pixel
        self.texels = 2.0 * size / CROP  # texels a portrait pixel
        photo = load_photo()
        self.texture = enlarge(photo, 2 * size)
        self.mesh = HeadMesh(detect(self.texture) / self.texels)
        self.head_alpha = head_matte(self.texture, self.texels)
        self.eyes = tuple(
            cut_eye(self.texture, self.mesh, side, self.texels) for side in ("Left", "Right")
        )
        self.mouth = cut_mouth(self.texture, self.mesh, self.texels)
        self.plate = cut_plate(self.texture, photo, self.head_alpha, size)
        corners = self.mesh.flat[self.mesh.triangles, :2] * self.texels
        self.texture_edges = _edges(corners)
        self.texture_origin = corners[:, 0]
        pixels = np.arange(size, dtype=np.float32)
        self.columns, self.rows = np.meshgrid(pixels, pixels)
        self.neck_top = lift(np.array([221.0 - CROP_X, 160.0 - CROP_Y, self.mesh.pivot[2] - 12.0]))

    def draw(self, pose: Pose) -> np.ndarray:
        """Draw one frame, uint8 [size, size, 3] sRGB."""
        vertices, jaw_turn = self.mesh.deform(pose.shapes, pose.jaw)
        flat = project(self._pose(vertices, pose))
        window, rgb, alpha = self._resample_head(flat)
        frame = self._draw_plate(pose, window, alpha)
        part = frame[window]
        part += (rgb - part) * alpha[..., None]
        for eye, gaze in zip(self.eyes, pose.gaze, strict=True):
            self._draw_eye(frame, flat, pose, eye, gaze)
        self._draw_mouth(frame, flat, pose, jaw_turn)
        return np.clip(frame + 0.5, 0, 255).astype(np.uint8)

    def _pose(self, points: np.ndarray, pose: Pose) -> np.ndarray:
        """Move points [..., 3] with the head."""
        return (points - self.mesh.pivot) @ pose.rotation.T + self.mesh.pivot + pose.translation

    def _draw_plate(self, pose: Pose, head: tuple[slice, slice], alpha: np.ndarray) -> np.ndarray:
        """Draw torso, background and neck, with the shadow of a head of coverage ``alpha`` in the
        window ``head``; float32 [size, size, 3]."""
        lift = -0.9 * self.scale * pose.breath
        rows = self.rows - lift * self.plate.breath_weight
        frame = cv2.remap(
            self.plate.background,
            self.columns,
            rows,
            cv2.INTER_CUBIC,
            borderMode=cv2.BORDER_REPLICATE,
        )
        moved = project(self._pose(self.neck_top, pose)) - project(self.neck_top)
        dx, dy = 0.85 * moved[:2] * self.scale
        y0, y1 = (int(v * self.scale) for v in (125 - CROP_Y, 197 - CROP_Y))
        x0, x1 = (int(v * self.scale) for v in (165 - CROP_X, 280 - CROP_X))
        window = np.s_[y0:y1, x0:x1]
        weight = self.plate.neck_weight[window]
        source_x = self.columns[window] - dx * weight
        source_y = self.rows[window] - dy * weight - lift * self.plate.breath_weight[window]
        skin = cv2.remap(self.plate.neck, source_x, source_y, cv2.INTER_LINEAR)
        cover = cv2.remap(self.plate.neck_alpha, source_x, source_y, cv2.INTER_LINEAR)[..., None]
        above = np.zeros((self.size, self.size), np.float32)
        drop = round(1.5 * self.scale)
        above[head] = alpha
        above = np.roll(above, drop, 0)[window]
        shadow = cv2.GaussianBlur(above, (0, 0), 1.8 * self.scale)[..., None]
        skin *= 1 - shadow * np.array(_CHIN_SHADOW, np.float32)
        part = frame[window]
        part += (skin - part) * cover
        return frame

    def _resample_head(
        self, flat: np.ndarray
    ) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray]:
        """Draw the textured head mesh, far triangles first: window, colours and coverage there."""
        size = self.size
        screen = flat[:, :2] * self.scale
        corners = screen[self.mesh.triangles]
        edges = _edges(corners)
        determinant = np.linalg.det(edges)
        # Triangles seen from behind come first: what faces the camera covers them.
        facing = determinant * np.sign(np.linalg.det(self.texture_edges)) > 0
        order = np.lexsort((-flat[self.mesh.triangles, 2].mean(1), facing))
        fixed = np.round((corners - 0.5) * 16).astype(np.int32)
        owner = np.full((size, size), -1, np.int32)
        for index in order.tolist():
            cv2.fillConvexPoly(owner, fixed[index], index, cv2.LINE_8, 4)
        low = np.maximum(np.floor(screen.min(0)).astype(int) - 1, 0)
        high = np.minimum(np.ceil(screen.max(0)).astype(int) + 2, size)
        window = np.s_[low[1] : high[1], low[0] : high[0]]
        owner = owner[window]
        # Degenerate triangles cover no pixel's centre; their inverse only has to be finite.
        safe = np.where(np.abs(determinant) < 1e-6, 1.0, determinant)
        (a, b), (c, d) = edges.transpose(1, 2, 0)
        inverse = np.array([[d, -b], [-c, a]]).transpose(2, 0, 1) / safe[:, None, None]
        linear = self.texture_edges @ inverse
        offset = self.texture_origin - (linear @ corners[:, 0, :, None])[..., 0]
        affine = np.concatenate([linear.reshape(-1, 4), offset], 1).astype(np.float32)
        affine = np.concatenate([affine, np.zeros((1, 6), np.float32)])  # for owner -1
        to_texel = affine[owner]
        x = self.columns[window] + 0.5
        y = self.rows[window] + 0.5
        map_x = to_texel[..., 0] * x + to_texel[..., 1] * y + to_texel[..., 4] - 0.5
        map_y = to_texel[..., 2] * x + to_texel[..., 3] * y + to_texel[..., 5] - 0.5
        rgb = cv2.remap(
            self.texture, map_x, map_y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
        )
        alpha = cv2.remap(self.head_alpha, map_x, map_y, cv2.INTER_LINEAR)
        alpha = np.where(owner < 0, np.float32(0), alpha)
        # One triangle owns a pixel: outer edges get their antialiasing here, and inner ones, where
        # the map jumps from the nose to the cheek or from the cheek to the hair, a little blur.
        alpha = np.minimum(alpha, np.clip(2.2 * cv2.GaussianBlur(alpha, (0, 0), 0.7) - 1.1, 0, 1))
        jump = np.zeros(owner.shape, np.float32)
        limit = 3.0 * self.texels / self.scale
        for source in (map_x, map_y):
            jump[:, 1:] = np.maximum(jump[:, 1:], np.abs(np.diff(source, axis=1)) > limit)
            jump[1:] = np.maximum(jump[1:], np.abs(np.diff(source, axis=0)) > limit)
        jump = np.clip(2 * cv2.GaussianBlur(jump, (0, 0), 0.9), 0, 1)[..., None]
        rgb = rgb + (cv2.GaussianBlur(rgb, (0, 0), 0.9).astype(np.float32) - rgb) * jump
        return window, rgb, alpha

    def _local_map(
        self, pose: Pose, centre: np.ndarray, turn: np.ndarray | None = None
    ) -> np.ndarray:
        """Affine map [2, 3] from portrait pixels near ``centre`` to frame pixels.

        ``turn`` is a rotation about the jaw's axis, for what moves with the jaw.
        """
        corners = centre + np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
        before = project(corners)[:, :2]
        if turn is not None:
            corners = (corners - self.mesh.jaw_axis) @ turn.T + self.mesh.jaw_axis
        after = project(self._pose(corners, pose))[:, :2] * self.scale
        return cv2.getAffineTransform(before.astype(np.float32), after.astype(np.float32))

    def _warp_patch(
        self, pixels: np.ndarray, patch: Patch, to_frame: np.ndarray, window: Patch
    ) -> np.ndarray:
        """Resample a texture patch into a window (x, y, width, height) of the frame."""
        x, y, w, h = window
        # texel -> portrait -> frame -> window, all with pixel centres at +0.5
        texel = np.array(
            [
                [1 / self.texels, 0, (patch[0] + 0.5) / self.texels],
                [0, 1 / self.texels, (patch[1] + 0.5) / self.texels],
                [0, 0, 1],
            ]
        )
        matrix = to_frame @ texel
        matrix[:, 2] -= (x + 0.5, y + 0.5)
        return cv2.warpAffine(
            pixels, matrix, (w, h), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )

    def _frame_window(self, polygon: np.ndarray, margin: int) -> Patch:
        """Integer box around a polygon in frame pixels, inside the frame."""
        low = np.clip(np.floor(polygon.min(0)).astype(int) - margin, 0, self.size - 1)
        high = np.clip(np.ceil(polygon.max(0)).astype(int) + margin, 1, self.size)
        return (
            int(low[0]),
            int(low[1]),
            max(int(high[0] - low[0]), 1),
            max(int(high[1] - low[1]), 1),
        )

    def _draw_eye(
        self, frame: np.ndarray, flat: np.ndarray, pose: Pose, eye: Eye, gaze: np.ndarray
    ) -> None:
        """Draw eyeball and iris between the lids."""
        polygon = flat[eye.ring, :2] * self.scale
        upper, lower = polygon[1:8], polygon[:8:-1]
        upper[:, 1] = np.minimum(upper[:, 1], lower[:, 1])
        window = self._frame_window(polygon, 3)
        x, y, w, h = window
        cover = coverage(polygon - (x, y), h, w)
        to_frame = self._local_map(pose, eye.centre)
        white = self._warp_patch(eye.white, eye.patch, to_frame, window)
        ball = 12.0 / 5.85 * eye.radius  # an eyeball's radius is 12 mm, an iris' 5.85 mm
        shift = ball * np.array([np.sin(gaze[0]), -np.sin(gaze[1])])
        moved = to_frame.copy()
        moved[:, 2] += to_frame[:, :2] @ shift
        iris = self._warp_patch(eye.iris, eye.patch, moved, window)
        inside = iris[..., 3:]
        colour = white * (1 - inside) + iris[..., :3] * inside
        soft = cv2.GaussianBlur(cover, (0, 0), 0.9 * self.scale)
        # Lashes and lid darken a slit; the upper lid throws a shadow on the eyeball.
        drop = 1.0 * self.scale
        shadow = cv2.warpAffine(soft, np.array([[1, 0, 0], [0, 1, drop]], np.float32), (w, h))
        height = np.mean(lower[:, 1] - upper[:, 1]) / self.scale
        closing = np.clip(1.25 - height / eye.height, 0, 1)
        slit = 1 - closing * (1 - np.clip((soft - 0.2) / 0.25, 0, 1))
        shade = slit * (0.55 + 0.45 * np.clip(shadow / 0.8, 0, 1))
        dark = np.array([84.0, 56.0, 46.0])
        colour = colour * shade[..., None] + dark * (1 - shade[..., None])
        cover = cover * np.clip((soft - 0.05) / 0.25, 0, 1)
        part = frame[y : y + h, x : x + w]
        part[:] = part * (1 - cover[..., None]) + colour * cover[..., None]

    def _draw_mouth(
        self, frame: np.ndarray, flat: np.ndarray, pose: Pose, jaw_turn: np.ndarray
    ) -> None:
        """Draw the inside of the mouth between the lips: dark, tongue, lower teeth, upper teeth."""
        mouth = self.mouth
        polygon = flat[mouth.ring, :2] * self.scale
        upper, lower = polygon[1:10], polygon[:10:-1]
        lower[:, 1] = np.maximum(lower[:, 1], upper[:, 1] + 0.35)  # lips meet, they do not cross
        window = self._frame_window(polygon, 3)
        x, y, w, h = window
        cover = coverage(polygon - (x, y), h, w)
        colour = np.empty((h, w, 3), np.float32)
        colour[:] = (38.0, 13.0, 12.0)
        fixed = self._local_map(pose, mouth.centre)
        swung = self._local_map(pose, mouth.centre, jaw_turn)
        soft = cv2.GaussianBlur(cover, (0, 0), 1.6 * self.scale)
        depth = np.clip((soft - 0.15) / 0.5, 0, 1)[..., None]
        low = self._warp_patch(mouth.lower, mouth.patch, swung, window)
        colour += (low[..., :3] * (0.35 + 0.65 * depth) - colour) * low[..., 3:]
        up = self._warp_patch(mouth.upper, mouth.patch, fixed, window)
        colour += (up[..., :3] - colour) * up[..., 3:]
        sliver = np.clip((soft - 0.2) / 0.3, 0, 1)[..., None]
        colour = colour * sliver + np.array([98.0, 50.0, 46.0]) * (1 - sliver)
        part = frame[y : y + h, x : x + w]
        part[:] = part * (1 - cover[..., None]) + colour * cover[..., None]


def _edges(corners: np.ndarray) -> np.ndarray:
    """Edge matrices [T, 2, 2] (columns are edges from the first corner) of triangles [T, 3, 2]."""
    return np.stack([corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]], -1)
