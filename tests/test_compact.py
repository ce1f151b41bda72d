"""Compact numbers: small errors, nothing lost that matters, the same again when written again."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings, strategies

from avatar.model.compact import compand, expand, from_unit, to_half, to_index, to_unit


def normal(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=50, deadline=None)
@given(seed=strategies.integers(0, 10_000), exponent=strategies.floats(-30, 30))
def test_companding_keeps_its_bound_and_is_idempotent(seed, exponent):
    values = normal(3, 40, 5, seed=seed) ** 3 * 10**exponent
    bytes_, scale = compand(values)
    again = expand(bytes_, scale)
    # Half a step of the root, squared: 2 sqrt(|x| m) / 254 to first order, and m / 254^2 near zero.
    m = scale[:, None].double()
    bound = (values.abs() * m).sqrt() / 127 + m / 254**2
    assert ((values - again).abs() <= bound * 1.001).all()
    twice, same = compand(again)
    assert torch.equal(twice, bytes_)
    assert torch.equal(same, scale)


def test_zeros_stay_zeros_and_no_rows_stay_none():
    bytes_, scale = compand(torch.zeros(2, 4, 3))
    assert torch.equal(expand(bytes_, scale), torch.zeros(2, 4, 3))
    bytes_, scale = compand(torch.zeros(2, 0, 3))
    assert bytes_.shape == (2, 0, 3)
    assert expand(bytes_, scale).shape == (2, 0, 3)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_shows_in_a_floating_point_tensor(value):
    values = normal(2, 6, 3)
    values[1, 2, 0] = value
    assert not torch.isfinite(compand(values)[1]).all()
    for small in (to_half(values), to_unit(values)):
        assert small.is_floating_point()
        assert not torch.isfinite(small).all()


def test_each_form_is_used_where_it_holds():
    assert to_half(normal(9)).dtype == torch.float16
    large = torch.tensor([1.0, 70_000.0])
    assert torch.equal(to_half(large), large)
    shares = torch.linspace(0, 1, 1001)
    assert to_unit(shares).dtype == torch.int16
    torch.testing.assert_close(from_unit(to_unit(shares)), shares, atol=1.6e-5, rtol=0)
    assert torch.equal(to_unit(from_unit(to_unit(shares))), to_unit(shares))
    beyond = torch.tensor([0.5, 1.1])
    assert torch.equal(from_unit(to_unit(beyond)), beyond)
    assert to_index(torch.tensor([0, 32767])).dtype == torch.int16
    assert to_index(torch.tensor([0, 32768])).dtype == torch.int32
