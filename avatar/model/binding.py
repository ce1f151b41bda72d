"""How Gaussians hang on the rig."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Binding:
    """How each Gaussian hangs on the rig; fixed by creation, carried along by densification."""

    triangle: Tensor
    """[N] int64 lattice triangle that the Gaussian follows."""
    barycentric: Tensor
    """[N, 3] weights of its corners, summing to one."""
    follow: Tensor
    """[N] share of the triangle's displacement that the Gaussian takes: 1 on the skin, fading into
    hair and neck, 0 on upper teeth and eyeballs."""
    eye: Tensor
    """[N] int64: 0 or 1 for the subject's left or right eyeball, -1 for all else."""

    def __getitem__(self, index: Tensor) -> Binding:
        return Binding(
            self.triangle[index], self.barycentric[index], self.follow[index], self.eye[index]
        )
