# %% [markdown]
# # 02 Decoupling: can any model be cut into an extractor f and a classifier g?
#
# Here a network becomes two, *f* and *g*, with *z* handed over between them. Six networks are cut: two for pictures,
# two for text, one that paints regions, one that draws boxes. Then the halves are used apart.
#
# Afterwards you can
#
# - cut a network that you have never seen, and prove that nothing was lost;
# - say what each half costs, in parameters and in multiply-adds;
# - use one *f* for several tasks: extract once, save the halves apart, swap heads, choose where to cut.
#
# **60 minutes** to read and try, half a minute to run. Before: notebooks 00 and 01; what a convolution is.

# %% tags=["setup"]
import itertools
import tempfile

import ipywidgets as w
import matplotlib.pyplot as plt
import torch
import torchvision
from torch.utils.flop_counter import FlopCounterMode

from sftlib import backbones, metrics, plotting, runtime, widgets
from sftlib.checks import check
from sftlib.datasets import loader, solar_cells
from sftlib.features import extract, linear_probe
from sftlib.model import LinearHead, Model, load_parts, save_parts

nn = torch.nn
plotting.use_style()

# %%
fig, ax = plt.subplots(figsize=(9, 3.4))
plotting.idea(ax, highlight=("f", "z", "g"))
plt.show()

# %%
size = runtime.profile()
SEED = 0
SIDE = size.pick(quick=96, full=224)  # pixels: the side of a solar cell's picture
FOLDS = 4  # of the experiment: each picture is tested once
L2 = 1e-2  # weight decay of all linear probes, not tuned

# %% [markdown]
# ## Look at the data: one set of pictures, two questions
#
# The solar cells of notebook 00 (Deitsch et al. 2019, arXiv 1807.02894). Each picture has two labels: is the cell
# **defective**, and is it cut from one crystal (**mono**) or many (**poly**)?
# Nothing is chosen today, so there is no validation part.

# %%
cells = solar_cells.load(size=SIDE, seed=SEED, fractions=(0.75, 0, 0.25))
tasks = {"defect": ("labels", cells.classes), "cell type": ("types", solar_cells.TYPES)}
print(f"{len(cells.train):,} pictures to train, {len(cells.test)} to test")
for name, (column, classes) in tasks.items():
    counts = getattr(cells.test, column).bincount()
    share = counts.max() / counts.sum()
    print(f"{name:<10} always '{classes[counts.argmax()]}': {share:.1%} right")
fig, axes = plt.subplots(1, 5, figsize=(9, 2.3))
some = torch.tensor([0, 100, 200, 300, 400])
pairs = zip(cells.test.labels[some], cells.test.types[some], strict=True)
names = [f"{cells.classes[a]}, {solar_cells.TYPES[b]}" for a, b in pairs]
plotting.pictures(axes, cells.test.pictures[some], names)
plt.show()

# %% [markdown]
# ## By hand: a cut in two lines
#
# "*g* after *f*" is written $g \circ f$:
#
# $$\text{model}(x) = (g \circ f)(x) = g(f(x)), \qquad z = f(x)$$
#
# | letter | in the code | is |
# |---|---|---|
# | *x* | `x` | a batch of inputs: here (N, 3, H, W), N pictures with 3 colour channels |
# | *f* | `f`, `model.backbone` | everything before the cut: the extractor |
# | *z* | `z` | what passes the cut: the features |
# | *g* | `g`, `model.head` | everything after the cut: the classifier, or *head* |
#
# torchvision's SqueezeNet has two children, `features` and `classifier`, and its `forward` flattens at the end. Weights
# do not matter for a cut: these are random.

# %%
runtime.seed_everything(SEED)
squeeze = torchvision.models.squeezenet1_1(weights=None).eval()
photo = torch.randn(1, 3, 224, 224)
f = squeeze.features
# what `forward` does after the cut belongs to g
g = nn.Sequential(squeeze.classifier, nn.Flatten(1))

z = f(photo)
print("z", tuple(z.shape), "-> logits", tuple(g(z).shape))
print("equal to the bit:          ", torch.equal(g(z), squeeze(photo)))
squeeze.train()
twice = torch.equal(squeeze(photo), squeeze(photo))
squeeze.eval()
print("the uncut network in train mode, twice:", twice)

# %% [markdown]
# *Equal to the bit* is the right demand: the same operations in the same order give the same bits, so in eval mode any
# difference means that something was left out (here, the flattening). In train mode a *dropout* layer sets random
# entries to zero, so the uncut network does not even equal *itself*.
#
# *z* need not be a list of numbers: *g* holds a convolution here, so *z* is a map, 512 channels of 13 × 13.
#
# ## The same from `sftlib`
#
# `load_backbone` gives *f* with its pretrained weights, divided into **stages**, groups of layers. The last,
# `pool`, averages each channel over the map: *z* is (N, D), D = 512, whatever the size of the picture. `lower` runs the
# stages up to a name, `upper` the rest: *f* itself can be cut again.

# %%
f = backbones.load_backbone("squeezenet1_1", size=SIDE)
x = f.preprocess(cells.test.pictures[:5])
with torch.inference_mode():
    for stage in f.stages:
        h = f.lower(x, stage)
        equal = torch.equal(f.upper(h, stage), f(x))
        print(f"{stage:<7}{str(tuple(h.shape)):<18} upper(lower(x)) == f(x): {equal}")
        assert equal

# %% [markdown]
# ## Any model: six networks, the same two names
#
# `Model(backbone, head)` does nothing but `head(backbone(x))`.
#
# A text enters as *tokens*, whole numbers that stand for words: x is (N, T). Each token is looked up as a vector (an
# *embedding*). A **GRU** then reads from left to right and updates a summary at each token. A **Transformer** lets
# every token look at every other (*attention*), layer by layer; we take the mean of the T results. To cut such a
# network, write a small **adaptor**: a module that holds the network's own parts, the same objects, and repeats the
# first lines of its `forward`.


# %%
class TextNetwork(nn.Module):
    """tokens (N, T) -> logits (N, K), uncut"""

    def __init__(self, body, summary, words=5_000, D=128, K=5):
        super().__init__()
        self.embedding, self.body = nn.Embedding(words, D), body
        self.summary, self.output = summary, nn.Linear(D, K)

    def forward(self, x):
        return self.output(self.summary(self.body(self.embedding(x))))


class Adaptor(nn.Module):
    """A function of the parts of a network, as a module that holds these parts"""

    def __init__(self, function, **parts):
        super().__init__()
        self.function, self.parts = function, nn.ModuleDict(parts)

    def forward(self, x):
        return self.function(x, **self.parts)


# %% [markdown]
# **DeepLab** names each pixel (*segmentation*). At the end it enlarges its small map to the size of the picture, which
# the map does not tell, so *z* is a pair: the map and the size. **Faster R-CNN** draws boxes around things
# (*detection*). Its *f* resizes the pictures and makes maps at several scales; its *g* proposes and classifies boxes.
# So *z* is the resized pictures, the maps, and the sizes before. All weights are random. (The detector's thresholds let
# it show boxes untrained: two empty answers would prove nothing.)


# %%
def sized(x, body):
    return body(x)["out"], x.shape[-2:]


def enlarge(z, classifier):
    how = {"size": z[1], "mode": "bilinear", "align_corners": False}
    return {"out": nn.functional.interpolate(classifier(z[0]), **how)}


def maps(x, transform, body):
    """list of pictures (3, H, W) -> z = (pictures as resized, maps, sizes before)"""
    batch, _ = transform(x)
    return batch, body(batch.tensors), [tuple(picture.shape[-2:]) for picture in x]


def boxes(z, transform, rpn, roi_heads):
    """z -> for each picture its boxes, with scores and classes"""
    batch, maps, sizes = z
    proposals, _ = rpn(batch, maps)
    found, _ = roi_heads(maps, proposals, batch.image_sizes)
    return transform.postprocess(found, batch.image_sizes, sizes)


# %%
runtime.seed_everything(SEED)
offline = {"weights": None, "weights_backbone": None}
resnet = torchvision.models.resnet50(weights=None)
below_fc = nn.Sequential(*list(resnet.children())[:-1], nn.Flatten(1))
gru = TextNetwork(nn.GRU(128, 128, batch_first=True), lambda out: out[0][:, -1])
layer = nn.TransformerEncoderLayer(128, 4, 512, batch_first=True)
encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
transformer = TextNetwork(encoder, lambda h: h.mean(dim=1))
segment = torchvision.models.segmentation.deeplabv3_mobilenet_v3_large
deeplab = segment(**offline, num_classes=5)
detect = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn
shown = {"box_score_thresh": 0.0, "box_nms_thresh": 1.0}
detector = detect(**offline, **shown, num_classes=2)
tokens, street = torch.randint(5_000, (1, 32)), torch.rand(1, 3, 160, 240)


# %%
def body_of(net):
    parts = {"embedding": net.embedding, "body": net.body}
    return Adaptor(lambda x, embedding, body: net.summary(body(embedding(x))), **parts)


d, e, top = deeplab, detector, {"transform": detector.transform}
cuts = {  # name: (the uncut network, f, g, an input)
    "SqueezeNet": (squeeze, squeeze.features, g, photo),
    "ResNet-50": (resnet, below_fc, resnet.fc, photo),
    "GRU": (gru, body_of(gru), gru.output, tokens),
    "Transformer": (transformer, body_of(transformer), transformer.output, tokens),
    "DeepLab": (d, Adaptor(sized, body=d.backbone),
                Adaptor(enlarge, classifier=d.classifier), street),
    "Faster R-CNN": (e, Adaptor(maps, **top, body=e.backbone),
                     Adaptor(boxes, **top, rpn=e.rpn, roi_heads=e.roi_heads),
                     list(street)),
}  # fmt: skip

# %% [markdown]
# **The proof.** For each of the six: is `Model(f, g)(x)` equal to the uncut network's output, to the bit? And do *f*
# and *g* together hold exactly its parameters, none lost, none copied, none on both sides?


# %%
def same(a, b):
    """Are two outputs (tensors, or lists and dicts of them) equal to the bit?"""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b)


for name, (network, f_, g_, x) in cuts.items():
    with torch.inference_mode():
        equal = same(Model(f_, g_).eval()(x), network.eval()(x))
    halves = [*f_.parameters(), *g_.parameters()]
    assert sorted(map(id, halves)) == sorted(map(id, network.parameters()))
    print(f"{name:<14} the same bits: {equal}, the same parameters: True")
    assert equal

# %% [markdown]
# ## What each half costs
#
# **Parameters** are the numbers that can learn. **Multiply-adds**, one multiplication and one addition each, are the
# work of a forward pass. In a convolution, each value of the output is a scalar product of a filter with a patch of the
# input:
#
# $$\text{multiply-adds} = \underbrace{C_\text{out} H_\text{out} W_\text{out}}_{\text{values of the output}} \cdot
# \underbrace{(C_\text{in} / \text{groups}) \cdot k \cdot k}_{\text{numbers in one filter}}$$
#
# with filters of *k* × *k*. A linear layer has no *H*, *W*, *k*. `groups` is 1, unless each filter sees only some
# channels. PyTorch's counter adds up such products while a network runs; it counts the two operations of a multiply-add
# apart. We check it by hand for one layer. (It runs with gradients: without, a Transformer's layers are one fused step
# that it misses.)


# %%
def measure(network, x):
    """One forward pass of x -> module -> multiply-adds"""
    with FlopCounterMode(display=False) as counter:
        network.eval()(x)
    counts, top = counter.get_flop_counts(), type(network).__name__
    paths = {m: f"{top}.{p}" if p else top for p, m in network.named_modules()}
    return {m: sum(counts.get(path, {}).values()) // 2 for m, path in paths.items()}


costs = {name: measure(network, x) for name, (network, _, _, x) in cuts.items()}
first = squeeze.features[0]  # 64 filters of 3 x 3 on 3 channels, 111 x 111 places
by_hand = 64 * 111 * 111 * (3 * 3 * 3)
print(f"first layer: by hand {by_hand:,}, counted {costs['SqueezeNet'][first]:,}")
assert costs["SqueezeNet"][first] == by_hand

# %% [markdown]
# **Predict.** With the cuts that were just proved, in which network does *g* do more than half of the work?
#
# (a) In none. (b) In SqueezeNet, whose *g* knows 1,000 classes. (c) In the two that paint and draw.


# %%
def work(name, part):  # of a network's own module, or of those that it holds
    if part in costs[name]:
        return costs[name][part]
    return sum(work(name, child) for child in part.children())


in_g = {}
print(f"{'':<14}{'parameters in g':>16}{'multiply-adds in g':>20}")
for name, (network, f_, g_, _) in cuts.items():
    n, of_g = (sum(p.numel() for p in part.parameters()) for part in (network, g_))
    assert work(name, f_) + work(name, g_) == work(name, network)  # none is lost
    in_g[name] = work(name, g_) / work(name, network)
    print(f"{name:<14}{of_g / n:>16.1%}{in_g[name]:>20.1%}")
assert [name for name in cuts if in_g[name] > 0.5] == ["DeepLab", "Faster R-CNN"]
for name, net in (("GRU", gru), ("Transformer", transformer)):
    n = sum(p.numel() for p in net.parameters())
    print(f"{name}: {128 * 5_000 / n:.0%} of the parameters are embeddings")

# %% [markdown]
# **Read.** (c). DeepLab's *g* looks at each place of the map with filters of several widths, Faster R-CNN's at each of
# up to 150 proposed boxes: there, freezing *f* saves the smaller part. SqueezeNet's *g* of 1,000 classes holds 41.5 %
# of its parameters; a linear one for our two classes has (512 + 1) · 2 = 1,026. And a text network may hold most of its
# parameters in a table that is only looked up. A share below one half for the last two would have refuted (c).
#
# ## One f, two g's
#
# If *f* does not change, neither does *z* = *f*(*x*): compute it **once**, and train only *g* on it: the linear probe
# of notebook 01. For the experiment below we keep more: the mean over the map after *every* stage, all from one pass.


# %%
class EveryStage(nn.Module):
    """x (N, 3, H, W) -> (N, 1347): means over the map, of x and after each stage"""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, x):
        means = [x.mean(dim=(2, 3))]
        for stage in self.backbone.stages[:-1]:  # the last one, pool, is this mean
            x = getattr(self.backbone, stage)(x)
            means.append(x.mean(dim=(2, 3)))
        return torch.cat(means, dim=1)


CUTS, WIDTHS = ("x", *f.stages[:-1]), [3, 64, 128, 256, 384, 512]

# %% tags=["varies"]
before = {name: value.clone() for name, value in f.state_dict().items()}
parts = [
    extract(EveryStage(f), loader(split, f.preprocess))[0]
    for split in (cells.train, cells.test)
]
z_train, z_test = (part[:, -512:] for part in parts)
heads = {}
for name, (column, _) in tasks.items():
    heads[name] = linear_probe(z_train, getattr(cells.train, column), l2=L2)
    y = getattr(cells.test, column)
    hits = {"probe": heads[name](z_test).argmax(1) == y, "trivial": y.mode()[0] == y}
    (gain,) = metrics.compare(hits, comparisons=len(tasks))
    print(f"{name:<10} {gain}")
    assert gain.visible and gain.interval.mean > 0
assert all(torch.equal(before[name], v) for name, v in f.state_dict().items())

# %% [markdown]
# Both heads beat the constant answer, and *f* is the same to the bit. The second task cost no second pass of *f*.
#
# ## Saved and loaded apart
#
# `save_parts` writes *f* and *g* to two files. With `backbone=False` only the head's is loaded: a **swapped head**
# turns the defect finder into a crystal expert.

# %%
defect, kind = (Model(f, head).eval() for head in heads.values())
store = tempfile.TemporaryDirectory()
paths = [save_parts(m, f"{store.name}/{i}") for i, m in enumerate((defect, kind))]
ratio = paths[0]["backbone"].stat().st_size / paths[0]["head"].stat().st_size
print(f"the file of f is more than 100 times as large as that of g: {ratio > 100}")
x = f.preprocess(cells.test.pictures[:5])
fresh = backbones.load_backbone("squeezenet1_1", pretrained=False, size=SIDE)
model = load_parts(Model(fresh, LinearHead(512, 2)).eval(), f"{store.name}/0")
with torch.inference_mode():
    print("the defect model, to the bit:  ", torch.equal(model(x), defect(x)))
    load_parts(model, f"{store.name}/1", backbone=False)
    print("swapped, the cell-type model:  ", torch.equal(model(x), kind(x)))

# %% [markdown]
# ## Experiment: where to cut?
#
# The usual cut is at the very top. But *f* was trained to tell dogs from mushrooms; low stages know edges and textures.
#
# **Predict.** A linear probe on the features after each stage: where is the accuracy best?
#
# (a) At the top, for both questions. (b) In the middle for both, and clearly worse at the top. (c) From an early
# stage on we see no difference from the top, for both.
#
# A probe that learned from three quarters of the pictures is tested on the fourth, in turn (*cross-validation*): two
# cuts are compared on all 2,223 pictures, picture by picture.

# %% tags=["varies"]
everything = torch.cat(parts)  # (2223, 1347)
labels = {
    name: torch.cat([getattr(cells.train, column), getattr(cells.test, column)])
    for name, (column, _) in tasks.items()
}
deal = torch.randperm(len(everything), generator=torch.Generator().manual_seed(SEED))
fold = deal % FOLDS  # (2223,)


def hits(z, y):
    """features (N, D), labels (N,) -> (N,): was each picture answered right?"""
    out = torch.empty(len(y), dtype=torch.bool)
    for k in range(FOLDS):
        g = linear_probe(z[fold != k], y[fold != k], l2=L2)
        out[fold == k] = g(z[fold == k]).argmax(1) == y[fold == k]
    return out


# %% tags=["varies"]
Z = dict(zip(CUTS, everything.split(WIDTHS, 1), strict=True))
for cut, width in zip(CUTS[2:], WIDTHS[2:], strict=True):  # 64, as the stem has
    some = torch.randperm(width, generator=torch.Generator().manual_seed(SEED))[:64]
    Z[f"64 of {cut}"] = Z[cut][:, some]
found = {name: {k: hits(z, y) for k, z in Z.items()} for name, y in labels.items()}
narrow, seen = ("stem", *(f"64 of {cut}" for cut in CUTS[2:])), {}
tables = ((CUTS, "stage4"), (narrow, "64 of stage4"))  # alike in width: the second
for (name, by_cut), (few, top) in itertools.product(found.items(), tables):
    print(f"{name:<10}{by_cut[top].double().mean():>7.1%}   {top}")
    some = {k: by_cut[k] for k in few}
    for c in metrics.compare(some, against=top, comparisons=18):
        print(f"{name:<10}{by_cut[c.first].double().mean():>7.1%}   {c}")
        seen[name, c.first, top] = c.interval
assert all(seen[name, "stem", "stage4"].high < 0 for name in labels)
assert seen["defect", "64 of stage2", "64 of stage4"].mean > 0

# %% tags=["varies"]
fig, axes = plt.subplots(1, 2, figsize=(9, 3.2), sharex=True, sharey=True)
for ax, (name, by_cut) in zip(axes, found.items(), strict=True):
    curve = [by_cut[cut].double().mean().item() for cut in CUTS]
    ax.set_ylim(0.5, 1.02)
    plotting.curves(ax, {"probe": (range(6), curve)}, xlabel="cut after", ylabel="")
    trivial = (labels[name].bincount().max() / len(labels[name])).item()
    line = ax.axhline(trivial, color="black", linestyle=":", label="constant answer")
    ax.legend(handles=[line], loc="lower right")
    ax.set_xticks(range(6), CUTS, rotation=30)
    ax.set_title(name)
axes[0].set_ylabel("accuracy")
plt.show()

# %% [markdown]
# **Read.** (c). For both, the stem is visibly below the top, and from stage 1 on there is *no difference from the top
# that we can see*. That is not "as good": for defects, the interval of stage 1 leaves room for a loss of three points,
# that of stage 2 for a gain of more. But higher cuts are wider: the stem hands over 64 numbers, the top 512. With 64
# each, in this one draw of them, we see no difference between top and stem on the defects, and stages 1 (by a hair) and
# 2 are visibly *better*: the top's width may have hidden it. (*x* is the mean brightness alone: no better than the
# constant answer on the cell type, far better on the defects.) A curve that rises to the very top would have refuted
# (c).
#
# ## Where it breaks
#
# **Preprocessing left behind** raises nothing. SqueezeNet's weights take blue, green, red from about −120 to 150,
# Lite0's red, green, blue from −1 to 1. Someone swaps *f* and keeps the old preprocessing:

# %% tags=["varies"]
other = backbones.load_backbone("efficientnet_lite0", size=SIDE)
for name, prepare in (("its own", f.preprocess), ("Lite0's", other.preprocess)):
    z, y = extract(f, loader(cells.test, prepare))
    right = (heads["defect"](z).argmax(1) == y).double().mean()
    print(f"{name} preprocessing: {right:.1%} of the test pictures right")
constant = (y.bincount().max() / len(y)).item()
print(f"the constant answer: {constant:.1%}")
assert right < constant - 0.1

# %% [markdown]
# To this *f*, 0 is the mean colour of photographs, so with Lite0's numbers every picture is nearly an even grey. *g*
# answers all the same, and is right less often than the constant answer. So `f.preprocess` is an attribute of *f*.
#
# ## Play
#
# Where does the cut give *g* half of the work? Half of the parameters?

# %%
s, b, r, e = squeeze.features, transformer.body.layers, resnet, detector
c = nn.Sequential(*deeplab.classifier)  # a plain one can be sliced
stages = {  # name: (stages, how many of them were f above)
    "SqueezeNet": ([s[:3], s[3:6], s[6:9], s[9:11], s[11:], squeeze.classifier], 5),
    "ResNet-50": ([nn.Sequential(r.conv1, r.bn1), r.layer1, r.layer2, r.layer3,
                   r.layer4, r.fc], 5),
    "GRU": ([gru.embedding, gru.body, gru.output], 2),
    "Transformer": ([transformer.embedding, *b, transformer.output], 4),
    "DeepLab": ([deeplab.backbone, c[:4], c[4:]], 1),
    "Faster R-CNN": ([e.backbone.body, e.backbone.fpn, e.rpn, e.roi_heads], 2),
}  # fmt: skip
for name, (parts, _) in stages.items():  # no parameter is forgotten
    n = sum(p.numel() for part in parts for p in part.parameters())
    assert n == sum(p.numel() for p in cuts[name][0].parameters())


# %%
def halves(settings):
    """network, cut -> what share_bars draws, the cut, where it was proved"""
    parts, proved = stages[settings["network"]]
    cut = min(settings["cut"], len(parts) - 1)
    n = [sum(p.numel() for p in part.parameters()) for part in parts]
    cost = [work(settings["network"], part) for part in parts]
    both = {"parameters": n, "multiply-adds": cost}
    return {k: (sum(v[:cut]), sum(v[cut:])) for k, v in both.items()}, cut, proved


def draw(ax, arrays):
    shown, cut, proved = arrays
    here = "the cut that was proved" if cut == proved else f"proved: {proved}"
    plotting.share_bars(ax, shown).set_title(f"first {cut} stages in f ({here})")


# %% tags=["varies"]
network = w.Dropdown(options=list(stages), description="network")
cut = w.IntSlider(value=5, min=1, max=5, description="stages in f")
network.observe(lambda c: setattr(cut, "max", len(stages[c.new][0]) - 1), "value")
controls = {"network": network, "cut": cut}
explorer = widgets.Explorer(controls, halves, draw, figsize=(8, 3))
assert explorer.error is None
explorer

# %%
explorer.still()

# %% [markdown]
# ## Exercises
#
# ### ★ Exercise 1: the parameters of each side
#
# Complete `sides`: the number of parameters in *f* (the first `cut` of the stages) and in *g* (the others), as a pair.
# Count numbers, not tensors, frozen ones too.
#
# <details><summary>Hint 1</summary>
#
# `stage.parameters()` gives the tensors of one stage.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `p.numel()` is how many numbers `p` holds.
#
# </details>
# <details><summary>Hint 3</summary>
#
# Make a list of counts, one a stage; sum each part of it.
#
# </details>


# %% tags=["exercise"]
def sides(stages, cut):
    """list of modules, cut -> (parameters in f, parameters in g)"""
    # BEGIN SOLUTION
    # STUB: ...  # f is stages[:cut]
    count = [sum(p.numel() for p in stage.parameters()) for stage in stages]
    return sum(count[:cut]), sum(count[cut:])
    # END SOLUTION


check("02.sides", sides)

# %% [markdown]
# ### ★ Exercise 2: cut
#
# Complete `cut_at`: it cuts an `nn.Sequential` after its first *k* layers, for any *k* from 0 to its length, and
# returns two modules with `g(f(x))` equal to `model(x)`. Their parameters are the model's own, and the model stays as
# it is.
#
# <details><summary>Hint 1</summary>
#
# An `nn.Sequential` behaves like a list of its layers.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Print a slice of one.
#
# </details>
# <details><summary>Hint 3</summary>
#
# An empty `nn.Sequential()` returns its input: what *f* is for *k* = 0.
#
# </details>


# %% tags=["exercise"]
def cut_at(model, k):
    """nn.Sequential, k -> (f, g) with g(f(x)) == model(x)"""
    # BEGIN SOLUTION
    return model[:k], model[k:]
    # END SOLUTION


check("02.cut", cut_at)

# %% [markdown]
# ### ★ Exercise 3: swap the head
#
# Complete `with_new_head`: a **new** `Model` with the same *f*, the same object, and a new linear head for
# `num_classes` classes. The old model keeps its head. (`model.head.in_features` is its width.)
#
# <details><summary>Hint 1</summary>
#
# A `Model` takes two modules; you have one.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `model.head = …` would change the old model.
#
# </details>
# <details><summary>Hint 3</summary>
#
# `LinearHead(feature_dim, num_classes)` makes a new head.
#
# </details>


# %% tags=["exercise"]
def with_new_head(model, num_classes):
    """Model, K -> Model with the same f and a new linear g"""
    # BEGIN SOLUTION
    return Model(model.backbone, LinearHead(model.head.in_features, num_classes))
    # END SOLUTION


check("02.swap_head", with_new_head)

# %% [markdown]
# ### ★ Exercise 4: the work of a convolution
#
# Complete `convolution_work`: the multiply-adds of a convolution with `c_in` input and `c_out` output channels and
# filters of `k` × `k`, for one square input of `side` × `side`. With `padding` p, the filter fits ⌊(side + 2p − k) /
# stride⌋ + 1 times along a side.
#
# <details><summary>Hint 1</summary>
#
# Values of the output, times the numbers in one filter.
#
# </details>
# <details><summary>Hint 2</summary>
#
# ⌊a / b⌋ is `a // b`.
#
# </details>
# <details><summary>Hint 3</summary>
#
# A filter sees `c_in // groups` channels.
#
# </details>


# %% tags=["exercise"]
def convolution_work(c_in, c_out, k, side, stride=1, padding=0, groups=1):
    """-> multiply-adds for one picture, a whole number"""
    # BEGIN SOLUTION
    out = (side + 2 * padding - k) // stride + 1
    return c_out * out * out * (c_in // groups) * k * k
    # END SOLUTION


check("02.convolution_work", convolution_work)

# %% [markdown]
# ### ★ Exercise 5: extract without leaving a trace
#
# Complete `features`: z = *f*(*x*) in eval mode (no dropout, BatchNorm with its stored statistics) and without
# gradients. Afterwards *f* is as it was: **each** of its modules in the mode it had, train or eval.
#
# <details><summary>Hint 1</summary>
#
# `f.eval()` sets the mode of all modules in *f*.
#
# </details>
# <details><summary>Hint 2</summary>
#
# A module's mode is its attribute `training`; `f.modules()` goes through all.
#
# </details>
# <details><summary>Hint 3</summary>
#
# Remember each mode first, and set each back: `f.train()` would make all the same.
#
# </details>


# %% tags=["exercise"]
def features(f, x):
    """module, x (N, …) -> z (N, D) without gradient; f is left as it was"""
    # BEGIN SOLUTION
    modes = {module: module.training for module in f.modules()}
    f.eval()
    with torch.no_grad():
        z = f(x)
    for module, mode in modes.items():
        module.training = mode
    return z
    # END SOLUTION


check("02.features", features)

# %% [markdown]
# ## Remember
#
# - Any model is *g ∘ f*; *z* may be a list, a map, or several maps with the sizes of the pictures.
# - A cut is right when, in eval mode, the output is equal to the bit and every parameter on exactly one side.
# - Who has the work and who the parameters depends on the network. Count, and check the count.
# - A fixed *f* is computed once, for any number of heads.
# - The top need not be the best cut; compare cuts of equal width. The preprocessing belongs to *f*.
#
# **Limits.** One data set of 2,223 certain pictures, one pretrained *f*, small pictures, probes with one fixed weight
# decay. The intervals hold the noise of the pictures, not that of other training pictures or features; cells of one
# module, some of them near-twins (notebook 01), lie in several parts. To *choose* a cut, compare on a validation part.
# Multiply-adds are not seconds.
#
# **References.** Deitsch et al. 2019, arXiv 1807.02894 (data). Yosinski et al. 2014 (which stages transfer), arXiv
# 1411.1792. Alain and Bengio 2016 (probes), arXiv 1610.01644. Ren et al. 2015 (Faster R-CNN), arXiv 1506.01497. Chen et
# al. 2017 (DeepLabv3), arXiv 1706.05587. Cho et al. 2014 (GRU), arXiv 1406.1078. Vaswani et al. 2017 (Transformer),
# arXiv 1706.03762. Next: **03 The combined loss**.
