"""The PLY layout of 3D Gaussian Splatting (Kerbl et al. 2023), which public splat viewers open."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from avatar.export.splat_common import naming_path, raw_splats
from avatar.tensorfile import write_bytes
from avatar.types import Gaussians


def write_ply(path: Path, gaussians: Gaussians) -> None:
    """Write posed Gaussians as a binary little-endian 3DGS PLY file, atomically.

    Positions stay in the world frame in metres. The file holds raw values as the layout wants them:
    logarithms of scales, logits of opacities, unit quaternions wxyz, spherical harmonics with the
    coefficients behind the constant one channel by channel.

    Args:
        path: the file.
        gaussians: colours [N, 3] sRGB, or [N, S, 3] spherical harmonics.

    Raises:
        ValueError: other shapes, or values that are not finite.
        InputError: the file cannot be written.
        OSError: the disk is full.
    """
    raw = raw_splats(gaussians)
    rest = raw.rest_by_channel
    groups = {
        "x y z": raw.means,
        "nx ny nz": np.zeros_like(raw.means),
        "f_dc_0 f_dc_1 f_dc_2": raw.sh0,
        " ".join(f"f_rest_{i}" for i in range(rest.shape[1])): rest,
        "opacity": raw.logit_opacities[:, None],
        "scale_0 scale_1 scale_2": raw.log_scales,
        "rot_0 rot_1 rot_2 rot_3": raw.quats,
    }
    header = [
        "ply",
        "format binary_little_endian 1.0",
        f"element vertex {len(raw)}",
        *(f"property float {name}" for group in groups for name in group.split()),
        "end_header",
        "",
    ]
    table = np.concatenate(list(groups.values()), 1).astype("<f4")
    with naming_path(path):
        write_bytes(Path(path), "\n".join(header).encode("ascii") + table.tobytes())
