"""Set-ups for the doctor as other people write them: FAULTS (what must be found), and SOUND ones (a note at most).

Their style is that of tutorials and repositories: batches of three, dicts, closures, torchvision's and transformers'
own networks with random weights, adapters of peft, schedules, teachers.
"""

import warnings

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
import torchvision
from torch import optim
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, random_split
from torchvision.transforms import v2 as T

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def rng(seed=0):
    return np.random.RandomState(seed)


class FakeImages(Dataset):
    """CIFAR in small: arrays (H, W, 3), a transform, targets, class_to_idx"""

    def __init__(self, n=48, transform=None, seed=0, classes=("cat", "dog", "frog"), side=32, repeat=8):
        coarse = rng(seed).randint(0, 256, (n, side // repeat, side // repeat, 3))
        self.data = coarse.repeat(repeat, 1).repeat(repeat, 2).astype(np.uint8)
        self.targets = [i % len(classes) for i in range(n)]
        self.class_to_idx = {name: i for i, name in enumerate(classes)}
        self.transform = transform

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        img, target = self.data[index], self.targets[index]
        if self.transform is not None:
            img = self.transform(img)
        return img, target


def tensor_of(*more):
    return T.Compose([T.ToImage(), T.ToDtype(torch.float32, scale=True), *more])


NORM = tensor_of(T.Normalize(**IMAGENET))
FLIP = T.Compose([T.ToImage(), T.RandomHorizontalFlip(), T.RandomCrop(32, padding=4), T.ToDtype(torch.float32,
                  scale=True), T.Normalize(**IMAGENET)])  # fmt: skip


def resnet(classes=3):
    torch.manual_seed(0)
    net = torchvision.models.resnet18(weights=None)
    net.fc = nn.Linear(net.fc.in_features, classes)
    return net


def image_loaders(train=None, val=None, batch_size=16):
    train, val = train or FakeImages(transform=NORM), val or FakeImages(24, transform=NORM, seed=1)
    return {
        "train_loader": DataLoader(train, batch_size=batch_size, shuffle=True),
        "val_loader": DataLoader(val, batch_size=batch_size),
    }


def trainer(net, criterion, optimizer, scheduler=None, prepare=lambda t: t):
    def train_batch(batch):
        net.train()
        inputs, targets = batch
        optimizer.zero_grad(set_to_none=True)
        outputs = net(prepare(inputs))
        loss = criterion(outputs, targets)
        loss.backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        return loss.item()

    return train_batch


# ------------------------------------------------------------------------------------------------------ pictures


def cifar_recipe():
    """ResNet from scratch, one cycle, label smoothing"""
    net = resnet()
    optimizer = optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)
    scheduler = optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.05, total_steps=100)
    step = trainer(net, nn.CrossEntropyLoss(label_smoothing=0.1), optimizer, scheduler)
    return {"model": net, "optimizer": optimizer, "step": step, **image_loaders(FakeImages(transform=FLIP))}


class FrozenBackbone(nn.Module):
    """A frozen body whose mode its own train() holds"""

    def __init__(self, hold=True):
        super().__init__()
        self.encoder, self.hold = resnet(), hold
        self.encoder.fc = nn.Identity()
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(512, 3))
        for p in self.encoder.parameters():
            p.requires_grad = False

    def train(self, mode=True):
        super().train(mode)
        if self.hold:
            self.encoder.eval()
        return self

    def forward(self, img):
        with torch.no_grad():
            feat = self.encoder(img)
        return self.classifier(feat)


def feature_extractor(hold=True):
    net = FrozenBackbone(hold)
    optimizer = optim.Adam(filter(lambda p: p.requires_grad, net.parameters()), lr=1e-3)
    step = trainer(net, nn.CrossEntropyLoss(), optimizer)
    return {"model": net, "optimizer": optimizer, "step": step, **image_loaders()}


def pretrained_as(transform):
    """A network with torchvision's way to say how its weights want pictures"""
    net = resnet()
    optimizer = optim.SGD(net.parameters(), lr=0.01)
    published = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.transforms(crop_size=32, resize_size=32)
    step = trainer(net, nn.CrossEntropyLoss(), optimizer)
    loaders = image_loaders(FakeImages(transform=transform), FakeImages(24, transform=transform, seed=1))
    return {"model": net, "optimizer": optimizer, "step": step, "preprocess": published, **loaders}


def caffe_raw():
    """Weights of Caffe, and pixels as they are read"""
    from sftlib.backbones import BACKBONES

    net = torchvision.models.squeezenet1_1(weights=None, num_classes=3)
    raw = T.Compose([T.ToImage(), T.ToDtype(torch.float32)])
    loaders = image_loaders(FakeImages(transform=raw, side=64), FakeImages(24, transform=raw, seed=1, side=64))
    own = BACKBONES["squeezenet1_1"].preprocess.at(64)
    return {"model": net, "optimizer": optim.SGD(net.parameters(), lr=1e-4), "preprocess": own, **loaders}


def shared_transform():
    """random_split of one augmenting data set"""
    torch.manual_seed(0)
    train, val = random_split(FakeImages(72, transform=FLIP), [48, 24])
    net = resnet()
    return {"model": net, "optimizer": optim.SGD(net.parameters(), lr=0.01), **image_loaders(train, val)}


def split_twice():
    """random_split called once for each of the two"""
    data = FakeImages(72, transform=NORM)
    train = random_split(data, [48, 24], generator=torch.Generator().manual_seed(1))[0]
    val = random_split(data, [48, 24], generator=torch.Generator().manual_seed(2))[1]
    net = resnet()
    return {"model": net, "optimizer": optim.SGD(net.parameters(), lr=0.01), **image_loaders(train, val)}


def other_folder_order():
    val = FakeImages(24, transform=NORM, seed=1, classes=("dog", "cat", "frog"))
    net = resnet()
    return {"model": net, "optimizer": optim.SGD(net.parameters(), lr=0.01), **image_loaders(val=val)}


def brighter_copies():
    """Validation pictures are training pictures, a little brighter"""
    train, val = FakeImages(transform=NORM), FakeImages(24, transform=NORM, seed=1)
    val.data = np.clip(train.data[:24].astype(int) + 3, 0, 255).astype(np.uint8)
    net = resnet()
    return {"model": net, "optimizer": optim.SGD(net.parameters(), lr=0.01), **image_loaders(train, val)}


def in_class_order():
    """As ImageFolder lists its files"""
    data = FakeImages(48, transform=NORM)
    data.targets = sorted(data.targets)
    net = resnet()
    loader = DataLoader(data, batch_size=8)
    return {"model": net, "optimizer": optim.SGD(net.parameters(), lr=0.01), "train_loader": loader}


def adam_at_ten():
    net = resnet()
    optimizer = optim.Adam(net.parameters(), lr=10.0)
    step = trainer(net, nn.CrossEntropyLoss(), optimizer)
    return {"model": net, "optimizer": optimizer, "step": step, **image_loaders()}


def head_after_optimizer():
    net = torchvision.models.resnet18(weights=None)
    optimizer = optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    net.fc = nn.Linear(512, 3)
    return {"model": net, "optimizer": optimizer, "step": trainer(net, nn.CrossEntropyLoss(), optimizer),
            **image_loaders()}  # fmt: skip


def tested_in_train_mode():
    net = resnet()
    optimizer = optim.SGD(net.parameters(), lr=0.01)
    loaders = image_loaders()

    def test():
        correct = total = 0
        with torch.no_grad():
            for images, labels in loaders["val_loader"]:
                correct += (net(images).argmax(1) == labels).sum().item()
                total += labels.size(0)
        return correct / total

    return {"model": net, "optimizer": optimizer, "evaluate": test, **loaders}


def multi_label(double=False):
    """Pictures with several labels at once"""
    net = nn.Sequential(resnet(5), nn.Sigmoid()) if double else resnet(5)
    x, y = torch.randn(48, 3, 32, 32), (torch.rand(48, 5) < 0.3).float()
    optimizer = optim.AdamW(net.parameters(), lr=1e-3)
    step = trainer(net, nn.BCEWithLogitsLoss(pos_weight=torch.full((5,), 2.0)), optimizer)
    return {"model": net, "optimizer": optimizer, "train_loader": DataLoader(TensorDataset(x, y), 16), "step": step}


def mixed_up():
    """mixup: labels are shares"""
    net = resnet()
    optimizer = optim.SGD(net.parameters(), lr=0.05, momentum=0.9)

    def step(batch):
        net.train()
        x, y = batch
        lam, order = float(rng(3).beta(0.2, 0.2)), torch.randperm(len(y))
        hot = F.one_hot(y, 3).float()
        out = net(lam * x + (1 - lam) * x[order])
        loss = torch.sum(-(lam * hot + (1 - lam) * hot[order]) * F.log_softmax(out, dim=-1), dim=-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return {"model": net, "optimizer": optimizer, "step": step, **image_loaders(FakeImages(transform=FLIP))}


def scaled(unscaled_first):
    """float16 with a scaler, gathered over two batches, clipped"""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 17), nn.ReLU(), nn.Linear(17, 3))
    optimizer = optim.SGD(net.parameters(), lr=0.05)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    loaders = image_loaders()
    batches = list(loaders["train_loader"])[:2]

    def train_step():
        for x, y in batches:
            with torch.autocast("cpu", dtype=torch.float16):
                loss = F.cross_entropy(net(x), y) / len(batches)
            scaler.scale(loss).backward()
        if unscaled_first:
            scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)

    return {"model": net, "optimizer": optimizer, "step": train_step, **loaders}


def distilled(detach_student=False):
    """A teacher that rests, a student that learns from it"""
    teacher, student = resnet().eval().requires_grad_(False), resnet()
    optimizer = optim.SGD(student.parameters(), lr=0.01)

    def step(images, labels):
        student.train()
        with torch.no_grad():
            soft = F.softmax(teacher(images) / 4, dim=1)
        out = student(images)
        if detach_student:
            out = out.data
        loss = F.kl_div(F.log_softmax(out / 4, dim=1), soft, reduction="batchmean") * 16
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return {"model": student, "optimizer": optimizer, "step": step, **image_loaders()}


class ArcMargin(nn.Module):
    def __init__(self, features=512, classes=3):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, features))

    def forward(self, emb, label):
        cos = F.normalize(emb) @ F.normalize(self.weight).T
        return F.cross_entropy(30 * (cos - 0.3 * F.one_hot(label, cos.shape[1])), label)


def metric_learning(held):
    """An embedding, its margin loss holds the class weights"""
    net, criterion = resnet(), ArcMargin()
    net.fc = nn.Identity()
    params = [{"params": net.parameters()}] + ([{"params": criterion.parameters()}] if held else [])
    optimizer = optim.SGD(params, lr=0.01)
    return {"model": net, "optimizer": optimizer, "step": trainer(net, criterion, optimizer), **image_loaders()}


class Autoencoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.enc = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 4, 3, 2, 1))
        self.dec = nn.Sequential(
            nn.ConvTranspose2d(4, 8, 2, 2), nn.ReLU(), nn.ConvTranspose2d(8, 3, 2, 2), nn.Sigmoid()
        )

    def forward(self, x):
        return self.dec(self.enc(x))


def denoiser():
    """Pictures back from noise: no labels"""
    net, clean = Autoencoder(), torch.rand(40, 3, 32, 32)
    optimizer = optim.Adam(net.parameters(), lr=1e-3)

    def step(batch):
        (x,) = batch
        loss = F.mse_loss(net(x + 0.1 * torch.randn_like(x)), x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return {"model": net, "optimizer": optimizer, "step": step, "train_loader": DataLoader(TensorDataset(clean), 8)}


# ------------------------------------------------------------------------------------------------------ text, sound


class BagModel(nn.Module):
    def __init__(self, final=None):
        super().__init__()
        torch.manual_seed(1)
        self.embedding = nn.EmbeddingBag(97, 16, sparse=False)
        self.fc = nn.Linear(16, 4)
        self.final = final or nn.Identity()

    def forward(self, text, offsets):
        return self.final(self.fc(self.embedding(text, offsets)))


def collate_bags(batch):
    labels, texts = zip(*batch, strict=True)
    offsets = torch.tensor([0] + [len(t) for t in texts]).cumsum(0)[:-1]
    return torch.tensor(labels), torch.cat([torch.tensor(t) for t in texts]), offsets


def news_tutorial(final=None):
    """Bags of words; a batch is (label, text, offsets)"""
    data = [(i * 4 // 61, rng(i).randint(0, 97, 5 + i % 7).tolist()) for i in range(61)]
    loader = DataLoader(data, batch_size=8, shuffle=True, collate_fn=collate_bags)
    net = BagModel(final)
    optimizer, criterion = optim.SGD(net.parameters(), lr=0.5), nn.CrossEntropyLoss()

    def step(label, text, offsets):
        net.train()
        optimizer.zero_grad()
        loss = criterion(net(text, offsets), label)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 0.1)
        optimizer.step()

    return {"model": net, "optimizer": optimizer, "step": step, "train_loader": loader}


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.emb = nn.Embedding(53, 12, padding_idx=0)
        self.lstm = nn.LSTM(12, 14, num_layers=2, batch_first=True, bidirectional=True, dropout=0.2)
        self.drop, self.out = nn.Dropout(0.3), nn.Linear(28, 3)

    def forward(self, tokens, lengths):
        packed = pack_padded_sequence(self.emb(tokens), lengths, batch_first=True, enforce_sorted=False)
        _, (h, _) = self.lstm(packed)
        return self.out(self.drop(torch.cat([h[-2], h[-1]], dim=1)))


def lstm(forgot_train=False, zero=True):
    """Sentences of unequal length; a batch is (tokens, lengths, label)"""
    data = [(torch.from_numpy(rng(i).randint(1, 53, 3 + i % 5)), i % 3) for i in range(50)]

    def collate(batch):
        seqs, ys = zip(*batch, strict=True)
        return pad_sequence(seqs, batch_first=True), torch.tensor([len(s) for s in seqs]), torch.tensor(ys)

    net = Tagger()
    if forgot_train:
        net.eval()  # by the evaluation of the epoch before
    optimizer = optim.Adam(net.parameters(), lr=2e-3)

    def step(tokens, lengths, ys):
        loss = F.cross_entropy(net(tokens, lengths), ys)
        if zero:
            optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    loader = DataLoader(data, batch_size=10, shuffle=True, collate_fn=collate)
    return {"model": net, "optimizer": optimizer, "step": step, "train_loader": loader}


class Stream(IterableDataset):
    def __iter__(self):
        for i in range(40):
            yield torch.from_numpy(rng(i).randn(7)).float(), torch.tensor(float(i % 5))


def regression_on_a_stream():
    net = nn.Sequential(nn.Linear(7, 11), nn.SiLU(), nn.Linear(11, 1), nn.Flatten(0))
    optimizer = optim.RMSprop(net.parameters(), lr=1e-3)
    loader = DataLoader(Stream(), batch_size=8)
    return {"model": net, "optimizer": optimizer, "step": trainer(net, nn.HuberLoss(), optimizer),
            "train_loader": loader}  # fmt: skip


# ------------------------------------------------------------------------------------------------ language models


def bert():
    """A tiny BERT with groups without decay and a warm-up from 0"""
    from transformers import BertConfig, BertForSequenceClassification, get_linear_schedule_with_warmup

    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=61, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, num_labels=3
    )
    net = BertForSequenceClassification(config)
    plain = [p for n, p in net.named_parameters() if "bias" in n or "LayerNorm" in n]
    decayed = [p for n, p in net.named_parameters() if not ("bias" in n or "LayerNorm" in n)]
    optimizer = optim.AdamW(
        [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}], lr=5e-5
    )
    schedule = get_linear_schedule_with_warmup(optimizer, 10, 100)
    rows = [
        {"input_ids": torch.from_numpy(rng(i).randint(3, 61, 9)), "attention_mask": torch.ones(9, dtype=torch.long),
         "labels": i % 3} for i in range(40)
    ]  # fmt: skip

    def step(batch):
        net.train()
        outputs = net(**batch)
        outputs.loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()

    return {"model": net, "optimizer": optimizer, "step": step, "train_loader": DataLoader(rows, 8, shuffle=True)}


def llama(pad=0, seed=4):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=61, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        bos_token_id=1, eos_token_id=2, pad_token_id=pad, tie_word_embeddings=False, loss_type="ForCausalLM",
    ))  # fmt: skip


def turns(n=24, pad=0, begins=1):
    """-> rows of begin, a question, an answer, end, padding; and how long question and whole are"""
    rows, spans = torch.full((n, 14), pad), []
    for i, row in enumerate(rows):
        question, answer = 2 + i % 3, 3 + i % 4
        length = begins + question + answer + 1
        row[:begins], row[length - 1] = 1, 2
        row[begins : length - 1] = torch.from_numpy(rng(i).randint(3, 61, question + answer))
        spans.append((begins + question, length))
    return rows, spans


def sft(change="", begins=1, pad=0, adapter=False):
    """Fine-tuning of a language model, by hand or with peft's adapters"""
    net, (ids, spans) = llama(pad), turns(pad=pad, begins=begins)
    labels = ids.clone()
    for row, (start, length) in zip(labels, spans, strict=True):
        row[: 0 if change == "prompt" else start] = -100
        row[length:] = -100
    if change == "ends":
        labels[labels == 2] = -100
    if change == "shift":
        labels = torch.cat([labels[:, 1:], torch.full((len(ids), 1), -100)], dim=1)
    if adapter:
        from peft import LoraConfig, get_peft_model

        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # peft's, of names in transformers
            net = get_peft_model(net, LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"]))
    if change == "merged":
        net.merge_adapter()
    if change == "rested":
        for p in net.parameters():
            p.requires_grad = False
    trained = [p for p in net.parameters() if p.requires_grad] or list(net.parameters())
    optimizer = optim.AdamW(trained, lr=1e-3)
    mask = [torch.arange(14) < length for _, length in spans]
    rows = [
        {"input_ids": i, "attention_mask": m.long(), "labels": y} for i, m, y in zip(ids, mask, labels, strict=True)
    ]

    def step(batch):
        net.train()
        loss = net(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return {"model": net, "optimizer": optimizer, "step": step, "train_loader": DataLoader(rows, 8, shuffle=True)}


def collated_by_transformers():
    """DataCollatorForLanguageModeling's rule: labels of the padding's number are −100, and padding is the end"""
    given = sft(pad=2)
    for row in given["train_loader"].dataset:
        row["labels"] = row["input_ids"].masked_fill(row["input_ids"] == 2, -100)
    return given


# ------------------------------------------------------------------------------------------ detection, segmentation


def detector(rate=0.005):
    torch.manual_seed(5)
    body = torchvision.models.mobilenet_v3_large(weights=None, norm_layer=torchvision.ops.FrozenBatchNorm2d).features
    body.out_channels = 960
    anchors = torchvision.models.detection.rpn.AnchorGenerator(((16, 32, 64),), ((0.5, 1.0, 2.0),))
    pool = torchvision.ops.MultiScaleRoIAlign(["0"], 3, 2)
    net = torchvision.models.detection.FasterRCNN(
        body, num_classes=3, rpn_anchor_generator=anchors, box_roi_pool=pool, min_size=64, max_size=96
    )
    data = []
    for i in range(6):
        boxes = {"boxes": torch.tensor([[5.0, 5.0, 30.0 + i, 40.0]]), "labels": torch.tensor([1 + i % 2])}
        data.append((torch.rand(3, 64, 80), boxes | {"image_id": torch.tensor(i)}))
    loader = DataLoader(data, batch_size=2, shuffle=True, collate_fn=lambda batch: tuple(zip(*batch, strict=True)))
    optimizer = optim.SGD([p for p in net.parameters() if p.requires_grad], lr=rate, momentum=0.9, weight_decay=5e-4)
    warm = optim.lr_scheduler.LinearLR(optimizer, start_factor=1 / 1000, total_iters=100)

    def step(batch):
        net.train()
        images, targets = batch
        losses = sum(loss for loss in net(list(images), [dict(t) for t in targets]).values())
        optimizer.zero_grad()
        losses.backward()
        optimizer.step()
        warm.step()

    return {"model": net, "optimizer": optimizer, "step": step, "train_loader": loader}


def segmenter(aux_outputs=3, aux_weight=0.5):
    torch.manual_seed(6)
    net = torchvision.models.segmentation.deeplabv3_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=21, aux_loss=True
    )
    net.classifier[-1] = nn.Conv2d(256, 3, 1)
    net.aux_classifier[-1] = nn.Conv2d(net.aux_classifier[-1].in_channels, aux_outputs, 1)
    masks = torch.randint(3, (12, 48, 64))
    masks[:, :2] = 255
    loader = DataLoader(TensorDataset(torch.randn(12, 3, 48, 64), masks), 6, shuffle=True)
    groups = [{"params": net.backbone.parameters(), "lr": 0.001}, {"params": net.classifier.parameters()},
              {"params": net.aux_classifier.parameters()}]  # fmt: skip
    optimizer = optim.SGD(groups, lr=0.01, momentum=0.9)

    def step(image, target):
        net.train()
        found = net(image)
        loss = F.cross_entropy(found["out"], target, ignore_index=255)
        if aux_weight:
            loss = loss + aux_weight * F.cross_entropy(found["aux"], target, ignore_index=255)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return {"model": net, "optimizer": optimizer, "step": step, "train_loader": loader}


FAULTS = {
    "a frozen body in train mode": (lambda: feature_extractor(hold=False), {"frozen_batchnorm_in_train_mode"}),
    "raw pixels": (lambda: pretrained_as(T.Compose([T.ToImage(), T.ToDtype(torch.float32)])), {"pixel_scale"}),
    "no mean taken off": (lambda: pretrained_as(tensor_of()), {"pixel_mean_and_deviation"}),
    "another data set's mean": (
        lambda: pretrained_as(tensor_of(T.Normalize((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)))),
        {"pixel_mean_and_deviation"},
    ),
    "blue first": (
        lambda: pretrained_as(T.Compose([NORM, T.Lambda(lambda t: t.flip(0))])),
        {"channel_order"},
    ),
    "raw pixels into Caffe's weights": (caffe_raw, {"pixel_mean_and_deviation"}),
    "random_split shares the transform": (shared_transform, {"validation_augmented"}),
    "split twice": (split_twice, {"splits_overlap"}),
    "folders in another order": (other_folder_order, {"label_maps_differ"}),
    "brighter copies": (brighter_copies, {"near_duplicates"}),
    "Adam at 10": (adam_at_ten, {"learning_rate_too_high"}),
    "the head after the optimizer": (head_after_optimizer, {"trainable_not_in_optimizer"}),
    "tested in train mode": (tested_in_train_mode, {"train_mode_in_evaluation"}),
    "sigmoid twice": (lambda: multi_label(double=True), {"sigmoid_before_loss"}),
    "clipped before unscaling": (lambda: scaled(False), {"clip_before_unscale"}),
    ".data of the student": (lambda: distilled(detach_student=True), {"loss_without_gradient"}),
    "the margin's weights in no group": (lambda: metric_learning(False), {"loss_parameters_not_in_optimizer"}),
    "softmax before cross-entropy": (lambda: news_tutorial(nn.Softmax(dim=1)), {"probabilities_into_cross_entropy"}),
    "in the order of the classes": (in_class_order, {"training_not_shuffled"}),
    "eval mode in training": (lambda: lstm(forgot_train=True), {"eval_mode_in_training"}),
    "never zeroed": (lambda: lstm(zero=False), {"gradients_accumulate"}),
    "the prompt in the loss": (lambda: sft("prompt"), {"prompt_in_the_loss"}),
    "labels shifted twice": (lambda: sft("shift"), {"labels_shifted_twice"}),
    "padding is the end": (collated_by_transformers, {"end_of_turn_never_a_target"}),
    "two begin tokens": (lambda: sft(begins=2), {"double_begin_token"}),
    "adapters that rest": (lambda: sft("rested", adapter=True), {"nothing_trains"}),
    "adapters that are merged": (lambda: sft("merged", adapter=True), {"lora_changes_nothing"}),
    "an auxiliary head of before": (lambda: segmenter(21, 0), {"auxiliary_head_left"}),
    "a detector at 500": (lambda: detector(500_000.0), {"learning_rate_too_high"}),
}
SOUND = {
    "CIFAR's recipe": cifar_recipe,
    "a frozen body held by its own train()": feature_extractor,
    "torchvision's own transforms": lambda: pretrained_as(NORM),
    "several labels": multi_label,
    "mixup": mixed_up,
    "float16, scaled, gathered, clipped": lambda: scaled(True),
    "a teacher and a student": distilled,
    "a margin loss": lambda: metric_learning(True),
    "a denoiser": denoiser,
    "bags of words": news_tutorial,
    "an LSTM": lstm,
    "regression on a stream": regression_on_a_stream,
    "BERT with a warm-up": bert,
    "a language model": sft,
    "a language model padded by its end": lambda: sft(pad=2),
    "adapters of peft": lambda: sft(adapter=True),
    "a detector": detector,
    "a segmenter with its auxiliary head": segmenter,
}
