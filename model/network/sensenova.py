"""SenseNova-U1: two towers over one KV cache, their image embeddings, and a flow-matching head."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from model.network.attention import Segment
from model.network.cache import KVCache, LayerCache
from model.network.configuration import ModelConfig
from model.network.flow import ConvolutionalHead, MLPHead, ScalarEmbedding, tokens_to_picture
from model.network.operations import join_rows
from model.network.projection import OutputHead
from model.network.rope import Rotary
from model.network.transformer import Tower
from model.network.vision import ImageEmbedding


class SenseNovaU1(nn.Module):
    """The whole network. The understanding tower `und` reads text and images and writes text; the generation tower
    `gen` denoises pictures.

    The weights of a new network are not initialised. `model.checkpoint.loader.load_checkpoint` fills them.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        transformer = config.transformer
        hidden_size = transformer.hidden_size
        # nn.Embedding does not draw random numbers into memory that it is given. On the meta device, drawing them
        # imports modules for most of a second.
        self.embed_tokens = nn.Embedding(
            transformer.vocabulary, hidden_size, _weight=torch.empty(transformer.vocabulary, hidden_size)
        )
        self.und_vision = ImageEmbedding(config.vision, hidden_size)
        self.und = Tower(transformer, transformer.und_mlp)
        self.lm_head = OutputHead(hidden_size, transformer.vocabulary)
        self.gen_vision = ImageEmbedding(config.vision, hidden_size)
        self.timestep_embedder = ScalarEmbedding(hidden_size)
        self.noise_scale_embedder = ScalarEmbedding(hidden_size)
        self.gen = Tower(transformer, transformer.gen_mlp)
        head = ConvolutionalHead if config.flow.convolutional_head else MLPHead
        self.fm_head: ConvolutionalHead | MLPHead = head(hidden_size, config.flow.head_width)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the residual stream and of weights that are not quantized."""
        return self.und.norm.weight.dtype

    @property
    def device(self) -> torch.device:
        """The device on which the network computes."""
        return self.und.norm.weight.device

    def prefill(self, embeddings: Tensor, rotary: Rotary, cache: KVCache, segments: Sequence[Segment]) -> Tensor:
        """Run the und tower over new prefix or text tokens and make them part of the cache.

        Args:
            embeddings: (B, N, hidden_size), from `embed_tokens` and `und_vision`.

        Returns:
            Hidden states (B, N, hidden_size), the input of `logits`.
        """
        hidden = self.und(embeddings, [rotary], [cache], segments)
        cache.advance(embeddings.shape[1])
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Return next-token logits: (…, hidden_size) → (…, vocabulary), float32."""
        return self.lm_head(self.und.norm(hidden)).float()

    def logits_of_each(self, hidden: Sequence[Tensor]) -> list[Tensor]:
        """Return the logits of several tokens, each with the same bits as alone: (1, 1, hidden_size) each →
        (vocabulary,), float32. Parts of `lm_head` that are not on the device are loaded once."""
        normed = [self.und.norm(each) for each in hidden]
        results: list[list[Tensor]] = [[] for _ in normed]
        for part in self.lm_head.parts():
            for rows, own in zip(normed, results, strict=True):
                own.append(part(rows))
        return [torch.cat(own, dim=-1).float()[0, 0] for own in results]

    def embed_noisy(self, tokens: Tensor, conditioning: Tensor, grid: tuple[int, int], rotary: Rotary) -> Tensor:
        """Return the gen tower's input for a noisy picture, the same for every branch of a step.

        Args:
            tokens: the picture x as tokens, (B, L, 3·32²).
            conditioning: timestep plus noise-scale embedding, (B or 1, hidden_size).
            grid: rows and columns of tokens.
            rotary: `patch_rotary` tables of the picture's size.
        """
        pixels = tokens_to_picture(tokens, *grid)
        return self.gen_vision(pixels, rotary) + conditioning[:, None]

    def predict(
        self, embeddings: Tensor, grid: tuple[int, int], rotaries: Sequence[Rotary], caches: Sequence[LayerCache]
    ) -> Tensor:
        """Predict the clean picture after each branch's prefix, which stays unchanged.

        Args:
            embeddings: from `embed_noisy`, (1, L, hidden_size): the same for all branches.
            rotaries: `attention_rotary` tables of the picture's positions in each branch.
            caches: the branches' prefixes, with room for L more positions.

        Returns:
            The clean picture x̂ as tokens, (branches, L, 3·32²).
        """
        return self.clean(self.draw(embeddings.repeat(len(caches), 1, 1), rotaries, caches), grid)

    def draw(
        self,
        hidden: Tensor,
        rotaries: Sequence[Rotary],
        caches: Sequence[LayerCache],
        layers: range | None = None,
    ) -> Tensor:
        """Run the gen tower, or some of its layers, over a picture's tokens, (branches, L, hidden_size) → the same."""
        return self.gen(hidden, rotaries, caches, [Segment(hidden.shape[1], causal=False)], layers)

    def clean(self, hidden: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return the clean pictures as `predict` does, given the gen tower's hidden states."""
        predicted = []
        for part in self.gen.operations.split_branches(hidden, len(hidden)):  # no comprehension, as in `Block`
            predicted.append(self.fm_head(self.gen.norm(part), *grid))
        return join_rows(predicted)
