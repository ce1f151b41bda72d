"""Track one clip: landmarks and pictures to camera, personal lattice, basis, and a state per frame.

The rig (lattice, shapes, focal length) is fitted on training frames; then every frame, training or
held out, finds its pose and coefficients by the same steps with the rig fixed.

1. Detected points alone: poses, lattice and coefficients at the prior's focal length.
2. Rounds of anchoring: points move to where the skin's mean texture says they are (``anchor``); the
   steadiest half gives poses, lattice and focal length (``bundle_adjust``); all of them, with the
   detected lips, lids and irises, give the coefficients; the shapes bend to the person.
3. The last pass: blinks from the lids' gap, smoothed poses, the torso's own pose.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from avatar.capture_data import Landmarks, Splits, Track
from avatar.checks import InputError
from avatar.rig.arkit import ARKIT_INDEX, ARKIT_NAMES
from avatar.rig.arkit_basis import arkit_basis
from avatar.rig.lattice import POINTS, REGIONS, SKIN_POINTS, deform, eyeball_centres, lattice_table
from avatar.types import Progress, Reporter, ignore_progress
from capture.track import anchor as texture
from capture.track.config import TrackConfig
from capture.track.rig_fit import (
    facing,
    frontality,
    initial_pose,
    lattice_prior,
    normalise,
    personal_basis,
    residual_shapes,
    slide_over_skin,
    spread_frames,
    visibility,
)
from capture.track.solver import (
    CoefficientPrior,
    FrameSolution,
    LatticePrior,
    Observations,
    Pinhole,
    Pose,
    bundle_adjust,
    project,
    solve_frames,
)
from capture.track.states import (
    INDEPENDENT,
    blinks,
    fill,
    fill_poses,
    gaze_of,
    smooth_poses,
    world_frame,
)
from capture.track.threads import one_thread_a_call
from capture.track.torso import track_torso

ROBUST = 2.0
"""Cauchy scale of all residuals, in sigmas."""
UPPER = 1.3
"""ARKit coefficients may pass 1: a person may move more than the drawn shapes."""
IRIS = list(range(SKIN_POINTS, POINTS))
# The detector follows openings better than flow does: flow loses skin that folds away.
DETECTED = sorted(
    {
        point
        for name, region in REGIONS.items()
        if name.startswith(("lip_", "lid_", "eye_corners", "iris_"))
        for point in region
    }
)
ALL = slice(None)
TOO_FEW = 30
"""Frames with a face that a personal rig needs."""


@dataclass(frozen=True)
class Rig:
    """What all frames share."""

    camera: Pinhole
    lattice: Tensor
    """[478, 3]."""
    basis: Tensor
    """[E, 478, 3]."""


@dataclass(frozen=True)
class Frames:
    """What each frame with a face has of its own."""

    pose: Pose
    coefficients: Tensor
    """[n, E]."""

    def points(self, rig: Rig) -> Tensor:
        """Project the posed lattice: [n, 478, 2] pixels."""
        return project(deform(rig.lattice, rig.basis, self.coefficients), self.pose, rig.camera)

    def facing(self, rig: Rig) -> Tensor:
        """Cosine between normals and lines of sight [n, 478]."""
        return facing(rig.lattice, rig.basis, self.coefficients, self.pose)


def fit_track(
    landmarks: Landmarks,
    *,
    frame: Callable[[int], np.ndarray],
    mask: Callable[[int], np.ndarray],
    width: int,
    height: int,
    fps: float,
    splits: Splits,
    report: Reporter = ignore_progress,
    config: TrackConfig | None = None,
) -> Track:
    """Track a clip of one head before one fixed camera.

    Args:
        landmarks: detections of all frames.
        frame: index to picture, uint8 [H, W, 3] sRGB.
        mask: index to person mask, uint8 [H, W], 255 on the person.
        width: of the pictures, pixels.
        height: of the pictures, pixels.
        fps: frames a second.
        splits: the rig is fitted on ``splits.train`` alone.
        report: listener.
        config: settings.

    Returns:
        The track; finite everywhere, frames without a face interpolated and not ``valid``.

    Raises:
        InputError: fewer than 30 training frames show a face.
    """
    fit = _Fit(landmarks, frame, width, height, fps, splits, report, config or TrackConfig())
    with one_thread_a_call():
        rig, frames = fit.on_landmarks()
        rig, frames, seen, steady = fit.on_texture(rig, frames)
        rig = fit.personalised(rig, frames, seen)
        frames = fit.last_pass(rig, frames, seen, steady)
        return fit.track(rig, frames, mask)


class _Fit:
    """One clip's fit: the inputs, and the steps in order."""

    def __init__(
        self,
        landmarks: Landmarks,
        frame: Callable[[int], np.ndarray],
        width: int,
        height: int,
        fps: float,
        splits: Splits,
        report: Reporter,
        config: TrackConfig,
    ) -> None:
        self.landmarks, self.frame, self.fps = landmarks, frame, fps
        self.splits, self.report, self.config = splits, report, config
        self.index = torch.nonzero(landmarks.valid)[:, 0]
        train = (self.index >= splits.train[0]) & (self.index < splits.train[1])
        self.train = torch.nonzero(train)[:, 0]
        if len(self.train) < TOO_FEW:
            raise InputError(
                f"Only {len(self.train)} of the clip's {splits.train[1] - splits.train[0]} training "
                f"frames show a face, and {TOO_FEW} are needed. Film again: one face, well lit, "
                "looking at the camera most of the time."
            )
        self.detected = landmarks.points[self.index].float()
        wide = (self.detected[:, 454, :2] - self.detected[:, 234, :2])[self.train]
        self.sigma = config.detection_sigma * float(wide.norm(dim=-1).median())
        self.start_focal = config.focal_widths * max(width, height)
        self.centre = (width / 2, height / 2)
        self.generic = lattice_table().neutral
        self.workers = config.workers or min(os.cpu_count() or 1, 8)
        self.steps = 2 + 2 * config.anchor_rounds + 2
        self.done = 0

    def _tick(self, message: str, **values: float) -> None:
        self.done += 1
        self.report(Progress("track", self.done, self.steps, message, values))

    def _tick_frames(self, frames: int) -> None:
        message = f"Anchoring points to the skin: {frames} of {len(self.index)} frames."
        self.report(Progress("track", self.done, self.steps, message))

    def _prior(self, count: int = len(ARKIT_NAMES)) -> CoefficientPrior:
        """The prior of ARKit's coefficients and, after them, personal ones of unit variance."""
        own = count - len(ARKIT_NAMES)
        arkit, ones = torch.ones(len(ARKIT_NAMES)), torch.ones(own)
        return CoefficientPrior(
            lower=torch.cat([0 * arkit, -4 * ones]),
            upper=torch.cat([UPPER * arkit, 4 * ones]),
            sparsity=torch.cat([self.config.sparsity * arkit, 0 * ones]),
            precision=torch.cat([arkit / self.config.coefficient_sigma**2, 4 * ones]),
            mean=torch.zeros(count),
        )

    def _lattice_prior(self, lattice: Tensor) -> LatticePrior:
        return lattice_prior(self.generic, lattice, self.config.bend_m, self.config.asymmetry_m)

    def _detections(self, rig: Rig, frames: Frames, index: Tensor | slice = ALL) -> Observations:
        """The detected points of the frames ``index``, which ``frames`` holds."""
        weight = visibility(frames.facing(rig)) / self.sigma**2
        return Observations(self.detected[index, :, :2], weight)

    def on_landmarks(self) -> tuple[Rig, Frames]:
        """Fit the rig and all frames to the detected points, the focal length held."""
        rig = Rig(Pinhole(self.start_focal, self.centre), self.generic, arkit_basis(self.generic))
        pose = initial_pose(rig.lattice, self.detected, rig.camera)
        frames = Frames(pose, torch.zeros(len(self.index), len(ARKIT_NAMES)))
        self.keys = spread_frames(pose, self.train, self.config.keyframes)
        keys = self.keys
        key_frames = Frames(pose[keys], frames.coefficients[keys])
        for _ in range(2):
            solved = bundle_adjust(
                rig.lattice,
                deform(torch.zeros_like(rig.lattice), rig.basis, key_frames.coefficients),
                rig.camera,
                self._detections(rig, key_frames, keys),
                self._lattice_prior(rig.lattice),
                key_frames.pose,
                iterations=12,
                scale=ROBUST,
            )
            lattice, key_pose = normalise(solved.lattice, solved.pose, self.generic)
            rig = replace(rig, lattice=lattice, basis=arkit_basis(lattice))
            key_frames = replace(key_frames, pose=key_pose)
            found = self._solve(rig, key_frames, self._detections(rig, key_frames, keys), 8)
            key_frames = Frames(found.pose, found.coefficients)
        self._tick("The face's shape is fitted to the landmarks.")
        frames = Frames(initial_pose(rig.lattice, self.detected, rig.camera), frames.coefficients)
        for iterations in (5, 5):
            found = self._solve(rig, frames, self._detections(rig, frames), iterations)
            frames = Frames(found.pose, found.coefficients)
        self._tick("All frames are fitted to the landmarks.")
        return rig, frames

    def _solve(
        self,
        rig: Rig,
        frames: Frames,
        seen: Observations,
        iterations: int,
        prior: CoefficientPrior | None = None,
        pose_prior: tuple[Pose, Tensor] | None = None,
    ) -> FrameSolution:
        return solve_frames(
            rig.lattice, rig.basis, rig.camera, seen, prior or self._prior(rig.basis.shape[0]),
            frames.pose, frames.coefficients, iterations=iterations, scale=ROBUST,
            pose_prior=pose_prior, workers=self.workers,
        )  # fmt: skip

    def on_texture(
        self, rig: Rig, frames: Frames
    ) -> tuple[Rig, Frames, Observations, tuple[Pose, Tensor] | None]:
        """Anchor the points to the skin and fit again, some rounds."""
        config = self.config
        seen, steady = self._detections(rig, frames), None
        if config.anchor_rounds == 0:
            return rig, frames, seen, steady
        guess = frames.points(rig)
        patches = [
            texture.cut_patch(self.frame(int(f)), points, config.texture_px)
            for f, points in zip(self.index, guess.numpy(), strict=True)
        ]
        front = frontality(frames.pose.R[self.train])
        chosen = self.train[front.argsort(descending=True)[:120]]
        spread: Tensor | None = None
        warp = guess
        for round_ in range(config.anchor_rounds):
            guess, cosine = frames.points(rig), frames.facing(rig)
            layout = texture.texture_map(
                rig.lattice.double().numpy(), lattice_table().triangles.numpy(), config.texture_px
            )
            mean = texture.mean_texture(
                layout, patches, (guess if round_ == 0 else warp).numpy(), cosine.numpy(),
                chosen.numpy(), self.workers,
            )  # fmt: skip
            found = texture.anchor(
                layout,
                mean,
                patches,
                guess.numpy(),
                cosine.numpy(),
                self.workers,
                self._tick_frames,
            )
            points, trust = torch.from_numpy(found.points), torch.from_numpy(found.confidence)
            self._tick(f"Points are anchored to the skin, round {round_ + 1}.")
            points[:, IRIS] = self.detected[:, IRIS, :2]
            trust[:, IRIS] = visibility(cosine[:, IRIS])
            # Twice: the second fit knows which points are steady.
            free_focal = round_ >= config.free_focal_round
            rig, pose, _, spread = self._steady_fit(
                rig, frames.pose, points, trust, spread, free_focal
            )
            rig, pose, information, spread = self._steady_fit(
                rig, pose, points, trust, spread, free_focal
            )
            frames = replace(frames, pose=pose)
            rig = replace(rig, basis=arkit_basis(rig.lattice))
            seen = self._all_points(rig, frames, points, trust, round_)
            steady = (frames.pose, information * config.pose_trust)
            frames = replace(
                frames,
                coefficients=self._solve(rig, frames, seen, 8, pose_prior=steady).coefficients,
            )
            warp = torch.where((trust > 0.1)[..., None], points, guess)
            chosen = self.train[:: max(1, len(self.train) // 300)]
            self._tick(
                f"Camera, face and expressions are fitted, round {round_ + 1}.",
                focal_px=rig.camera.focal,
                spread_px=float(spread[:SKIN_POINTS].median()),
            )
        return rig, frames, seen, steady

    def _steady_fit(
        self,
        rig: Rig,
        pose: Pose,
        points: Tensor,
        trust: Tensor,
        spread: Tensor | None,
        free_focal: bool,
    ) -> tuple[Rig, Pose, Tensor, Tensor]:
        """Fit lattice, focal length and poses to the steadiest points, as a rigid body.

        Expression is left out on purpose: fitted coefficients explain away errors of pose, and the
        bundle adjustment would find them confirmed. Points that expressions move have little weight.

        Returns the rig, poses, their information [n, 6, 6], and every point's sigma in pixels [478].
        """
        if spread is None:
            weight = trust / self.sigma**2
        else:
            weight = trust / spread**2
            steady = torch.zeros(POINTS, dtype=torch.bool)
            steady[spread[:SKIN_POINTS].argsort()[: self.config.rigid_points]] = True
            weight = torch.where(steady, weight, 0.01 * weight)
        weight[:, IRIS] = 0.05 * trust[:, IRIS] / self.sigma**2
        keys = self.keys
        observed = Observations(points, weight)
        solved = bundle_adjust(
            rig.lattice,
            rig.lattice.new_zeros(len(keys), POINTS, 3),
            rig.camera,
            observed[keys],
            self._lattice_prior(rig.lattice),
            pose[keys],
            iterations=20,
            scale=ROBUST,
            free_focal=free_focal and spread is not None,
            focal_prior=(self.start_focal, self.config.focal_spread * INDEPENDENT**0.5),
        )
        lattice, key_pose = normalise(solved.lattice, solved.pose, self.generic)
        depth = key_pose.t[:, 2].median() / pose.t[keys, 2].median()
        rig = Rig(solved.camera, lattice, rig.basis)
        none = CoefficientPrior(*[torch.zeros(0)] * 5)
        found = solve_frames(
            lattice, rig.basis[:0], rig.camera, observed, none,
            Pose(pose.R, pose.t * depth), torch.zeros(len(points), 0), iterations=8, scale=ROBUST,
            workers=self.workers,
        )  # fmt: skip
        error = (project(lattice, found.pose, rig.camera) - points).norm(dim=-1)
        error = torch.where(trust > 0.2, error, torch.nan)[self.train]
        # The median of a 2-D error's length is 1.18 sigmas. Points never seen well are not steady.
        sigma = torch.nanmedian(error, 0).values / 1.18
        sigma = torch.where(sigma.isnan(), 5 * self.sigma, sigma).clamp_min(0.15 * self.sigma)
        return rig, found.pose, found.pose_information, sigma

    def _all_points(
        self, rig: Rig, frames: Frames, points: Tensor, trust: Tensor, round_: int
    ) -> Observations:
        """Join anchored points with the detector's lips, lids and irises."""
        detected = self.detected[..., :2]
        if round_ > 0:  # before that, what is left over is the landmark fit's own error
            left_over = detected - frames.points(rig)
            detected = detected - slide_over_skin(left_over, frames.pose, self.train)
        weight = trust / self.sigma**2
        weight[:, IRIS] = 0
        own = visibility(frames.facing(rig)) / self.sigma**2
        joined, total = points.clone(), weight.clone()
        a, b = weight[:, DETECTED], own[:, DETECTED]
        blend = points[:, DETECTED] * a[..., None] + detected[:, DETECTED] * b[..., None]
        joined[:, DETECTED] = blend / (a + b)[..., None]
        total[:, DETECTED] = a + b
        return Observations(joined, total)

    def personalised(self, rig: Rig, frames: Frames, seen: Observations) -> Rig:
        """Bend the shapes to the training frames, and append what they leave over.

        Once, at the end: shapes bent to the coefficients of an early round keep its mistakes
        (on the rendered head browInnerUp fell from 0.76 to 0.52).
        """
        config = self.config
        some = self.train[:: max(1, -(-len(self.train) // config.basis_frames))]
        seen, pose, coefficients = seen[some], frames.pose[some], frames.coefficients[some]
        if config.shape_ridge_m > 0:
            basis = personal_basis(
                rig.lattice, rig.basis, rig.camera, seen, pose, coefficients,
                config.shape_ridge_m, ROBUST,
            )  # fmt: skip
            rig = replace(rig, basis=basis)
        if config.residual_shapes > 0:
            shapes, _ = residual_shapes(
                rig.lattice, rig.basis, rig.camera, seen, pose, coefficients, config.residual_shapes
            )
            rig = replace(rig, basis=torch.cat([rig.basis, shapes]))
        return rig

    def last_pass(
        self,
        rig: Rig,
        frames: Frames,
        seen: Observations,
        steady: tuple[Pose, Tensor] | None,
    ) -> Frames:
        """Solve every frame once more with the finished rig: the same steps for train and test."""
        count = rig.basis.shape[0]
        own = count - frames.coefficients.shape[1]
        zeros = frames.coefficients.new_zeros(len(self.index), own)
        frames = replace(frames, coefficients=torch.cat([frames.coefficients, zeros], 1))
        prior = self._prior(count)
        shut = self._blinks()
        eyes = [ARKIT_INDEX["eyeBlinkLeft"], ARKIT_INDEX["eyeBlinkRight"]]
        mean = prior.mean.expand(len(self.index), -1).clone()
        precision = prior.precision.expand(len(self.index), -1).clone()
        mean[:, eyes] = shut
        precision[:, eyes] = 1 / 0.02**2
        sparsity = prior.sparsity.clone()
        sparsity[eyes] = 0
        prior = replace(prior, mean=mean, precision=precision, sparsity=sparsity)
        found = self._solve(rig, frames, seen, 8, prior=prior, pose_prior=steady)
        pose = smooth_poses(found.pose, found.pose_information, self.fps)
        hold = (pose, found.pose_information * 100)
        found = self._solve(
            rig, Frames(pose, found.coefficients), seen, 4, prior=prior, pose_prior=hold
        )
        self._tick("All frames are fitted with the finished face.")
        return Frames(pose, found.coefficients)

    def _blinks(self) -> Tensor:
        """Blinks [n, 2] of the frames with a face; the running median needs all frames."""
        every = fill(self.detected[..., :2], self.index, len(self.landmarks.valid))
        return blinks(every, self.fps)[self.index]

    def track(self, rig: Rig, frames: Frames, mask: Callable[[int], np.ndarray]) -> Track:
        """Assemble the track, the torso last."""
        total = len(self.landmarks.valid)
        error = (frames.points(rig) - self.detected[..., :2]).square().sum(-1).mean(-1).sqrt()
        pose = fill_poses(frames.pose, self.index, total)
        expression = fill(frames.coefficients, self.index, total)
        T_cam_world, T_world_head = world_frame(pose)
        focal, (cx, cy) = rig.camera.focal, rig.camera.centre
        valid = self.landmarks.valid
        names = [f"personal{k:02d}" for k in range(rig.basis.shape[0] - len(ARKIT_NAMES))]
        track = Track(
            K=torch.tensor([[[focal, 0, cx], [0, focal, cy], [0, 0, 1]]]),
            T_cam_world=T_cam_world[None],
            lattice=rig.lattice,
            basis=rig.basis,
            eyeballs=eyeball_centres(rig.lattice),
            expression=expression,
            gaze=gaze_of(expression),
            T_world_head=T_world_head,
            T_world_torso=T_world_head,
            landmarks_px=self.landmarks.points[..., :2] * valid[:, None, None],
            residual_px=fill(error, self.index, total),
            valid=valid,
            expression_names=(*ARKIT_NAMES, *names),
            rig="lattice",
            fps=self.fps,
        )
        torso = track_torso(track, self.frame, mask, self.splits, self.config.torso)
        self._tick("The torso is registered.")
        return replace(track, T_world_torso=torso)
