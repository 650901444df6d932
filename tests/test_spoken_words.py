"""Spoken words: made by espeak, each a function of its key; recordings read from files of every kind."""

import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.io.wavfile
import torch
from helpers import said

from sftlib.backbones import load_backbone
from sftlib.datasets import spoken_words
from sftlib.datasets.spoken_words import espeak, espeak_child, made, parts, waves
from sftlib.datasets.spoken_words.espeak import Espeak

SMALL = spoken_words.Synthesis(counts={"train": 61, "val": 13, "test": 29})
ROOT = Path(__file__).parents[1]


def load(**settings):
    return spoken_words.load(synthesis=SMALL, **settings)


def samples(split, rows):
    return [split.sounds[i].sound()[0] for i in rows]


def asked(process, voice="gmw/en-us+f1", text="seven", seed=5):
    return process.say(voice, text, words_per_minute=160, pitch=47, range=53, seed=seed)


@pytest.fixture
def process():
    one = Espeak()
    yield one
    one.close()


# --- made sounds ----------------------------------------------------------------------------------------------------


def test_a_sound_is_the_same_whatever_was_said_before_it(process):
    voices = [f"gmw/{made.ACCENTS[i % len(made.ACCENTS)]}+{name}" for i, name in enumerate(made.VOICES)]
    first = {voice: asked(process, voice) for voice in voices}
    assert len({wave.tobytes() for wave in first.values()}) == len(voices)
    other = Espeak()
    for i in np.random.default_rng(3).permutation(len(voices)):
        asked(other, voices[i - 1], "another one, and longer", seed=int(i))
        assert np.array_equal(asked(other, voices[i]), first[voices[i]]), voices[i]
    other.close()


def test_every_accent_is_one(process):
    waves_of = {accent: asked(process, f"gmw/{accent}+m1", "nine zero four").tobytes() for accent in made.ACCENTS}
    assert len(set(waves_of.values())) == len(made.ACCENTS)


def test_a_made_sound_is_a_function_of_seed_and_row():
    data, again, other = load(seed=3), load(seed=3), load(seed=4)
    rows = [7, 0, 31]
    alone = samples(again.train.subset(rows), [2, 1, 0])[::-1]
    made._made.cache_clear()
    for a, b in zip(samples(data.train, rows), alone, strict=True):
        assert torch.equal(a, b)
    more = spoken_words.load(seed=3, synthesis=replace(SMALL, counts={"train": 67, "val": 0, "test": 5}))
    assert torch.equal(samples(more.train, [31])[0], alone[2]) and len(more.val) == 0
    assert not torch.equal(samples(other.train, [7])[0][:999], alone[0][:999])
    assert not torch.equal(samples(data.train, [7])[0][:999], samples(data.test, [7])[0][:999])
    assert data.train.fingerprint == again.train.fingerprint != other.train.fingerprint


def test_no_two_sounds_have_the_same_chances():
    keys = [take.key for seed in (3, 4) for part in ("train", "val", "test")
            for take in getattr(load(seed=seed, split="recordings"), part).sounds]  # fmt: skip
    assert len(set(keys)) == len(keys) == 2 * (61 + 13 + 29)
    data = load(split="recordings")  # row 7 is the same word in the same voice, said anew
    a, b = data.train.sounds[7], data.test.sounds[7]
    assert (a.text, a.voice) == (b.text, b.voice) and not torch.equal(a.sound()[0][:999], b.sound()[0][:999])


def test_a_sound_is_a_copy():
    split = load().train
    (sound, _), _ = split[3]
    before = sound.clone()
    sound.zero_()
    assert torch.equal(split[3][0][0], before)


def test_voices_are_split_and_words_balanced():
    data = load()
    spoken = [set(part.speakers) for part in (data.train, data.val, data.test)]
    assert all(spoken) and sum(map(len, spoken)) == len(set.union(*spoken))
    assert data.classes == spoken_words.DIGITS
    for part in (data.train, data.val, data.test):
        counts = part.labels.bincount()
        assert counts.max() - counts.min() <= 1
        assert list(part.words) == [data.classes[k] for k in part.labels]
    assert len(data.notes) == 3 and all(name in data.notes[0] for name in spoken[0])
    everyone = spoken_words.load().train.speakers, spoken_words.load().val.speakers, spoken_words.load().test.speakers
    assert set().union(*everyone) == set(made.VOICES)


def test_both_tasks_have_the_same_sounds():
    words, who = load(split="recordings"), load(task="speaker")
    assert who.classes == tuple(sorted(made.VOICES))
    assert words.test.names == who.test.names
    assert [who.classes[k] for k in who.test.labels] == list(words.test.speakers)
    assert torch.equal(samples(words.test, [5])[0], samples(who.test, [5])[0])


def test_named_voices_are_in_their_split():
    data = load(test_speakers=["f1", "m1"], val_speakers=[])
    assert set(data.test.speakers) == {"f1", "m1"} and len(data.val) == 0
    assert not {"f1", "m1"} & set(data.train.speakers)


def test_phrases_are_longer_than_words_and_faster_voices_shorter():
    data = spoken_words.load(words=["four", "four nine two seven"], synthesis=SMALL)
    short, long = ([len(s) for s in samples(data.train, range(k, 8, 2))] for k in (0, 1))
    assert min(long) > max(short)
    length = {}
    for speed in (90, 300):
        how = replace(SMALL, words_per_minute=(speed, speed), room_s=None)
        length[speed] = sum(len(s) for s in samples(spoken_words.load(synthesis=how).train, range(7)))
    assert length[90] > 1.5 * length[300]


def test_what_is_made_is_what_the_voice_network_takes():
    f = load_backbone("voice_lstm")
    sounds, labels = load(seed=1).train.batch(torch.tensor([11, 2, 5]))
    frames, lengths = f.preprocess(sounds)
    assert labels.tolist() == [1, 2, 5] and frames.shape == (3, lengths.max(), 40)
    assert all(rate == 22_050 and 0.01 < s.abs().max() <= 1 for s, rate in sounds)


def test_batches_come_in_order_and_end_early():
    split = load().train
    rows = [torch.tensor([5, 3]), torch.tensor([8]), torch.tensor([1, 0, 2])]
    got = list(split.batches(rows))
    for some, (sounds, labels) in zip(rows, got, strict=True):
        assert torch.equal(labels, split.labels[some])
        assert all(torch.equal(s, split.sounds[i].sound()[0]) for (s, _), i in zip(sounds, some.tolist(), strict=True))
    some = split.batches(rows)
    next(some)
    some.close()


def test_frozen_voices_are_known_and_words_of_new_ones_less():
    how = spoken_words.Synthesis(
        counts={"train": 240, "val": 0, "test": 120}, voices=("f1", "f3", "Andy", "ed", "zac", "linda", "m7", "boris"),
        noise_db=(25, 40), room_s=None,
    )  # fmt: skip
    f = load_backbone("voice_lstm")

    def accuracy(data):
        z = []
        for part in (data.train, data.test):
            with torch.no_grad():
                z.append(torch.cat([f(f.preprocess(part.batch(r)[0])) for r in torch.arange(len(part)).split(40)]))
        middle = torch.stack([z[0][data.train.labels == k].mean(0) for k in range(len(data.classes))])
        return float((torch.cdist(z[1], middle).argmin(1) == data.test.labels).float().mean())

    speaker = accuracy(spoken_words.load(task="speaker", synthesis=how))
    word = accuracy(spoken_words.load(synthesis=how))
    assert speaker > 0.8 and speaker > word + 0.2, (speaker, word)


# --- room and noise -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [-7.0, 13.0])
def test_noise_has_the_energy_asked_for(ratio):
    wave = np.sin(np.arange(7_919) / 7)
    noise = made.with_noise(wave, ratio, np.random.default_rng(1)) - wave
    assert 10 * math.log10(np.sum(wave**2) / np.sum(noise**2)) == pytest.approx(ratio, abs=1e-6)


@pytest.mark.parametrize("fall_s", [0.2, 0.7])
def test_an_echo_falls_by_60_db_in_its_time(fall_s):
    click = np.zeros(101)
    click[0] = 1
    energy = np.mean([made.in_room(click, fall_s, np.random.default_rng(i)) ** 2 for i in range(199)], axis=0)
    n = int(fall_s * 22_050)
    assert len(energy) == pytest.approx(n / 2, abs=102)
    early, late = (energy[int(a * n) : int(a * n) + n // 20].sum() for a in (0.05, 0.4))
    assert 10 * math.log10(early / late) == pytest.approx(60 * 0.35, abs=1.5)


def test_no_room_and_no_noise_leave_the_word_alone():
    quiet = replace(SMALL, noise_db=None, room_s=None, level_db=(-23, -23))
    wave = samples(spoken_words.load(synthesis=quiet).train, [2])[0].double()
    assert 20 * wave.square().mean().sqrt().log10() == pytest.approx(-23, abs=0.01)
    assert wave[:200].abs().max() == 0 == wave[-200:].abs().max()


# --- espeak's process -----------------------------------------------------------------------------------------------


posix = pytest.mark.skipif(sys.platform == "win32", reason="no signals, no fork")


def gone(pid):
    """Whether no process has this number"""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


FAKE = "import sys, os, time, struct; r = os.fdopen(1, 'wb', 0); r.write(struct.pack('<ii', 0, 4) + b'many'); "


@pytest.mark.parametrize("end, words", [
    ("sys.stdin.readline(); sys.stderr.write('a fault in C'); sys.stderr.flush(); os.abort()", "a fault in C"),
    ("sys.stdin.readline(); os._exit(3)", "status 3.*wrote nothing"),
    ("sys.stdin.readline(); r.write(struct.pack('<ii', 0, 999) + b'half'); os._exit(0)", "status 0"),
    ("os._exit(7)", "status 7"),
    ("sys.stdin.readline(); r.write(struct.pack('<ii', 1, 5) + b'no Jo')", "no Jo"),
])  # fmt: skip
def test_a_crash_is_an_error_that_names_the_word(end, words):
    process = Espeak(("-c", FAKE + end))
    with pytest.raises(RuntimeError, match=f"(?s){words}") as error:
        asked(process)
    assert "'seven'" in str(error.value) and "gmw/en-us+f1" in str(error.value)
    assert process.process is None and process.folder is None


def test_no_answer_ends_the_process(monkeypatch):
    monkeypatch.setattr(espeak, "PATIENCE_S", 0.3)
    with pytest.raises(RuntimeError, match="no answer in time"):
        asked(Espeak(("-c", FAKE + "time.sleep(1000)")))


def test_after_a_crash_the_next_sound_has_a_new_process(process):
    first = asked(process)
    old = process.process
    old.kill()
    with pytest.raises(RuntimeError, match="next sound starts another process"):
        asked(process)
    assert old.returncode is not None, "it was not waited for"
    assert np.array_equal(asked(process), first) and process.process is not old


def test_what_the_library_refuses_is_named_and_harms_nothing(process):
    with pytest.raises(RuntimeError, match="the voice gmw/klingon"):
        asked(process, "gmw/klingon")
    assert len(asked(process)) > 1_000


def test_a_library_that_cannot_be_renewed_has_a_process_for_each_sound(process):
    once = Espeak((*process.program, "once"))
    for voice in ("gmw/en-us+f1", "gmw/en+m1", "gmw/en-us+f1"):
        assert np.array_equal(asked(once, voice), asked(process, voice))
        assert once.process is None and process.process is not None


def test_a_library_that_keeps_something_is_found_out():
    class Kept:
        said = 0

        def say(self, request):
            self.said += request["text"] != "one"
            return b"%d" % self.said

    assert not espeak_child.repeats(Kept())


def test_close_leaves_no_process_and_no_folder(process):
    asked(process)
    child, folder = process.process, process.folder
    assert Path(folder).is_dir()
    process.close()
    process.close()
    assert child.returncode == 0, "it was ended, or not waited for"
    assert not Path(folder).exists()


PROGRAM = """
import os, sys, torch
from sftlib.datasets import spoken_words
from sftlib.datasets.spoken_words.espeak import ESPEAK
split = spoken_words.load().train
first = split[3][0][0]
print(ESPEAK.process.pid, ESPEAK.folder, flush=True)
"""


def run(program):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM + program], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    return done, done.stdout.split()


@posix
@pytest.mark.parametrize("end", ["", "raise KeyboardInterrupt"])
def test_the_process_ends_with_its_parent(end):
    done, (pid, folder) = run(end)
    assert "Warning" not in done.stderr, said(done)
    assert gone(int(pid)) and not Path(folder).exists()


@posix
def test_a_killed_parent_takes_it_along():
    done, (pid, folder) = run("os.kill(os.getpid(), 9)")
    assert done.returncode == -signal.SIGKILL, said(done)
    end = time.monotonic() + 60
    while not gone(int(pid)) and time.monotonic() < end:
        subprocess.run([sys.executable, "-I", "-S", "-c", ""])  # some time passes
    assert gone(int(pid)) and not Path(folder).exists()


@posix
def test_a_fork_has_a_process_of_its_own():
    program = """
pid = ESPEAK.process.pid
from sftlib.datasets.spoken_words import made
made._made.cache_clear()
child = os.fork()
same = torch.equal(split[3][0][0], first)
if child == 0:
    ok = same and ESPEAK.process.pid != pid
    ESPEAK.close()
    os._exit(0 if ok else 1)
assert os.waitpid(child, 0)[1] == 0
assert same and ESPEAK.process.pid == pid
"""
    done, _ = run(program)
    assert done.returncode == 0, said(done)


def test_workers_of_torch_make_the_same_sounds():
    program = """
from torch.utils.data import DataLoader
if __name__ == "__main__":
    batches = DataLoader(split.subset(range(12)), batch_size=4, num_workers=2, collate_fn=list)
    got = [sound for batch in batches for (sound, rate), label in batch]
    assert all(torch.equal(a, split.sounds[i].sound()[0]) for i, a in enumerate(got)) and len(got) == 12
"""
    done, _ = run(program)
    assert done.returncode == 0, said(done)


@posix
def test_an_interrupt_at_the_keyboard_is_not_for_it(process):
    asked(process)
    os.kill(process.process.pid, signal.SIGINT)
    assert len(asked(process)) > 1_000


def test_a_missing_package_names_the_command(monkeypatch):
    monkeypatch.setattr(espeak, "find_spec", lambda package: None)
    with pytest.raises(FileNotFoundError, match="espeakng-loader is not installed.*pip install"):
        asked(Espeak())


def test_one_changed_byte_of_the_data_is_a_clear_error(tmp_path):
    data = espeak.library().parent / espeak.DATA
    espeak.copy_data(data, tmp_path / "a")
    for path in (tmp_path / "a").rglob("*"):
        if path.is_file() and "lang" in path.parts:
            path.rename(path.with_name(path.name.upper().replace("EN", "en", 1)))
    (tmp_path / "a" / "intonations").write_bytes(b"no")
    with pytest.raises(ValueError, match="SHA-256.*expected.*pip install"):
        espeak.copy_data(tmp_path / "a", tmp_path / "b")


# --- WAV files ------------------------------------------------------------------------------------------------------


def tone(n=1_109, channels=1):
    t = np.arange(n)[:, None]
    return 0.4 * np.sin(t / 7) + 0.3 * np.cos(t / (11 + np.arange(channels)))  # (n, channels)


def wav(
    data: bytes, kind: int, channels: int, rate: int, bits: int, *, extensible=False, before=b"", size=None
) -> bytes:
    """The bytes of a WAV file, written by hand"""
    width = channels * bits // 8
    form = b"".join(n.to_bytes(k, "little") for n, k in (
        (0xFFFE if extensible else kind, 2), (channels, 2), (rate, 4), (rate * width, 4), (width, 2), (bits, 2)
    ))  # fmt: skip
    if extensible:
        guid = kind.to_bytes(2, "little") + bytes.fromhex("000000001000800000aa00389b71")
        form += (22).to_bytes(2, "little") + bits.to_bytes(2, "little") + bytes(4) + guid
    size = len(data) if size is None else size
    parts_ = b"fmt " + len(form).to_bytes(4, "little") + form + before + b"data" + size.to_bytes(4, "little") + data
    return b"RIFF" + (4 + len(parts_)).to_bytes(4, "little") + b"WAVE" + parts_


def whole(x, bits):
    """(n, channels) in [-1, 1] -> bytes of whole numbers"""
    if bits == 8:
        return (np.round(x * 127) + 128).astype(np.uint8).tobytes()
    numbers = np.round(x * (2 ** (bits - 1) - 1)).astype("<i8")
    return b"".join(int(v).to_bytes(bits // 8, "little", signed=True) for v in numbers.ravel())


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("rate", [8_000, 44_100])
@pytest.mark.parametrize("extensible", [False, True])
@pytest.mark.parametrize("kind, bits", [(1, 8), (1, 16), (1, 24), (1, 32), (3, 32), (3, 64)])
def test_every_kind_of_samples_is_read(tmp_path, kind, bits, channels, rate, extensible):
    x = tone(channels=channels)
    data = whole(x, bits) if kind == 1 else x.astype(f"<f{bits // 8}").tobytes()
    path = tmp_path / "a.wav"
    path.write_bytes(wav(data, kind, channels, rate, bits, extensible=extensible))
    got, got_rate = waves.read(path)
    assert got.dtype == np.float32 and got_rate == rate
    np.testing.assert_allclose(got, x.mean(1), atol=2.0 ** (2 - bits) if kind == 1 else 1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32, np.float64])
def test_files_that_scipy_writes(tmp_path, dtype):
    x = tone(channels=2)
    stored = {"u": x * 127 + 128, "i": x * (np.iinfo(dtype).max if dtype().dtype.kind == "i" else 1), "f": x}
    scipy.io.wavfile.write(tmp_path / "a.wav", 11_025, stored[np.dtype(dtype).kind].astype(dtype))
    got, rate = waves.read(tmp_path / "a.wav")
    assert rate == 11_025
    np.testing.assert_allclose(got, x.mean(1), atol=0.02 if dtype is np.uint8 else 1e-4)


def test_other_parts_and_an_open_end_are_read(tmp_path):
    data = whole(tone(), 16)
    odd = b"LIST" + (3).to_bytes(4, "little") + b"abc\0"
    for i, content in enumerate((wav(data, 1, 1, 8_000, 16, before=odd), wav(data, 1, 1, 8_000, 16, size=0xFFFFFFFF))):
        (tmp_path / f"{i}.wav").write_bytes(content)
        assert len(waves.read(tmp_path / f"{i}.wav")[0]) == 1_109


GOOD = wav(whole(tone(), 16), 1, 1, 8_000, 16)
BROKEN = {
    "empty": (b"", "empty"),
    "text": (b"once upon a time, there was", "no WAV"),
    "head": (GOOD[:30], "cut"),
    "cut": (GOOD[:-500], "cut: 1,718 of 2,218 bytes"),
    "no_samples": (wav(b"", 1, 1, 8_000, 16), "0 samples"),
    "short": (wav(whole(tone(199), 16), 1, 1, 8_000, 16), "199 samples at 8000 Hz; expected 25 ms"),
    "silent": (wav(bytes(4_000), 1, 1, 8_000, 16), "silent"),
    "constant": (wav(whole(np.full((999, 1), 0.3), 16), 1, 1, 8_000, 16), "silent"),
    "nan": (wav(np.full(999, np.nan, "<f4").tobytes(), 3, 1, 8_000, 32), "NaN"),
    "large": (wav((tone() * 32_768).astype("<f4").tobytes(), 3, 1, 8_000, 32), r"up to 2.\d+e\+04"),
    "mulaw": (wav(bytes(range(256)) * 5, 7, 1, 8_000, 8), "mu-law of 8 bits"),
    "twelve": (wav(bytes(1_200), 1, 1, 8_000, 12), "whole numbers of 12 bits"),
    "torn": (wav(whole(tone(), 16)[:-1], 1, 1, 8_000, 16), "no multiple of 2"),
    "no_rate": (wav(whole(tone(), 16), 1, 1, 0, 16), "at 0 Hz"),
    "no_channel": (wav(whole(tone(), 16), 1, 0, 8_000, 16), "0 channels"),
    "big": (b"RIFX" + GOOD[4:], "no WAV"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_read_says_why(tmp_path, name):
    content, words = BROKEN[name]
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(ValueError, match=words):
        waves.read(tmp_path / "a.wav")


# --- folders of recordings ------------------------------------------------------------------------------------------

PEOPLE = ("ann", "bo_b", "cy", "di", "eve")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("words")
    rng = np.random.default_rng(5)
    for k in range(3):
        for speaker in PEOPLE:
            for i in range(11):
                x = tone(331 + i) + 0.1 * rng.standard_normal((331 + i, 1))
                (root / f"{k}_{speaker}_{i}.wav").write_bytes(wav(whole(x.clip(-1, 1), 16), 1, 1, 8_000, 16))
    (root / "README.md").write_text("words", encoding="utf-8")
    (root / "._0_ann_1.wav").write_bytes(b"of a Mac")
    return root


def speaking(split):
    return set(split.speakers)


def test_each_speaker_can_be_left_out(folder):
    for speaker in PEOPLE:
        data = spoken_words.load(folder, test_speakers=[speaker])
        assert speaking(data.test) == {speaker} and len(data.test) == 33
        assert len(speaking(data.train)) + len(speaking(data.val)) == 4 and len(speaking(data.val)) == 1
        alone = spoken_words.load(folder, test_speakers=[speaker], val_speakers=[])
        assert len(alone.train) == 132 and len(alone.val) == 0
    assert data.classes == ("zero", "one", "two") and data.ignored == ("._0_ann_1.wav", "README.md")


def test_speakers_are_split_by_the_seed(folder):
    data, again = spoken_words.load(folder, seed=7), spoken_words.load(folder, seed=7)
    assert data.train.names == again.train.names
    assert [len(speaking(part)) for part in (data.train, data.val, data.test)] == [3, 1, 1]
    assert len({frozenset(speaking(spoken_words.load(folder, seed=s).test)) for s in range(11)}) > 1


def test_the_official_part_is_index_0_to_4(folder):
    data = spoken_words.load(folder, split="recordings")
    numbers = [[int(name.rpartition("_")[2].removesuffix(".wav")) for name in part.names]
               for part in (data.test, data.val, data.train)]  # fmt: skip
    assert [set(some) for some in numbers] == [set(range(5)), set(range(5, 10)), {10}]
    assert [len(some) for some in numbers] == [75, 75, 15]


def test_recordings_have_both_labels(folder):
    words, who = spoken_words.load(folder, split="recordings"), spoken_words.load(folder, task="speaker")
    assert who.classes == PEOPLE and words.test.names == who.test.names
    for name, k, s, word in zip(words.test.names, words.test.labels, who.test.labels, words.test.words, strict=True):
        assert name.startswith(f"{k}_{PEOPLE[s]}_") and word == spoken_words.DIGITS[k]
    (sound, rate), label = who.test[37]
    assert rate == 8_000 and label == who.test.labels[37]
    file = scipy.io.wavfile.read(folder / who.test.names[37])[1] / 32_768
    np.testing.assert_allclose(sound.numpy(), file, atol=1e-6)


def test_the_folder_above_will_do(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "recordings")
    assert len(spoken_words.load(str(tmp_path)).train)


def test_all_that_is_wrong_is_named_in_one_error(folder, tmp_path):
    for i, (content, _) in enumerate(BROKEN.values()):
        (tmp_path / f"1_ann_{i}.wav").write_bytes(content)
    (tmp_path / "2_cy_1.wav").write_bytes(GOOD)
    (tmp_path / "2_cy_2.wav").write_bytes(GOOD)
    (tmp_path / "two_cy.wav").write_bytes(GOOD)
    (tmp_path / "10_cy_3.wav").write_bytes(GOOD)
    with pytest.raises(ValueError) as error:
        spoken_words.load(tmp_path)
    lines = str(error.value).splitlines()
    assert lines[0].startswith("got 19 recordings") and "1 that can" in lines[0]
    for i, (_, words) in enumerate(BROKEN.values()):
        assert any(line.startswith(f"  1_ann_{i}.wav: ") for line in lines), words
    assert any("2_cy_2.wav: the same sound as 2_cy_1.wav" in line for line in lines)
    assert any("two_cy.wav: its name" in line for line in lines)
    assert any("10_cy_3.wav: 10 is no place in the 10 words" in line for line in lines)
    assert "skip_broken=True" in lines[-1]


def test_broken_files_can_be_left_out(folder, tmp_path):
    for path in folder.glob("?_*.wav"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "1_ann_77.wav").write_bytes(b"no")
    data = spoken_words.load(tmp_path, skip_broken=True)
    assert len(data.train) + len(data.val) + len(data.test) == 165
    assert len(data.broken) == 1 and data.broken[0].startswith("1_ann_77.wav: no WAV")


def test_other_samples_are_another_fingerprint(folder, tmp_path):
    for path in folder.glob("?_*.wav"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    before = spoken_words.load(tmp_path).train
    name = before.names[3]
    (tmp_path / name).write_bytes(GOOD)
    assert (
        spoken_words.load(tmp_path).train.fingerprint
        != before.fingerprint
        == spoken_words.load(folder).train.fingerprint
    )


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings, words", [
    ({"task": "letter"}, "task='letter'; expected 'word' or 'speaker'"),
    ({"split": "rows"}, "split='rows'"),
    ({"task": "speaker", "split": "speakers"}, "would be known"),
    ({"task": "speaker", "test_speakers": ["f1"]}, "with split='recordings'"),
    ({"test_speakers": "f1"}, "test_speakers='f1'; expected a list"),
    ({"test_speakers": ["nobody"]}, "nobody.*expected some of"),
    ({"test_speakers": ["f1"], "val_speakers": ["f1"]}, "each once"),
    ({"test_speakers": list(made.VOICES)}, "one or more for train"),
    ({"fractions": (0.5, 0.5)}, "three shares"),
    ({"seed": -1}, "seed=-1"),
    ({"words": "four"}, "expected a list of words"),
    ({"words": []}, "one or more"),
    ({"words": ["a", "A "]}, "each once"),
    ({"words": ["a", "\x01b"]}, "printable"),
    ({"words": ["a", "!?"]}, "letters or digits"),
    ({"words": ["a" * 201]}, "200 characters"),
    ({"synthesis": 3}, "expected a spoken_words.Synthesis"),
    ({"synthesis": replace(SMALL, counts={"train": 3})}, "train, val and test"),
    ({"synthesis": replace(SMALL, counts={"train": 0, "val": 0, "test": 0})}, "train"),
    ({"synthesis": replace(SMALL, voices=("f1", "Reed"))}, "Reed.*among voices"),
    ({"synthesis": replace(SMALL, voices=("f1",))}, "one speaker, f1"),
    ({"synthesis": replace(SMALL, voices=())}, "voices=\\(\\)"),
    ({"synthesis": replace(SMALL, accents=("fr",))}, "fr.*among accents"),
    ({"synthesis": replace(SMALL, pitch=None)}, "pitch=None"),
    ({"synthesis": replace(SMALL, noise_db=10)}, "noise_db=10.*or None"),
    ({"synthesis": replace(SMALL, noise_db=(30, 20))}, r"noise_db\[1\]=20"),
    ({"synthesis": replace(SMALL, room_s=(0, math.nan))}, r"room_s\[1\]=nan"),
    ({"synthesis": replace(SMALL, words_per_minute=(10, 100))}, r"words_per_minute\[0\]=10"),
])  # fmt: skip
def test_what_cannot_be_meant_is_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        spoken_words.load(**settings)


def test_folders_that_cannot_be_meant_are_refused(folder, tmp_path):
    cases = [
        (lambda: spoken_words.load(tmp_path / "nowhere"), "no folder"),
        (lambda: spoken_words.load(tmp_path), "no recording in it"),
        (lambda: spoken_words.load(folder, synthesis=SMALL), "expected one of them"),
        (lambda: spoken_words.load(folder, words=["a"]), "1 is no place in the 1 words"),
        (lambda: spoken_words.load(folder, test_speakers=["zoe"]), "zoe"),
    ]
    for work, words in cases:
        with pytest.raises(ValueError, match=words):
            work()


def test_a_word_that_train_lacks_is_named(tmp_path):
    for i, name in enumerate(("0_ann_10", "0_bob_10", "1_bob_11")):
        (tmp_path / f"{name}.wav").write_bytes(wav(whole(tone(501 + i), 16), 1, 1, 8_000, 16))
    with pytest.raises(ValueError, match="no recording of one for train"):
        spoken_words.load(tmp_path, test_speakers=["bob"], val_speakers=[])


def test_a_phrase_without_a_sound_is_named():
    data = spoken_words.load(words=["seven", "\u3042"], synthesis=SMALL)
    try:
        sound = samples(data.train, [1])[0]
    except ValueError as error:
        assert "says nothing" in str(error)
    else:
        assert len(sound) > 551


def test_speakers_named_or_drawn_are_a_partition():
    names = [f"s{i}" for i in range(23)]
    for val, test in ((None, None), (["s3"], None), (None, ["s5", "s7"]), (["s3"], ["s5"]), ([], [])):
        part_of = parts.by_speaker(names, (0.6, 0.15, 0.25), val, test, 1)
        assert set(part_of) == set(names)
        for part, some in (("val", val), ("test", test)):
            if some is not None:
                assert {n for n, p in part_of.items() if p == part} == set(some)


# --- strings of words -----------------------------------------------------------------------------------------------


def test_strings_are_sounds_of_one_voice_in_the_order_of_their_labels():
    split = load().train
    sounds, y = spoken_words.strung(split, 23, seed=5)
    own = {(s, int(k)): [] for s, k in zip(split.speakers, split.labels, strict=True)}
    for i in range(len(split)):
        own[split.speakers[i], int(split.labels[i])].append(split[i][0][0])
    many = set()
    for (wave, rate), units in zip(sounds, y.tolist(), strict=True):
        k = [u - 1 for u in units if u != -1]
        assert rate == split[0][0][1]
        assert units == [u + 1 for u in k] + [-1] * (4 - len(k))
        many.add(len(k))
        assert any(found(wave, [own.get((s, u), []) for u in k]) for s in set(split.speakers))
    assert many == {2, 3, 4}
    again, same = spoken_words.strung(split, 23, seed=5)
    assert torch.equal(y, same) and all(torch.equal(a, b) for (a, _), (b, _) in zip(sounds, again, strict=True))
    assert not torch.equal(y, spoken_words.strung(split, 23, seed=6)[1])


def found(wave, choices):
    """Whether the wave is one sound of the first choices, then one of the second, and so on, and nothing else"""
    if not choices:
        return len(wave) == 0
    return any(
        len(s) <= len(wave) and torch.equal(wave[: len(s)], s) and found(wave[len(s) :], choices[1:])
        for s in choices[0]
    )


def test_strings_of_two_rates_are_refused_and_so_are_lengths_that_cannot_be():
    split = load().train
    slow = replace(split, sounds=tuple(Halved(s) if i % 2 else s for i, s in enumerate(split.sounds)))
    with pytest.raises(ValueError, match="of one voice at .* Hz; expected one rate"):
        spoken_words.strung(slow, 29)
    for wrong in ({"n": 0}, {"fewest": 0}, {"fewest": 3, "most": 2}, {"seed": -1}):
        with pytest.raises(ValueError, match="expected"):
            spoken_words.strung(split, **{"n": 3} | wrong)


def test_phrases_are_different_and_take_a_word_of_each_slot():
    slots = (("a", "b", "c"), ("d", "e"), ("f", "g", "h", "i", "j"))
    every = {f"{x} {y} {z}" for x in slots[0] for y in slots[1] for z in slots[2]}
    all_of_them = spoken_words.phrases(30, seed=3, slots=slots)
    assert len(all_of_them) == 30 and set(all_of_them) == every
    some = spoken_words.phrases(7, seed=3, slots=slots)
    assert some == all_of_them[:7] and some != spoken_words.phrases(7, seed=4, slots=slots)
    assert len(set(spoken_words.phrases(12**3))) == 12**3
    for wrong in ({"n": 31}, {"n": 0}, {"seed": -1}, {"slots": ()}, {"slots": ("ab", "cd")}, {"slots": (("a", "a"),)}):
        with pytest.raises(ValueError, match="expected"):
            spoken_words.phrases(**{"n": 1, "slots": slots} | wrong)


def test_letters_are_places_in_the_alphabet_behind_the_blank():
    """Space 1, a 2, …, z 27"""
    y = spoken_words.in_letters(["abba", "z", "to be"])
    assert y.tolist() == [[2, 3, 3, 2, -1], [27, -1, -1, -1, -1], [21, 16, 1, 3, 6]]
    for wrong in ("", " a", "a ", "a  b", "Red", "caf\u00e9", "3", "don't", "a\nb"):
        with pytest.raises(ValueError, match="small letters a to z"):
            spoken_words.in_letters(["red", wrong])
    for wrong in ("red", []):
        with pytest.raises(ValueError, match="list of texts"):
            spoken_words.in_letters(wrong)


def test_spelled_sounds_are_those_of_the_split_and_none_comes_twice():
    split = load(words=spoken_words.phrases(11, seed=2), val_speakers=[]).train
    sounds, y = spoken_words.spelled(split, 17, seed=5)
    of = {
        wave.numpy().tobytes(): text
        for (wave, _), text in zip([s.sound() for s in split.sounds], split.words, strict=True)
    }
    said = ["".join(spoken_words.LETTERS[k - 1] for k in units if k != -1) for units in y.tolist()]
    assert said == [of[wave.numpy().tobytes()] for wave, _ in sounds]
    assert len({wave.numpy().tobytes() for wave, _ in sounds}) == 17 == len(sounds)
    again = spoken_words.spelled(split, 17, seed=5)
    assert torch.equal(again[1], y) and all(torch.equal(a, b) for (a, _), (b, _) in zip(again[0], sounds, strict=True))
    assert [w.tolist() for w in spoken_words.spelled(split, 17, seed=6)[1]] != y.tolist()
    with pytest.raises(ValueError, match="n=62; expected a whole number from 1 to 61"):
        spoken_words.spelled(split, 62)
    with pytest.raises(ValueError, match="small letters"):
        spoken_words.spelled(load(words=["route 66", "seven"]).train, 3)


class Halved:
    def __init__(self, source):
        self.source = source

    def sound(self):
        samples, rate = self.source.sound()
        return samples, rate // 2
