"""How others train a picture classifier: what benchmarks/strategies.py compares with. Imports are where they are used.

Each function takes a Model, labelled pictures, epochs, a rate and a batch size, and trains the model in place.
"""

import logging
import tempfile
import warnings

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision.transforms import v2


class Pictures(Dataset):
    """A split, each picture flipped and prepared when it is asked for, by torchvision's transforms"""

    def __init__(self, split, preprocess):
        prepare = v2.Lambda(lambda picture: preprocess(picture)[0])
        self.split, self.transform = split, v2.Compose([v2.RandomHorizontalFlip(), v2.RandomVerticalFlip(), prepare])

    def __len__(self):
        return len(self.split)

    def __getitem__(self, i):
        picture, label = self.split[i]
        return self.transform(picture), label


def tutorial(model, pictures, *, epochs: int, rate: float, batch: int) -> None:
    """The loop of PyTorch's transfer-learning tutorial: SGD with momentum, a tenth of the rate after 7 epochs"""
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=7, gamma=0.1)
    for _ in range(epochs):
        model.train()
        running_loss, running_hits = 0.0, 0
        for x, y in DataLoader(pictures, batch_size=batch, shuffle=True):
            optimizer.zero_grad()
            logits = model(x)
            loss = F.cross_entropy(logits, y)
            loss.backward()
            optimizer.step()
            running_loss += loss.item() * len(y)
            running_hits += torch.sum(logits.argmax(1) == y).item()
        schedule.step()


def fastai(model, pictures, *, epochs: int, rate: float, batch: int) -> None:
    """`fine_tune`: an epoch with f frozen, then all of it, under one-cycle and discriminative rates"""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its imports warn of what torch deprecates
        import fastai.callback.schedule  # noqa: F401  adds fine_tune to Learner
        from fastai.data.core import DataLoaders
        from fastai.learner import Learner

    train = DataLoader(pictures, batch_size=batch, shuffle=True)
    first = DataLoader(Subset(pictures, range(8)), batch_size=8)  # it validates after each epoch: as little as it may
    with tempfile.TemporaryDirectory() as folder:
        learner = Learner(
            DataLoaders(train, first),
            model,
            loss_func=nn.CrossEntropyLoss(),
            splitter=lambda m: [list(m.backbone.parameters()), list(m.head.parameters())],
            path=folder,
        )
        with learner.no_bar(), learner.no_logging():
            learner.fine_tune(epochs - 1, rate)


class WithLoss(nn.Module):
    """What a Hugging Face Trainer wants of a model: it returns its loss"""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixel_values, labels=None):
        logits = self.model(pixel_values)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def hugging_face(model, pictures, *, epochs: int, rate: float, batch: int) -> None:
    """Trainer with its defaults: AdamW, and a rate that falls along a line"""
    from transformers import PrinterCallback, Trainer, TrainingArguments

    def collate(examples):
        x, y = zip(*examples, strict=True)
        return {"pixel_values": torch.stack(x), "labels": torch.tensor(y)}

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=epochs,
            per_device_train_batch_size=batch,
            learning_rate=rate,
            seed=torch.initial_seed(),
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        trainer = Trainer(model=WithLoss(model), args=arguments, train_dataset=pictures, data_collator=collate)
        trainer.remove_callback(PrinterCallback)
        trainer.train()


def lightning(model, pictures, *, epochs: int, rate: float, batch: int) -> None:
    """Trainer and a module as its documentation begins: Adam"""
    import lightning as L

    class Module(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = model

        def training_step(self, batch, _):
            x, y = batch
            return F.cross_entropy(self.model(x), y)

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=rate)

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "consider more workers"
        L.Trainer(max_epochs=epochs, **quiet).fit(Module(), DataLoader(pictures, batch_size=batch, shuffle=True))
