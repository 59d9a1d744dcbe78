"""How tokens are picked from logits."""

import torch

from config.schema import TextSettings
from model.sampling.decode import chooser

CPU = torch.device("cpu")
LOGITS = torch.tensor([0.0, 2.0, 1.9, -1.0])


def test_greedy_takes_the_first_of_equals() -> None:
    assert chooser(TextSettings(), CPU)(torch.tensor([1.0, 3.0, 3.0]), []) == 1


def test_the_penalty_counts_what_has_been_written() -> None:
    choose = chooser(TextSettings(repetition_penalty=1.3), CPU)
    assert choose(LOGITS, []) == 1
    assert choose(LOGITS, [1]) == 2
    assert choose(LOGITS, [0, 3]) == 1


def test_top_p_and_top_k_bound_what_is_drawn() -> None:
    for narrow in ({"top_k": 2}, {"top_p": 0.8}):
        choose = chooser(TextSettings(do_sample=True, temperature=1.0, **narrow), CPU)
        assert {int(choose(LOGITS, [])) for _ in range(100)} == {1, 2}
    choose = chooser(TextSettings(do_sample=True, temperature=5.0), CPU)
    assert {int(choose(LOGITS, [])) for _ in range(200)} == {0, 1, 2, 3}
