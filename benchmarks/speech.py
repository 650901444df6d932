"""Embedding spoken words with the voice network, and training it further: batches of like length against the plain way.

    python benchmarks/speech.py [--sounds 512] [--rounds 5] [--batch 32]     against the package's own embed_utterance
    python benchmarks/speech.py --training […]                               against a plain training loop; no network

The first:

The same sounds, phrases of one to five digits that espeak says, at 16 kHz, on as many threads as PyTorch takes. Theirs:
resemblyzer 0.1.4 as published, one sound after the other, windows of 1.6 s; it and librosa 0.11.0 are installed apart,
into a temporary folder (a network is needed), and webrtcvad, which only its `preprocess_wav` calls, is a stand-in.
Ours: `load_backbone("voice_lstm")`, frames and network, sounds sorted by length, in the arithmetic that is measured to
be the fastest (bfloat16 where the processor has it). Rounds of the two take turns after one of each that is not
counted. Prints the rates, how like the embeddings are (ours hears no silence behind a short sound, nor windows), and,
last, the median over the rounds of the ratio ours / theirs.

The second: one pass of training over the same sounds, frames made before. Plain: shuffled batches, each padded to its
longest, float32, PyTorch's LSTM of three layers, its output at the last frame. Ours: `fit` on batches of like length
in the arithmetic that is measured to be the fastest. Prints rates, the share of frames that are padding, and the
median ratio. Run both on a quiet machine.
"""

import argparse
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
import types
import venv
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ["librosa==0.11.0"], ["--no-deps", "resemblyzer==0.1.4"]
Way = Callable[[list[np.ndarray]], object]
NUMBERS = "sounds", "rounds", "batch"
PHRASES = ("two", "nine one", "four zero six", "eight three five one", "seven two nine four zero")


def main() -> None:
    """Install their packages apart, measure there"""
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder) / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
        for packages in PACKAGES:
            subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
        # torch and the course come from here, behind what the folder has
        arguments = [f"--{name}={value}" for name, value in vars(options).items() if name in NUMBERS]
        subprocess.run([python, __file__, *arguments, "--behind", sysconfig.get_path("purelib")], check=True)


def measure_training(options: argparse.Namespace) -> None:
    """One pass of plain training and one of ours, in turns, after one of each that is not counted"""
    import torch

    from sftlib.backbones import load_backbone

    waves = sounds(options.sounds)
    frames, lengths = load_backbone("voice_lstm").preprocess([(wave, 16_000) for wave in waves])
    y = torch.arange(len(waves)) % len(PHRASES)
    plain, ours = plain_training(frames, lengths, y, options.batch), our_training(frames, lengths, y, options.batch)
    print(f"{len(waves)} sounds, {int(lengths.sum()) / 100:.0f} s, {torch.get_num_threads()} threads")
    for way in (plain, ours):
        way(waves)
    ratios = []
    for _ in range(options.rounds):
        rates = [rate(way, waves) for way in (plain, ours)]
        ratios.append(rates[1] / rates[0])
        print(f"plain {rates[0]:.1f}, ours {rates[1]:.1f} sounds/s", flush=True)
    print(f"ratio {statistics.median(ratios):.2f}")


def plain_training(frames, lengths, y, batch: int) -> Callable[[list], None]:
    """-> one pass of a loop as one writes it: shuffled, padded to the longest of the batch, float32"""
    import torch
    import torch.nn.functional as F

    lstm, linear, head = torch.nn.LSTM(40, 256, 3, batch_first=True), torch.nn.Linear(256, 256), torch.nn.Linear(256, 5)
    parameters = [p for part in (lstm, linear, head) for p in part.parameters()]
    optimizer, draw = torch.optim.Adam(parameters, lr=1e-4), torch.Generator().manual_seed(0)
    order = torch.randperm(len(y), generator=draw)
    longest = sum(len(rows) * int(lengths[rows].max()) for rows in order.split(batch))
    print(f"plain: {1 - int(lengths.sum()) / longest:.0%} of the frames are padding")

    def one_pass(_: list) -> None:
        for rows in torch.randperm(len(y), generator=draw).split(batch):
            n = lengths[rows]
            h = lstm(frames[rows, : int(n.max())])[0]  # (N, T, 256)
            z = F.normalize(linear(h[torch.arange(len(rows)), n - 1]).relu(), dim=1)
            loss = F.cross_entropy(head(z), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return one_pass


def our_training(frames, lengths, y, batch: int) -> Callable[[list], None]:
    """-> one pass of `fit` over batches of like length; the arithmetic is measured and chosen"""
    import torch

    from sftlib.backbones import load_backbone
    from sftlib.datasets import NestSplit, nest_loader, trimmed
    from sftlib.model import LinearHead, Model
    from sftlib.training import fit, measure_precision

    model = Model(load_backbone("voice_lstm"), LinearHead(256, len(PHRASES)))
    loader = nest_loader(NestSplit((frames, lengths), y), trimmed, batch_size=batch, shuffle=True, lengths=lengths)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    x, labels = next(iter(loader))
    chosen = measure_precision(model, x, labels).precision
    longest = sum(len(n) * int(n.max()) for (_, n), _ in loader)
    print(f"ours: {1 - int(lengths.sum()) / longest:.0%} of the frames are padding, {chosen}")

    def one_pass(_: list) -> None:
        for _record in fit(model, loader, optimizer, epochs=1, precision=chosen):
            pass

    return one_pass


def measure(options: argparse.Namespace) -> None:
    """Both ways on the same sounds, in turns"""
    import torch

    waves = sounds(options.sounds)
    theirs, ours = their_way(), our_way(options.batch, waves)
    seconds = sum(map(len, waves)) / 16_000
    print(f"{len(waves)} sounds, {seconds:.0f} s, {torch.get_num_threads()} threads")
    like = (theirs(waves) * ours(waves)).sum(1)  # of unit length
    ratios = []
    for _ in range(options.rounds):
        rates = [rate(way, waves) for way in (theirs, ours)]
        ratios.append(rates[1] / rates[0])
        print(f"theirs {rates[0]:.1f}, ours {rates[1]:.1f} sounds/s", flush=True)
    print(f"cosine of the two embeddings {like.mean():.3f} ({like.min():.3f} to {like.max():.3f})")
    print(f"ratio {statistics.median(ratios):.2f}")


def sounds(n: int) -> list[np.ndarray]:
    """-> n sounds float32 at 16 kHz, as loud as both ways want them"""
    from sftlib.backbones.sound import loudness, resample
    from sftlib.datasets import spoken_words

    how = spoken_words.Synthesis(counts={"train": n, "val": 0, "test": 0})
    split = spoken_words.load(words=PHRASES, split="recordings", synthesis=how).train
    return [loudness(resample(*source.sound())).numpy() for source in split.sounds]


def their_way() -> Way:
    """sounds -> embeddings (N, 256), one at a time"""
    sys.modules["webrtcvad"] = types.ModuleType("webrtcvad")
    moved = types.ModuleType("scipy.ndimage.morphology")  # newer versions of scipy have it elsewhere
    moved.binary_dilation = None
    sys.modules["scipy.ndimage.morphology"] = moved
    from resemblyzer import VoiceEncoder

    encoder = VoiceEncoder("cpu", verbose=False)
    return lambda waves: np.stack([encoder.embed_utterance(wave) for wave in waves])


def our_way(batch: int, waves: list[np.ndarray]) -> Way:
    """sounds -> embeddings (N, 256), in batches of like length; the arithmetic is measured on `waves` and chosen"""
    import torch

    from sftlib.backbones import load_backbone
    from sftlib.runtime import FLOAT32, Precision, choose_precision

    f = load_backbone("voice_lstm").eval()

    @torch.inference_mode()
    def embed(waves: list[np.ndarray], precision: Precision) -> np.ndarray:
        order = sorted(range(len(waves)), key=lambda i: len(waves[i]))
        z = np.empty((len(waves), f.feature_dim), np.float32)
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            frames = f.preprocess([(waves[i], 16_000) for i in rows])
            with precision.autocast("cpu"):
                z[rows] = f(frames).float().numpy()
        return z

    chosen = choose_precision(lambda precision: embed(waves[:batch], precision), batch).precision
    off = 1 - (embed(waves[:batch], chosen) * embed(waves[:batch], FLOAT32)).sum(1).min()
    print(f"ours in {chosen}, at most {off:.1e} from float32 (1 - cosine)")
    return lambda waves: embed(waves, chosen)


def rate(way: Way, waves: list[np.ndarray]) -> float:
    """-> sounds a second"""
    start = time.perf_counter()
    way(waves)
    return len(waves) / (time.perf_counter() - start)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sounds", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--training", action="store_true", help="training in place of embedding")
    parser.add_argument("--behind", help=argparse.SUPPRESS)  # where torch is, in the folder apart
    return parser.parse_args()


if __name__ == "__main__":
    if behind := _options().behind:
        sys.path += [behind, str(ROOT)]
        measure(_options())
    elif _options().training:
        sys.path.append(str(ROOT))
        measure_training(_options())
    else:
        main()
