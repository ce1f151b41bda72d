"""A decoded picture to 8-bit sRGB: range, matrix, depth, size, and tone mapping of HDR."""

from __future__ import annotations

from functools import lru_cache

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, ColorTrc, Interpolation

HDR = (ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67)
"""Transfer functions PQ and HLG (ITU-R BT.2100)."""

PEAK = 4.9
"""Brightest light that is told from white, in units of reference white: 1000 over 203 cd/m2."""

BAND_PIXELS = 1 << 16
"""Pixels that are tone-mapped at once."""


def to_srgb(frame: av.VideoFrame, width: int, height: int) -> np.ndarray:
    """Convert a coded picture to uint8 [height, width, 3] sRGB; it is not rotated here."""
    hdr = frame.color_trc in HDR
    matrix = frame.colorspace
    if matrix not in (
        Colorspace.ITU601,
        Colorspace.ITU709,
        Colorspace.BT2020,
        Colorspace.SMPTE240M,
    ):
        # Untagged: players take BT.709 for HD and BT.601 below.
        hd = frame.width >= 1280 or frame.height > 576
        matrix = Colorspace.ITU709 if hd else Colorspace.ITU601
    full = frame.color_range == ColorRange.JPEG or frame.format.name.startswith("yuvj")
    # Without a change of size only chroma is interpolated, where Lanczos is nothing but slower.
    scaled = (frame.width, frame.height) != (width, height)
    method = Interpolation.LANCZOS if scaled else Interpolation.BICUBIC
    picture = frame.reformat(
        width=width,
        height=height,
        format="rgb48le" if hdr else "rgb24",
        src_colorspace=matrix,
        dst_colorspace=matrix,
        src_color_range=ColorRange.JPEG if full else ColorRange.MPEG,
        dst_color_range=ColorRange.JPEG,
        interpolation=method | Interpolation.ACCURATE_RND,
    ).to_ndarray()
    if hdr:
        picture = tone_map(picture, pq=frame.color_trc == ColorTrc.SMPTE2084)
    return picture


def tone_map(picture: np.ndarray, *, pq: bool) -> np.ndarray:
    """Map BT.2100 (HLG or PQ, BT.2020 primaries) uint16 [H, W, 3] to uint8 sRGB.

    Reference white (203 cd/m2, ITU-R BT.2408) becomes a little under sRGB white; what is brighter
    is rolled off rather than clipped.
    """
    out = np.empty(picture.shape, np.uint8)
    # Band by band: a 4K picture in floats would be 100 MB for every step, and out of every cache.
    rows = max(1, BAND_PIXELS // picture.shape[1])
    for top in range(0, len(picture), rows):
        out[top : top + rows] = _tone_map_band(picture[top : top + rows], pq)
    return out


def _tone_map_band(picture: np.ndarray, pq: bool) -> np.ndarray:
    linear = np.take(_linear_table(pq), picture >> 4)
    to_709 = np.array(  # ITU-R BT.2087, BT.2020 to BT.709
        [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]],
        np.float32,
    )
    linear = cv2.transform(linear, to_709)
    red, green, blue = cv2.split(linear)
    bright = cv2.max(cv2.max(red, green), blue)
    index = bright * np.float32(4095 / PEAK)
    gain = np.take(_gain_table(), index.astype(np.int32), mode="clip")
    linear *= 4095 * gain[..., None]
    linear += 0.5
    return np.take(_srgb_table(), linear.astype(np.int32), mode="clip")


@lru_cache(maxsize=1)
def _gain_table() -> np.ndarray:
    """[4096] by what a colour is multiplied whose brightest channel is 0 to PEAK.

    Extended Reinhard on the brightest channel keeps hue: 1 is reference white, PEAK maps to 1.
    """
    bright = np.maximum(np.arange(4096) / 4095 * PEAK, 1e-6)
    knee = 0.6
    over = np.maximum(bright - knee, 0) / (1 - knee)
    limit = (PEAK - knee) / (1 - knee)
    rolled = knee + (1 - knee) * over * (1 + over / limit**2) / (1 + over)
    return np.where(bright > knee, rolled / bright, 1.0).astype(np.float32)


@lru_cache(maxsize=2)
def _linear_table(pq: bool) -> np.ndarray:
    """[4096] display-linear light of 12-bit code values, 1 = 203 cd/m2 (ITU-R BT.2100)."""
    code = np.arange(4096) / 4095
    if pq:
        m1, m2, c1, c2, c3 = 0.1593017578125, 78.84375, 0.8359375, 18.8515625, 18.6875
        root = code ** (1 / m2)
        nits = 10000 * (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1)
    else:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        scene = np.where(code <= 0.5, code**2 / 3, (np.exp((code - c) / a) + b) / 12)
        nits = 1000 * scene**1.2  # system gamma of a 1000 cd/m2 display, per channel
    return (nits / 203).astype(np.float32)


@lru_cache(maxsize=1)
def _srgb_table() -> np.ndarray:
    """[4096] uint8 sRGB of linear light."""
    linear = np.arange(4096) / 4095
    code = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.round(255 * code).astype(np.uint8)
