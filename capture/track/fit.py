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
from avatar.rotations import rigid
from avatar.types import Progress, Reporter, ignore_progress
from capture.track.config import TrackConfig
from capture.track.footage import Calibration, Footage
from capture.track.head import Frames, Rig
from capture.track.one_rig import joined, key_pictures, size_of, squareness
from capture.track.projection import Observations, Pose, project
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
from capture.track.seen_by import SeenBy, known_views
from capture.track.shell import Shell, make_shell
from capture.track.solver import (
    CoefficientPrior,
    FrameSolution,
    LatticePrior,
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
from capture.track.views import HeadPose

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
SIDEWAYS = 2.4
"""``frontality`` of a head turned by 45 degrees, past which a detected face tells little of its shape."""
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
    fit = _Fit(
        footage, fps, splits, calibration, report, config or TrackConfig(), model or DrawnFace()
    )
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
    believed = float(fit.start_focals[fit.main] * fit.seen_by.unit[fit.main])
    return Tracked(track, float(track.K[track.main, 0, 0]), believed, fit.focal_sigma)


class _Fit:
    """One head's fit: the inputs, and the steps in order.

    What is done picture by picture is done to one list of the pictures that show a face, P of them: of
    one camera its n frames, of several all that any of them took of n frames (``seen_by``).
    """

    def __init__(
        self,
        footage: Sequence[Footage],
        fps: float,
        splits: Splits,
        calibration: Calibration | None,
        report: Reporter,
        config: TrackConfig,
        model: FaceModel,
    ) -> None:
        self.fps, self.splits, self.report, self.config = fps, splits, report, config
        self.seen_by = seen_by = SeenBy.of(footage)
        self.index, self.total = seen_by.index, len(footage[0].landmarks.valid)
        training = (self.index >= splits.train[0]) & (self.index < splits.train[1])
        self.train = torch.nonzero(training[seen_by.frame_of])[:, 0]
        if int(training.sum()) < TOO_FEW:
            raise InputError(
                f"Only {int(training.sum())} of the clip's {splits.train[1] - splits.train[0]} training "
                f"frames show a face, and {TOO_FEW} are needed. Film again: one face, well lit, "
                "looking at the camera most of the time."
            )
        self.detected = seen_by.detected()
        wide = (self.detected[:, 454, :2] - self.detected[:, 234, :2])[self.train]
        self.sigma = config.detection_sigma * float(wide.norm(dim=-1).median())
        self.model, self.generic = model, model.neutral
        self.workers = config.workers or min(os.cpu_count() or 1, 8)
        self.camera, known = seen_by.cameras(config, calibration)
        self.start_focals = torch.tensor(
            seen_by.start_focals(config, calibration), dtype=torch.float64
        )
        self.start = initial_pose(self.generic, self.detected, self.camera, seen_by.camera_of)
        front = frontality(self.start.R)
        self.main = seen_by.squarest(front, self.train)
        self.views = known_views(calibration, self.main)
        self.metric = calibration is not None and calibration.metric
        seen_by.need_shared(self.train, self.views, self.main)
        own = self.train[seen_by.taken_by(self.main)[self.train]]
        self.reference = int(self.index[seen_by.frame_of[own[int(front[own].argmax())]]])
        self.rigid = RigidFit(
            config, model, self.sigma, self.start_focals, self.workers,
            free_focal=not known, free_cameras=self.views is None,
        )  # fmt: skip
        self.focal_sigma = config.focal_spread
        self.steps = 1 + config.anchor_rounds + (2 if config.anchor_rounds else 1) + 2
        self.done = 0

    def _tick(self, message: str, **values: float) -> None:
        self.done += 1
        self.report(Progress("track", self.done, self.steps, message, values))

    def _tick_frames(self, frames: int) -> None:
        message = f"Anchoring points to the skin: {frames} of {len(self.detected)} pictures."
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
        self.keys = keys = key_pictures(
            self.seen_by, self.main, self.start, self.train, self.config.keyframes
        )
        frames = Frames(self.start[keys], torch.zeros(len(keys), len(rig.basis)))
        # The face's shape hangs on as many pictures of several cameras as of one, as turned as those.
        some = torch.arange(len(keys))
        if len(keys) > self.config.keyframes:
            turned = frontality(frames.pose.R)
            some = some[turned > min(SIDEWAYS, float(turned.median()))]
            some = spread_frames(frames.pose, some, self.config.keyframes)
        for _ in range(2):
            shown = replace(frames, pose=frames.pose[some], coefficients=frames.coefficients[some])
            solved = bundle_adjust(
                rig.lattice,
                deform(torch.zeros_like(rig.lattice), rig.basis, shown.coefficients),
                rig.camera,
                self._detections(rig, shown, keys[some]),
                self._lattice_prior(rig.lattice),
                shown.pose,
                iterations=8,
                scale=ROBUST,
            )
            lattice, pose = normalise(solved.lattice, solved.pose, self.generic)
            rig = replace(rig, lattice=lattice, basis=self.model.shapes(lattice))
            if len(some) < len(keys):
                pose = initial_pose(
                    lattice, self.detected[keys], rig.camera, self.seen_by.camera_of
                    if self.seen_by.camera_of is None else self.seen_by.camera_of[keys],
                )  # fmt: skip
            frames = replace(frames, pose=pose)
            found = self._solve(rig, frames, self._detections(rig, frames, keys), 8)
            frames = Frames(found.pose, found.coefficients)
        if self.seen_by.camera_of is not None:
            rig, frames = self._before_one_rig(rig, frames)
        self._tick("The face's shape is fitted to the landmarks.")
        return rig, frames

    def _before_one_rig(self, rig: Rig, frames: Frames) -> tuple[Rig, Frames]:
        """Find where the cameras stand from the key frames' poses, or size the head to cameras."""
        _, frame_of = torch.unique(self.seen_by.frame_of[self.keys], return_inverse=True)
        if self.views is None:
            pose = joined(self.seen_by, self.main, frames.pose, frame_of, None)
        else:
            factor = size_of(
                self.seen_by, self.main, frames.pose, frame_of, self.keys, self.views, self.metric
            )
            if self.metric:
                rig = replace(rig, lattice=rig.lattice * factor)
                rig = replace(rig, basis=self.model.shapes(rig.lattice))
                sized = replace(frames.pose, t=frames.pose.t * factor)
                pose = joined(self.seen_by, self.main, sized, frame_of, self.views)
                pose = replace(pose, metric=True)
            else:
                self.views = replace(self.views, t=self.views.t / factor)
                pose = joined(self.seen_by, self.main, frames.pose, frame_of, self.views)
        frames = replace(frames, pose=pose)
        solved = self._solve(rig, frames, self._detections(rig, frames, self.keys), 8)
        return rig, Frames(solved.pose, solved.coefficients)

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
            rig.lattice, shell, self.seen_by.frame, self.seen_by.mask, config, self.workers
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
                focal_px=self._focal(rig),
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
        own = own * squareness(frames.pose)[:, None]
        a, b = total[:, DETECTED], own[:, DETECTED]
        blend = joined[:, DETECTED] * a[..., None] + detected[:, DETECTED] * b[..., None]
        joined[:, DETECTED] = blend / (a + b)[..., None]
        total[:, DETECTED] = a + b
        return Observations(joined, total)

    def _firm(self, pose: Pose) -> Tensor:
        """Information [n, 6, 6] of poses known to a tenth of a degree and a millimetre."""
        sigma = pose.t.new_tensor([0.002] * 3 + [0.001] * 3).double()
        return torch.diag(1 / sigma**2).expand(pose.free, 6, 6)

    def _focal(self, rig: Rig) -> float:
        """The main camera's focal length, pixels of its pictures."""
        return float(torch.as_tensor(rig.camera.focal).reshape(-1)[self.main])

    def every_frame(
        self, rig: Rig, keyed: Frames, anchors: Anchors | None
    ) -> tuple[Frames, Observations, tuple[Pose, Tensor] | None]:
        """Find all frames, with the rig fixed: by landmarks, then by texture."""
        pose = initial_pose(rig.lattice, self.detected, rig.camera, self.seen_by.camera_of)
        if isinstance(keyed.pose, HeadPose):
            placed = joined(self.seen_by, self.main, pose, self.seen_by.frame_of, keyed.pose.views)
            pose = replace(placed, metric=keyed.pose.metric)
        frames = Frames(pose, torch.zeros(len(self.detected), rig.basis.shape[0]))
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
        every = torch.arange(len(self.detected))
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
        zeros = frames.coefficients.new_zeros(len(self.detected), own)
        frames = replace(frames, coefficients=torch.cat([frames.coefficients, zeros], 1))
        prior = self._prior(count)
        shut = self._blinks(frames, frames.facing(rig))
        eyes = [ARKIT_INDEX["eyeBlinkLeft"], ARKIT_INDEX["eyeBlinkRight"]]
        mean = prior.mean.expand(len(self.detected), -1).clone()
        precision = prior.precision.expand(len(self.detected), -1).clone()
        mean[:, eyes] = shut
        precision[:, eyes] = 1 / 0.02**2
        # The lids' gap has been read: while it closes, nothing of it is left for eyeWide.
        wide = [ARKIT_INDEX["eyeWideLeft"], ARKIT_INDEX["eyeWideRight"]]
        precision[:, wide] += (shut > 0.15) / 0.02**2
        sparsity = prior.sparsity.clone()
        sparsity[eyes] = 0
        prior = replace(prior, mean=mean, precision=precision, sparsity=sparsity)
        found = self._solve(rig, frames, seen, 8, prior=prior, pose_prior=steady)
        pose = found.pose
        if isinstance(pose, HeadPose):
            pose = pose.of_heads(smooth_poses(pose.head, found.pose_information, self.fps))
        else:
            pose = smooth_poses(pose, found.pose_information, self.fps)
        hold = (pose, found.pose_information * 100)
        found = self._solve(
            rig, Frames(pose, found.coefficients), seen, 4, prior=prior, pose_prior=hold
        )
        self._tick("All frames are fitted with the finished face.")
        return Frames(pose, found.coefficients)

    def _blinks(self, frames: Frames, facing: Tensor) -> Tensor:
        """Blinks [P, 2] of the pictures with a face; the running median needs all frames of a camera.

        Of several cameras, those count that see the eye squarely; ``facing`` [P, 478] is the cosine
        between normals and lines of sight.
        """
        seen_by = self.seen_by
        found = self.detected.new_zeros(len(self.detected), 2)
        for camera in range(len(seen_by.footage)):
            own = torch.nonzero(seen_by.taken_by(camera))[:, 0]
            taken = self.index[seen_by.frame_of[own]]
            if len(own):
                every = fill(self.detected[own, :, :2], taken, self.total)
                found[own] = blinks(every, self.fps)[taken]
        if seen_by.camera_of is None:
            return found
        lids = [list(REGIONS[f"lid_{side}_lower"]) for side in ("left", "right")]
        square = torch.stack([facing[:, lid].mean(1) for lid in lids], 1).clamp_min(0.02) ** 2
        square = square * squareness(frames.pose)[:, None]
        return seen_by.mean(found, square)[seen_by.frame_of]

    def _residual(self, rig: Rig, frames: Frames) -> Tensor:
        """Root mean square distance [n] of the model from the points detected in a frame, pixels.

        The detector's slide over the skin with the head's turn is its own, learnt from the training
        frames, and taken out; points weigh as they face the camera, and cameras as they see the face.
        """
        away = self.detected[..., :2] - frames.points(rig)
        slide = Slide.learnt(away[self.train], frames.pose[self.train])
        squared = (away - slide.of(frames.pose)).square().sum(-1)
        weight = visibility(frames.facing(rig)) * squareness(frames.pose)[:, None]
        total = self.seen_by.mean((weight * squared).sum(1), None)
        return (total / self.seen_by.mean(weight.sum(1), None)).sqrt()

    def watch_torso(self) -> TorsoMotion | None:
        """Follow the torso through the main camera's pictures."""
        own = self.seen_by.taken_by(self.main)
        oval = self.detected[own][:, list(REGIONS["face_oval"]), :2]
        frames = self.index[self.seen_by.frame_of[own]]
        footage = self.seen_by.footage[self.main]
        unit = float(self.seen_by.unit[self.main])
        outlines = fill(oval * unit, frames, self.total).numpy()
        return watch_torso(
            outlines, self.reference, footage.frame, footage.mask, self.config.torso, self.workers,
            missing=footage.missing,
        )  # fmt: skip

    def track(self, rig: Rig, frames: Frames, motion: TorsoMotion | None) -> Track:
        """Assemble the track, the torso last."""
        seen_by = self.seen_by
        error = self._residual(rig, frames) * seen_by.unit[self.main]
        pose, first = frames.pose, torch.arange(len(self.index))
        views = None
        if isinstance(pose, HeadPose):
            pose, first, views = pose.head, pose.first(), pose.views
        pose = fill_poses(pose, self.index, self.total)
        expression = fill(frames.coefficients[first], self.index, self.total)
        T_cam_world, T_world_head = world_frame(pose)
        T_cam_world = T_cam_world[None]
        if views is not None:
            T_cam_world = rigid(views.R, views.t) @ T_cam_world
        named = self.model.expression_names
        names = [f"personal{k:02d}" for k in range(rig.basis.shape[0] - len(named))]
        track = Track(
            K=seen_by.matrices(rig.camera),
            T_cam_world=T_cam_world,
            lattice=rig.lattice,
            basis=rig.basis,
            eyeballs=eyeball_centres(rig.lattice),
            expression=expression,
            gaze=gaze_of(expression),
            T_world_head=T_world_head,
            T_world_torso=T_world_head,
            landmarks_px=self._main_points(rig, frames),
            residual_px=fill(error, self.index, self.total),
            valid=seen_by.valid,
            expression_names=(*named, *names),
            rig=self.model.name,
            fps=self.fps,
            main=self.main,
        )
        torso = place_torso(track, motion, self.reference)
        self._tick("The torso is registered.")
        return replace(track, T_world_torso=torso)

    def _main_points(self, rig: Rig, frames: Frames) -> Tensor:
        """The points [F, 478, 2] detected by the main camera, pixels; where it alone saw none, the model's."""
        footage = self.seen_by.footage[self.main]
        own = footage.landmarks.valid
        points = footage.landmarks.points[..., :2] * own[:, None, None]
        if isinstance(frames.pose, HeadPose):
            pose, first = frames.pose, frames.pose.first()
            main = torch.full((pose.free,), self.main)
            seen = Pose(pose.head.R, pose.head.t, main)
            shape = deform(rig.lattice, rig.basis, frames.coefficients[first])
            modelled = project(shape, seen, rig.camera) * self.seen_by.unit[self.main]
            unseen = ~own[self.index]
            points[self.index[unseen]] = modelled[unseen]
        return points
