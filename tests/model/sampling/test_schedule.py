"""The time grid and the starting noise."""

import pytest
import torch

from model.network.configuration import FlowConfig
from model.sampling.schedule import noise_amplitude, starting_noise, time_grid

FLOW = FlowConfig(True, 1024, noise_scale=1.0, noise_scale_base_tokens=64, noise_scale_max=8.0)


def test_grid_runs_from_noise_to_picture() -> None:
    assert time_grid(4, 1.0) == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    shifted = time_grid(4, 3.0)
    assert shifted == pytest.approx([0, 0.1, 0.25, 0.5, 1])
    assert shifted[-1] == 1.0


@pytest.mark.parametrize("shift", [0.2, 1.32, 3.0, 7.77])
@pytest.mark.parametrize("steps", [1, 8, 50])
def test_the_ends_are_exact(steps: int, shift: float) -> None:
    times = time_grid(steps, shift)
    assert (times[0], times[-1], len(times)) == (0.0, 1.0, steps + 1)
    assert times == sorted(times)


@pytest.mark.parametrize(("tokens", "amplitude"), [(64, 1.0), (1024, 4.0), (4096, 8.0), (9216, 8.0)])
def test_larger_pictures_start_with_more_noise(tokens: int, amplitude: float) -> None:
    assert noise_amplitude(tokens, FLOW) == pytest.approx(amplitude)


def test_noise_depends_on_the_seed() -> None:
    cpu = torch.device("cpu")
    first = starting_noise((64, 32), 7, cpu, torch.float32)
    assert first.shape == (1, 3, 32, 64)
    assert torch.equal(first, starting_noise((64, 32), 7, cpu, torch.float32))
    assert not torch.equal(first, starting_noise((64, 32), 8, cpu, torch.float32))
