"""A recurrent network that knows voices: (frames, lengths) -> z (N, 256). It heard 8,000 speakers and no transcript.

Three LSTM layers trained with GE2E (Wan et al. 2018, arXiv 1710.10467, eq. 6) on LibriSpeech and VoxCeleb.
"""

import io

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sftlib.backbones.cuts import Cut
from sftlib.backbones.sound import BANDS, Mels
from sftlib.backbones.spec import Spec
from sftlib.backbones.weights import APART, verified_bytes

FILE = "resemblyzer", "pretrained.pt", "39373b86598fa3da9fcddee6142382efe09777e8d37dc9c0561f41f0070f134e"
WIDTH, LAYERS = 256, 3
EPSILON = 1e-5  # of the norm: z of a sound that no unit answers to is 0, and not NaN


class Recurrent(nn.LSTM):
    """(h (N, T, D), lengths (N,)) -> (h (N, T, 256), lengths): one layer, forward in time only

    A state depends on what came before it, so the zeros behind a short sound change nothing within it.
    """

    def __init__(self, width_in: int):
        super().__init__(width_in, WIDTH, batch_first=True)

    def forward(self, x: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """(h (N, T, D), lengths (N,)) -> (h (N, T, 256), lengths)"""
        h, lengths = _checked(x, self.input_size)
        with torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled and not self._cudnn_would_refuse(h)):
            return super().forward(h)[0], lengths

    def _cudnn_would_refuse(self, h: Tensor) -> bool:
        """cuDNN has no gradient through a recurrent network in eval mode; PyTorch's own kernels have"""
        learns = h.requires_grad or any(p.requires_grad for p in self.parameters())
        return torch.is_grad_enabled() and learns and not self.training


class Embedding(nn.Linear):
    """(h (N, T, 256), lengths (N,)) -> z (N, 256): from the state at the last frame; z >= 0 and of length 1"""

    def __init__(self):
        super().__init__(WIDTH, WIDTH)

    def forward(self, x: tuple[Tensor, Tensor]) -> Tensor:
        """(h (N, T, 256), lengths (N,)) -> z (N, 256)"""
        h, lengths = _checked(x, self.in_features)
        last = h[torch.arange(len(h), device=h.device), lengths - 1]  # (N, 256)
        return F.normalize(super().forward(last).relu(), dim=1, eps=EPSILON)


def _checked(x: object, width: int) -> tuple[Tensor, Tensor]:
    if not isinstance(x, tuple | list) or len(x) != 2:
        raise ValueError(f"got {type(x).__name__}; expected (frames (N, T, {width}), lengths (N,))")
    h, lengths = x
    if h.ndim != 3 or h.shape[2] != width or lengths.shape != h.shape[:1] or lengths.is_floating_point():
        raise ValueError(
            f"got frames {tuple(h.shape)} and lengths {lengths.dtype} {tuple(lengths.shape)}; expected (N, T, {width}) "
            "and whole numbers (N,)"
        )
    # What lies on a GPU is not looked at: that would wait for it at every step.
    if lengths.device.type == "cpu" and len(lengths) and not 1 <= lengths.min() <= lengths.max() <= h.shape[1]:
        raise ValueError(f"got lengths {lengths.min()} to {lengths.max()}; expected 1 to {h.shape[1]}, the frames")
    return h, lengths


def build() -> nn.ModuleDict:
    """lstm1, lstm2, lstm3 and embedding with random weights"""
    layers = {f"lstm{i}": Recurrent(BANDS if i == 1 else WIDTH) for i in range(1, LAYERS + 1)}
    return nn.ModuleDict({**layers, "embedding": Embedding()})


def fill(net: nn.ModuleDict) -> None:
    """The published weights, one LSTM of three layers -> three of one; the similarity's scale and offset are no part"""
    content = io.BytesIO(verified_bytes(*FILE, APART))
    state = torch.load(content, map_location="cpu", weights_only=True)["model_state"]
    names = {f"lstm.{kind}_l{i}": f"lstm{i + 1}.{kind}_l0" for i in range(LAYERS)
             for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}  # fmt: skip
    names |= {f"linear.{kind}": f"embedding.{kind}" for kind in ("weight", "bias")}
    net.load_state_dict({ours: state[theirs] for theirs, ours in names.items()})


SPEC = Spec(
    name="voice_lstm", inputs="sound", feature_dim=WIDTH, params=1_423_616,
    weights="the speaker encoder of Real-Time-Voice-Cloning, step 1,564,501, in the package resemblyzer 0.1.4",
    licence="Apache-2.0", offline=True, has_batchnorm=False, preprocess=Mels(),
    build=build, fill=fill, cut=lambda net: Cut(dict(net.items()), head=None),
)  # fmt: skip
