"""The voice network: its front end held to librosa, its weights to the package's own code, its states to padding."""

import importlib.util
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import torch

from sftlib.backbones import load_backbone, sound, voice_lstm

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
from voice_reference import FRAMES, SOUNDS, VOWELS, voice  # noqa: E402

REFERENCE = json.loads(Path(__file__).with_name("voice_reference.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def f():
    return load_backbone("voice_lstm")


def noise(n, seed=0, peak=0.01):
    return peak * torch.randn(n, generator=torch.Generator().manual_seed(seed)).clamp(-3, 3) / 3


# --- held to the packages ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SOUNDS)
def test_mels_are_librosas_and_the_embedding_the_packages(f, name):
    rate, *rest = SOUNDS[name]
    frames, lengths = f.preprocess([(voice(rate, *rest), rate)])
    assert lengths.tolist() == [REFERENCE[name]["frames"]] == [frames.shape[1]]
    expected = torch.tensor(REFERENCE[name]["mels"])
    got = frames[0][list(FRAMES)]
    scale = expected.max()  # numbers of six digits; resampling differs a little where a sound begins
    torch.testing.assert_close(got, expected, rtol=2e-5, atol=float(2e-5 * scale))
    with torch.no_grad():
        z = f((frames, lengths))[0]
    torch.testing.assert_close(z, torch.tensor(REFERENCE[name]["whole"]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["low", "loud"])
def test_windows_averaged_are_the_packages_utterance(f, name):
    wave = sound.loudness(torch.from_numpy(voice(*SOUNDS[name])))
    starts = [0] if name == "low" else [0, 77, 154]  # 160 frames every 77, the last one if three quarters are there
    wave = torch.nn.functional.pad(wave, (0, max(0, (starts[-1] + 160) * 160 - len(wave))))
    mels = sound.mel_power(wave[None]).float()[0]
    windows = torch.stack([mels[s : s + 160] for s in starts])
    with torch.no_grad():
        z = f((windows, torch.full((len(starts),), 160))).mean(0)
    torch.testing.assert_close(z / z.norm(), torch.tensor(REFERENCE[name]["utterance"]), rtol=1e-4, atol=1e-4)


# --- the front end by itself -------------------------------------------------------------------------------------


def test_power_in_the_bands_is_the_sum_written_out():
    wave = noise(1709, 1).double()
    padded = np.pad(wave.numpy(), 200)
    window = 0.5 - 0.5 * np.cos(2 * math.pi * np.arange(400) / 400)
    turns = np.exp(-2j * math.pi * np.outer(np.arange(201), np.arange(400)) / 400)
    power = np.array([np.abs(turns @ (window * padded[t * 160 : t * 160 + 400])) ** 2 for t in range(11)])
    filters = sound.mel_filters().numpy()
    np.testing.assert_allclose(sound.mel_power(wave[None])[0].numpy(), power @ filters, rtol=1e-9, atol=1e-15)


def test_filters_are_triangles_of_equal_area():
    filters = sound.mel_filters()
    assert filters.shape == (201, 40) and filters.min() == 0
    assert ((filters > 0).sum(0) > 0).all()
    fine = torch.linspace(0, 8000, 201)
    wide = filters[:, 30:]
    torch.testing.assert_close(torch.trapezoid(wide, fine.double(), dim=0), torch.ones(10).double(), rtol=0.01, atol=0)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_051, 44_100, 48_000])
def test_a_tone_is_the_same_tone_at_any_rate(rate):
    n = rate // 4 + 13
    tone = [torch.sin(2 * math.pi * 440 * torch.arange(m, dtype=torch.float64) / r) * torch.hann_window(m).double()
            for m, r in ((n, rate), (math.ceil(n * 16_000 / rate), 16_000))]  # fmt: skip
    got = sound.resample(tone[0].float(), rate)
    assert len(got) == math.ceil(n * 16_000 / rate)
    torch.testing.assert_close(got.double(), tone[1], rtol=0, atol=2e-3)  # the two windows end at other places


def test_what_16_khz_cannot_hold_is_gone_and_nothing_folds_back():
    high = torch.sin(2 * math.pi * 11_000 * torch.arange(9_973) / 44_100)
    assert sound.resample(high, 44_100)[400:-400].abs().max() < 1e-3


def test_resampling_agrees_with_scipys_in_what_both_keep():
    wave = torch.from_numpy(voice(44_100, 0.5, 131.0, 1.0, 0.3))
    expected = scipy.signal.resample_poly(wave.double().numpy(), 160, 441, window=("kaiser", 12.0))
    got = sound.resample(wave, 44_100).numpy()
    np.testing.assert_allclose(got[200:-200], expected[: len(got)][200:-200], rtol=0, atol=0.003 * 0.3)


def test_loudness_is_raised_and_never_lowered():
    quiet, loud, silent = noise(1709), noise(1709, peak=1.0), torch.zeros(1709)
    assert 20 * sound.loudness(quiet).square().mean().sqrt().log10() == pytest.approx(-30, abs=1e-4)
    assert torch.equal(sound.loudness(loud), loud) and torch.equal(sound.loudness(silent), silent)


# --- lengths -----------------------------------------------------------------------------------------------------


def test_padding_never_changes_an_embedding(f):
    sounds = [(noise(n, i), 16_000) for i, n in enumerate((701, 4_001, 13_007))] + [(noise(5_003, 7), 8_000)]
    frames, lengths = f.preprocess(sounds)
    assert lengths.tolist() == [5, 26, 82, 63] and frames.shape == (4, 82, 40)
    assert frames[0, 5:].abs().max() == 0
    with torch.no_grad():
        together = f((frames, lengths))
        dirty = frames.clone()
        for row, n in zip(dirty, lengths, strict=True):
            row[n:] = 1e3
        torch.testing.assert_close(f((dirty, lengths)), together, rtol=0, atol=0)
        for row, one in enumerate(sounds):
            torch.testing.assert_close(f(f.preprocess([one]))[0], together[row], rtol=1e-5, atol=1e-6)
        order = torch.tensor([3, 1, 0, 2])
        torch.testing.assert_close(f((frames[order], lengths[order])), together[order])
    torch.testing.assert_close(together.norm(dim=1), torch.ones(4))
    assert together.min() >= 0


def test_states_are_a_plain_lstm_of_three_layers(f):
    plain = torch.nn.LSTM(40, 256, 3, batch_first=True)
    with torch.no_grad():
        for i in range(3):
            for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                getattr(plain, f"{kind}_l{i}").copy_(getattr(getattr(f, f"lstm{i + 1}"), f"{kind}_l0"))
        frames, lengths = f.preprocess([(noise(3_001), 16_000)])
        h, same = f.lower((frames, lengths), "lstm3")
        torch.testing.assert_close(h, plain(frames)[0])
        assert torch.equal(same, lengths)


def test_every_stage_is_a_place_to_cut(f):
    x = f.preprocess([(noise(3_001), 16_000), (noise(1_709), 16_000)])
    assert f.stages == ("lstm1", "lstm2", "lstm3", "embedding") and f.feature_dim == 256
    with torch.no_grad():
        z = f(x)
        for stage in f.stages:
            torch.testing.assert_close(f.upper(f.lower(x, stage), stage), z)


def test_silence_and_dead_units_are_no_nan():
    torch.manual_seed(0)
    f = load_backbone("voice_lstm", pretrained=False).train()
    with torch.no_grad():
        f.embedding.weight.zero_()
        f.embedding.bias.fill_(-1)
    z = f(f.preprocess([(torch.zeros(3_001), 16_000)]))
    z.sum().backward()
    assert torch.equal(z, torch.zeros(1, 256))
    assert all(p.grad.isfinite().all() for p in f.parameters())


@pytest.mark.parametrize("training", [True, False])
def test_gradient_reaches_every_parameter(f, training):
    f.train(training).zero_grad()
    z = f(f.preprocess([(torch.from_numpy(voice(16_000, 0.7, 113.0, 1.0, 0.1)), 16_000)]))
    z[:, :7].sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in f.parameters())
    f.eval().zero_grad()


# --- does it hear who speaks? ------------------------------------------------------------------------------------


def test_synthetic_speakers_are_told_apart_whatever_they_say(f):
    speakers = [(97.0, 0.9), (117.0, 1.02), (149.0, 1.1), (197.0, 1.15), (233.0, 1.25)]  # pitch, formants
    sounds, who = [], []
    for speaker, (pitch, scale) in enumerate(speakers):
        for start in range(len(VOWELS)):  # another order of vowels, another melody, some noise
            wave = voice(16_000, 0.9 + 0.1 * start, pitch * (1 + 0.02 * start), scale, 0.1, start)
            sounds.append((torch.from_numpy(wave) + noise(len(wave), start, 1e-3), 16_000))
            who.append(speaker)
    who = torch.tensor(who)
    with torch.no_grad():
        z = f(f.preprocess(sounds))
    likeness = (z @ z.T).fill_diagonal_(-1)
    assert (who[likeness.argmax(1)] == who).float().mean() > 0.9  # the nearest other sound is the same speaker's
    same = who[:, None] == who
    assert likeness[same & ~torch.eye(len(who), dtype=torch.bool)].mean() > likeness[~same].mean() + 0.1


# --- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sounds, words", [
    ([], "list of"),
    (torch.zeros(5, 999), "Tensor; expected a list"),
    ([torch.zeros(999)], "as sound 0; expected \\(samples"),
    ([(torch.zeros(999), 16_000), (torch.zeros(2, 999), 16_000)], r"\(2, 999\) as sound 1.*two channels"),
    ([(torch.zeros(999, dtype=torch.int16), 16_000)], "int16.*32,768"),
    ([(torch.full((999,), 3000.0), 16_000)], "up to 3e.03.*32,768"),
    ([(torch.full((999,), math.nan), 16_000)], "finite"),
    ([(torch.zeros(399), 16_000)], "399 samples.*400 or more"),
    ([(torch.zeros(0), 16_000)], "0 samples"),
    ([(torch.zeros(999), 16_000.5)], "the rate 16000.5"),
    ([(torch.zeros(999), 16)], "the rate 16 "),
])  # fmt: skip
def test_wrong_sounds_are_refused_by_their_place(sounds, words):
    with pytest.raises(ValueError, match=words):
        sound.Mels()(sounds)


@pytest.mark.parametrize("x, words", [
    (torch.zeros(2, 7, 40), r"expected \(frames"),
    ((torch.zeros(2, 7, 39), torch.tensor([7, 7])), r"\(2, 7, 39\)"),
    ((torch.zeros(2, 7, 40), torch.tensor([7])), r"\(1,\)"),
    ((torch.zeros(2, 7, 40), torch.tensor([7.0, 7.0])), "float32"),
    ((torch.zeros(2, 7, 40), torch.tensor([7, 8])), "lengths 7 to 8; expected 1 to 7"),
    ((torch.zeros(2, 7, 40), torch.tensor([0, 7])), "lengths 0 to 7"),
])  # fmt: skip
def test_wrong_frames_are_refused(f, x, words):
    with pytest.raises(ValueError, match=words):
        f(x)


def test_sounds_have_no_size():
    with pytest.raises(ValueError, match="keep their length"):
        load_backbone("voice_lstm", pretrained=False, size=64)


def test_missing_file_names_the_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    with pytest.raises(FileNotFoundError, match="pip install --no-deps -r weights.txt"):
        load_backbone("voice_lstm")


def test_one_flipped_bit_is_a_clear_error(monkeypatch, tmp_path):
    package, inside, _ = voice_lstm.FILE
    content = bytearray(Path(importlib.util.find_spec(package).submodule_search_locations[0], inside).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / inside).write_bytes(content)

    class Spec:
        submodule_search_locations = (str(tmp_path),)

    monkeypatch.setattr(importlib.util, "find_spec", lambda package: Spec)
    with pytest.raises(ValueError, match="SHA-256.*weights.txt"):
        load_backbone("voice_lstm")
