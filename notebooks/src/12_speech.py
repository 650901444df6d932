# %% [markdown]
# # 12 Speech: does a network that knows voices know words?
#
# A recurrent network heard more than 8,000 people and was taught one thing: whose voice it is. You cut it, ask each
# layer for words that nobody taught it, and fine-tune it.
#
# Afterwards you can
#
# - turn a sound into frames and step a recurrent network through them by hand, whatever is padded behind;
# - ask, with probes, what each layer holds of your task, and choose where to cut;
# - train such a network for words, and judge it on voices that it has not heard, beside one from scratch.
#
# **55 minutes** to read and try, 1 minute to run. Notebooks 01, 02 and 05 come before.

# %% tags=["setup"]
import ipywidgets as w
import matplotlib.pyplot as plt
import torch
from IPython.display import Audio, display

from sftlib import adaptation, metrics, plotting, results, schedules, widgets
from sftlib.backbones import load_backbone, sound
from sftlib.checks import check
from sftlib.datasets import NestSplit, nest_loader, spoken_words, trimmed
from sftlib.features import linear_probe
from sftlib.model import LinearHead, Model
from sftlib.runtime import profile, seed_everything
from sftlib.training import fit, measure_precision, predict

plotting.use_style()
fig, ax = plt.subplots(figsize=(9, 3.4))
plotting.idea(ax, highlight=("x", "f", "z", "g"))
plt.show()

# %% [markdown]
# ## Settings
#
# Without a folder, a synthesiser says the words in many voices, with a room and noise around them. Name a folder with
# recordings of people, `{digit}_{speaker}_{index}.wav`, and the whole notebook runs on those.

# %% tags=["setup"]
RECORDINGS = None  # or "path/of/a/folder"
SEED = 0
size = profile()
PER_WORD = 10  # sounds of each word to learn from
TESTED = size.pick(quick=240, full=960)  # made sounds to be judged by
STEPS = size.pick(quick=80, full=160)  # updates
BATCH = 20  # sounds a step
LR_F, LR_G = 1e-3, 3e-2  # per step of Adam
CLIP = 3.0  # the longest gradient, as in the network's own training

# %% [markdown]
# ## Look at the data
#
# Each sound has two labels, the word and the speaker. For **words**, the test part has *other speakers* than the
# training part: a new voice is what counts. For **speakers**, every voice of the test part is in the training part too,
# with other sounds.


# %% tags=["setup"]
def load(task, train, test, **part):
    """Recordings of the folder, or else sounds made by a synthesiser"""
    counts = {"train": train, "val": 0, "test": test}
    made = spoken_words.Synthesis(counts=counts, noise_db=(0, 25))
    part |= {"task": task, "seed": SEED, "synthesis": None if RECORDINGS else made}
    return spoken_words.load(RECORDINGS, **part)


words = load("word", 10 * PER_WORD, TESTED, val_speakers=[])
who = load("speaker", 480, TESTED)
f = load_backbone("voice_lstm")
print("data:", "recordings" if RECORDINGS else "made by a synthesiser")
for task, data in {"word": words, "speaker": who}.items():
    most = (data.test.labels == data.train.labels.bincount().argmax()).double().mean()
    print(f"{task}: {data.train}; to judge by: {data.test}; trivial answer {most:.1%}")
assert not set(words.train.speakers) & set(words.test.speakers)

# %% [markdown]
# A sound is a list of numbers, the air pressure, thousands of times a second. Its **spectrogram** shows how much power
# each band of pitches holds, a hundred times a second. The first two below are one word in two voices, the third is
# another word in the first voice. Play them. Which two pictures are more alike, and which two sounds?


# %%
def spectrogram(ax, frames, title=""):
    """frames (T, 40) -> ax: power in decibels, high pitches above"""
    power, at = 10 * (frames.T + 1e-9).log10(), (5, 13, 21, 31)  # bands to name
    edges = (0, len(frames) / 100, 0, 40)
    ax.imshow(power, origin="lower", aspect="auto", extent=edges)
    hertz = [40 * int(sound.mel_filters()[:, band].argmax()) for band in at]
    ax.set(title=title, xlabel="seconds", ylabel="Hz")
    ax.set_yticks([band + 0.5 for band in at], hertz)
    ax.grid(False)


def choose(split, word, speaker, other=False):
    """split -> the first row with that word, and that speaker or another one"""
    same = zip(split.words, split.speakers, strict=True)
    return next(
        i for i, (k, s) in enumerate(same) if k == word and (s == speaker) != other
    )


# %% tags=["varies"]
heard, voice = words.train, words.train.speakers[0]
rows = [choose(heard, "seven", voice), choose(heard, "seven", voice, other=True)]
rows.append(choose(heard, "nine", voice))
sounds, _ = heard.batch(torch.tensor(rows))
x, lengths = f.preprocess(sounds)
fig, axes = plt.subplots(1, 3, figsize=(10, 3), sharey=True)
for i, row in enumerate(rows):
    title = f"{heard.words[row]}, {heard.speakers[row]}"
    spectrogram(axes[i], x[i, : lengths[i]], title)
    axes[i].label_outer()
    display(Audio(sounds[i][0], rate=sounds[i][1]))
plt.show()

# %% [markdown]
# ## By hand: from pressure to frames
#
# Every 10 ms a window of 25 ms is cut out, faded at its ends by $w$, and taken apart into pitches (a Fourier
# transform). Bands gather the power of neighbouring pitches, wider ones higher up, as ears do (the **mel** scale):
#
# $$x_{tm} = \sum_{j} M_{jm}\,\Bigl|\sum_{q=0}^{399} w_q\, s_{160t+q-200}\, \exp(-2\pi i\,jq/400)\Bigr|^2$$
#
# | symbol | in code | what it is |
# |---|---|---|
# | $s$ | `s` | the sound at 16,000 Hz, at a fixed loudness |
# | $w$ | `hann_window` | (400,), 0 at the ends, 1 in the middle |
# | $M$ | `mel_filters()` | (201, 40), triangles over the pitches $40j$ Hz |
# | $x$ | `x` | (N, T, 40), the frames |

# %%
s = sound.loudness(sound.resample(*sounds[0]))
t, q = 30, torch.arange(400)
window = torch.hann_window(400) * s[160 * t - 200 + q]
turns = torch.outer(torch.arange(201), q) * (-2 * torch.pi / 400)  # (201, 400)
power = torch.polar(torch.ones(201, 400), turns) @ window.to(torch.complex64)
by_hand = power.abs() ** 2 @ sound.mel_filters().float()  # (40,)
print(f"frame {t}: by hand {by_hand.sum():.5f}, from sftlib {x[0, t].sum():.5f}")
assert torch.allclose(by_hand, x[0, t], rtol=1e-3, atol=1e-7)

# %% [markdown]
# Speech networks usually take the logarithm of $x$. This one never did; exercise 5 asks whether that matters.
#
# ## By hand: a recurrent network
#
# An LSTM (*long short-term memory*) reads frame after frame. It keeps a memory $c$ and shows a **state** $h$, which
# depends on all frames so far. Four vectors of 256 numbers come from one product (σ is the logistic function):
#
# $$(e, k, v, o) = W x_t + U h_{t-1} + b, \qquad c_t = \sigma(k)\, c_{t-1} + \sigma(e)\tanh v, \qquad
# h_t = \sigma(o)\tanh c_t$$
#
# Enter, keep, value, output. The extractor is three such
# layers, each reading the states of the one below. Then the last state of the third goes through a linear layer and a
# ReLU, and is scaled to length 1: that is *z*.

# %%
layer = f.lstm1
W, U = layer.weight_ih_l0, layer.weight_hh_l0  # (1024, 40), (1024, 256)
b = layer.bias_ih_l0 + layer.bias_hh_l0
h = c = torch.zeros(256)
states = []
with torch.no_grad():
    for frame in x[0, : lengths[0]]:
        enter, keep, value, output = (W @ frame + U @ h + b).chunk(4)
        c = keep.sigmoid() * c + enter.sigmoid() * value.tanh()
        h = output.sigmoid() * c.tanh()
        states.append(h)
    official = layer((x, lengths))[0][0, : lengths[0]]
print(f"h1 {tuple(official.shape)}; largest difference below 1e-4:", end=" ")
print((torch.stack(states) - official).abs().max().item() < 1e-4)
assert torch.allclose(torch.stack(states), official, atol=1e-4)

# %% [markdown]
# ## Where it breaks: zeros behind a sound
#
# Sounds of a batch differ in length, so zeros are **padded** behind the shorter ones, and the network goes on reading
# them. Its state *after the padding* is another one. Only the state at the sound's own last frame must be taken:

# %%
short, longer = lengths.argmin(), lengths.argmax()
with torch.no_grad():
    alone = f((x[short : short + 1, : lengths[short]], lengths[short : short + 1]))[0]
    beside = f((x, lengths))[short]
    after = f((x, torch.full_like(lengths, x.shape[1])))[short]  # behind the zeros
for name, z in (("in a batch", beside), ("read after the padding", after)):
    print(f"z {name}: cosine with z of the sound alone {alone @ z:.3f}")
assert torch.allclose(alone, beside, atol=1e-5) and alone @ after < 0.99

# %% [markdown]
# ## Where does the information lie?
#
# A **probe**, a linear classifier on something frozen, tells what can be read there. We probe *z*, and the states h1,
# h2, h3 of the layers: the one at the end of the sound, their mean, and the means of six parts of it in their order.
# The control needs no network: such means of the logarithms of the frames.
#
# **Predict.** The network learned voices alone. Where is the *word* of a new voice best read? (a) In *z*: the last
# features are the best ones. (b) Somewhere below *z*. (c) Nowhere better than in the controls.


# %%
PARTS = {"mean": 1, "parts": 6}


def pooled(h, lengths, parts):
    """h (N, T, D), lengths (N,) -> (N, parts · D): means of parts, in their order"""
    own = [h[i, :t].tensor_split(parts) for i, t in enumerate(lengths)]
    return torch.stack([torch.cat([part.mean(0) for part in some]) for some in own])


@torch.no_grad()
def layers(split):  # N sounds -> {what is read: (N, D)}
    h, lengths = f.preprocess([sound for sound, _ in split])
    log, last = (h + 1e-6).log(), torch.arange(len(h))
    found = {f"control, {k}": pooled(log, lengths, p) for k, p in PARTS.items()}
    for i in "123":
        h, _ = getattr(f, f"lstm{i}")((h, lengths))
        found[f"h{i}, end"] = h[last, lengths - 1]
        found |= {f"h{i}, {k}": pooled(h, lengths, p) for k, p in PARTS.items()}
    return found | {"z": f.embedding((h, lengths))}


# %%
def few(split, n):
    """split -> n sounds of each class, drawn by the seed"""
    y, draw = split.labels, torch.Generator().manual_seed(SEED)
    order = torch.randperm(len(y), generator=draw)
    return split.subset(torch.cat([order[y[order] == k][:n] for k in y.unique()]))


mine = few(words.train, PER_WORD)
hits = {}  # task, what is read -> (N,) bool
for task, train, test in (
    ("speaker", few(who.train, PER_WORD), who.test),
    ("word", mine, words.test),
):
    seen, new = layers(train), layers(test)
    for what, z in seen.items():
        g = linear_probe(z, train.labels, l2=0.1)
        hits[task, what] = g(new[what]).argmax(1) == test.labels

# %% tags=["varies"]
fig, axes = plt.subplots(1, 2, figsize=(10, 4.4), sharey=True)
for ax, task in zip(axes, ("speaker", "word"), strict=True):
    shares = {k: h.double().mean().item() for (t, k), h in hits.items() if t == task}
    bars = ax.barh(list(shares), list(shares.values()), height=0.7)
    ax.bar_label(bars, [f"{v:.0%}" for v in shares.values()], padding=3)
    ax.set(title=f"which {task}?", xlim=(0, 1.1), xlabel="accuracy on the test part")
axes[0].invert_yaxis()
plt.show()
for task, best in (("speaker", "z"), ("word", "h2, mean")):
    some = {k: h for (t, k), h in hits.items() if t == task}
    for found in metrics.compare(some, against=best, comparisons=len(hits) - 2):
        seen = "" if found.visible else ", no difference that we can see"
        print(f"{task}: {found.first} − {found.second} {found.interval}{seen}")
        assert (task, found.first) != ("word", "z") or found.visible


# %% tags=["varies"]
heard = words.test.speakers
voices = [torch.tensor([s == v for s in heard]) for v in sorted(set(heard))]


def by_voice(hits):
    """(N,) bool -> the accuracy on each voice of the test part"""
    return [hits[own].double().mean().item() for own in voices]


alike = ("h2, mean", "z", "h3, mean", "control, mean"), ("h2, parts", "control, parts")
print(f"{len(voices)} voices; three or more can be paired")
for best, *others in alike if len(voices) > 2 else ():
    some = {k: by_voice(hits["word", k]) for k in (best, *others)}
    for found in metrics.compare(some, against=best, comparisons=4):
        seen = "" if found.visible else ", no difference that we can see"
        print(f"{found.first} − {best} {found.interval}{seen}")
        assert best == "h2, parts" or found.visible and found.interval.mean < 0

# %% [markdown]
# **Read.** (b), with a reservation. Like with like: of the means over a sound, h2's tells the word of a new voice
# best, ahead of *z*, of the other layers' and of the control's. To compare voices the network needs the sounds of
# speech, it seems, and towards the top they are harder to read. Of the speaker h2's mean and *z* tell the same, as far
# as we can see. But six parts in their order, and so six times as many features, are worth much: those of plain
# frames, without any network, are not visibly behind h2's mean, and far ahead of *z*. Against six parts of h2 they
# fall back, in this draw not visibly over 14 voices.
#
# The first intervals take 240 sounds as independent, but they are of 14 voices; so the last ones pair voices. One draw,
# and the layer was chosen on the sounds that judge it. The tables below ask people.
#
# ## Fine-tune it
#
# Now f learns too, on the same sounds. The gradient passes through a hundred frames, each a product with the same
# U, so it can grow along the way: it is **clipped**, scaled down to a norm of 3 where it is longer.
#
# **Predict**: on the words of new voices, where will the fine-tuned network stand? Below frozen z; above z, but not
# visibly above six parts of h2; visibly above both?


# %%
def framed(split):
    """Sounds -> a split of ((frames (N, T, 40), lengths (N,)), labels (N,))"""
    heard, y = split.batch(torch.arange(len(split)))
    return NestSplit(f.preprocess(heard), y)


def train(f, g, split, **settings):
    """f, g and frames -> g ∘ f, trained on batches of like length"""
    how = {"batch_size": BATCH, "shuffle": True, "drop_last": True}
    order = torch.Generator().manual_seed(SEED)
    loader = nest_loader(split, trimmed, lengths=split.x[1], generator=order, **how)
    settings |= {"epochs": -(-STEPS // len(loader)), "clip": CLIP}
    settings["schedule"] = schedules.warmup_cosine(STEPS + len(loader), warmup=5)
    optimizer = torch.optim.Adam(adaptation.param_groups(f=(f, LR_F), g=(g, LR_G)))
    for _ in fit(Model(f, g), loader, optimizer, **settings):
        pass
    return Model(f, g)


# %% tags=["varies"]
seed_everything(SEED)
mine_x, test_x = framed(mine), framed(words.test)
learner, g = load_backbone("voice_lstm"), LinearHead(256, len(words.classes))
one = next(iter(nest_loader(mine_x, trimmed, batch_size=BATCH)))
arithmetic = measure_precision(Model(learner, g), *one).precision
tuned = train(learner, g, mine_x, precision=arithmetic)
answers = predict(tuned, nest_loader(test_x, trimmed, batch_size=120))
hits["word", "tuned"] = torch.cat([logits.argmax(1) == y for logits, y in answers])
said = {k: hits["word", k] for k in ("z", "control, parts", "h2, parts", "tuned")}
for name, right in said.items():
    print(f"{name:<15} {right.double().mean():.1%} of {len(right)} sounds, new voices")
for found in metrics.compare(said, against="tuned"):
    seen = "" if found.visible else ", no difference that we can see"
    print(f"{found.first} − {found.second}: {found.interval}{seen}")
    assert found.first != "z" or found.visible and found.interval.mean < 0

# %% [markdown]
# **Read.** Fine-tuning nearly doubles what a probe on z gets. But neither six parts of h2, with no training of f, nor
# six parts of plain frames, with no network at all, can be told from it; for h2 nearly the whole interval is on the
# probe's side. Where to cut and how to sum up is a choice, and it can be worth a training. (One draw, made words; f's
# rate is the best of three on others.)
#
# ## The same on people
#
# Tables in `data/results/` hold the same on recordings: 2,000 of four men (10 digits, 50 of each, 8 kHz) from the *Free
# Spoken Digit Dataset* (Jakobovski and contributors, CC BY-SA 4.0, not part of this course). Each man is left out in
# turn; n recordings of each digit, of the others, are drawn to learn from. Four speakers are no sample of mankind, so
# we say the **range** over the men, not an interval.
#
# *Frozen* (five draws): as above, "h1" being its end; "mels" is mean and deviation of each band's logarithm; random
# weights hear logarithms, centred and scaled, since no front end belongs to them. Six parts are read without their
# order too: *shuffled* anew for each sound, or each feature's six values *sorted* by size.
#
# *Trained* (five draws): fine-tuned; LP-FT (g starts as *z*'s probe); discriminative rates (notebook 05);
# and the control, the same network **from scratch** on such logarithms, for four times as many steps. Each has the
# best of three or four rates of its own, tried on made words. A second control, "same frames", hears what the
# pretrained network hears.
#
# **Predict**: at n = 10, by how many points does fine-tuning beat training from scratch? About 5, 20, 35? And
# where does the order of six parts count: in plain frames, in h2, in both?


# %%
def by_way(table, value="accuracy", data="recordings", task="word"):
    """-> {(way, n): (P, S)}, of each of P people left out, with each of S draws"""
    about = {"data": data, "task": task}
    rows = [r for r in results.read(table) if r | about == r or "data" not in r]
    of, found = results.numbers(rows, value, "method", "n", "left_out", "seed"), {}
    for way, n, person, draw in sorted(of):
        people = found.setdefault((way, int(n)), {})
        people.setdefault(person, []).append(of[way, n, person, draw])
    return {key: torch.tensor([*people.values()]) for key, people in found.items()}


tables = ("speech", "speech_training", "speech_scratch", "speech_budgets")
found = {key: shares for table in tables for key, shares in by_way(table).items()}
people = sorted({r["left_out"] for r in results.read("speech_scratch")})
log, same = "scratch, log frames", "scratch, same frames"

# %%
fig, ax = plt.subplots(figsize=(8, 5.6))
at_10 = {way: shares.mean(1) for (way, n), shares in found.items() if n == 10}
order = sorted(at_10, key=lambda way: at_10[way].mean())
for i, person in enumerate(people):
    marks = [at_10[way][i] for way in order]
    ax.plot(marks, order, plotting.MARKERS[i], linestyle="none", label=person)
ax.set(title="n = 10", xlabel="accuracy on the man who was left out", xlim=(0, 1))
ax.legend(loc="lower right")
plt.show()

# %% [markdown]
# Fewer recordings and more; the mark is the mean over the men, the line their range:

# %%
fig, ax = plt.subplots(figsize=(8, 4.2))
shown = ("fine-tuned", "h2, parts", "h2, mean", "mels, parts", log, "z")
for i, way in enumerate(shown):
    there = [k for k, n in enumerate((5, 10, 50)) if (way, n) in found]
    shares = torch.stack([found[way, (5, 10, 50)[k]].mean(1) for k in there])
    middle, at = shares.mean(1), torch.tensor(there) + 0.1 * (i - 2.5)
    ends = torch.stack([middle - shares.amin(1), shares.amax(1) - middle])
    ax.errorbar(at, middle, ends, marker=plotting.MARKERS[i], label=way)
ax.set(xlabel="n, recordings of each word", ylabel="accuracy", ylim=(0, 1))
ax.set_xticks(range(3), (5, 10, 50))
ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# How far one way leads another on each man:


# %%
def ahead(best, worse, n):  # -> (P,) points, the mean over the draws
    return 100 * (found[best, n] - found[worse, n]).mean(1)


of_h2 = ("z", "mels", "mels, parts", "h2, parts", *(f"random h2, {k}" for k in PARTS))
of_tuned = (log, same, "random h2, parts", "LP-FT", "discriminative", "z", "h2, mean")
pairs = [("h2, mean", way, 10) for way in of_h2]
kinds = [(x, kind) for x in ("mels", "h2") for kind in ("sorted", "shuffled")]
pairs += [(f"{x}, parts", f"{x}, parts {kind}", 10) for x, kind in kinds]
pairs += [("fine-tuned", way, 10) for way in of_tuned]
pairs += [("random h2, parts", log, 10)]
pairs += [("fine-tuned", x, n) for n in (5, 50) for x in (log, "LP-FT", "h2, mean")]
for best, worse, n in pairs:
    lead = ahead(best, worse, n)
    print(f"n = {n}: {best} − {worse}: {lead.min():+.0f} to {lead.max():+.0f} points")
    unsure = worse in ("discriminative", "h2, mean", "h2, parts", "h2, parts sorted")
    assert unsure or lead.min() > (20 if (best, worse) == ("fine-tuned", log) else 0)

# %%
fits = by_way("speech_scratch", "fitted") | by_way("speech_budgets", "fitted")
for way, n in ((log, 5), (log, 10), (log, 50), (same, 10)):
    some = ", ".join(f"{x:.0%}" for x in fits[way, n].mean(1))
    print(f"n = {n}: {way}, of its own training sounds {some}")
assert fits[same, 10].mean(1).max() < 0.7 < fits[log, 10].min()
made, speaker = by_way("speech", data="made"), by_way("speech", task="speaker")
for where, of in {"made words": made, "which of the four men": speaker}.items():
    shares = {way: f"{draws.mean():.0%}" for (way, _), draws in of.items()}
    print(f"{where}: " + ", ".join(f"{way} {share}" for way, share in shares.items()))

# %% [markdown]
# **Read.** Fine-tuned, the network leads itself from scratch on every man: by 31 to 39 points at n = 10, 24 to 34 at
# 5, 31 to 42 at 50 (one run failed); on the same frames, from which it learns little, by 44 to 77. The
# first control is weak too: at 10 six parts of *random* h2, only read, lead it on every man, by 5 to 26. And reading
# can replace training: on two men a probe on h2's mean does as well as fine-tuning, on the others 8 and 20 points
# behind. It leads *z* by 22 to 54, and six parts of random h2 by 8 to 15. On average *z* lies where random *z* lies.
# LP-FT is behind on every man, least at 50. Who speaks, plain frames tell (91 %).
#
# The order of six parts counts in plain frames: sorted (which also parts values of one moment), they lose 2 to 16
# points. In h2 it is not needed: 2 points lost to 10 won. (Shuffled, both lose: a probe expects each part in its
# place.) Six plain parts are 13 to 20 behind h2's mean.
#
# ## Play: your own voice
#
# Record a digit with any program that writes WAV files (in a quiet room, close to the microphone), and upload it here.
# The fine-tuned network says which word it hears. It must name one of ten: a cough gets one too. Nothing leaves the
# machine that runs this notebook.


# %%
def hear(settings):  # a file, or a test sound -> its frames, p of each word
    one = words.test[0][0]
    for file in settings["file"]:
        try:
            one = spoken_words.decode(bytes(file["content"]))
        except ValueError as error:
            got = f"got {file['name']}: {error}; expected a word as plain WAV"
            raise ValueError(f"{got}: choose another file") from None
    x = f.preprocess([one])
    with torch.inference_mode():
        return x[0][0], tuned.eval()(x).softmax(1)[0]


def show(axes, arrays):
    spectrogram(axes[0], arrays[0], "what it hears")
    axes[1].barh(words.classes, arrays[1])
    axes[1].set(xlabel="probability", xlim=(0, 1), title="which word?")


# %% tags=["varies"]
upload = w.FileUpload(accept=".wav", description="a WAV file")
how = {"figsize": (9, 3.2), "columns": 2}
explorer = widgets.Explorer({"file": upload}, hear, show, **how)
display(explorer)
assert explorer.error is None
explorer.still()

# %% [markdown]
# ## Exercises
#
# ### ★ Exercise 1: the last state
#
# From states of a padded batch, take for each sound the one at its own last frame.
#
# <details><summary>Hint 1</summary>
#
# A sound of 3 frames has frames 0, 1 and 2.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `h[i, lengths[i] - 1]` is right for sound i.
#
# </details>
# <details><summary>Hint 3</summary>
#
# Two lists of N indices pick N pairs at once: `h[torch.arange(N), …]`.
#
# </details>


# %% tags=["exercise"]
def last_state(h, lengths):
    """h (N, T, D), lengths (N,) -> (N, D)"""
    # BEGIN SOLUTION
    # STUB: ...  # one or two lines
    return h[torch.arange(len(h)), lengths - 1]
    # END SOLUTION


check("12.last_state", last_state)

# %% [markdown]
# ### ★ Exercise 2: a mel filter
#
# A band gathers pitches by a triangle: 0 up to `low`, rising evenly to `peak`, falling evenly to 0 at `high`, scaled so
# that its area is 1.
#
# <details><summary>Hint 1</summary>
#
# `(hertz - low) / (peak - low)` is 0 at `low` and 1 at `peak`. Write the other side.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Inside the triangle the smaller of the two sides counts; outside, it is negative.
#
# </details>
# <details><summary>Hint 3</summary>
#
# A triangle of height 1 has the area `(high - low) / 2`.
#
# </details>


# %% tags=["exercise"]
def mel_filter(hertz, low, peak, high):
    """hertz (F,), three numbers in Hz -> weights (F,)"""
    # BEGIN SOLUTION
    # STUB: ...  # rising, falling, the smaller of the two, not below 0, the area
    rising, falling = (hertz - low) / (peak - low), (high - hertz) / (high - peak)
    return torch.minimum(rising, falling).clamp(min=0) * 2 / (high - low)
    # END SOLUTION


check("12.mel_filter", mel_filter)

# %% [markdown]
# ### ★ Exercise 3: clipping
#
# Scale a list of gradients so that their norm, the Euclidean length of all their numbers *together*, is `longest` where
# it was longer. Shorter ones stay.
#
# <details><summary>Hint 1</summary>
#
# The squared norm adds up over tensors.
#
# </details>
# <details><summary>Hint 2</summary>
#
# All are multiplied by one number, so the direction stays.
#
# </details>
# <details><summary>Hint 3</summary>
#
# `min(1, longest / norm)`; mind a norm of 0.
#
# </details>


# %% tags=["exercise"]
def clipped(gradients, longest):
    """list of tensors, a number > 0 -> list of tensors"""
    # BEGIN SOLUTION
    # STUB: ...  # one norm, one factor
    norm = sum(g.square().sum() for g in gradients).sqrt()
    return [g * (longest / norm.clamp(min=longest)) for g in gradients]
    # END SOLUTION


check("12.clipped", clipped)

# %% [markdown]
# ### ★ Exercise 4: the range
#
# From accuracies of P people, S draws each, compute the range of the people's means.
#
# <details><summary>Hint 1</summary>
#
# What is averaged first, draws or people?
#
# </details>
# <details><summary>Hint 2</summary>
#
# `dim=1` runs over the draws.
#
# </details>
# <details><summary>Hint 3</summary>
#
# Two numbers, the lower first.
#
# </details>


# %% tags=["exercise"]
def by_person(accuracy):
    """accuracy (P, S) -> (lowest, highest)"""
    # BEGIN SOLUTION
    # STUB: ...  # means, then their ends
    means = accuracy.mean(dim=1)
    return means.min(), means.max()
    # END SOLUTION


check("12.range", by_person)

# %% [markdown]
# ### ★★ Exercise 5: why no logarithm here?
#
# Complete `likeness`: the mean cosine between the embeddings of *different* sounds. For a network that knows voices it
# is larger among sounds of one voice than among voices. **Predict**, then try: is that so for `f((x, lengths))`, and
# for `f(((x + 1e-6).log(), lengths))`, x the frames of `who.train`?
#
# <details><summary>Hint 1</summary>
#
# The cosine of two rows is their product, divided by both lengths.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `z @ z.T` holds all N × N products; on the diagonal stands each row with itself.
#
# </details>
# <details><summary>Hint 3</summary>
#
# Without the diagonal N (N − 1) entries are left.
#
# </details>


# %% tags=["exercise"]
def likeness(z):
    """z (N, D), rows of any length -> mean cosine over all pairs of different rows"""
    # BEGIN SOLUTION
    # STUB: ...  # rows of length 1, all products, without those of a row with itself
    z = z / z.norm(dim=1, keepdim=True)
    cosines = z @ z.T
    return (cosines.sum() - cosines.trace()) / (len(z) * (len(z) - 1))
    # END SOLUTION


check("12.likeness", likeness)

# %% tags=["solution"]
voices = who.train.labels
x, lengths = f.preprocess([sound for sound, _ in who.train])
gap = {}
for name, frames in (("power", x), ("logarithm", (x + 1e-6).log())):
    with torch.no_grad():
        z = f((frames, lengths))
    one = torch.stack([likeness(z[voices == k]) for k in voices.unique()]).mean()
    all_of_them = likeness(z)
    gap[name] = (one - all_of_them).item()
    print(f"{name:<10} one voice {one:.2f}, all voices {all_of_them:.2f}")
assert gap["logarithm"] < 0.7 * gap["power"]

# %% [markdown] tags=["solution"]
# **Exercise 5.** With the power that it was trained on, sounds of one voice are more alike than sounds of any. Behind a
# logarithm little of that is left, and nothing warns you: the numbers are of an ordinary size, and z is of length 1 as
# always. A logarithm is the better front end for a *new* network, which can learn for it; for this one it is a language
# that it has never heard.

# %% [markdown]
# ## Remember
#
# - A preprocessing belongs to its weights: power without a logarithm, at one rate and one loudness.
# - Zeros behind a sound are read like sound. Take the state at its own last frame.
# - The last layer holds what the network was trained for. What *you* need may lie below it: probe before you cut.
# - Judge on voices that nobody trained on, and beside controls that could win.
# - Limits: made words are easier than people; four men and ten digits are few; one network.
#
# **References.** Wan et al. 2018, *Generalized end-to-end loss for speaker verification*, arXiv 1710.10467, eq. (6).
# Hochreiter and Schmidhuber 1997, *Long short-term memory*, Neural Computation 9. **Going deeper**: [CTC, with and
# without a list of paths; transcripts in words and in letters](12_speech_deeper.ipynb). Next: **13 Detection**.
