"""The optimizer of the demo's training, and how a stopped training continues."""

import copy

import pytest
import torch

from model.checkpoint.loader import empty_network
from model.checkpoint.random_weights import config_fields
from model.demo.training.learner import Learner, orthogonalised, part_sizes
from model.demo.training.lecture import draw_times
from model.demo.training.network_start import initialise
from model.network.configuration import parse_config
from model.network.sensenova import SenseNovaU1

SHAPE = {"hidden": 32, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 16, "ffn": 48, "vision_hidden": 16}


def network() -> SenseNovaU1:
    torch.manual_seed(0)
    config = parse_config(config_fields(vocabulary=40, **SHAPE), "test")
    new = empty_network(config, torch.device("cpu"), torch.float32)
    initialise(new, SHAPE["layers"])
    return new.requires_grad_(True)


def take_step(learner: Learner, model: SenseNovaU1, seed: int) -> None:
    """Take one step along random gradients."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    learner.update(progress=0.1)


@pytest.mark.parametrize("shape", [(3, 8, 24), (3, 24, 8), (2, 16, 16)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape: tuple[int, int, int]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 100
    result = orthogonalised(matrices)
    values = torch.linalg.svdvals(result)
    assert result.shape == shape and values.min() > 0.5 and values.max() < 1.3
    # The directions stay: the inner product with the matrix is near the sum of its singular values, its maximum.
    assert ((result * matrices).sum(dim=(1, 2)) > 0.6 * torch.linalg.svdvals(matrices).sum(dim=1)).all()


def test_queries_keys_and_values_are_separate_matrices() -> None:
    model = network()
    assert part_sizes("und.blocks.0.attention.qkv_proj.weight", model) == [64, 32, 32]
    assert part_sizes("gen.blocks.1.mlp.gate_up_proj.weight", model) == [48, 48]
    assert part_sizes("gen.blocks.1.mlp.down_proj.weight", model) == [32]


def test_every_weight_moves_against_its_gradient() -> None:
    model = network()
    learner = Learner(model, learning_rate=1e-3)
    before = copy.deepcopy([*model.parameters()])
    generator = torch.Generator().manual_seed(1)
    gradients = [torch.randn(parameter.shape, generator=generator) for parameter in model.parameters()]
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        parameter.grad = gradient.clone()
    learner.update(progress=0.1)
    for (name, after), old, gradient in zip(model.named_parameters(), before, gradients, strict=True):
        assert ((after - old) * gradient).sum() < 0, name
        assert after.grad is None


def test_a_stopped_training_continues_as_if_it_had_not_stopped() -> None:
    whole, stopped, resumed = network(), network(), network()
    through = Learner(whole, learning_rate=1e-3)
    for seed in range(4):
        take_step(through, whole, seed)
    first = Learner(stopped, learning_rate=1e-3)
    take_step(first, stopped, 0)
    take_step(first, stopped, 1)
    second = Learner(resumed, learning_rate=1e-3)
    second.restore(copy.deepcopy(first.state()))
    take_step(second, resumed, 2)
    take_step(second, resumed, 3)
    assert second.step == 4
    for one, other in zip(through.means, second.means, strict=True):
        assert torch.equal(one, other)
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_learning_rate_rises_and_falls_with_the_training() -> None:
    model = network()
    learner = Learner(model, learning_rate=1e-3)
    learner.updates = 1000  # behind the first, slow steps

    def rate(progress: float) -> float:
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        learner.update(progress)
        return learner.optimizer.param_groups[0]["lr"]

    rates = [rate(progress) for progress in (0, 0.5, 1, 2)]
    assert rates == pytest.approx([1e-3, 0.51e-3, 2e-5, 2e-5], rel=1e-3)


def test_a_share_of_times_is_early_and_half_of_them_are_zero() -> None:
    torch.manual_seed(0)
    times = draw_times(20_000, 0.2, torch.device("cpu"))
    assert times.min() >= 0 and times.max() < 1
    assert (times == 0).float().mean().item() == pytest.approx(0.1, abs=0.01)
    assert (times < 0.03).float().mean().item() == pytest.approx(0.2, abs=0.015)
    assert (draw_times(20_000, 0.0, torch.device("cpu")) < 0.03).float().mean() < 0.01
