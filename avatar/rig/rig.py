"""What a head rig is to the rest of the program, and the default one, the personal face lattice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from avatar.capture_data import Track
from avatar.rig.lattice import deform, lattice_table


@runtime_checkable
class Rig(Protocol):
    """A face that expressions deform, in the head frame, metres."""

    @property
    def name(self) -> str:
        """What kind of rig it is: ``"lattice"``, ``"ict"``, ``"flame"``."""
        ...

    @property
    def neutral(self) -> Tensor:
        """[V, 3] face at rest."""
        ...

    @property
    def triangles(self) -> Tensor:
        """[T, 3] long, wound so that normals point outwards."""
        ...

    @property
    def expression_names(self) -> tuple[str, ...]:
        """E names; ARKit's 52 come first, in Apple's order."""
        ...

    @property
    def eyeballs(self) -> Tensor:
        """[2, 3] centres of rotation of the subject's left and right eye."""
        ...

    def vertices(self, expression: Tensor) -> Tensor:
        """Deform by expressions [..., E]: [..., V, 3]."""
        ...


@dataclass(frozen=True)
class LatticeRig:
    """The default rig: the tracked 478 points with the person's own shapes."""

    neutral: Tensor
    """[478, 3]."""
    basis: Tensor
    """[E, 478, 3] displacement at coefficient 1."""
    eyeballs: Tensor
    """[2, 3]."""
    expression_names: tuple[str, ...]
    """E names."""
    name: str = "lattice"
    """Of the rig."""

    @staticmethod
    def of(track: Track) -> LatticeRig:
        """Take the rig out of a track."""
        return LatticeRig(track.lattice, track.basis, track.eyeballs, track.expression_names)

    @property
    def triangles(self) -> Tensor:
        """[852, 3] skin; the openings of eyes and mouth are ``lattice_table``'s others."""
        return lattice_table().triangles.to(self.neutral.device)

    def vertices(self, expression: Tensor) -> Tensor:
        """Deform by expressions [..., E]: [..., 478, 3]; differentiable."""
        return deform(self.neutral, self.basis, expression)
