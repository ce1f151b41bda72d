"""What a fit changes: the avatar, its optimisers, and what they have yet to take in; all on one device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from avatar.model.avatar import GAUSSIAN_PARAMETERS, Avatar, Binding
from avatar.raster.fused import FusedAdam
from avatar.train.checkpoint import fetch, store
from avatar.train.config import TrainConfig
from avatar.train.deformer_step import make_deformer_step
from avatar.train.densify import Plan, apply_plan
from avatar.train.placement import Placement


class Sums:
    """What steps leave on the device until somebody reads it."""

    def __init__(self, count: int, device: torch.device) -> None:
        """Create for ``count`` Gaussians."""
        self.pull = torch.zeros(count, device=device)
        """[N] pull of the loss at the Gaussians' places in the picture since the last densification."""
        self.loss = torch.full((), torch.nan, device=device)
        """[] of the last step."""
        self.worst = torch.full((), -torch.inf, device=device)
        """[] the largest since it was last read; NaN where any was."""
        self.error = torch.full((), torch.nan, device=device)
        """[] mean square error of the last picture that was measured."""


class FitState:
    """Avatar, optimisers, hidden Gaussians and sums of a fit in progress."""

    def __init__(self, avatar: Avatar, config: TrainConfig, device: torch.device) -> None:
        """Take over ``avatar``, which is moved to ``device``, as before the first step."""
        self.config, self.device = config, device
        self.avatar = avatar.to(device).requires_grad_(True)
        self.placement = Placement()
        self.pending: list[tuple[int, Tensor]] = []
        """Training rows that the deformer has yet to step on, with the gradients of their blends [N, 13]."""
        self.pulls = 0
        """Steps that ``sums.pull`` is of."""
        self.hidden = torch.zeros(len(avatar), dtype=torch.bool, device=device)
        """[N] Gaussians that no training picture shows; they are held as they are."""
        self.sums = Sums(len(avatar), device)
        self._make_optimisers()

    def _make_optimisers(self) -> None:
        rates = self.config.rates
        self.adam = FusedAdam(
            [
                {"params": [getattr(self.avatar, name)], "lr": getattr(rates, name), "name": name}
                for name in GAUSSIAN_PARAMETERS
            ]
        )
        self.deformer_step = make_deformer_step(self.avatar, rates)
        self._base_rates = [group["lr"] for group in self.adam.param_groups]

    def set_rates(self, factor: float) -> None:
        """Let all rates be ``factor`` times those of the start."""
        for group, base in zip(self.adam.param_groups, self._base_rates, strict=True):
            group["lr"] = base * factor
        self.deformer_step.set_factor(factor)

    def set_hidden(self, hidden: Tensor) -> None:
        """Hold these Gaussians [N] from now on; a captured step reads them where they were."""
        self.hidden.copy_(hidden)

    def mean_pull(self) -> Tensor:
        """Return the mean pull [N] since the last densification, on the CPU."""
        return self.sums.pull.cpu() / max(1, self.pulls)

    def rebuild(self, plan: Plan) -> None:
        """Reorder, add and drop Gaussians, optimiser state included; the plan is on the CPU."""
        avatar, plan = self.avatar, plan.to(self.device)
        source = plan.source
        apply_plan(avatar, self.adam, plan)
        avatar.set_binding(avatar.binding()[source])
        self.deformer_step.select(source, plan.fresh)
        self.hidden = self.hidden[source]
        sums = Sums(len(source), self.device)
        sums.loss, sums.worst, sums.error = self.sums.loss, self.sums.worst, self.sums.error
        self.sums, self.pulls = sums, 0

    # -- checkpoints --------------------------------------------------------------------------

    def stored(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return tensors, on the CPU, and numbers of a checkpoint."""
        tensors: dict[str, Tensor] = {
            f"avatar.{name}": value for name, value in self.avatar.state_dict().items()
        }
        counts: dict[str, Any] = {}
        for group in self.adam.param_groups:
            for name, value in self.adam.state[group["params"][0]].items():
                store(tensors, counts, f"adam.{group['name']}.{name}", value)
        for name, value in self.deformer_step.state().items():
            store(tensors, counts, f"deformer_step.{name}", value)
        for index, (_, gradient) in enumerate(self.pending):
            tensors[f"pending.{index}"] = gradient
        counts["pending_rows"] = [row for row, _ in self.pending]
        tensors |= {"pull": self.sums.pull, "hidden": self.hidden}
        return {name: value.cpu() for name, value in tensors.items()}, counts

    def restore(self, tensors: dict[str, Tensor], counts: dict[str, Any], pulls: int) -> None:
        """Take over what ``stored`` returned, of whichever device it was."""
        avatar = self.avatar
        tensors = {name: value.to(self.device) for name, value in tensors.items()}
        for name in GAUSSIAN_PARAMETERS:
            setattr(avatar, name, torch.nn.Parameter(tensors[f"avatar.{name}"]))
        for name in avatar.deformer.gaussian_dims:
            avatar.deformer.replace(name, tensors[f"avatar.deformer.{name}"])
        names = ("triangle", "barycentric", "follow", "eye", "part")
        avatar.set_binding(Binding(**{name: tensors[f"avatar.{name}"] for name in names}))
        avatar.load_state_dict(
            {n.removeprefix("avatar."): t for n, t in tensors.items() if n.startswith("avatar.")}
        )
        self._make_optimisers()
        for group in self.adam.param_groups:
            state = fetch(tensors, counts, f"adam.{group['name']}.")
            self.adam.take_state(group["params"][0], state)
        self.deformer_step.restore(fetch(tensors, counts, "deformer_step."))
        self.pending = [
            (row, tensors[f"pending.{index}"]) for index, row in enumerate(counts["pending_rows"])
        ]
        self.sums = Sums(len(avatar), self.device)
        self.sums.pull, self.pulls = tensors["pull"], pulls
        self.hidden = tensors["hidden"]
