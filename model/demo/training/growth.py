"""Growth: a network that knows more words than the one it starts from."""

from collections.abc import Mapping

import torch
from tokenizers import Tokenizer

from model.demo.training.phrases import plural
from model.demo.training.stories import story_message
from model.demo.training.world import OBJECTS, SHAPES
from model.inputs.prompts import system_message
from model.network.sensenova import SenseNovaU1

SPACE = "Ġ"
"""The byte-level form of a space. A word that follows a space begins with it."""


@torch.no_grad()
def copy_grown(old: SenseNovaU1, new: SenseNovaU1, before: Tokenizer, after: Tokenizer) -> None:
    """Copy all weights of a network to one with a larger vocabulary.

    The input row of a new word is that of the word that is most like it: a plural's singular, or the word with another
    first letter. Other new rows are means. All ids of `before` have to be the same in `after`.
    """
    parameters = dict(old.named_parameters())
    for name, parameter in new.named_parameters():
        known = parameters[name]
        parameter.data[: len(known)] = known
        if len(known) < len(parameter):
            parameter.data[len(known) :] = known.float().mean(dim=0)
    likes = _likes(before.get_vocab())
    for word, row in after.get_vocab().items():
        if row >= before.get_vocab_size() and word in likes:
            new.embed_tokens.weight.data[row] = old.embed_tokens.weight[likes[word]]


def _likes(vocabulary: Mapping[str, int]) -> dict[str, int]:
    """Return the id of the known word that each possible new word is like."""
    found = {story_message(): vocabulary[system_message()]} if system_message() in vocabulary else {}
    for word, row in vocabulary.items():
        bare = word.removeprefix(SPACE)
        for other in (bare, bare.lower(), bare.capitalize()):
            found.setdefault(other, row)
            found.setdefault(SPACE + other, row)
    for noun in (*SHAPES, *OBJECTS):
        singular = SPACE + noun.split()[-1]
        if singular in vocabulary:
            found[SPACE + plural(noun).split()[-1]] = vocabulary[singular]
    return found
