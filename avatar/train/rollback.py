"""When numbers stop being numbers: how often a fit goes back to its last good state, and how it says so."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avatar.checks import InputError

MOST_ROLLBACKS = 3
"""A fit that goes wrong once more than this gives up: by then its rates are an eighth of what was asked."""
LOSS_LIMIT = 100.0
"""Pictures in [0, 1] differ by about 1 at most. Gaussians that blew up to more than this may come back to
finite numbers, but no longer to a person."""
RATE_FACTOR = 0.5
"""Each time, all learning rates fall to this share."""
LOG_SCALES = "avatar.log_scales"
"""What checkpoints call the logarithms of scales."""
SEED_STRIDE = 1_000_003
"""Distance between the seeds before and after a rollback; large, so that no other run's seed is met."""


def spoilt(tensors: Mapping[str, Tensor]) -> str | None:
    """Return the name of the first tensor of a checkpoint that holds NaN or infinity; None where all are sane.

    Logarithms of scales count by the scales that they stand for: Gaussians of infinite size are not
    drawn, so that the loss stays finite while nothing is left to see.
    """
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            continue
        value = tensor.exp() if name == LOG_SCALES else tensor
        if not torch.isfinite(value).all():
            return name.removeprefix("avatar.")
    return None


def gives_up(run: Path, capture: Path, step: int, reason: str) -> InputError:
    """Return what to raise where a fit went back ``MOST_ROLLBACKS`` times and goes wrong again."""
    return InputError(
        f"The fit of {run} fails: at step {step} {reason}, after {MOST_ROLLBACKS} "
        f"returns to a good state at ever lower learning rates. See {capture}"
        "/report.html for frames that are tracked badly and film again without what it names, "
        "or start over with --overwrite and another --seed."
    )


def append_event(log: Path, event: str, step: int, **fields: Any) -> None:
    """Add a line to metrics.jsonl that tells what happened, beside those that tell what was measured."""
    line = json.dumps({"event": event, "step": step, **fields}, allow_nan=False)
    with open(log, "a", encoding="utf-8") as file:
        file.write(line + "\n")


def read_metrics(log: Path) -> list[dict[str, Any]]:
    """Return the measured steps of metrics.jsonl in order: step, loss, psnr, gaussians, seconds.

    Lines that tell an event are left out, and so is a line cut short by a kill. No file is no step.
    """
    if not log.is_file():
        return []
    found = []
    for line in log.read_text(encoding="utf-8").splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict) and "event" not in value and "step" in value:
            found.append(value)
    return found
