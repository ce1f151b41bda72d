"""Track one clip: landmarks and pictures to camera, personal lattice, basis, and a state per frame.

The rig (lattice, shapes, focal length) is fitted on training frames; then every frame, training or
held out, finds its pose and coefficients by the same steps with the rig fixed.

1. Detected points alone: poses, lattice and coefficients at the prior's focal length.
2. Rounds of anchoring on key frames: points of the face and of the shell around it move to where the
   head's mean texture says they are (``surfaces``); the steadiest half gives poses, lattice, shell and
   focal length (``rigid``); those of the face, with the detected lips, lids and irises, give the
   coefficients.
3. All frames, the rig fixed: by landmarks, then by texture twice; the shapes bend to the person.
4. The last pass: blinks from the lids' gap, smoothed poses. The torso is registered meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from avatar.capture_data import Splits, Track
from avatar.checks import InputError
from avatar.rig.arkit import ARKIT_INDEX, ARKIT_NAMES
from avatar.rig.face_model import DrawnFace, FaceModel
from avatar.rig.lattice import POINTS, REGIONS, SKIN_POINTS, deform, eyeball_centres
from avatar.types import Progress, Reporter, ignore_progress
from capture.track.config import TrackConfig
from capture.track.footage import Calibration, Footage
from capture.track.head import Frames, Rig
from capture.track.rig_fit import (
    Slide,
    frontality,
    initial_pose,
    lattice_prior,
    normalise,
    personal_basis,
    residual_shapes,
    spread_frames,
    visibility,
)
from capture.track.rigid import IRIS, ROBUST, RigidFit
from capture.track.shell import Shell, make_shell
from capture.track.solver import (
    CoefficientPrior,
    FrameSolution,
    LatticePrior,
    Observations,
    Pinhole,
    Pose,
    bundle_adjust,
    solve_frames,
)
from capture.track.states import (
    blinks,
    fill,
    fill_poses,
    gaze_of,
    smooth_poses,
    world_frame,
)
from capture.track.surfaces import Surfaces, View
from capture.track.threads import one_thread_a_call
from capture.track.torso import TorsoMotion, place_torso, watch_torso

UPPER = 1.3
"""ARKit coefficients may pass 1: a person may move more than the drawn shapes."""
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
LOST = 8.0
"""Anchored points this many sigmas (3 % of the face's width) from the detected ones are half believed."""
SHUT_QUANTILE = 0.05
"""A mouth is shut in at least this share of the frames."""
TOO_FEW = 30
"""Frames with a face that a personal rig needs."""


@dataclass(frozen=True)
class Anchors:
    """What anchors a frame's points to the skin."""

    surfaces: Surfaces
    shell: Shell
    reference: tuple[np.ndarray, np.ndarray]
    """The mean textures of face and shell."""
    spread: Tensor
    """[478 + S] every point's sigma about the rigid head, pixels."""


@dataclass(frozen=True)
class Tracked:
    """A track, and how firmly its focal length is known."""

    track: Track
    focal_px: float
    """Focal length found, pixels."""
    focal_prior_px: float
    """What was believed before looking."""
    focal_sigma: float
    """Relative sigma of what was found; near the prior's where the head hardly turns."""


def fit_track(
    footage: Sequence[Footage],
    *,
    fps: float,
    splits: Splits,
    calibration: Calibration | None = None,
    model: FaceModel | None = None,
    report: Reporter = ignore_progress,
    config: TrackConfig | None = None,
) -> Tracked:
    """Track one head before one or several fixed cameras.

    Args:
        footage: of each camera.
        fps: frames a second, of all of them.
        splits: the rig is fitted on ``splits.train`` alone.
        calibration: the cameras, in the order of ``footage`` and in its pixels, where they are known;
            found from the face where None.
        model: the family of faces to fit; the project's own drawn one where None.
        report: listener.
        config: settings.

    Returns:
        The track, every ``K`` in pixels of that camera's pictures; finite everywhere, frames without
        a face interpolated and not ``valid``.

    Raises:
        InputError: fewer than 30 training frames show a face.
    """
    if len(footage) != 1 or calibration is not None:
        raise NotImplementedError("several cameras")
    fit = _Fit(footage[0], fps, splits, report, config or TrackConfig(), model or DrawnFace())
    with one_thread_a_call(), ThreadPoolExecutor(1) as pool:
        # The torso needs no more than where faces are: it fills a core while the bundle adjustment,
        # which knows but one, has the other.
        torso = pool.submit(fit.watch_torso)
        rig, keyed = fit.on_landmarks()
        anchors = None
        if fit.config.anchor_rounds > 0:
            rig, keyed, anchors = fit.on_texture(rig, keyed)
        frames, seen, steady = fit.every_frame(rig, keyed, anchors)
        rig = fit.personalised(rig, frames, seen)
        frames = fit.last_pass(rig, frames, seen, steady)
        track = fit.track(rig, frames, torso.result())
    return Tracked(track, rig.camera.focal, fit.start_focal, fit.focal_sigma)


class _Fit:
    """One clip's fit: the inputs, and the steps in order."""

    def __init__(
        self,
        footage: Footage,
        fps: float,
        splits: Splits,
        report: Reporter,
        config: TrackConfig,
        model: FaceModel,
    ) -> None:
        self.landmarks, self.frame, self.mask = footage.landmarks, footage.frame, footage.mask
        self.fps, landmarks = fps, footage.landmarks
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
        self.start_focal = config.focal_widths * max(footage.width, footage.height)
        self.centre = (footage.width / 2, footage.height / 2)
        self.model, self.generic = model, model.neutral
        self.workers = config.workers or min(os.cpu_count() or 1, 8)
        self.camera = Pinhole(self.start_focal, self.centre)
        self.start = initial_pose(self.generic, self.detected, self.camera)
        best = int(frontality(self.start.R[self.train]).argmax())
        self.reference = int(self.index[self.train[best]])
        self.rigid = RigidFit(config, model, self.sigma, self.start_focal, self.workers)
        self.focal_sigma = config.focal_spread
        self.steps = 1 + config.anchor_rounds + (2 if config.anchor_rounds else 1) + 2
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
        likely = self.model.likely(lattice)
        return lattice_prior(likely, lattice, self.config.bend_m, self.config.asymmetry_m)

    def _detections(self, rig: Rig, frames: Frames, index: Tensor | slice = ALL) -> Observations:
        """The detected points of the frames ``index``, which ``frames`` holds."""
        weight = visibility(frames.facing(rig)) / self.sigma**2
        return Observations(self.detected[index, :, :2], weight)

    def on_landmarks(self) -> tuple[Rig, Frames]:
        """Fit the rig and the key frames to the detected points, the focal length held."""
        rig = Rig(self.camera, self.generic, self.model.shapes(self.generic), self.generic[:0])
        self.keys = keys = spread_frames(self.start, self.train, self.config.keyframes)
        frames = Frames(self.start[keys], torch.zeros(len(keys), len(rig.basis)))
        for _ in range(2):
            solved = bundle_adjust(
                rig.lattice,
                deform(torch.zeros_like(rig.lattice), rig.basis, frames.coefficients),
                rig.camera,
                self._detections(rig, frames, keys),
                self._lattice_prior(rig.lattice),
                frames.pose,
                iterations=8,
                scale=ROBUST,
            )
            lattice, pose = normalise(solved.lattice, solved.pose, self.generic)
            rig = replace(rig, lattice=lattice, basis=self.model.shapes(lattice))
            frames = replace(frames, pose=pose)
            found = self._solve(rig, frames, self._detections(rig, frames, keys), 8)
            frames = Frames(found.pose, found.coefficients)
        self._tick("The face's shape is fitted to the landmarks.")
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

    def on_texture(self, rig: Rig, frames: Frames) -> tuple[Rig, Frames, Anchors]:
        """Anchor the key frames' points to the skin and fit rig and key frames again, some rounds."""
        config, keys = self.config, self.keys
        shell = make_shell(rig.lattice, self.generic)
        rig = replace(rig, shell=shell.points)
        surfaces = Surfaces(
            rig.lattice, shell, self.index, self.frame, self.mask, config, self.workers
        )
        front = frontality(frames.pose.R)
        chosen = front.argsort(descending=True)[: max(20, len(keys) // 2)]
        view = frames.view(rig, shell)
        warp = view.points
        spread: Tensor | None = None
        for round_ in range(config.anchor_rounds):
            reference = surfaces.reference(keys, view, warp, chosen)
            fine = round_ >= config.fine_round
            points, trust = self._anchored(surfaces, reference, keys, view, lambda _: None, fine)
            # In the first round twice: the second fit knows which points are steady.
            for _ in range(2 if spread is None else 1):
                rig, pose, spread, focal_sigma = self.rigid.adjust(
                    rig, shell, frames.pose, points, trust, spread,
                    free_focal=round_ >= config.free_focal_round,
                    trust_shell=round_ < config.trust_shell_rounds,
                )  # fmt: skip
                frames = replace(frames, pose=pose)
            assert spread is not None
            rig = replace(rig, basis=self.model.shapes(rig.lattice))
            detected = self.detected[keys][..., :2]
            if round_ > 0:  # before that, what is left over is the landmark fit's own error
                slide = Slide.learnt(detected - frames.points(rig), frames.pose)
                detected = detected - slide.of(frames.pose)
            weighed = Observations(points, self.rigid.weight(trust, spread))
            hold = self.rigid.poses(rig, frames.pose, weighed)
            seen = self._all_points(rig, frames, points, trust, detected)
            solved = self._solve(rig, frames, seen, 5, pose_prior=hold)
            frames = replace(frames, coefficients=solved.coefficients)
            warp = torch.where((trust > 0.1)[..., None], points, view.points)
            view = frames.view(rig, shell)
            chosen = torch.arange(len(keys))
            self.focal_sigma = focal_sigma
            self._tick(
                f"Camera, head and expressions are fitted to the skin, round {round_ + 1}.",
                focal_px=rig.camera.focal,
                spread_px=float(spread[:SKIN_POINTS].median()),
            )
        rig, frames = self._mouth_shut(rig, frames, seen, hold)
        view = frames.view(rig, shell)
        assert spread is not None, "at least one round was asked for"
        reference = surfaces.reference(keys, view, warp, chosen)
        return rig, frames, Anchors(surfaces, shell, reference, spread)

    def _mouth_shut(
        self, rig: Rig, frames: Frames, seen: Observations, hold: tuple[Pose, Tensor]
    ) -> tuple[Rig, Frames]:
        """Let the lattice at rest have its mouth shut, as jawOpen's name says.

        Fitted to all frames, a person who talks throughout rests half open: then jawOpen would have
        to be negative where the mouth shuts. It is let, once, to see how far the lattice must close.
        """
        jaw = ARKIT_INDEX["jawOpen"]
        prior = self._prior(rig.basis.shape[0])
        lower = prior.lower.clone()
        lower[jaw] = -1.0
        sparsity = prior.sparsity.clone()
        sparsity[jaw] = 0
        free = replace(prior, lower=lower, sparsity=sparsity)
        found = self._solve(rig, frames, seen, 8, prior=free, pose_prior=hold)
        shut = float(found.coefficients[:, jaw].quantile(SHUT_QUANTILE))
        if shut > -0.02:
            return rig, frames
        lattice = rig.lattice + shut * rig.basis[jaw]
        rig = replace(rig, lattice=lattice, basis=self.model.shapes(lattice))
        solved = self._solve(rig, frames, seen, 8, pose_prior=hold)
        return rig, replace(frames, coefficients=solved.coefficients)

    def _anchored(
        self,
        surfaces: Surfaces,
        reference: tuple[np.ndarray, np.ndarray],
        which: Tensor,
        view: View,
        tick: Callable[[int], None],
        fine: bool,
    ) -> tuple[Tensor, Tensor]:
        """Anchor points to the skin; irises, which have none, stay where they are detected."""
        points, trust = surfaces.anchor(reference, which, view, tick, fine)
        points[:, IRIS] = self.detected[which][:, IRIS, :2]
        trust[:, IRIS] = visibility(view.face[:, IRIS])
        return points, trust

    def _all_points(
        self, rig: Rig, frames: Frames, points: Tensor, trust: Tensor, detected: Tensor
    ) -> Observations:
        """Join anchored points [n, 478 + S] with the detector's lips, lids and irises [n, 478, 2]."""
        joined = points[:, :POINTS].clone()
        # Flow that lost its way ends far from where the detector is; slides are long taken out.
        lost = (joined - detected).square().sum(-1) / (LOST * self.sigma) ** 2
        total = trust[:, :POINTS] / (1 + lost) / self.sigma**2
        total[:, IRIS] = 0
        own = visibility(frames.facing(rig)) / self.sigma**2
        a, b = total[:, DETECTED], own[:, DETECTED]
        blend = joined[:, DETECTED] * a[..., None] + detected[:, DETECTED] * b[..., None]
        joined[:, DETECTED] = blend / (a + b)[..., None]
        total[:, DETECTED] = a + b
        return Observations(joined, total)

    def _firm(self, pose: Pose) -> Tensor:
        """Information [n, 6, 6] of poses known to a tenth of a degree and a millimetre."""
        sigma = pose.t.new_tensor([0.002] * 3 + [0.001] * 3).double()
        return torch.diag(1 / sigma**2).expand(len(pose.t), 6, 6)

    def every_frame(
        self, rig: Rig, keyed: Frames, anchors: Anchors | None
    ) -> tuple[Frames, Observations, tuple[Pose, Tensor] | None]:
        """Find all frames, with the rig fixed: by landmarks, then by texture."""
        pose = initial_pose(rig.lattice, self.detected, rig.camera)
        frames = Frames(pose, torch.zeros(len(self.index), rig.basis.shape[0]))
        seen = self._detections(rig, frames)
        if anchors is None:
            for _ in range(2):
                found = self._solve(rig, frames, seen, 5)
                frames = Frames(found.pose, found.coefficients)
                seen = self._detections(rig, frames)
            self._tick("All frames are fitted to the landmarks.")
            return frames, seen, None
        detected = self.detected[..., :2]
        slide = Slide.learnt(detected[self.keys] - keyed.points(rig), keyed.pose)
        weight = 1 / anchors.spread[:POINTS] ** 2
        weight[IRIS] = 0
        for _ in range(2):
            seen = Observations(detected - slide.of(pose), visibility(frames.facing(rig)) * weight)
            pose, _ = self.rigid.poses(rig, pose, seen)
            frames = replace(frames, pose=pose)
        # Mouths as wide open as they are detected: flow does not find a lip so far from the guess.
        seen = Observations(
            detected - slide.of(pose), visibility(frames.facing(rig)) / self.sigma**2
        )
        found = self._solve(rig, frames, seen, 4, pose_prior=(pose, self._firm(pose)))
        frames = replace(frames, coefficients=found.coefficients)
        every = torch.arange(len(self.index))
        steady = None
        for fine in (False, True):
            view = frames.view(rig, anchors.shell)
            points, trust = self._anchored(
                anchors.surfaces, anchors.reference, every, view, self._tick_frames, fine
            )
            seen = Observations(points, self.rigid.weight(trust, anchors.spread))
            steady = self.rigid.poses(rig, frames.pose, seen)
            frames = replace(frames, pose=steady[0])
            seen = self._all_points(rig, frames, points, trust, detected - slide.of(frames.pose))
            found = self._solve(rig, frames, seen, 6 if fine else 4, pose_prior=steady)
            frames = replace(frames, coefficients=found.coefficients)
            self._tick("Points of all frames are anchored to the skin.")
        return frames, seen, steady

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
        # The lids' gap has been read: while it closes, nothing of it is left for eyeWide.
        wide = [ARKIT_INDEX["eyeWideLeft"], ARKIT_INDEX["eyeWideRight"]]
        precision[:, wide] += (shut > 0.15) / 0.02**2
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

    def _residual(self, rig: Rig, frames: Frames) -> Tensor:
        """Root mean square distance [n] of the model from the detected points, pixels.

        The detector's slide over the skin with the head's turn is its own, learnt from the training
        frames, and taken out; points weigh as they face the camera.
        """
        away = self.detected[..., :2] - frames.points(rig)
        slide = Slide.learnt(away[self.train], frames.pose[self.train])
        squared = (away - slide.of(frames.pose)).square().sum(-1)
        weight = visibility(frames.facing(rig))
        return ((weight * squared).sum(1) / weight.sum(1)).sqrt()

    def watch_torso(self) -> TorsoMotion | None:
        """Follow the torso through the pictures."""
        oval = self.detected[:, list(REGIONS["face_oval"]), :2]
        outlines = fill(oval, self.index, len(self.landmarks.valid)).numpy()
        return watch_torso(
            outlines, self.reference, self.frame, self.mask, self.config.torso, self.workers
        )

    def track(self, rig: Rig, frames: Frames, motion: TorsoMotion | None) -> Track:
        """Assemble the track, the torso last."""
        total = len(self.landmarks.valid)
        error = self._residual(rig, frames)
        pose = fill_poses(frames.pose, self.index, total)
        expression = fill(frames.coefficients, self.index, total)
        T_cam_world, T_world_head = world_frame(pose)
        focal, (cx, cy) = rig.camera.focal, rig.camera.centre
        valid = self.landmarks.valid
        named = self.model.expression_names
        names = [f"personal{k:02d}" for k in range(rig.basis.shape[0] - len(named))]
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
            expression_names=(*named, *names),
            rig=self.model.name,
            fps=self.fps,
        )
        torso = place_torso(track, motion, self.reference)
        self._tick("The torso is registered.")
        return replace(track, T_world_torso=torso)
