"""What a fit knows: the rig that all frames share, and what each frame has of its own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from avatar.rig.lattice import deform
from capture.track.projection import Pinhole, Pose, project
from capture.track.rig_fit import facing
from capture.track.shell import Shell, shell_facing
from capture.track.surfaces import View


@dataclass(frozen=True)
class Rig:
    """What all frames share."""

    camera: Pinhole
    lattice: Tensor
    """[478, 3]."""
    basis: Tensor
    """[E, 478, 3]."""
    shell: Tensor
    """[S, 3] points around the face (``shell``); none before anchoring begins."""

    @property
    def head(self) -> Tensor:
        """Lattice and shell at rest [478 + S, 3]."""
        return torch.cat([self.lattice, self.shell])


@dataclass(frozen=True)
class Frames:
    """What each of n frames with a face has of its own."""

    pose: Pose
    coefficients: Tensor
    """[n, E]."""

    def points(self, rig: Rig) -> Tensor:
        """Project the posed lattice: [n, 478, 2] pixels."""
        return project(deform(rig.lattice, rig.basis, self.coefficients), self.pose, rig.camera)

    def facing(self, rig: Rig) -> Tensor:
        """Cosine between normals and lines of sight [n, 478]."""
        return facing(rig.lattice, rig.basis, self.coefficients, self.pose)

    def view(self, rig: Rig, shell: Shell) -> View:
        """Lattice and shell in the pictures."""
        around = project(rig.shell, self.pose, rig.camera)
        return View(
            torch.cat([self.points(rig), around], 1),
            self.facing(rig),
            shell_facing(rig.head, shell, self.pose),
        )
