"""Blendshapes in two branches: the face, and the inside of the mouth, which sees the mouth alone.

TalkingGaussian (Li et al. 2024) fits face and inside of the mouth by fields of their own,
because teeth do not move as lips do. Here each has a network of its own, and that of the mouth sees
only the coefficients of jaw, mouth and tongue: brows, gaze and head pose cannot stir the teeth.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from avatar.model.deform import Setup, inside_mouth, network
from avatar.model.deformers.blendshapes import BlendshapeDeformer
from avatar.raster.fused import blend_offsets
from avatar.rig.arkit import ARKIT_GROUPS, ARKIT_INDEX

MOUTH_FEATURES = tuple(
    ARKIT_INDEX[name] for group in ("jaw", "mouth", "tongue") for name in ARKIT_GROUPS[group]
)
"""Which of the driving features the mouth's network sees."""


class BranchDeformer(BlendshapeDeformer):
    """Map driving features to weights of offset shapes, other ones for the inside of the mouth."""

    kind = "branches"
    sizes: ClassVar[Mapping[str, int]] = {"shapes": 20, "hidden": 64, "mouth_hidden": 32}
    gaussian_dims: ClassVar[Mapping[str, int]] = {"offsets": 1, "mouth": 0}

    mouth: Tensor

    def __init__(self, setup: Setup, settings: Mapping[str, Any] | None = None) -> None:
        """Create; a Gaussian belongs for good to the branch in which it starts."""
        super().__init__(setup, settings)
        hidden = self.size["mouth_hidden"]
        self.mouth_network = network(len(MOUTH_FEATURES), hidden, hidden, self.size["shapes"])
        self.register_buffer("mouth", inside_mouth(setup))

    def mouth_weights(self, features: Tensor) -> Tensor:
        """Return the shape weights [..., K] inside the mouth for driving features [..., D]."""
        return self.mouth_network(self.standardise(features)[..., MOUTH_FEATURES])

    def forward(self, features: Tensor) -> Tensor:
        """Return offsets [N, 13] in units of ``unit`` for features [D], or [B, N, 13] for [B, D]."""
        if features.ndim > 1:
            return torch.stack([self(each) for each in features])
        rows = torch.nonzero(self.mouth)[:, 0]
        inside = torch.einsum("k,knc->nc", self.mouth_weights(features), self.offsets[:, rows])
        blend = blend_offsets(self.offsets, self.weights(features))
        return blend.index_copy(0, rows, inside)

    def low_rank(self, features: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
        """Write the gradient of ``offsets`` as that of twice as many frames, one set a branch."""
        weights = torch.cat([self.weights(features), self.mouth_weights(features)])
        inside = self.mouth[None, :, None]
        zero = gradients.new_zeros(())
        parts = [torch.where(inside, zero, gradients), torch.where(inside, gradients, zero)]
        return weights, torch.cat(parts)
