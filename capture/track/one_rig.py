"""Several cameras beside each other: which pictures place them, and what their single poses say together."""

from __future__ import annotations

import torch
from torch import Tensor

from avatar.checks import InputError
from capture.track.projection import Pose
from capture.track.rig_fit import frontality, spread_frames
from capture.track.seen_by import FEWEST_SHARED, SeenBy, apart
from capture.track.views import HeadPose, one_rig

FEWEST_KEYS, KEYS_FOR_CAMERAS = 16, 5.0
"""Several cameras take so many times the key pictures of one, of no fewer than so many frames. On eight
rendered cameras 2.5 times leave relative rotations off by 0.27 degrees in the mean and 0.63 at worst, 5
times by 0.14 and 0.30."""
ASIDE = 16
"""Power of a face's squareness, relative to the camera that sees it best, with which the detector is
believed: on eight rendered cameras expressions correlate by 0.80 with all alike, 0.81 with 6, 0.82 with
16, gaze by 0.69, 0.76 and 0.77."""


def key_pictures(seen_by: SeenBy, main: int, start: Pose, training: Tensor, count: int) -> Tensor:
    """Choose the training pictures [n] long on which the rig is solved: of several cameras, whole frames.

    Args:
        seen_by: which pictures show the face.
        main: the camera that sees it most squarely.
        start: of all pictures, about.
        training: [m] long, those that may be chosen.
        count: how many of one camera.
    """
    if seen_by.camera_of is None:
        return spread_frames(start, training, count)
    count = max(FEWEST_KEYS, round(KEYS_FOR_CAMERAS * count / len(seen_by.footage)))
    own = training[seen_by.taken_by(main)[training]]
    chosen = torch.zeros(len(seen_by.index), dtype=torch.bool)
    chosen[seen_by.frame_of[spread_frames(start, own, count)]] = True
    # A camera that seldom sees the face with another is placed by those frames: some must be there.
    for _, a, b in seen_by.links(training, main):
        both = seen_by.frames_of(training, a) & seen_by.frames_of(training, b)
        lacking = FEWEST_SHARED - int((both & chosen).sum())
        more = torch.nonzero(both & ~chosen)[:, 0]
        if lacking > 0 and len(more):
            chosen[more[torch.linspace(0, len(more) - 1, lacking).round().long()]] = True
    return torch.nonzero(chosen[seen_by.frame_of])[:, 0]


def _trusted(pose: Pose) -> Tensor:
    """How far poses [P] that cameras found by themselves are trusted, squarely seen heads the most."""
    return (frontality(pose.R) / 3).clamp(0.05, 1) ** 2


def joined(
    seen_by: SeenBy, main: int, pose: Pose, frame_of: Tensor, views: Pose | None
) -> HeadPose:
    """Join poses that cameras found by themselves (``views.one_rig``)."""
    return one_rig(pose, _trusted(pose), frame_of, main, len(seen_by.footage), views)


def size_of(
    seen_by: SeenBy,
    main: int,
    pose: Pose,
    frame_of: Tensor,
    keys: Tensor,
    views: Pose,
    metric: bool,
) -> float:
    """How many units of known cameras are one of the heads' found before each of them by itself.

    It is told by how far apart cameras are found that see the face together; those that never do
    have no say. Where only one sees it, the head keeps the size that its irises gave it.

    Args:
        seen_by: which pictures show the face.
        main: the camera that sees it most squarely.
        pose: of the key pictures, each found by itself.
        frame_of: [n] long, the key pictures' frames, counted from 0.
        keys: [n] long, the key pictures.
        views: the known cameras, seen from the main one.
        metric: whether their unit is the metre.

    Raises:
        InputError: the unit is not known, and no two cameras see the face together.
    """
    together = sorted({main, *(b for _, _, b in seen_by.links(keys, main))})
    if len(together) == 1:
        if metric:
            return 1.0
        raise InputError(
            f"Only camera {main} sees the face, so how large the calibration's unit is cannot be found. "
            f"State it with --calibration-unit, or turn towards another camera as well."
        )
    camera_of = pose.camera_of
    assert camera_of is not None
    new = torch.full((len(seen_by.footage),), -1)
    new[together] = torch.arange(len(together))
    kept = new[camera_of] >= 0
    own = Pose(pose.R[kept], pose.t[kept], new[camera_of[kept]])
    _, frames = torch.unique(frame_of[kept], return_inverse=True)
    found = one_rig(own, _trusted(own), frames, int(new[main]), len(together))
    return apart(views[torch.tensor(together)]) / apart(found.views)


def squareness(pose: Pose) -> Tensor:
    """How far the detector is believed [P] beside the other cameras of a frame; 1 of one camera.

    It is best on faces that look at it: of shut lids and pursed lips seen from aside it says little.
    """
    if not isinstance(pose, HeadPose):
        return pose.t.new_ones(len(pose.t))
    square = frontality(pose.R).clamp_min(0.1)
    best = square.new_zeros(pose.free).scatter_reduce_(0, pose.frame_of, square, "amax")
    return (square / best[pose.frame_of]) ** ASIDE
