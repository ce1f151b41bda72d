"""Fit head pose and the 52 coefficients to one picture's face points, fast enough for a camera.

The same lattice, shapes and residuals as the tracker's (``capture.track``), frame by frame and with
the past alone: a few damped Gauss-Newton steps from the frame before, which is also a prior. In the
first second, which is to be neutral, the generic lattice bends to the person; it is fitted again when
the head has been seen in new attitudes, as one view does not tell depth. Blinks and the jaw are helped
by the gaps between lids and lips, each against its own usual one. What the tracker does afterwards with
the texture, all frames at once, cannot be had live: points slide a little over the skin as heads turn.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np
import roma
import torch
from torch import Tensor

from avatar.drive.motion import head_angles
from avatar.rig.arkit import ARKIT_INDEX, ARKIT_NAMES
from avatar.rig.arkit_basis import arkit_basis, generic_arkit_basis
from avatar.rig.lattice import REGIONS, deform, lattice_table
from capture.live_gaze import EYES, SHUT, iris_gaze, joined_gaze
from capture.track.projection import Observations, Pinhole, Pose, project
from capture.track.rig_fit import facing, initial_pose, lattice_prior, normalise, visibility
from capture.track.rigid import ROBUST
from capture.track.solver import CoefficientPrior, bundle_adjust, solve_frames
from capture.track.states import OPEN_SHARE, SHUT_SHARE, gaze_of

BLINKS = [ARKIT_INDEX["eyeBlinkLeft"], ARKIT_INDEX["eyeBlinkRight"]]
WIDES = [ARKIT_INDEX["eyeWideLeft"], ARKIT_INDEX["eyeWideRight"]]
JAW, CLOSE = ARKIT_INDEX["jawOpen"], ARKIT_INDEX["mouthClose"]
LIP_PAIRS = ((13, 14), (312, 317), (82, 87))
"""Points of the inner lips that face each other."""
LIP_POINTS = sorted(
    {p for name, region in REGIONS.items() if name.startswith("lip_") for p in region}
)
TO_CAMERA = (1.0, -1.0, -1.0)
"""Diagonal of the rotation of a head that looks straight into the camera."""


@dataclass(frozen=True)
class LiveFitConfig:
    """How a camera's pictures are fitted; priors as the tracker's where nothing else is said."""

    focal_widths: float = 1.5
    """Focal length in units of the longer picture side: between a laptop's camera (about 1) and a
    phone's (1.1 to 2). It scales distances, and turns by a few per cent."""
    settle_frames: int = 24
    """Frames with a face that are taken to be neutral; after them the lattice bends to the person. 0
    keeps the generic one."""
    settle_used: int = 8
    """How many of them, evenly spread, the lattice is solved from."""
    iterations: int = 2
    """Gauss-Newton steps a frame."""
    detection_sigma: float = 0.004
    """Sigma of detected points, in face widths."""
    sparsity: float = 25.0
    """Cost of a unit of coefficient against residuals in sigmas. Less of it finds no more: against the
    known coefficients of a rendered head the median correlation over all of them is 0.38 with 25, 0.34 with
    10, and 0.25 with 5 and a ``coefficient_sigma`` of 0.4."""
    coefficient_sigma: float = 0.26
    """Sigma of the coefficients about zero."""
    change_sigma: float = 0.05
    """Sigma of a coefficient's change from frame to frame. Tight, as points tremble: with 0.15 the
    correlation of smiles with the tracker's fell from 0.82 to 0.75."""
    upper: float = 1.3
    """Coefficients may pass 1: a person may move more than the drawn shapes."""
    apart_rad: float = 0.1
    """Attitudes of the head that are kept to fit the rig to differ by so much."""
    most_keys: int = 16
    """Most attitudes that are kept."""
    fresh_keys: int = 4
    """New attitudes after which the rig is fitted again."""
    bend_m: float = 0.0006
    """Sigma of how the personal lattice bends away from the generic one, metres."""
    asymmetry_m: float = 0.0005
    """Sigma of the personal lattice's asymmetry, metres."""
    jaw_sigma: float = 0.03
    """Sigma of jawOpen about what the gap between the lips says."""
    close_sigma: float = 0.03
    """Sigma of mouthClose, which would else be traded for jawOpen: both move the lower lip."""
    lips: float = 2.0
    """Weight of the points of the lips against that of others: they are many, small, and matter most."""
    shut_s: float = 20.0
    """Window over which a mouth is taken to be shut once, seconds."""
    open_s: float = 1.0
    """Window over which an eye's usual gap between the lids is taken, seconds, as the tracker's: lids also
    move with gaze and brows, slowly. Three seconds agreed less (0.69 for 0.89)."""
    long_s: float = 20.0
    """The usual gap is never below a share of what it was over so long: eyes may stay shut."""


@dataclass(frozen=True)
class FittedFace:
    """What one picture says."""

    weights: np.ndarray
    """[52] ARKit coefficients."""
    head: np.ndarray
    """[3] yaw, pitch, roll, radians, from looking into the camera."""
    gaze: np.ndarray
    """[2, 2] radians as in ``HeadState``; the same for both eyes, held while they are shut."""
    residual_px: float
    """Median distance of the model from the detected points, pixels."""


@dataclass(frozen=True)
class FittedRig:
    """What is the person's own."""

    lattice: Tensor
    """[478, 3] metres."""
    basis: Tensor
    """[52, 478, 3]."""
    neutral: Tensor
    """[52] coefficients of the face at rest: what the lattice did not take up."""
    gaze: Tensor
    """[2, 2] what the irises say at rest, radians."""
    attitude: Tensor
    """[3, 3] mean rotation, head to camera, in the first second: what turns are compared by, as every
    lattice has its own idea of straight ahead."""


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
        self._neutral = torch.zeros(len(ARKIT_NAMES))
        self._straight = torch.zeros(2, 2)
        self._gaze = np.zeros((2, 2))
        self._attitude: Tensor | None = None
        self._gauge = torch.eye(3)
        self._neutral_keys: list[Tensor] = []
        self._keys: list[tuple[Tensor, Tensor]] = []
        self._fresh_keys = 0
        self._jaws: deque[tuple[float, float]] = deque()
        moved = self._generic + self._basis[JAW]
        eyes = float((self._generic[33] - self._generic[263]).norm())
        self._per_jaw = (
            sum(
                float(
                    (moved[upper] - moved[lower]).norm()
                    - (self._generic[upper] - self._generic[lower]).norm()
                )
                for upper, lower in LIP_PAIRS
            )
            / len(LIP_PAIRS)
            / eyes
        )
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
        jaw = self._jaw(points, time_s)
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
        weight = visibility(cosine) / max(sigma, 0.3) ** 2
        weight[:, LIP_POINTS] *= self.config.lips
        seen = Observations(pixels, weight)
        found = solve_frames(
            self._lattice, self._basis, self._camera, seen, self._prior(shut, jaw, fresh), pose,
            coefficients, iterations=8 if fresh else self.config.iterations, scale=ROBUST,
        )  # fmt: skip
        self._pose, self._coefficients = found.pose, found.coefficients
        self._keep(detected, found.pose)
        weights = (found.coefficients[0] - self._neutral).clamp(min=0)
        R = torch.diag(torch.tensor(TO_CAMERA)) @ found.pose.R[0] @ self._gauge
        model = deform(self._lattice, self._basis, found.coefficients)
        away = (project(model, found.pose, self._camera) - pixels)[0].norm(dim=-1)
        if shut.max() < SHUT:
            irises = iris_gaze(
                pixels, self._lattice, self._basis, found.coefficients, found.pose, self._camera
            )
            self._gaze = joined_gaze(
                irises[0] - self._straight, gaze_of(found.coefficients[0] - self._neutral)
            )
        return FittedFace(
            weights.numpy(),
            head_angles(R).numpy(),
            self._gaze,
            float(away.median()),
        )

    def _prior(self, shut: np.ndarray, jaw: float, fresh: bool) -> CoefficientPrior:
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
        if config.jaw_sigma > 0:
            mean[JAW], precision[JAW], sparsity[JAW] = jaw, 1 / config.jaw_sigma**2, 0
        precision[CLOSE] += 1 / config.close_sigma**2
        return CoefficientPrior(0 * ones, config.upper * ones, sparsity, precision, mean)

    def _shut(self, points: np.ndarray, time_s: float) -> np.ndarray:
        """Return how shut both eyes are [2], from the gap between the lids against its usual one.

        As ``capture.track.states.blinks``, with the past alone.
        """
        gap = np.empty(2)
        for eye, (side, corners) in enumerate(EYES):
            upper = points[list(REGIONS[f"lid_{side}_upper"][2:5])]
            lower = points[list(REGIONS[f"lid_{side}_lower"][2:5])]
            wide = np.linalg.norm(points[corners[0], :2] - points[corners[1], :2])
            gap[eye] = np.linalg.norm((upper - lower)[:, :2], axis=-1).mean() / max(wide, 1e-3)
        self._gaps.append((time_s, gap))
        while time_s - self._gaps[0][0] > self.config.long_s:
            self._gaps.popleft()
        lately = [gap for at, gap in self._gaps if time_s - at <= self.config.open_s]
        every = np.median([gap for _, gap in self._gaps], axis=0)
        usual = np.maximum(np.median(lately, axis=0), OPEN_SHARE * every)
        shut = (usual - gap) / ((1 - SHUT_SHARE) * np.maximum(usual, 1e-3))
        return np.clip((shut - 0.1) / 0.9, 0.0, 1.0)

    def _jaw(self, points: np.ndarray, time_s: float) -> float:
        """Return how far the jaw is open, from the gap between the lips past its smallest lately."""
        gap = 0.0
        for upper, lower in LIP_PAIRS:
            gap += float(np.linalg.norm(points[upper, :2] - points[lower, :2])) / len(LIP_PAIRS)
        # With their depth: the distance of the eyes does not shrink as the head turns.
        size = float(np.linalg.norm(points[33, :3] - points[263, :3]))
        self._jaws.append((time_s, gap / max(size, 1.0)))
        while time_s - self._jaws[0][0] > self.config.shut_s:
            self._jaws.popleft()
        shut = float(np.quantile([g for _, g in self._jaws], 0.1))
        return max(0.0, (self._jaws[-1][1] - shut) / self._per_jaw)

    def _keep(self, detected: Tensor, pose: Pose) -> None:
        """Keep a picture's points where the head is turned as in none that was kept before."""
        if len(self._keys) >= self.config.most_keys:
            return
        direction = -pose.R[0, 2]
        nearest = max((float(direction @ d) for _, d in self._keys), default=-1.0)
        if nearest < math.cos(self.config.apart_rad):
            self._keys.append((detected, direction))
            self._fresh_keys += 1

    @property
    def rig_due(self) -> bool:
        """Whether so many new attitudes have been seen that ``better_rig`` is worth its second."""
        return self._settled and self._fresh_keys >= self.config.fresh_keys

    def better_rig(self) -> FittedRig:
        """Fit the rig to all attitudes seen so far: a second or two, in a thread of its own if wanted."""
        self._fresh_keys = 0
        return self._fit_rig(self._neutral_keys, [points for points, _ in self._keys])

    def adopt(self, rig: FittedRig) -> None:
        """Go on with another rig."""
        self._lattice, self._basis, self._neutral = rig.lattice, rig.basis, rig.neutral
        self._straight = rig.gaze
        if self._attitude is None:
            self._attitude = rig.attitude
        self._gauge = rig.attitude.T @ self._attitude
        self.restart()

    def _settle(self) -> None:
        """Bend the lattice to the person, as the tracker begins, on the first second alone."""
        which = np.linspace(0, len(self._settling) - 1, self.config.settle_used).round().astype(int)
        self._neutral_keys = [self._settling[i] for i in which]
        self._settling, self._settled = [], True
        self.adopt(self._fit_rig(self._neutral_keys, []))

    def _fit_rig(self, neutral: list[Tensor], others: list[Tensor]) -> FittedRig:
        """Solve lattice, poses and coefficients in turn."""
        config = self.config
        detected = torch.cat([*neutral, *others])
        pixels = detected[..., :2]
        wide = (pixels[:, 454] - pixels[:, 234]).norm(dim=-1).median()
        precise = 1 / float(config.detection_sigma * wide) ** 2
        ones = torch.ones(len(ARKIT_NAMES))
        precision = ones / config.coefficient_sigma**2
        precision[CLOSE] += 1 / config.close_sigma**2
        prior = CoefficientPrior(
            0 * ones, config.upper * ones, config.sparsity * ones, precision, 0 * ones
        )
        lattice, basis = self._generic, generic_arkit_basis()
        pose = initial_pose(lattice, detected, self._camera)
        coefficients = torch.zeros(len(detected), len(ARKIT_NAMES))
        for _ in range(2):
            weight = visibility(facing(lattice, basis, coefficients, pose)) * precise
            seen = Observations(pixels, weight)
            found = solve_frames(
                lattice, basis, self._camera, seen, prior, pose, coefficients,
                iterations=6, scale=ROBUST,
            )  # fmt: skip
            pose, coefficients = found.pose, found.coefficients
            # Who holds a face at rest for the first second shows no expression there.
            coefficients[: len(neutral)] = 0
            solved = bundle_adjust(
                lattice, deform(torch.zeros_like(lattice), basis, coefficients), self._camera, seen,
                lattice_prior(self._generic, lattice, config.bend_m, config.asymmetry_m), pose,
                iterations=4, scale=ROBUST,
            )  # fmt: skip
            lattice, pose = normalise(
                solved.lattice.float(), Pose(solved.pose.R.float(), solved.pose.t.float()),
                self._generic,
            )  # fmt: skip
            basis = arkit_basis(lattice)
        count = len(neutral)
        at_rest = solve_frames(
            lattice, basis, self._camera, Observations(pixels[:count], seen.weight[:count]), prior,
            pose[:count], coefficients[:count], iterations=6, scale=ROBUST,
        )  # fmt: skip
        rest = at_rest.coefficients.median(0).values.clamp(max=0.3)
        rest[[JAW, *BLINKS]] = 0  # measured by gaps, against their own usual ones
        attitude = roma.special_procrustes(at_rest.pose.R.mean(0))
        assert isinstance(attitude, Tensor)
        irises = iris_gaze(
            pixels[:count], lattice, basis, at_rest.coefficients, at_rest.pose, self._camera
        )
        return FittedRig(lattice, basis, rest, irises.median(0).values, attitude)
