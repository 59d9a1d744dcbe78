"""Int8 weights: the precision of one product, the order in files, and every way to multiply."""

import pytest
import torch
from torch import Tensor

from model.checkpoint import int8
from model.checkpoint.int8 import FEW_ROWS, Int8Linear, quantize_weight
from model.network.rotation import rotate

CPU = torch.device("cpu")
MOST_ERROR = 0.014
"""The largest relative error of one product."""


def layer(weight: Tensor, device: torch.device = CPU) -> Int8Linear:
    made = Int8Linear(*weight.shape, device, CPU)
    made.fill(weight)
    return made


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("outliers", [False, True], ids=["gaussian", "with outliers"])
@pytest.mark.parametrize("rows", [1, FEW_ROWS, 48])
def test_the_error_of_one_product(rows: int, outliers: bool, dtype: torch.dtype) -> None:
    numbers = torch.Generator().manual_seed(rows)
    weight = torch.randn(512, 1024, generator=numbers)
    x = torch.randn(rows, 1024, generator=numbers)
    if outliers:
        x[:, torch.randperm(1024, generator=numbers)[:10]] *= 20
    x, weight = x.to(dtype), weight.to(dtype)
    result = layer(weight)(x)
    assert result.dtype == dtype
    assert relative_error(result, x.double() @ weight.double().T) <= MOST_ERROR


def test_without_the_rotation_outliers_would_cost_more_than_twice_as_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound above is not met by chance."""
    monkeypatch.setattr(int8, "rotation_group", lambda width: 1)
    numbers = torch.Generator().manual_seed(0)
    weight, x = torch.randn(512, 1024, generator=numbers), torch.randn(48, 1024, generator=numbers)
    x[:, ::100] *= 20
    assert relative_error(layer(weight)(x), x.double() @ weight.double().T) > 0.03


@pytest.mark.parametrize("width", [1024, 320, 48, 12, 7])
def test_every_width_has_its_group(width: int) -> None:
    weight, x = torch.randn(80, width), torch.randn(2, 3, width)
    result = layer(weight)(x)
    assert result.shape == (2, 3, 80)
    assert relative_error(result, x.double() @ weight.double().T) < 0.025


def test_files_contain_the_rotated_weight_in_its_order() -> None:
    weight = torch.randn(96, 512)
    quantized = quantize_weight(weight, 256)
    restored = quantized.values.float() * quantized.scales
    # Half of the distance between two int8 numbers.
    assert ((restored - rotate(weight)).abs() <= quantized.scales * 0.5001).all()
    assert (quantized.values.abs().amax(dim=1) == 127).all()
    made = layer(weight)
    values, scales = made.stored()
    assert torch.equal(values, quantized.values) and torch.equal(scales, quantized.scales[:, 0])
    loaded = Int8Linear(96, 512, CPU)
    loaded.load_quantized(values, scales[:, None])
    assert torch.equal(loaded.weight, made.weight) and torch.equal(loaded.scale, made.scale)
    x = torch.randn(20, 512)
    assert torch.equal(loaded(x), made(x))


def test_rows_of_zeros_stay_zeros() -> None:
    weight = torch.randn(32, 256)
    weight[5] = 0
    made = layer(weight)
    assert (made(torch.randn(40, 256))[:, 5] == 0).all()
    for rows in (1, 40):
        assert (made(torch.zeros(rows, 256)) == 0).all()


def test_int8_units_give_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """This CPU may have none, so one pretends; sums of int8 products are exact there, and rounded in float32."""
    weight, x = torch.randn(64, 256), torch.randn(40, 256)
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    expected = layer(weight)(x)
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: True)
    torch.testing.assert_close(layer(weight)(x), expected)


def test_weights_in_parts_are_the_whole_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, x = torch.randn(80, 256), torch.randn(40, 256)
    whole = layer(weight)
    expected = whole(x)
    monkeypatch.setattr(int8, "CPU_PART_NUMBERS", 32 * 256)  # the last part is smaller
    parts = layer(weight)
    assert torch.equal(parts.weight, whole.weight) and torch.equal(parts.scale, whole.scale)
    torch.testing.assert_close(parts(x), expected)


def test_apples_gpus_quantize_only_the_weight() -> None:
    """The product on such a device, computed here."""
    weight, x = torch.randn(64, 256), torch.randn(40, 256)
    made = layer(weight, torch.device("mps"))
    result = made(x)
    assert made.is_emulated and relative_error(result, x.double() @ weight.double().T) < 0.0095


@pytest.mark.parametrize(
    ("values", "scales"),
    [
        (torch.zeros(64, 128, dtype=torch.int8), torch.ones(64)),
        (torch.zeros(64, 256), torch.ones(64)),
        (torch.zeros(64, 256, dtype=torch.int8), torch.ones(1)),
        (torch.zeros(256, 64, dtype=torch.int8), torch.ones(256)),
    ],
    ids=["columns", "dtype", "scales", "turned"],
)
def test_numbers_of_another_weight_are_refused(values: Tensor, scales: Tensor) -> None:
    with pytest.raises(ValueError, match=r"an int8 weight \(64, 256\) cannot hold"):
        Int8Linear(64, 256, CPU).load_quantized(values, scales)


def test_a_group_that_does_not_divide_the_width_is_refused() -> None:
    with pytest.raises(ValueError, match="320 columns cannot be rotated in groups of 256"):
        quantize_weight(torch.zeros(4, 320), 256)
