"""The emulator itself: what it computes, and what wrong kernels it tells from right ones."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest
import torch

from emulator import (
    HERE,
    address_sanitizer,
    build_emulated,
    emulated_path,
    emulator_message,
    sanitizer_environment,
)

TOY = [HERE / "toy.cu"]


def sums(count: int, barrier: bool, seed: int, values: torch.Tensor) -> torch.Tensor:
    library, out = build_emulated(TOY), torch.zeros(3, count)
    library.hs_emulator_seed(ctypes.c_uint64(seed))
    at = ctypes.c_void_p
    assert library.toy_sums(count, barrier, at(values.data_ptr()), at(out.data_ptr())) == 0
    return out


@pytest.mark.parametrize("count", [1, 9, 12, 32])
def test_a_missing_barrier_shows_as_another_result(count):
    values = torch.randn(3 * 256, count, generator=torch.Generator().manual_seed(count))
    right = [sums(count, True, seed, values) for seed in range(4)]
    torch.testing.assert_close(right[0], values.view(3, 256, count).sum(1), atol=2e-5, rtol=1e-5)
    assert all(torch.equal(right[0], other) for other in right)
    wrong = [sums(count, False, seed, values) for seed in range(4)]
    assert not all(torch.equal(right[0], other) for other in wrong)


def test_collectives_are_those_of_cuda():
    library, out = build_emulated(TOY), torch.zeros(64, 8, dtype=torch.int32)
    assert library.toy_collectives(ctypes.c_void_p(out.data_ptr())) == 0
    groups = [range(16), range(16, 32), range(32, 40)]
    for group in groups:
        votes = sum(1 << lane % 32 for lane in group if lane % 3 == 0)
        for lane in group:
            inside = lane % 8
            found = out[lane].tolist()
            assert found[0] & 0xFFFFFFFF == votes
            assert found[1] == (lane - 2 if inside >= 2 else lane)
            assert found[2] == (lane + 3 if inside + 3 < 8 else lane)
            assert found[3] == lane ^ 5
            assert found[4] == sum(group)
            assert found[5] == (lane >= 16)
            assert found[6] == lane // 4 * 4 + 1
            assert found[7] == 20


@pytest.mark.parametrize(
    ("which", "message"),
    [
        (0, "wait at different barriers"),
        (1, "a block is stuck"),
        (2, "is not in the mask that it gives"),
    ],
)
def test_wrong_kernels_fail_with_a_sentence(which, message):
    library, out = build_emulated(TOY), torch.zeros(64, dtype=torch.int32)
    assert library.toy_wrong(which, ctypes.c_void_p(out.data_ptr())) == 999
    assert message in emulator_message(library)
    assert "toy.cu" in emulator_message(library)
    test_collectives_are_those_of_cuda()  # the next launch is none the worse


@pytest.mark.skipif(address_sanitizer() is None, reason="g++ has no libasan here")
@pytest.mark.parametrize("fails", [False, True])
def test_the_sanitizer_finds_shared_memory_out_of_bounds(fails):
    path = emulated_path(TOY, sanitize=True)
    call = "toy_wrong(4, out)" if fails else "toy_collectives((ctypes.c_int * 512)())"
    program = (
        f"import ctypes; library = ctypes.CDLL({str(path)!r}); out = (ctypes.c_int * 64)(); "
        f"library.{call}; print('survived')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=sanitizer_environment(),
        capture_output=True,
        text=True,
    )
    assert ("survived" not in done.stdout) == fails
    assert ("global-buffer-overflow" in done.stderr) == fails
