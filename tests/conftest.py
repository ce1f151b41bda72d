"""Shared fixtures: the real clips where they are at hand, and a tiny bundled sample."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

# Two workers already have a test for each of two cores: more threads only take turns. What tests say of
# threads they set themselves.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("HEADSPLAT_THREADS", "1")

import pytest
import torch

# As the command line does: OpenMP's threads wait by spinning, and beside another process tests that
# train took seven times as long.
torch.set_num_threads(1)

# A shell without job control starts what runs in the background (`make test &`) with Ctrl-C ignored, which
# every program that the tests start would inherit, and tests of Ctrl-C would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def data():
    """Return a function that gives a test clip's path, or skips naming the file that is missing."""

    def find(name: str) -> Path:
        path = DATA / name
        if not path.exists():
            pytest.skip(f"needs {name} of the test data folder, which is not here")
        return path

    return find


@pytest.fixture
def gpu(monkeypatch):
    """Let CPU tensors pass for tensors on a GPU whose kernels are emulated."""
    from emulator.gpu import pretend_gpu

    with pretend_gpu(monkeypatch):
        yield


def make_avatar(gaussians: int = 300, seed: int = 0):
    """Build a small avatar of random Gaussians on the generic lattice: real in all but the person."""
    import torch

    from avatar.model.avatar import Avatar, Person
    from avatar.model.binding import HEAD, MOUTH, TORSO
    from avatar.model.create_features import bind
    from avatar.model.deformers.blendshapes import BlendshapeDeformer
    from avatar.rig.arkit import ARKIT_NAMES
    from avatar.rig.lattice import eyeball_centres, lattice_table
    from avatar.types import Camera, HeadState

    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    table = lattice_table()
    T_cam_world = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
    T_cam_world[2, 3] = 0.6
    K = torch.tensor([[140.0, 0, 48], [0, 140.0, 48], [0, 0, 1]])
    names = (*ARKIT_NAMES, "residual00", "residual01")
    person = Person(
        lattice=table.neutral,
        basis=normal(len(names), 478, 3) * 0.003,
        triangles=table.triangles,
        eyeballs=eyeball_centres(table.neutral),
        expression_names=names,
        expression_low=torch.zeros(len(names)),
        expression_high=torch.ones(len(names)),
        rest=HeadState(torch.zeros(len(names)), torch.zeros(2, 2), torch.eye(4), torch.eye(4)),
        camera=Camera(K, T_cam_world, 96, 96),
        fps=25.0,
    )
    points = table.neutral[torch.randint(468, (gaussians,), generator=generator)]
    points = points + normal(gaussians, 3) * 0.01
    eye = torch.full((gaussians,), -1)
    eye[:5], eye[5:10] = 0, 1
    follow = torch.full((gaussians,), float("nan"))
    follow[:10] = 0.0
    parameters = {
        "means": points,
        "quats": normal(gaussians, 4),
        "log_scales": normal(gaussians, 3) * 0.3 - 5.0,
        "logit_opacities": normal(gaussians),
        "colours": torch.rand(gaussians, 3, generator=generator),
        "torso_logits": normal(gaussians),
    }
    # Sorted, as every avatar's; the numbers are of no other size of a deformer's tensors.
    inside, torso = gaussians // 10 + 1, gaussians // 4 - 3
    part = torch.full((gaussians,), HEAD)
    part[gaussians - torso - inside :] = MOUTH
    part[gaussians - torso :] = TORSO
    binding = replace(bind(person, points, follow, eye), part=part)
    avatar = Avatar(
        person,
        binding,
        parameters,
        settings={"shapes": 6, "hidden": 16},
        generator=torch.Generator().manual_seed(seed),
    )
    assert isinstance(avatar.deformer, BlendshapeDeformer)
    with torch.no_grad():
        avatar.deformer.offsets.copy_(normal(6, gaussians, 13) * 0.05)
    return avatar


def of_kind(base, kind: str, seed: int = 0):
    """Return the avatar with another deformer, as a fit would have it at its start."""
    import torch

    from avatar.model.avatar import GAUSSIAN_PARAMETERS, Avatar, Person

    person = Person(
        **{name: getattr(base, name) for name in ("lattice", "basis", "triangles", "eyeballs")},
        expression_names=base.expression_names,
        expression_low=base.expression_low,
        expression_high=base.expression_high,
        rest=base.rest,
        camera=base.camera,
        fps=base.fps,
    )
    parameters = {name: getattr(base, name) for name in GAUSSIAN_PARAMETERS}
    generator = torch.Generator().manual_seed(seed)
    return Avatar(person, base.binding(), parameters, deformer=kind, generator=generator)


@pytest.fixture
def tiny_avatar():
    """A small real avatar, made anew for each test."""
    return make_avatar()


def made_once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]):
    """Return this worker's own copy of what the first worker that needs it makes."""
    own = tmp_path_factory.mktemp("small") / name
    if "PYTEST_XDIST_WORKER" not in os.environ:
        make(own)
        return own
    shared = tmp_path_factory.getbasetemp().parent / "small"
    shared.mkdir(exist_ok=True)
    with open(shared / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / f"{name}.done").exists():
            make(shared / name)
            (shared / f"{name}.done").touch()
    # A copy, as the viewer leaves small pictures in a capture while it is looked at.
    if (shared / name).is_dir():
        shutil.copytree(shared / name, own)
    else:
        shutil.copyfile(shared / name, own)
    return own


@pytest.fixture(scope="session")
def small_clip(tmp_path_factory):
    """The bundled sample, short and small: the real clip of most end-to-end tests."""
    from capture.sample import make_sample

    def make(path: Path) -> None:
        make_sample(path, seconds=2.4, size=256, voice=False)

    return made_once(tmp_path_factory, "clip.mp4", make)


@pytest.fixture(scope="session")
def small_capture(small_clip, tmp_path_factory):
    """The captured and tracked sample; read only."""
    from avatar.capture_data import Capture
    from capture.pipeline import CaptureConfig, capture_video

    def make(path: Path) -> None:
        capture_video([small_clip], path, CaptureConfig())

    return Capture(made_once(tmp_path_factory, "me.capture", make))
