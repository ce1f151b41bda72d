"""The fit on a GPU, as far as a machine without one can tell: buffers, graphs, no waiting, no stray device.

What only a GPU shows is in test_cuda_gpu.py.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from emulator.gpu import pretend_to_train_on_gpu
from test_train import tensors_of
from torch.utils._python_dispatch import TorchDispatchMode

from avatar.capture_data import Capture
from avatar.checks import InputError
from avatar.model.avatar import Avatar
from avatar.raster import cuda, cuda_fused, cuda_raster, front, fused, rasterize
from avatar.raster.cuda_raster import pair_budget
from avatar.raster.fused import FusedAdam, unpack_target
from avatar.train import step
from avatar.train.device import compute_device
from avatar.train.fit_state import FitState
from avatar.train.graph import WARM_UP, StepRunner
from avatar.train.loop import Trainer, fit
from avatar.train.memory import out_of_memory_said
from avatar.train.placement import Placement
from configs import PRESETS

QUICK = replace(PRESETS["smoke"], steps=40)
SMALL = replace(
    QUICK,
    steps=8,
    max_side=64,
    max_frames=6,
    half_resolution=0.5,
    create=replace(QUICK.create, face=150, hair=80, torso=60, eye=10, mouth=20),
    hidden_frames=2,
    hidden_rounds=2,
    densify=replace(QUICK.densify, start=0.7, rounds=1),
)
"""What an emulated GPU takes seconds for."""


def finished(trainer: Trainer) -> dict[str, torch.Tensor]:
    for _ in trainer.steps():
        pass
    return trainer._state()[0]


def assert_equal(got: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(got[name], value), name


def assert_same_person(one: Trainer, other: Trainer, bound: float) -> None:
    """Compare what was fitted, by its pictures, with how far the fit has come."""
    begun = Avatar.load(one.run / "start.avatar")
    for row in range(len(one.store)):
        state, camera = one.store.states[row], one.store.camera(row)
        first, last, twin = (
            rasterize(avatar.pose(state), camera, background=torch.ones(3)).rgb.detach()
            for avatar in (begun, one.snapshot(), other.snapshot())
        )
        come = (last - first).abs().mean()
        assert come > 0.01
        assert (last - twin).abs().mean() < bound * come


# -- the same place for every step ------------------------------------------------------------


def test_inputs_copied_to_one_place_give_the_same_fit_bit_for_bit(small_capture, tmp_path):
    plain = Trainer(small_capture, tmp_path / "plain", QUICK)
    fixed = Trainer(small_capture, tmp_path / "fixed", QUICK)
    fixed.runner._fixed = True
    assert_equal(finished(fixed), finished(plain))
    assert len(fixed.runner._inputs) == 2  # half and whole


class Replay:
    """What a CUDA graph does, on the CPU: the same work on what lies in the same memory.

    A real graph would read and write freed memory where a tensor has moved; this says so.
    """

    def __init__(self, runner: StepRunner, work) -> None:
        self.runner, self.work, self.places, self.count = runner, work, places(runner), 0

    def replay(self) -> None:
        assert places(self.runner).items() >= self.places.items()
        self.count += 1
        self.work()


def places(runner: StepRunner) -> dict[str, int]:
    """Addresses of what steps read, change and keep, as far as it is there already."""
    state, avatar = runner.fit, runner.fit.avatar
    tensors = dict(avatar.named_parameters()) | dict(avatar.named_buffers())
    tensors |= {"hidden": state.hidden, "anchor": state.placement._anchor, **vars(state.sums)}
    for name in ("_eye", "_corners", "_corner_weights"):
        tensors[name] = getattr(avatar, name)
    for group in state.adam.param_groups:
        moments = state.adam.state[group["params"][0]]
        tensors |= {f"{group['name']}.{key}": moments[key] for key in ("exp_avg", "exp_avg_sq")}
    tensors |= {f"deformer step {n}": v for n, v in state.deformer_step.state().items()}
    for size, inputs in runner._inputs.items():
        tensors |= {f"{size}.{name}": getattr(inputs, name) for name in ("rgba", "pairs")}
        tensors |= {"features": inputs.features, "background": inputs.background}
    return {n: v.data_ptr() for n, v in tensors.items() if isinstance(v, torch.Tensor)}


@pytest.fixture
def graphs(monkeypatch) -> list[Replay]:
    """Capture steps as ``Replay``s; the list of all."""
    made: list[Replay] = []

    def capture(runner: StepRunner, work) -> Replay:
        made.append(Replay(runner, work))
        return made[-1]

    monkeypatch.setattr(StepRunner, "_graph_of", capture)
    return made


def captured(trainer: Trainer) -> Trainer:
    trainer.runner.captures = trainer.runner._fixed = True
    return trainer


@pytest.mark.parametrize("kind", ["branches", "rigid", "latent"])
def test_replayed_steps_give_the_same_fit_bit_for_bit(small_capture, tmp_path, graphs, kind):
    config = replace(QUICK, create=replace(QUICK.create, deformer=kind))
    expected = finished(Trainer(small_capture, tmp_path / "plain", config))
    trainer = captured(Trainer(small_capture, tmp_path / "captured", config))
    assert_equal(finished(trainer), expected)
    # Half size before and after densification at step 6, whole size, and the deformer's, each fourth step.
    assert [graph.count for graph in graphs] == [3, 7, 21, 5]


def test_a_return_to_a_checkpoint_captures_anew(small_capture, tmp_path, graphs):
    config = replace(QUICK, checkpoint_seconds=1e9)

    def spoilt_once(trainer: Trainer) -> dict[str, torch.Tensor]:
        for report in trainer.steps():
            if report.step == 10 and trainer.rollbacks == 0:
                trainer.save_checkpoint()
            if report.step == 14 and trainer.rollbacks == 0:
                with torch.no_grad():
                    trainer.avatar.log_scales[::3] = math.nan
        assert trainer.rollbacks == 1
        return trainer._state()[0]

    expected = spoilt_once(Trainer(small_capture, tmp_path / "plain", config))
    assert_equal(
        spoilt_once(captured(Trainer(small_capture, tmp_path / "other", config))), expected
    )


def test_what_cannot_be_captured_is_said_once_and_goes_on(small_capture, tmp_path, monkeypatch):
    def fails(runner: StepRunner, work) -> Replay:
        raise RuntimeError("operation not permitted when stream is capturing\nmore of it")

    monkeypatch.setattr(StepRunner, "_graph_of", fails)
    expected = finished(Trainer(small_capture, tmp_path / "plain", QUICK))
    told: list[str] = []
    trainer = Trainer(
        small_capture, tmp_path / "other", QUICK, report=lambda p: told.append(p.message)
    )
    assert_equal(finished(captured(trainer)), expected)
    (message,) = [text for text in told if "CUDA graph" in text]
    assert message.endswith("when stream is capturing")


# -- nothing waits ----------------------------------------------------------------------------

WAITS = (
    *("aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten.unique"),
    *("aten.unique2", "aten.repeat_interleave", "aten.equal", "aten.is_nonzero", "aten.bincount"),
    *("aten.item", "aten.lift_fresh"),
)
"""Ops that read a number back, have a result whose shape depends on numbers, or take data from the host."""


class Watch(TorchDispatchMode):
    """Notes ops that would make the host wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.ops = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func).rsplit(".", 1)[0]
        self.ops += 1
        if name in WAITS:
            line = [f for f in traceback.extract_stack() if "/avatar/" in f.filename][-1:]
            self.waits.append(f"{func} {line}")
        if name.startswith("aten.index"):
            indices = [i for a in args if isinstance(a, (list, tuple)) for i in a]
            if any(isinstance(i, torch.Tensor) and i.dtype == torch.bool for i in indices):
                self.waits.append(f"{func} by bool")
        return func(*args, **(kwargs or {}))


def test_the_watch_sees_what_waits():
    rows, values = torch.tensor([True, False]), torch.zeros(2)
    for wait in (
        lambda: values.sum().item(),
        lambda: torch.nonzero(values),
        lambda: values[rows],
        lambda: values.__setitem__(rows, 1.0),
        lambda: bool(values.any()),
        lambda: values.new_tensor([1.0]),
    ):
        with Watch() as watch:
            wait()
        assert watch.waits


@contextmanager
def ready_to_step(
    capture: Capture, folder: Path, kind: str = "branches"
) -> Iterator[tuple[Trainer, torch.Tensor]]:
    """A trainer after warming up, and a picture at half the size."""
    config = replace(SMALL, steps=100, create=replace(SMALL.create, deformer=kind))
    trainer = Trainer(capture, folder, config)
    trainer.runner._fixed = True
    steps = trainer.steps()
    for _ in range(WARM_UP + 2):
        next(steps)
    yield trainer, trainer.store.pixels(0, True)


@pytest.mark.parametrize("kind", ["branches", "rigid", "latent", "uvmap"])
def test_no_step_waits_for_the_device(small_capture, tmp_path, monkeypatch, kind):
    """The very code of a GPU, its kernels emulated: what reads the host's memory on a CPU is not in it."""
    with (
        pretend_to_train_on_gpu(monkeypatch),
        ready_to_step(small_capture, tmp_path, kind) as (trainer, rgba),
    ):
        before = {name: value.clone() for name, value in tensors_of(trainer.avatar).items()}
        deformer_stepped = len(trainer.state.pending)
        # Counts of pairs come in when they like, in the host's own memory; here they never do.
        monkeypatch.setattr(cuda_raster._Reading, "ready", lambda reading: False)
        with Watch() as watch:
            for _ in range(trainer.config.deformer_frames):
                trainer.runner.take(0, rgba, torch.ones(3), half=True, measure=True)
        assert watch.waits == []
        assert watch.ops > 100
        assert len(trainer.state.pending) == deformer_stepped  # it took its turn too
        assert not torch.equal(before["means"], trainer.avatar.means)


# -- nothing strays ---------------------------------------------------------------------------


def test_a_step_on_a_gpu_touches_no_tensor_of_the_cpu(small_capture, tmp_path, monkeypatch):
    """On torch's device without numbers, which as a GPU refuses to work on tensors of the CPU too."""
    with ready_to_step(small_capture, tmp_path) as (trainer, rgba):
        pass
    there = torch.device("meta")
    state, stepped = trainer.state, []

    def adam_step(adam: FusedAdam) -> None:
        for group in adam.param_groups:
            stepped.extend(p.grad.device for p in group["params"] if p.grad is not None)

    # What tells a GPU from the rest, and what takes addresses; posing, drawing and loss have shapes to give.
    for module in (cuda, front):
        monkeypatch.setattr(module, "on_gpu", lambda tensor: True)
    monkeypatch.setattr(front, "missing", tuple)
    monkeypatch.setattr(fused, "_check_float", lambda *args, **kwargs: None)
    monkeypatch.setattr(torch.library, "get_ctx", lambda: SimpleNamespace(new_dynamic_size=int))
    monkeypatch.setattr(FusedAdam, "step", adam_step)
    monkeypatch.setattr(cuda_raster.PairBudget, "expect", lambda budget, number: None)
    monkeypatch.setattr(step, "unpack_target", cuda_fused.unpack_target)
    packed = trainer.runner._rows.packed[1, 0].to(there)
    inputs = step.inputs_of(
        trainer.runner._rows,
        packed,
        rgba.to(there),
        torch.ones(3, device=there),
        torch.zeros(2, dtype=torch.int64, device=there),
    )
    on_gpu = FitState(state.avatar, state.config, there)
    place(on_gpu.placement, state.placement, there)
    on_gpu.placement._of = on_gpu.avatar.triangle
    gradient = step.picture_step(on_gpu, inputs, measure=True)
    assert gradient.shape == (len(state.avatar), 13)
    tensors = [*on_gpu.avatar.state_dict().values(), *vars(on_gpu.sums).values(), gradient]
    assert {tensor.device for tensor in tensors} == set(stepped) == {there}
    assert len(stepped) == 6
    with pytest.raises(RuntimeError, match="device"):  # it does refuse
        on_gpu.avatar.means + torch.zeros(3)


def place(one: Placement, other: Placement, device: torch.device) -> None:
    """Let ``one`` have the limits of the other, on a device."""
    for name in ("_anchor", "_reach", "_axes", "_wall", "_tongue"):
        setattr(one, name, getattr(other, name).to(device))
    rows, outward = other._lids
    one._lids = (rows.to(device), outward.to(device))
    one._eyes = [(r.to(device), c.to(device), d.to(device)) for r, c, d in other._eyes]


# -- the whole fit with emulated kernels ------------------------------------------------------


def test_a_fit_with_the_kernels_of_a_gpu_is_the_cpus(small_capture, tmp_path, monkeypatch, graphs):
    plain = Trainer(small_capture, tmp_path / "cpu", SMALL)
    expected = finished(plain)
    with pretend_to_train_on_gpu(monkeypatch):
        trainer = captured(Trainer(small_capture, tmp_path / "gpu", SMALL))
        found = finished(trainer)
        trainer.save_checkpoint()
    assert found.keys() == expected.keys()
    assert len(found["avatar.means"]) == len(expected["avatar.means"])
    # Not number by number: Adam takes as long a step on the rounding error of no gradient as on a gradient.
    assert_same_person(trainer, plain, 5e-3)
    # The GPU counts its steps in its own memory; a file has a number as of the CPU's.
    resumed = Trainer(small_capture, tmp_path / "gpu", SMALL, resume=True)
    for moments in resumed.adam.state.values():
        assert type(moments["step"]) is int


def test_room_for_pairs_is_made_where_some_were_left_out(small_capture, tmp_path, monkeypatch):
    with pretend_to_train_on_gpu(monkeypatch):
        trainer = captured(Trainer(small_capture, tmp_path, SMALL))
        monkeypatch.setattr(cuda_raster, "FIRST_PAIRS", 64)
        monkeypatch.setattr(cuda_raster, "FIRST_PAIRS_PER_GAUSSIAN", 0)
        rgba = trainer.store.pixels(0)
        budget = pair_budget(trainer.avatar.means.device, rgba.shape[1], rgba.shape[0])
        inputs = trainer.runner._filled(0, rgba, torch.ones(3), False)
        budget._pending.clear()
        step.picture_step(trainer.state, inputs, measure=False)
        budget._pending.clear()  # of a replayed graph no count comes in
        most, left_out = inputs.pairs.tolist()
        assert left_out == most - 64 > 0
        trainer.runner.make_room()
        assert inputs.pairs.tolist() == [0, 0]
        step.picture_step(trainer.state, inputs, measure=False)
        assert inputs.pairs.tolist()[1] == 0


def test_bytes_become_the_same_numbers_on_both(gpu, monkeypatch):
    g = torch.Generator().manual_seed(0)
    rgba = torch.randint(0, 256, (40, 30, 4), dtype=torch.uint8, generator=g)
    rgba[:2], rgba[2:4, :, 3] = 255, 0
    colour = torch.tensor([0.1, 0.5, 0.9])
    for background in (None, colour):
        expected = unpack_target(rgba, background)
        with pretend_to_train_on_gpu(monkeypatch):
            found = unpack_target(rgba, background)
        monkeypatch.undo()
        for a, b in zip(found, expected, strict=True):
            assert torch.equal(a, b)


# -- what is said -----------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="here CUDA may run")
def test_cuda_that_cannot_run_is_refused_before_anything_is_touched(small_capture, tmp_path):
    fit(small_capture, tmp_path / "me.run", replace(QUICK, steps=2))
    with pytest.raises(InputError, match="leave --device out"):
        fit(small_capture, tmp_path / "me.run", QUICK, overwrite=True, device="cuda")
    assert (tmp_path / "me.run" / "avatar.avatar").is_file()
    assert compute_device("auto") == compute_device("cpu") == torch.device("cpu")


def test_a_gpu_without_memory_is_named_with_the_remedy(tmp_path):
    for error in (
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("hs_cuda_rasterize failed: out of memory"),
    ):
        with (
            pytest.raises(InputError, match=r"GPU's memory .*--device cpu"),
            out_of_memory_said(tmp_path / "me.run"),
        ):
            raise error
    with (
        pytest.raises(InputError, match=r"^Memory ran out"),
        out_of_memory_said(tmp_path / "me.run"),
    ):
        raise MemoryError
