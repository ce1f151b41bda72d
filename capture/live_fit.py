"""Fit head pose and the 52 coefficients to one picture's face points, fast enough for a camera.

The same lattice, shapes and residuals as the tracker's (``capture.track``), frame by frame and with
the past alone: a few damped Gauss-Newton steps from the frame before, which is also a prior. In the
first second the generic lattice bends to the person. What the tracker does afterwards with the
texture, all frames at once, cannot be had live: points slide a little over the skin as heads turn.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from avatar.drive.motion import head_angles
from avatar.rig.arkit import ARKIT_INDEX, ARKIT_NAMES
from avatar.rig.arkit_basis import arkit_basis, generic_arkit_basis
from avatar.rig.lattice import REGIONS, deform, lattice_table
from capture.track.rig_fit import facing, initial_pose, lattice_prior, normalise, visibility
from capture.track.rigid import ROBUST
from capture.track.solver import (
    CoefficientPrior,
    Observations,
    Pinhole,
    Pose,
    bundle_adjust,
    solve_frames,
)
from capture.track.states import OPEN_SHARE, SHUT_SHARE, gaze_of

EYES = (("left", (263, 362)), ("right", (33, 133)))
BLINKS = [ARKIT_INDEX["eyeBlinkLeft"], ARKIT_INDEX["eyeBlinkRight"]]
WIDES = [ARKIT_INDEX["eyeWideLeft"], ARKIT_INDEX["eyeWideRight"]]
TO_CAMERA = (1.0, -1.0, -1.0)
"""Diagonal of the rotation of a head that looks straight into the camera."""


@dataclass(frozen=True)
class LiveFitConfig:
    """How a camera's pictures are fitted; priors as the tracker's where nothing else is said."""

    focal_widths: float = 1.5
    """Focal length in units of the longer picture side: between a laptop's camera (about 1) and a
    phone's (1.1 to 2). It scales distances, and turns by a few per cent."""
    settle_frames: int = 24
    """Frames with a face after which the lattice bends to the person; 0 keeps the generic one."""
    settle_used: int = 8
    """How many of them, evenly spread, the lattice is solved from."""
    iterations: int = 2
    """Gauss-Newton steps a frame."""
    detection_sigma: float = 0.004
    """Sigma of detected points, in face widths."""
    sparsity: float = 25.0
    """Cost of a unit of coefficient against residuals in sigmas."""
    coefficient_sigma: float = 0.26
    """Sigma of the coefficients about zero."""
    change_sigma: float = 0.15
    """Sigma of a coefficient's change from frame to frame; a mouth opens by 0.2 in a thirtieth of a
    second at most."""
    upper: float = 1.3
    """Coefficients may pass 1: a person may move more than the drawn shapes."""
    open_s: float = 3.0
    """Window over which an eye's usual gap between the lids is taken, seconds."""


@dataclass(frozen=True)
class FittedFace:
    """What one picture says."""

    weights: np.ndarray
    """[52] ARKit coefficients."""
    head: np.ndarray
    """[3] yaw, pitch, roll, radians, from looking into the camera."""
    gaze: np.ndarray
    """[2, 2] radians as in ``HeadState``."""
    residual_px: float
    """Median distance of the model from the detected points, pixels."""


class LiveFit:
    """Follows one face through the pictures of one camera. Not for several threads at once."""

    def __init__(self, width: int, height: int, config: LiveFitConfig | None = None) -> None:
        """Prepare for pictures of a size in pixels."""
        self.config = config or LiveFitConfig()
        focal = self.config.focal_widths * max(width, height)
        self._camera = Pinhole(focal, (width / 2, height / 2))
        self._generic = lattice_table().neutral
        self._lattice, self._basis = self._generic, generic_arkit_basis()
        self._pose: Pose | None = None
        self._coefficients = torch.zeros(1, len(ARKIT_NAMES))
        self._settling: list[Tensor] = []
        self._settled = self.config.settle_frames == 0
        self._gaps: deque[tuple[float, np.ndarray]] = deque()

    @property
    def settled(self) -> bool:
        """Whether the lattice is the person's own by now."""
        return self._settled

    def restart(self) -> None:
        """Forget where the face was (it was lost); the person is taken to be the same."""
        self._pose = None
        self._coefficients = torch.zeros_like(self._coefficients)

    def add(self, points: np.ndarray, time_s: float) -> FittedFace:
        """Fit the next picture.

        Args:
            points: [478, 3] detected, pixels, z in the same unit.
            time_s: when it was taken, seconds; increasing.
        """
        detected = torch.from_numpy(np.ascontiguousarray(points, np.float32))[None]
        shut = self._shut(points, time_s)
        if not self._settled:
            self._settling.append(detected)
            if len(self._settling) >= self.config.settle_frames:
                self._settle()
        fresh = self._pose is None
        if self._pose is None:
            self._pose = initial_pose(self._lattice, detected, self._camera)
        pose, coefficients = self._pose, self._coefficients
        pixels = detected[..., :2]
        sigma = self.config.detection_sigma * float((pixels[0, 454] - pixels[0, 234]).norm())
        cosine = facing(self._lattice, self._basis, coefficients, pose)
        seen = Observations(pixels, visibility(cosine) / max(sigma, 0.3) ** 2)
        found = solve_frames(
            self._lattice, self._basis, self._camera, seen, self._prior(shut, fresh), pose,
            coefficients, iterations=8 if fresh else self.config.iterations, scale=ROBUST,
        )  # fmt: skip
        self._pose, self._coefficients = found.pose, found.coefficients
        R = torch.diag(torch.tensor(TO_CAMERA)) @ found.pose.R[0]
        model = deform(self._lattice, self._basis, found.coefficients)
        from capture.track.solver import project

        away = (project(model, found.pose, self._camera) - pixels)[0].norm(dim=-1)
        return FittedFace(
            found.coefficients[0].numpy().copy(),
            head_angles(R).numpy(),
            gaze_of(found.coefficients[0]).numpy(),
            float(away.median()),
        )

    def _prior(self, shut: np.ndarray, fresh: bool) -> CoefficientPrior:
        """Sparse and near the frame before; blinks as their lids' gap says."""
        config, ones = self.config, torch.ones(len(ARKIT_NAMES))
        still = ones / config.coefficient_sigma**2
        stay = (0 if fresh else 1) * ones / config.change_sigma**2
        mean = stay * self._coefficients[0] / (still + stay)
        precision = still + stay
        sparsity = config.sparsity * ones
        mean[BLINKS] = torch.from_numpy(shut).float()
        precision[BLINKS] = 1 / 0.02**2
        precision[WIDES] += torch.from_numpy(shut > 0.15).float() / 0.02**2
        sparsity[BLINKS] = 0
        return CoefficientPrior(0 * ones, config.upper * ones, sparsity, precision, mean)

    def _shut(self, points: np.ndarray, time_s: float) -> np.ndarray:
        """Return how shut both eyes are [2], from the gap between the lids against its usual one.

        As ``capture.track.states.blinks``, with the past alone: the usual gap is the upper quartile
        of the last seconds, since lids are open most of the time.
        """
        gap = np.empty(2)
        for eye, (side, corners) in enumerate(EYES):
            upper = points[list(REGIONS[f"lid_{side}_upper"][2:5])]
            lower = points[list(REGIONS[f"lid_{side}_lower"][2:5])]
            wide = np.linalg.norm(points[corners[0], :2] - points[corners[1], :2])
            gap[eye] = np.linalg.norm((upper - lower)[:, :2], axis=-1).mean() / max(wide, 1e-3)
        self._gaps.append((time_s, gap))
        while time_s - self._gaps[0][0] > self.config.open_s:
            self._gaps.popleft()
        usual = np.quantile([gap for _, gap in self._gaps], 0.6, axis=0)
        shut = (usual - gap) / ((1 - SHUT_SHARE) * np.maximum(usual, 1e-3))
        return np.clip((shut - 0.1) / 0.9, 0.0, 1.0)

    def _settle(self) -> None:
        """Bend the lattice to the person, as the tracker begins: poses, shapes and lattice in turn."""
        config = self.config
        which = np.linspace(0, len(self._settling) - 1, config.settle_used).round().astype(int)
        detected = torch.cat([self._settling[i] for i in which])
        self._settling, self._settled = [], True
        pixels = detected[..., :2]
        wide = (pixels[:, 454] - pixels[:, 234]).norm(dim=-1).median()
        weight = 1 / float(config.detection_sigma * wide) ** 2
        ones = torch.ones(len(ARKIT_NAMES))
        prior = CoefficientPrior(
            0 * ones, config.upper * ones, config.sparsity * ones,
            ones / config.coefficient_sigma**2, 0 * ones,
        )  # fmt: skip
        lattice, basis = self._generic, self._basis
        pose = initial_pose(lattice, detected, self._camera)
        coefficients = torch.zeros(len(detected), len(ARKIT_NAMES))
        for _ in range(2):
            seen = Observations(
                pixels, visibility(facing(lattice, basis, coefficients, pose)) * weight
            )
            found = solve_frames(
                lattice, basis, self._camera, seen, prior, pose, coefficients,
                iterations=6, scale=ROBUST,
            )  # fmt: skip
            pose, coefficients = found.pose, found.coefficients
            solved = bundle_adjust(
                lattice, deform(torch.zeros_like(lattice), basis, coefficients), self._camera, seen,
                lattice_prior(self._generic, lattice, 0.0015, 0.002), pose,
                iterations=4, scale=ROBUST,
            )  # fmt: skip
            lattice, pose = normalise(
                solved.lattice.float(),
                Pose(solved.pose.R.float(), solved.pose.t.float()),
                self._generic,
            )
            basis = arkit_basis(lattice)
        self._lattice, self._basis = lattice, basis
        self._pose = None
