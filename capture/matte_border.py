"""The person's edge: how much of each border pixel is person, from the colours that mix there."""

from __future__ import annotations

from typing import Protocol

import cv2
import numpy as np

MATTE_AREA = 512 * 512
"""Pixels at most of the picture in which the mask is made; a larger picture's mask follows from it
by the picture's own edges."""


class Backdrop(Protocol):
    """What is known of the background."""

    @property
    def colour(self) -> np.ndarray:
        """uint8 [h, w, 3] sRGB."""
        ...

    @property
    def known(self) -> np.ndarray:
        """uint8 [h, w], 1 where ``colour`` is known."""
        ...

    @property
    def noise(self) -> float:
        """Standard deviation of a still pixel, levels of 255."""
        ...


def matte_size(width: int, height: int) -> tuple[int, int]:
    """Width and height at which the mask of a picture is made: both even where it is reduced."""
    scale = float(np.sqrt(MATTE_AREA / (width * height)))
    if scale >= 1:
        return width, height
    return max(2, 2 * round(width * scale / 2)), max(2, 2 * round(height * scale / 2))


def largest_channel(image: np.ndarray) -> np.ndarray:
    """Return the largest of a picture's three channels, [h, w] (twenty times faster than numpy)."""
    red, green, blue = cv2.split(image)
    return cv2.max(cv2.max(red, green), blue)


def shows(backdrop: Backdrop, image: np.ndarray) -> np.ndarray:
    """Where a picture shows the known background, bool [h, w]: all about the pixel, not by chance."""
    away = largest_channel(cv2.absdiff(image, backdrop.colour))
    away[backdrop.known == 0] = 255
    return cv2.dilate(away, np.ones((7, 7), np.uint8)) < 4 * backdrop.noise + 4


def along_edges(
    image: np.ndarray, values: np.ndarray, ys: np.ndarray, xs: np.ndarray, radius: int
) -> np.ndarray:
    """Let values, float32 [h, w], follow a picture's edges; return them at the pixels (ys, xs).

    Guided filter on grey (He, Sun and Tang, 2010), its coefficients found at half the size (He and
    Sun, Fast guided filter, 2015). What differs by less than 8 levels within ``radius`` is no edge.
    """
    height, width = values.shape
    size = (max(1, width // 2), max(1, height // 2))
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    guide = cv2.resize(grey, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    target = cv2.resize(values, size, interpolation=cv2.INTER_AREA)
    window = (radius | 1, radius | 1)  # half of 2 r + 1

    def mean(of: np.ndarray) -> np.ndarray:
        return cv2.blur(of, window, borderType=cv2.BORDER_REFLECT)

    centre, level = mean(guide), mean(target)
    slope = (mean(guide * target) - centre * level) / (mean(guide * guide) - centre**2 + 8.0**2)
    offset = mean(level - slope * centre)
    slope = mean(slope)
    slope, offset = (cv2.resize(of, (width, height))[ys, xs] for of in (slope, offset))
    return slope * grey[ys, xs] + offset


def unmix(
    image: np.ndarray,
    inner: np.ndarray,
    beyond: np.ndarray,
    ys: np.ndarray,
    xs: np.ndarray,
    fallback: np.ndarray,
    cell: float,
    backdrop: Backdrop | None,
) -> np.ndarray:
    """Estimate coverage [n] of the border pixels (ys, xs) from colours.

    A border pixel is taken as a mix of the mean colour of the sure person near it and that of the
    background: the known one of that very pixel, else the mean of the sure background near it. Its
    coverage is where it lies between the two. That is trusted where the two colours differ and
    explain the pixel, else ``fallback`` [n] stands.

    Args:
        image: uint8 [h, w, 3] sRGB.
        inner: uint8 [h, w], 1 on the sure person.
        beyond: uint8 [h, w], 1 on the sure background.
        ys: [n] rows.
        xs: [n] columns.
        fallback: float32 [n], coverage by other means.
        cell: pixels of what the segmenters tell apart.
        backdrop: known background of the same size, or None.
    """
    down = 4  # local means vary slowly: a quarter of the size costs a sixteenth
    reach = 2 * max(1, round(7.5 * cell / down)) + 1
    person, person_weight = _local_mean(image, inner, ys, xs, down, reach)
    behind, behind_weight = _local_mean(image, beyond, ys, xs, down, reach)
    # 45 levels of colour difference are half trusted where the background is a guess. Chosen on a
    # rendered head, looked at on real clips.
    half_trusted = 45.0**2
    known = np.zeros(len(ys), bool)
    if backdrop is not None:
        known = backdrop.known[ys, xs] > 0
        behind = np.where(known[:, None], backdrop.colour[ys, xs].astype(np.float32), behind)
        behind_weight = np.where(known, np.float32(1), behind_weight)
        half_trusted = np.where(known, np.float32(12.0**2), np.float32(half_trusted))
    offset = image[ys, xs].astype(np.float32) - behind
    fallback = _unlike(offset, known, fallback)
    axis = person - behind
    contrast = np.einsum("nc,nc->n", axis, axis)
    coverage = np.clip(np.einsum("nc,nc->n", offset, axis) / (contrast + 1), 0, 1)
    residual = offset - coverage[:, None] * axis
    unexplained = np.einsum("nc,nc->n", residual, residual)
    # A residual of 15 % of the difference, or of 12 levels (noise), halves the trust again.
    trust = (
        contrast / (contrast + half_trusted) / (1 + unexplained / (0.15**2 * contrast + 12.0**2))
    )
    trust *= (person_weight > 0.02) & (behind_weight > 0.02)
    return trust * coverage + (1 - trust) * fallback


def _unlike(offset: np.ndarray, known: np.ndarray, coverage: np.ndarray) -> np.ndarray:
    """Change coverage [n] by how far the colour is, offset [n, 3], from a known background.

    An edge in its own shadow is like neither person nor background: it does not mix of the two,
    but it is surely no background.
    """
    # 8 levels: four times the noise of a compressed clip. At none away it speaks for background as
    # strongly (3 in log odds) as it speaks for person at 28 levels.
    hint = np.clip(0.5 * np.einsum("nc,nc->n", offset, offset) / 8.0**2 - 3.0, -4, 4)
    inside = np.clip(coverage, 0.02, 0.98)
    return np.where(known, 1 / (1 + (1 / inside - 1) * np.exp(-hint)), coverage)


def _local_mean(
    image: np.ndarray, where: np.ndarray, ys: np.ndarray, xs: np.ndarray, down: int, reach: int
) -> tuple[np.ndarray, np.ndarray]:
    """Mean colour [n, 3] of the pixels ``where`` near (ys, xs), and their share [n] there."""
    height, width = where.shape
    size = (max(1, width // down), max(1, height // down))
    masked = cv2.bitwise_and(image, image, mask=where)
    colour = cv2.resize(masked, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    weight = cv2.resize(where * np.uint8(255), size, interpolation=cv2.INTER_AREA)
    weight = weight.astype(np.float32) / 255
    colour = cv2.blur(colour, (reach, reach), borderType=cv2.BORDER_REPLICATE)
    weight = cv2.blur(weight, (reach, reach), borderType=cv2.BORDER_REPLICATE)
    colour /= weight[..., None] + 1e-4
    return (
        cv2.resize(colour, (width, height))[ys, xs],
        cv2.resize(weight, (width, height))[ys, xs],
    )


def enlarge(image: np.ndarray, small: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Bring a mask of a reduced picture to full size along the picture's own edges.

    Within a small window coverage is taken for a linear function of the colour (He, Sun and Tang,
    Guided image filtering, 2010): its coefficients are found in the reduced picture and applied to
    the full one, in the border alone.

    Args:
        image: uint8 [H, W, 3] sRGB.
        small: uint8 [h, w, 3], the same, reduced.
        alpha: float32 [h, w] coverage in [0, 1].

    Returns:
        uint8 [H, W].
    """
    height, width = image.shape[:2]
    levels = np.round(255 * alpha).astype(np.uint8)
    result = cv2.resize(levels, (width, height), interpolation=cv2.INTER_LINEAR)
    window = np.ones((5, 5), np.uint8)
    near = (cv2.dilate(alpha, window) - cv2.erode(alpha, window) > 0.02).astype(np.uint8)
    ys, xs = np.nonzero(cv2.resize(near, (width, height), interpolation=cv2.INTER_NEAREST))
    if not len(ys):
        return result
    slope, offset = _linear_in_colour(small, alpha, cv2.dilate(near, window) > 0)
    scale_x, scale_y = small.shape[1] / width, small.shape[0] / height
    columns = ((xs + 0.5) * scale_x - 0.5).astype(np.float32)[None]
    rows = ((ys + 0.5) * scale_y - 0.5).astype(np.float32)[None]

    def at(values: np.ndarray) -> np.ndarray:
        step = 30000  # remap refuses more than 32767 columns
        parts = [
            cv2.remap(
                values, columns[:, i : i + step], rows[:, i : i + step], cv2.INTER_LINEAR,
                borderMode=cv2.BORDER_REPLICATE,
            )[0]
            for i in range(0, len(ys), step)
        ]  # fmt: skip
        return np.concatenate(parts)

    colour = image[ys, xs].astype(np.float32) / 255
    found = np.einsum("nc,nc->n", at(slope), colour) + at(offset)
    result[ys, xs] = np.round(255 * np.clip(found, 0, 1)).astype(np.uint8)
    return result


def _linear_in_colour(
    image: np.ndarray, alpha: np.ndarray, where: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Slope [h, w, 3] per unit of colour in [0, 1] and offset [h, w] of coverage near ``where``."""

    def mean(values: np.ndarray) -> np.ndarray:
        return cv2.blur(values, (5, 5), borderType=cv2.BORDER_REFLECT)

    guide = image.astype(np.float32) / 255
    red, green, blue = cv2.split(guide)
    products = cv2.merge([red * red, red * green, red * blue])
    others = cv2.merge([green * green, green * blue, blue * blue])
    centre, level = mean(guide)[where], mean(alpha)[where]
    moments = np.concatenate([mean(products)[where], mean(others)[where]], 1)
    covariance = moments[:, [0, 1, 2, 1, 3, 4, 2, 4, 5]].reshape(-1, 3, 3)
    covariance = covariance - centre[:, :, None] * centre[:, None, :]
    # Differences of less than about 5 levels are noise and move nothing.
    covariance += (5 / 255) ** 2 * np.eye(3, dtype=np.float32)
    shared = mean(guide * alpha[..., None])[where] - centre * level[:, None]
    slope, offset = np.zeros_like(guide), alpha.copy()
    slope[where] = np.linalg.solve(covariance, shared[..., None])[..., 0]
    offset[where] = level - np.einsum("nc,nc->n", slope[where], centre)
    return mean(slope), mean(offset)
