# %% [markdown]
# # 14 Segmentation: which pixels are road?
#
# A class for every pixel. The extractor *f* now gives **maps** in place of one list of numbers, and *g* is a network of
# its own, DeepLab. A second loss $L_f$ with parameters of its own works on a map inside *f*: segmenters have been
# trained with the course's combined loss for years.
#
# Afterwards you can
#
# - build a segmenter on a pretrained network, with dilation rates that fit its map;
# - score it: one confusion matrix for all pictures, edges apart, against answers that need no network;
# - avoid what goes wrong with masks: mixed classes, ignored pixels, the batch of one.
#
# **60 minutes** to read and try, 2 minutes to run. Before: notebooks 00 to 03.

# %% tags=["setup"]
import ipywidgets as w
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from IPython.display import display

from sftlib import adaptation, plotting, results, runtime, schedules, training
from sftlib.backbones import load_backbone
from sftlib.checks import check
from sftlib.datasets import camvid, nest_loader, scene_augment, scenes, street_scenes
from sftlib.metrics import MeanIoU, compare, edge_band
from sftlib.model.segmentation import AuxiliaryLoss, fitting_rates, segmenter
from sftlib.widgets import Explorer, LiveRun

plotting.use_style()

# %%
fig, ax = plt.subplots(figsize=(9, 3.4))
plotting.idea(ax, highlight=("f", "g", "L_g", "L_f"))
plt.show()

# %% tags=["setup"]
size = runtime.profile()
SEED = 0
# Drawn streets, or your own in their place: "…/CamVid", a folder in one of its layouts
FOLDER = None
DRAWN = FOLDER is None
# (width, height) in pixels
SIZE = size.pick(quick=(160, 120), full=(320, 240)) if DRAWN else (240, 180)
# to learn from, to look at while learning, to be measured on
PICTURES = size.pick(quick=(80, 20, 60), full=(400, 60, 200))
EPOCHS = size.pick(quick=10, full=40) if DRAWN else 24
BATCH = 8
# rates of AdamW: of f (pretrained, from scratch), of g and the auxiliary head
LR_F, LR_SCRATCH, LR_G = 3e-4, 1e-3, 1e-3
# a class map's number for pixels that count for nothing
IGNORED = scenes.IGNORED

# %% [markdown]
# ## Look at the data
#
# The streets are drawn on the spot, with exact class maps; with `FOLDER` in the settings they are those of CamVid
# (Brostow et al. 2009), in any layout in which it is published. A class map *y* (H, W) names a class for each pixel.
# Colours alone are hard to tell apart, so each class is written where it is widest.

# %%
if DRAWN:
    streets = street_scenes.load(size=SIZE, seed=SEED, numbers=PICTURES)
else:
    streets = camvid.load(FOLDER, size=SIZE)
CLASSES, K = streets.classes, len(streets.classes)
ROAD = CLASSES.index("road")


def truth(split):
    """split -> class maps (N, H, W)"""
    return torch.stack([split[i][1]["class_map"] for i in range(len(split))]).long()


y_train, y_test = truth(streets.train), truth(streets.test)
pixels = y_train.flatten().bincount(minlength=256)[:K]
print(f"train {tuple(y_train.shape)}, test {tuple(y_test.shape)}; share of the pixels:")
shares = zip(CLASSES, pixels / pixels.sum(), strict=True)
print(", ".join(f"{name} {share:.1%}" for name, share in shares))

# %%
fig, axes = plt.subplots(2, 4, figsize=(9, 3.8))
for i, (above, below) in enumerate(axes.T):
    picture, _ = streets.train[i]
    plotting.overlay(above, picture, y_train[i], CLASSES, opacity=0)
    plotting.overlay(below, picture, y_train[i], CLASSES)
plt.show()

# %% [markdown]
# ## How good is a class map? By hand
#
# Count pixels: $n_{jk}$ is how many of class *j* were called *k*. Of class *k*, $n_{kk}$ lie in both truth and
# prediction (the *intersection*), and row plus column less $n_{kk}$ in either (the *union*):
#
# $$\mathrm{IoU}_k = \frac{n_{kk}}{\sum_j n_{kj} + \sum_j n_{jk} - n_{kk}} \qquad
# \mathrm{mIoU} = \frac1K \sum_k \mathrm{IoU}_k$$
#
# (`n[k, k]`, `n.sum(1)`, `n.sum(0)`; Everingham et al. 2010.) Two answers that need no network: the commonest class
# everywhere, and for the road the best of many **trapezoids**, chosen on the training pictures. These are the numbers
# to beat.


# %%
def confusion(said, y):
    """said, y (N, H, W) -> n (K, K): true classes in rows, pixels of all pictures"""
    cell = (y * K + said)[(y < K) & (said < K)]  # not 255
    return cell.bincount(minlength=K * K).reshape(K, K)


def iou(n):
    """n (…, K, K) -> IoU (…, K); NaN for a class that is nowhere"""
    hit = n.diagonal(dim1=-2, dim2=-1).double()
    return hit / (n.sum(-1) + n.sum(-2) - hit)


majority = torch.full_like(y_test, pixels.argmax())
by_hand = iou(confusion(majority, y_test)).nanmean().item()
measure = MeanIoU(K)  # the same from sftlib, fed with scores for each class
for said, y in zip(majority.split(10), y_test.split(10), strict=True):
    measure.add(F.one_hot(said, K).movedim(-1, 1), y)
print(f"everything {CLASSES[pixels.argmax()]}: mIoU {by_hand:.3f}")
assert abs(by_hand - measure.values()["mean_iou"]) < 1e-9

# %%
H, W = y_test.shape[1:]
down, along = torch.meshgrid(torch.arange(H) / H, torch.arange(W) / W, indexing="ij")
shapes = [
    (down > top) & ((along - 0.5).abs() < up + (low - up) * (down - top) / (1 - top))
    for top in (0.4, 0.5, 0.6)
    for up in (0.02, 0.1, 0.3, 0.5)
    for low in (0.3, 0.5, 0.8, 1.2)
]


def overlap(a, b):
    """IoU of two masks"""
    return ((a & b).sum() / (a | b).sum()).item()


trapezoid = max(shapes, key=lambda shape: overlap(shape, y_train == ROAD))
TRAPEZOID = overlap(trapezoid, y_test == ROAD)
print(f"best trapezoid: road IoU {TRAPEZOID:.3f} on the test pictures")
assert not DRAWN or TRAPEZOID < 0.6

# %% [markdown]
# ## One matrix for all, or one for each picture?
#
# **Predict.** Take the truth, moved two pixels to the right, as the answer. For pedestrians, is the mean of the
# pictures' own IoUs (where there are any) (a) equal to, (b) below, (c) above the IoU of all pixels together?

# %%
moved = y_test.roll(2, dims=2)
n = torch.stack([confusion(*pair) for pair in zip(moved, y_test, strict=True)])
together, apart = iou(n.sum(0)), iou(n)
seen = [(y_test == k).flatten(1).any(1) for k in range(K)]
people = CLASSES.index("pedestrian")
for k in (ROAD, people):
    own = apart[:, k]  # NaN where the class is absent
    conventions = [own[seen[k]], own.nan_to_num(0), own.nan_to_num(1)]
    of_pictures = ", ".join(f"{values.mean():.3f}" for values in conventions)
    print(f"{CLASSES[k]}: all pixels {together[k]:.3f}; mean of pictures {of_pictures}")
assert not DRAWN or apart[seen[people], people].mean() < together[people] - 0.02

# %% [markdown]
# **Read.** (b): small, far people lose most by two pixels, and a mean of pictures gives a speck the weight of a crowd.
# And what is the IoU of a picture without people? 0/0: left out, 0 and 1 give three different means (in this order).
# One matrix over the data set needs no convention, and is what papers report. Had all people one size, the first two
# numbers would agree.
#
# ## Masks are not pictures
#
# Resizing a picture mixes neighbours. The mean of class 3 (road) and class 5 (vegetation) is 4, pavement. So a
# mask is resized by its **nearest** pixel, and *never* saved as JPEG.

# %%
half, maps = (H // 2, W // 2), y_test[:, None].float()
exact = F.interpolate(maps, half, mode="nearest-exact")[:, 0].long()
mixed = F.interpolate(maps, half, mode="bilinear")[:, 0].round().long()
wrong = mixed != exact
pairs = list(zip(mixed, y_test, strict=True))
new = sum(bool(set(m.unique().tolist()) - set(y.unique().tolist())) for m, y in pairs)
print(f"smoothly halved, {wrong.float().mean():.1%} of the pixels have another class,")
print(f"and {new} of {len(y_test)} pictures a class that is not in them")
assert torch.equal(scenes.nearest(y_test, *half), exact) and wrong.float().mean() > 0.01

# %% [markdown]
# ## f gives maps, g reads them
#
# *f* is SqueezeNet without its pooling. *g* is **DeepLab** (Chen et al. 2017), from torchvision's parts: 3 × 3 kernels
# whose taps lie *r* cells apart (**dilation** rate *r*) gather what is around, a pooled copy of the whole map too. That
# map is coarse, so it is enlarged and joined with an early, fine one (Chen et al. 2018), and classified.


# %%
def build(pretrained=True):
    """-> model g ∘ f, and L_f: a loss with a small head of its own, on stage3's map"""
    runtime.seed_everything(SEED)
    body = load_backbone("squeezenet1_1", pretrained=pretrained)
    coarse = body.lower(torch.zeros(1, 3, *SIZE[::-1]), "stage4")
    model = segmenter(body, K, rates=fitting_rates(*coarse.shape[-2:]), early="stage1")
    return model, AuxiliaryLoss(model.backbone.auxiliary_dim, K)


model, L_f = build()
f, g = model.backbone, model.head
make = scenes.ForSegmentation(f.preprocess.normalise)
x, y = make(streets.train.batch(torch.arange(4)), torch.Generator())
z = f(x)
for name, part in zip(("map", "auxiliary map", "early map"), z, strict=False):
    print(f"{name:<14}{tuple(part.shape)}")
print(f"g(z)          {tuple(g(z).shape)}")

# %% [markdown]
# **How far apart?** A tap that falls outside the map reads zeros. On a map of *a* × *b* cells, of the 9 taps of all
# cells the share inside is
#
# $$\Big(\tfrac13 + \tfrac23 \max(0, 1 - \tfrac ra)\Big)\Big(\tfrac13 + \tfrac23 \max(0, 1 - \tfrac rb)\Big)$$
#
# Once *r* is as large as the map, only the centre is left, and a 3 × 3 kernel has become a costly 1 × 1. Published
# rates, 12, 24, 36, are for maps of some 65 cells a side.

# %%
h, width = z[0].shape[-2:]


def inside(r, h, w):
    """Share of the taps that fall on the map, counted"""
    ones = torch.ones(1, 1, h, w)
    kernel = torch.ones(1, 1, 3, 3)
    return (F.conv2d(ones, kernel, padding=r, dilation=r).mean() / 9).item()


fig, ax = plt.subplots(figsize=(7, 3.2))
rates = range(1, 37)
sides = {f"{a} × {b}": (a, b) for a, b in ((h, width), (65, 65))}
lines = {name: (rates, [inside(r, *ab) for r in rates]) for name, ab in sides.items()}
what = {"xlabel": "dilation rate (cells)", "ylabel": "share of taps inside"}
plotting.curves(ax, lines, **what)
plt.show()

# %%
OURS = fitting_rates(h, width)
shares = [f"{inside(r, h, width):.2f}" for r in OURS]
print(f"map {h} × {width}; rates {OURS}: {shares}")
formula = [(1 + 2 * max(0, 1 - 3 / side)) / 3 for side in (h, width)]
assert abs(inside(3, h, width) - formula[0] * formula[1]) < 1e-6
assert inside(36, h, width) < 0.12

# %% [markdown]
# ## Two losses, and what they are divided by
#
# $$L = L_g + \tfrac12 L_f \qquad L_g = \frac{\sum_i w_{y_i} \ell_i}{\sum_i w_{y_i}}$$
#
# summed over the pixels *i* that count (not 255), $\ell_i$ the cross-entropy of one, and $w_k$ is 1, or a **class
# weight**: the median of the classes' pixel counts divided by the count of class *k*, at most 10, so below 1 for
# common classes and above it for rare ones (after Eigen and Fergus 2015, who count only pictures that hold the class).
# $L_f$ is the same of a small head's answer on the map of `stage3`. That head learns, and is thrown away afterwards.
# Forget it in the optimizer, and *f* is pulled towards random answers.
#
# A mean over pixels is no mean over pictures: cut a batch in two, and the parts must be weighed by their pixels, or by
# their pixels' weights. `fit` and `evaluate` are told by `terms`, and check it.


# %%
def pixel_loss(logits, y, weight=None):
    """L_g: mean over the pixels that count"""
    return F.cross_entropy(logits, y, weight=weight, ignore_index=IGNORED)


def pixels_counted(y, weight=None):
    """What that mean is divided by"""
    counted = y[y != IGNORED]
    return len(counted) if weight is None else weight[counted].sum().item()


# %%
weight = (pixels.double().median() / pixels.clamp(min=1)).clamp(max=10).float()
print(", ".join(f"{name} {v:.2f}" for name, v in zip(CLASSES, weight, strict=True)))
times = (weight.max() / weight.min()).item()
print(f"a pixel of the rarest class counts {times:.0f} times one of the commonest")
logits, y_some = g(z).detach(), y.clone()
y_some[0, : H * 3 // 4] = IGNORED  # most of the first picture counts for nothing
halves = (slice(0, 2), slice(2, 4))
for name, by in (("plain", None), ("weighted", weight)):
    whole = pixel_loss(logits, y_some, by)
    parts = torch.stack([pixel_loss(logits[half], y_some[half], by) for half in halves])
    t = torch.tensor([pixels_counted(y_some[half], by) for half in halves])
    weighed = (parts * t).sum() / t.sum()
    print(f"{name}: whole {whole:.3f}, halves {weighed:.3f}, mean {parts.mean():.3f}")
    assert abs(weighed - whole) < 1e-4 and abs(parts.mean() - whole) > 1e-3

# %%
L_f(z, y).backward()
stages = dict(f.body.named_children())
given = {s: [p.grad for p in stage.parameters()] for s, stage in stages.items()}
reached = [s for s, grads in given.items() if any(v is not None for v in grads)]
print("∂L_f reaches", *reached, "and no part of g")
assert "stage4" not in reached and all(p.grad is None for p in g.parameters())

# %% [markdown]
# ## Where it breaks: the batch of one
#
# DeepLab pools the whole map to one value a channel and normalises it over the batch. Of one picture that is one
# number, whose variance says nothing. 81 pictures in batches of 8 leave such a batch at the end, after an hour perhaps:
# `drop_last=True`.

# %% tags=["raises-exception"]
g.train()
g(f(x[:1]))

# %% [markdown]
# ## Experiment: is it worth something that f has seen photographs?
#
# Pictures are flipped and cropped at random, their masks with them. **Predict.** After these few passes over few
# pictures, the same network from random weights (with a rate of its own, tuned as well) is (a) ahead, (b) level, for
# drawings are no photographs, (c) behind.
#
# The test pictures are looked at once, at the end. Which pictures happened to be among them is luck too, so they are
# drawn anew a thousand times with repetition (a *bootstrap*), the same ones for both models.


# %%
def batches(split, augment=None, **how):
    """Loader of (x (N, 3, H, W), y (N, H, W))"""
    make = scenes.ForSegmentation(f.preprocess.normalise, augment)
    order = torch.Generator().manual_seed(SEED)
    return nest_loader(split, make, batch_size=BATCH, generator=order, **how)


x, y = next(iter(batches(streets.train)))
how = {"task_loss": pixel_loss, "terms": pixels_counted}
choice = training.measure_precision(model, x, y, **how)
how |= {"precision": choice.precision, "feature_weight": 0.5}
how["metric"] = lambda: MeanIoU(K)  # a new confusion matrix for each evaluation
pair = scene_augment.SceneCrop(), scene_augment.flip
flip_and_crop = scene_augment.SceneChain(pair)
trained = {}  # the newest model of each kind


# %%
def start(pretrained):
    """-> model, auxiliary loss, optimizer of f, g and the auxiliary head"""
    model, L_f = build(pretrained)
    trained[pretrained] = model
    f = (model.backbone, LR_F if pretrained else LR_SCRATCH)
    groups = adaptation.param_groups(f=f, g=(model.head, LR_G), auxiliary=(L_f, LR_G))
    return model, L_f, torch.optim.AdamW(groups, weight_decay=1e-4)


def train(pretrained=True):
    """The iterator of records that trains them"""
    model, L_f, optimizer = start(pretrained)
    shuffled = batches(streets.train, flip_and_crop, shuffle=True, drop_last=True)
    val, steps = batches(streets.val), EPOCHS * len(shuffled)
    own = {"feature_loss": L_f, "val_loader": val, **how}
    own["schedule"] = schedules.warmup_cosine(steps, warmup=steps // 10)
    return training.fit(model, shuffled, optimizer, epochs=EPOCHS, **own)


# %% tags=["varies"]
panel = LiveRun(train)
display(panel)
history = panel.run()
assert history["val_mean_iou"][-1] > history["val_mean_iou"][0]

scratch = LiveRun(lambda: train(pretrained=False))
scratch_history = scratch.run()
fig, ax = plt.subplots(figsize=(7, 3.2))
both = {"pretrained": history, "from scratch": scratch_history}
lines = {name: (past["epochs"], past["val_mean_iou"]) for name, past in both.items()}
plotting.curves(ax, lines, xlabel="epoch", ylabel="mIoU on validation pictures")
plt.show()
assert history["val_mean_iou"][-1] > scratch_history["val_mean_iou"][-1]

# %% tags=["varies"]
said, found = {}, {}
for kind, model in trained.items():
    outputs = training.predict(model, batches(streets.test), precision=choice.precision)
    said[kind] = torch.cat([output.argmax(1) for output, _ in outputs])
    pairs = zip(said[kind].split(1), y_test.split(1), strict=True)
    found[kind] = torch.stack([confusion(p, y) for p, y in pairs]).double()
    values = iou(found[kind].sum(0))
    name = "pretrained" if kind else "from scratch"
    print(f"{name:<13} mIoU {values.nanmean():.3f}, road {values[ROAD]:.3f}")

# %% tags=["varies"]
N = len(y_test)
again = torch.randint(N, (1000, N), generator=torch.Generator().manual_seed(SEED))
times = F.one_hot(again, N).sum(1).double()  # how often each picture is in a draw
sums = {kind: (times @ n.flatten(1)).view(-1, K, K) for kind, n in found.items()}
drawn = {kind: iou(n).nanmean(1) for kind, n in sums.items()}
low, high = (drawn[True] - drawn[False]).quantile(torch.tensor([0.025, 0.975]).double())
print(f"pretrained − scratch: mIoU {low:+.3f} to {high:+.3f} in 95 % of the draws")
assert low > 0 and iou(found[True].sum(0))[ROAD] > TRAPEZOID

# %% [markdown]
# ## More seeds
#
# One run is an anecdote. `data/results/segmentation.csv` has more, each with streets, order and first weights of its
# own, all else as above (but where *f* is frozen, no $L_f$: it would train its own head alone). The rates were chosen
# on other streets (`segmentation_rates`, one seed). **Predict** where two more ways come, *f* frozen and its two top
# stages trained: above all of *f*, between, or below scratch?


# %%
def seeds(table, column, **only):
    """-> one value a seed, in their order, of the rows of a stored table"""
    rows = [r for r in results.read(table) if only.items() <= r.items()]
    return [value for _, value in sorted(results.numbers(rows, column, "seed").items())]


STRATEGIES = ("frozen", "top", "full", "scratch")
MEASURES = ("mean_iou", "pixel_accuracy")  # the latter: share of pixels that are right
COLUMNS = ("mean_iou", "road", "road_boundary", "cpu_s", "memory_mb")
print("            " + "".join(f"{name:>14}" for name in COLUMNS))
for s in STRATEGIES:
    runs = [seeds("segmentation", name, strategy=s) for name in COLUMNS]
    print(f"{s:<12}" + "".join(f"{sum(run) / len(run):>14.3f}" for run in runs))
ious = {s: seeds("segmentation", "mean_iou", strategy=s) for s in STRATEGIES}
alone = seeds("segmentation_parts", "memory_mb", variant="no auxiliary loss")
print(f"full without L_f: {sum(alone) / len(alone):.1f} MB")
assert min(ious["frozen"]) > max(ious["scratch"])

# %%
WAYS = {s: ("segmentation", {"strategy": s}) for s in STRATEGIES}
PARTS = {"full": WAYS["full"]}  # and with one of its parts changed
for v in ("no early map", "no auxiliary loss", "rates 12 24 36", "class weights"):
    PARTS[v] = "segmentation_parts", {"variant": v}
gains = {}
for ways in (WAYS, PARTS):
    for column in MEASURES:
        table = {way: seeds(name, column, **only) for way, (name, only) in ways.items()}
        # two measures: twice as many comparisons hold together
        differences = compare(table, against="full", comparisons=2 * len(ways) - 2)
        print(column, *differences, sep="\n    ")
        gains |= {(c.first, column): c.interval for c in differences}
for way, most in (("frozen", 0), ("scratch", -0.03), ("no early map", -0.01)):
    assert max(gains[way, c].high for c in MEASURES) < most
cost = gains["class weights", "pixel_accuracy"]
assert cost.high < -0.02 and round(-100 * cost.mean) == 7

# %% [markdown]
# **Read.** From scratch is behind by far more than the seeds differ: (c) was right. *f* frozen is a little behind all
# of it by either measure, and takes half the memory (a tenth of full's was $L_f$'s); with its two top stages trained
# there is no difference *that we can see*. Frozen, only a sixth of the time is saved: no gradient of *f* is computed,
# but its forward pass and all of *g* are as before. Had photographs taught *f* nothing for drawings, it would have been
# level with its random twin; and even frozen it is ahead of the twin that may learn, so what it knows matters, not only
# how well its weights are scaled.
#
# Of the parts, only the early map is worth something that we can see, by both measures. The rates that fit, much
# as the picture above speaks for them, and the auxiliary loss, all good practice, make no difference that we can see
# *here*. Nor do class weights in mean IoU, the measure that they are meant for. Their price can be seen: of 100 pixels
# seven fewer are right, for the loss counts common classes less. Who shows mean IoU alone hides it.
#
# ## The edge
#
# A road is mostly inside: a crude edge hardly lowers its IoU. **Boundary IoU** (Cheng et al. 2021) compares the bands
# along the edges alone: of each mask, the pixels at most *d* from what is outside of it (so is
# whatever lies beyond the picture).

# %%
mask = max(y_test == ROAD, key=torch.sum)  # the picture with the most road
crude = F.interpolate(mask[None, None].float(), (h, width), mode="area") > 0.5
crude = F.interpolate(crude.float(), (H, W), mode="nearest")[0, 0] > 0
fig, axes = plt.subplots(1, 3, figsize=(9, 2.6))
bands = edge_band(mask, 3), edge_band(crude, 3)
titles = "road", "its band, d = 3", f"band of {h} × {width} cells"
for ax, m, title in zip(axes, (mask, *bands), titles, strict=True):
    ax.imshow(m, cmap="cividis")
    ax.set_title(title, fontsize=10)
    ax.set_axis_off()
plt.show()

whole, edge = overlap(mask, crude), overlap(*bands)
print(f"the road in cells: IoU {whole:.3f}, boundary IoU {edge:.3f}")
assert edge < whole - 0.1

# %% [markdown]
# ## Play: the worst pictures first
#
# Test pictures, those with the largest share of wrong pixels first. Fade the classes in and out, single one out, look
# at the errors. **What is it that goes wrong?** Somebody who only reads a mean never knows.

# %% tags=["varies"]
errors = (said[True] != y_test) & (y_test != IGNORED)
worst = errors.flatten(1).sum(1).argsort(descending=True)


def choose(s):
    """settings -> what `draw` needs: picture, class map, opacity, title"""
    i = worst[s["picture"] - 1].item()
    maps = {"prediction": said[True][i], "truth": y_test[i]}
    shown = maps.get(s["show"], said[True][i].where(errors[i], IGNORED))
    if s["only"] != "all":
        shown = shown.where(shown == CLASSES.index(s["only"]), IGNORED)
    title = f"{s['show']}, {errors[i].float().mean():.0%} of the pixels wrong"
    return streets.test[i][0], shown, s["opacity"], title


# %% tags=["varies"]
def draw(ax, chosen):
    """Picture, class map, opacity, title -> drawn"""
    picture, shown, opacity, title = chosen
    plotting.overlay(ax, picture, shown, CLASSES, opacity=opacity)
    ax.set_title(title)


controls = {
    "picture": w.IntSlider(1, 1, len(worst), description="picture, worst first"),
    "opacity": w.FloatSlider(0.6, min=0, max=1, step=0.1, description="opacity"),
    "show": w.Dropdown(options=("prediction", "truth", "errors"), description="show"),
    "only": w.Dropdown(options=("all", *CLASSES), description="classes"),
}
explorer = Explorer(controls, choose, draw, figsize=(6, 4.6))
display(explorer, explorer.still())
assert errors[worst[0]].sum() >= errors[worst[-1]].sum()

# %% [markdown]
# ## Exercises
#
# ### ★ Exercise 1: mean IoU
#
# From a confusion matrix *n* (K, K), true classes in rows: the mean IoU over the classes that occur, in the truth or in
# the prediction.
#
# <details><summary>Hint 1</summary>
#
# `n.diagonal()`, `n.sum(0)` and `n.sum(1)` are all you need.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Row plus column holds the right pixels twice.
#
# </details>
# <details><summary>Hint 3</summary>
#
# A class whose union is 0 is left out of the mean; one that was predicted in vain is not.
#
# </details>


# %% tags=["exercise"]
def mean_iou(n):
    """n (K, K) counts -> a number in [0, 1]"""
    # BEGIN SOLUTION
    # STUB: ...
    hit = n.diagonal().double()
    union = n.sum(0) + n.sum(1) - hit
    return (hit[union > 0] / union[union > 0]).mean().item()
    # END SOLUTION


check("14.mean_iou", mean_iou)

# %% [markdown]
# ### ★ Exercise 2: IoU of a class over a data set
#
# `said` and `y` (N, H, W) hold the classes of N pictures. The IoU of class *k*, all pictures together.
#
# <details><summary>Hint 1</summary>
#
# `said == k` and `y == k` are two masks.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `&` is in both, `|` in either.
#
# </details>
# <details><summary>Hint 3</summary>
#
# Two sums over all pixels of all pictures, and one division at the end.
#
# </details>


# %% tags=["exercise"]
def dataset_iou(said, y, k):
    """said (N, H, W), y (N, H, W), class k -> a number in [0, 1]"""
    # BEGIN SOLUTION
    # STUB: ...
    p, t = said == k, y == k
    return ((p & t).sum() / (p | t).sum()).item()
    # END SOLUTION


check("14.dataset_iou", dataset_iou)

# %% [markdown]
# ### ★ Exercise 3: how far does a cell see?
#
# Each layer is (kernel, stride, dilation), from the picture on. How many pixels of a row does one cell of the last map
# see (its **receptive field**)? No layer: 1. A kernel has one gap less than taps; a gap is dilation times the
# distance of neighbouring cells, which is the product of the strides *before*.
#
# <details><summary>Hint 1</summary>
#
# Keep two numbers: the pixels seen so far, and the distance of two neighbouring cells in pixels. Both begin with 1.
#
# </details>
# <details><summary>Hint 2</summary>
#
# A layer adds (kernel − 1) · dilation · distance.
#
# </details>
# <details><summary>Hint 3</summary>
#
# Its own stride multiplies the distance afterwards, for the layers above.
#
# </details>


# %% tags=["exercise"]
def receptive_field(layers):
    """[(kernel, stride, dilation), …] -> pixels"""
    # BEGIN SOLUTION
    # STUB: ...
    side, distance = 1, 1
    for kernel, stride, dilation in layers:
        side += (kernel - 1) * dilation * distance
        distance *= stride
    return side
    # END SOLUTION


check("14.receptive_field", receptive_field)

# %% [markdown]
# ### ★ Exercise 4: pixels that do not count
#
# The mean cross-entropy over all pixels of the batch whose label is not 255. Try it without `ignore_index`.
#
# <details><summary>Hint 1</summary>
#
# `counted = y != 255` is a mask (N, H, W).
#
# </details>
# <details><summary>Hint 2</summary>
#
# With the classes last, `logits.movedim(1, -1)` (N, H, W, K), the mask chooses rows.
#
# </details>
# <details><summary>Hint 3</summary>
#
# `F.cross_entropy` of rows (M, K) and labels (M,) is their mean already.
#
# </details>


# %% tags=["exercise"]
def loss_of_pixels(logits, y):
    """logits (N, K, H, W), y (N, H, W), 255 where nothing counts -> nats per pixel"""
    # BEGIN SOLUTION
    # STUB: ...
    counted = y != 255
    return F.cross_entropy(logits.movedim(1, -1)[counted], y[counted])
    # END SOLUTION


check("14.pixel_loss", loss_of_pixels)

# %% [markdown]
# ### ★ Exercise 5: resize a mask
#
# A class map (H, W) becomes (height, width): each new pixel takes the class of the old pixel in which its *middle*
# lies. The middle of pixel *i* is at $(i + \tfrac12) / \text{height}$ of the way down.
#
# <details><summary>Hint 1</summary>
#
# First the rows: which old row does new row *i* take?
#
# </details>
# <details><summary>Hint 2</summary>
#
# Its middle lies at (i + ½) · H / height old rows; cut off what comes after the point.
#
# </details>
# <details><summary>Hint 3</summary>
#
# `y[rows][:, columns]` takes rows, then columns.
#
# </details>


# %% tags=["exercise"]
def resize_mask(y, height, width):
    """y (H, W) whole numbers -> (height, width)"""
    # BEGIN SOLUTION
    # STUB: ...
    rows = ((torch.arange(height) + 0.5) * y.shape[0] / height).long()
    columns = ((torch.arange(width) + 0.5) * y.shape[1] / width).long()
    return y[rows][:, columns]
    # END SOLUTION


check("14.nearest", resize_mask)

# %% [markdown]
# ## Remember
#
# - A segmenter is *g ∘ f* with maps between; its auxiliary loss is $L_f$ with a head of its own, which the optimizer
#   must hold.
# - Dilation rates belong to the size of the map: as large as the map, a 3 × 3 kernel sees its centre alone. (That the
#   rates raise the score, five seeds do not show.)
# - IoU comes from one confusion matrix over the data set. Show the majority, a trapezoid, the boundary and the share of
#   pixels that are right beside it.
# - Masks: nearest neighbour, 255 does not count, means by pixels (`terms`), no batch of one.
# - Limits: drawn streets, one small network, few pictures, few seeds.
#
# **References.** Chen et al. 2017, *Rethinking Atrous Convolution*, arXiv 1706.05587; 2018, *Encoder-Decoder with
# Atrous Separable Convolution*, arXiv 1802.02611. Cheng et al. 2021, *Boundary IoU*, arXiv 2103.16562, eq. (2).
# Everingham et al. 2010, *The Pascal Visual Object Classes Challenge*, section 4.3. Eigen and Fergus 2015, arXiv
# 1411.4734. Brostow et al. 2009, *Semantic object classes in video*, doi 10.1016/j.patrec.2008.04.005.
# Next: **15 Your own pictures**.
