# %% [markdown]
# # 13 Detection: where are the pedestrians?
#
# So far an answer was one class a picture. Now it is a list of boxes: where somebody stands, and how sure we are.
# Faster R-CNN (Ren et al. 2015) does that with the same f and g, cut at another place. What is a body that knows a
# million photographs worth for streets, and what of it should learn?
#
# Afterwards you can
#
# - choose anchors for your boxes, and know before training how near they come;
# - fine-tune a detector, freeze parts of it, and say which of its four losses moves which part;
# - compute average precision yourself, and say how far to trust it.
#
# **60 minutes** to read and try, a minute and a half to run. Before: notebooks 03 (two losses) and 05 (freezing).

# %% tags=["setup"]
import ipywidgets as w
import matplotlib.pyplot as plt
import torch
from IPython.display import display
from torchvision.ops import box_iou

from sftlib import adaptation, plotting, results, runtime, schedules, training, widgets
from sftlib.backbones import load_backbone
from sftlib.checks import check
from sftlib.datasets import layouts, nest_loader, scene_augment, scenes, street_scenes
from sftlib.metrics import AveragePrecision, compare
from sftlib.model import detection

plotting.use_style()
fig, ax = plt.subplots(figsize=(9, 3.4))
plotting.idea(ax, highlight=("f", "z", "g"))
plt.show()

# %% [markdown]
# Here z is no vector but three **maps**: 64 numbers at every fourth, eighth and sixteenth pixel. f is a pretrained
# *body*, whose own maps are taken at three depths, and a **feature pyramid** (Lin et al. 2017), which adds what the
# coarse maps know to the fine ones. g has two parts: **region proposals** say where something may be, a **box head**
# says what it is and corrects the box.

# %% tags=["setup"]
size = runtime.profile()
SEED = 0
FOLDER = None  # or your own, in the layout of Penn-Fudan or Pascal VOC
NUMBERS = size.pick(quick=(120, 24, 60), full=(800, 100, 300))  # train, val, test
SIZE = size.pick(quick=(320, 240), full=(640, 480))  # width, height in pixels
# over the training pictures; photographs of your own may take three minutes
PASSES = size.pick(quick=4 if FOLDER is None else 15, full=12)
BATCH = 2  # pictures a step
LR, LR_BODY = 1e-3, 3e-4  # of what is new, and of the pretrained body
STAGES = ("stem", "stage1", "stage4")  # of the body, whose maps are taken
TASK = {"task_loss": detection.sum_of_losses, "terms": None}
BLUE, RED = plotting.COLOURS["blue"], plotting.COLOURS["vermillion"]

# %% [markdown]
# ## Look at the data
#
# Streets drawn on the spot from a seed: every box is exact. A box is $(x_1, y_1, x_2, y_2)$ in pixels, its upper left
# and lower right corner. With `FOLDER`, the rest of this notebook runs on photographs of your own.

# %%
if FOLDER is None:
    streets = street_scenes.load(size=SIZE, seed=SEED, numbers=NUMBERS)
else:
    streets = layouts.with_boxes(FOLDER, size=SIZE, seed=SEED)
classes = streets.objects  # 0 is the background
truth = {n: [t for _, t in getattr(streets, n)] for n in ("train", "val", "test")}
boxes = torch.cat([t["boxes"] for t in truth["train"]])  # (n, 4)
width, height = (boxes[:, 2:] - boxes[:, :2]).T
for name, targets in truth.items():
    n = torch.tensor([len(t["boxes"]) for t in targets])
    print(f"{name:<6}{len(n):4} pictures, {n.sum():4} boxes, {(n == 0).sum():3} empty")
print(
    f"classes {classes}; half of the boxes are lower than {height.median():.0f} pixels"
)


# %%
def draw(ax, picture, boxes, colours, texts=None, line="-"):
    """picture uint8 (3, H, W); boxes (n, 4), each in its colour, with its text"""
    ax.imshow(picture.permute(1, 2, 0))
    for i, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        look = {"fill": False, "lw": 1.5, "ls": line, "ec": colours[i]}
        ax.add_patch(plt.Rectangle((x1, y1), x2 - x1, y2 - y1, **look))
        if texts is not None:
            back = {"fc": colours[i], "ec": "none", "pad": 0.8}
            y, side = (y2, "top") if texts[i] == "hit" else (y1, "bottom")
            ax.text(x1, y, texts[i], size=7, color="white", va=side, bbox=back)
    ax.set_axis_off()


fig, axes = plt.subplots(2, 3, figsize=(9, 4.7), layout="constrained")
for ax, (picture, target) in zip(axes.flat, streets.train, strict=False):
    draw(ax, picture, target["boxes"], ["white"] * 99)
plt.show()

# %% [markdown]
# How much do two boxes agree? **IoU**, intersection over union, is the area that they share over the area that they
# cover together: 0 apart, 1 equal. A pedestrian counts as found from an IoU of 0.5.
#
# The trivial answer is always the same box. We give it its best chance: the training box that agrees with most others.
# *AP50*, average precision at IoU 0.5, is 1 for a perfect detector; you write it yourself below. In the full profile,
# and online, there is a second baseline: a detector that learned people from COCO's photographs and never saw
# these streets (*zero-shot*).

# %%
constant = boxes[(box_iou(boxes, boxes) >= 0.5).sum(1).argmax()][None]
answer = {"boxes": constant, "scores": torch.ones(1), "labels": torch.ones(1).long()}
metric = AveragePrecision()
metric.add([answer] * len(truth["test"]), truth["test"])
trivial = metric.values()["ap50"]
print(f"the best constant box: AP50 {trivial:.3f}")
assert trivial < 0.5
if size.name == "full" and FOLDER is None:
    from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn

    coco = fasterrcnn_mobilenet_v3_large_320_fpn(weights="COCO_V1").eval()
    metric = AveragePrecision()
    for picture, target in streets.test:
        seen = coco.requires_grad_(False)([picture / 255])[0]  # label 1: a person
        metric.add([{k: v[seen["labels"] == 1] for k, v in seen.items()}], [target])
    print(f"COCO's detector, as it came: AP50 {metric.values()['ap50']:.3f}")

# %% [markdown]
# ## Anchors: what is near enough
#
# At each place of each map stand a few fixed boxes, the **anchors**. Proposals are anchors that were scored and moved.
# An anchor learns from a pedestrian whom it overlaps well, or better than any other anchor does. Where the best is
# poor, only few learn, and they must move far. So one number is worth knowing before training: the anchors' **recall**,
# the share of true boxes with an anchor at IoU 0.5.
#
# **Predict.** torchvision's own anchors have sides of 32 to 512 pixels and are ½, 1 and 2 times as high as wide. For
# how many of our pedestrians is there one? (a) 95 % (b) 60 % (c) 30 % (d) 5 %


# %%
def network(anchors, ratios, pretrained=True):
    body = load_backbone("squeezenet1_1", pretrained=pretrained)
    how = {"stages": STAGES, "anchors": anchors, "ratios": ratios}
    return detection.detector(body, len(classes), **how)


OURS = detection.anchors_for(boxes, levels=len(STAGES), each=2, ratios=2)
THEIRS = ((32, 64), (128, 256), (512, 512))
choices = {"torchvision's": (THEIRS, (0.5, 1.0, 2.0)), "ours": OURS}
choices["their sides, our shapes"] = (THEIRS, OURS[1])
unseen, best = torch.cat([t["boxes"] for t in truth["val"]]), {}
for name, choice in choices.items():
    every = detection.every_anchor(network(*choice), SIZE[1], SIZE[0])  # (A, 4)
    best[name] = box_iou(boxes, every).amax(1)  # (n,)
    both = best[name], box_iou(unseen, every).amax(1)
    recall, new = ((overlap >= 0.5).float().mean() for overlap in both)
    print(f"{name:<24}{len(every):7,} anchors, recall {recall:.1%}, val {new:.1%}")

# %%
fig, ax = plt.subplots(figsize=(8, 3), layout="constrained")
for name, colour, mark in (("torchvision's", RED, "x"), ("ours", BLUE, ".")):
    ax.scatter(height, best[name], s=20, marker=mark, color=colour, label=name)
ax.axhline(0.5, color="black", lw=0.8)
ax.set(xscale="log", xlabel="height of the box (pixels)", ylabel="IoU, best anchor")
ax.set_xticks([10, 20, 50, 100, 200], [10, 20, 50, 100, 200])
ax.minorticks_off()
ax.legend(title="anchors", loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()
print("our sides in pixels:", *OURS[0], "height over width:", OURS[1])
share = {name: (overlap >= 0.5).float().mean() for name, overlap in best.items()}
gain = share["ours"] - share["their sides, our shapes"]
assert FOLDER or (share["ours"] > 0.8 and gain > 0.1)

# %% [markdown]
# **Read.** (b). Theirs begin at 32 pixels and miss the small ones; our shapes alone change little. Ours are quantiles
# of the training boxes, two sides a map, two shapes, and hold for pictures that they were not made from.
#
# ## Four losses, and whom they move
#
# In train mode g gives losses instead of boxes:
#
# $$L = \underbrace{L_{obj} + L_{move}}_{\text{of the proposals: } L_f} +
# \underbrace{L_{class} + L_{box}}_{\text{of the box head: } L_g}$$
#
# | symbol | in code | asks |
# |---|---|---|
# | $L_{obj}$ | `loss_objectness` | is anything at this anchor, whatever it is? |
# | $L_{move}$ | `loss_rpn_box_reg` | how must the anchor move? |
# | $L_{class}$ | `loss_classifier` | which class is in this proposal, or background? |
# | $L_{box}$ | `loss_box_reg` | how must the proposal move? |
#
# Notebook 03's combined loss again, with λ = 1: as an $L_f$ does, the first two ask of z whether it shows things at
# all. **Predict**: does $L_{class}$ move the proposals?


# %%
def batches(split, normalise, learn=False):
    make = scenes.ForDetection(normalise, scene_augment.flip if learn else None)
    order = torch.Generator().manual_seed(SEED)
    return nest_loader(split, make, batch_size=BATCH, shuffle=learn, generator=order)


runtime.seed_everything(SEED)
model = network(*OURS).train()
f, g = model.backbone, model.head
x, y = next(iter(batches(streets.train, f.body.preprocess.normalise)))
parts = {
    "body": f.body,
    "pyramid": f.pyramid,
    "proposals": g.rpn,
    "box head": g.roi_heads,
}
losses = model(x)  # name -> ()


# %%
def message(loss, part):
    """Length of a loss's gradient for a part"""
    learns = list(part.parameters())
    found = torch.autograd.grad(loss, learns, retain_graph=True, allow_unused=True)
    return sum(d.square().sum().item() for d in found if d is not None) ** 0.5


print(f"{'':<25} length of the gradient for\n{'':<25}", *(f"{p:>10}" for p in parts))
told = {n: [message(loss, p) for p in parts.values()] for n, loss in losses.items()}
for name, lengths in told.items():
    print(f"{name:<17}{losses[name].item():7.3f} ", *(f"{n:10.3g}" for n in lengths))
assert told["loss_classifier"][2] == 0 == told["loss_objectness"][3]
assert told["loss_classifier"][0] > 0 < told["loss_objectness"][0]

# %% [markdown]
# **Read.** No. Each half of g has its own two losses, and f listens to all four. Proposals are handed on as plain
# numbers, so the box head can complain to f only. The two that decide between two answers begin near log 2 = 0.693: no
# opinion yet.
#
# ## What learns
#
# Notebook 05's functions serve: `freeze(f.body)`, or `train_only` of some stages. Pyramid and g are new and always
# learn.
#
# **BatchNorm** needs care. A step sees two pictures, so its statistics depend on which two, and the stored ones drift.
# SqueezeNet has none; EfficientNet does, and a detector on it freezes them, as the second cell shows.


# %%
def full(body):
    pass


def partly(body):
    adaptation.train_only(body, body.stage2, body.stage3, body.stage4)


for choose in (adaptation.freeze, partly, full):
    m = network(*OURS)
    choose(m.backbone.body)
    parts = {"body": m.backbone.body, "pyramid": m.backbone.pyramid, "g": m.head}
    count = {
        n: sum(p.numel() for p in adaptation.trainable(p)) for n, p in parts.items()
    }
    print(
        f"{choose.__name__:<7}", *(f"{n:>11,} of {part}" for part, n in count.items())
    )


# %%
def drift(prepare):
    """By how much the running means move when two pictures pass in train mode"""
    body = load_backbone("efficientnet_lite0")  # has a preprocessing of its own
    pair = [body.preprocess.normalise(streets.train[i][0][None])[0] for i in (0, 1)]
    levels = ("stage1", "stage2", "stage3")
    f = detection.detector(body, len(classes), stages=levels).backbone
    prepare(body)
    means = [b for name, b in body.named_buffers() if name.endswith("running_mean")]
    before = torch.cat(means)
    with torch.no_grad():
        f.train()((pair, None))
    return ((torch.cat(means) - before).norm() / before.norm()).item()


moved, stayed = drift(full), drift(adaptation.eval_stats_train_affine)
print(f"moved by {moved:.2%} a step; with eval_stats_train_affine by {stayed:.2%}")
assert moved > 0 == stayed

# %% [markdown]
# ## Watch it learn
#
# One run starts from ImageNet's body, the other from random weights. Two more things differ: a random body learns as
# fast as what is new, and its pictures are scaled otherwise, for no preprocessing belongs to it. **Predict** the AP50
# on the validation pictures at the end. (a) Both near the constant box: this is too short. (b) Pretrained clearly
# ahead. (c) Equal: these are drawings, and ImageNet has photographs.
#
# (`terms=None`: the loss is no mean over terms, so a batch is never split. `clip`: a gradient longer than 10 is
# shortened.)


# %%
models, looks = {}, {}
heights = [(t["boxes"][:, 3] - t["boxes"][:, 1]).sum() for t in truth["val"]]
SHOW = int(torch.tensor(heights).argmax())  # a picture with people who can be seen


def scaled(pictures):
    """For random weights, which no preprocessing belongs to"""
    return (pictures.float() - 114) / 60


def found_by(model, split):
    loader = batches(split, model.normalise)
    both = training.predict(model, loader, precision=arithmetic)
    return [boxes for output, _ in both for boxes in output]


def ap50(model):
    # on the validation pictures; what is found on one of them is kept
    found, metric = found_by(model, streets.val), AveragePrecision()
    looks[model.name].append(found[SHOW])
    metric.add(found, truth["val"])
    return {"ap50": metric.values()["ap50"]}


# %%
def train(name, pretrained):
    """A fresh model, and the iterator of records that trains it"""
    runtime.seed_everything(SEED)
    model = models[name] = network(*OURS, pretrained)
    f, model.name = model.backbone, name
    model.normalise = f.body.preprocess.normalise if pretrained else scaled
    looks[name] = [found_by(model, streets.val)[SHOW]]
    new = torch.nn.ModuleList([f.pyramid, model.head])
    lr = LR_BODY if pretrained else LR
    groups = adaptation.param_groups(body=(f.body, lr), new=(new, LR))
    loader = batches(streets.train, model.normalise, learn=True)
    how = TASK | {"metric": None, "validate": ap50, "precision": arithmetic}
    how["schedule"] = schedules.warmup_cosine(PASSES * len(loader), warmup=len(loader))
    learn = torch.optim.AdamW(groups, weight_decay=1e-4)
    return training.fit(model, loader, learn, epochs=PASSES, clip=10.0, **how)


# %% tags=["varies"]
choice = training.measure_precision(network(*OURS), x, y, **TASK)
arithmetic = choice.precision
print(choice)
panel = widgets.LiveRun(lambda: train("pretrained", True))
display(panel)
history = {"pretrained": panel.run()}
assert min(history["pretrained"]["loss"][-20:]) < history["pretrained"]["loss"][0]

# %% tags=["varies"]
history["from scratch"] = widgets.LiveRun(lambda: train("from scratch", False)).run()
fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
losses = {name: (h["step"], h["smooth_loss"]) for name, h in history.items()}
plotting.curves(left, losses, xlabel="step", ylabel="sum of the four losses")
right.set_ylim(0, 1)
scores = {name: (h["epochs"], h["val_ap50"]) for name, h in history.items()}
plotting.curves(right, scores, xlabel="passes", ylabel="AP50, validation")
plt.show()
final = {name: h["val_ap50"][-1] for name, h in history.items()}
assert final["pretrained"] > final["from scratch"] + 0.05

# %% tags=["varies"]
picture, target = streets.val[SHOW]
fig, axes = plt.subplots(2, 4, figsize=(11, 4.6), layout="constrained")
for row, name in zip(axes, looks, strict=True):
    for ax, passes in zip(row, (0, 1, 2, PASSES), strict=True):
        found = looks[name][passes]
        draw(ax, picture, target["boxes"], ["white"] * 99, line="--")
        sure = (found["scores"] > 0.3).nonzero().flatten()[:5]
        texts = [f"{s:.2f}" for s in found["scores"][sure]]
        draw(ax, picture, found["boxes"][sure], [RED] * 5, texts)
        ax.set_title(f"{name}, {passes} of {PASSES} passes", fontsize=9)
plt.show()

# %% [markdown]
# (Dashed: true. Red: the five surest of what is found with a score above 0.3.) **Read.** (b). ImageNet never asked
# *where* a thing is, yet with its body a part of the people is found after a few passes; the random body finds next to
# nobody. And look at the losses: in our run the worse detector has the lower sum. $L_{box}$ is paid only for proposals
# that hold somebody, and its proposals hold fewer. So the loss of a detector is no measure of it.
#
# ## Average precision, by hand
#
# A threshold on the scores gives one **precision** (the share of found boxes that are right) and one **recall** (the
# share of pedestrians that are found). AP takes all thresholds. Sort all boxes of all pictures, the surest first. Box i
# *hits*, $h_i = 1$, if its IoU with a true box that no surer one took is 0.5 or more. With $M$ true boxes,
#
# $$r_n = \frac1M\sum_{i\le n} h_i \qquad p_n = \frac1n\sum_{i\le n} h_i \qquad
# AP = \frac{1}{101}\sum_{k=0}^{100}\ \max_{n:\ r_n \ge k/100} p_n$$
#
# (COCO's definition; where no $r_n$ is large enough, 0. With several classes: their mean.)


# %%
def judged(found, true, least=0.5):
    """One picture -> scores (n,), hits (n,), which true boxes (m,) stay free"""
    order = found["scores"].argsort(descending=True)[:100]
    iou = box_iou(found["boxes"][order], true["boxes"])
    free, hits = (
        torch.ones(len(true["boxes"]), dtype=torch.bool),
        torch.zeros(len(order)),
    )
    for i, overlaps in enumerate(iou):
        open_ = overlaps.where(free, torch.tensor(-1.0))
        if len(open_) and open_.max() >= least:
            hits[i], free[open_.argmax()] = 1, False
    return found["scores"][order], hits, free


# %%
def curve(pictures):
    """What `judged` gives for each picture -> scores, recall, precision (n,)"""
    scores, hits, free = (torch.cat(part) for part in zip(*pictures, strict=True))
    scores, order = scores.sort(descending=True, stable=True)
    found = hits.double()[order].cumsum(0)
    return scores, found / len(free), found / torch.arange(1, len(found) + 1)


def average_precision(pictures):
    _, recall, precision = curve(pictures)
    best = precision.flip(0).cummax(0).values.flip(0)  # of this recall and all larger
    at = torch.searchsorted(recall, torch.linspace(0, 1, 101, dtype=torch.float64))
    return torch.cat([best, torch.zeros(1)])[at].mean().item()


# %% tags=["varies"]
CLASS = 1  # whose boxes we judge: the pedestrians


def only(pictures):
    return [{k: d[k][d["labels"] == CLASS] for k in KEYS if k in d} for d in pictures]


KEYS = ("boxes", "scores", "labels")
real, found, results_of = only(truth["test"]), {}, {}
for name, model in models.items():
    found[name], official = only(found_by(model, streets.test)), AveragePrecision()
    official.add(found[name], real)
    results_of[name] = [judged(*p) for p in zip(found[name], real, strict=True)]
    mine, theirs = average_precision(results_of[name]), official.values()["ap50"]
    print(f"{name:<13} AP50 {mine:.4f} by hand, {theirs:.4f} from sftlib")
    assert abs(mine - theirs) < 1e-6

# %% [markdown]
# (`AveragePrecision` itself is tested against COCO's own code.) **How sure is such a number?** A *bootstrap*: draw as
# many test pictures as there are, with repetition, a thousand times, for both models the same ones. Pictures are drawn,
# not boxes: those of one picture share their light and their crowd.

# %% tags=["varies"]
draws = {name: [] for name in results_of}
generator = torch.Generator().manual_seed(SEED)
for _ in range(1000):
    rows = torch.randint(len(real), (len(real),), generator=generator).tolist()
    for name, pictures in results_of.items():
        draws[name].append(average_precision([pictures[i] for i in rows]))
draws = {name: torch.tensor(values) for name, values in draws.items()}
draws["difference"] = draws["pretrained"] - draws["from scratch"]
print("mean of the draws and its middle 95 %:")
for name, values in draws.items():
    low, high = values.quantile(torch.tensor([0.025, 0.975])).tolist()
    print(f"{name:<13} AP50 {values.mean():.3f} [{low:.3f}, {high:.3f}]")
assert draws["difference"].quantile(0.025) > 0

# %% [markdown]
# **Read.** On these pictures the difference is far from 0. But it is one run each: other first weights would give other
# numbers, and that no bootstrap can see.
#
# ## Frozen, partly, fully: the stored table
#
# `data/results/detection.csv` (`python tools/experiments/run.py detection`) holds four ways, a row a seed (of first
# weights, order and flips; the pictures are the same): AP on 100 test pictures, seconds of one core, megabytes that a
# step keeps (maps for the backward pass, gradients, AdamW's two moments). The rates are the same for all (but that a
# random body learns as fast as what is new), 3 passes over 120 pictures. **Predict** the order of frozen, partly and
# full.

# %%
table = results.read("detection")
ways = list(dict.fromkeys(row["way"] for row in table))
seeds = {way: [float(r["ap50"]) for r in table if r["way"] == way] for way in ways}
print(f"seeds: {len(seeds['full'])}         AP50     AP      s     MB")
for way in ways:
    mine = [r for r in table if r["way"] == way]
    values = ([float(r[c]) for r in mine] for c in ("ap50", "ap", "cpu_s", "memory_mb"))
    mean, ap, seconds, memory = (sum(v) / len(v) for v in values)
    print(f"{way:<14}{mean:8.3f}{ap:7.3f}{seconds:7.0f}{memory:7.0f}")
differences = {(d.first, d.second): d for d in compare(seeds)}
print(*differences.values(), sep="\n")
assert differences["from scratch", "full"].interval.high < -0.1
assert differences["frozen", "partly"].visible
assert max(seeds["frozen"]) < min(seeds["partly"])

# %%
fig, ax = plt.subplots(figsize=(7, 2.8))
for i, way in enumerate(ways):
    ax.scatter(seeds[way], [i] * len(seeds[way]), color=BLUE, alpha=0.6)
    mean = sum(seeds[way]) / len(seeds[way])
    ax.plot([mean] * 2, [i - 0.3, i + 0.3], "k-")
ax.set_yticks(range(len(ways)), ways)
ax.set(xlabel="AP50 (a dot a seed, bars their means)", xlim=(-0.01, 0.4))
plt.show()

# %% [markdown]
# **Read.** In three passes ImageNet's body is worth about 0.2 of AP50. Frozen is behind partly, visibly if barely, and
# in every seed. Between either and full there is no difference that we can see. The price differs more: a frozen body
# needs no backward pass, so a step keeps about a quarter of full's memory and takes three quarters of its seconds;
# partly keeps six tenths of the memory. (AP, the mean over IoU 0.5 to 0.95, is small for all: the boxes are rough.)
#
# ## Where it breaks
#
# $(x, y, w, h)$ in place of corners is a common mistake. Read as corners, a few such boxes are possible ones, and would
# teach in silence; most end before they begin. All are looked at before anything is learned:

# %% tags=["raises-exception"]
x1, y1, x2, y2 = boxes.T
turned = torch.stack([x1, y1, x2 - x1, y2 - y1], dim=1)
possible = (turned[:, 2:] > turned[:, :2]).all(1).float().mean()
print(f"still possible as corners: {possible:.1%}")
wrong = {"boxes": turned, "labels": torch.ones(len(turned)).long()}
model.train()((x[0][:1], [wrong]))

# %% [markdown]
# (A label counted from 0, a flat box, one outside the picture are refused as well; the loaders of folders name the
# file. A picture *without* a pedestrian is no mistake: its boxes are `torch.zeros(0, 4)`, and it teaches what no person
# is.)
#
# ## Play
#
# Move the threshold on the score. *Hit*: takes a pedestrian. *Double*: overlaps one already taken. *Wrong*: overlaps
# none. Dashed: missed. Where would you set it in a car, and where to count visitors?


# %%
def what_each_is(found, true, least):
    """One picture -> what the sure boxes are, where; which true ones are missed"""
    keep = found["scores"] >= least  # the surest come first
    found = {key: value[keep] for key, value in found.items()}
    _, hits, missed = judged(found, true)
    over = (box_iou(found["boxes"], true["boxes"]) >= 0.5).any(1)
    both = zip(hits, over, strict=True)
    kinds = ["hit" if h else "double" if o else "wrong" for h, o in both]
    return kinds, found["boxes"], missed


# %%
people = [i for i, t in enumerate(real) if len(t["boxes"])]
LOOK = {"hit": "green", "double": "orange", "wrong": "vermillion"}


def show(axes, s):
    scores, recall, precision = curve(results_of[s["model"]])
    n = int((scores >= s["threshold"]).sum())
    axes[0].plot(recall, precision, color=BLUE)
    axes[0].plot(recall[:n][-1:], precision[:n][-1:], "ko", ms=9, label="threshold")
    axes[0].legend(loc="upper right")
    axes[0].set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.03))
    i = people[s["picture"]]
    picture, true, boxes = streets.test[i][0], real[i]["boxes"], found[s["model"]][i]
    kinds, boxes, missed = what_each_is(boxes, real[i], s["threshold"])
    draw(axes[1], picture, true[missed], ["white"] * 99, line="--")
    draw(axes[1], picture, boxes, [plotting.COLOURS[LOOK[k]] for k in kinds], kinds)
    axes[1].set_title(f"{kinds.count('hit')} hit, {missed.sum()} missed")


# %% tags=["varies"]
controls = {
    "threshold": w.FloatSlider(
        0.5, min=0.05, max=0.95, step=0.05, description="threshold"
    ),
    "picture": w.IntSlider(0, min=0, max=len(people) - 1, description="picture"),
    "model": w.Dropdown(options=list(models), description="model"),
}
explorer = widgets.Explorer(controls, dict, show, figsize=(11, 4.2), columns=2)
display(explorer, explorer.still())
assert explorer.error is None

# %% [markdown]
# ## Exercises
#
# ### ★ Exercise 1: overlap
#
# Complete `iou` without torchvision. Boxes that lie apart, or only touch, share nothing; a box without an area overlaps
# nothing, not even itself.
#
# <details><summary>Hint 1</summary>
#
# The common part begins at the larger x₁ and ends at the smaller x₂.
#
# </details>
# <details><summary>Hint 2</summary>
#
# If it ends before it begins, its width is 0: `.clamp(min=0)`.
#
# </details>
# <details><summary>Hint 3</summary>
#
# Together: area of a + area of b − common part. `a[:, None]` against `b` gives all pairs.
#
# </details>


# %% tags=["exercise"]
def iou(a, b):
    """a (n, 4), b (m, 4) as x1, y1, x2, y2 -> IoU of each with each (n, m)"""
    # BEGIN SOLUTION
    # STUB: ...
    low = torch.maximum(a[:, None, :2], b[:, :2])  # (n, m, 2)
    high = torch.minimum(a[:, None, 2:], b[:, 2:])
    both = (high - low).clamp(min=0).prod(2)
    area_a, area_b = ((c[:, 2:] - c[:, :2]).prod(1) for c in (a, b))
    return both / (area_a[:, None] + area_b - both).clamp(min=1e-9)
    # END SOLUTION


check("13.iou", iou)

# %% [markdown]
# ### ★ Exercise 2: anchors
#
# Complete `anchors_at`: around each centre a box for each side s and each ratio r, of area s² and r times as high as
# wide. Any order of the boxes will do.
#
# <details><summary>Hint 1</summary>
#
# Two equations: w · h = s² and h = r · w. Solve for w.
#
# </details>
# <details><summary>Hint 2</summary>
#
# w = s / √r, h = s · √r.
#
# </details>
# <details><summary>Hint 3</summary>
#
# The centre is the middle: x₁ = x − w / 2.
#
# </details>


# %% tags=["exercise"]
def anchors_at(centres, sides, ratios):
    """centres (n, 2) as x, y; sides (S,), ratios (R,) -> corners (n · S · R, 4)"""
    # BEGIN SOLUTION
    # STUB: ...
    shapes = torch.tensor([(s / r**0.5, s * r**0.5) for s in sides for r in ratios])
    low, high = centres[:, None] - shapes / 2, centres[:, None] + shapes / 2
    return torch.cat([low, high], dim=2).reshape(-1, 4)
    # END SOLUTION


check("13.anchors", anchors_at)

# %% [markdown]
# ### ★ Exercise 3: moving a box
#
# $L_{move}$ and $L_{box}$ compare numbers $t = (t_x, t_y, t_w, t_h)$: the middle of an anchor moves by $t_x$ of its
# width and $t_y$ of its height, its width grows by the factor $e^{t_w}$, its height by $e^{t_h}$ (Ren et al. 2015,
# eq. 2). Complete `decode`.
#
# <details><summary>Hint 1</summary>
#
# First from corners to middle and sides, last back again.
#
# </details>
# <details><summary>Hint 2</summary>
#
# t = 0 changes nothing: e⁰ = 1.
#
# </details>
# <details><summary>Hint 3</summary>
#
# The new middle is the old one + t · *old* side; then the sides change.
#
# </details>


# %% tags=["exercise"]
def decode(anchors, t):
    """anchors (n, 4) as corners, t (n, 4) -> moved boxes (n, 4) as corners"""
    # BEGIN SOLUTION
    # STUB: ...
    middle, sides = (
        (anchors[:, :2] + anchors[:, 2:]) / 2,
        anchors[:, 2:] - anchors[:, :2],
    )
    middle, sides = middle + t[:, :2] * sides, sides * t[:, 2:].exp()
    return torch.cat([middle - sides / 2, middle + sides / 2], dim=1)
    # END SOLUTION


check("13.decode", decode)

# %% [markdown]
# ### ★ Exercise 4: one box for one person
#
# Many proposals end on one person. **Non-maximum suppression** keeps the surest box, throws out all that overlap it by
# *more* than a threshold, and goes on with the surest that is left. Complete `nms`; `box_iou` may help.
#
# <details><summary>Hint 1</summary>
#
# `scores.argsort(descending=True)` is the order in which to look.
#
# </details>
# <details><summary>Hint 2</summary>
#
# A box that was thrown out throws out nobody.
#
# </details>
# <details><summary>Hint 3</summary>
#
# `while left:` keep the first; left are the others with an IoU of at most the threshold.
#
# </details>


# %% tags=["exercise"]
def nms(boxes, scores, threshold):
    """boxes (n, 4), scores (n,) -> numbers of the boxes kept, the surest first"""
    # BEGIN SOLUTION
    # STUB: ...
    left, kept = scores.argsort(descending=True).tolist(), []
    while left:
        first, *left = left
        kept.append(first)
        left = [i for i in left if box_iou(boxes[[first]], boxes[[i]]) <= threshold]
    return kept
    # END SOLUTION


check("13.nms", nms)

# %% [markdown]
# ### ★ Exercise 5: average precision as an area
#
# Others (Pascal VOC since 2010) take the whole area instead of 101 readings:
# $\sum_n (r_n - r_{n-1}) \max_{m \ge n} p_m$ with $r_0 = 0$. Complete it for one class. Scores come in any order;
# what was never found counts.
#
# <details><summary>Hint 1</summary>
#
# Sort `hit` by the scores, the surest first; `cumsum` counts the hits so far.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Recall divides by `there`, precision by 1, 2, 3, …
#
# </details>
# <details><summary>Hint 3</summary>
#
# The maximum over this and all later ones: `x.flip(0).cummax(0).values.flip(0)`.
#
# </details>


# %% tags=["exercise"]
def area_below(scores, hit, there):
    """scores (n,), hit (n,) bool, number of true boxes -> AP, in [0, 1]"""
    # BEGIN SOLUTION
    # STUB: ...
    found = hit[scores.argsort(descending=True)].double().cumsum(0)
    precision = found / torch.arange(1, len(found) + 1)
    best = precision.flip(0).cummax(0).values.flip(0)
    return (best * torch.diff(found, prepend=found.new_zeros(1))).sum() / there
    # END SOLUTION


check("13.average_precision", area_below)

# %% [markdown]
# ## Remember
#
# - A detector is f (body and pyramid, which give maps) and g (proposals and box head); its four losses are one combined
#   loss.
# - Look at the anchors' recall before you train.
# - Freezing and rates are what they were; with a few pictures a step, BatchNorm's statistics stay frozen.
# - AP sums up all thresholds. The one that you use is your choice.
# - Limits: drawn streets, the same for all seeds, one small network, one class, a short training; the rates were chosen
#   for one way only; how far a longer or better tuned scratch comes, nobody tried here.
#
# **References.** Ren et al. 2015, *Faster R-CNN*, arXiv 1506.01497. Lin et al. 2017, *Feature Pyramid Networks*, arXiv
# 1612.03144. Lin et al. 2014, *Microsoft COCO*, arXiv 1405.0312. Everingham et al. 2010, *The Pascal Visual Object
# Classes Challenge*, IJCV 88. Next: **14 Segmentation**, where every pixel has a class.
