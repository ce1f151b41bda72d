"""The head as a rigid body: shape, focal length and poses from the points that move least.

Expression is left out on purpose: fitted coefficients explain away errors of pose, and the bundle
adjustment would find them confirmed. Instead every point has its own sigma about the rigid head,
learnt from the clip: what expressions move says little, the shell around the face says much.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from avatar.rig.face_model import FaceModel
from avatar.rig.lattice import POINTS, SKIN_POINTS
from capture.track.config import TrackConfig
from capture.track.head import Rig
from capture.track.joint import FocalPrior, bundle_adjust_views
from capture.track.projection import Observations, Pose, project
from capture.track.rig_fit import lattice_prior, normalise
from capture.track.shell import Shell, head_prior
from capture.track.solver import (
    BundleSolution,
    CoefficientPrior,
    LatticePrior,
    bundle_adjust,
    conditional,
    marginal,
    solve_frames,
)
from capture.track.states import INDEPENDENT
from capture.track.views import HeadPose

ROBUST = 2.0
"""Cauchy scale of all residuals, in sigmas."""
SKIN_SHARE = 0.2
"""Weight of the face's points against the shell's when a pose is asked for: expressions move them
together, so that many of them know hardly more than a few (rendered heads: 0.29 to 0.38 degrees with
it or without, but jitter and the worst frames fall by a quarter)."""
REWEIGHTINGS = 3
"""Solutions of a pose: the first, and more with what the one before says of grimaces."""
IRIS = list(range(SKIN_POINTS, POINTS))


@dataclass(frozen=True)
class RigidFit:
    """What stays the same through all rigid fits of a clip."""

    config: TrackConfig
    model: FaceModel
    """The family of faces to fit."""
    sigma: float
    """Of a detected point, pixels."""
    start_focals: Tensor
    """[C] centres of the focal lengths' priors, pixels."""
    workers: int
    free_focal: bool = True
    """Whether focal lengths are to be found."""
    free_cameras: bool = True
    """Whether, of several cameras, it is to be found where they stand."""

    def weight(self, trust: Tensor, spread: Tensor | None) -> Tensor:
        """Weights [n, 478 + S], 1 / px^2, of anchored points.

        Args:
            trust: [n, 478 + S] confidence of the anchoring.
            spread: [478 + S] sigma of each point about the rigid head, pixels; None: not yet known.
        """
        if spread is None:
            weight = trust / self.sigma**2
        else:
            weight = trust / spread**2
            weight = torch.where(self._steady(spread), weight, 0.01 * weight)
        weight[:, IRIS] = 0.05 * trust[:, IRIS] / self.sigma**2
        return weight

    def _steady(self, spread: Tensor) -> Tensor:
        """Which points decide pose, shape and focal length: bool [478 + S]."""
        ranked = spread.clone()
        ranked[IRIS] = torch.inf
        count = self.config.rigid_points + (len(spread) - POINTS) // 2
        steady = torch.zeros(len(spread), dtype=torch.bool)
        steady[ranked.argsort()[:count]] = True
        return steady

    def _spread(self, error: Tensor, trust: Tensor) -> Tensor:
        """Return every point's sigma [L] by the lengths of its errors [n, L], pixels."""
        error = torch.where(trust > 0.2, error, torch.nan)
        # The median of a 2-D error's length is 1.18 sigmas. Points never seen well are not steady.
        sigma = torch.nanmedian(error, 0).values / 1.18
        return torch.where(sigma.isnan(), 5 * self.sigma, sigma).clamp_min(0.15 * self.sigma)

    def adjust(
        self,
        rig: Rig,
        shell: Shell,
        pose: Pose,
        points: Tensor,
        trust: Tensor,
        spread: Tensor | None,
        *,
        free_focal: bool,
        trust_shell: bool,
    ) -> tuple[Rig, Pose, Tensor, float]:
        """Fit head, focal length and the key frames' poses to anchored points.

        Args:
            rig: start.
            shell: the shell's topology.
            pose: of n key frames, start.
            points: [n, 478 + S, 2] pixels.
            trust: [n, 478 + S].
            spread: as in ``weight``.
            free_focal: solve for the focal length too.
            trust_shell: let shell points count for no less than the face's. The shell starts in the
                wrong place: judged by its misfit it would never get the say to be put right.

        Returns:
            The rig, poses, spread [478 + S], and the focal length's relative sigma.
        """
        weight = self.weight(trust, spread)
        prior = head_prior(
            lattice_prior(
                self.model.likely(rig.lattice),
                rig.lattice,
                self.config.bend_m,
                self.config.asymmetry_m,
            ),
            shell,
        )  # fmt: skip
        head, camera = rig.head, rig.camera
        free_focal = free_focal and self.free_focal and spread is not None
        focal_sigma = self.config.focal_spread

        def solve(
            which: Tensor, believed: LatticePrior, iterations: int, free_pose: bool = True
        ) -> BundleSolution:
            sigma, discount = self.config.focal_spread, INDEPENDENT**0.5
            if isinstance(pose, HeadPose):
                belief = FocalPrior(self.start_focals, sigma, discount)
                return bundle_adjust_views(
                    head[which],
                    camera,
                    Observations(points[:, which], weight[:, which]),
                    believed,
                    pose,
                    iterations=iterations,
                    scale=ROBUST,
                    focal_prior=belief if free_focal else None,
                    free_cameras=self.free_cameras,
                    free_pose=free_pose,
                )
            return bundle_adjust(
                head[which],
                head.new_zeros(len(pose.t), len(which), 3),
                camera,
                Observations(points[:, which], weight[:, which]),
                believed,
                pose,
                iterations=iterations,
                scale=ROBUST,
                free_focal=free_focal and free_pose,
                focal_prior=(float(self.start_focals[0]), sigma * discount),
                free_pose=free_pose,
            )

        def learnt(which: Tensor) -> Tensor:
            error = (project(head[which], pose, camera) - points[:, which]).norm(dim=-1)
            spread = self._spread(error, trust[:, which])
            around = which >= POINTS
            if trust_shell and around.any():
                face = float(spread[which < SKIN_POINTS].median())
                spread = torch.where(around, spread.clamp_max(face), spread)
            return spread

        # Poses and focal length hang on half of the points, which is an eighth of the work, so it may
        # go on until it converges; the other points then find their places.
        first = torch.arange(len(head)) % 2 == 0
        chosen = first if spread is None else self._steady(spread)
        deciding, others = torch.nonzero(chosen)[:, 0], torch.nonzero(~chosen)[:, 0]
        believed = marginal(prior, deciding)
        head = head.clone()
        for _ in range(2):
            solved = solve(deciding, believed, 10)
            camera, pose, head[deciding] = solved.camera, solved.pose, solved.lattice
            if spread is not None:
                weight[:, deciding] = trust[:, deciding] / learnt(deciding) ** 2
            if free_focal:
                focal_sigma = solved.focal_sigma / INDEPENDENT**0.5
        believed = conditional(prior, others, deciding, head[deciding])
        head[others] = solve(others, believed, 3, free_pose=False).lattice
        spread = learnt(torch.arange(len(head)))
        head, pose = normalise(head, pose, self.model.neutral)
        rig = Rig(camera, head[:POINTS], rig.basis, head[POINTS:])
        return rig, pose, spread, focal_sigma

    def poses(self, rig: Rig, pose: Pose, seen: Observations) -> tuple[Pose, Tensor]:
        """Find poses with the rig fixed, and their information [``Pose.free``, 6, 6].

        Args:
            rig: fixed.
            pose: start, of n frames.
            seen: of the lattice's points, or of lattice and shell.
        """
        size = seen.points.shape[1]
        head, none = rig.head[:size], CoefficientPrior(*[torch.zeros(0)] * 5)
        own = seen.weight.clone()
        if size > POINTS:
            own[:, :POINTS] *= SKIN_SHARE
        weight = own
        for last in range(REWEIGHTINGS):
            found = solve_frames(
                head, head.new_zeros(0, size, 3), rig.camera, Observations(seen.points, weight),
                none, pose, pose.t.new_zeros(len(pose.t), 0), iterations=8, scale=ROBUST,
                workers=self.workers,
            )  # fmt: skip
            pose = found.pose
            if last == REWEIGHTINGS - 1 or size == POINTS:
                break
            # A grimace moves the whole face together, which no point's own robustness sees.
            error = (project(head, pose, rig.camera) - seen.points).square().sum(-1) * own
            skin = slice(0, SKIN_POINTS)
            grimace = error[:, skin].sum(1) / own[:, skin].sum(1).clamp_min(1e-9)
            weight = own.clone()
            weight[:, :POINTS] /= (grimace / grimace.median()).clamp_min(1)[:, None]
        return found.pose, found.pose_information
