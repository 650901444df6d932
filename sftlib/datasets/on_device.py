"""Where batches are made: on the device, from pictures that live there, or ahead of time, so that no step waits."""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor
from torch.utils.data import Dataset

from sftlib.datasets.loading import Loader
from sftlib.datasets.splits import PictureSplit


def to_device(split: Dataset, device: torch.device | str, *, share: float = 0.5) -> Dataset:
    """split with pictures uint8 (N, 3, H, W) -> the same with pictures and labels in the memory of `device`

    A `loader` of it cuts, augments and preprocesses there; the draws stay those of its generator, so the pictures are
    the same as on the CPU. Where they would take more than `share` of the memory that is free on the device, or are
    read from files, the split comes back as it is (`split.device` tells): `prefetch` its loader.
    """
    if not 0 < share <= 1:
        raise ValueError(f"got share={share}; expected the part of the free memory that pictures may take, up to 1")
    device = torch.device(device)
    if not isinstance(split, PictureSplit) or stored_bytes(split.pictures) > share * free_bytes(device):
        return split
    pictures = split.pictures
    if pictures.stride(1) == 0:  # grey, shown as three equal channels: stored once
        pictures = pictures[:, :1].to(device).expand(-1, pictures.shape[1], -1, -1)
    return replace(split, pictures=pictures.to(device), labels=split.labels.to(device))


def stored_bytes(pictures: Tensor) -> int:
    """pictures (N, C, H, W) -> bytes of memory; three equal channels shown from one count once"""
    channels = 1 if pictures.stride(1) == 0 else pictures.shape[1]
    return pictures.element_size() * pictures[:, :channels].numel()


def free_bytes(device: torch.device) -> float:
    """Free memory of an accelerator; infinite where nothing is to be moved"""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # PyTorch gives it again
        return torch.cuda.mem_get_info(device)[0] + cached
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return float("inf")


def prefetch(loader: Loader, device: torch.device | str) -> "Loader | Prefetch":
    """loader -> the same batches on `device`, the next one made and sent while a step computes; on a CPU the loader"""
    if not isinstance(loader, Loader):
        raise ValueError(
            f"got a {type(loader).__name__}; expected a loader from sftlib.datasets.loader: torch's DataLoader has "
            "pin_memory and num_workers for that"
        )
    device = torch.device(device)
    return loader if device.type == "cpu" else Prefetch(loader, device)


class Prefetch:
    """What `prefetch` returns: one batch ahead, on a stream of its own.

    Whatever in the making of a batch waits for the device (small tables, the draws of an augmentation) waits for that
    stream alone, not for the step that computes. All that makes a batch lives in that stream, and what the step uses
    is recorded with the step's own, so the memory of neither is given again too early. `state_dict` is the loader's,
    as of the batch given last.
    """

    def __init__(self, loader: Loader, device: torch.device):
        self.loader, self.device, self.given = loader, device, None

    def __len__(self) -> int:
        return len(self.loader)

    @property
    def redraws(self) -> bool:
        """Whether an epoch gives others than the examples of the split: augmented, or drawn with repetition"""
        return self.loader.redraws

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """-> (x (n, 3, H, W), y (n,)) on the device"""
        stream = None
        if self.device.type == "cuda":
            here = torch.cuda.current_stream(self.device)
            stream = _side_stream(here.device_index)
            stream.wait_stream(here)  # which may still write the pictures
        with _on(stream):
            batches = iter(self.loader)
        self.given = self.loader.state_dict()  # of this epoch, before its first batch
        return self._ahead(batches, stream)

    def state_dict(self) -> dict:
        """The loader's state as it was when it had made the batch that was given last, and no more"""
        return self.loader.state_dict() if self.given is None else self.given

    def load_state_dict(self, state: dict) -> None:
        """The next iteration gives the batches that followed."""
        self.loader.load_state_dict(state)
        self.given = None

    def _ahead(self, batches: Iterator, stream) -> Iterator[tuple[Tensor, Tensor]]:
        ahead = self._next(batches, stream)
        while ahead is not None:
            present, ahead = ahead, self._next(batches, stream)
            x, y, self.given, sent = present
            if stream is not None:
                here = torch.cuda.current_stream(self.device)
                here.wait_event(sent)  # the step's stream waits, not the program
                x.record_stream(here)
                y.record_stream(here)
            yield x, y
        self.given = None

    def _next(self, batches: Iterator, stream):
        """-> x, y on the device, the loader's state, and the event of their arrival; None after the last batch"""
        with _on(stream):
            batch = next(batches, None)
            if batch is None:
                return None
            state = self.loader.state_dict()
            x, y = (self._sent(t) for t in batch)
            return x, y, state, None if stream is None else stream.record_event()

    def _sent(self, t: Tensor) -> Tensor:
        if t.device.type == "cpu" and self.device.type == "cuda":
            t = t.pin_memory()  # only from pinned memory does a copy run beside the computation
        # On MPS such a copy may read memory that was freed since (pytorch issue 189690).
        return t.to(self.device, non_blocking=self.device.type == "cuda")


@cache
def _side_stream(index: int):
    """One for each device: freed memory stays with its stream, so every new one would gather its own.

    It goes first where the device has a choice: its work is short, and the next batch hangs on it.
    """
    return torch.cuda.Stream(index, priority=-1)


def _on(stream):
    return nullcontext() if stream is None else torch.cuda.stream(stream)
