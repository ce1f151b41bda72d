"""The values that stages hand to each other: cameras, head states, Gaussians, rendered pictures.

Conventions (one place): world and head in metres, right-handed; camera as OpenCV (x right, y down,
z forward); ``T_a_b`` maps b-coordinates to a. Head frame: origin between the ears, x to the
subject's left, y up, z out of the face. Quaternions wxyz, angles in radians. Pictures are
``[H, W, 3]`` sRGB in [0, 1]; the centre of pixel (0, 0) lies at (0.5, 0.5).
Dims: N Gaussians, V vertices, F frames, E expressions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from avatar.checks import check


@dataclass(frozen=True)
class Camera:
    """A pinhole camera without distortion."""

    K: Tensor
    """[3, 3] intrinsics in pixels."""
    T_cam_world: Tensor
    """[4, 4] rigid transform, world to camera, metres."""
    width: int
    """Picture width in pixels."""
    height: int
    """Picture height in pixels."""

    def __post_init__(self) -> None:
        check("K", self.K, "3 3")
        check("T_cam_world", self.T_cam_world, "4 4")
        if self.width < 1 or self.height < 1:
            raise ValueError(
                f"a camera needs width and height of at least 1 pixel; "
                f"got {self.width} x {self.height}."
            )

    def scaled(self, width: int, height: int) -> Camera:
        """Return the same view at another picture size (pixels are rescaled, not cropped)."""
        scale = torch.tensor(
            [width / self.width, height / self.height, 1.0],
            dtype=self.K.dtype,
            device=self.K.device,
        )
        return Camera(scale[:, None] * self.K, self.T_cam_world, width, height)

    def cropped(self, x: int, y: int, width: int, height: int) -> Camera:
        """Return the view of the window whose top left pixel is (x, y)."""
        K = self.K.clone()
        K[0, 2] -= x
        K[1, 2] -= y
        return Camera(K, self.T_cam_world, width, height)

    def to(self, *args: Any, **kwargs: Any) -> Camera:
        """Move K and T_cam_world as ``Tensor.to`` does."""
        K = self.K.to(*args, **kwargs)
        return Camera(K, self.T_cam_world.to(*args, **kwargs), self.width, self.height)


@dataclass(frozen=True)
class HeadState:
    """Everything that drives an avatar at one instant (or a batch of instants, leading dims)."""

    expression: Tensor
    """[..., E] coefficients; the first 52 are ARKit's in ``avatar.rig.arkit.ARKIT_NAMES`` order,
    nominally in [0, 1]; those after them are the person's own residual shapes, unbounded, 0 at rest."""
    gaze: Tensor
    """[..., 2, 2] radians: eye (subject's left, right) x (yaw to the subject's left, pitch up),
    relative to the head."""
    T_world_head: Tensor
    """[..., 4, 4] head frame to world."""
    T_world_torso: Tensor
    """[..., 4, 4] torso frame to world."""

    def __post_init__(self) -> None:
        check("expression", self.expression, "... E")
        check("gaze", self.gaze, "... 2 2")
        check("T_world_head", self.T_world_head, "... 4 4")
        check("T_world_torso", self.T_world_torso, "... 4 4")

    def __getitem__(self, index: Any) -> HeadState:
        """Index the leading (frame) dimension."""
        return HeadState(
            self.expression[index],
            self.gaze[index],
            self.T_world_head[index],
            self.T_world_torso[index],
        )

    def __len__(self) -> int:
        if self.expression.ndim < 2:
            raise TypeError("a single HeadState has no length; only a batch of states does.")
        return self.expression.shape[0]

    def __iter__(self) -> Iterator[HeadState]:
        """Yield the states of a batch one after another."""
        return (self[index] for index in range(len(self)))

    def to(self, *args: Any, **kwargs: Any) -> HeadState:
        """Move all tensors as ``Tensor.to`` does."""
        return HeadState(
            self.expression.to(*args, **kwargs),
            self.gaze.to(*args, **kwargs),
            self.T_world_head.to(*args, **kwargs),
            self.T_world_torso.to(*args, **kwargs),
        )

    @staticmethod
    def stacked(states: Sequence[HeadState]) -> HeadState:
        """Return single states, at least one, as a batch."""
        return HeadState(
            torch.stack([state.expression for state in states]),
            torch.stack([state.gaze for state in states]),
            torch.stack([state.T_world_head for state in states]),
            torch.stack([state.T_world_torso for state in states]),
        )

    def between(self, a: Tensor, b: Tensor, share: Tensor) -> HeadState:
        """Return states of a batch between pairs of its own.

        Coefficients, gaze and positions are linear in ``share``; rotations turn at constant speed.

        Args:
            a: [n] int64 indices of those at share 0.
            b: [n] of those at share 1.
            share: [n] in [0, 1].
        """
        # Here, as it takes a second to load, which every start of the command line would pay.
        from avatar.rotations import matrix_to_rotvec, rigid, rotvec_to_matrix

        def mix(values: Tensor) -> Tensor:
            return torch.lerp(values[a], values[b], share.reshape(-1, *[1] * (values.ndim - 1)))

        def mix_poses(T: Tensor) -> Tensor:
            R_a, R_b = T[a, :3, :3], T[b, :3, :3]
            turn = matrix_to_rotvec(R_a.transpose(-1, -2) @ R_b)
            return rigid(R_a @ rotvec_to_matrix(share[:, None] * turn), mix(T[:, :3, 3]))

        return HeadState(
            mix(self.expression),
            mix(self.gaze),
            mix_poses(self.T_world_head),
            mix_poses(self.T_world_torso),
        )


@dataclass(frozen=True)
class Gaussians:
    """Posed Gaussians, activated and final: what a rasterizer draws."""

    means: Tensor
    """[N, 3] metres, world."""
    quats: Tensor
    """[N, 4] wxyz, need not be normalised."""
    scales: Tensor
    """[N, 3] standard deviations in metres, positive."""
    opacities: Tensor
    """[N] in [0, 1]."""
    colours: Tensor
    """[N, C] channels (RGB: C = 3, sRGB), or [N, S, 3] spherical-harmonic coefficients with S = (degree + 1)^2."""

    def __len__(self) -> int:
        return self.means.shape[0]

    def to(self, *args: Any, **kwargs: Any) -> Gaussians:
        """Move all tensors as ``Tensor.to`` does."""
        return Gaussians(
            self.means.to(*args, **kwargs),
            self.quats.to(*args, **kwargs),
            self.scales.to(*args, **kwargs),
            self.opacities.to(*args, **kwargs),
            self.colours.to(*args, **kwargs),
        )


@dataclass(frozen=True)
class RenderOutput:
    """One rendered picture."""

    rgb: Tensor
    """[H, W, C] blended colours over the background; [H, W, 3] sRGB for pictures."""
    alpha: Tensor
    """[H, W] coverage in [0, 1]."""
    depth: Tensor
    """[H, W] expected depth of what covers the pixel, metres along the optical axis; 0 where nothing does."""
    stats: Mapping[str, Any] = field(default_factory=dict)
    """Backend's own counters (for example ``visible``, ``pairs``) and, for training,
    ``means2d_grad``-style hooks that its documentation names."""


@runtime_checkable
class Driver(Protocol):
    """A source of head states: captured motion, a file, a microphone, a webcam."""

    @property
    def fps(self) -> float:
        """Nominal states per second."""
        ...

    def states(self) -> Iterator[HeadState]:
        """Yield one state a frame; ends where the source does (a live source need not end)."""
        ...


@dataclass(frozen=True)
class Progress:
    """One report of a long job: command line, viewer and tests are listeners of the same reports."""

    stage: str
    """What is going on, for example ``"landmarks"``."""
    done: int
    """Units finished."""
    total: int
    """Units in all; 0 where unknown."""
    message: str = ""
    """A sentence for the user; empty where the bar says enough."""
    values: dict[str, float] = field(default_factory=dict)
    """Named measurements, for example ``{"psnr": 27.1}``."""


Reporter = Callable[[Progress], None]
"""Takes reports; long functions have a ``report: Reporter = ignore_progress`` argument."""


def ignore_progress(progress: Progress) -> None:
    """Listen to nothing."""


def look_at(eye: Tensor, target: Tensor, up: Tensor | None = None) -> Tensor:
    """Return T_cam_world [4, 4] of a camera at ``eye`` [3] that looks at ``target`` [3] (world, metres)."""
    if up is None:
        up = torch.tensor([0.0, 1.0, 0.0], dtype=eye.dtype, device=eye.device)
    z = torch.nn.functional.normalize(target - eye, dim=0)
    x = torch.nn.functional.normalize(torch.linalg.cross(z, up), dim=0)
    y = torch.linalg.cross(z, x)
    R = torch.stack([x, y, z])
    T = torch.eye(4, dtype=eye.dtype, device=eye.device)
    T[:3, :3] = R
    T[:3, 3] = -R @ eye
    return T
