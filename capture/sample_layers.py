"""The layers of ``avatar sample``: the photograph cut into head, eyes, mouth, neck and background.

The picture is ``skimage.data.astronaut()`` (NASA, public domain), which ships inside the
scikit-image wheel. The texture has ``texels`` pixels a portrait pixel (see ``sample_mesh``): twice
the frame's resolution, so that a frame is resampled from more than it shows.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from avatar.checks import InputError
from capture.sample_mesh import (
    CROP,
    CROP_X,
    CROP_Y,
    EYE_LOWER,
    EYE_UPPER,
    HEAD_OUTLINE,
    IRIS,
    LIP_INNER_LOWER,
    LIP_INNER_UPPER,
    HeadMesh,
    lift,
)

# Drawn by hand on the photograph, in its pixels: the skin of the neck, carried on behind the jaw,
# and the middle line of the collar's ring where it passes behind the head, hidden but for its ends.
_NECK_OUTLINE = (
    (193, 150), (188, 157), (186.4, 165), (186.4, 171), (187, 177), (190, 181), (195, 184.6),
    (205, 186.4), (215, 187.6), (225, 189.6), (234, 191), (243, 189.6), (249, 187), (252, 185),
    (253.5, 180), (254.6, 174), (256.3, 167), (256.8, 161), (253.5, 154), (247, 148),
)  # fmt: skip
_RING_LINE = (
    (176, 150.6), (184, 151), (194, 152), (206, 154.2), (220, 158), (234, 163.5), (246, 170),
    (254, 175.2), (261, 180),
)  # fmt: skip
_RING_WIDTH = 4.6
_RING_COLOURS = ((97, 84, 93), (135, 124, 140))
_COLLAR_COLOUR = (6, 3, 2)

Patch = tuple[int, int, int, int]
"""x, y, width, height of a part of the texture, texels."""


@dataclass(frozen=True)
class Eye:
    """One eye: what lies in the hole between the lids."""

    ring: np.ndarray
    """[16] points of the lid contour."""
    centre: np.ndarray
    """[3] iris centre at rest."""
    radius: float
    """Iris radius, portrait pixels."""
    height: float
    """Mean distance of the lids at rest, portrait pixels."""
    patch: Patch
    """Where the patches lie."""
    white: np.ndarray
    """[h, w, 3] the eyeball without iris."""
    iris: np.ndarray
    """[h, w, 4] the iris with its coverage."""


@dataclass(frozen=True)
class Mouth:
    """What lies in the hole between the lips."""

    ring: np.ndarray
    """[20] points of the inner lip contour, upper from right to left, then lower back."""
    centre: np.ndarray
    """[3] where the teeth are, behind the lips."""
    patch: Patch
    """Where the patches lie."""
    upper: np.ndarray
    """[h, w, 4] upper teeth with their coverage; they move with the skull."""
    lower: np.ndarray
    """[h, w, 4] lower teeth and tongue with their coverage; they move with the jaw."""


@dataclass(frozen=True)
class Plate:
    """What lies behind the head, at the frame's size."""

    background: np.ndarray
    """[S, S, 3] torso and background without head and neck, uint8 range, float32."""
    neck: np.ndarray
    """[S, S, 3] the skin of the neck, carried on everywhere."""
    neck_alpha: np.ndarray
    """[S, S] coverage of the neck."""
    breath_weight: np.ndarray
    """[S, S] how far a pixel goes with the breath: shoulders and collar do, the background not."""
    neck_weight: np.ndarray
    """[S, S] how far the neck goes with the head: all the way at its top, not at the collar."""


def load_photo() -> np.ndarray:
    """Read the portrait out of the scikit-image wheel, uint8 [512, 512, 3]."""
    try:
        import skimage.data

        photo = skimage.data.astronaut()
    except (ImportError, OSError, ValueError) as error:
        raise InputError(
            f"The sample's portrait cannot be read from scikit-image ({error}). "
            "Install it again with: pip install --force-reinstall scikit-image"
        ) from error
    return np.ascontiguousarray(photo)


def enlarge(photo: np.ndarray, side: int) -> np.ndarray:
    """Cut the crop and resample it to ``side`` x ``side`` texels."""
    crop = photo[CROP_Y : CROP_Y + CROP, CROP_X : CROP_X + CROP]
    return cv2.resize(crop, (side, side), interpolation=cv2.INTER_LANCZOS4)


def detect(texture: np.ndarray) -> np.ndarray:
    """Find the 478 points of the portrait's face, [478, 3] texels."""
    import mediapipe

    face_mesh = mediapipe.solutions.face_mesh  # type: ignore[attr-defined]
    with face_mesh.FaceMesh(static_image_mode=True, max_num_faces=1, refine_landmarks=True) as mesh:
        found = mesh.process(texture).multi_face_landmarks
    if not found:
        raise InputError(
            "MediaPipe finds no face in the sample's portrait. "
            "Install it again with: pip install --force-reinstall mediapipe==0.10.21"
        )
    side = texture.shape[0]
    return np.array([[p.x, p.y, p.z] for p in found[0].landmark], np.float64) * side


def head_matte(texture: np.ndarray, texels: float) -> np.ndarray:
    """Coverage [side, side] of hair, face and ears."""
    return _refine_matte(texture, _polygon_matte(HEAD_OUTLINE, texture.shape[0], texels), texels)


def cut_eye(texture: np.ndarray, mesh: HeadMesh, side: str, texels: float) -> Eye:
    """Part the eye into a white and an iris, so that the iris can move."""
    ring = np.array([*EYE_UPPER[side], *EYE_LOWER[side][-2:0:-1]])
    patch = _window(mesh.flat[ring, :2], 6.0, texels)
    x, y, w, h = patch
    pixels = texture[y : y + h, x : x + w].astype(np.float32)
    hole = _hole(mesh, ring, patch, texels)
    iris_index = [i - 468 for i in IRIS[side]]
    centre = mesh.iris_points[iris_index[0]].copy()
    centre[2] = mesh.flat[ring, 2].mean()
    radius = mesh.iris_radius[side]
    columns, rows = np.meshgrid(np.arange(w) + 0.5, np.arange(h) + 0.5)
    cx, cy = centre[:2] * texels - (x, y)
    distance = np.hypot(columns - cx, rows - cy) / texels
    inside = cv2.erode(hole, _disc(0.9 * texels))
    bright = np.clip((pixels.mean(2) - 120) / 60, 0, 1)
    visible_white = inside * (distance > 1.22 * radius) * bright
    # Only what the iris hides is filled: lashes, lid rims and the corner stay as they are.
    hidden = np.clip((1.30 * radius - distance) / 1.0 + 0.5, 0, 1)[..., None]
    white = pixels + (_fill(pixels, visible_white, 2.5 * texels) - pixels) * hidden
    # The lids hide the top of the iris: its rows are taken from the mirror image below.
    flip = cv2.remap(
        pixels,
        columns.astype(np.float32) - 0.5,
        (2 * cy - rows).astype(np.float32) - 0.5,
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    seen = cv2.GaussianBlur(inside, (0, 0), 0.4 * texels)[..., None]
    colour = pixels * seen + flip * (1 - seen)
    cover = np.clip((1.04 * radius - distance) / 1.2 + 0.5, 0, 1)
    iris = np.dstack([colour, cover]).astype(np.float32)
    rims = (mesh.flat[list(rim[side][1:-1]), 1] for rim in (EYE_LOWER, EYE_UPPER))
    height = float(np.mean(np.subtract(*rims)))
    white = white.astype(np.float32)
    return Eye(ring, lift(centre), radius, height, patch, white, iris)


def cut_mouth(texture: np.ndarray, mesh: HeadMesh, texels: float) -> Mouth:
    """Take the upper teeth from the photograph; make lower teeth and tongue from them."""
    ring = np.array([*LIP_INNER_UPPER, *LIP_INNER_LOWER[-2:0:-1]])
    patch = _window(mesh.flat[ring, :2], 14.0, texels)
    x, y, w, h = patch
    pixels = texture[y : y + h, x : x + w].astype(np.float32)
    hole = _hole(mesh, ring, patch, texels)
    t = texels
    # Teeth go on behind the upper lip, so coverage reaches up; below it ends with the teeth.
    reach = round(3 * t)
    cover = np.maximum.reduce([np.roll(hole, -k, 0) for k in range(0, reach + 1)])
    trimmed = np.roll(hole, -round(0.8 * t), 0)
    cover = np.where(np.cumsum(hole, 0) > 0, np.minimum(cover, trimmed), cover)
    cover = cv2.GaussianBlur(cover, (0, 0), 0.35 * t)
    upper = np.dstack([pixels, cover])

    lower = np.zeros((h, w, 4), np.float32)
    middle = mesh.flat[[78, 308], 0].mean() * t - x
    top = (mesh.flat[14, 1] - 5.5) * t - y
    half = 12.5 * t
    columns, rows = np.meshgrid(np.arange(w) + 0.5, np.arange(h) + 0.5)
    side = (columns - middle) / half
    edge = top - 2.0 * t * side**2  # the row curves up towards the corners
    teeth_source = mesh.flat[14, 1] * t - y
    # Lower teeth are narrower than the upper ones and seen from their other end.
    across = middle + (columns - middle) * 1.28 + 1.3 * t
    flipped = cv2.remap(
        pixels,
        across.astype(np.float32),
        (teeth_source - 0.8 * t - 2.2 * t * side**2 - (rows - edge) * 0.8).astype(np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    inside = np.clip((rows - edge) / (0.7 * t) + 0.5, 0, 1) * np.clip(
        (1.0 - np.abs(side)) * 4, 0, 1
    )
    inside *= np.clip((edge + 4.6 * t - rows) / (1.2 * t), 0, 1)
    fade = np.clip(0.78 - 0.35 * side**2, 0, 1)[..., None]
    lower[..., :3] = flipped * fade * (0.95, 0.92, 0.86)
    lower[..., 3] = inside
    # The tongue lies behind the lower teeth and is seen above them when the mouth is wide open.
    tongue = 1 - ((columns - middle) / (11 * t)) ** 2 - ((rows - top - 2.0 * t) / (5.0 * t)) ** 2
    tongue_cover = np.clip(tongue * 1.6, 0, 1)
    colour = np.array([112.0, 54.0, 52.0]) * (0.55 + 0.45 * np.clip(tongue, 0, 1))[..., None]
    both = inside[..., None]
    lower[..., :3] = lower[..., :3] * both + colour * (1 - both)
    lower[..., 3] = np.maximum(inside, tongue_cover * 0.85)

    centre = np.array([*mesh.flat[[13, 14], :2].mean(0), mesh.flat[[13, 14], 2].mean() + 6.0])
    return Mouth(ring, lift(centre), patch, upper.astype(np.float32), lower)


def cut_plate(texture: np.ndarray, photo: np.ndarray, head: np.ndarray, size: int) -> Plate:
    """Part torso, background and neck from a head of coverage ``head`` (at the texture's size)."""
    texels, scale, side = texture.shape[0] / CROP, size / CROP, (size, size)
    neck = _polygon_matte(_NECK_OUTLINE, texture.shape[0], texels)
    hidden = cv2.resize(np.maximum(head, neck), (CROP, CROP), interpolation=cv2.INTER_AREA)
    mask = cv2.dilate((hidden > 0.02).astype(np.uint8), _disc(2.0))
    crop = photo[CROP_Y : CROP_Y + CROP, CROP_X : CROP_X + CROP]
    behind = _draw_ring(cv2.inpaint(np.ascontiguousarray(crop), mask, 6, cv2.INPAINT_TELEA))
    filled = cv2.resize(behind, texture.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    soft = cv2.resize(mask.astype(np.float32), texture.shape[1::-1])[..., None]
    background = texture * (1 - soft) + filled * soft
    # The shadow of the chin moves with the chin: the neck is taken from where there is none.
    bare = neck * (1 - cv2.dilate(head, _disc(1.5 * texels)))
    bare = cv2.erode(bare, _disc(0.8 * texels))
    skin = _fill(texture.astype(np.float32), bare, 5.0 * texels)
    seen = cv2.GaussianBlur(bare, (0, 0), 0.5 * texels)[..., None]
    skin = texture * seen + skin * (1 - seen)
    columns, rows = np.meshgrid(np.arange(size) / scale + CROP_X, np.arange(size) / scale + CROP_Y)
    shoulders = np.clip((rows - 140) / 60, 0, 1) * np.exp(-(((columns - 222) / 105) ** 4))
    return Plate(
        background=cv2.resize(background, side, interpolation=cv2.INTER_AREA).astype(np.float32),
        neck=cv2.resize(skin, side, interpolation=cv2.INTER_AREA).astype(np.float32),
        neck_alpha=cv2.resize(neck, side, interpolation=cv2.INTER_AREA),
        breath_weight=shoulders.astype(np.float32),
        neck_weight=np.clip((190 - rows) / 45, 0, 1).astype(np.float32),
    )


def _window(points: np.ndarray, margin: float, texels: float) -> Patch:
    """Bounding box of portrait points in texels, with a margin in portrait pixels."""
    low = np.floor((points.min(0) - margin) * texels).astype(int)
    high = np.ceil((points.max(0) + margin) * texels).astype(int)
    return int(low[0]), int(low[1]), int(high[0] - low[0]), int(high[1] - low[1])


def _hole(mesh: HeadMesh, ring: np.ndarray, patch: Patch, texels: float) -> np.ndarray:
    """Coverage [h, w] of a ring of mesh points at rest."""
    polygon = mesh.flat[ring, :2] * texels - patch[:2]
    return coverage(polygon, patch[3], patch[2])


def coverage(polygon: np.ndarray, height: int, width: int) -> np.ndarray:
    """Antialiased coverage [height, width] float32 of a polygon (pixel centres at +0.5)."""
    mask = np.zeros((height, width), np.uint8)
    fixed = np.round((polygon - 0.5) * 16).astype(np.int32)
    cv2.fillPoly(mask, [fixed], [255], cv2.LINE_AA, 4)
    return mask.astype(np.float32) / 255


def _disc(radius: float) -> np.ndarray:
    """Structuring element of a radius in pixels."""
    side = 2 * max(round(radius), 1) + 1
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))


def _polygon_matte(
    outline: tuple[tuple[float, float], ...], side: int, texels: float
) -> np.ndarray:
    """Matte [side, side] of an outline given in the photograph's pixels, with a soft edge."""
    points = _smooth_loop((np.array(outline) - (CROP_X, CROP_Y)) * texels)
    return cv2.GaussianBlur(coverage(points, side, side), (0, 0), 0.45 * texels)


def _smooth_loop(points: np.ndarray, steps: int = 6) -> np.ndarray:
    """Run a Catmull-Rom spline through a closed polygon."""
    t = (np.arange(steps) / steps)[:, None]
    p0, p1, p2, p3 = (np.roll(points, k, 0)[:, None] for k in (1, 0, -1, -2))
    curve = 0.5 * (
        2 * p1
        + (p2 - p0) * t
        + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2
        + (3 * p1 - p0 - 3 * p2 + p3) * t**3
    )
    return curve.reshape(-1, 2)


def _refine_matte(texture: np.ndarray, matte: np.ndarray, texels: float) -> np.ndarray:
    """Let the matte follow the picture's edges: guided filter (He, Sun and Tang, 2010) on grey."""
    guide = cv2.cvtColor(texture, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    window = (2 * round(1.5 * texels) + 1,) * 2

    def mean(values: np.ndarray) -> np.ndarray:
        return cv2.blur(values, window)

    guide_mean, matte_mean = mean(guide), mean(matte)
    slope = (mean(guide * matte) - guide_mean * matte_mean) / (
        mean(guide * guide) - guide_mean**2 + 1e-3
    )
    refined = mean(slope) * guide + mean(matte_mean - slope * guide_mean)
    return np.clip((refined - 0.1) / 0.8, 0, 1)


def _fill(pixels: np.ndarray, weight: np.ndarray, sigma: float) -> np.ndarray:
    """Carry the colours of the weighted pixels everywhere: normalised convolution, then their mean."""
    weight = weight[..., None].astype(np.float32)
    total = cv2.GaussianBlur(weight, (0, 0), sigma)[..., None]
    mean = (pixels * weight).sum((0, 1)) / max(float(weight.sum()), 1e-6)
    blurred = cv2.GaussianBlur(pixels * weight, (0, 0), sigma)
    return (blurred + 1e-3 * mean) / (total + 1e-3)


def _draw_ring(picture: np.ndarray) -> np.ndarray:
    """Close the collar's ring behind the head in a picture [CROP, CROP, 3] without head and neck."""
    fine = 8
    line = np.array(_RING_LINE) - (CROP_X, CROP_Y)
    inside = np.array((*_RING_LINE, (254, 190), (230, 194), (186, 184))) - (CROP_X, CROP_Y)
    canvas = np.zeros((CROP * fine, CROP * fine), np.uint8)
    dark = cv2.fillPoly(canvas.copy(), [np.round(inside * fine).astype(np.int32)], [255])
    width = round(_RING_WIDTH * fine)
    ring = cv2.polylines(canvas, [np.round(line * fine).astype(np.int32)], False, [255], width)
    out = picture.astype(np.float32)
    along = np.clip((np.arange(CROP) - line[0, 0]) / (line[-1, 0] - line[0, 0]), 0, 1)[
        None, :, None
    ]
    left, right = np.array(_RING_COLOURS, np.float32)
    for mask, colour in ((dark, np.array(_COLLAR_COLOUR)), (ring, left + (right - left) * along)):
        cover = (
            cv2.resize(mask, (CROP, CROP), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        )
        cover = cv2.GaussianBlur(cover, (0, 0), 0.7)[..., None]
        out = out * (1 - cover) + colour * cover
    return out.astype(np.uint8)
