"""The fit: one frame a step, exact to resume after kill -9, a generator that others listen to."""

from __future__ import annotations

import copy
import math
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from avatar import __version__
from avatar.capture_data import Capture
from avatar.model.avatar import GAUSSIAN_PARAMETERS, Avatar, Binding
from avatar.model.create import create_avatar
from avatar.model.reach import reach_header, reach_of
from avatar.raster import one_torch_thread, rasterize_with_means2d
from avatar.raster.fused import FusedAdam, l1_ssim_loss
from avatar.train.checkpoint import fetch, load_newest, save_checkpoint, store
from avatar.train.config import TrainConfig
from avatar.train.deformer_step import make_deformer_step
from avatar.train.densify import Plan, apply_plan, densify_steps, plan_densification
from avatar.train.frames import AHEAD, FrameStore, training_cameras, training_frames
from avatar.train.hidden import find_hidden, look_steps, witnesses
from avatar.train.memory import available_bytes, cache_bytes, out_of_memory_said
from avatar.train.placement import Placement
from avatar.train.rollback import (
    LOSS_LIMIT,
    MOST_ROLLBACKS,
    RATE_FACTOR,
    SEED_STRIDE,
    append_event,
    gives_up,
    spoilt,
)
from avatar.train.run_folder import append_metrics, cut_log, open_run, write_result
from avatar.types import Progress, Reporter, ignore_progress

LOG_EVERY = 25
"""Steps between lines of metrics.jsonl."""


@dataclass(frozen=True)
class StepReport:
    """What one step measured."""

    step: int
    """Steps done."""
    loss: float
    psnr: float
    """PSNR of the training picture of the last step that was logged, dB."""
    gaussians: int
    seconds: float
    """Wall seconds of fitting so far, resumed parts included."""


class Trainer:
    """Owns a fit in progress: the avatar, its optimisers, and the run folder."""

    def __init__(
        self,
        capture: Capture,
        run: Path,
        config: TrainConfig,
        *,
        resume: bool = False,
        report: Reporter = ignore_progress,
    ) -> None:
        """Open or create the run folder and make or restore the avatar.

        Raises:
            InputError: the folder holds another or an unfinished run, or the capture cannot be used.
        """
        self.capture, self.run, self.config = capture, Path(run), config
        self._report = report
        # What cannot be fitted leaves no run behind.
        valid = training_frames(capture, config.hold_cameras)
        cameras = training_cameras(capture, config.hold_cameras)
        room = cache_bytes(capture, config, available_bytes())
        open_run(self.run, capture, config, resume=resume)
        restored = load_newest(self.run / "checkpoints") if resume else None
        self.generator = torch.Generator().manual_seed(config.seed)
        if restored is None:
            self.avatar = create_avatar(
                capture, valid, config.create, cameras=cameras, generator=self.generator
            )
        else:
            self.avatar = Avatar.load(self.run / "start.avatar")
        self.avatar.requires_grad_(True)
        every = math.ceil(len(valid) / config.max_frames)
        report(Progress("frames", 0, 0, "Reading frames"))
        frames = valid[::every]
        if config.steps < len(frames) * len(cameras):
            room = 0  # no picture is asked for twice
        self.store = FrameStore(capture, frames, config.max_side, cameras=cameras, cache_bytes=room)
        states = capture.track.states()
        features = torch.stack([self.avatar.features(states[int(f)]) for f in frames])
        # Of each row; cameras see one state.
        self._features = features[torch.searchsorted(frames.contiguous(), self.store.frames)]
        # Training rows that the deformer has yet to step on, with the gradients of their blends [N, 13].
        self._pending: list[tuple[int, Tensor]] = []
        self._placement = Placement()
        self.step, self.seconds, self._psnr = 0, 0.0, math.nan
        self.rollbacks = 0
        self._order = torch.empty(0, dtype=torch.long)
        self._pull = torch.zeros(len(self.avatar))
        self._pulls = 0
        # [N] Gaussians that no training picture shows; they are held as they are.
        self._hidden = torch.zeros(len(self.avatar), dtype=torch.bool)
        if restored is None:
            # What is trained is what a resume would read back.
            self.avatar.save(self.run / "start.avatar", exact=True)
            self._make_optimisers()
        else:
            self._restore(*restored)
        cut_log(self.run, self.step)
        self._densify_at = densify_steps(config.densify, config.steps)
        self._look_at = look_steps(config)
        self._witnesses = witnesses(capture.track, self.store, config.hidden_frames)
        self.writer = SummaryWriter(str(self.run / "tensorboard"), purge_step=self.step)
        self._saved_at = time.monotonic()

    # -- optimisers ---------------------------------------------------------------------------

    def _make_optimisers(self) -> None:
        rates = self.config.rates
        self.adam = FusedAdam(
            [
                {"params": [getattr(self.avatar, name)], "lr": getattr(rates, name), "name": name}
                for name in GAUSSIAN_PARAMETERS
            ]
        )
        self.deformer_step = make_deformer_step(self.avatar, rates)
        self.base_rates = [group["lr"] for group in self.adam.param_groups]

    def _set_rates(self) -> None:
        """Let all rates fall by one cosine from 1 to ``rates.final``."""
        rates = self.config.rates
        turn = math.cos(math.pi * min(1.0, self.step / self.config.steps))
        factor = rates.final + (1 - rates.final) * (1 + turn) / 2
        factor *= RATE_FACTOR**self.rollbacks
        for group, base in zip(self.adam.param_groups, self.base_rates, strict=True):
            group["lr"] = base * factor
        self.deformer_step.set_factor(factor)

    # -- one step -----------------------------------------------------------------------------

    def steps(self) -> Iterator[StepReport]:
        """Take the steps that are left, one a ``next``; safe to abandon between any two."""
        while self.step < self.config.steps:
            begin = time.perf_counter()
            with one_torch_thread():
                loss, psnr = self._step()
            self.seconds += time.perf_counter() - begin
            if not loss < LOSS_LIMIT:  # NaN is not less
                self._roll_back(f"the loss became {loss:.3g}")
                continue
            if len(self.avatar) == 0:
                self._roll_back("no Gaussian was left")
                continue
            due = time.monotonic() - self._saved_at > self.config.checkpoint_seconds
            if due or self.step == self.config.steps:
                bad = spoilt(self._state()[0])
                if bad is not None:
                    self._roll_back(f"'{bad}' became NaN or infinite")
                    continue
            if due:
                self.save_checkpoint()
            report = StepReport(self.step, loss, psnr, len(self.avatar), self.seconds)
            if self.step % LOG_EVERY == 0 or self.step == self.config.steps:
                self._log(report)
            yield report

    def _roll_back(self, reason: str) -> None:
        """Go back to the last good checkpoint, or to the start, at lower rates and in another order.

        Raises:
            InputError: it was done ``MOST_ROLLBACKS`` times before.
        """
        failed_at, seconds, rollbacks = self.step, self.seconds, self.rollbacks + 1
        if rollbacks > MOST_ROLLBACKS:
            raise gives_up(self.run, self.capture.path, failed_at, reason)
        found = load_newest(self.run / "checkpoints")
        if found is None:
            self._start_over()
        else:
            self._restore(*found)
        # The time was spent all the same.
        self.seconds, self.rollbacks = seconds, rollbacks
        self._saved_at = time.monotonic()
        # Else it would walk into the same hole, if more slowly.
        self.generator.manual_seed(self.config.seed + SEED_STRIDE * rollbacks)
        self._order = torch.empty(0, dtype=torch.long)
        cut_log(self.run, self.step)
        rate = RATE_FACTOR**rollbacks
        append_event(
            self.run / "metrics.jsonl",
            "rollback",
            self.step,
            failed_at=failed_at,
            reason=reason,
            rates=rate,
        )
        # On disk at once: a resume must not take the old rates and order again.
        self.save_checkpoint()
        message = (
            f"At step {failed_at} {reason}: back to step {self.step}, with learning rates at "
            f"{rate:.1%} of the preset's (time {rollbacks} of {MOST_ROLLBACKS} at most)."
        )
        self._report(Progress("train", self.step, self.config.steps, message))

    def _start_over(self) -> None:
        """Put everything back to before the first step."""
        self.avatar = Avatar.load(self.run / "start.avatar").requires_grad_(True)
        self._pending = []
        self.step = 0
        self._pull, self._pulls = torch.zeros(len(self.avatar)), 0
        self._hidden = torch.zeros(len(self.avatar), dtype=torch.bool)
        self._make_optimisers()

    def _next_row(self) -> int:
        if len(self._order) == 0:
            self._order = torch.randperm(len(self.store), generator=self.generator)
        row, self._order = int(self._order[0]), self._order[1:]
        self.store.expect([row, *self._order[:AHEAD].tolist()])
        return row

    def _step(self) -> tuple[float, float]:
        config, avatar = self.config, self.avatar
        self._set_rates()
        row = self._next_row()
        half = self.step < config.half_resolution * config.steps
        background = torch.ones(3)
        # On one colour only, Gaussians of that colour could stand for the background.
        if config.random_background:
            chance, *colour = torch.rand(4, generator=self.generator)
            if chance < config.random_background:
                background = torch.stack(colour)
        target, mask, camera = self.store.target(row, half, background)
        if self.step in self._look_at:
            self._find_hidden()
        state = self.store.states[row]

        with torch.no_grad():
            blend = avatar.deformer(self._features[row]).requires_grad_()
        gaussians = avatar.assemble(state, blend)
        shift = torch.zeros(len(avatar), 2, requires_grad=True)
        picture = rasterize_with_means2d(
            gaussians, camera, shift, background=background, backend="auto"
        )
        loss = l1_ssim_loss(picture.rgb, target, config.ssim_weight)
        loss = loss + config.alpha_weight * (picture.alpha - mask).abs().mean()
        # Large Gaussians look well from the training view only.
        excess = (avatar.log_scales - math.log(config.scale_limit_m)).clamp(min=0)
        loss = loss + 0.1 * excess.square().mean()
        if config.offset_decay:
            loss = loss + config.offset_decay * blend.square().mean()
        if (term := self.deformer_step.term()) is not None:
            loss = loss + term
        loss.backward()
        self._hold_hidden(blend, shift)
        self._apply(row, blend.grad)
        if shift.grad is not None:
            self._pull += torch.linalg.norm(shift.grad, dim=1) * max(camera.width, camera.height)
            self._pulls += 1
        self.step += 1
        if self.step in self._densify_at:
            plan = plan_densification(
                avatar, self._pull / max(1, self._pulls), config.densify, self.generator
            )
            self._step_deformer()
            self._rebuild(plan)
        # Reading every pixel once more is 3 % of a step, so it is done for the steps that are logged.
        if math.isnan(self._psnr) or self.step % LOG_EVERY == 0 or self.step == config.steps:
            with torch.no_grad():
                error = (picture.rgb.clamp(0, 1) - target).square().mean().clamp(min=1e-10)
            self._psnr = -10 * math.log10(error.item())
        return loss.item(), self._psnr

    def _find_hidden(self) -> None:
        share = self.config.hidden_share
        self._hidden = find_hidden(self.avatar, self.store, self._witnesses, share)

    def _hold_hidden(self, *others: Tensor) -> None:
        """Drop what the loss says to hidden Gaussians, and to ``others`` of one row a Gaussian.

        Through chest and neck, which are not quite opaque, they get a trace of a gradient. Adam takes
        as long a step on a trace as on any other, so they would grow and whiten to brighten what is
        before them, and be seen as blobs as soon as the view or the neck moves.
        """
        parameters = (getattr(self.avatar, name) for name in GAUSSIAN_PARAMETERS)
        for tensor in (*parameters, *others):
            if tensor.grad is not None:
                tensor.grad[self._hidden] = 0

    def _apply(self, row: int, blend_gradient: Tensor | None) -> None:
        self.adam.step()
        self._placement.hold(self.avatar)
        # A term of the loss pulls large ones back; a few are pulled the other way harder and explode.
        with torch.no_grad():
            scales = self.avatar.log_scales
            limited = scales.clamp(max=math.log(self.config.scale_limit_m))
            scales.copy_(torch.where(self._hidden[:, None], scales, limited))
        self.adam.zero_grad(set_to_none=True)
        if blend_gradient is not None:
            self._pending.append((row, blend_gradient))
        if len(self._pending) >= self.config.deformer_frames:
            self._step_deformer()

    def _step_deformer(self) -> None:
        """Step the deformer on the frames since its last step, of which only these gradients are kept."""
        if not self._pending:
            return
        rows, gradients = (list(part) for part in zip(*self._pending, strict=True))
        self._pending = []
        self.deformer_step.step(self._features[rows], torch.stack(gradients))

    def _rebuild(self, plan: Plan) -> None:
        """Reorder, add and drop Gaussians, optimiser state included."""
        avatar, source = self.avatar, plan.source
        apply_plan(avatar, self.adam, plan)
        avatar.set_binding(avatar.binding()[source])
        self.deformer_step.select(source, plan.fresh)
        self._hidden = self._hidden[source]
        self._pull = torch.zeros(len(source))
        self._pulls = 0

    # -- records ------------------------------------------------------------------------------

    def _log(self, report: StepReport) -> None:
        append_metrics(self.run, asdict(report))
        for name in ("loss", "psnr", "gaussians"):
            self.writer.add_scalar(f"train/{name}", getattr(report, name), report.step)

    def save_checkpoint(self) -> Path | None:
        """Write a checkpoint now; a resume continues exactly from here.

        Nothing is written, and None is returned, where a number in it is NaN or infinite.
        """
        tensors, header = self._state()
        if spoilt(tensors) is not None:
            return None
        path = save_checkpoint(self.run / "checkpoints", self.step, tensors, header)
        self._saved_at = time.monotonic()
        return path

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return all that an exact resume needs: tensors and header of a checkpoint."""
        tensors: dict[str, Tensor] = {
            f"avatar.{name}": value for name, value in self.avatar.state_dict().items()
        }
        counts: dict[str, Any] = {}
        for group in self.adam.param_groups:
            for name, value in self.adam.state[group["params"][0]].items():
                store(tensors, counts, f"adam.{group['name']}.{name}", value)
        for name, value in self.deformer_step.state().items():
            store(tensors, counts, f"deformer_step.{name}", value)
        for index, (_, gradient) in enumerate(self._pending):
            tensors[f"pending.{index}"] = gradient
        counts["pending_rows"] = [row for row, _ in self._pending]
        tensors |= {
            "order": self._order,
            "pull": self._pull,
            "hidden": self._hidden,
            "generator": self.generator.get_state(),
        }
        header = {
            "step": self.step,
            "seconds": self.seconds,
            "pulls": self._pulls,
            "rollbacks": self.rollbacks,
            "counts": counts,
        }
        return tensors, header

    def _restore(self, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
        avatar = self.avatar
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
        counts = header["counts"]
        for group in self.adam.param_groups:
            self.adam.state[group["params"][0]] = fetch(tensors, counts, f"adam.{group['name']}.")
        self.deformer_step.restore(fetch(tensors, counts, "deformer_step."))
        self._pending = [
            (row, tensors[f"pending.{index}"]) for index, row in enumerate(counts["pending_rows"])
        ]
        self._order, self._pull = tensors["order"], tensors["pull"]
        self._hidden = tensors["hidden"]
        self.generator.set_state(tensors["generator"])
        self.step, self.seconds = int(header["step"]), float(header["seconds"])
        self._pulls = int(header["pulls"])
        self.rollbacks = int(header.get("rollbacks", 0))

    def snapshot(self) -> Avatar:
        """Return a copy of the avatar as it is, for others to read while the fit goes on.

        To be called between steps, on the thread that takes them; a copy takes milliseconds.
        """
        return copy.deepcopy(self.avatar).requires_grad_(False)

    def finish(self, path: Path) -> Avatar:
        """Write the avatar file and the last checkpoint; return the avatar, no longer trainable."""
        if self.save_checkpoint() is None:
            self._roll_back(f"'{spoilt(self._state()[0])}' became NaN or infinite")
        avatar = self.avatar.requires_grad_(False)
        reach = reach_of(
            self.capture.track, avatar.rest, training_frames(self.capture, self.config.hold_cameras)
        )
        avatar.header |= {
            "source_sha256": self.capture.source_sha256,
            "config": self.config.to_json(),
            "headsplat": __version__,
            "steps": self.step,
            **reach_header(reach),
        }
        write_result(self.run, self.step, len(avatar), self.seconds)
        avatar.save(path)
        self.writer.close()
        self.store.close()
        return avatar


StepListener = Callable[[Trainer, StepReport], bool]
"""Is called after each step, on the thread that fits, which waits for it; returns whether to go on."""


def fit(
    capture: Capture,
    run: Path,
    config: TrainConfig,
    *,
    resume: bool = False,
    overwrite: bool = False,
    report: Reporter = ignore_progress,
    listener: StepListener | None = None,
) -> Avatar:
    """Fit an avatar to a capture and leave it in ``run/avatar.avatar``.

    A ``listener`` looks on, may make the fit wait, and may end it early; it ends then as if done.
    Ctrl-C writes a checkpoint before it goes on; kill -9 loses at most ``checkpoint_seconds`` of work.

    Raises:
        InputError: see ``Trainer``; also where numbers become NaN again and again, or memory runs out.
    """
    run = Path(run)
    if overwrite and (run / "config.json").is_file():
        training_frames(
            capture, config.hold_cameras
        )  # what cannot be fitted does not cost the run that is there
        shutil.rmtree(run)
    with out_of_memory_said(run):
        trainer = Trainer(capture, run, config, resume=resume, report=report)
        try:
            for step in trainer.steps():
                values = {"loss": step.loss, "psnr": step.psnr, "gaussians": float(step.gaussians)}
                report(Progress("train", step.step, config.steps, values=values))
                if listener is not None and not listener(trainer, step):
                    break
        except KeyboardInterrupt:
            trainer.save_checkpoint()
            raise
        return trainer.finish(run / "avatar.avatar")
