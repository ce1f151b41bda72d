"""PlayCanvas's compressed PLY, which SuperSplat opens: 16 bytes a Gaussian.

Gaussians are taken 256 at a time; a chunk stores the bounds of its positions, log scales and
colours, and each Gaussian its place between them in a few bits: positions and scales 11, 10 and 11,
colours and opacity 8 each, and of its quaternion the three smaller components in 10 each, with 2
bits that say which is the largest. The layout is described in PlayCanvas's manual
(developer.playcanvas.com, "The Compressed PLY Format"). Chunks are filled along a Z curve, so that
they are small in space and the bits fine.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from avatar.export.splat_common import naming_path, nearby_order, raw_splats
from avatar.tensorfile import write_bytes
from avatar.types import Gaussians

CHUNK = 256
"""Gaussians that share bounds; the last chunk may hold fewer."""
LARGEST_LOG_SCALE = 20.0
"""Log scales are kept within plus and minus this, as the format's readers expect."""

_BOUNDS = ("x", "y", "z"), ("scale_x", "scale_y", "scale_z"), ("r", "g", "b")


def write_compressed_ply(path: Path, gaussians: Gaussians) -> None:
    """Write posed Gaussians as a compressed PLY file, atomically; raises as ``write_ply`` does.

    Their order changes, for chunks that are near together. Spherical harmonics beyond the constant
    take 8 bits a coefficient, from -4 to 4.
    """
    raw = raw_splats(gaussians)
    order = nearby_order(raw.means)
    chunk = np.arange(len(raw)) // CHUNK
    scales = raw.log_scales[order].clip(-LARGEST_LOG_SCALE, LARGEST_LOG_SCALE)
    places = [
        _between_bounds(values, chunk) for values in (raw.means[order], scales, raw.colours[order])
    ]
    (position, _), (scale, _), (colour, _) = places
    vertices = np.stack(
        [
            _packed(position, (11, 10, 11)),
            _packed_quats(raw.quats[order]),
            _packed(scale, (11, 10, 11)),
            _packed(np.concatenate([colour, raw.opacities[order][:, None]], 1), (8, 8, 8, 8)),
        ],
        1,
    )
    bounds = np.concatenate([bound for _, bound in places], 1)
    rest = raw.rest_by_channel[order]
    header = [
        "ply",
        "format binary_little_endian 1.0",
        f"element chunk {len(bounds)}",
        *(f"property float {end}_{name}" for g in _BOUNDS for end in ("min", "max") for name in g),
        f"element vertex {len(raw)}",
        *(f"property uint packed_{name}" for name in ("position", "rotation", "scale", "color")),
    ]
    if rest.shape[1]:
        header.append(f"element sh {len(raw)}")
        header += [f"property uchar f_rest_{i}" for i in range(rest.shape[1])]
    content = b"".join(
        [
            "\n".join([*header, "end_header", ""]).encode("ascii"),
            bounds.astype("<f4").tobytes(),
            vertices.astype("<u4").tobytes(),
            np.floor((rest / 8 + 0.5) * 256).clip(0, 255).astype(np.uint8).tobytes(),
        ]
    )
    with naming_path(path):
        write_bytes(Path(path), content)


def _between_bounds(values: np.ndarray, chunk: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where values [N, 3] lie in their chunk's range, [N, 3] in [0, 1], and the bounds [C, 6]."""
    if len(values) == 0:
        return values.astype(np.float64), np.zeros((0, 6))
    starts = np.arange(0, len(values), CHUNK)
    low = np.minimum.reduceat(values, starts).astype(np.float64)
    high = np.maximum.reduceat(values, starts).astype(np.float64)
    extent = np.where(high > low, high - low, 1.0)
    return (values - low[chunk]) / extent[chunk], np.concatenate([low, high], 1)


def _packed(places: np.ndarray, bits: tuple[int, ...]) -> np.ndarray:
    """Pack columns of places [N, len(bits)] in [0, 1] into uint32 [N], the first in the highest bits."""
    packed = np.zeros(len(places), np.uint32)
    for column, width in zip(places.T, bits, strict=True):
        steps = np.round(column.astype(np.float64) * ((1 << width) - 1)).astype(np.uint32)
        packed = (packed << np.uint32(width)) | steps
    return packed


def _packed_quats(quats: np.ndarray) -> np.ndarray:
    """Pack unit quaternions [N, 4] wxyz: which is the largest, then the others in order."""
    rows = np.arange(len(quats))
    largest = np.abs(quats).argmax(1)
    # q and -q are the same rotation; the largest is left out and must be found positive.
    quats = quats * np.where(quats[rows, largest] < 0, -1.0, 1.0)[:, None]
    others = quats[np.arange(4) != largest[:, None]].reshape(-1, 3)
    places = (others / np.sqrt(2) + 0.5).clip(0, 1)  # none of them exceeds 1 / sqrt(2)
    return (largest.astype(np.uint32) << np.uint32(30)) | _packed(places, (10, 10, 10))
