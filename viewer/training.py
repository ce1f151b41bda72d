"""A fit as it goes, in the browser: watch the avatar form, pause, stop early and keep.

The fit runs on the caller's thread and the browser is served from others. They never share an avatar:
between two steps the fit hands over a copy, and only while somebody looks on.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType

import numpy as np
import torch
import viser.uplot

from avatar.capture_data import Capture
from avatar.model.avatar import Avatar
from avatar.raster import one_torch_thread, rasterize
from avatar.train.evaluate import trained_side
from avatar.train.loop import StepReport, Trainer
from avatar.train.metrics import psnr
from avatar.train.rollback import read_metrics
from viewer.app import ViewerApp, need_port

WATCHING_SHARE = 0.25
"""Share of the time in which pictures are drawn while the fit runs. Both use all cores, so the fit loses
about half of that to somebody who moves the camera without pause."""
SHOW_S = 1.0
"""How often a new copy of the avatar is shown, at the most."""
COPY_SHARE = 0.03
"""Share of the time that making copies and what goes with them may take."""
PLOT_POINTS = 300
"""Points of a curve at most: a long fit's curves are thinned out."""
PACE_WINDOW = 8
"""Showings over which the speed of the fit is taken for the time left."""
COMPARE_SIDE = 320
"""Longer side, pixels, of each of the two pictures of a held-out frame."""


class TrainingView:
    """A listener of a fit (``avatar.train.loop.StepListener``) that shows it in the browser.

    A context manager: leaving it ends the server. It listens from the first step on.
    """

    def __init__(
        self,
        capture: Capture,
        *,
        host: str = "127.0.0.1",
        port: int = 8080,
        ready: Callable[[str], None] | None = None,
    ) -> None:
        """Prepare.

        Args:
            capture: what is fitted to: its motion can be played, its held-out frames compared.
            host: address to listen on; the default is not reachable from other machines.
            port: port to listen on; 0 lets the system choose.
            ready: called with the address to open, once browsers can.

        Raises:
            InputError: the port is taken, said before any time is spent on fitting.
        """
        need_port(host, port)
        self._capture, self._host, self._port, self._ready = capture, host, port, ready
        self._app: ViewerApp | None = None
        self._panel: _Panel | None = None
        self._going = threading.Event()
        self._going.set()
        self._stopped = threading.Event()
        self._show_at = 0.0
        self._watched = False
        self._pace: deque[tuple[int, float]] = deque(maxlen=PACE_WINDOW)

    def __enter__(self) -> TrainingView:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._app is not None:
            self._app.stop()

    @property
    def app(self) -> ViewerApp:
        """The viewer; raises RuntimeError before the first step."""
        if self._app is None:
            raise RuntimeError("the viewer opens after the first step.")
        return self._app

    def __call__(self, trainer: Trainer, report: StepReport) -> bool:
        """Show a step where it is time to; wait while paused; return False once told to stop."""
        if self._app is None:
            self._open(trainer)
        watched = bool(self.app.paces)
        last = report.step == trainer.config.steps
        if watched and (last or not self._watched or time.monotonic() >= self._show_at):
            self._show(trainer, report)
        self._watched = watched
        if not self._going.is_set():
            self._wait(trainer, report)
        return not self._stopped.is_set()

    def _open(self, trainer: Trainer) -> None:
        app = ViewerApp(
            trainer.snapshot(),
            track=self._capture.track,
            host=self._host,
            port=self._port,
            share=WATCHING_SHARE,
        )
        app.start()
        # The motion would take of the fit's time; whoever wants it sets it going.
        app.panels.playing.value = False
        track, (begin, end) = self._capture.track, self._capture.splits.test
        missing = self._capture.cameras[self._capture.main].missing
        held_out = [f for f in range(begin, end) if bool(track.valid[f]) and f not in missing]
        self._app = app
        self._panel = _Panel(app.server, held_out, self._toggle, self._stop)
        if self._ready is not None:
            self._ready(app.url)

    def _toggle(self) -> None:
        if self._going.is_set():
            self._going.clear()
        else:
            self._going.set()

    def _stop(self) -> None:
        self._stopped.set()
        self._going.set()

    def _wait(self, trainer: Trainer, report: StepReport) -> None:
        """Hold the fit until it may go on; pictures may have the machine meanwhile."""
        assert self._panel is not None
        self._show(trainer, report)
        self._panel.show_going(False)
        self.app.share = 1.0
        # In short waits, so that Ctrl-C gets through everywhere.
        while not self._going.wait(0.2):
            pass
        self.app.share = WATCHING_SHARE
        self._panel.show_going(True)
        self._pace.clear()

    def _show(self, trainer: Trainer, report: StepReport) -> None:
        """Hand a copy of the avatar to the viewer, and the numbers to the panel."""
        assert self._panel is not None
        begun = time.monotonic()
        avatar = trainer.snapshot()
        self.app.set_avatar(avatar)
        self._pace.append((report.step, report.seconds))
        self._panel.show_numbers(report, trainer.config.steps, self._left_s(trainer))
        self._panel.show_curves(read_metrics(trainer.run / "metrics.jsonl"))
        frame = self._panel.compared_frame()
        if frame is not None:
            self._panel.show_pair(frame, *compare(avatar, self._capture, frame))
        now = time.monotonic()
        self._show_at = now + max(SHOW_S, (now - begun) / COPY_SHARE)

    def _left_s(self, trainer: Trainer) -> float | None:
        """Seconds of fitting left at the present speed; None while that is not known."""
        (first, start_s), (step, now_s) = self._pace[0], self._pace[-1]
        if step <= first:  # one showing only, or the fit went back
            return None
        return (trainer.config.steps - step) * (now_s - start_s) / (step - first)


@torch.no_grad()
def compare(avatar: Avatar, capture: Capture, frame: int) -> tuple[np.ndarray, float]:
    """Return a frame beside the avatar in its state, uint8 [H, 2 W, 3] sRGB, and the PSNR, dB.

    At ``COMPARE_SIDE`` pixels at most, so it is an easier task than that of eval.json.
    """
    side = min(COMPARE_SIDE, trained_side(avatar) or COMPARE_SIDE)
    size = capture.size_within(side)
    truth = torch.from_numpy(capture.on_white(frame, size=size))
    state = capture.track.states()[frame]
    with one_torch_thread():
        camera = capture.camera().scaled(*size)
        shown = rasterize(avatar.pose(state), camera, background=torch.ones(3)).rgb.clamp(0, 1)
    pair = (torch.cat([truth, shown], 1) * 255).round().byte().numpy()
    return pair, psnr(shown, truth)


class _Panel:
    """The controls of a fit, above those of the viewer."""

    def __init__(
        self,
        server: viser.ViserServer,
        held_out: list[int],
        on_toggle: Callable[[], None],
        on_stop: Callable[[], None],
    ) -> None:
        gui = server.gui
        with gui.add_folder("Training", order=-1):
            self._numbers = gui.add_markdown("The fit begins.")
            self._toggle = gui.add_button("Pause")
            self._toggle.on_click(lambda _: on_toggle())
            self._stop = gui.add_button(
                "Stop and keep",
                hint="End the fit now and write the avatar as it is; the same command again goes on.",
            )
            self._stop.on_click(lambda _: self._end(on_stop))
            self._curves = gui.add_uplot(
                (np.zeros(2), np.zeros(2), np.zeros(2)),
                (
                    viser.uplot.Series(label="step"),
                    viser.uplot.Series(label="loss", stroke="#c0392b", width=1.5, scale="y"),
                    viser.uplot.Series(label="PSNR, dB", stroke="#2c6fbb", width=1.5, scale="dB"),
                ),
                scales={"x": viser.uplot.Scale(time=False)},
                axes=(
                    viser.uplot.Axis(),
                    viser.uplot.Axis(scale="y", stroke="#c0392b"),
                    viser.uplot.Axis(scale="dB", side=1, stroke="#2c6fbb"),
                ),
                height=170,
                visible=False,
            )
            self._held_out = held_out
            self._compare = gui.add_checkbox(
                "Compare",
                False,
                disabled=not held_out,
                hint="A held-out frame, which the fit never sees, beside the avatar in its state.",
            )
            last = max(len(held_out) - 1, 1)
            self._which = gui.add_slider("Held-out frame", 0, last, 1, 0, visible=False)
            blank = np.full((2, 4, 3), 255, np.uint8)
            self._pair = gui.add_image(blank, format="jpeg", jpeg_quality=90, visible=False)
            self._compare.on_update(lambda _: self._reveal())

    def _reveal(self) -> None:
        self._which.visible = bool(self._compare.value)
        self._pair.visible = False

    def _end(self, on_stop: Callable[[], None]) -> None:
        self._stop.disabled = self._toggle.disabled = True
        on_stop()

    def compared_frame(self) -> int | None:
        """Return the held-out frame to compare; None where none is wanted."""
        if not self._compare.value:
            return None
        return self._held_out[min(int(self._which.value), len(self._held_out) - 1)]

    def show_pair(self, frame: int, picture: np.ndarray, value: float) -> None:
        """Show a frame beside the avatar."""
        self._pair.image = picture
        self._pair.label = f"Frame {frame}: filmed, avatar ({value:.1f} dB)"
        self._pair.visible = bool(self._compare.value)

    def show_going(self, going: bool) -> None:
        """Say whether the fit goes on or waits."""
        self._toggle.label = "Pause" if going else "Continue"

    def show_numbers(self, report: StepReport, steps: int, left_s: float | None) -> None:
        """Write the line of numbers."""
        left = "" if left_s is None else f", about {_duration(left_s)} left"
        self._numbers.content = (
            f"Step {report.step:,} of {steps:,}, {_duration(report.seconds)}{left}. "
            f"{report.gaussians:,} Gaussians, training PSNR {report.psnr:.1f} dB."
        )

    def show_curves(self, rows: list[dict[str, float]]) -> None:
        """Draw loss and PSNR over the steps that were logged."""
        if len(rows) < 2:
            return
        chosen = np.linspace(0, len(rows) - 1, min(len(rows), PLOT_POINTS)).round().astype(int)
        columns = (
            np.array([rows[i][name] for i in chosen], float) for name in ("step", "loss", "psnr")
        )
        self._curves.data = tuple(columns)
        self._curves.visible = True


def _duration(seconds: float) -> str:
    """Return a time as people say it: 48 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
