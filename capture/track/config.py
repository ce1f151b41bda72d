"""Settings of the tracker."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrackConfig:
    """How a clip is tracked. The defaults are chosen on rendered heads with known truth."""

    focal_widths: float = 3.0
    """Focal length to start from, in units of the longer picture side; kept where the clip does not
    tell it."""
    keyframes: int = 160
    """Training frames on which the rig is fitted, spread over head poses."""
    rounds: int = 3
    """Alternations between the rig and the frames on landmarks alone."""
    residual_shapes: int = 16
    """Personal shapes after the 52 of ARKit."""
    anchor_rounds: int = 3
    texture_px: int = 256
    workers: int = 2
    rigid_points: int = 234
    free_focal_round: int = 1
    ba_iterations: int = 25
    bend_m: float = 0.0015
    flow_sigma: float = 1.0
    mp_gain: float = 1.0
    pose_gain: float = 10.0
    keep_rigid_pose: bool = True
    l1: float = 15.0
    l2: float = 15.0
    torso: bool = True
    verbose: bool = False
    ba_expression: float = 0.0
