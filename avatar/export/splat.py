"""The .splat layout of antimatter15's web viewer: 32 bytes a Gaussian, no header.

Three floats of position, three of scale (metres, not their logarithms), four bytes of colour and
opacity, four bytes of quaternion wxyz, each component as 128 + 128 q.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from avatar.export.splat_common import naming_path, raw_splats
from avatar.tensorfile import write_bytes
from avatar.types import Gaussians

SPLAT_RECORD = np.dtype(
    [("position", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("rotation", "u1", 4)]
)


def write_splat(path: Path, gaussians: Gaussians) -> None:
    """Write posed Gaussians as a .splat file, atomically; raises as ``write_ply`` does.

    The largest and most opaque come first, as viewers draw the file while it loads. The layout has no
    spherical harmonics beyond the constant: those are left out.
    """
    raw = raw_splats(gaussians)
    size = raw.log_scales.astype(np.float64).sum(1) + np.log(raw.opacities.astype(np.float64))
    order = np.argsort(-size, kind="stable")
    records = np.zeros(len(raw), SPLAT_RECORD)
    records["position"] = raw.means[order]
    # The largest numbers that single precision has are no scales, but must not become infinite.
    largest = np.float64(np.finfo(np.float32).max)
    records["scale"] = np.exp(raw.log_scales[order].astype(np.float64)).clip(max=largest)
    rgba = np.concatenate([raw.colours, raw.opacities[:, None]], 1)[order]
    records["rgba"] = np.round(rgba.clip(0, 1) * 255)
    records["rotation"] = np.round(raw.quats[order] * 128 + 128).clip(0, 255)
    with naming_path(path):
        write_bytes(Path(path), records.tobytes())
