"""From solved frames to head states: blinks, gaze, smoothing, frames without a face, the world frame."""

from __future__ import annotations

import numpy as np
import torch
from scipy.linalg import solveh_banded
from scipy.ndimage import median_filter
from torch import Tensor

from avatar.rig.arkit import ARKIT_INDEX
from avatar.rig.arkit_basis import GAZE_SIDE_RAD, GAZE_UP_RAD
from avatar.rig.lattice import REGIONS
from avatar.rotations import matrix_to_rotvec, rigid
from capture.track.projection import Pose

TURN_ACCELERATION = 6.0
"""Sigma of the head's angular acceleration, rad/s^2, of a head that does nothing in
particular: brisk nods reach 20, shakes 80."""
SHIFT_ACCELERATION = 1.0
"""Sigma of the head's linear acceleration, m/s^2."""
BRISK = 2.0
"""Cauchy scale of accelerations, in sigmas: heads hold still or are turned briskly."""
BRISK_ROUNDS = 5
"""Rounds of reweighting; the weights hardly change after the fourth."""
INDEPENDENT = 0.05
"""Share of the points that err independently, as neighbours share their flow's mistakes: what points
say counts for so much against what is believed of motion and focal length."""
BLINK_WINDOW_S = 1.0
"""Window of the running median that is an open eye's gap; a blink lasts a third of a second."""
OPEN_SHARE = 0.6
"""The open gap is never taken below this share of the clip's median: eyes may stay shut for long."""
SHUT_SHARE = 0.25
"""Share of the open gap that a detector still reports for a shut eye."""


def blinks(points: Tensor, fps: float) -> Tensor:
    """Measure blinks from the gap between the lids.

    Lids also move with gaze and brows, slowly; what is left after the running median is a blink.

    Args:
        points: [F, 478, 2] detected, pixels; consecutive frames.
        fps: frames a second.

    Returns:
        [F, 2] of the left and the right eye, 0 open to 1 shut.
    """
    out = []
    window = 2 * round(0.5 * BLINK_WINDOW_S * fps) + 1
    for side, corners in (("left", (263, 362)), ("right", (33, 133))):
        upper = points[:, list(REGIONS[f"lid_{side}_upper"][2:5])]
        lower = points[:, list(REGIONS[f"lid_{side}_lower"][2:5])]
        wide = (points[:, corners[0]] - points[:, corners[1]]).norm(dim=-1)
        gap = ((upper - lower).norm(dim=-1).mean(1) / wide.clamp_min(1e-3)).numpy()
        running = median_filter(gap, size=window, mode="nearest")
        usual = np.maximum(running, OPEN_SHARE * np.median(gap))
        shut = (usual - gap) / ((1 - SHUT_SHARE) * usual)
        # Below a tenth it is the detector's noise.
        out.append(torch.from_numpy(np.clip((shut - 0.1) / 0.9, 0.0, 1.0)).float())
    return torch.stack(out, 1)


def gaze_of(expression: Tensor) -> Tensor:
    """Turn eyeLook coefficients [..., E] into gaze [..., 2, 2] radians, as in ``HeadState``."""

    def at(name: str) -> Tensor:
        return expression[..., ARKIT_INDEX[name]]

    eyes = []
    for side, sign in (("Left", 1.0), ("Right", -1.0)):
        yaw = sign * (at(f"eyeLookOut{side}") - at(f"eyeLookIn{side}")) * GAZE_SIDE_RAD
        pitch = (at(f"eyeLookUp{side}") - at(f"eyeLookDown{side}")) * GAZE_UP_RAD
        eyes.append(torch.stack([yaw, pitch], -1))
    return torch.stack(eyes, -2)


def smooth_poses(pose: Pose, information: Tensor, fps: float) -> Pose:
    """Smooth poses of consecutive frames as far as their information allows.

    The maximum a posteriori path under white acceleration (a Kalman smoother, solved as one banded
    system, reweighted so that a shake of the head is no outlier to be smoothed away): frames that
    know their pose hardly move.

    Args:
        pose: of F frames.
        information: [F, 6, 6] inverse covariance of each frame's step as in ``Pose.moved``.
        fps: frames a second.
    """
    frames = pose.t.shape[0]
    if frames < 3:
        return pose
    turn = matrix_to_rotvec(pose.R[1:].double() @ pose.R[:-1].double().transpose(1, 2))
    shift = (pose.t[1:] - pose.t[:-1]).double()
    speed = torch.cat([turn, shift], 1).numpy()
    bend = speed[1:] - speed[:-1]
    sigma = np.repeat([TURN_ACCELERATION, SHIFT_ACCELERATION], 3) / fps**2
    size = 6 * frames
    # Upper band storage: ab[u + i - j, j] = A[i, j]; second differences reach 12 to the side.
    band = 17
    known = np.zeros((band + 1, size))
    blocks = INDEPENDENT * information.double().numpy()
    for i in range(6):
        for j in range(i, 6):
            known[band + i - j, j::6] += blocks[:, i, j]
    known[band] += 1e-9
    stencil = np.array([1.0, -2.0, 1.0])
    step = np.zeros((frames, 6))
    for _ in range(BRISK_ROUNDS):
        now = bend + sum(stencil[a] * step[a : frames - 2 + a] for a in range(3))
        brisk = np.add.reduceat((now / sigma) ** 2, [0, 3], axis=1) / 3
        weight = np.repeat(1 / (1 + brisk / BRISK**2), 3, axis=1) / sigma**2
        ab = known.copy()
        right = np.zeros((frames, 6))
        for a in range(3):
            right[a : frames - 2 + a] -= stencil[a] * weight * bend
            for b in range(a, 3):
                for axis in range(6):
                    columns = 6 * np.arange(b, frames - 2 + b) + axis
                    share = stencil[a] * stencil[b] * weight[:, axis]
                    ab[band - 6 * (b - a), columns] += share
        step = solveh_banded(ab, right.reshape(-1)).reshape(frames, 6)
    return pose.moved(torch.from_numpy(step).to(pose.t.dtype))


def fill(values: Tensor, index: Tensor, frames: int) -> Tensor:
    """Spread values [n, ...] of the solved frames ``index`` [n] over all frames, linearly between them."""
    target = torch.arange(frames)
    after = torch.searchsorted(index, target).clamp(max=len(index) - 1)
    before = torch.where(index[after] > target, (after - 1).clamp_min(0), after)
    span = (index[after] - index[before]).clamp_min(1)
    share = ((target - index[before]).clamp_min(0) / span).clamp(0, 1).to(values.dtype)
    share = share.reshape(-1, *[1] * (values.ndim - 1))
    return values[before] * (1 - share) + values[after] * share


def fill_poses(pose: Pose, index: Tensor, frames: int) -> Pose:
    """Spread poses of the solved frames over all frames, along the shortest turn."""
    start = pose.R[0]
    mean = fill(pose.R.reshape(-1, 9), index, frames).reshape(-1, 3, 3)
    # The nearest rotation to a blend of two rotations lies on the arc between them.
    U, _, Vt = torch.linalg.svd(mean)
    flip = torch.ones(frames, 3, dtype=start.dtype)
    flip[:, 2] = torch.linalg.det(U @ Vt)
    R = (U * flip[:, None]) @ Vt
    R[index] = pose.R
    return Pose(R, fill(pose.t, index, frames))


def world_frame(pose: Pose) -> tuple[Tensor, Tensor]:
    """Place the world: y up, looking at the camera, origin at the mean head.

    Returns T_cam_world [4, 4] and T_world_head [F, 4, 4].
    """
    flip = torch.diag(pose.t.new_tensor([1.0, -1.0, -1.0]))
    origin = pose.t.mean(0)
    return rigid(flip, origin), rigid(flip @ pose.R, (pose.t - origin) @ flip)
