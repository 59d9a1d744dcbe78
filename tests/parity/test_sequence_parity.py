"""Token ids and prepared pixels of the golden cases."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from config.recommended import Recommended
from config.sizes import TOKEN_PIXELS
from model.image_files import read_picture
from model.inputs.image_tensors import prepare_image
from model.inputs.prompts import answer_prompt
from model.inputs.token_sequence import build_sequence
from model.inputs.tokenizer import Tokenizer
from model.network.vision import flatten_patches
from tests.parity.cases import DATA, Case, case_id, cases, golden, turns_of


@pytest.mark.parametrize("case", cases("describe", "chat"), ids=case_id)
def test_input_ids(case: Case, parity_checkpoint: Callable[[str], Path]) -> None:
    pictures = [prepare_image(read_picture(DATA / name), Recommended().answer_input) for name in case.get("images", [])]
    text = answer_prompt(turns_of(case), len(pictures), "")
    tokenizer = Tokenizer(parity_checkpoint(case["checkpoint"]))
    grids = [(picture.shape[2] // TOKEN_PIXELS, picture.shape[3] // TOKEN_PIXELS) for picture in pictures]
    sequence = build_sequence(text, grids, tokenizer, torch.device("cpu"))
    assert sequence.ids.tolist() == golden(case, "input_ids")[0].tolist()


@pytest.mark.parametrize("case", cases("describe"), ids=case_id)
def test_pixel_values(case: Case) -> None:
    pictures = [prepare_image(read_picture(DATA / name), Recommended().answer_input) for name in case["images"]]
    grids = [[side // 16 for side in picture.shape[-2:]] for picture in pictures]
    assert grids == golden(case, "grid_hw").tolist()
    torch.testing.assert_close(
        flatten_patches(pictures[0], 16)[0, :16], golden(case, "pixel_values"), rtol=0, atol=1e-5
    )
