# %% [markdown]
# # 12 Speech, going deeper: from sounds to transcripts
#
# Notebook 12 named one word at a time. Here the same network writes down strings of digits, then commands letter by
# letter. A transcript has no times: nobody says which frame holds which word. So you add up all the ways in which
# frames could say it, first by listing them, then without a list; train a recogniser, and see what the pretrained
# layers are worth.
#
# Afterwards you can
#
# - write CTC's loss from its formula, and compute it without listing a path;
# - train a recogniser, decode it, see where it writes, and judge it by an error rate that you have checked;
# - say what frozen, trained and untrained layers bring, each beside the others.
#
# **50 minutes** to read and try, 1 minute to run. You need notebook 12.

# %% tags=["setup"]
import jiwer
import matplotlib.pyplot as plt
import torch
from IPython.display import Audio, display

from sftlib import losses, metrics, plotting, results, schedules
from sftlib.adaptation import param_groups
from sftlib.backbones import load_backbone
from sftlib.checks import check
from sftlib.datasets import NestSplit, nest_loader, spoken_words, trimmed
from sftlib.model import FrameHead, Model, Subsample
from sftlib.runtime import profile, seed_everything
from sftlib.training import fit, measure_precision, predict

plotting.use_style()

# %% tags=["setup"]
RECORDINGS = None  # or "path/of/a/folder" of {digit}_{speaker}_{index}.wav
SEED = 0
STRINGS = profile().pick(quick=160, full=800)  # to learn to write
STEPS = profile().pick(quick=80, full=160)  # updates of f and g together
WARM, TESTED, BATCH = 60, 60, 20  # updates of g alone; strings to judge by; a batch
LR_F, LR_SCRATCH, LR_G = 1e-2, 3e-3, 3e-2  # per step of Adam; tuned on other sounds
CLIP = 3.0  # the longest gradient

# %% [markdown]
# ## By hand: all paths
#
# *Connectionist temporal classification* (CTC) lets each frame say one unit or nothing, the **blank** –. A **path** π
# of T such answers *reads* y if y is left when repeats are merged and then blanks dropped: "– 7 7 – 3" and "7 7 7 3 –"
# both read "7 3". The loss takes the probability of y to be that of all its paths together (Graves et al. 2006):
#
# $$L_g = -\frac1{|y|} \log \sum_{\pi \text{ reads } y}\ \prod_{t=1}^{T} p_t(\pi_t)$$
#
# |y| is the number of units in y. With T = 4 frames and 2 units there are 3⁴ = 81 paths, few enough to try them all:

# %%
draw = torch.Generator().manual_seed(SEED)
log_p = torch.randn(1, 4, 3, generator=draw).log_softmax(-1)  # blank is class 0
paths = torch.cartesian_prod(*[torch.arange(3)] * 4)  # (81, 4)
certain = torch.nn.functional.one_hot(paths, 3)
reads = metrics.greedy_decode(certain, torch.full((81,), 4))
fits = paths[[read == [1, 2] for read in reads]]
p = log_p[0, torch.arange(4), fits].sum(1).exp().sum()
by_hand = -p.log() / 2
official = losses.ctc((log_p, torch.tensor([4])), torch.tensor([[1, 2]]))
print(f"{len(fits)} of 81 paths read '1 2'; {by_hand:.4f} nats by hand, {official:.4f}")
assert torch.allclose(by_hand, official, atol=1e-5)

# %% [markdown]
# ## By hand: without the list
#
# A hundred frames and ten units have more paths than there are atoms. But paths share their beginnings. Put blanks
# around the units, $\ell$ = (–, y₁, –, y₂, –), and let $\alpha_t(s)$ be the probability of all beginnings of t frames
# that have reached place s of $\ell$. Such a beginning was at s, or one place before; or two, if that skips a blank
# between *different* units:
#
# $$\alpha_t(s) = p_t(\ell_s)\,\bigl[\alpha_{t-1}(s) + \alpha_{t-1}(s-1) + \alpha_{t-1}(s-2)
# \text{ where } \ell_s \ne –,\ \ell_s \ne \ell_{s-2}\bigr]$$
#
# At the end, a path stands at the last unit or at the blank behind it. This is the **forward algorithm**:
# T · (2|y| + 1) sums in place of $K^T$ products, K with the blank.


# %%
def forward(log_p, y):
    """log p (T, K), y a list of U units -> −log p(y | x) / U"""
    places = [0]
    for unit in y:
        places += [unit, 0]
    alpha = [1.0] + [0.0] * (2 * len(y))  # before the first frame
    for p in log_p.double().exp():
        before = alpha.copy()
        for s, unit in enumerate(places):
            alpha[s] = before[s] + (before[s - 1] if s > 0 else 0)
            if s > 1 and unit not in (0, places[s - 2]):
                alpha[s] = alpha[s] + before[s - 2]
            alpha[s] = alpha[s] * p[unit]
    return -(alpha[-1] + alpha[-2]).log() / len(y)


# %%
assert torch.allclose(forward(log_p[0], [1, 2]).float(), by_hand)
long = torch.randn(1, 50, 11, generator=draw).log_softmax(-1)
for y in ([3, 1, 4, 1, 5], [2, 2, 2], [7]):
    mine = forward(long[0], y).item()
    official = losses.ctc((long, torch.tensor([50])), torch.tensor([y])).item()
    print(f"{y}, 50 frames, 11^50 paths: {mine:.4f} nats a unit, {official:.4f}")
    assert abs(mine - official) < 1e-3

# %% [markdown]
# ## Where it breaks: too few frames
#
# "1 1" needs a blank between its units, or they merge. In two frames no path reads it, and the loss would be infinite.
# PyTorch can hide that (`zero_infinity`), and would leave the example out in silence. Here it is an error:

# %% tags=["raises-exception"]
losses.ctc((log_p[:, :2], torch.tensor([2])), torch.tensor([[1, 1]]))

# %% [markdown]
# ## Learn to write
#
# Single words, said alone, are strung together, 2 to 4 of one voice; the test part has other voices. In notebook 12
# the words lay at h2, so *f* ends there, and four frames are averaged to one (40 ms): **subsampling**, which leaves
# fewer frames to align. The states h1 below are computed once and kept, for that layer stays as it is; first *g* learns
# alone, then layer 2 with it. Beside them stands a *g* that learns alone for as many steps as both together.
#
# **Predict**: where will the frames lie that say a word: (a) all over it, (b) in a few frames of it, (c) at its start?

# %%
made = spoken_words.Synthesis(counts={"train": 400, "val": 0, "test": 240})
how = {"val_speakers": [], "synthesis": None if RECORDINGS else made}
words = spoken_words.load(RECORDINGS, seed=SEED, **how)
print("data:", "recordings" if RECORDINGS else "made by a synthesiser")
f = load_backbone("voice_lstm")
parts = [
    spoken_words.strung(words.train, STRINGS, seed=SEED),
    spoken_words.strung(words.test, TESTED, seed=SEED),
]
with torch.no_grad():
    h1 = [NestSplit(f.lstm1(f.preprocess(sounds)), y) for sounds, y in parts]
strings, asked = h1
print(f"h1 of the strings: {tuple(strings.x[0].shape)}, y {tuple(strings.y.shape)}")


# %%
def learn_alone(g, z, y, steps):
    """g on states z, which were computed once: f stands still"""
    optimizer = torch.optim.Adam(g.parameters(), lr=LR_G)
    for _ in range(steps):
        optimizer.zero_grad()
        losses.ctc(g(z), y).backward()
        optimizer.step()


# %%
seed_everything(SEED)
below = torch.nn.Sequential(f.lstm2, Subsample(4))
alone, g = (FrameHead(256, 1 + len(words.classes)) for _ in range(2))
with torch.no_grad():
    z = below(strings.x)
learn_alone(alone, z, strings.y, WARM + STEPS)
learn_alone(g, z, strings.y, WARM)
test = nest_loader(asked, trimmed, batch_size=TESTED)
frozen = next(predict(Model(below, alone), test))[0]  # log p (N, T, K), lengths (N,)


# %%
def learn(below, g, split, steps, lr=LR_F):
    """f and g, strings -> g ∘ f, trained together on batches of like length"""
    order = torch.Generator().manual_seed(SEED)
    how = {"batch_size": BATCH, "shuffle": True, "drop_last": True, "generator": order}
    loader = nest_loader(split, trimmed, lengths=split.x[1], **how)
    model, epochs = Model(below, g), -(-steps // len(loader))
    choice = measure_precision(model, *next(iter(loader)), task_loss=losses.ctc)
    how = {"task_loss": losses.ctc, "metric": metrics.ErrorRate, "clip": CLIP}
    how |= {"epochs": epochs, "precision": choice.precision}
    how["schedule"] = schedules.warmup_cosine(epochs * len(loader), warmup=5)
    optimizer = torch.optim.Adam(param_groups(f=(below, lr), g=(g, LR_G)))
    for _ in fit(model, loader, optimizer, **how):
        pass
    return model


# %% tags=["varies"]
writer = learn(below, g, strings, STEPS)
log_p, n = next(predict(writer, test))[0]

# %% [markdown]
# And the control: what did the 8,000 voices bring that this network learned to tell apart (notebook 12)? The same two
# layers **from scratch**, with random weights, for three times as many steps as layer 2 had. No front end belongs to
# random weights, so they hear logarithms of the frames, centred and scaled by those that are learned from.

# %% tags=["varies"]
seed_everything(SEED)
new = load_backbone("voice_lstm", pretrained=False)
fresh = torch.nn.Sequential(new.lstm1, new.lstm2, Subsample(4))
frames = [f.preprocess(sounds) for sounds, _ in parts]
logs = [(x + 1e-6).log() for x, _ in frames]
inside = torch.arange(logs[0].shape[1]) < frames[0][1][:, None]  # no padding
centre, spread = logs[0][inside].mean(0), logs[0][inside].std(0)
plain, asked_plain = (
    NestSplit(((log - centre) / spread, lengths), y)
    for log, (_, lengths), (_, y) in zip(logs, frames, parts, strict=True)
)
g_new = FrameHead(256, 1 + len(words.classes))
control = learn(fresh, g_new, plain, 3 * STEPS, lr=LR_SCRATCH)
there = nest_loader(asked_plain, trimmed, batch_size=TESTED)
scratch = next(predict(control, there))[0]

# %% [markdown]
# Two **decoders** turn frames into words. The *greedy* one takes each frame's likeliest class and reads that path;
# *beam search* keeps the eight beginnings whose paths together are likeliest. The **error rate** counts insertions,
# deletions and substitutions, divided by the words that were said. The package `jiwer` counts the same:


# %%
def named(texts):
    """lists of units -> texts of words"""
    return [" ".join(words.classes[k - 1] for k in units) for units in texts]


# %% tags=["varies"]
spoken = [[k for k in y if k > 0] for y in asked.y.tolist()]
read = {"g alone, greedy": metrics.greedy_decode(*frozen)}
read["from scratch"] = metrics.greedy_decode(*scratch)
read["f and g, greedy"] = metrics.greedy_decode(log_p, n)
read["f and g, beam"] = metrics.beam_decode(log_p, n)
errors = {}  # way -> how many in each string
for name, texts in read.items():
    pairs = zip(texts, spoken, strict=True)
    errors[name] = [float(metrics.edit_distance(*pair)) for pair in pairs]
    rate = sum(errors[name]) / sum(map(len, spoken))
    print(f"{name:<16} {rate:.1%} errors per word, strings of new voices")
    assert abs(rate - jiwer.wer(named(spoken), named(texts))) < 1e-9

# %% tags=["varies"]
for found in metrics.compare(errors, against="f and g, greedy", unit="strings"):
    print(found, "(errors a string)")
says = log_p.argmax(2)[torch.arange(log_p.shape[1]) < n[:, None]] != 0
print(f"{says.double().mean():.0%} of the frames say a word")
assert says.double().mean() < 0.4 and rate < 0.8
both, one = (sum(errors[f"{way}, greedy"]) for way in ("f and g", "g alone"))
assert RECORDINGS or both < one


# %%
def aligned_plot(top, low, frames, log_p, units):
    """frames (T, 40), log p (T', K), units -> axes: a line where a unit is written"""
    how = {"origin": "lower", "extent": (0, len(frames) / 100, 0, 40)}
    top.imshow(10 * (frames.T + 1e-9).log10(), aspect="auto", **how)
    top.grid(False)
    times, path = torch.arange(len(log_p)) / 25, [0, *metrics.align(log_p, units)]
    low.plot(times, log_p[:, 0].exp(), color="grey", linestyle=":", label="blank")
    for t, k in enumerate(path[1:]):
        if k not in (0, path[t]):
            top.axvline(t / 25, color="white", linestyle="--")
            top.text(t / 25, 41, words.classes[k - 1])
            low.plot(times, log_p[:, k].exp(), label=words.classes[k - 1])
    top.set(ylabel="mel band, 1 to 40")
    low.set(xlabel="seconds", ylabel="probability")
    low.legend(loc="center left", bbox_to_anchor=(1, 0.5))


# %% tags=["varies"]
i = 0
sound = parts[1][0][i]
fig, axes = plt.subplots(2, 1, figsize=(10, 4.6), sharex=True)
aligned_plot(*axes, f.preprocess([sound])[0][0], log_p[i, : n[i]], spoken[i])
plt.show()
display(Audio(sound[0], rate=sound[1]))
assert metrics.align(log_p[i, : n[i]], spoken[i])[0] in (0, spoken[i][0])

# %% [markdown]
# **Read.** (b): a word is written as a peak somewhere in it, and blanks stand between. CTC does not care where a peak
# lies, as long as their order is right. Training layer 2 together with g makes fewer errors than g alone with as many
# steps. Between the decoders there is no difference that we can see. (One draw; 60 strings, taken as independent;
# writing nothing makes 100 %. What a network from scratch is worth, five draws tell better than one: below.)
#
# ## Units can be letters
#
# With ten words for units, ten words can be written. With the 26 letters and the space, anything could be. A
# **command** is three words, said in one breath, and letters (the space counts as one) come fast. Are there frames
# enough, when 1, 2, 4 or 8 are averaged to one?


# %%
def said(texts, part, n):
    """texts, by the voices of a part -> n sounds of commands, y (n, U) of letters"""
    many = 48 * len(texts)  # each text in each voice
    how = spoken_words.Synthesis(counts={"train": many, "val": 0, "test": many})
    made = spoken_words.load(words=texts, seed=SEED, val_speakers=[], synthesis=how)
    return spoken_words.spelled(getattr(made, part), n, seed=SEED)


# %%
known = [slot[:9] for slot in spoken_words.COMMANDS]  # of 12 words in each slot
texts = spoken_words.phrases(300, seed=SEED, slots=known)
sounds, y = said(texts[:20], "train", 60)
lengths = f.preprocess(sounds)[1]
repeats = ((y[:, 1:] == y[:, :-1]) & (y[:, 1:] > 0)).sum(1)
needs = (y > 0).sum(1) + repeats
print(f"'{texts[0]}'; a command has {(y > 0).sum(1).double().mean():.1f} letters")
for every in (1, 2, 4, 8):
    room = lengths // every / needs
    print(f"Subsample({every}): {room.mean():.1f} frames where one is needed;", end=" ")
    print(f"{(room >= 1).double().mean():.0%} of the commands fit")
assert (lengths // 2 >= needs).all() and not (lengths // 8 >= needs).all()

# %% [markdown]
# ## Is it the pretraining, or the architecture?
#
# A table in `data/results/` holds five draws of each way, made by a script (`tools/experiments/speech_transcripts.py`):
# strings of digits in words, as above, and commands in letters (600 to learn from, two frames averaged). Test commands
# have other voices, and none of their phrases was learned from. New beside the ways above are
#
# - *constant*: always the same answer, the transcript nearest to those that are learned from;
# - *frames*: g alone on the logarithms of the frames, without any network;
# - *frozen, random*: g alone on h2 of random weights. A recurrent network holds what it heard before, even if it never
#   learned anything: that much is architecture.
#
# Each way has its best of three to five rates, chosen on sounds of another seed; g alone has as many updates as f and
# g together.
#
# **Predict**: on h2 of *random* weights, g makes (a) about as many errors as on that of pretrained ones, (b) as many as
# on plain frames, (c) something in the middle? And commands all of whose words are new, spelled with letters that it
# knows: does the tuned network write them (a) nearly as well as the others, (b) half as well, (c) hardly at all?

# %%
table = results.read("speech_transcripts")
WAYS = ("fine-tuned", "scratch", "frozen", "frozen, random", "frames", "constant")


def drawn(units, column="error_rate"):
    """-> {way: error rates of the draws}"""
    rows = [row for row in table if row["units"] == units]
    of = results.numbers(rows, column, "method", "seed")
    seeds = sorted({row["seed"] for row in rows})
    return {way: [of[way, seed] for seed in seeds] for way in WAYS}


fig, axes = plt.subplots(1, 2, figsize=(10, 3.4), sharey=True)
for ax, units in zip(axes, ("words", "letters"), strict=True):
    for way, rates in reversed(drawn(units).items()):
        ax.plot(rates, [way] * len(rates), "o", alpha=0.6)
    ax.axvline(1, color="grey", linestyle=":")  # writing nothing
    ax.set(title=f"in {units}", xlabel="errors per unit, five draws", xlim=(0, 1.1))
plt.show()


# %%
def against(rates, best, *others):
    """Error rates -> how many more the others make than `best`, printed"""
    some = {way: rates[way] for way in (best, *others)}
    found = metrics.compare(some, against=best, comparisons=13)
    print(*[f"    {one}" for one in found], sep="\n")
    return {one.first: one for one in found}


more = {}
for units in ("words", "letters"):
    print(f"in {units}, errors per unit")
    more[units] = against(drawn(units), "fine-tuned", "frozen", "scratch")
    more[units] |= against(drawn(units), "frozen", "frozen, random", "frames")
    against(drawn(units), "frozen, random", "frames", "constant")
print("in letters, commands of words that were never learned from")
new_words = against(drawn("letters", "unheard"), "fine-tuned", "constant")

# %%
for way in ("fine-tuned", "scratch"):
    mean = {u: sum(drawn(u, "cpu_s")[way]) / 5 for u in ("words", "letters")}
    print(
        f"{way}: " + ", ".join(f"{s:.0f} s of a core in {u}" for u, s in mean.items())
    )
for row in table:
    if (row["units"], row["method"]) == ("letters", "fine-tuned"):
        for kind in ("test", "unheard"):
            print(f"{kind:<8}{row[f'{kind}_said']:<20}-> {row[f'{kind}_written']}")
for units in ("words", "letters"):
    for way in ("frozen, random", "frames"):
        assert more[units][way].visible and more[units][way].interval.mean > 0.2
for units, way in (("words", "frozen"), ("letters", "frozen"), ("letters", "scratch")):
    assert more[units][way].visible and more[units][way].interval.mean > 0.1
assert not new_words["constant"].visible

# %% [markdown]
# **Read.** (b), then (c). On h2 of random weights g does about what it does on plain frames, and neither comes ahead of
# an answer that never listens. On the same layers, pretrained, it makes half as many errors, or about that: what frozen
# layers bring is the pretraining, not the architecture.
#
# Training layer 2 halves what is left in words, and takes most of it in letters. From scratch, at its own best rate,
# the architecture does learn, in more than three times the seconds, and is behind the tuned network in every draw:
# visibly in letters; in words by so different amounts that five draws cannot tell (in one it did not even learn its own
# strings).
#
# And yet nobody here can *spell*. The test commands are new, but their 27 words are not. Of commands whose words are
# new, with other words' letters, the tuned network does no better than the constant answer, as far as we can see: it
# puts pieces of words that it knows. A score on new phrases alone would have hidden that. (Made voices; one draw of
# other sounds chose the rates; more data, more words or more steps may change each of these.)

# %% tags=["varies"]
COMMANDS = profile().pick(quick=0, full=600)  # 0: the table alone
if COMMANDS:
    heard = said(texts[:240], "train", COMMANDS), said(texts[240:], "test", 120)
    with torch.no_grad():
        h1 = [NestSplit(f.lstm1(f.preprocess(sounds)), y) for sounds, y in heard]
        layer = torch.nn.Sequential(load_backbone("voice_lstm").lstm2, Subsample(2))
        z = layer(h1[0].x)
    learn_alone(g := FrameHead(256, 28), z, h1[0].y, WARM)
    speller = learn(layer, g, h1[0], STEPS)
    written = next(predict(speller, nest_loader(h1[1], trimmed, batch_size=120)))[0]
    found = metrics.ErrorRate()
    found.add(written, h1[1].y)
    rate = found.values()["error_rate"]
    print(f"{rate:.1%} errors per letter, new voices and phrases")

# %% [markdown]
# ## Exercises
#
# ### ★ Exercise 1: greedy decoding
#
# Read the best path of one sound: merge repeats, *then* drop blanks (class 0).
#
# <details><summary>Hint 1</summary>
#
# The path is `log_p.argmax(dim=1).tolist()`, a class for each frame.
#
# </details>
# <details><summary>Hint 2</summary>
#
# A class is a repeat if it equals that of the frame just before, blank or not.
#
# </details>
# <details><summary>Hint 3</summary>
#
# In what order? "1 – 1" must stay two units, so merging comes before dropping.
#
# </details>


# %% tags=["exercise"]
def greedy(log_p):
    """log p (T, K) -> list of classes that are written"""
    # BEGIN SOLUTION
    # STUB: ...  # the likeliest class of each frame, then two rules
    path = log_p.argmax(dim=1).tolist()
    merged = [k for t, k in enumerate(path) if t == 0 or k != path[t - 1]]
    return [k for k in merged if k != 0]
    # END SOLUTION


check("12.greedy", greedy)

# %% [markdown]
# ### ★ Exercise 2: paths by hand
#
# Write down every path of four frames that reads "aa", each as a text of four characters, `a` for the unit and `-` for
# the blank.
#
# <details><summary>Hint 1</summary>
#
# Between the two must stand a blank; else they merge.
#
# </details>
# <details><summary>Hint 2</summary>
#
# So each path is: blanks or none, some a, some blanks, some a, blanks or none.
#
# </details>
# <details><summary>Hint 3</summary>
#
# `a-a` takes three frames. In how many ways can one frame more be put in?
#
# </details>

# %% tags=["exercise"]
# BEGIN SOLUTION
# STUB: aligned = ...  # a list of texts such as "a--a"
aligned = ["a-a-", "a-aa", "a--a", "aa-a", "-a-a"]
# END SOLUTION

check("12.paths", aligned)

# %% [markdown]
# ### ★ Exercise 3: frames enough
#
# How many frames does CTC need at least for a transcript? Fewer, and the loss is infinite.
#
# <details><summary>Hint 1</summary>
#
# Each unit takes a frame.
#
# </details>
# <details><summary>Hint 2</summary>
#
# What must stand between two *equal* neighbours?
#
# </details>
# <details><summary>Hint 3</summary>
#
# `itertools.pairwise(y)`, or `zip(y, y[1:])`, gives the neighbours.
#
# </details>


# %% tags=["exercise"]
def frames_needed(y):
    """y, a list of units -> the fewest frames with which a path reads it"""
    # BEGIN SOLUTION
    # STUB: ...  # the units, and one for each pair of equal neighbours
    return len(y) + sum(a == b for a, b in zip(y, y[1:], strict=False))
    # END SOLUTION


check("12.frames_needed", frames_needed)

# %% [markdown]
# ### ★★ Exercise 4: coarser frames
#
# **Predict**, then try: what do `Subsample(1)` and `Subsample(16)` change in the errors, in the seconds of an update,
# and in the share of blanks? (Run again from `below = …`; for n frames averaged, write 100 / n for 25 in
# `aligned_plot`.)

# %% [markdown] tags=["solution"]
# **Exercise 4.** With every frame kept there are four times as many answers, nearly all of them blanks, and each update
# takes g and the loss longer (the layer below is as before). With 16 averaged there are 6 frames a second: fewer than
# words need when they come quickly, let alone letters, and the loss refuses what does not fit.

# %% [markdown]
# ## Remember
#
# - CTC needs no times: it adds up all paths that read the transcript, and the forward algorithm adds without a list.
# - Repeats need a blank between them, and a transcript needs frames enough; an infinite loss must not be hidden.
# - Errors are counted per unit said, and can exceed 100 %; writing nothing makes exactly 100 %.
# - What pretrained layers bring shows only beside random ones, frozen and trained; what was learned, only on new words.
# - Limits: made voices, a few hundred strings, ten words, or the letters of 27; one network, read at one layer.
#
# **References.** Graves et al. 2006, *Connectionist temporal classification*, ICML, eqs. (3) and (5) to (8). Hannun et
# al. 2014, arXiv 1408.2873, algorithm 1 (beam search). Next: **13 Detection**.
