"""Text encoders of Hugging Face's transformers, by name or from a folder: {ids, mask} -> {h, mask} -> z (N, D)."""

from pathlib import Path

from torch import Tensor, nn

from sftlib.backbones.minilm import MaskedMean
from sftlib.backbones.texts import Texts, require_tokens


class Encoder(nn.Module):
    """{ids (N, T), mask (N, T)} -> {h (N, T, D), mask (N, T)}: a whole network of transformers, as one stage"""

    def __init__(self, net: nn.Module, longest: int):
        super().__init__()
        self.net, self.longest = net, longest

    def forward(self, x: dict[str, Tensor]) -> dict[str, Tensor]:
        """{ids, mask} -> {h (N, T, D), mask}"""
        require_tokens(x, self.longest)
        h = self.net(input_ids=x["ids"], attention_mask=x["mask"].long()).last_hidden_state
        return {"h": h, "mask": x["mask"]}


def read(name: str | Path, *, size: int | None) -> tuple[dict[str, nn.Module], int, Texts]:
    """-> stages, D, preprocessing; see `sftlib.backbones.load_encoder`"""
    from transformers import AutoConfig, AutoModel, AutoTokenizer  # takes seconds

    try:
        config = AutoConfig.from_pretrained(name)
        if getattr(config, "is_encoder_decoder", False):
            raise ValueError(f"got {name}, a {config.model_type} with a decoder; expected an encoder, as BERT is one")
        tokenizer, net = AutoTokenizer.from_pretrained(name), AutoModel.from_pretrained(name)
    except OSError as error:
        raise ConnectionError(
            f"the encoder {name} is not on this machine and could not be fetched ({_first_line(error)}); expected a "
            "network and a name as Hugging Face spells it, or a folder that save_pretrained wrote. Without either: "
            "load_backbone('minilm_l6')"
        ) from error
    if tokenizer.pad_token_id is None:
        raise ValueError(f"the tokenizer of {name} has no token for padding; expected an encoder's, which has one")
    if getattr(net, "pooler", None) is not None:
        net.pooler = None  # z is the mean over the tokens: a pooler would get no gradient
    most = min(tokenizer.model_max_length, getattr(config, "max_position_embeddings", tokenizer.model_max_length))
    preprocess = Texts(lambda: tokenizer, size=min(256, most), most=most).at(size)
    return {"encoder": Encoder(net.float(), most), "pool": MaskedMean()}, config.hidden_size, preprocess


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
