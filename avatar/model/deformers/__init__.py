"""The kinds of deformers, one file each, and how one is made by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch

from avatar.checks import InputError
from avatar.model.deform import Deformer, Setup
from avatar.model.deformers.blendshapes import BlendshapeDeformer
from avatar.model.deformers.branches import BranchDeformer
from avatar.model.deformers.latent import LatentDeformer
from avatar.model.deformers.rigid import RigidDeformer
from avatar.model.deformers.uvmap import UvMapDeformer

DeformerKind = Literal["blendshapes", "rigid", "latent", "branches", "uvmap"]

DEFORMERS: dict[str, type[Deformer]] = {
    deformer.kind: deformer
    for deformer in (
        BlendshapeDeformer,
        RigidDeformer,
        LatentDeformer,
        BranchDeformer,
        UvMapDeformer,
    )
}
"""Every kind by its name."""


def make_deformer(
    kind: str,
    setup: Setup,
    settings: Mapping[str, Any] | None = None,
    generator: torch.Generator | None = None,
) -> Deformer:
    """Make a deformer; offsets that it would have to learn are zero.

    Args:
        kind: a name of ``DEFORMERS``.
        setup: the person and the Gaussians.
        settings: sizes other than the kind's own; see its ``sizes``.
        generator: source of the networks' weights; where not given they stay zero, for a deformer that
            takes over another's tensors.

    Raises:
        InputError: no such kind, or settings that it does not have.
    """
    if kind not in DEFORMERS:
        raise InputError(f"There is no deformer '{kind}'; choose one of {', '.join(DEFORMERS)}.")
    deformer = DEFORMERS[kind](setup, settings)
    if generator is not None:
        deformer.draw(generator, setup)
    return deformer
