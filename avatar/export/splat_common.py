"""What all files of Gaussians share: raw values, checked once; axes; errors that name the file.

Files differ in what they store (logarithms or metres, logits or opacities, bytes or floats), but all
begin with the raw values of 3D Gaussian Splatting (Kerbl et al. 2023) that stand here.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from avatar.checks import InputError, check
from avatar.rotations import quat_multiply
from avatar.types import Gaussians

SH_C0 = 0.28209479177387814
"""The constant spherical harmonic, 1 / (2 sqrt(pi)); a colour is 0.5 + SH_C0 * f_dc."""

OPACITY_MARGIN = 1e-6
"""Opacities stay this far from 0 and 1, whose logits are infinite."""
SMALLEST_SCALE = 1e-9
"""Metres; the logarithm of 0 is infinite."""

SH_COUNTS = (1, 4, 9, 16)
"""Coefficients a channel of degrees 0 to 3, the ones that the formats know."""

FULL = (errno.ENOSPC, errno.EDQUOT)
"""What the system says of a full disk, or of a full share of one."""

# Turned half round x, a direction (x, y, z) is (x, -y, -z): by the polynomials of the real
# harmonics (degree 1: y, z, x; degree 2: xy, yz, 3z^2 - 1, xz, x^2 - y^2; and so on) each
# coefficient keeps its value or changes its sign.
_HALF_TURN_SIGNS = (1, -1, -1, 1, -1, 1, 1, -1, 1, -1, 1, -1, -1, 1, -1, 1)


@dataclass(frozen=True)
class RawSplats:
    """Raw values of N Gaussians, float32, all finite."""

    means: np.ndarray
    """[N, 3] metres."""
    quats: np.ndarray
    """[N, 4] wxyz, of length 1."""
    log_scales: np.ndarray
    """[N, 3] natural logarithms of standard deviations in metres."""
    logit_opacities: np.ndarray
    """[N]"""
    sh0: np.ndarray
    """[N, 3] the constant coefficient of red, green and blue (``f_dc``)."""
    sh_rest: np.ndarray
    """[N, S - 1, 3] the coefficients after it; S - 1 is 0 where colour is the same from all sides."""

    def __len__(self) -> int:
        return len(self.means)

    @property
    def rest_by_channel(self) -> np.ndarray:
        """[N, 3 (S - 1)] ``sh_rest`` as PLY files hold it: red's coefficients, green's, blue's."""
        return self.sh_rest.transpose(0, 2, 1).reshape(len(self), 3 * self.sh_rest.shape[1])

    @property
    def colours(self) -> np.ndarray:
        """[N, 3] sRGB of the constant coefficient, not clamped."""
        return 0.5 + SH_C0 * self.sh0

    @property
    def opacities(self) -> np.ndarray:
        """[N] in (0, 1)."""
        return 1 / (1 + np.exp(-self.logit_opacities))


def raw_splats(gaussians: Gaussians) -> RawSplats:
    """Return the raw values of posed Gaussians.

    A quaternion of length 0 becomes the identity; opacities and scales are kept off the ends at
    which raw values are infinite.

    Args:
        gaussians: colours [N, 3] sRGB, or [N, S, 3] spherical harmonics with S of 1, 4, 9 or 16.

    Raises:
        ValueError: other shapes, or values that are not finite, naming the first such Gaussian.
    """
    sizes = check("means", gaussians.means, "N 3")
    check("quats", gaussians.quats, "N 4", sizes)
    check("scales", gaussians.scales, "N 3", sizes)
    check("opacities", gaussians.opacities, "N", sizes)
    if gaussians.colours.ndim == 3:
        count = check("colours", gaussians.colours, "N S 3", sizes)["S"]
        if count not in SH_COUNTS:
            raise ValueError(f"colours must have 1, 4, 9 or 16 coefficients; got {count}.")
        sh0, sh_rest = gaussians.colours[:, 0], gaussians.colours[:, 1:]
    else:
        check("colours", gaussians.colours, "N 3", sizes)
        sh0 = (gaussians.colours - 0.5) / SH_C0
        sh_rest = gaussians.colours.new_zeros(len(gaussians), 0, 3)
    opacities = gaussians.opacities.double().clamp(OPACITY_MARGIN, 1 - OPACITY_MARGIN)
    # In double precision: the squares of large and small quaternions leave single precision's range.
    quats = gaussians.quats.double()
    length = torch.linalg.norm(quats, dim=1, keepdim=True)
    upright = torch.tensor([1.0, 0, 0, 0], dtype=quats.dtype, device=quats.device)
    columns = {
        "means": gaussians.means,
        "quats": torch.where(length > 0, quats / length.clamp_min(1e-300), upright),
        "log_scales": gaussians.scales.double().clamp_min(SMALLEST_SCALE).log(),
        "logit_opacities": torch.logit(opacities),
        "sh0": sh0,
        "sh_rest": sh_rest,
    }
    raw = {name: t.detach().cpu().float().contiguous() for name, t in columns.items()}
    for name, values in raw.items():
        bad = ~torch.isfinite(values.flatten(1) if values.ndim > 1 else values[:, None]).all(1)
        if bad.any():
            row = int(torch.nonzero(bad)[0, 0])
            raise ValueError(
                f"Gaussian {row} holds a value that is not finite ({name}); it cannot be exported."
            )
    return RawSplats(**{name: values.numpy() for name, values in raw.items()})


def half_turned(gaussians: Gaussians) -> Gaussians:
    """Turn Gaussians half round the x axis: from y up and z towards the viewer to y down, z away.

    The first are the axes of OpenGL and of this project, the second those of OpenCV and COLMAP, in
    which most scenes of 3D Gaussian Splatting are stored. The turn is its own inverse.
    """
    flip = gaussians.means.new_tensor([1.0, -1.0, -1.0])
    turn = gaussians.quats.new_tensor([0.0, 1.0, 0.0, 0.0]).expand_as(gaussians.quats)
    colours = gaussians.colours
    if colours.ndim == 3:
        signs = colours.new_tensor(_HALF_TURN_SIGNS)[: colours.shape[1]]
        colours = colours * signs[:, None]
    quats = quat_multiply(turn, gaussians.quats)
    return Gaussians(gaussians.means * flip, quats, gaussians.scales, gaussians.opacities, colours)


def nearby_order(points: np.ndarray) -> np.ndarray:
    """Return the order [N] of points [N, 3] along a Z curve (Morton 1966): neighbours stay together."""
    if len(points) == 0:
        return np.zeros(0, np.int64)
    low = points.min(0).astype(np.float64)
    extent = np.maximum(points.max(0).astype(np.float64) - low, 1e-300)
    cells = np.clip((points - low) / extent * 1023, 0, 1023).astype(np.uint64)
    code = np.zeros(len(points), np.uint64)
    for bit in range(10):
        for axis in range(3):
            code |= ((cells[:, axis] >> np.uint64(bit)) & np.uint64(1)) << np.uint64(3 * bit + axis)
    return np.argsort(code, kind="stable")


@contextmanager
def naming_path(path: Path) -> Iterator[None]:
    """Turn what the system says about a file or folder into a sentence that names it.

    A full disk stays an OSError, now with the path in it: the command line has its own sentence.
    """
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise InputError(
            f"{path} cannot be written ({error.strerror or error}). "
            "Choose a folder that exists, is writable and has space."
        ) from error
