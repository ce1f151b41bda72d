"""Settings of the tracker."""

from __future__ import annotations

from dataclasses import dataclass, field

from capture.track.torso import TorsoConfig


@dataclass(frozen=True)
class TrackConfig:
    """How a clip is tracked. Defaults were chosen on a rendered head with known truth."""

    focal_widths: float = 2.0
    """Focal length to start from, in units of the longer picture side: between a phone held at arm's
    length (1.1) and a cropped studio shot (4). Landmarks alone cannot tell it; the texture can."""
    focal_spread: float = 0.35
    """Relative sigma of that belief once the texture may decide; a head that hardly turns says little."""
    keyframes: int = 70
    """Training frames on which lattice and focal length are solved, spread over poses and time."""
    basis_frames: int = 400
    """Most training frames on which shapes are personalised."""
    anchor_rounds: int = 5
    """Rounds of anchoring key frames to the skin's texture and solving again; 0 tracks on landmarks
    alone."""
    trust_shell_rounds: int = 3
    """First rounds in which the points around the face count for no less than the face's own."""
    fine_round: int = 2
    """First round that compares textures at their full resolution."""
    free_focal_round: int = 1
    """First round that also solves for the focal length; before it, points still slide."""
    texture_px: int = 224
    """Longer side of the canonical texture; cost grows with its square."""
    shell_px: int = 256
    """Longer side of the texture of the shell around the face."""
    shell_patch_px: int = 150
    """About how large the head is cut out of the pictures for it."""
    rigid_points: int = 234
    """How many of the steadiest skin points decide pose, lattice and focal length."""
    detection_sigma: float = 0.004
    """Sigma of detected points and of unlearnt anchored points, in face widths."""
    bend_m: float = 0.0015
    """Sigma of how the personal lattice bends away from the generic one, metres."""
    asymmetry_m: float = 0.002
    """Sigma of the personal lattice's asymmetry, metres; decides the side that is never seen."""
    sparsity: float = 25.0
    """Cost of a unit of coefficient against residuals in sigmas: few shapes rather than many."""
    coefficient_sigma: float = 0.26
    """Sigma of the ARKit coefficients about zero."""
    shape_ridge_m: float = 0.0006
    """Sigma of the personal correction of an ARKit shape at a point, metres; 0 keeps the drawn shapes."""
    residual_shapes: int = 16
    """Personal shapes after the 52 of ARKit."""
    pose_trust: float = 1.0
    """How firmly the steady points' pose holds while all points find the expression."""
    workers: int = 0
    """Threads for anchoring; 0 for one a core, at most 8. Results do not depend on it."""
    torso: TorsoConfig = field(default_factory=TorsoConfig)
    """Registration of the torso."""
