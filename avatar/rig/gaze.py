"""The eyes' turn and the eyeLook coefficients: one motion, seen by the eyeballs and by the lids."""

from __future__ import annotations

import torch
from torch import Tensor

from avatar.rig.arkit import ARKIT_INDEX, ARKIT_NAMES
from avatar.rig.arkit_basis import GAZE_SIDE_RAD, GAZE_UP_RAD


def gaze_of(weights: Tensor) -> Tensor:
    """Return the turn of the eyes [2, 2] in radians that the eyeLook coefficients of [52] mean."""

    def w(name: str) -> Tensor:
        return weights[ARKIT_INDEX[name]]

    side = (w("eyeLookOutLeft") - w("eyeLookInLeft"), w("eyeLookInRight") - w("eyeLookOutRight"))
    up = [w(f"eyeLookUp{eye}") - w(f"eyeLookDown{eye}") for eye in ("Left", "Right")]
    return torch.stack(
        [torch.stack([side[eye] * GAZE_SIDE_RAD, up[eye] * GAZE_UP_RAD]) for eye in (0, 1)]
    )


def look_weights(gaze: Tensor) -> Tensor:
    """Return coefficients [52], zero but for eyeLook, that a gaze [2, 2] in radians means; not clamped."""
    weights = gaze.new_zeros(len(ARKIT_NAMES))
    to_left = (("eyeLookOutLeft", "eyeLookInLeft"), ("eyeLookInRight", "eyeLookOutRight"))
    for eye, side in enumerate(("Left", "Right")):
        yaw, pitch = gaze[eye, 0] / GAZE_SIDE_RAD, gaze[eye, 1] / GAZE_UP_RAD
        weights[ARKIT_INDEX[to_left[eye][0]]] = yaw.clamp(min=0)
        weights[ARKIT_INDEX[to_left[eye][1]]] = (-yaw).clamp(min=0)
        weights[ARKIT_INDEX[f"eyeLookUp{side}"]] = pitch.clamp(min=0)
        weights[ARKIT_INDEX[f"eyeLookDown{side}"]] = (-pitch).clamp(min=0)
    return weights
