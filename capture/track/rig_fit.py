"""The parts of the fit that concern the rig: starts, gauges, priors, personal shapes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from avatar.rig.lattice import (
    IRIS_DIAMETER_M,
    POINTS,
    REGIONS,
    SKIN_POINTS,
    deform,
    lattice_table,
    point_normals,
)
from avatar.rig.smooth_field import graph_laplacian
from capture.track.projection import Observations, Pinhole, Pose, projection_jacobian, robust
from capture.track.solver import LatticePrior
from capture.track.views import HeadPose


def procrustes(source: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Fit similarities: source [N, 3] onto targets [F, N, 3] (Umeyama 1991).

    Returns rotations [F, 3, 3], scales [F] and shifts [F, 3].
    """
    a = source - source.mean(0)
    b = target - target.mean(1, keepdim=True)
    U, S, Vt = torch.linalg.svd(b.transpose(1, 2) @ a)
    sign = torch.ones_like(S)
    sign[:, 2] = torch.linalg.det(U @ Vt)
    R = (U * sign[:, None]) @ Vt
    scale = (S * sign).sum(-1) / (a**2).sum()
    shift = target.mean(1) - scale[:, None] * (R @ source.mean(0))
    return R, scale, shift


def initial_pose(
    lattice: Tensor, detected: Tensor, camera: Pinhole, camera_of: Tensor | None = None
) -> Pose:
    """Start poses from detections [F, 478, 3] (pixels, z in the same unit), as if seen from afar.

    ``camera_of`` [F] long says which of several cameras saw them.
    """
    R, scale, shift = procrustes(lattice[:SKIN_POINTS], detected[:, :SKIN_POINTS])
    pose = Pose(R, shift, camera_of)
    focal, centre = camera.of(pose, detected)
    if isinstance(focal, Tensor):
        focal, centre = focal[:, 0, 0], centre[:, 0]
    aside = (shift[:, :2] - centre) / scale[:, None]
    return replace(pose, t=torch.cat([aside, (focal / scale)[:, None]], 1))


SLIDE_RIDGE = 5e-4
"""Ridge of the slide's regression per frame, against squares of direction cosines (0.02 is 8 degrees)."""
AWAY_M = 0.03
"""Sigma of a personal lattice's distance from the generic one; loose, it only fixes the gauge."""


def lattice_prior(
    generic: Tensor, lattice: Tensor, bend_m: float, asymmetry_m: float
) -> LatticePrior:
    """Believe that the person differs smoothly and evenly from the generic face of the same size.

    Args:
        generic: [478, 3], symmetric.
        lattice: [478, 3] the present estimate; gives the size.
        bend_m: sigma of the difference's graph Laplacian, metres; small keeps the face generic.
        asymmetry_m: sigma of the difference between mirror partners, metres.
    """
    _, scale, _ = procrustes(generic, lattice[None])
    L = graph_laplacian(generic.double(), lattice_table().triangles)
    for side in ("left", "right"):  # irises belong to no triangle: tie them to their lids
        ring = [*REGIONS[f"lid_{side}_upper"], *REGIONS[f"lid_{side}_lower"]]
        for point in REGIONS[f"iris_{side}"]:
            L[point, point] = 1
            L[point, ring] = -1 / len(ring)
    identity = torch.eye(POINTS, dtype=torch.float64)
    smooth = L.T @ L / bend_m**2 + identity / AWAY_M**2
    mirror = identity[lattice_table().partner]
    # Mirroring turns x: there the sum of a pair must vanish, in y and z its difference.
    even = [(identity + sign * mirror) / asymmetry_m**2 for sign in (1, -1, -1)]
    return LatticePrior(generic * scale, torch.stack([smooth + term for term in even]))


def normalise(lattice: Tensor, pose: Pose, generic: Tensor) -> tuple[Tensor, Pose]:
    """Fix the gauge: metric scale by the irises, axes and origin of the generic head.

    Before cameras whose distances are known in metres the scale is theirs.
    """
    wide = 0.5 * ((lattice[474] - lattice[476]).norm() + (lattice[469] - lattice[471]).norm())
    factor = IRIS_DIAMETER_M / wide
    if isinstance(pose, HeadPose) and pose.metric:
        factor = torch.ones_like(factor)
    lattice = lattice * factor
    skin = slice(0, SKIN_POINTS)
    R, scale, _ = procrustes(lattice[skin], generic[None, skin])
    turn = R[0]
    shift = generic[skin].mean(0) / scale[0] - turn @ lattice[skin].mean(0)
    return lattice @ turn.T + shift, pose.regauged(factor, turn, shift)


def facing(lattice: Tensor, basis: Tensor, coefficients: Tensor, pose: Pose) -> Tensor:
    """Return the cosine [F, 478] between each point's normal and its line of sight."""
    posed = deform(lattice, basis, coefficients)
    normals = point_normals(posed) @ pose.R.transpose(1, 2)
    sight = posed @ pose.R.transpose(1, 2) + pose.t[:, None]
    return -(normals * torch.nn.functional.normalize(sight, dim=-1)).sum(-1)


def frontality(R: Tensor) -> Tensor:
    """How squarely heads with rotations [F, 3, 3] to the camera look at it: 3 straight on."""
    return R.diagonal(dim1=1, dim2=2) @ R.new_tensor([1.0, -1.0, -1.0])


def visibility(cosine: Tensor) -> Tensor:
    """Weight of a detected point by how squarely it is seen: 1 in front, little past the silhouette."""
    return ((cosine + 0.1) / 0.6).clamp(0.05, 1.0)


@dataclass(frozen=True)
class Slide:
    """How detected points slide over the skin with the head's pose.

    A ridge regression per point of what the model leaves over on the face's direction (yaw, pitch,
    their squares). Irises slide as their eye's corners do: what else they leave over is gaze.
    """

    weights: Tensor
    """[5, 478 * 2] double."""

    @staticmethod
    def learnt(left_over: Tensor, pose: Pose) -> Slide:
        """Learn it from [n, 478, 2] detected minus modelled points, pixels, of frames with ``pose``."""
        A = _direction(pose)
        # Directions in which the head hardly turned predict nothing; the constant is free.
        ridge = SLIDE_RIDGE * len(A) * torch.diag(A.new_tensor([0.0, 1, 1, 1, 1]))
        return Slide(torch.linalg.solve(A.T @ A + ridge, A.T @ left_over.double().flatten(1)))

    def of(self, pose: Pose) -> Tensor:
        """Predict it for frames with ``pose``: [n, 478, 2] pixels."""
        slide = (_direction(pose) @ self.weights).reshape(len(pose.t), POINTS, 2).to(pose.t.dtype)
        for side in ("left", "right"):
            corners = list(REGIONS[f"eye_corners_{side}"])
            slide[:, list(REGIONS[f"iris_{side}"])] = slide[:, corners].mean(1, keepdim=True)
        return slide


def _direction(pose: Pose) -> Tensor:
    yaw, pitch = pose.R[:, 0, 2], pose.R[:, 1, 2]
    return torch.stack([torch.ones_like(yaw), yaw, pitch, yaw**2, pitch**2], 1).double()


def spread_frames(pose: Pose, candidates: Tensor, count: int) -> Tensor:
    """Choose frames that cover the head poses: farthest-point sampling of rotations, kept in order."""
    if len(candidates) <= count:
        return candidates
    R = pose.R[candidates].reshape(len(candidates), 9).double()
    chosen = [0]
    distance = ((R - R[0]) ** 2).sum(1)
    half = count // 2
    for _ in range(half - 1):
        chosen.append(int(distance.argmax()))
        distance = torch.minimum(distance, ((R - R[chosen[-1]]) ** 2).sum(1))
    # The other half evenly in time: expressions matter as well as poses.
    even = torch.linspace(0, len(candidates) - 1, count - half).round().long().tolist()
    return candidates[torch.tensor(sorted({*chosen, *even}))]


def personal_basis(
    lattice: Tensor,
    basis: Tensor,
    camera: Pinhole,
    seen: Observations,
    pose: Pose,
    coefficients: Tensor,
    ridge_m: float,
    scale: float,
) -> Tensor:
    """Bend the shapes [E, L, 3] towards what the clip shows, each point on its own (ridge regression).

    Points see only the picture plane of each frame; the ridge towards the prior shapes decides what
    the clip does not.

    Args:
        lattice: [L, 3].
        basis: [E, L, 3] the prior shapes.
        camera: fixed.
        seen: of F training frames.
        pose: of those frames.
        coefficients: [F, E].
        ridge_m: sigma of a shape's correction at a point, metres.
        scale: Cauchy scale in sigmas.

    Returns:
        The personal shapes.
    """
    count, size = basis.shape[:2]
    points = deform(lattice, basis, coefficients)
    pixels, _, by_point = projection_jacobian(points, pose, camera)
    error = seen.points - pixels
    _, reweight = robust((error**2).sum(-1) * seen.weight, scale)
    W = reweight * seen.weight
    # Normal equations of each point: sum_f W (c c^T) x (P^T P), unknowns ordered (shape, axis).
    A = torch.einsum("fl,flpi,flpj->flij", W, by_point, by_point)
    b = torch.einsum("fl,flpi,flp->fli", W, by_point, error)
    c = coefficients
    outer = (c[:, :, None] * c[:, None, :]).reshape(len(c), -1)
    N = (A.permute(1, 2, 3, 0).reshape(-1, len(c)) @ outer).reshape(size, 3, 3, count, count)
    N = N.permute(0, 3, 1, 4, 2).reshape(size, count * 3, count * 3).double()
    rhs = torch.einsum("fli,fe->lei", b, c).reshape(size, count * 3, 1).double()
    N.diagonal(dim1=1, dim2=2).add_(1 / ridge_m**2)
    step = torch.cholesky_solve(rhs, torch.linalg.cholesky(N)).reshape(size, count, 3)
    return basis + step.permute(1, 0, 2).to(basis.dtype)


def residual_shapes(
    lattice: Tensor,
    basis: Tensor,
    camera: Pinhole,
    seen: Observations,
    pose: Pose,
    coefficients: Tensor,
    count: int,
) -> tuple[Tensor, Tensor]:
    """Find the main directions of what the shapes leave over.

    Leftovers are lifted to the head frame in the picture plane (no motion along the line of sight is
    invented), weighted by how well points are seen, and decomposed by principal components.

    Returns:
        Shapes [count, L, 3] scaled so that a coefficient of 1 is one standard deviation, and the
        standard deviations in metres [count].
    """
    points = deform(lattice, basis, coefficients)
    pixels, _, by_point = projection_jacobian(points, pose, camera)
    error = seen.points - pixels
    squared = (error**2).sum(-1) * seen.weight
    _, reweight = robust(squared, 3.0)
    # Minimum-norm lift of a picture error: P^T (P P^T)^-1 e.
    PPt = by_point @ by_point.transpose(2, 3)
    lift = (by_point.transpose(2, 3) @ torch.linalg.solve(PPt, error[..., None]))[..., 0]
    typical = seen.weight[seen.weight > 0].median()
    trust = reweight * (seen.weight / typical).clamp(0, 1)
    field = (lift * trust[..., None]).flatten(1)
    _, S, Vt = torch.linalg.svd(field, full_matrices=False)
    sigma = S[:count] / len(field) ** 0.5
    shapes = Vt[:count] * sigma[:, None]
    return shapes.reshape(-1, *lattice.shape), sigma
