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
    """f in stages, the published head if there is one, and the stage whose output it takes: z, or the map below it."""

    stages: dict[str, nn.Module]
    head: nn.Module | None
    head_reads: str = "pool"


def _cut(*parts: nn.Module, head: nn.Module, head_reads: str = "pool") -> Cut:
    return Cut(dict(zip(STAGES, parts, strict=True)), head, head_reads)


def _pool(*after: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), *after, nn.Flatten(1))


def _slices(features: nn.Sequential, *ends: int) -> list[nn.Sequential]:
    starts = (0, *ends)
    return [features[a:b] for a, b in zip(starts, (*ends, len(features)), strict=True)]


def squeezenet(net: nn.Module) -> Cut:
    """SqueezeNet 1.1 (N, 3, H, W) -> z (N, 512); its head is a convolution: a map a class, then their means"""
    parts = _slices(net.features, 3, 6, 9, 11)
    return _cut(*parts, _pool(), head=nn.Sequential(net.classifier, nn.Flatten(1)), head_reads="stage4")


def resnet(net: nn.Module) -> Cut:
    """ResNet, ResNeXt, wide ResNet (N, 3, H, W) -> z (N, 512 or 2048); the stages are torchvision's layer1 to layer4"""
    stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
    return _cut(stem, net.layer1, net.layer2, net.layer3, net.layer4, _pool(), head=net.fc)


def regnet(net: nn.Module) -> Cut:
    """RegNet (N, 3, H, W) -> z (N, 440); the stages are torchvision's block1 to block4"""
    return _cut(net.stem, *net.trunk_output, _pool(), head=net.fc)


def mobilenet_v2(net: nn.Module) -> Cut:
    """MobileNet v2 (N, 3, H, W) -> z (N, 1280)"""
    return _cut(*_slices(net.features, 2, 4, 7, 14), _pool(), head=net.classifier)


def mobilenet_v3_large(net: nn.Module) -> Cut:
    """MobileNet v3 (N, 3, H, W) -> z (N, 960); its head has a hidden layer of 1280"""
    return _cut(*_slices(net.features, 2, 4, 7, 13), _pool(), head=net.classifier)


def efficientnet(net: nn.Module) -> Cut:
    """EfficientNet B and V2 (N, 3, H, W) -> z (N, 1280)"""
    return _cut(*_slices(net.features, 2, 3, 4, 6), _pool(), head=net.classifier)


def efficientnet_lite(net: nn.Module) -> Cut:
    """EfficientNet-Lite in timm's form (N, 3, H, W) -> z (N, 1280)"""
    blocks = net.blocks
    stem = nn.Sequential(net.conv_stem, net.bn1, blocks[0])
    top = nn.Sequential(blocks[5], blocks[6], net.conv_head, net.bn2)
    return _cut(stem, blocks[1], blocks[2], blocks[3:5], top, _pool(), head=net.classifier)


def densenet(net: nn.Module) -> Cut:
    """DenseNet (N, 3, H, W) -> z (N, 1024); a transition belongs to the stage that it closes"""
    *parts, top = _slices(net.features, 4, 6, 8, 10)
    return _cut(*parts, nn.Sequential(*top, nn.ReLU()), _pool(), head=net.classifier)


def vgg16(net: nn.Module) -> Cut:
    """VGG-16 (N, 3, H, W) -> z (N, 512); its head reads the map and has 120 of 138 million parameters"""
    head = nn.Sequential(net.avgpool, nn.Flatten(1), net.classifier)
    return _cut(*_slices(net.features, 5, 10, 17, 24), _pool(), head=head, head_reads="stage4")


def convnext(net: nn.Module) -> Cut:
    """ConvNeXt (N, 3, H, W) -> z (N, 768); its last normalisation belongs to f"""
    norm, _, head = net.classifier
    return _cut(*_slices(net.features, 1, 2, 4, 6), _pool(norm), head=head)


def swin(net: nn.Module) -> Cut:
    """Swin Transformer (N, 3, H, W) -> z (N, 768); maps between the stages have their channels last"""
    pool = nn.Sequential(net.norm, net.permute, net.avgpool, net.flatten)
    return _cut(*_slices(net.features, 1, 2, 4, 6), pool, head=net.head)


def vit(net: nn.Module) -> Cut:
    """Vision Transformer (N, 3, H, W) -> z (N, 768); tokens (N, 1 + T, 768) between the stages"""
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
