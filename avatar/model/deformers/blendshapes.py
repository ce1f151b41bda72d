"""Reduced Gaussian blendshapes: expression and pose choose a few weights of linear offsets.

A tiny network maps what drives the head to K weights; every Gaussian has K linear offsets of its
mean, rotation, scale and colour (RGBAvatar, Li et al. 2025, eq. 4-6, where the bases are learned
and K is about 20). Linear is what makes posing cheap on a CPU and possible in a shader.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from avatar.model.binding import Binding
from avatar.model.deform import CHANNELS, Deformer, Setup, network
from avatar.raster.fused import blend_offsets


@dataclass(frozen=True)
class Branch:
    """A run of Gaussians with a network and offset shapes of their own."""

    name: str
    """What the names of its tensors begin with."""
    first: int
    """Its first Gaussian."""
    count: int
    shapes: int
    """Number K of its offset shapes."""
    sees: tuple[int, ...] | None = None
    """Which of the driving features its network sees; None is all."""

    @property
    def rows(self) -> slice:
        """Its Gaussians."""
        return slice(self.first, self.first + self.count)


class BlendshapeDeformer(Deformer):
    """Map driving features to weights of offset shapes; one branch holds all Gaussians."""

    kind = "blendshapes"
    sizes: ClassVar[Mapping[str, int]] = {"shapes": 20, "hidden": 64}

    def __init__(self, setup: Setup, settings: Mapping[str, Any] | None = None) -> None:
        """Create with ``shapes`` offset shapes K and hidden layers of width ``hidden``."""
        super().__init__(setup, settings)
        self.branches = self.divide(setup.binding)
        hidden = self.size["hidden"]
        for branch in self.branches:
            inputs = setup.features if branch.sees is None else len(branch.sees)
            self.add_module(f"{branch.name}network", network(inputs, hidden, hidden, branch.shapes))
            shapes = nn.Parameter(torch.zeros(branch.shapes, branch.count, CHANNELS))
            self.register_parameter(f"{branch.name}offsets", shapes)
            if branch.sees is not None:
                # On the network's device: indices from the host would have to be copied at each step.
                seen = torch.tensor(branch.sees)
                self.register_buffer(f"{branch.name}sees", seen, persistent=False)
        names = [f"{branch.name}offsets" for branch in self.branches]
        self.companded = frozenset(names)
        self.gaussian_dims = dict.fromkeys(names, 1)

    def divide(self, binding: Binding) -> tuple[Branch, ...]:
        """Return the branches of Gaussians that are bound so; together they hold all, in order."""
        return (Branch("", 0, len(binding.part), self.size["shapes"]),)

    def shapes_of(self, branch: Branch) -> nn.Parameter:
        """Return a branch's offset shapes [K, n, 13]."""
        return getattr(self, f"{branch.name}offsets")

    def weights(self, features: Tensor) -> list[Tensor]:
        """Return each branch's shape weights [..., K] for driving features [..., D]."""
        x = self.standardise(features)
        return [
            getattr(self, f"{b.name}network")(
                x if b.sees is None else x[..., getattr(self, f"{b.name}sees")]
            )
            for b in self.branches
        ]

    def forward(self, features: Tensor) -> Tensor:
        """Return offsets [N, 13] in units of ``unit`` for features [D], or [B, N, 13] for [B, D]."""
        if features.ndim > 1:
            return torch.stack([self(each) for each in features])
        blends = [
            blend_offsets(self.shapes_of(branch), weights)
            for branch, weights in zip(self.branches, self.weights(features), strict=True)
        ]
        return blends[0] if len(blends) == 1 else torch.cat(blends)

    def set_binding(self, binding: Binding) -> None:
        """Divide the Gaussians anew; ``select`` must follow."""
        self._old = self.branches
        self.branches = self.divide(binding)

    def rows_of(self, source: Tensor) -> list[Tensor]:
        """Return for each branch which of its old rows [n] its new ones come from.

        Args:
            source: [M] old row of each new one, as ``select`` takes it; a Gaussian stays in its branch.
        """
        return [
            source[new.rows] - old.first for new, old in zip(self.branches, self._old, strict=True)
        ]

    @torch.no_grad()
    def select(self, source: Tensor) -> None:
        """Let new row i be a copy of old row ``source[i]`` wherever there is a row a Gaussian."""
        for branch, rows in zip(self.branches, self.rows_of(source), strict=True):
            shapes = self.shapes_of(branch).detach()[:, rows]
            self.replace(f"{branch.name}offsets", shapes)
