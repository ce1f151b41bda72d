"""Which pictures show the face: of one camera or several, as one list with frames and cameras told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from avatar.checks import InputError
from capture.track.config import TrackConfig
from capture.track.footage import Calibration, Footage
from capture.track.projection import Pinhole, Pose

SQUARE = 0.01
"""Relative difference of the two focal lengths of a calibration that is rounding; more is pixels that
are not square."""
FEWEST_SHARED = 10
"""Frames in which a camera must see the face together with others, to be told where it stands."""


@dataclass(frozen=True)
class SeenBy:
    """The P pictures that show a face, of n frames.

    Points of different cameras are told in one unit, the first camera's pixels: ``unit`` of a camera's
    are one of those, so that a face that fills a picture of twice the pixels errs by as much.
    """

    footage: tuple[Footage, ...]
    """Of C cameras."""
    index: Tensor
    """[n] long: frames of which at least one picture shows a face."""
    frame_of: Tensor
    """[P] long, indices into ``index``."""
    camera_of: Tensor | None
    """[P] long; None where there is one camera."""
    unit: Tensor
    """[C] pixels of a camera's pictures for one of the points'."""
    valid: Tensor
    """[F] bool: the frames of ``index``."""

    @staticmethod
    def of(footage: Sequence[Footage]) -> SeenBy:
        """List the pictures by frame, then by camera."""
        seen = torch.stack([one.landmarks.valid for one in footage])
        valid = seen.any(0)
        index = torch.nonzero(valid)[:, 0]
        longest = torch.tensor([float(max(one.width, one.height)) for one in footage])
        frame_of, camera_of = torch.nonzero(seen.T[index]).unbind(1)
        several = len(footage) > 1
        return SeenBy(
            tuple(footage),
            index,
            frame_of,
            camera_of if several else None,
            longest / longest[0],
            valid,
        )

    def taken_by(self, camera: int) -> Tensor:
        """Return [P] bool: the pictures of a camera."""
        if self.camera_of is None:
            return torch.ones(len(self.frame_of), dtype=torch.bool)
        return self.camera_of == camera

    def frames_of(self, pictures: Tensor, camera: int) -> Tensor:
        """Return [n] bool: the frames of which one of the pictures [m] long is a camera's."""
        found = torch.zeros(len(self.index), dtype=torch.bool)
        found[self.frame_of[pictures[self.taken_by(camera)[pictures]]]] = True
        return found

    def _place(self, picture: int) -> tuple[Footage, int, float]:
        camera = 0 if self.camera_of is None else int(self.camera_of[picture])
        frame = int(self.index[self.frame_of[picture]])
        return self.footage[camera], frame, float(self.unit[camera])

    def frame(self, picture: int) -> tuple[np.ndarray, float]:
        """Read a picture, uint8 [H, W, 3], and tell its pixels for one of the points'."""
        footage, frame, unit = self._place(picture)
        return footage.frame(frame), unit

    def mask(self, picture: int) -> np.ndarray:
        """Read a picture's person mask, uint8 [H, W]."""
        footage, frame, _ = self._place(picture)
        return footage.mask(frame)

    def detected(self) -> Tensor:
        """Return the detected points [P, 478, 3]."""
        if self.camera_of is None:
            return self.footage[0].landmarks.points[self.index].float()
        of_cameras = torch.stack(
            [
                one.landmarks.points[self.index].float() / unit
                for one, unit in zip(self.footage, self.unit, strict=True)
            ]
        )
        return of_cameras[self.camera_of, self.frame_of]

    def start_focals(self, config: TrackConfig, calibration: Calibration | None) -> list[float]:
        """The focal lengths [C] that are believed in before looking, in the points' pixels."""
        if calibration is not None:
            units = self.unit.tolist()
            return [_focal(calibration, k) / unit for k, unit in enumerate(units)]
        longest = max(self.footage[0].width, self.footage[0].height)
        return [(one.focal_widths or config.focal_widths) * longest for one in self.footage]

    def cameras(self, config: TrackConfig, calibration: Calibration | None) -> tuple[Pinhole, bool]:
        """Return the cameras to start from, and whether their focal lengths are known.

        Raises:
            InputError: a calibration of another number of cameras, or of pixels that are not square.
        """
        if calibration is None:
            centres = [
                (one.width / 2 / unit, one.height / 2 / unit)
                for one, unit in zip(self.footage, self.unit.tolist(), strict=True)
            ]
        else:
            if len(calibration) != len(self.footage):
                raise InputError(
                    f"The calibration is of {len(calibration)} cameras, but there are clips of "
                    f"{len(self.footage)}. Give one clip for each of its cameras."
                )
            centres = [
                (float(K[0, 2]) / unit, float(K[1, 2]) / unit)
                for K, unit in zip(calibration.K, self.unit.tolist(), strict=True)
            ]
        focals = self.start_focals(config, calibration)
        if self.camera_of is None:
            return Pinhole(focals[0], centres[0]), calibration is not None
        return Pinhole(torch.tensor(focals), torch.tensor(centres)), calibration is not None

    def matrices(self, camera: Pinhole) -> Tensor:
        """Return [C, 3, 3], in pixels of the cameras' own pictures."""
        focal = torch.as_tensor(camera.focal).reshape(-1).float() * self.unit
        centre = torch.as_tensor(camera.centre).reshape(-1, 2).float() * self.unit[:, None]
        K = torch.eye(3).repeat(len(self.unit), 1, 1)
        K[:, 0, 0] = K[:, 1, 1] = focal
        K[:, :2, 2] = centre
        return K

    def squarest(self, front: Tensor, training: Tensor) -> int:
        """Return the camera that sees most of the face, most squarely.

        Args:
            front: [P] how squarely each picture shows it (``rig_fit.frontality``).
            training: [m] long, the pictures that may be asked.
        """
        if self.camera_of is None:
            return 0
        total = torch.zeros(len(self.footage)).index_add_(
            0, self.camera_of[training], front[training].clamp_min(0)
        )
        return int(total.argmax())

    def links(self, pictures: Tensor, main: int) -> list[tuple[int, int, int]]:
        """Join cameras to the main one by the frames in which two of them see the face.

        Args:
            pictures: [m] long, those that may be asked.
            main: where to start.

        Returns:
            (frames shared, a camera that is joined already, the one that it joins), the firmest tree of
            them (Prim's algorithm); a camera that shares no frame with the others is in none.
        """
        if self.camera_of is None:
            return []
        cameras = range(len(self.footage))
        place = torch.stack([self.frames_of(pictures, camera) for camera in cameras]).long()
        shared = (place @ place.T).tolist()
        joined, tree = [main], []
        while True:
            waiting = [b for b in range(len(place)) if b not in joined]
            link = max(((shared[a][b], a, b) for a in joined for b in waiting), default=(0, 0, 0))
            if link[0] == 0:
                return tree
            tree.append(link)
            joined.append(link[2])

    def need_shared(self, training: Tensor, views: Pose | None, main: int) -> None:
        """Raise InputError where a camera hardly ever sees the face while others do.

        Cameras whose places are known need not see it.
        """
        if self.camera_of is None or views is not None:
            return
        best = {camera: shared for shared, _, camera in self.links(training, main)}
        for camera in range(len(self.footage)):
            if camera != main and best.get(camera, 0) < FEWEST_SHARED:
                raise InputError(
                    f"Camera {camera} shows the face in only {best.get(camera, 0)} training frames together "
                    f"with another camera, and {FEWEST_SHARED} are needed to find where it stands. Let "
                    "the views overlap, give the --offsets of the clips, or a --calibration."
                )

    def mean(self, values: Tensor, weight: Tensor | None) -> Tensor:
        """Average values [P, ...] over each frame's pictures: [n, ...]; ``weight`` is like them."""
        if self.camera_of is None:
            return values
        weight = torch.ones_like(values) if weight is None else weight
        zeros = values.new_zeros(len(self.index), *values.shape[1:])
        total = zeros.clone().index_add_(0, self.frame_of, weight)
        return zeros.index_add_(0, self.frame_of, values * weight) / total


def _focal(calibration: Calibration, camera: int) -> float:
    across, down = (float(calibration.K[camera, k, k]) for k in range(2))
    if abs(across / down - 1) > SQUARE:
        raise InputError(
            f"The calibration of {calibration.names[camera]} has pixels that are not square (focal "
            f"lengths {across:.1f} and {down:.1f}). Scale its pictures to square pixels first."
        )
    return (across * down) ** 0.5


def known_views(calibration: Calibration | None, main: int) -> Pose | None:
    """Return where a calibration's cameras stand, seen from the main one; None of one camera alone."""
    if calibration is None or len(calibration) == 1:
        return None
    T = calibration.T_cam_world.double()
    T = T @ torch.linalg.inv(T[main])
    return Pose(T[:, :3, :3].float(), T[:, :3, 3].float())


def apart(views: Pose) -> float:
    """How far cameras stand from each other, root mean square."""
    centres = -(views.R.double().transpose(1, 2) @ views.t.double()[..., None])[..., 0]
    return float((centres[:, None] - centres[None]).square().sum(-1).mean().sqrt())
