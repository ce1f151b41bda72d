"""The PLY layout of 3D Gaussian Splatting (Kerbl et al. 2023), which public splat viewers open."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from avatar.checks import InputError, check
from avatar.tensorfile import write_bytes
from avatar.types import Gaussians

SH_C0 = 0.28209479177387814
"""The constant spherical harmonic, 1 / (2 sqrt(pi)); a colour is 0.5 + SH_C0 * f_dc."""

OPACITY_MARGIN = 1e-6
"""Opacities stay this far from 0 and 1, whose logits are infinite."""
SMALLEST_SCALE = 1e-9
"""Metres; the logarithm of 0 is infinite."""


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
    """
    sizes = check("means", gaussians.means, "N 3")
    check("quats", gaussians.quats, "N 4", sizes)
    check("scales", gaussians.scales, "N 3", sizes)
    check("opacities", gaussians.opacities, "N", sizes)
    if gaussians.colours.ndim == 3:
        check("colours", gaussians.colours, "N S 3", sizes)
        constant, rest = gaussians.colours[:, 0], gaussians.colours[:, 1:]
        rest = rest.transpose(1, 2).reshape(len(gaussians), -1)
    else:
        check("colours", gaussians.colours, "N 3", sizes)
        constant = (gaussians.colours - 0.5) / SH_C0
        rest = gaussians.colours.new_zeros(len(gaussians), 0)
    opacities = gaussians.opacities.clamp(OPACITY_MARGIN, 1 - OPACITY_MARGIN)
    groups: dict[str, Tensor] = {
        "x y z": gaussians.means,
        "nx ny nz": torch.zeros_like(gaussians.means),
        "f_dc_0 f_dc_1 f_dc_2": constant,
        " ".join(f"f_rest_{i}" for i in range(rest.shape[1])): rest,
        "opacity": torch.logit(opacities.double())[:, None],
        "scale_0 scale_1 scale_2": gaussians.scales.clamp_min(SMALLEST_SCALE).log(),
        "rot_0 rot_1 rot_2 rot_3": torch.nn.functional.normalize(gaussians.quats, dim=-1),
    }
    names = [name for group in groups for name in group.split()]
    columns = torch.cat([group.detach().cpu().float() for group in groups.values()], 1)
    if not torch.isfinite(columns).all():
        row = int(torch.nonzero(~torch.isfinite(columns))[0, 0])
        raise ValueError(f"Gaussian {row} holds a value that is not finite; it cannot be exported.")
    header = [
        "ply",
        "format binary_little_endian 1.0",
        f"element vertex {len(gaussians)}",
        *(f"property float {name}" for name in names),
        "end_header",
        "",
    ]
    content = "\n".join(header).encode("ascii") + columns.numpy().astype(np.dtype("<f4")).tobytes()
    try:
        write_bytes(Path(path), content)
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror or error}). "
            "Choose a folder that exists, is writable and has space."
        ) from error
