"""Levenberg-Marquardt for the tracker: many small frames in one batch, and the shared rig.

Two solvers over one projection. ``solve_frames`` finds pose and bounded coefficients of every frame
with the rig fixed; frames are independent, so the normal equations are [F, 6 + E, 6 + E] and solved
as a batch. ``bundle_adjust`` finds the poses together with the lattice and, where asked, the focal
length; poses are eliminated by the Schur complement (Triggs et al., Bundle Adjustment - A Modern
Synthesis, 2000, section 6), which converges where alternating crawls along depth and focal length.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from capture.track.projection import (
    Observations,
    Pinhole,
    Pose,
    project,
    projection_jacobian,
    robust,
)
from capture.track.threads import in_parallel
from capture.track.views import Cameras, HeadPose

CHUNK = 32
"""Frames whose Jacobians are held at once; bounds memory to tens of megabytes."""


@dataclass(frozen=True)
class CoefficientPrior:
    """What is believed of the coefficients before looking."""

    lower: Tensor
    """[E] bounds."""
    upper: Tensor
    """[E] bounds."""
    sparsity: Tensor
    """[E] cost per unit above zero (the L1 norm inside non-negative bounds); 0 for signed ones."""
    precision: Tensor
    """[E] or [F, E] inverse variance about ``mean``."""
    mean: Tensor
    """[E] or [F, E]."""

    def __getitem__(self, index: Tensor | slice) -> CoefficientPrior:
        """Select pictures."""
        return replace(
            self,
            precision=self.precision[index] if self.precision.ndim == 2 else self.precision,
            mean=self.mean[index] if self.mean.ndim == 2 else self.mean,
        )


@dataclass(frozen=True)
class FrameSolution:
    """Frames solved with the rig fixed."""

    pose: Pose
    coefficients: Tensor
    """[F, E]."""
    cost: Tensor
    """[F]."""
    pose_information: Tensor
    """[``Pose.free``, 6, 6] inverse covariance of the pose step, the coefficients marginalised out."""


def frame_equations(
    lattice: Tensor,
    basis: Tensor,
    pose: Pose,
    coefficients: Tensor,
    camera: Pinhole | Cameras,
    seen: Observations,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Return the reweighted normal matrix [F, 6 + E, 6 + E] and gradient [F, 6 + E] of the data cost."""
    count = basis.shape[0]
    if isinstance(camera, Cameras):
        H = basis.new_zeros(len(pose.t), 6 + count, 6 + count)
        g = basis.new_zeros(len(pose.t), 6 + count)
        for k in range(len(camera)):
            of_one, pull = frame_equations(
                lattice, basis, camera.seen(k, pose), coefficients, camera.one(k),
                seen[:, k], scale,
            )  # fmt: skip
            steps = torch.block_diag(camera.by_head(k), torch.eye(count)).to(basis.dtype)
            H += steps.T @ of_one @ steps
            g += pull @ steps
        return H, g
    points = lattice + (coefficients @ basis.flatten(1)).reshape(-1, *lattice.shape)
    pixels, by_pose, by_point = projection_jacobian(points, pose, camera)
    error = pixels - seen.points
    _, reweight = robust((error**2).sum(-1) * seen.weight, scale)
    root = (reweight * seen.weight).sqrt()[..., None, None]
    # One product per point over all frames: [L, F 2, 3] @ [L, 3, E].
    frames, size = by_point.shape[:2]
    by_point = (by_point * root).permute(1, 0, 2, 3).reshape(size, frames * 2, 3)
    by_coefficient = torch.bmm(by_point, basis.permute(1, 2, 0).contiguous())
    by_coefficient = by_coefficient.reshape(size, frames, 2, count).permute(1, 0, 2, 3)
    J = torch.cat([by_pose * root, by_coefficient], -1).reshape(frames, size * 2, 6 + count)
    r = (error * root[..., 0]).reshape(frames, size * 2, 1)
    Jt = J.transpose(1, 2)
    return Jt @ J, (Jt @ r)[..., 0]


def data_cost(
    lattice: Tensor,
    basis: Tensor,
    pose: Pose,
    coefficients: Tensor,
    camera: Pinhole | Cameras,
    seen: Observations,
    scale: float,
) -> Tensor:
    """Return the robust data cost [F]."""
    if isinstance(camera, Cameras):
        cost = basis.new_zeros(len(pose.t))
        for k in range(len(camera)):
            cost += data_cost(
                lattice, basis, camera.seen(k, pose), coefficients, camera.one(k), seen[:, k], scale
            )
        return cost
    points = lattice + (coefficients @ basis.flatten(1)).reshape(-1, *lattice.shape)
    error = project(points, pose, camera) - seen.points
    return robust((error**2).sum(-1) * seen.weight, scale)[0].sum(-1)


def _prior_cost(coefficients: Tensor, prior: CoefficientPrior) -> Tensor:
    about = 0.5 * prior.precision * (coefficients - prior.mean) ** 2
    return (about + prior.sparsity * coefficients).sum(-1)


def solve_frames(
    lattice: Tensor,
    basis: Tensor,
    camera: Pinhole | Cameras,
    seen: Observations,
    prior: CoefficientPrior,
    pose: Pose,
    coefficients: Tensor,
    *,
    iterations: int,
    scale: float,
    pose_prior: tuple[Pose, Tensor] | None = None,
    workers: int = 1,
) -> FrameSolution:
    """Find pose and bounded coefficients of each frame with the rig fixed.

    Projected Levenberg-Marquardt: coefficients at a bound that the gradient pushes outwards are
    frozen for the step, the others are clamped after it.

    Pictures that several cameras took of one frame (``HeadPose``) have one pose and one set of
    coefficients, told to all of them.

    Args:
        lattice: [L, 3] neutral, metres.
        basis: [E, L, 3].
        camera: fixed.
        seen: observations of F pictures.
        prior: of the coefficients.
        pose: start.
        coefficients: [F, E] start.
        iterations: steps per frame; frames that no longer improve stop moving.
        scale: Cauchy scale in sigmas.
        pose_prior: a pose per frame and its inverse covariance [``Pose.free``, 6, 6] in the step of
            ``Pose.moved``; light smoothing enters here.
        workers: threads; the result does not depend on them.

    Returns:
        The solution; deterministic for given inputs.
    """
    if isinstance(pose, HeadPose):
        assert isinstance(camera, Pinhole)
        first = pose.first()
        if pose_prior is not None:
            assert isinstance(pose_prior[0], HeadPose)
            pose_prior = pose_prior[0].head, pose_prior[1]
        found = solve_frames(
            lattice, basis, Cameras(camera, pose.views), pose.by_frame(seen), prior[first],
            pose.head, coefficients[first], iterations=iterations, scale=scale,
            pose_prior=pose_prior, workers=workers,
        )  # fmt: skip
        return replace(
            found,
            pose=pose.of_heads(found.pose),
            coefficients=found.coefficients[pose.frame_of],
            cost=found.cost[pose.frame_of],
        )

    def chunk(index: slice) -> FrameSolution:
        target = None if pose_prior is None else (pose_prior[0][index], pose_prior[1][index])
        return _solve_chunk(
            lattice, basis, camera, seen[index], prior[index], pose[index], coefficients[index],
            iterations, scale, target,
        )  # fmt: skip

    chunks = [slice(start, start + CHUNK) for start in range(0, seen.points.shape[0], CHUNK)]
    parts = list(in_parallel(chunk, chunks, workers))
    return FrameSolution(
        replace(
            pose, R=torch.cat([p.pose.R for p in parts]), t=torch.cat([p.pose.t for p in parts])
        ),
        torch.cat([p.coefficients for p in parts]),
        torch.cat([p.cost for p in parts]),
        torch.cat([p.pose_information for p in parts]),
    )


def _pose_offset(pose: Pose, target: Pose) -> Tensor:
    """Return the step [F, 6] that leads from ``target`` to ``pose``, to first order."""
    D = pose.R @ target.R.transpose(-1, -2)
    turn = 0.5 * torch.stack(
        [D[:, 2, 1] - D[:, 1, 2], D[:, 0, 2] - D[:, 2, 0], D[:, 1, 0] - D[:, 0, 1]], -1
    )
    return torch.cat([turn, pose.t - target.t], -1)


def _solve_spd(A: Tensor, b: Tensor) -> Tensor:
    """Solve positive definite systems [F, n, n] for [F, n, m]; zeros where rounding broke one.

    Cholesky, not LU: torch 2.13's batched LU on the CPU returned invalid pivots under two threads.
    A step of zeros is refused by the caller, which then damps that frame more.
    """
    L, broken = torch.linalg.cholesky_ex(A)
    ok = broken == 0
    L = torch.where(ok[:, None, None], L, torch.eye(A.shape[-1], dtype=A.dtype))
    return torch.cholesky_solve(b, L) * ok[:, None, None]


def _solve_chunk(
    lattice: Tensor,
    basis: Tensor,
    camera: Pinhole | Cameras,
    seen: Observations,
    prior: CoefficientPrior,
    pose: Pose,
    coefficients: Tensor,
    iterations: int,
    scale: float,
    pose_prior: tuple[Pose, Tensor] | None,
) -> FrameSolution:
    frames, count = coefficients.shape

    def total(index: Tensor, pose: Pose, coefficients: Tensor) -> Tensor:
        cost = data_cost(lattice, basis, pose, coefficients, camera, seen[index], scale)
        cost = cost + _prior_cost(coefficients, prior[index])
        if pose_prior is not None:
            offset = _pose_offset(pose, pose_prior[0][index]).to(pose_prior[1].dtype)
            cost = cost + 0.5 * torch.einsum("fi,fij,fj->f", offset, pose_prior[1][index], offset)
        return cost

    start, R, t = pose, pose.R.clone(), pose.t.clone()
    coefficients = coefficients.clamp(prior.lower, prior.upper)
    active = torch.arange(frames)
    cost = total(active, pose, coefficients)
    damping = torch.full((frames,), 1e-3, dtype=torch.float64)
    normal = lattice.new_zeros(frames, 6 + count, 6 + count).double()
    for _ in range(iterations):
        # Each frame stops by itself: what a frame gets must not depend on its neighbours in the batch.
        pose, c, believed = replace(start, R=R, t=t)[active], coefficients[active], prior[active]
        H, g = frame_equations(lattice, basis, pose, c, camera, seen[active], scale)
        H, g = H.double(), g.double()
        g[:, 6:] += believed.precision * (c - believed.mean) + believed.sparsity
        H.diagonal(dim1=1, dim2=2)[:, 6:] += believed.precision
        if pose_prior is not None:
            target, stiffness = pose_prior[0][active], pose_prior[1][active].double()
            H[:, :6, :6] += stiffness
            g[:, :6] += torch.einsum("fij,fj->fi", stiffness, _pose_offset(pose, target).double())
        normal[active] = H
        outwards = ((c <= prior.lower) & (g[:, 6:] > 0)) | ((c >= prior.upper) & (g[:, 6:] < 0))
        frozen = torch.cat([torch.zeros(len(active), 6, dtype=torch.bool), outwards], 1)
        A = H.masked_fill(frozen[:, :, None] | frozen[:, None, :], 0.0)
        diagonal = A.diagonal(dim1=1, dim2=2)
        diagonal += damping[active, None] * diagonal.clamp_min(1e-9) + frozen
        step = -_solve_spd(A, g.masked_fill(frozen, 0.0)[..., None])[..., 0].to(lattice.dtype)
        new_pose = pose.moved(step[:, :6])
        new_c = (c + step[:, 6:]).clamp(prior.lower, prior.upper)
        new_cost = total(active, new_pose, new_c)
        old_cost = cost[active]
        better = new_cost < old_cost
        taken = active[better]
        R[taken], t[taken] = new_pose.R[better], new_pose.t[better]
        coefficients[taken], cost[taken] = new_c[better], new_cost[better]
        damping[active] = torch.where(better, damping[active] * 0.2, damping[active] * 8)
        gain = (old_cost - new_cost) / old_cost.clamp_min(1e-12)
        active = active[~(better & (gain < 1e-4)) & (damping[active] < 1e6)]
        if len(active) == 0:
            break
    pose, H = replace(start, R=R, t=t), normal
    # Marginalise the coefficients that are free to move.
    free = ~((coefficients <= prior.lower) | (coefficients >= prior.upper))
    C = H[:, 6:, 6:].masked_fill(~(free[:, :, None] & free[:, None, :]), 0.0)
    C.diagonal(dim1=1, dim2=2).add_((~free).double() + 1e-6)
    cross = H[:, :6, 6:] * free[:, None]
    information = H[:, :6, :6] - cross @ _solve_spd(C, cross.transpose(1, 2))
    return FrameSolution(pose, coefficients, cost, information)


@dataclass(frozen=True)
class LatticePrior:
    """What is believed of the personal lattice."""

    mean: Tensor
    """[L, 3] metres."""
    precision: Tensor
    """[3, L, L] inverse covariance of x, of y and of z."""


def marginal(prior: LatticePrior, points: Tensor) -> LatticePrior:
    """What a prior says of some points [n] long alone, whatever the others do."""
    covariance = torch.linalg.inv(prior.precision.double())
    some = covariance[:, points[:, None], points]
    return LatticePrior(prior.mean[points], torch.linalg.inv(some))


def conditional(prior: LatticePrior, points: Tensor, given: Tensor, where: Tensor) -> LatticePrior:
    """What a prior says of some points [n] long once others, ``given`` [m] long, are at ``where`` [m, 3]."""
    precision = prior.precision.double()
    own = precision[:, points[:, None], points]
    cross = precision[:, points[:, None], given]
    away = (where - prior.mean[given]).double().T[..., None]
    shift = torch.cholesky_solve(cross @ away, torch.linalg.cholesky(own))[..., 0].T
    return LatticePrior(prior.mean[points] - shift.to(prior.mean.dtype), own)


@dataclass(frozen=True)
class BundleSolution:
    """Poses, lattice and focal length solved together."""

    pose: Pose
    lattice: Tensor
    """[L, 3]."""
    camera: Pinhole
    cost: float
    focal_sigma: float
    """Relative sigma of the focal length, all else marginalised out; 0 where it was held."""


def bundle_adjust(
    lattice: Tensor,
    offsets: Tensor,
    camera: Pinhole,
    seen: Observations,
    prior: LatticePrior,
    pose: Pose,
    *,
    iterations: int,
    scale: float,
    free_focal: bool = False,
    focal_prior: tuple[float, float] | None = None,
    free_pose: bool = True,
) -> BundleSolution:
    """Find poses, lattice and, where asked, the focal length together.

    Args:
        lattice: [L, 3] start.
        offsets: [F, L, 3] displacement of each frame's expression, fixed, head frame.
        camera: start.
        seen: observations of F frames.
        prior: of the lattice; it also fixes the gauge.
        pose: start.
        iterations: at most so many steps; stops at a relative gain below 3e-5.
        scale: Cauchy scale in sigmas.
        free_focal: solve for the focal length as well.
        focal_prior: (pixels, relative sigma), enters as a Gaussian on the logarithm.
        free_pose: solve for the poses too; otherwise for the lattice under them.

    Returns:
        The solution.
    """
    size = lattice.shape[0]
    frames = seen.points.shape[0]
    lattice, start = lattice.double(), lattice.dtype
    pose = replace(pose, R=pose.R.double(), t=pose.t.double())
    offsets, seen = offsets.double(), Observations(seen.points.double(), seen.weight.double())
    mean, precision = prior.mean.double(), prior.precision.double()
    unknowns = 3 * size + 1
    damping = 1e-5
    focal_sigma = 0.0

    def cost_of(pose: Pose, lattice: Tensor, camera: Pinhole) -> float:
        error = project(lattice + offsets, pose, camera) - seen.points
        cost = robust((error**2).sum(-1) * seen.weight, scale)[0].sum()
        away = lattice - mean
        cost = cost + 0.5 * torch.einsum("la,alm,ma->", away, precision, away)
        if focal_prior is not None:
            away_focal = torch.tensor(camera.focal / focal_prior[0]).log() / focal_prior[1]
            cost = cost + 0.5 * away_focal**2
        return float(cost)

    cost = cost_of(pose, lattice, camera)
    for _ in range(iterations):
        pixels, by_pose, by_point = projection_jacobian(lattice + offsets, pose, camera)
        error = pixels - seen.points
        _, reweight = robust((error**2).sum(-1) * seen.weight, scale)
        W = (reweight * seen.weight)[..., None, None]
        by_focal = (pixels - camera.of(pose, pixels)[1])[..., None]  # d / d log f
        A = (by_pose * W).transpose(2, 3)
        H_pose = (A @ by_pose).sum(1)
        g_pose = (A @ error[..., None]).sum(1)[..., 0]
        H_cross = torch.cat(
            [
                (A @ by_point).permute(0, 2, 1, 3).reshape(frames, 6, 3 * size),
                (A @ by_focal).sum(1),
            ],
            2,
        )
        B = (by_point * W).transpose(2, 3)
        H_point = (B @ by_point).sum(0)
        S = torch.zeros(unknowns, unknowns, dtype=torch.float64)
        g = torch.zeros(unknowns, dtype=torch.float64)
        rows = 3 * torch.arange(size)
        for a in range(3):
            S[a : 3 * size : 3, a : 3 * size : 3] += precision[a]
            for b in range(3):
                S[rows + a, rows + b] += H_point[:, a, b]
        pull = torch.einsum("alm,ma->la", precision, lattice - mean)
        g[:-1] = ((B @ error[..., None]).sum(0)[..., 0] + pull).reshape(-1)
        if free_focal:
            S[:-1, -1] = S[-1, :-1] = (B @ by_focal).sum(0).reshape(-1)
            S[-1, -1] = (W * by_focal * by_focal).sum()
            g[-1] = (W[..., 0] * by_focal[..., 0] * error).sum()
            if focal_prior is not None:
                S[-1, -1] += 1 / focal_prior[1] ** 2
                g[-1] += torch.tensor(camera.focal / focal_prior[0]).log() / focal_prior[1] ** 2
        else:
            H_cross[..., -1] = 0
            S[-1, -1] = 1.0
        while True:
            D = H_pose + damping * torch.diag_embed(H_pose.diagonal(dim1=1, dim2=2) + 1e-9)
            damped = S + damping * torch.diag(S.diagonal())
            right = -g
            L = Z = y = torch.zeros(0)
            if free_pose:
                L = torch.linalg.cholesky(D)
                Z = torch.linalg.solve_triangular(L, H_cross, upper=False)
                y = torch.linalg.solve_triangular(L, g_pose[..., None], upper=False)
                Zf = Z.reshape(frames * 6, unknowns)
                damped -= Zf.T @ Zf
                right += Zf.T @ y.reshape(-1)
            reduced = torch.linalg.cholesky(damped)
            step = torch.cholesky_solve(right[:, None], reduced)[:, 0]
            new_pose = pose
            if free_pose:
                back = torch.linalg.solve_triangular(
                    L.transpose(1, 2), -y - (Z @ step[:, None]), upper=True
                )[..., 0]
                new_pose = pose.moved(back)
            new_lattice = lattice + step[:-1].reshape(size, 3)
            new_camera = replace(
                camera, focal=camera.focal * float(step[-1].clamp(-0.3, 0.3).exp())
            )
            new_cost = cost_of(new_pose, new_lattice, new_camera)
            if free_focal:
                last = torch.zeros(unknowns, 1, dtype=torch.float64)
                last[-1] = 1
                focal_sigma = float(torch.cholesky_solve(last, reduced)[-1, 0]) ** 0.5
            if new_cost < cost or damping > 1e3:
                break
            damping *= 10
        if new_cost >= cost:
            break
        gain = (cost - new_cost) / cost
        pose, lattice, camera, cost = new_pose, new_lattice, new_camera, new_cost
        damping = max(damping * 0.2, 1e-8)
        if gain < 3e-5:
            break
    return BundleSolution(
        replace(pose, R=pose.R.to(start), t=pose.t.to(start)),
        lattice.to(start),
        camera,
        cost,
        focal_sigma,
    )
