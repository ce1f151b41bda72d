"""One head before several cameras: its poses are the head's, once a frame, seen from every camera.

Pictures of all cameras are one list of P. ``HeadPose`` knows which camera and which frame each belongs
to, so that what looks at pictures alone (projection, texture, visibility) need not know of cameras,
and what solves for poses solves for one a frame.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from avatar.rotations import rotvec_to_matrix
from capture.track.projection import Observations, Pinhole, Pose

AVERAGINGS = 30
"""Rounds of the robust average that makes one rig of cameras out of poses found each for itself; what
moves in the last is hundredths of a degree."""
FIRST_SCALE, NARROWING = 16.0, 0.8
"""What is believed of a picture narrows from round to round: else one that is far off draws a frame
that few cameras saw to itself."""
TURN_SIGMA, SHIFT_SIGMA = 0.04, 0.02
"""Radians, and shares of the distance, by which poses from landmarks err: the scale of that average."""


@dataclass(frozen=True)
class HeadPose(Pose):
    """Poses of P pictures that are one head's poses in F frames before C fixed cameras."""

    head: Pose = field(kw_only=True)
    """Head to the rig's world, of F frames; the world is the main camera's frame."""
    views: Pose = field(kw_only=True)
    """The rig's world to each of C cameras."""
    frame_of: Tensor = field(kw_only=True)
    """[P] long: which of the F frames a picture shows."""
    metric: bool = field(kw_only=True)
    """The cameras' distances are known in metres: the head is not scaled by its irises."""

    @staticmethod
    def composed(
        head: Pose, views: Pose, frame_of: Tensor, camera_of: Tensor, metric: bool
    ) -> HeadPose:
        """Put a head's poses before cameras."""
        R = views.R[camera_of]
        t = (R @ head.t[frame_of][..., None])[..., 0] + views.t[camera_of]
        return HeadPose(
            R @ head.R[frame_of],
            t,
            camera_of,
            head=head,
            views=views,
            frame_of=frame_of,
            metric=metric,
        )

    def of_heads(self, head: Pose, views: Pose | None = None) -> HeadPose:
        """Return the same pictures with other poses of the head, and of the cameras where given."""
        views = self.views if views is None else views
        assert self.camera_of is not None
        return HeadPose.composed(head, views, self.frame_of, self.camera_of, self.metric)

    @property
    def free(self) -> int:
        """One pose a frame can move by itself."""
        return len(self.head.t)

    def moved(self, step: Tensor) -> HeadPose:
        """Apply steps [F, 6] of the head, in the world's axes."""
        return self.of_heads(self.head.moved(step))

    def regauged(self, factor: Tensor | float, turn: Tensor, shift: Tensor) -> HeadPose:
        """Return the same poses of a head whose points x are now ``factor turn x + shift``."""
        views = replace(self.views, t=self.views.t * factor)
        return self.of_heads(self.head.regauged(factor, turn, shift), views)

    def first(self) -> Tensor:
        """Return [F] long: a picture of each frame."""
        order = torch.arange(len(self.frame_of) - 1, -1, -1)
        return torch.zeros(self.free, dtype=torch.long).scatter_(0, self.frame_of[order], order)

    def by_frame(self, seen: Observations) -> Observations:
        """Lay observations of pictures out as [F, C, L]; what a camera did not see weighs nothing."""
        shape = self.free, len(self.views.t)
        points = seen.points.new_zeros(*shape, *seen.points.shape[1:])
        weight = seen.weight.new_zeros(*shape, *seen.weight.shape[1:])
        points[self.frame_of, self.camera_of] = seen.points
        weight[self.frame_of, self.camera_of] = seen.weight
        return Observations(points, weight)


@dataclass(frozen=True)
class Cameras:
    """A rig of cameras: what stands in for one camera where a frame is seen by several."""

    pinholes: Pinhole
    """Of C cameras."""
    views: Pose
    """World to each of them."""

    def __len__(self) -> int:
        return len(self.views.t)

    def one(self, camera: int) -> Pinhole:
        """Return one of the cameras."""
        focal, centre = torch.as_tensor(self.pinholes.focal), torch.as_tensor(self.pinholes.centre)
        x, y = centre[camera].tolist()
        return Pinhole(float(focal[camera]), (x, y))

    def seen(self, camera: int, pose: Pose) -> Pose:
        """Return a head's poses [F] as one of the cameras sees them."""
        R, t = self.views.R[camera], self.views.t[camera]
        return Pose(R @ pose.R, pose.t @ R.T + t)

    def by_head(self, camera: int) -> Tensor:
        """Return [6, 6]: what a step of the head in the world is to a step before a camera."""
        R = self.views.R[camera]
        return torch.block_diag(R, R)


def _nearest_rotation(M: Tensor) -> Tensor:
    """Return the rotations nearest to matrices [..., 3, 3]."""
    U, _, Vt = torch.linalg.svd(M)
    sign = torch.ones(M.shape[:-1], dtype=M.dtype)
    sign[..., 2] = torch.linalg.det(U @ Vt)
    return (U * sign[..., None, :]) @ Vt


def _weighted_mean(R: Tensor, t: Tensor, weight: Tensor, group: Tensor, count: int) -> Pose:
    """Average poses [P] by groups."""
    M = R.new_zeros(count, 3, 3).index_add_(0, group, R * weight[:, None, None])
    total = weight.new_zeros(count).index_add_(0, group, weight)
    shift = t.new_zeros(count, 3).index_add_(0, group, t * weight[:, None])
    return Pose(_nearest_rotation(M), shift / total.clamp_min(1e-12)[:, None])


def one_rig(
    pose: Pose, weight: Tensor, frame_of: Tensor, main: int, cameras: int, views: Pose | None = None
) -> HeadPose:
    """Make one rig of cameras out of heads' poses that every camera found for itself.

    Averages in turn the head's poses over cameras and the cameras' over frames, each picture trusted
    less the further it is from what the others say (Cauchy).

    Args:
        pose: of P pictures, with ``camera_of``.
        weight: [P] how far each is trusted from the start.
        frame_of: [P] long, frames counted from 0 without a gap.
        main: the camera whose frame is the world.
        cameras: how many there are.
        views: the cameras where they are known; then only the head's poses are averaged.
    """
    camera_of = pose.camera_of
    assert camera_of is not None
    R, t, weight = pose.R.double(), pose.t.double(), weight.double()
    frames = int(frame_of.max()) + 1
    fixed = views is not None
    if views is None:
        views = _spanned(R, t, weight, frame_of, camera_of, main, cameras)
    views = Pose(views.R.double(), views.t.double())
    trust = weight
    head = None
    for round_ in range(AVERAGINGS):
        back = views.R[camera_of].transpose(1, 2)
        head = _weighted_mean(
            back @ R, (back @ (t - views.t[camera_of])[..., None])[..., 0], trust, frame_of, frames
        )
        if not fixed:
            turn = R @ head.R[frame_of].transpose(1, 2)
            views = _weighted_mean(
                turn, t - (turn @ head.t[frame_of][..., None])[..., 0], trust, camera_of, cameras
            )
            # The rotation is averaged first: shifts are those of the averaged rotation.
            shift = t - (views.R[camera_of] @ head.t[frame_of][..., None])[..., 0]
            total = trust.new_zeros(cameras).index_add_(0, camera_of, trust)
            mean = shift.new_zeros(cameras, 3).index_add_(0, camera_of, shift * trust[:, None])
            views = Pose(views.R, mean / total[:, None])
            # The main camera stays where the world is.
            T, s = views.R[main].T, -(views.R[main].T @ views.t[main])
            views = Pose(views.R @ T, (views.R @ s) + views.t)
            T, s = T.T, -T.T @ s
            head = Pose(T @ head.R, head.t @ T.T + s)
        placed = HeadPose.composed(head, views, frame_of, camera_of, metric=False)
        cosine = ((placed.R * R).sum((1, 2)) - 1) / 2
        apart = torch.arccos(cosine.clamp(-1, 1)) / TURN_SIGMA
        away = (placed.t - t).norm(dim=1) / (SHIFT_SIGMA * t[:, 2].clamp_min(1e-3))
        scale = max(1.0, FIRST_SCALE * NARROWING**round_)
        trust = weight / (1 + (apart**2 + away**2) / scale**2)
    assert head is not None
    dtype = pose.t.dtype
    head = Pose(head.R.to(dtype), head.t.to(dtype))
    views = Pose(views.R.to(dtype), views.t.to(dtype))
    return HeadPose.composed(head, views, frame_of, camera_of, metric=False)


def _spanned(
    R: Tensor, t: Tensor, weight: Tensor, frame_of: Tensor, camera_of: Tensor, main: int, count: int
) -> Pose:
    """Start cameras from the main one outwards, each by the one it shares the best frames with."""
    views_R, views_t = torch.eye(3, dtype=R.dtype).repeat(count, 1, 1), t.new_zeros(count, 3)
    place = torch.full((count, int(frame_of.max()) + 1), -1)
    place[camera_of, frame_of] = torch.arange(len(frame_of))
    known, waiting = [main], [c for c in range(count) if c != main]
    while waiting:
        shared = [
            (float((weight[place[a][both]] * weight[place[b][both]]).sum()), a, b)
            for a in known
            for b in waiting
            for both in [(place[a] >= 0) & (place[b] >= 0)]
        ]
        _, a, b = max(shared)
        both = (place[a] >= 0) & (place[b] >= 0)
        first, second = place[a][both], place[b][both]
        trust = weight[first] * weight[second]
        turn = R[second] @ R[first].transpose(1, 2)
        zero = torch.zeros(len(first), dtype=torch.long)
        step = _weighted_mean(turn, t[second], trust, zero, 1).R[0]
        shift = torch.median(t[second] - t[first] @ step.T, dim=0).values
        views_R[b] = step @ views_R[a]
        views_t[b] = step @ views_t[a] + shift
        known.append(b)
        waiting.remove(b)
    return Pose(views_R, views_t)


def steps_of_cameras(by_pose: Tensor, place: Tensor) -> Tensor:
    """Turn derivatives [P, L, 2, 6] by a picture's pose into those by a step of its camera.

    A camera's step (``moved_cameras``) turns all that it sees, and with it where the head is:
    ``place`` [P, 3], the pictures' ``Pose.t``.
    """
    by_turn, by_shift = by_pose[..., :3], by_pose[..., 3:]
    lever = place[:, None, None].expand_as(by_shift)
    return torch.cat([by_turn + torch.linalg.cross(lever, by_shift), by_shift], -1)


def moved_cameras(views: Pose, step: Tensor) -> Pose:
    """Apply steps [C, 6] to cameras: a turn of what they see, then a shift."""
    turn = rotvec_to_matrix(step[:, :3])
    return Pose(turn @ views.R, (turn @ views.t[..., None])[..., 0] + step[:, 3:])
