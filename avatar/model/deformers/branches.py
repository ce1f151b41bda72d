"""Blendshapes in three branches, each driven by what can move it and nothing else.

TalkingGaussian (Li et al. 2024) fits face and inside of the mouth by fields of their own, because
teeth do not move as lips do. Here the torso has one as well. A network that sees everything learns
from a short clip that the collar slides when the mouth opens, since in that clip it did; one that does
not see the mouth cannot (0.7 dB on held-out frames, docs/EXPLORATION.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch

from avatar.model.binding import HEAD, MOUTH, TORSO, Binding
from avatar.model.deformers.blendshapes import BlendshapeDeformer, Branch
from avatar.rig.arkit import ARKIT_GROUPS, ARKIT_INDEX, ARKIT_NAMES

_POSE = len(ARKIT_NAMES)
HEAD_FEATURES = tuple(range(_POSE + 10))
"""The head's network sees expression, head pose and gaze."""
MOUTH_FEATURES = tuple(
    ARKIT_INDEX[name] for group in ("jaw", "mouth", "tongue") for name in ARKIT_GROUPS[group]
)
"""The network of the mouth's inside sees jaw, mouth and tongue: brows cannot stir the teeth."""
TORSO_FEATURES = (*range(_POSE, _POSE + 6), *range(_POSE + 10, _POSE + 16))
"""The torso's network sees the poses of head and torso: the neck turns, shoulders shade."""


class BranchDeformer(BlendshapeDeformer):
    """Map driving features to weights of offset shapes, others for head, mouth and torso."""

    kind = "branches"
    sizes: ClassVar[Mapping[str, int]] = {
        "shapes": 20,
        "mouth_shapes": 10,
        "torso_shapes": 10,
        "hidden": 64,
    }

    def divide(self, binding: Binding) -> tuple[Branch, ...]:
        """Return the three branches of Gaussians that are bound so."""
        counts = torch.bincount(binding.part, minlength=3).tolist()
        size = self.size
        return (
            Branch("head_", 0, counts[HEAD], size["shapes"], HEAD_FEATURES),
            Branch("mouth_", counts[HEAD], counts[MOUTH], size["mouth_shapes"], MOUTH_FEATURES),
            Branch(
                "torso_",
                counts[HEAD] + counts[MOUTH],
                counts[TORSO],
                size["torso_shapes"],
                TORSO_FEATURES,
            ),
        )
