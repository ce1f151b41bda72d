"""How Gaussians hang on the rig."""

from __future__ import annotations

from dataclasses import dataclass, fields

from torch import Tensor

HEAD, MOUTH, TORSO = range(3)
"""Parts of a person, whose Gaussians different things may drive: head, inside of the mouth, and what lies
below the chin and follows the face little."""


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
    part: Tensor
    """[N] int64: ``HEAD``, ``MOUTH`` or ``TORSO``, in ascending order: Gaussians are sorted by part."""

    def __getitem__(self, index: Tensor) -> Binding:
        return Binding(*(getattr(self, field.name)[index] for field in fields(self)))
