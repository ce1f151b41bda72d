"""Where the eyes look, from the irises' place between the corners of their eyes.

The tracker reads gaze from coefficients that it solves with the texture's help, over all frames. Live there
is only the detector, whose irises tremble: what a prior holds back in the coefficients is lost there. So
the irises are read once more without any prior, and the two are averaged, over both eyes, which turn
together. On the open eyes of a rendered head with known gaze, r of yaw and pitch rose from 0.74 and 0.51
(the left eye's coefficients alone) to 0.88 and 0.76.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from avatar.rig.arkit import ARKIT_INDEX
from avatar.rig.arkit_basis import GAZE_SIDE_RAD, GAZE_UP_RAD
from avatar.rig.lattice import REGIONS
from capture.track.projection import Pinhole, Pose, project

EYES = (("left", (263, 362)), ("right", (33, 133)))
"""Sides, and the points of the outer and the inner corner."""
PITCH_GAIN = 1.5
"""Detected irises move up and down by a third to a half of what they do: the least squares gain is 1.7
on the rendered head and 1.25 on a filmed one."""
SHUT = 0.5
"""Of an eye that is shut further, irises are guessed."""
FARTHEST = (0.9, 0.7)
"""Eyes do not turn further, yaw and pitch in radians."""
_STEP = 0.1
_LOOKS = [index for name, index in ARKIT_INDEX.items() if name.startswith("eyeLook")]


def _turning_shapes() -> list[tuple[int, int, int, int, float]]:
    return [
        (
            ARKIT_INDEX[f"eyeLookOut{side}"],
            ARKIT_INDEX[f"eyeLookIn{side}"],
            ARKIT_INDEX[f"eyeLookUp{side}"],
            ARKIT_INDEX[f"eyeLookDown{side}"],
            sign,
        )
        for side, sign in (("Left", 1.0), ("Right", -1.0))
    ]


_SHAPES = _turning_shapes()


def iris_gaze(
    pixels: Tensor,
    lattice: Tensor,
    basis: Tensor,
    coefficients: Tensor,
    pose: Pose,
    camera: Pinhole,
) -> Tensor:
    """Return how far both eyes are turned [F, 2, 2], radians as in ``HeadState``, to first order.

    Args:
        pixels: [F, 478, 2] detected.
        lattice: [478, 3] the person's neutral face, metres.
        basis: [52, 478, 3] its shapes.
        coefficients: [F, 52] as fitted; what they say of the eyes' turn is set aside.
        pose: of F frames.
        camera: that sees them.
    """
    still = coefficients.clone()
    still[:, _LOOKS] = 0
    model = lattice + torch.einsum("fe,evc->fvc", still, basis)
    straight = project(model, pose, camera)
    found = []
    for (side, corners), (out, into, up, down, sign) in zip(EYES, _SHAPES, strict=True):
        iris, frame = list(REGIONS[f"iris_{side}"]), list(corners)
        turns = (
            sign * (basis[out] - basis[into]) / (2 * GAZE_SIDE_RAD),
            (basis[up] - basis[down]) / (2 * GAZE_UP_RAD),
        )

        def within_the_eye(moved: Tensor, iris: list[int] = iris, frame: list[int] = frame):
            return moved[:, iris].mean(1) - moved[:, frame].mean(1)

        per_rad = torch.stack(
            [
                within_the_eye(project(model + _STEP * turn, pose, camera) - straight) / _STEP
                for turn in turns
            ],
            -1,
        )
        away = within_the_eye(pixels - straight)
        # Seen from the side an eye's yaw hardly moves its iris: a little damping, in its own units.
        square = per_rad.transpose(1, 2) @ per_rad
        damping = 0.02 * square.diagonal(dim1=1, dim2=2).amax(1).clamp(min=1e-3)
        square = square + damping[:, None, None] * torch.eye(2)
        right = per_rad.transpose(1, 2) @ away[..., None]
        found.append(torch.linalg.solve(square, right)[..., 0])
    most = torch.tensor(FARTHEST)
    return torch.stack(found, 1).clamp(-most, most)


def joined_gaze(irises: Tensor, coefficients: Tensor) -> np.ndarray:
    """Average two readings [2, 2] of both eyes, each relative to rest, into one direction [2, 2]."""
    gaze = 0.5 * (irises + coefficients).mean(0)
    gaze = gaze * gaze.new_tensor([1.0, PITCH_GAIN])
    return gaze.expand(2, 2).numpy().copy()
