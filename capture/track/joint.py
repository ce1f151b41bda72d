"""Bundle adjustment of one head before several cameras: head, cameras, and a pose a frame together.

As ``solver.bundle_adjust``, which is of one camera: the head's poses are eliminated by the Schur
complement (Triggs et al., Bundle Adjustment - A Modern Synthesis, 2000, section 6); what is left are the
head's points and, of each camera, its place and the logarithm of its focal length. A head that turns
before cameras that see it from many sides leaves no depth to be guessed, so here the focal lengths
are found to a fraction of a percent.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from capture.track.projection import (
    Observations,
    Pinhole,
    project,
    projection_jacobian,
    robust,
)
from capture.track.solver import BundleSolution, LatticePrior
from capture.track.views import HeadPose, moved_cameras, steps_of_cameras

LARGEST_STEP = 0.3
"""Of the logarithm of a focal length, in one iteration."""
ONE_KIND = 0.06
"""Relative difference of focal lengths up to which cameras are taken to be of one kind: of eight equal
rendered ones one was found 3.9 % too long, and 2.3 % of its distance too far."""
TIED, LOOSE = 0.002, 0.1
"""Relative sigmas of the differences between cameras of a kind, and of different kinds."""
ENOUGH = 3e-5
"""Relative gain of the cost below which it is found."""


@dataclass(frozen=True)
class FocalPrior:
    """What is believed of C focal lengths: together, and of their differences."""

    focal: Tensor
    """[C] pixels."""
    sigma: float
    """Relative, of what is common to all."""
    discount: float = 1.0
    """What sigmas are multiplied by where observations err together and are counted as if they did not."""

    def precision(self, focals: Tensor) -> Tensor:
        """Inverse covariance [C, C] of the logarithms of focal lengths that are now ``focals`` [C].

        Cameras of a kind are found to differ by percents, as flow errs in one way all over a camera's
        pictures, and do not: once they were free to differ, those near the others are held to them.
        """
        logs = torch.log(focals.double() / self.focal.double())
        away = (logs - logs.median()).abs()
        kind = (away < ONE_KIND) & (away.max() > 1e-6)
        tie = torch.where(kind, torch.full_like(away, TIED), torch.full_like(away, LOOSE))
        covariance = torch.full((len(logs), len(logs)), self.sigma**2, dtype=torch.float64)
        covariance.diagonal().add_(tie**2)
        return torch.linalg.inv(covariance * self.discount**2)


@dataclass(frozen=True)
class _Normal:
    """Normal equations, the head's poses apart."""

    shared: Tensor
    """[U, U] of points, cameras and focal lengths."""
    gradient: Tensor
    """[U]."""
    heads: Tensor
    """[F, 6, 6]."""
    head_gradient: Tensor
    """[F, 6]."""
    cross: Tensor
    """[F, 6, U]."""


def bundle_adjust_views(
    lattice: Tensor,
    camera: Pinhole,
    seen: Observations,
    prior: LatticePrior,
    pose: HeadPose,
    *,
    iterations: int,
    scale: float,
    focal_prior: FocalPrior | None,
    free_cameras: bool,
    free_pose: bool = True,
) -> BundleSolution:
    """Find a rigid head's points, its poses and, where asked, the cameras.

    Args:
        lattice: [L, 3] start.
        camera: C pinholes, start.
        seen: observations of P pictures.
        prior: of the lattice.
        pose: start; the main camera, whose view is the identity, holds the world.
        iterations: at most so many steps.
        scale: Cauchy scale in sigmas.
        focal_prior: solve for the focal lengths too, with this belief; None holds them.
        free_cameras: solve for where the cameras stand.
        free_pose: solve for poses and cameras at all; otherwise for the lattice under them.

    Returns:
        The solution; ``camera`` has C focal lengths, ``focal_sigma`` is the main one's.
    """
    start = lattice.dtype
    lattice = lattice.double()
    seen = Observations(seen.points.double(), seen.weight.double())
    mean, precision = prior.mean.double(), prior.precision.double()
    pose = pose.of_heads(
        replace(pose.head, R=pose.head.R.double(), t=pose.head.t.double()),
        replace(pose.views, R=pose.views.R.double(), t=pose.views.t.double()),
    )
    cameras = len(pose.views.t)
    focal = torch.as_tensor(camera.focal, dtype=torch.float64).expand(cameras).clone()
    camera = Pinhole(focal, torch.as_tensor(camera.centre, dtype=torch.float64))
    belief = None if focal_prior is None else focal_prior.precision(focal)
    size = len(lattice)
    # The main camera is where the world is.
    off = (pose.views.R - torch.eye(3)).abs().sum((1, 2)) + pose.views.t.abs().sum(1)
    main = int(off.argmin())
    held = torch.ones(cameras, 7, dtype=torch.bool)
    if free_pose and free_cameras:
        held[:, :6] = False
        held[main] = True
    if free_pose and focal_prior is not None:
        held[:, 6] = False
    frozen = torch.cat([torch.zeros(3 * size, dtype=torch.bool), held.reshape(-1)])

    def away(camera: Pinhole) -> Tensor:
        assert focal_prior is not None
        return torch.log(torch.as_tensor(camera.focal) / focal_prior.focal)

    def cost_of(pose: HeadPose, lattice: Tensor, camera: Pinhole) -> float:
        error = project(lattice, pose, camera) - seen.points
        cost = robust((error**2).sum(-1) * seen.weight, scale)[0].sum()
        bent = lattice - mean
        cost = cost + 0.5 * torch.einsum("la,alm,ma->", bent, precision, bent)
        if belief is not None:
            cost = cost + 0.5 * away(camera) @ belief @ away(camera)
        return float(cost)

    focals = 3 * size + 6 + 7 * torch.arange(cameras)
    damping, focal_sigma = 1e-5, 0.0
    cost = cost_of(pose, lattice, camera)
    for _ in range(iterations):
        normal = _normal(lattice, camera, seen, pose, scale)
        S, g = normal.shared, normal.gradient
        for a in range(3):
            S[a : 3 * size : 3, a : 3 * size : 3] += precision[a]
        g[: 3 * size] += torch.einsum("alm,ma->la", precision, lattice - mean).reshape(-1)
        if belief is not None:
            S[focals[:, None], focals] += belief
            g[focals] += belief @ away(camera)
        S[frozen] = 0
        S[:, frozen] = 0
        S[frozen, frozen] = 1
        g[frozen] = 0
        cross = normal.cross.masked_fill(frozen, 0)
        while True:
            damped = S + damping * torch.diag(S.diagonal())
            right = -g
            L = Z = y = torch.zeros(0)
            if free_pose:
                diagonal = normal.heads.diagonal(dim1=1, dim2=2)
                L = torch.linalg.cholesky(
                    normal.heads + damping * torch.diag_embed(diagonal + 1e-9)
                )
                Z = torch.linalg.solve_triangular(L, cross, upper=False)
                y = torch.linalg.solve_triangular(L, normal.head_gradient[..., None], upper=False)
                flat = Z.reshape(-1, len(g))
                damped -= flat.T @ flat
                right += flat.T @ y.reshape(-1)
            reduced = torch.linalg.cholesky(damped)
            step = torch.cholesky_solve(right[:, None], reduced)[:, 0]
            new_pose = pose
            new_camera = camera
            if free_pose:
                back = torch.linalg.solve_triangular(
                    L.transpose(1, 2), -y - (Z @ step[:, None]), upper=True
                )[..., 0]
                by_camera = step[3 * size :].reshape(cameras, 7)
                views = moved_cameras(pose.views, by_camera[:, :6])
                new_pose = pose.of_heads(pose.head.moved(back), views)
                grown = by_camera[:, 6].clamp(-LARGEST_STEP, LARGEST_STEP).exp()
                new_camera = replace(camera, focal=torch.as_tensor(camera.focal) * grown)
            new_lattice = lattice + step[: 3 * size].reshape(size, 3)
            new_cost = cost_of(new_pose, new_lattice, new_camera)
            if belief is not None and free_pose:
                unit = torch.zeros(len(g), 1, dtype=torch.float64)
                unit[focals[main]] = 1
                focal_sigma = float(torch.cholesky_solve(unit, reduced)[focals[main], 0]) ** 0.5
            if new_cost < cost or damping > 1e3:
                break
            damping *= 10
        if new_cost >= cost:
            break
        gain = (cost - new_cost) / cost
        pose, lattice, camera, cost = new_pose, new_lattice, new_camera, new_cost
        damping = max(damping * 0.2, 1e-8)
        if gain < ENOUGH:
            break
    pose = pose.of_heads(
        replace(pose.head, R=pose.head.R.to(start), t=pose.head.t.to(start)),
        replace(pose.views, R=pose.views.R.to(start), t=pose.views.t.to(start)),
    )
    return BundleSolution(pose, lattice.to(start), camera, cost, focal_sigma)


def _normal(
    lattice: Tensor, camera: Pinhole, seen: Observations, pose: HeadPose, scale: float
) -> _Normal:
    """Build the data's reweighted normal equations."""
    size, cameras, frames = len(lattice), len(pose.views.t), pose.free
    camera_of, frame_of = pose.camera_of, pose.frame_of
    assert camera_of is not None
    pictures = len(frame_of)
    pixels, by_pose, by_point = projection_jacobian(lattice.expand(pictures, -1, -1), pose, camera)
    error = pixels - seen.points
    _, reweight = robust((error**2).sum(-1) * seen.weight, scale)
    W = (reweight * seen.weight)[..., None, None]
    centre = torch.as_tensor(camera.centre)[camera_of][:, None]
    by_focal = (pixels - centre)[..., None]  # by the logarithm
    by_camera = torch.cat([steps_of_cameras(by_pose, pose.t), by_focal], -1)
    R = pose.views.R[camera_of][:, None]
    by_head = torch.cat([by_pose[..., :3] @ R, by_pose[..., 3:] @ R], -1)

    unknowns = 3 * size + 7 * cameras
    A = (by_head * W).transpose(2, 3)
    heads = torch.zeros(frames, 6, 6, dtype=torch.float64)
    heads.index_add_(0, frame_of, (A @ by_head).sum(1))
    head_gradient = torch.zeros(frames, 6, dtype=torch.float64)
    head_gradient.index_add_(0, frame_of, (A @ error[..., None]).sum(1)[..., 0])
    cross = torch.zeros(frames, 6, unknowns, dtype=torch.float64)
    of_points = (A @ by_point).permute(0, 2, 1, 3).reshape(pictures, 6, 3 * size)
    cross[..., : 3 * size].index_add_(0, frame_of, of_points)
    of_camera = torch.zeros(frames, cameras, 6, 7, dtype=torch.float64)
    of_camera[frame_of, camera_of] = (A @ by_camera).sum(1)
    cross[..., 3 * size :] = of_camera.permute(0, 2, 1, 3).reshape(frames, 6, 7 * cameras)

    B = (by_point * W).transpose(2, 3)
    of_point = (B @ by_point).sum(0)
    both = torch.zeros(cameras, size, 3, 7, dtype=torch.float64)
    both.index_add_(0, camera_of, B @ by_camera)
    C = (by_camera * W).transpose(2, 3)
    own = torch.zeros(cameras, 7, 7, dtype=torch.float64)
    own.index_add_(0, camera_of, (C @ by_camera).sum(1))
    S = torch.zeros(unknowns, unknowns, dtype=torch.float64)
    rows = 3 * torch.arange(size)
    for a in range(3):
        for b in range(3):
            S[rows + a, rows + b] = of_point[:, a, b]
    side = both.permute(1, 2, 0, 3).reshape(3 * size, 7 * cameras)
    S[: 3 * size, 3 * size :] = side
    S[3 * size :, : 3 * size] = side.T
    S[3 * size :, 3 * size :] = torch.block_diag(*own)
    gradient = torch.zeros(unknowns, dtype=torch.float64)
    gradient[: 3 * size] = (B @ error[..., None]).sum(0)[..., 0].reshape(-1)
    pull = torch.zeros(cameras, 7, dtype=torch.float64)
    pull.index_add_(0, camera_of, (C @ error[..., None]).sum(1)[..., 0])
    gradient[3 * size :] = pull.reshape(-1)
    return _Normal(S, gradient, heads, head_gradient, cross)
