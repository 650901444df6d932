# %% [markdown]
# # 02 Decoupling: can any model be cut into an extractor f and a classifier g?
#
# A network looks like one thing. Here it becomes two, *f* and *g*, with a list of numbers *z* handed over between
# them. Seven networks that have little in common are cut in this way: three for pictures, two for text, one that draws
# boxes, one that paints regions. Then the halves are used apart.
#
# Afterwards you can
#
# - cut a network that you have never seen, and prove that nothing was lost;
# - say what each half costs, in parameters and in multiply-adds, and what that means for your time;
# - use one *f* for several tasks: extract once, save and load the halves apart, swap heads, choose where to cut.
#
# **40 minutes** to read and try, half a minute to run. Before: notebook 00, and what a convolution is. Nothing is
# downloaded.

# %% tags=["setup"]
import tempfile
import time
from collections import Counter
from collections.abc import Mapping

import ipywidgets as w
import matplotlib.pyplot as plt
import torch
import torchvision
from IPython.display import display
from torch import nn

from sftlib.backbones import load_backbone
from sftlib.checks import check
from sftlib.datasets import loader, solar_cells
from sftlib.features import extract, knn_accuracy, linear_probe
from sftlib.metrics import bootstrap_interval, paired_interval
from sftlib.model import LinearHead, Model, load_parts, save_parts
from sftlib.plotting import bands, idea, pictures, shapes, share_bars, short, use_style
from sftlib.runtime import profile, seed_everything
from sftlib.widgets import Explorer

use_style()

# %% [markdown]
# Today's question lies at one place of the picture: between *f* and *g*, where *z* passes. Losses and gradients come
# in notebooks 03 and 04.

# %%
fig, ax = plt.subplots(figsize=(9, 3.4))
idea(ax, highlight=("f", "z", "g"))
plt.show()

# %%
size = profile()
SEED = 0
SIDE = size.pick(quick=96, full=224)  # pixels: the side of a solar cell's picture
# different divisions into train and test, for the experiment
SPLITS = size.pick(quick=5, full=10)
# train, val, test: nothing is chosen on a validation part today
FRACTIONS = (0.75, 0, 0.25)
# weight decay of the linear probes: the same for every cut and task, not tuned
L2 = 1e-2

# %% [markdown]
# ## Look at the data: one set of pictures, two questions
#
# The solar cells of notebook 00 (Deitsch et al. 2019, arXiv 1807.02894). Each picture has two labels: is the cell
# **defective**, and is it cut from one crystal (**mono**) or from many (**poly**)? Two tasks on the same pictures, so
# the same *f* could serve both. The division into train and test is the same for both tasks: no picture that one task
# trains on is tested by the other.

# %%
cells = solar_cells.load(size=SIDE, seed=SEED, fractions=FRACTIONS)
kinds = solar_cells.load(size=SIDE, seed=SEED, fractions=FRACTIONS, task="cell_type")
assert cells.train.names == kinds.train.names and cells.test.names == kinds.test.names
assert not set(cells.train.names) & set(cells.test.names)
print(
    f"{len(cells.train):,} pictures to train, {len(cells.test)} to test; one is "
    f"{tuple(cells.train[0][0].shape)}"
)
for task in (cells, kinds):
    counts = task.test.labels.bincount()
    print(
        f"always '{task.classes[counts.argmax()]}': {counts.max() / counts.sum():.1%} "
        "of the test pictures right"
    )

# %%
some = torch.tensor([0, 100, 200, 300, 400])
fig, axes = plt.subplots(1, 5, figsize=(9, 2.3))
pairs = zip(cells.test.labels[some], kinds.test.labels[some], strict=True)
names = [f"{cells.classes[a]}, {kinds.classes[b]}" for a, b in pairs]
pictures(axes, cells.test.pictures[some], names)
plt.show()

# %% [markdown]
# ## By hand: a cut in two lines
#
# A network is a chain of functions. "*g* after *f*" is written $g \circ f$:
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
# SqueezeNet as torchvision builds it has two children, `features` and `classifier`, and its `forward` flattens at the
# end. Weights do not matter for a cut, so these are random.

# %%
seed_everything(SEED)
network = torchvision.models.squeezenet1_1(weights=None).eval()
f = network.features
# what `forward` does after the cut belongs to g
g = nn.Sequential(network.classifier, nn.Flatten(1))

x = torch.randn(2, 3, 224, 224)
z = f(x)
print("x", tuple(x.shape), "-> z", tuple(z.shape), "-> logits", tuple(g(z).shape))
print("equal to the bit:", torch.equal(g(f(x)), network(x)))

# %% [markdown]
# *Equal to the bit* is the right demand: the same operations in the same order give the same bits, so any difference
# means that something was left out at the cut (here, the flattening). And *z* need not be a list of numbers: in this
# network the first thing *g* does is another convolution, so *z* is a map, 512 channels of 13 × 13.
#
# Where does the shape change along the way? Run the parts one after the other.

# %%
h = x
for i, part in enumerate(f):
    before, h = h.shape, part(h)
    if h.shape[2] != before[2]:  # the map got smaller
        print(
            f"features[{i}] {type(part).__name__:<10} {tuple(before[1:])} -> "
            f"{tuple(h.shape[1:])}"
        )
print(f"{'classifier':<22} {tuple(h.shape[1:])} -> {tuple(g(h).shape[1:])}")

# %% [markdown]
# Each time the map shrinks, a stretch of the network ends. These are natural places to cut.
#
# ## The same from `sftlib`
#
# `load_backbone` gives *f* with its pretrained weights, divided at these places into **stages**. The last stage,
# `pool`, averages each channel over the map, so that *z* is (N, D) with D = 512 whatever the size of the picture.
# `lower` runs the stages up to a name, `upper` the rest. So *f* itself can be cut again, anywhere.

# %%
f = load_backbone("squeezenet1_1", size=SIDE)
x = f.preprocess(cells.test.pictures[:5])
with torch.inference_mode():
    for stage in f.stages:
        h = f.lower(x, stage)
        print(
            f"{stage:<7}{str(tuple(h.shape)):<18} upper(lower(x)) == f(x): "
            f"{torch.equal(f.upper(h, stage), f(x))}"
        )

# %% [markdown]
# ## Any model: seven networks, the same two names
#
# `Model(backbone, head)` does nothing but `head(backbone(x))`. If the two names are to hold for *any* model, they must
# hold for the awkward ones. Two more classifiers of pictures first. Only their attribute names differ.

# %%
import timm  # a library of picture models

seed_everything(SEED)
squeeze = torchvision.models.squeezenet1_1(weights=None)
lite = timm.create_model("tf_efficientnet_lite0", pretrained=False)
resnet = torchvision.models.resnet50(weights=None)
photo = torch.randn(1, 3, 224, 224)

cut_models = {  # name: (the uncut network, f, g, an input)
    "SqueezeNet": (
        squeeze,
        squeeze.features,
        nn.Sequential(squeeze.classifier, nn.Flatten(1)),
        photo,
    ),
    "EfficientNet-Lite0": (
        lite,
        nn.Sequential(
            lite.conv_stem,
            lite.bn1,
            *lite.blocks,
            lite.conv_head,
            lite.bn2,
            lite.global_pool,
        ),
        lite.classifier,
        photo,
    ),
    "ResNet-50": (
        resnet,
        nn.Sequential(*list(resnet.children())[:-1], nn.Flatten(1)),
        resnet.fc,
        photo,
    ),
}

# %% [markdown]
# ### Text: a GRU and a Transformer
#
# A text enters as *tokens*, whole numbers that stand for words: x is (N, T), T tokens each. Both networks look up a
# vector for each token (an *embedding*). A **GRU** then reads from left to right and keeps a summary that it updates at
# each token; the summary after the last one says what was read. A **Transformer** lets every token look at every other
# (*attention*), layer by layer, and we take the mean of the T results. These are the two networks as one would write
# them, uncut.


# %%
class GRUNetwork(nn.Module):
    """tokens (N, T) -> logits (N, K)"""

    def __init__(self, words=5_000, D=128, K=5):
        super().__init__()
        self.embedding, self.gru, self.output = (
            nn.Embedding(words, D),
            nn.GRU(D, D, batch_first=True),
            nn.Linear(D, K),
        )

    def forward(self, x):
        h, _ = self.gru(self.embedding(x))  # (N, T, D)
        return self.output(h[:, -1])


class Transformer(nn.Module):
    """tokens (N, T) -> logits (N, K)"""

    def __init__(self, words=5_000, D=128, K=5, T=32):
        super().__init__()
        self.embedding, self.position = nn.Embedding(words, D), nn.Embedding(T, D)
        layer = nn.TransformerEncoderLayer(
            D, nhead=4, dim_feedforward=4 * D, batch_first=True
        )
        self.encoder = nn.TransformerEncoder(
            layer, num_layers=3, enable_nested_tensor=False
        )
        self.output = nn.Linear(D, K)

    def forward(self, x):
        # (N, T, D)
        h = self.encoder(self.embedding(x) + self.position.weight[: x.shape[1]])
        return self.output(h.mean(dim=1))


# %% [markdown]
# To cut such a network, write a small **adaptor**: a module that holds the network's own parts and repeats the first
# lines of its `forward`. It copies nothing: the parameters are the same objects.


# %%
class GRUBackbone(nn.Module):
    """tokens (N, T) -> z (N, D), the summary after the last token"""

    def __init__(self, net):
        super().__init__()
        self.embedding, self.gru = net.embedding, net.gru

    def forward(self, x):
        h, _ = self.gru(self.embedding(x))
        return h[:, -1]


class TransformerBackbone(nn.Module):
    """tokens (N, T) -> z (N, D), the mean over the tokens"""

    def __init__(self, net):
        super().__init__()
        self.embedding, self.position, self.encoder = (
            net.embedding,
            net.position,
            net.encoder,
        )

    def forward(self, x):
        return self.encoder(
            self.embedding(x) + self.position.weight[: x.shape[1]]
        ).mean(dim=1)


seed_everything(SEED)
gru, transformer = GRUNetwork(), Transformer()
tokens = torch.randint(5_000, (1, 32))
cut_models["GRU"] = (gru, GRUBackbone(gru), gru.output, tokens)
cut_models["Transformer"] = (
    transformer,
    TransformerBackbone(transformer),
    transformer.output,
    tokens,
)

# %% [markdown]
# ### Boxes and regions: a detector and a segmenter
#
# **DeepLab** says of each pixel what it belongs to (*segmentation*). At the end it must enlarge its small map to the
# size of the picture, which *g* cannot know from the map alone. So *z* is a pair: the map and the size.
#
# **Faster R-CNN** draws boxes around things (*detection*). Its *f* resizes the pictures and makes maps at several
# scales; its *g* proposes boxes, then classifies them. In training, *g* also takes the true boxes (*targets*), which it
# scales as *f* scaled the picture, and returns losses instead of boxes.


# %%
class DeepLabBackbone(nn.Module):
    """x (N, 3, H, W) -> z = (map (N, 960, H/16, W/16), (H, W))"""

    def __init__(self, net):
        super().__init__()
        self.body = net.backbone

    def forward(self, x):
        return self.body(x)["out"], x.shape[-2:]


class DeepLabHead(nn.Module):
    """z -> logits (N, K, H, W), a score for each class and pixel"""

    def __init__(self, net):
        super().__init__()
        self.classifier = net.classifier

    def forward(self, z):
        h, side = z
        return {
            "out": nn.functional.interpolate(
                self.classifier(h), size=side, mode="bilinear", align_corners=False
            )
        }


# %%
class DetectorBackbone(nn.Module):
    """list of pictures (3, H, W) -> z = (the pictures as resized, maps at several
    scales, sizes before)
    """

    def __init__(self, net):
        super().__init__()
        self.transform, self.body = net.transform, net.backbone

    def forward(self, x):
        batch, _ = self.transform(x)
        return (
            batch,
            self.body(batch.tensors),
            [tuple(picture.shape[-2:]) for picture in x],
        )


class DetectorHead(nn.Module):
    """z, and in training targets -> boxes with scores, or losses"""

    def __init__(self, net):
        super().__init__()
        self.rpn, self.roi_heads, self.back_to_size = (
            net.rpn,
            net.roi_heads,
            net.transform.postprocess,
        )

    def forward(self, z, targets=None):
        batch, maps, sizes = z
        if targets is not None:
            targets = [
                scaled(*three)
                for three in zip(targets, sizes, batch.image_sizes, strict=True)
            ]
        proposals, rpn_losses = self.rpn(batch, maps, targets)
        boxes, box_losses = self.roi_heads(maps, proposals, batch.image_sizes, targets)
        return (
            rpn_losses | box_losses
            if self.training
            else self.back_to_size(boxes, batch.image_sizes, sizes)
        )


def scaled(target, before, after):
    """The boxes of one picture that was `before` (H, W) and is now `after`."""
    resize = torchvision.models.detection.transform.resize_boxes
    return target | {"boxes": resize(target["boxes"], before, after)}


# %% [markdown]
# Both networks with random weights and few classes, on one small picture. (The detector's two thresholds are set so
# that it shows boxes, however unsure and overlapping, although it has learned nothing: comparing two empty answers
# would prove nothing.)

# %%
seed_everything(SEED)
offline = {"weights": None, "weights_backbone": None}
deeplab = torchvision.models.segmentation.deeplabv3_mobilenet_v3_large(
    **offline, num_classes=5
)
detector = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn(
    **offline, num_classes=2, box_score_thresh=0.0, box_nms_thresh=1.0
)
street = torch.rand(1, 3, 160, 240)
cut_models["DeepLab"] = (
    deeplab,
    DeepLabBackbone(deeplab),
    DeepLabHead(deeplab),
    street,
)
cut_models["Faster R-CNN"] = (
    detector,
    DetectorBackbone(detector),
    DetectorHead(detector),
    list(street),
)

# %% [markdown]
# ### The proof
#
# For each of the seven: is `Model(f, g)(x)` equal to the uncut network's output, to the bit? And do *f* and *g*
# together hold exactly the network's parameters, none lost, none copied, none on both sides?


# %%
def same(a, b):
    """Are two outputs (tensors, or lists and dicts of them) equal to the bit?"""
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b)


def shape_of(out):
    """An output -> its shape for one example; of several maps the first, of boxes
    all.
    """
    out = getattr(out, "tensors", out)  # the detector's padded pictures
    if isinstance(out, tuple):
        return shape_of(out[0])
    if isinstance(out, Mapping):
        return shape_of(next(iter(out.values())))
    if isinstance(out, list):  # one entry a picture
        return tuple((out[0]["boxes"] if isinstance(out[0], dict) else out[0]).shape)
    return tuple(out.shape[1:])


# %%
print(f"{'network':<20}{'x':<16}{'z':<16}{'output':<16}same bits")
for name, (network, f_, g_, x) in cut_models.items():
    network.eval()
    model = Model(f_, g_).eval()
    with torch.inference_mode():
        z, out = model.backbone(x), model(x)
        equal = same(out, network(x))
    z = z[1] if name == "Faster R-CNN" else z  # the maps
    sizes = tuple(x[0].shape), shape_of(z), shape_of(out)
    print(f"{name:<20}" + "".join(f"{str(s):<16}" for s in sizes) + str(equal))
    halves = [*f_.parameters(), *g_.parameters()]
    assert equal and sorted(map(id, halves)) == sorted(map(id, network.parameters()))

# %% [markdown]
# And the detector in training: *g* takes *z* and the targets, and returns four losses. It draws the boxes that it
# learns from at random, so both runs start from the same random state.

# %%
model = Model(*cut_models["Faster R-CNN"][1:3])
x = list(torch.rand(2, 3, 160, 240))
targets = [
    {"boxes": torch.tensor([[20.0, 30, 60, 110]]), "labels": torch.tensor([1])}
] * 2

torch.manual_seed(SEED)
whole = detector.train()(x, targets)
torch.manual_seed(SEED)
halves = model.train().head(model.backbone(x), targets)
print(*sorted(halves), sep="\n")
print("equal to the bit:", same(halves, whole))

# %% [markdown]
# ## What each half costs
#
# Two counts say what a half is. **Parameters** are the numbers that can learn: what must be stored, and what a
# gradient is computed for. **Multiply-adds** are the work of one forward pass: one multiplication and one addition.
# In a convolution, each value of the output is one scalar product of a filter with a patch of the input, so
#
# $$\text{multiply-adds} = \underbrace{C_\text{out} H_\text{out} W_\text{out}}_{\text{values of the output}} \cdot
# \underbrace{(C_\text{in} / \text{groups}) \cdot k \cdot k}_{\text{numbers in one filter}}$$
#
# with filters of *k* × *k*. A linear layer is the case without *H*, *W*, *k*. `groups` is 1, unless each filter sees
# only a part of the channels. A GRU uses each weight once a token. Attention has four linear maps of a token, and
# compares T tokens with T tokens twice.


# %%
def multiply_adds(layer, inputs, out):
    """A layer, its inputs and its output -> multiply-adds; other layers cost
    little and count as 0.
    """
    if isinstance(layer, nn.Conv2d | nn.Linear):
        return out.numel() * layer.weight[0].numel()
    if isinstance(layer, nn.GRU):
        tokens = inputs[0].shape[0] * inputs[0].shape[1]
        return tokens * sum(
            p.numel() for name, p in layer.named_parameters() if "weight" in name
        )
    if isinstance(layer, nn.MultiheadAttention):
        N, T, D = inputs[0].shape
        return N * (4 * T * D * D + 2 * T * T * D)
    return 0


# %% [markdown]
# A **hook** is a function that PyTorch calls after a module's forward pass, with its inputs and its output. One hook
# on every module, one pass, and we know what each layer costs and which shape leaves it.


# %%
def measure(network, x):
    """One forward pass of x -> (multiply-adds by module, shape of the output by
    module)
    """
    cost, shape = Counter(), {}

    def look(module, inputs, out):
        # +=: a layer may be used more than once
        cost[module] += multiply_adds(module, inputs, out)
        shape[module] = shape_of(out)

    hooks = [module.register_forward_hook(look) for module in network.modules()]
    try:
        with torch.no_grad():
            network.eval()(x)
    finally:
        for hook in hooks:
            hook.remove()
    return cost, shape


# %% [markdown]
# Is it right? First by hand for SqueezeNet's first layer: 64 filters of 3 × 3 on 3 channels, an output of 111 × 111.
# Then against PyTorch's own counter, which counts the two operations of a multiply-add apart, so twice as many.

# %%
from torch.utils.flop_counter import FlopCounterMode

cost, shape = measure(squeeze, photo)
first = squeeze.features[0]
by_hand = 64 * 111 * 111 * (3 * 3 * 3)
print(f"first layer {shape[first]}: by hand {by_hand:,}, by the hook {cost[first]:,}")
assert cost[first] == by_hand

print(f"{'network':<20}{'ours':>9}{'torch / 2':>11}")
for name, (network, _, _, x) in cut_models.items():
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(x)
    ours, theirs = measure(network, x)[0].total(), counter.get_total_flops() // 2
    print(
        f"{name:<20}{short(ours):>9}{short(theirs):>11}"
        + ("" if ours == theirs else "   differ")
    )

# %% [markdown]
# Six agree, one does not, and here the mistake is not ours. In eval mode and without gradients, PyTorch computes a
# Transformer layer in one fused step, which its counter does not know: 640 is 128 · 5, the output layer alone. (Our
# hooks make PyTorch take the steps one by one.) With gradients switched on, the layers run step by step too:

# %%
with FlopCounterMode(display=False) as counter:
    transformer.eval()(tokens)
print(
    f"ours {measure(transformer, tokens)[0].total():,}, torch / 2 "
    f"{counter.get_total_flops() // 2:,}"
)

# %% [markdown]
# A count is a measurement: check it, by hand once and by a second way.
#
# Now the stages of each network, in the order in which they run. A stage is a list of the network's own modules.


# %%
def lite_top():
    return nn.Sequential(
        lite.blocks[5], lite.blocks[6], lite.conv_head, lite.bn2, lite.global_pool
    )


s, layers = squeeze.features, transformer.encoder.layers
STAGES = {
    "SqueezeNet": {
        "stem": s[:3], "stage 1": s[3:6], "stage 2": s[6:9],
        "stage 3": s[9:11], "stage 4": s[11:], "classifier": squeeze.classifier,
    },
    "EfficientNet-Lite0": {
        "stem": nn.Sequential(lite.conv_stem, lite.bn1, lite.blocks[0]),
        "stage 1": lite.blocks[1], "stage 2": lite.blocks[2],
        "stage 3": lite.blocks[3:5], "stage 4": lite_top(),
        "classifier": lite.classifier,
    },
    "ResNet-50": {
        "stem": nn.Sequential(resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool),
        "layer 1": resnet.layer1, "layer 2": resnet.layer2, "layer 3": resnet.layer3,
        "layer 4": nn.Sequential(resnet.layer4, resnet.avgpool), "fc": resnet.fc,
    },
    "GRU": {"embedding": gru.embedding, "gru": gru.gru, "output": gru.output},
    "Transformer": {
        "embedding": nn.Sequential(transformer.position, transformer.embedding),
        "layer 1": layers[0], "layer 2": layers[1], "layer 3": layers[2],
        "output": transformer.output,
    },
    "DeepLab": {
        "body": deeplab.backbone,
        "context": nn.Sequential(*list(deeplab.classifier)[:4]),
        "classifier": nn.Sequential(*list(deeplab.classifier)[4:]),
    },
    "Faster R-CNN": {
        "body": detector.backbone.body, "pyramid": detector.backbone.fpn,
        "proposals": detector.rpn, "boxes": detector.roi_heads,
    },
}  # fmt: skip


# %%
def table(network, stages, x):
    """-> for each stage: its name, the shape that leaves it, its parameters, its
    multiply-adds
    """
    cost, shape = measure(network, x)
    rows = []
    for name, part in stages.items():
        last = part[-1] if isinstance(part, nn.Sequential) else part
        n = sum(p.numel() for p in part.parameters())
        rows.append((name, shape[last], n, sum(cost[m] for m in part.modules())))
    return rows


tables = {
    name: table(cut_models[name][0], STAGES[name], cut_models[name][3])
    for name in STAGES
}
print(f"{'SqueezeNet':<12}{'leaves':<16}{'parameters':>11}{'multiply-adds':>15}")
for name, leaves, n, work in tables["SqueezeNet"]:
    print(f"{name:<12}{str(leaves):<16}{n:>11,}{work:>15,}")
for name, rows in tables.items():  # no parameter is forgotten, in none of the seven
    assert sum(n for _, _, n, _ in rows) == sum(
        p.numel() for p in cut_models[name][0].parameters()
    )

# %%
print(f"{'last stage = g':<20}{'parameters in g':>16}{'multiply-adds in g':>20}")
for name, rows in tables.items():
    n, work = ([row[i] for row in rows] for i in (2, 3))
    print(f"{name:<20}{n[-1] / sum(n):>16.1%}{work[-1] / sum(work):>20.1%}")
print(
    "proposed boxes that the detector's g looks at: "
    f"{detector.eval().rpn.post_nms_top_n()} a picture"
)

# %% [markdown]
# *f* mostly does the work, but "the head is small" is no law. A classifier of 1,000 classes holds a large part of
# SqueezeNet's parameters; a linear one for our two classes has (512 + 1) · 2 = 1,026. A detector's *g* is a network of
# its own, with most of the work, because it looks at each proposed box apart.

# %% [markdown]
# ## One f, two g's
#
# If *f* does not change, then *z* = *f*(*x*) does not change either: compute it **once**, keep it, and train only *g*
# on it. That is the **linear probe** of notebook 01: logistic regression on *z*, solved without rate or epochs.
#
# We keep a little more than *z*: for the experiment below, the mean over the map after *every* stage. This takes one
# pass as well, because the stages are computed on the way anyhow.


# %%
class EveryStage(nn.Module):
    """x (N, 3, H, W) -> (N, 3 + 64 + 128 + 256 + 384 + 512): means over the map,
    of x and after each stage
    """

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, x):
        means = [x.mean(dim=(2, 3))]
        # the last one, pool, is itself this mean
        for stage in self.backbone.stages[:-1]:
            x = getattr(self.backbone, stage)(x)
            means.append(x.mean(dim=(2, 3)))
        return torch.cat(means, dim=1)


CUTS = ("x",) + f.stages[:-1]
WIDTHS = [3] + [
    f.lower(f.preprocess(cells.test.pictures[:1]), stage).shape[1]
    for stage in f.stages[:-1]
]
print(dict(zip(CUTS, WIDTHS, strict=True)))


# %% tags=["varies"]
def fingerprint(module):
    return sum(p.double().sum().item() for p in module.state_dict().values())


before, start = fingerprint(f), time.perf_counter()
parts = [
    extract(EveryStage(f), loader(split, f.preprocess))
    for split in (cells.train, cells.test)
]
# (N, 1347), train before test
everything = torch.cat([features for features, _ in parts])
seconds = time.perf_counter() - start
print(
    f"f ran once over {len(everything):,} pictures: {seconds:.1f} s, "
    f"{1000 * seconds / len(everything):.1f} ms each"
)
assert fingerprint(f) == before and everything.shape == (
    len(cells.train) + len(cells.test),
    sum(WIDTHS),
)

# %% [markdown]
# **Predict.** ImageNet has neither defects nor crystals. Which of the two questions will one fixed *f* answer better?
#
# (a) Defect, because a defect is a dark area. (b) Cell type, because it shows all over the cell. (c) Neither beats the
# trivial baseline.

# %% tags=["varies"]
# (N, 512): the mean after the last stage is f(x)
z = everything.split(WIDTHS, dim=1)[-1]
train, test = z[: len(cells.train)], z[len(cells.train) :]
assert torch.allclose(test[:5], f(f.preprocess(cells.test.pictures[:5])), atol=1e-3)

heads = {}
for name, task in (("defect", cells), ("cell type", kinds)):
    start = time.perf_counter()
    heads[name] = linear_probe(train, task.train.labels, l2=L2)
    seconds = time.perf_counter() - start
    right = (heads[name](test).argmax(dim=1) == task.test.labels).double()
    ci, trivial = (
        bootstrap_interval(right.numpy()),
        task.test.labels.bincount().max() / len(task.test),
    )
    print(
        f"{name:<10} g trained in {seconds:.1f} s: {ci.mean:.1%} right [{ci.low:.1%}, "
        f"{ci.high:.1%}]",
        end="",
    )
    print(f", trivial {trivial:.1%}")
    assert ci.low > trivial and fingerprint(f) == before  # f was not trained

# %% [markdown]
# **Read.** Both heads beat the trivial baseline by more than the interval (95 %, from drawing the test pictures anew),
# and the crystal is nearly always recognised, so (b). A score at the trivial baseline would have refuted that one *f*
# serves both. The second task cost no second pass of *f*. (An interval from 100 % to 100 % is not certainty: without a
# single error there is nothing to draw differently. With no error in *n* pictures, up to about 3/*n* remain possible.)

# %% [markdown]
# ## Saved and loaded apart
#
# `save_parts` writes *f* and *g* to two files. Whoever has *f* already needs only the small file of a new head.

# %% tags=["varies"]
defect, kind = (Model(f, head).eval() for head in heads.values())
store = tempfile.TemporaryDirectory()
for folder, model in (("defect", defect), ("cell_type", kind)):
    paths = save_parts(model, f"{store.name}/{folder}")
    print(
        folder,
        {name: f"{path.stat().st_size / 1000:,.0f} kB" for name, path in paths.items()},
    )
assert paths["backbone"].stat().st_size > 100 * paths["head"].stat().st_size

# %% [markdown]
# Recombined in a fresh model, whose *f* and *g* are random until they are loaded, the output is equal to the bit. And
# with `backbone=False` only the head is loaded: a **swapped head** turns the defect finder into a crystal expert, and
# its *f* does not notice.

# %%
x = f.preprocess(cells.test.pictures[:5])
model = Model(
    load_backbone("squeezenet1_1", pretrained=False, size=SIDE), LinearHead(512, 2)
).eval()
load_parts(model, f"{store.name}/defect")
with torch.inference_mode():
    print("the defect model, to the bit:   ", torch.equal(model(x), defect(x)))
    z = model.backbone(x)
    load_parts(model, f"{store.name}/cell_type", backbone=False)
    print("swapped, the cell-type model:   ", torch.equal(model(x), kind(x)))
    print("and f gives the same features:  ", torch.equal(model.backbone(x), z))

# %% [markdown]
# ## Experiment: where to cut?
#
# The usual cut is at the very top, before the last layer. But *f* was trained to tell dogs from mushrooms, and its
# upper stages are the most specialised. Low stages know edges and textures. Notebook 01 drew one such curve, and warned
# that its peak may move with the division of the pictures. So here are several divisions, and intervals.
#
# **Predict.** A linear probe on the features after each stage: where is the accuracy best, for the defects and for the
# cell type?
#
# (a) Both at the top. (b) Both in the middle, and clearly worse at the top. (c) The cell type nearly everywhere; the
# defects need some depth, but not all of it.

# %% [markdown]
# A probe at each cut, for `SPLITS` different divisions into train and test, and for comparison the vote of the *k* = 5
# nearest neighbours (kNN, notebook 01), with nothing trained.

# %% tags=["varies"]
names = cells.train.names + cells.test.names
row_of = {name: row for row, name in enumerate(names)}
labels = {
    name: torch.cat([task.train.labels, task.test.labels])
    for name, task in (("defect", cells), ("cell type", kinds))
}


divisions = []  # rows to train on, rows to test on
for seed in range(SPLITS):
    divided = solar_cells.load(size=SIDE, seed=seed, fractions=FRACTIONS)
    divisions.append(
        [
            [row_of[name] for name in part.names]
            for part in (divided.train, divided.test)
        ]
    )


def accuracies(z, y):
    """features (N, D), labels (N,) -> test accuracy of a linear probe for each
    division
    """
    result = []
    for train, test in divisions:
        g = linear_probe(z[train], y[train], l2=L2)
        result.append((g(z[test]).argmax(dim=1) == y[test]).double().mean().item())
    return result


by_cut = everything.split(WIDTHS, dim=1)
# (SPLITS, 6)
probe = {
    task: torch.tensor([accuracies(z, y) for z in by_cut]).T
    for task, y in labels.items()
}
knn = {task: [knn_accuracy(z, y, k=5) for z in by_cut] for task, y in labels.items()}
for task, result in probe.items():
    print(
        f"{task:<10} {'cut after':>10} {'probe':>7} {'kNN':>7}   probe minus probe at "
        "the top, 95 % interval"
    )
    for i, cut in enumerate(CUTS):
        print(
            f"{'':<10} {cut:>10} {result[:, i].mean():>7.1%} {knn[task][i]:>7.1%}",
            end="",
        )
        print(
            ""
            if i == len(CUTS) - 1
            else f"   {paired_interval(result[:, i], result[:, -1])}"
        )
assert (probe["defect"][:, 3] > probe["defect"][:, 1]).all() and probe["cell type"][
    :, 1:
].min() > 0.9

# %% tags=["varies"]
fig, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharex=True)
for ax, task in zip(axes, probe, strict=True):
    both = {"probe": probe[task].numpy(), "kNN": torch.tensor([knn[task]]).numpy()}
    trivial = labels[task].bincount().max() / len(labels[task])
    ax.axhline(trivial, color="black", linestyle=":", linewidth=1)
    ax.annotate(
        "trivial",
        (5, trivial),
        xytext=(0, 3),
        textcoords="offset points",
        ha="right",
        fontsize=9,
    )
    bands(ax, range(len(CUTS)), both, xlabel="cut after", ylabel="accuracy")
    ax.set_xticks(range(len(CUTS)), CUTS, rotation=30)
    ax.set_title(task)
plt.show()

# %% [markdown]
# The dotted line is the trivial baseline; the band shows the lowest and the highest of the divisions. kNN has no
# training part, so it is computed once, on all pictures.

# %%
rows = tables["SqueezeNet"][:-1]  # f's five stages
for i, (stage, *_) in enumerate(rows, start=1):
    n, work = (
        sum(row[k] for row in rows[:i]) / sum(row[k] for row in rows) for k in (2, 3)
    )
    print(
        f"f cut after {stage:<8} keeps {n:>5.0%} of its parameters and {work:>5.0%} of "
        "its multiply-adds"
    )

# %% [markdown]
# **Read.** (c). The first stages already tell the crystals apart: that is texture. (*x* is the mean brightness alone:
# it says something of defects and nothing of crystals.) The defects need more depth: the stem is clearly below the top,
# but from stage 1 or 2 on we see no difference to the top whose interval excludes zero, and kNN even gets a little
# worse towards it. So a cut in the middle keeps the accuracy with a fraction of *f*. A curve that rises to the very
# top would have refuted this; on everyday photographs, ImageNet's own subject, that is what one expects (Yosinski et
# al. 2014).

# %% [markdown]
# ## Where it breaks
#
# **A head of the wrong width.** Lite0 gives 1,280 features, SqueezeNet's head wants 512.

# %% tags=["raises-exception"]
other = load_backbone("efficientnet_lite0", size=SIDE)
Model(other, heads["defect"])(other.preprocess(cells.test.pictures[:5]))

# %% [markdown]
# **Features that are still a map.** A cut below `pool` hands over (N, 512, H, W). The map has to be averaged or
# flattened first. (`LinearHead` looks at the shape. Plain `nn.Linear` works on the last dimension, whatever it is, and
# would keep quiet whenever *W* happens to fit.)

# %% tags=["raises-exception"]
heads["defect"](f.lower(x, "stage4"))

# %% [markdown]
# **Preprocessing left behind** raises nothing. *f* expects the numbers that it was trained with: SqueezeNet's weights
# take blue, green, red from about −120 to 150, Lite0's red, green, blue from −1 to 1. Someone swaps *f* and keeps the
# old preprocessing. What does SqueezeNet's own ImageNet head say of two photographs?

# %%
from sklearn.datasets import load_sample_image

squeezenet = load_backbone("squeezenet1_1")
lite0 = load_backbone("efficientnet_lite0")
photos = [
    torch.tensor(load_sample_image(f"{name}.jpg")).permute(2, 0, 1)
    for name in ("china", "flower")
]


def says(f, preprocess):
    """The most probable of ImageNet's 1,000 classes for each photograph"""
    with torch.inference_mode():
        best = f.source_logits(
            torch.cat([preprocess(photo) for photo in photos])
        ).argmax(dim=1)
    return [f.source_classes[i] for i in best]


right, wrong = (
    says(squeezenet, squeezenet.preprocess),
    says(squeezenet, lite0.preprocess),
)
fig, axes = plt.subplots(1, 2, figsize=(9, 3.6))
titles = [
    f"own preprocessing: {a}\nLite0's: {b}" for a, b in zip(right, wrong, strict=True)
]
for ax, photo, title in zip(axes, photos, titles, strict=True):
    pictures([ax], photo[None].numpy(), [title])
plt.show()
print(right, wrong)
assert right[0] == "stupa" and wrong[0] == wrong[1]

# %% [markdown]
# A stupa is a kind of temple, so the left answer is sensible; the flower is not a brain coral, but looks like one.
# To this *f*, 0 is the mean colour of photographs, so with Lite0's numbers both are an even grey, and it says the same
# of both. Shapes fit, no error, no warning. That is why in this course the preprocessing is an attribute of *f*
# (`f.preprocess`) and moves with it.

# %% [markdown]
# ## Play
#
# Choose a network and move the cut. Above: the values that leave each stage for one example, and where *f* ends.
# Below: how parameters and multiply-adds divide. Where is the cut that gives *g* half of the work? Half of the
# parameters? Are they the same place?

# %% tags=["varies"]
network = w.Dropdown(options=list(tables), description="network")
cut = w.IntSlider(value=5, min=1, max=5, description="stages in f")
network.observe(
    lambda change: setattr(cut, "max", len(tables[change.new]) - 1), "value"
)


def update(settings):
    rows = tables[settings["network"]]
    return rows, min(settings["cut"], len(rows) - 1)


def plot(axes, arrays):
    (rows, cut), (top, bottom) = arrays, axes
    names, sizes, n, work = zip(*rows, strict=True)
    shapes(top, names, sizes, cut=cut, parameters=n).set_xlabel(
        "values that leave the stage, for one example"
    )
    halves = {
        name: (sum(v[:cut]), sum(v[cut:]))
        for name, v in (("parameters", n), ("multiply-adds", work))
    }
    share_bars(bottom, halves)


explorer = Explorer(
    {"network": network, "cut": cut}, update, plot, figsize=(8, 6), rows=2
)
display(explorer)
assert explorer.error is None

# %%
explorer.still()

# %% [markdown]
# (The picture above is the first setting of the widget, for readers without a running kernel.)
#
# ## Exercises

# %% [markdown]
# ### ★ Exercise 1: the parameters of each side
#
# Complete `sides`: from a list of stages (modules) and a cut, the number of parameters in *f* (the first `cut` stages)
# and in *g* (the others), as a pair. Count numbers, not tensors, and count frozen ones too.


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
# <details><summary>Hint 1</summary>
#
# `stage.parameters()` gives the weight and bias tensors of one stage.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `p.numel()` is how many numbers the tensor `p` holds.
#
# </details>
# <details><summary>Hint 3</summary>
#
# First make a list with one count a stage. Then both answers are sums over a part of it.
#
# </details>

# %% [markdown]
# ### ★ Exercise 2: cut
#
# Complete `cut_at`: it cuts an `nn.Sequential` after its first *k* layers, for any *k* from 0 to its length, and
# returns two modules with `g(f(x))` equal to `model(x)`. Their parameters must be the model's own, not copies, and the
# model must stay as it is.


# %% tags=["exercise"]
def cut_at(model, k):
    """nn.Sequential, k -> (f, g) with g(f(x)) == model(x)"""
    # BEGIN SOLUTION
    return model[:k], model[k:]
    # END SOLUTION


check("02.cut", cut_at)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# An `nn.Sequential` behaves like a list of its layers.
#
# </details>
# <details><summary>Hint 2</summary>
#
# A list is divided by slices. What does a slice of an `nn.Sequential` give you? Print one.
#
# </details>
# <details><summary>Hint 3</summary>
#
# An empty `nn.Sequential()` is a module that returns its input: just what *f* is for *k* = 0.
#
# </details>

# %% [markdown]
# ### ★ Exercise 3: swap the head
#
# Complete `with_new_head`: it returns a **new** `Model` with the same *f*, the same object, and a new linear head for
# `num_classes` classes. The old model keeps its own head. (`model.head.in_features` is the width of the old head.)


# %% tags=["exercise"]
def with_new_head(model, num_classes):
    """Model, K -> Model with the same f and a new linear g"""
    # BEGIN SOLUTION
    return Model(model.backbone, LinearHead(model.head.in_features, num_classes))
    # END SOLUTION


check("02.swap_head", with_new_head)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# A `Model` is made from two modules. You have one of them already.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `model.head = …` would change the old model. Call `Model(…, …)` instead.
#
# </details>
# <details><summary>Hint 3</summary>
#
# `LinearHead(feature_dim, num_classes)` makes a new head; the feature dimension is that of the old one.
#
# </details>

# %% [markdown]
# ### ★ Exercise 4: the work of a convolution
#
# Complete `convolution_work`: the multiply-adds of a convolution with `c_in` input and `c_out` output channels and
# filters of `k` × `k`, for one square input of `side` × `side`. No network runs: work out the side of the output
# first. With `padding` p, the filter fits ⌊(side + 2p − k) / stride⌋ + 1 times along a side.


# %% tags=["exercise"]
def convolution_work(c_in, c_out, k, side, stride=1, padding=0, groups=1):
    """-> multiply-adds for one picture, a whole number"""
    # BEGIN SOLUTION
    out = (side + 2 * padding - k) // stride + 1
    return c_out * out * out * (c_in // groups) * k * k
    # END SOLUTION


check("02.convolution_work", convolution_work)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# The formula above: values of the output, times the numbers in one filter.
#
# </details>
# <details><summary>Hint 2</summary>
#
# ⌊a / b⌋ is `a // b`. The output has `c_out` maps of that side squared.
#
# </details>
# <details><summary>Hint 3</summary>
#
# With groups, a filter sees `c_in // groups` channels, each with k · k numbers.
#
# </details>

# %% [markdown]
# ### ★ Exercise 5: extract without leaving a trace
#
# Complete `features`: z = *f*(*x*) in eval mode (no dropout, BatchNorm with its stored statistics) and without
# gradients. Afterwards *f* is as it was: **each** of its modules in the mode it had. Some may have been in eval mode
# while others trained.


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
# <details><summary>Hint 1</summary>
#
# `f.eval()` sets the mode of all modules in *f*; `with torch.no_grad():` keeps PyTorch from recording gradients.
#
# </details>
# <details><summary>Hint 2</summary>
#
# The mode of one module is its attribute `training`. `f.modules()` goes through all of them, *f* itself included.
#
# </details>
# <details><summary>Hint 3</summary>
#
# Before `f.eval()`, remember `module.training` for each. At the end set it back, one by one: `f.train()` would set
# all to the same.
#
# </details>

# %% [markdown]
# ### ★★ Exercise 6: larger pictures
#
# **Predict**: with pictures of 448 instead of 224 pixels, by which factor do the multiply-adds of ResNet-50's *f* grow,
# those of its *g*, and the number of parameters? Then run `measure(resnet, torch.randn(1, 3, 448, 448))`. And the
# Transformer with 16 instead of 32 tokens: is it exactly half?
#
# ### ★★ Exercise 7: what does keeping z save?
#
# You want to train *g* for 10 epochs on 2,000 pictures with ResNet-50 frozen. **Predict** from the multiply-adds how
# much less work it is to extract once, compared with running *f* in every epoch. What changes if each picture is
# turned at random in each epoch?

# %% [markdown] tags=["solution"]
# **Exercise 6.** Four times for *f*: each map has twice the height and twice the width. One for *g*: after pooling,
# *z* has 2,048 numbers whatever the picture. Parameters stay the same: the same filters are used at more places. (The
# factor of *f* is exactly 4 because 448 and 224 are both divisible by 32; with padding it can differ slightly.)
# The Transformer with half the tokens does a little less than half: the linear maps halve, the comparison of tokens
# with tokens goes down to a quarter.
#
# **Exercise 7.** Nearly all the work is in *f*, so almost ten times less: one pass instead of ten. With random turns
# each epoch shows another picture, so a kept *z* is no longer right: keep several versions, or give up the turns.
# Two more factors (no gradients stored, a solver that needs no learning rate) come on top.

# %% [markdown]
# ### ★★★ Exercise 8: your own network
#
# Take a network that is not in this notebook (`torchvision.models.list_models()` has many), cut it at two places,
# prove both cuts to the bit, and make its table. Is there a place at which it cannot be cut so that one tensor passes?
# (Think of connections that jump over several layers.)

# %% [markdown]
# ## Remember
#
# - Any model is *g ∘ f*. What passes the cut may be a list, a map, or several maps with the sizes of the pictures.
# - A cut is right when the output is equal to the bit and every parameter is on exactly one side.
# - *f* mostly has the work; who has the parameters depends on the network. Count, with hooks, and check the count.
# - A fixed *f* is computed once. Any number of heads can then be trained, saved, loaded and swapped, each on its own.
# - The top is not always the best place to cut, and the preprocessing belongs to *f*.
#
# **Limits.** One data set of 2,223 certain pictures, one pretrained *f*, small pictures, linear probes with one fixed
# weight decay; the divisions share pictures, so their interval is somewhat too narrow (Nadeau and Bengio 2003,
# *Inference for the generalization error*, Machine Learning 52), and a division puts cells of the same solar module on
# both sides. To *choose* a cut, compare on a validation part, not on the test part. Multiply-adds are not seconds.
#
# **References.** Deitsch et al. 2019, arXiv 1807.02894 (data). Iandola et al. 2016, *SqueezeNet*, arXiv 1602.07360.
# Yosinski et al. 2014, *How transferable are features in deep neural networks?*, arXiv 1411.1792. Alain and Bengio
# 2016, *Understanding intermediate layers using linear classifier probes*, arXiv 1610.01644. Ren et al. 2015, *Faster
# R-CNN*, arXiv 1506.01497. Chen et al. 2017, *Rethinking atrous convolution* (DeepLabv3), arXiv 1706.05587. Cho et al.
# 2014 (GRU), arXiv 1406.1078. Vaswani et al. 2017, *Attention is all you need*, arXiv 1706.03762.
# Next: **03 The combined loss**, where *f* and *g* each learn from a loss of their own.
