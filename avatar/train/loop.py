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
from avatar.model.avatar import Avatar
from avatar.model.create import create_avatar
from avatar.model.reach import reach_header, reach_of
from avatar.raster import one_torch_thread
from avatar.raster.fused import FusedAdam
from avatar.train.checkpoint import load_newest, save_checkpoint
from avatar.train.config import TrainConfig
from avatar.train.densify import densify_steps, plan_densification
from avatar.train.device import DeviceName, Lane, compute_device, device_label
from avatar.train.fit_state import FitState
from avatar.train.frames import AHEAD, FrameStore, training_cameras, training_frames
from avatar.train.graph import StepRunner
from avatar.train.hidden import find_hidden, look_steps, witnesses
from avatar.train.memory import available_bytes, cache_bytes, out_of_memory_said
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
from avatar.train.step import InputRows
from avatar.types import Progress, Reporter, ignore_progress

LOG_EVERY = 25
"""Steps between lines of metrics.jsonl, and between two times that a GPU is waited for."""


@dataclass(frozen=True)
class StepReport:
    """What one step measured."""

    step: int
    """Steps done."""
    loss: float
    """Of this step; on a GPU of the last step that was read."""
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
        device: DeviceName = "cpu",
    ) -> None:
        """Open or create the run folder and make or restore the avatar.

        Numbers are computed on ``device``; what is drawn at random, and what is split or dropped, is decided
        on the CPU, and files do not tell where they came from: a run may go on on another device.

        Raises:
            InputError: the folder holds another or an unfinished run, the capture cannot be used, or the
                device does not work here.
        """
        self.capture, self.run, self.config = capture, Path(run), config
        self._report = report
        self.lane = Lane(compute_device(device))
        # What cannot be fitted leaves no run behind.
        valid = training_frames(capture, config.hold_cameras)
        cameras = training_cameras(capture, config.hold_cameras)
        room = cache_bytes(capture, config, available_bytes())
        open_run(self.run, capture, config, resume=resume)
        restored = load_newest(self.run / "checkpoints") if resume else None
        self.generator = torch.Generator().manual_seed(config.seed)
        if restored is None:
            avatar = create_avatar(
                capture, valid, config.create, cameras=cameras, generator=self.generator
            )
        else:
            avatar = Avatar.load(self.run / "start.avatar")
        every = math.ceil(len(valid) / config.max_frames)
        report(Progress("frames", 0, 0, "Reading frames"))
        frames = valid[::every]
        if config.steps < len(frames) * len(cameras):
            room = 0  # no picture is asked for twice
        with self.lane.entered():
            self.store = FrameStore(
                capture,
                frames,
                config.max_side,
                cameras=cameras,
                cache_bytes=room,
                device=self.lane.device,
            )
            rows = self._input_rows(avatar, frames)
            # What is trained is what a resume would read back.
            if restored is None:
                avatar.save(self.run / "start.avatar", exact=True)
            self.state = FitState(avatar, config, self.lane.device)
            self.runner = StepRunner(self.state, rows, self.lane, said=self._say)
        self.step, self.seconds = 0, 0.0
        self._loss = self._psnr = self._worst = math.nan
        self.rollbacks = 0
        self._order = torch.empty(0, dtype=torch.long)
        if self.lane.stream is not None:
            self._say(f"Fitting on {device_label(self.lane.device)}")
        if restored is not None:
            self._restore(*restored)
        cut_log(self.run, self.step)
        self._densify_at = densify_steps(config.densify, config.steps)
        self._look_at = look_steps(config)
        self._witnesses = witnesses(capture.track, self.store, config.hidden_frames)
        self.writer = SummaryWriter(str(self.run / "tensorboard"), purge_step=self.step)
        self._saved_at = time.monotonic()

    def _input_rows(self, avatar: Avatar, frames: Tensor) -> InputRows:
        states, store = self.capture.track.states(), self.store
        features = torch.stack([avatar.features(states[int(f)]) for f in frames])
        # Of each row; cameras see one state.
        features = features[torch.searchsorted(frames.contiguous(), store.frames)]
        cameras = [(store.camera(row), store.camera(row, half=True)) for row in range(len(store))]
        return InputRows(features, store.states, cameras).to(self.lane.device)

    @property
    def avatar(self) -> Avatar:
        """The avatar as it is, on the fit's device."""
        return self.state.avatar

    @property
    def adam(self) -> FusedAdam:
        """The optimiser of the Gaussians."""
        return self.state.adam

    def _say(self, message: str) -> None:
        self._report(Progress("train", self.step, self.config.steps, message))

    def _rate_factor(self) -> float:
        """All rates fall by one cosine from 1 to ``rates.final``."""
        final = self.config.rates.final
        turn = math.cos(math.pi * min(1.0, self.step / self.config.steps))
        factor = final + (1 - final) * (1 + turn) / 2
        return factor * RATE_FACTOR**self.rollbacks

    # -- one step -----------------------------------------------------------------------------

    def steps(self) -> Iterator[StepReport]:
        """Take the steps that are left, one a ``next``; safe to abandon between any two."""
        while self.step < self.config.steps:
            begin = time.perf_counter()
            with one_torch_thread(), self.lane.entered():
                self._step()
                due = time.monotonic() - self._saved_at > self.config.checkpoint_seconds
                # The CPU has the numbers; a GPU would have to be waited for.
                if self.lane.stream is None or due or self._logs():
                    self._read()
            self.seconds += time.perf_counter() - begin
            if (reason := self._loss_is_bad()) is not None:
                self._roll_back(reason)
                continue
            if len(self.avatar) == 0:
                self._roll_back("no Gaussian was left")
                continue
            ends = self.step == self.config.steps
            if (due or ends) and (reason := self._trouble()) is not None:
                self._roll_back(reason)
                continue
            if due:
                self._write()
            report = StepReport(self.step, self._loss, self._psnr, len(self.avatar), self.seconds)
            if self._logs():
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
        avatar = Avatar.load(self.run / "start.avatar")
        with self.lane.entered():
            self.state = FitState(avatar, self.config, self.lane.device)
        self.runner.fit = self.state
        self.runner.forget()
        self.step = 0

    def _next_row(self, half: bool) -> int:
        if len(self._order) == 0:
            self._order = torch.randperm(len(self.store), generator=self.generator)
        row, self._order = int(self._order[0]), self._order[1:]
        self.store.expect([row, *self._order[:AHEAD].tolist()], half)
        return row

    def _logs(self) -> bool:
        """Whether the last step is one that is logged, or the first that this process took."""
        return self._is_logged(self.step)

    def _is_logged(self, step: int) -> bool:
        return math.isnan(self._psnr) or step % LOG_EVERY == 0 or step == self.config.steps

    def _step(self) -> None:
        config, state = self.config, self.state
        state.set_rates(self._rate_factor())
        half = self.step < config.half_resolution * config.steps
        row = self._next_row(half)
        background = torch.ones(3)
        # On one colour only, Gaussians of that colour could stand for the background.
        if config.random_background:
            chance, *colour = torch.rand(4, generator=self.generator)
            if chance < config.random_background:
                background = torch.stack(colour)
        if not half:
            self.store.drop_halves()
        rgba = self.store.pixels(row, half)
        if self.step in self._look_at:
            state.set_hidden(
                find_hidden(self.avatar, self.store, self._witnesses, config.hidden_share)
            )
        measure = self._is_logged(self.step + 1)
        self.runner.take(row, rgba, background, half=half, measure=measure)
        self.step += 1
        if self.step in self._densify_at:
            plan = plan_densification(
                self.avatar, state.mean_pull(), config.densify, self.generator
            )
            self.runner.step_deformer()
            state.rebuild(plan)
            self.runner.forget()

    def _read(self) -> None:
        """Read what the steps since the last time measured; waits for a GPU."""
        sums = self.state.sums
        loss, worst, error = torch.stack([sums.loss, sums.worst, sums.error]).tolist()
        sums.worst.fill_(-math.inf)
        self._loss, self._worst = loss, worst
        # Reading every pixel once more is 3 % of a step, so it is done for the steps that are logged.
        if self._logs():
            self._psnr = -10 * math.log10(error)
        self.runner.make_room()

    def _loss_is_bad(self) -> str | None:
        """Say what is wrong with the losses read last, None where nothing is.

        On a GPU they are read every ``LOG_EVERY`` steps and before each checkpoint, the worst of all since
        the last time: so a fit that fell apart is noticed later than on a CPU, but before it is written.
        """
        # NaN is not less.
        return None if self._worst < LOSS_LIMIT else f"the loss became {self._worst:.3g}"

    # -- records ------------------------------------------------------------------------------

    def _log(self, report: StepReport) -> None:
        append_metrics(self.run, asdict(report))
        for name in ("loss", "psnr", "gaussians"):
            self.writer.add_scalar(f"train/{name}", getattr(report, name), report.step)

    def save_checkpoint(self) -> Path | None:
        """Write a checkpoint now; a resume continues exactly from here.

        Nothing is written, and None is returned, where a number in it is NaN or infinite.
        """
        return None if self._trouble() is not None else self._write()

    def _write(self) -> Path:
        tensors, header = self._state()
        path = save_checkpoint(self.run / "checkpoints", self.step, tensors, header)
        self._saved_at = time.monotonic()
        return path

    def _trouble(self) -> str | None:
        """Say why the fit must not be kept as it is; None where it may."""
        if self.lane.stream is not None:
            # Of the steps since the losses were last read.
            with self.lane.entered():
                self._worst = float(self.state.sums.worst)
            if (reason := self._loss_is_bad()) is not None:
                return reason
        bad = spoilt(self._state()[0])
        return None if bad is None else f"'{bad}' became NaN or infinite"

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return all that an exact resume needs: tensors and header of a checkpoint."""
        with self.lane.entered():
            tensors, counts = self.state.stored()
        tensors |= {"order": self._order, "generator": self.generator.get_state()}
        header = {
            "step": self.step,
            "seconds": self.seconds,
            "pulls": self.state.pulls,
            "rollbacks": self.rollbacks,
            "counts": counts,
        }
        return tensors, header

    def _restore(self, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
        own = {n: t for n, t in tensors.items() if n not in ("order", "generator")}
        with self.lane.entered():
            self.state.restore(own, header["counts"], int(header["pulls"]))
        self.runner.forget()
        self._order = tensors["order"]
        self.generator.set_state(tensors["generator"])
        self.step, self.seconds = int(header["step"]), float(header["seconds"])
        self.rollbacks = int(header.get("rollbacks", 0))

    def snapshot(self) -> Avatar:
        """Return a copy of the avatar as it is, on the CPU, for others to read while the fit goes on.

        To be called between steps, on the thread that takes them; a copy takes milliseconds.
        """
        with self.lane.entered():
            return copy.deepcopy(self.avatar).cpu().requires_grad_(False)

    def finish(self, path: Path) -> Avatar:
        """Write the avatar file and the last checkpoint; return the avatar, on the CPU, no longer trainable."""
        if (reason := self._trouble()) is not None:
            self._roll_back(reason)
        else:
            self._write()
        with self.lane.entered():
            avatar = self.avatar.cpu().requires_grad_(False)
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
    device: DeviceName = "cpu",
) -> Avatar:
    """Fit an avatar to a capture and leave it in ``run/avatar.avatar``.

    A ``listener`` looks on, may make the fit wait, and may end it early; it ends then as if done.
    Ctrl-C writes a checkpoint before it goes on; kill -9 loses at most ``checkpoint_seconds`` of work.

    Raises:
        InputError: see ``Trainer``; also where numbers become NaN again and again, or memory runs out.
    """
    run = Path(run)
    compute_device(device)  # what cannot run costs no run that is there
    if overwrite and (run / "config.json").is_file():
        training_frames(
            capture, config.hold_cameras
        )  # what cannot be fitted does not cost the run that is there
        shutil.rmtree(run)
    with out_of_memory_said(run):
        trainer = Trainer(capture, run, config, resume=resume, report=report, device=device)
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
