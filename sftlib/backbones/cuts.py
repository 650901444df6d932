"""Where a published network is cut: five stages of convolutions (or Transformer blocks), a pooling, and its own head.

Every function takes a whole network and returns its `Cut`. A stage ends where the map is about to be halved, so that
"stage3" is the same depth of abstraction in every family.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

STAGES = ("stem", "stage1", "stage2", "stage3", "stage4", "pool")


@dataclass(frozen=True)
class Cut:
    stages: dict[str, nn.Module]
    head: nn.Module
    head_reads: str = "pool"  # the stage whose output the head takes: z, or the map below the pooling


def _cut(*parts: nn.Module, head: nn.Module, head_reads: str = "pool") -> Cut:
    return Cut(dict(zip(STAGES, parts, strict=True)), head, head_reads)


def _pool(*after: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), *after, nn.Flatten(1))


def _slices(features: nn.Sequential, *ends: int) -> list[nn.Sequential]:
    starts = (0, *ends)
    return [features[a:b] for a, b in zip(starts, (*ends, len(features)), strict=True)]


def squeezenet(net: nn.Module) -> Cut:
    # Its head is a convolution on the map; what it averages are the 1,000 maps of the classes.
    parts = _slices(net.features, 3, 6, 9, 11)
    return _cut(*parts, _pool(), head=nn.Sequential(net.classifier, nn.Flatten(1)), head_reads="stage4")


def resnet(net: nn.Module) -> Cut:
    stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
    return _cut(stem, net.layer1, net.layer2, net.layer3, net.layer4, _pool(), head=net.fc)


def regnet(net: nn.Module) -> Cut:
    return _cut(net.stem, *net.trunk_output, _pool(), head=net.fc)


def mobilenet_v2(net: nn.Module) -> Cut:
    return _cut(*_slices(net.features, 2, 4, 7, 14), _pool(), head=net.classifier)


def mobilenet_v3_large(net: nn.Module) -> Cut:
    return _cut(*_slices(net.features, 2, 4, 7, 13), _pool(), head=net.classifier)


def efficientnet(net: nn.Module) -> Cut:
    return _cut(*_slices(net.features, 2, 3, 4, 6), _pool(), head=net.classifier)


def efficientnet_lite(net: nn.Module) -> Cut:
    blocks = net.blocks
    stem = nn.Sequential(net.conv_stem, net.bn1, blocks[0])
    top = nn.Sequential(blocks[5], blocks[6], net.conv_head, net.bn2)
    return _cut(stem, blocks[1], blocks[2], blocks[3:5], top, _pool(), head=net.classifier)


def densenet(net: nn.Module) -> Cut:
    *parts, top = _slices(net.features, 4, 6, 8, 10)
    return _cut(*parts, nn.Sequential(*top, nn.ReLU()), _pool(), head=net.classifier)


def vgg16(net: nn.Module) -> Cut:
    # Its head reads the map, 7 x 7 positions of it, and has 120 of the 138 million parameters.
    head = nn.Sequential(net.avgpool, nn.Flatten(1), net.classifier)
    return _cut(*_slices(net.features, 5, 10, 17, 24), _pool(), head=head, head_reads="stage4")


def convnext(net: nn.Module) -> Cut:
    norm, _, head = net.classifier
    return _cut(*_slices(net.features, 1, 2, 4, 6), _pool(norm), head=head)


def swin(net: nn.Module) -> Cut:
    pool = nn.Sequential(net.norm, net.permute, net.avgpool, net.flatten)
    return _cut(*_slices(net.features, 1, 2, 4, 6), pool, head=net.head)


def vit(net: nn.Module) -> Cut:
    parts = _slices(net.encoder.layers, 3, 6, 9)
    return _cut(Patches(net), *parts, nn.Sequential(net.encoder.ln, FirstToken()), head=net.heads)


class Patches(nn.Module):
    """x (N, 3, H, W) -> tokens (N, 1 + T, D), T patches of 16 x 16 pixels after one class token"""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.projection = net.conv_proj
        self.class_token = net.class_token
        self.position = net.encoder.pos_embedding
        self.dropout = net.encoder.dropout

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.projection(x).flatten(2).transpose(1, 2)  # (N, T, D)
        first = self.class_token.expand(len(x), -1, -1)
        return self.dropout(torch.cat([first, tokens], dim=1) + self.position)


class FirstToken(nn.Module):
    """tokens (N, 1 + T, D) -> z (N, D), the class token"""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens[:, 0]
