"""Rotations and rigid transforms in the project's conventions (wxyz, radians), on top of roma."""

from __future__ import annotations

import roma
import torch
from torch import Tensor


def quat_to_matrix(quats: Tensor) -> Tensor:
    """Map quaternions [..., 4] (wxyz, any positive norm) to rotation matrices [..., 3, 3]."""
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, -1).reshape(*quats.shape[:-1], 3, 3)


def matrix_to_quat(R: Tensor) -> Tensor:
    """Map rotation matrices [..., 3, 3] to unit quaternions [..., 4], wxyz."""
    return roma.quat_xyzw_to_wxyz(roma.rotmat_to_unitquat(R))


def quat_multiply(p: Tensor, q: Tensor) -> Tensor:
    """Hamilton product [..., 4] of wxyz quaternions: rotate by q, then by p."""
    pw, px, py, pz = p.unbind(-1)
    qw, qx, qy, qz = q.unbind(-1)
    return torch.stack(
        [
            pw * qw - px * qx - py * qy - pz * qz,
            pw * qx + px * qw + py * qz - pz * qy,
            pw * qy - px * qz + py * qw + pz * qx,
            pw * qz + px * qy - py * qx + pz * qw,
        ],
        -1,
    )


def rotvec_to_matrix(rotvec: Tensor) -> Tensor:
    """Map rotation vectors [..., 3] (radians) to matrices [..., 3, 3]; differentiable at zero."""
    return roma.rotvec_to_rotmat(rotvec)


def matrix_to_rotvec(R: Tensor) -> Tensor:
    """Map rotation matrices [..., 3, 3] to rotation vectors [..., 3], angle in [0, pi]."""
    return roma.rotmat_to_rotvec(R)


def rigid(R: Tensor, t: Tensor) -> Tensor:
    """Assemble transforms [..., 4, 4] from rotations [..., 3, 3] and translations [..., 3]."""
    T = torch.zeros(*R.shape[:-2], 4, 4, dtype=R.dtype, device=R.device)
    T[..., :3, :3] = R
    T[..., :3, 3] = t
    T[..., 3, 3] = 1
    return T


def invert_rigid(T: Tensor) -> Tensor:
    """Invert rigid transforms [..., 4, 4]."""
    Rt = T[..., :3, :3].transpose(-1, -2)
    return rigid(Rt, -(Rt @ T[..., :3, 3:])[..., 0])


def transform_points(T: Tensor, points: Tensor) -> Tensor:
    """Map points [..., N, 3] by transforms [..., 4, 4]."""
    return points @ T[..., :3, :3].transpose(-1, -2) + T[..., None, :3, 3]


def head_rotation(angles: Tensor) -> Tensor:
    """Return rotations [..., 3, 3] in the head frame from yaw, pitch, roll [..., 3].

    The head rolls first, then pitches, then yaws: R = R_y(yaw) R_x(-pitch) R_z(roll).
    """
    yaw, pitch, roll = angles.unbind(-1)
    zero = torch.zeros_like(yaw)
    R_yaw = rotvec_to_matrix(torch.stack([zero, yaw, zero], -1))
    R_pitch = rotvec_to_matrix(torch.stack([-pitch, zero, zero], -1))
    R_roll = rotvec_to_matrix(torch.stack([zero, zero, roll], -1))
    return R_yaw @ R_pitch @ R_roll


def head_angles(R: Tensor) -> Tensor:
    """Return yaw, pitch, roll [..., 3] of rotations [..., 3, 3]: the inverse of ``head_rotation``.

    Pitch lies in [-pi/2, pi/2], the others in [-pi, pi]; yaw and roll are not unique where the face
    looks straight up or down.
    """
    # The columns of R_y(a) R_x(-p) R_z(r): its z axis is (sin a cos p, sin p, cos a cos p) and its
    # second row (cos p sin r, cos p cos r, sin p).
    pitch = torch.asin(R[..., 1, 2].clamp(-1, 1))
    yaw = torch.atan2(R[..., 0, 2], R[..., 2, 2])
    roll = torch.atan2(R[..., 1, 0], R[..., 1, 1])
    return torch.stack([yaw, pitch, roll], -1)
