"""How each kind of deformer is trained; the loop knows nothing else of its inside.

The loop hands over the features of a few frames and the gradients of their losses to the offsets; a step
makes of them new parameters.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from avatar.model.avatar import Avatar
from avatar.model.deformers.blendshapes import BlendshapeDeformer
from avatar.model.deformers.rigid import RigidDeformer
from avatar.raster.fused import FusedAdam, LowRankAdam
from avatar.train.config import RateConfig
from avatar.train.laplacian import Laplacian, nearest_neighbours

NETWORK_EPSILON = 1e-8
"""Adam's epsilon for networks; gradients of what each Gaussian has of its own are far smaller."""

SHAPE_WEIGHT = 0.01
"""Weight of the mean square, in square millimetres, by which a Gaussian's place among its neighbours
leaves the one it had."""
SCALE_WEIGHT = 0.1
"""Weight of the mean square of a log scale's distance from the mean of its neighbours'."""


class DeformerStep(ABC):
    """Optimiser of an avatar's deformer. Its state and the avatar's tensors make a resume exact."""

    def __init__(self, avatar: Avatar, rates: RateConfig) -> None:
        """Create for ``avatar``, whose deformer's parameters are changed in place."""
        self.avatar, self.rates = avatar, rates

    @abstractmethod
    def set_factor(self, factor: float) -> None:
        """Let all rates be ``factor`` times those of the start."""

    @abstractmethod
    def write_rates(self) -> None:
        """Hand the rates to a GPU: to be called before a step of it is captured or replayed."""

    @abstractmethod
    def step(self, features: Tensor, gradients: Tensor) -> None:
        """Take a step.

        Args:
            features: [R, D] of R frames.
            gradients: [R, N, 13] of their losses to the offsets.
        """

    def term(self) -> Tensor | None:
        """Return what the kind adds to the loss of each frame for the Gaussians at rest."""
        return None

    @abstractmethod
    def select(self, source: Tensor, fresh: Tensor) -> None:
        """Reorder, add and drop Gaussians, in the deformer too; the avatar's own are already new.

        Args:
            source: [M] int64, old row of each new one.
            fresh: [M] bool, rows that start without moments.
        """

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return tensors and numbers by name for a checkpoint."""

    @abstractmethod
    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state`` returned."""


def make_deformer_step(avatar: Avatar, rates: RateConfig) -> DeformerStep:
    """Return the optimiser that fits the kind of the avatar's deformer."""
    if isinstance(avatar.deformer, BlendshapeDeformer):
        return ShapesStep(avatar, rates)
    if isinstance(avatar.deformer, RigidDeformer):
        return RigidStep(avatar, rates)
    return AutogradStep(avatar, rates)


class ShapesStep(DeformerStep):
    """Blendshapes: the gradient of the shapes is weights x gradient of their blend, never written out."""

    def __init__(self, avatar: Avatar, rates: RateConfig) -> None:
        """Create for an avatar whose deformer is a ``BlendshapeDeformer``."""
        super().__init__(avatar, rates)
        assert isinstance(avatar.deformer, BlendshapeDeformer)
        self.deformer = avatar.deformer
        self.network_adam = FusedAdam(
            [
                p
                for n, p in self.deformer.named_parameters()
                if n not in self.deformer.gaussian_dims
            ],
            lr=rates.network,
            eps=NETWORK_EPSILON,
        )
        self.offset_adams = self._make_offset_adams(rates.offsets)

    def _make_offset_adams(self, rate: float) -> list[LowRankAdam]:
        shapes = self.deformer.shapes_of
        return [LowRankAdam(shapes(branch), lr=rate) for branch in self.deformer.branches]

    def set_factor(self, factor: float) -> None:
        """Let all rates be ``factor`` times those of the start."""
        self.network_adam.param_groups[0]["lr"] = self.rates.network * factor
        for adam in self.offset_adams:
            adam.lr = self.rates.offsets * factor

    def write_rates(self) -> None:
        """Hand the rates to a GPU."""
        self.network_adam.write_rates()
        for adam in self.offset_adams:
            adam.write_rate()

    def step(self, features: Tensor, gradients: Tensor) -> None:
        """Take a step on shapes and networks."""
        branches, weights = self.deformer.branches, self.deformer.weights(features)
        to_weights = [
            adam.step(each.detach(), gradients[:, branch.rows])
            for branch, adam, each in zip(branches, self.offset_adams, weights, strict=True)
        ]
        torch.autograd.backward(weights, to_weights)
        self.network_adam.step()
        self.network_adam.zero_grad(set_to_none=True)

    def select(self, source: Tensor, fresh: Tensor) -> None:
        """Reorder, add and drop Gaussians."""
        old = self.offset_adams
        self.deformer.select(source)
        self.offset_adams = self._make_offset_adams(old[0].lr)
        branches, rows = self.deformer.branches, self.deformer.rows_of(source)
        for branch, of_branch, before, adam in zip(
            branches, rows, old, self.offset_adams, strict=True
        ):
            kept = (~fresh[branch.rows]).float()[None, :, None]
            adam.load_state_dict(
                {
                    name: value[:, of_branch] * kept if isinstance(value, Tensor) else value
                    for name, value in before.state_dict().items()
                }
            )

    def state(self) -> dict[str, Any]:
        """Return tensors and numbers by name for a checkpoint."""
        state = _adam_state(self.network_adam, "network_adam")
        for branch, adam in zip(self.deformer.branches, self.offset_adams, strict=True):
            state |= {f"{branch.name}offset_adam.{n}": v for n, v in adam.state_dict().items()}
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state`` returned."""
        _restore_adam(self.network_adam, "network_adam", state)
        for branch, adam in zip(self.deformer.branches, self.offset_adams, strict=True):
            adam.load_state_dict(_under(state, f"{branch.name}offset_adam."))


class AutogradStep(DeformerStep):
    """Any kind: its forward pass once more, with gradients, and what it asks of neighbours."""

    def __init__(self, avatar: Avatar, rates: RateConfig) -> None:
        """Create; the neighbours are those of the Gaussians as they rest now."""
        super().__init__(avatar, rates)
        self._make_optimisers()
        self._find_neighbours()

    def _find_neighbours(self) -> None:
        count = self.avatar.deformer.neighbours
        self.laplacian: Laplacian | None = None
        if count and len(self.avatar) > 1:
            neighbours = nearest_neighbours(self.avatar.means, count)
            self.laplacian = Laplacian(neighbours.to(self.avatar.means.device))

    def _make_optimisers(self) -> None:
        deformer = self.avatar.deformer
        parameters = dict(deformer.named_parameters())
        own = [p for n, p in parameters.items() if n in deformer.gaussian_dims]
        shared = [p for n, p in parameters.items() if n not in deformer.gaussian_dims]
        rates = self.rates
        # Each with its rate at the start; a kind without any such parameters has no optimiser for them.
        self._optimisers: dict[str, tuple[FusedAdam, float]] = {}
        if own:
            self._optimisers["own"] = (FusedAdam(own, lr=rates.offsets), rates.offsets)
        if shared:
            adam = FusedAdam(shared, lr=rates.network, eps=NETWORK_EPSILON)
            self._optimisers["shared"] = (adam, rates.network)

    def set_factor(self, factor: float) -> None:
        """Let all rates be ``factor`` times those of the start."""
        for adam, rate in self._optimisers.values():
            adam.param_groups[0]["lr"] = rate * factor

    def write_rates(self) -> None:
        """Hand the rates to a GPU."""
        for adam, _ in self._optimisers.values():
            adam.write_rates()

    def step(self, features: Tensor, gradients: Tensor) -> None:
        """Take a step on all parameters of the deformer."""
        if not self._optimisers:
            return
        deformer = self.avatar.deformer
        deformer(features).backward(gradients)
        if self.laplacian is not None:
            (deformer.penalty(self.laplacian) * len(features)).backward()
        for adam, _ in self._optimisers.values():
            adam.step()
            adam.zero_grad(set_to_none=True)

    def select(self, source: Tensor, fresh: Tensor) -> None:
        """Reorder, add and drop Gaussians; neighbours are looked for anew."""
        deformer = self.avatar.deformer
        old = {name: adam for name, (adam, _) in self._optimisers.items()}
        before = dict(deformer.named_parameters())
        deformer.select(source)
        self._make_optimisers()
        for name, (adam, _) in self._optimisers.items():
            adam.param_groups[0]["lr"] = old[name].param_groups[0]["lr"]
        for name, parameter in deformer.named_parameters():
            which = "own" if name in deformer.gaussian_dims else "shared"
            state = old[which].state[before[name]]
            if which == "own":
                dim = deformer.gaussian_dims[name]
                kept = (~fresh).float().reshape(-1, *[1] * (parameter.ndim - 1 - dim))
                state = {
                    key: value.index_select(dim, source) * kept
                    if isinstance(value, Tensor) and value.ndim
                    else value
                    for key, value in state.items()
                }
            self._optimisers[which][0].state[parameter] = state
        self._find_neighbours()

    def state(self) -> dict[str, Any]:
        """Return tensors and numbers by name for a checkpoint."""
        found: dict[str, Any] = {}
        if self.laplacian is not None:
            found["neighbours"] = self.laplacian.neighbours
        for name, (adam, _) in self._optimisers.items():
            found |= _adam_state(adam, name)
        return found

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state`` returned."""
        if "neighbours" in state:
            self.laplacian = Laplacian(state["neighbours"])
        for name, (adam, _) in self._optimisers.items():
            _restore_adam(adam, name, state)


class RigidStep(AutogradStep):
    """Nothing to learn but the Gaussians at rest, which keep their place among their neighbours.

    ExAvatar (Moon et al. 2024) keeps the Laplacian of means near that of the template and
    the Laplacian of scales near zero. The template here is how the Gaussians stood at the start or after
    the last densification.
    """

    def __init__(self, avatar: Avatar, rates: RateConfig) -> None:
        """Create; how the Gaussians rest now is the template."""
        super().__init__(avatar, rates)
        self._take_template()

    def _take_template(self) -> None:
        self.template = torch.zeros(len(self.avatar), 3, device=self.avatar.means.device)
        if self.laplacian is not None:
            with torch.no_grad():
                self.template = self.laplacian(self.avatar.means)

    def term(self) -> Tensor | None:
        """Return the terms of means and log scales."""
        if self.laplacian is None:
            return None
        moved_mm = (self.laplacian(self.avatar.means) - self.template) * 1e3
        uneven = self.laplacian(self.avatar.log_scales)
        return SHAPE_WEIGHT * moved_mm.square().mean() + SCALE_WEIGHT * uneven.square().mean()

    def select(self, source: Tensor, fresh: Tensor) -> None:
        """Reorder, add and drop Gaussians; how they rest now is the template."""
        super().select(source, fresh)
        self._take_template()

    def state(self) -> dict[str, Any]:
        """Return tensors and numbers by name for a checkpoint."""
        return super().state() | {"template": self.template}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state`` returned."""
        super().restore(state)
        self.template = state["template"]


def _adam_state(adam: FusedAdam, name: str) -> dict[str, Any]:
    """Name the state of each parameter's moments and steps under ``name``."""
    return {
        f"{name}.{index}.{key}": value
        for index, parameter in enumerate(adam.param_groups[0]["params"])
        for key, value in adam.state[parameter].items()
    }


def _restore_adam(adam: FusedAdam, name: str, state: Mapping[str, Any]) -> None:
    """Undo ``_adam_state``."""
    for index, parameter in enumerate(adam.param_groups[0]["params"]):
        adam.take_state(parameter, _under(state, f"{name}.{index}."))


def _under(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return what is named under a prefix, without it."""
    return {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}
