"""What a web page's avatar reaches in a real browser: likeness to our rasterizer, and speed."""

from __future__ import annotations

import base64
import json
import math
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from avatar.export.web import write_page
from avatar.export.web_browser import Chromium
from avatar.model.avatar import Avatar
from avatar.model.views import slider_state
from avatar.raster import rasterize
from avatar.rig.arkit import ARKIT_NAMES
from avatar.rotations import rigid, rotvec_to_matrix
from avatar.types import Camera, HeadState

EXPRESSIONS = 10
SIZE = 512
PICTURES = 30
"""Pictures that are timed."""


WATCH_S = 6.0
"""How long the idling head is watched; the frames of the last second count."""
_WATCH = (
    "avatar.on('frame', e => { window.seen = [e.stats.fps, e.stats.width, e.stats.height]; }); 0"
)


@dataclass(frozen=True)
class WebBench:
    """What was measured."""

    gaussians: int
    page_bytes: int
    psnr_neutral: float
    """dB between the page's picture and ours at rest, from the capture's camera."""
    psnr_expressions: tuple[float, ...]
    """dB at random expressions, gazes and head poses."""
    load_s: float
    """From opening the file to the first picture."""
    page_ms: float
    """Median milliseconds of JavaScript on the page's thread for one picture."""
    pose_ms: float
    """Of them, networks and lattice."""
    upload_ms: float
    """Of them, handing what changed to the GPU."""
    sort_ms: float
    """Median of a sort in the worker, beside the page's thread."""
    draw_ms: float
    """Median of waiting for the GPU, or for software that stands in for it."""
    frames_per_s: float
    """With every picture waited for, at ``SIZE`` squared."""
    moving_frames_per_s: float
    """As a user has it, the head idling in a window of that size: slow machines draw fewer pixels."""
    moving_pixels: tuple[int, int]
    """Width and height that it then draws."""
    renderer: str
    """What draws for WebGL."""

    def as_json(self) -> dict[str, Any]:
        """Return all fields, and the shares of a picture's time."""
        total = self.page_ms + self.draw_ms
        shares = {
            "upload": self.upload_ms / total,
            "draw": self.draw_ms / total,
            "sort_beside": self.sort_ms / total,
        }
        return asdict(self) | {"shares": shares}


def bench_web(avatar: Avatar, *, seed: int = 0, size: int = SIZE) -> WebBench:
    """Open an avatar's page in headless Chromium and measure it.

    Args:
        avatar: whose page.
        seed: of the random expressions.
        size: width and height of the pictures, pixels.

    Raises:
        InputError: no Chromium is installed, or a page cannot pose this avatar.
    """
    states = [slider_state(avatar, {}), *random_states(avatar, EXPRESSIONS, seed)]
    with tempfile.TemporaryDirectory() as folder:
        facts = write_page(Path(folder) / "me.html", avatar, title="bench")
        with Chromium(Path(folder) / "profile") as browser:
            load_s = open_page(browser, facts.path)
            likeness = [psnr(browser, avatar, state, size) for state in states]
            # The page's own loop would draw in between and be counted.
            times = browser.run(f"avatar.measure({PICTURES}, {size}, {size})")
            browser.resize(size, size)
            # With the panel away all of the window is the avatar's.
            browser.run(
                "document.getElementById('app').classList.remove('open'); avatar.setIdle(true)"
            )
            browser.run(_WATCH)
            time.sleep(WATCH_S)
            moving = browser.wait_for("window.seen")  # nothing yet on a very slow machine
            renderer = browser.run(
                "(() => { const gl = document.createElement('canvas').getContext('webgl2');"
                "const e = gl.getExtension('WEBGL_debug_renderer_info');"
                "return e ? gl.getParameter(e.UNMASKED_RENDERER_WEBGL) : ''; })()"
            )
    measured = {
        name: times[name]
        for name in ("page_ms", "pose_ms", "upload_ms", "sort_ms", "draw_ms", "frames_per_s")
    }
    return WebBench(
        gaussians=len(avatar),
        page_bytes=facts.bytes,
        psnr_neutral=likeness[0],
        psnr_expressions=tuple(likeness[1:]),
        load_s=load_s,
        renderer=renderer,
        moving_frames_per_s=moving[0],
        moving_pixels=(int(moving[1]), int(moving[2])),
        **measured,
    )


def print_page(page: WebBench) -> None:
    """Print what was measured beside what is wanted."""
    total = page.page_ms + page.draw_ms
    width, height = page.moving_pixels
    rows = (
        ("page, megabytes", f"{page.page_bytes / 1e6:.1f}", "<= 15"),
        ("page to first picture, s", f"{page.load_s:.1f}", ""),
        ("page against ours at rest, dB", f"{page.psnr_neutral:.1f}", ">= 35"),
        (
            f"the same, worst of {len(page.psnr_expressions)} random states",
            f"{min(page.psnr_expressions):.1f}",
            ">= 35",
        ),
        ("JavaScript that poses, ms a picture", f"{page.pose_ms:.2f}", "<= 3"),
        ("all JavaScript, ms a picture", f"{page.page_ms:.2f}", ""),
        ("sort in its worker, ms", f"{page.sort_ms:.1f}", ""),
        ("share of upload, draw", f"{page.upload_ms / total:.0%}, {page.draw_ms / total:.0%}", ""),
        (f"frames/s at {SIZE} x {SIZE}", f"{page.frames_per_s:.1f}", ""),
        (f"frames/s moving, at {width} x {height}", f"{page.moving_frames_per_s:.1f}", ""),
    )
    for name, value, wanted in rows:
        print(f"{name:<36}{value:>16}   {wanted}")
    print(f"WebGL is drawn by {page.renderer or 'what the browser does not tell'}.")


def random_states(avatar: Avatar, count: int, seed: int) -> list[HeadState]:
    """Return states with about a third of the coefficients on, up to what the clip showed.

    The head turns by up to 0.2 rad about each axis and the eyes by as much.
    """
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(count):
        high = avatar.expression_high[: len(ARKIT_NAMES)].clamp(0, 1)
        on = torch.rand(len(high), generator=generator) < 0.3
        values = torch.rand(len(high), generator=generator) * high * on
        state = slider_state(avatar, dict(zip(ARKIT_NAMES, values.tolist(), strict=True)))
        turn = torch.rand(2, 3, generator=generator) * 0.4 - 0.2
        R = rotvec_to_matrix(turn[0])
        gaze = state.gaze + turn[1, :2]
        head = state.T_world_head @ rigid(R, torch.zeros(3))
        made.append(replace(state, gaze=gaze, T_world_head=head))
    return made


def open_page(browser: Chromium, path: Path) -> float:
    """Open a page from disk and return the seconds until its first picture was drawn.

    Raises:
        TimeoutError: none was.
    """
    browser.open(Path(path).resolve().as_uri())
    script = (
        "(async () => { while (!window.avatar) await new Promise(r => setTimeout(r, 20));"
        "await avatar.ready; avatar.capture({width: 64, height: 64});"
        "return performance.now() / 1000; })()"
    )
    browser.wait_for("document.readyState == 'complete' && !!window.avatar")
    return float(browser.run(script))


def page_picture(browser: Chromium, state: HeadState, camera: Camera) -> np.ndarray:
    """Return the open page's canvas for a state and a camera, on white: uint8 [H, W, 3]."""
    K = camera.K
    wanted = {
        "state": {
            "expression": state.expression.tolist(),
            "gaze": state.gaze.flatten().tolist(),
            "head": state.T_world_head.flatten().tolist(),
            "torso": state.T_world_torso.flatten().tolist(),
        },
        "camera": {
            "K": [float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2])],
            "T": camera.T_cam_world.flatten().tolist(),
            "width": camera.width,
            "height": camera.height,
        },
    }
    script = f"""(() => {{
        const wanted = {json.dumps(wanted)};
        wanted.state.expression = Float32Array.from(wanted.state.expression);
        const {{ pixels }} = avatar.capture(wanted);
        let text = "";
        for (let i = 0; i < pixels.length; i += 8192)
            text += String.fromCharCode(...pixels.subarray(i, i + 8192));
        return btoa(text);
    }})()"""
    raw = np.frombuffer(base64.b64decode(browser.run(script)), np.uint8)
    return raw.reshape(camera.height, camera.width, 4)[..., :3]


def our_picture(avatar: Avatar, state: HeadState, camera: Camera) -> np.ndarray:
    """Return our rasterizer's picture on white: uint8 [H, W, 3]."""
    with torch.no_grad():
        white = torch.ones(3)
        rgb = rasterize(avatar.pose(state), camera, background=white).rgb
    return (rgb.clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def psnr(browser: Chromium, avatar: Avatar, state: HeadState, size: int) -> float:
    """Return dB between the open page's picture and ours, from the capture's camera; inf where equal."""
    camera = avatar.camera.scaled(size, size)
    ours = our_picture(avatar, state, camera).astype(np.float64)
    error = float(np.mean((page_picture(browser, state, camera) - ours) ** 2))
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)
