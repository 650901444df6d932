"""What leaves the project computes the same elsewhere, on real files, in a process that has next to nothing."""

import csv
import io
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from sftlib.backbones import load_backbone
from sftlib.datasets.decode import decode
from sftlib.datasets.drawn_shapes import draw
from sftlib.datasets.photo_details import photograph
from sftlib.export import Deployed, alone, card, export
from sftlib.model import Flipped, LinearHead, Model
from sftlib.strategies import assembled

CLASSES = ["a cat", "dog, small", "é"]
SIZE = 64
# Loads nothing but the standard library and the three packages that it may
REFUSING = """
import sys
allowed = {"numpy", "PIL", "onnxruntime"} | set(sys.stdlib_module_names)
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in allowed:
            raise ImportError(f"refused: {name}")
sys.meta_path.insert(0, Refuse())
sys.argv = sys.argv[1:]
import runpy
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def trained(strategy="full", backbone="squeezenet1_1"):
    torch.manual_seed(0)
    f = load_backbone(backbone, size=SIZE)
    return assembled(strategy, f, 3)


def shapes(n=3):
    return torch.stack([torch.from_numpy(draw(i, np.random.default_rng(i))).permute(2, 0, 1) for i in range(n)])


@pytest.fixture(scope="module")
def model():
    return trained()


@pytest.fixture(scope="module")
def written(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    found = export(model, folder, classes=CLASSES, pictures=shapes(), temperature=1.7, flips=True, card="# a card")
    return folder, found


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Real files of many kinds: name -> path"""
    folder = tmp_path_factory.mktemp("files")
    photo = Image.fromarray((photograph("china") * 255).astype(np.uint8))  # 640 x 427
    photo.save(folder / "photo.jpg", quality=90)
    photo.crop((100, 50, 300, 400)).save(folder / "tall.png")
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned by 90 degrees
    photo.save(folder / "turned.jpg", exif=turned)
    photo.save(folder / "turned.tif", exif=turned)
    photo.convert("L").save(folder / "grey.png")
    photo.convert("L").save(folder / "grey.jpg")
    photo.convert("P").save(folder / "palette.gif")
    photo.convert("CMYK").save(folder / "cmyk.jpg")
    clear = photo.convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(photo.size))
    clear.save(folder / "clear.png")
    photo.resize((40, 27)).save(folder / "tiny.bmp")
    photo.save(folder / "photo.webp")
    deep = np.asarray(photo.convert("L")).astype(np.uint16) * 256 + np.arange(640, dtype=np.uint16) % 251
    Image.fromarray(deep).save(folder / "deep.png")
    Image.fromarray(deep).save(folder / "deep.tif", exif=turned)
    return {path.name: path for path in sorted(folder.iterdir())}


def test_both_networks_were_compared_before_they_were_given_out(written):
    _, found = written
    assert set(found) == {"model.pt2", "model.onnx"} and max(found.values()) < 1e-5


def test_the_network_takes_any_number_of_pictures_and_gives_the_models_probabilities(written, model):
    folder, _ = written
    about = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    assert about == {"classes": CLASSES, "size": SIZE, "resize": SIZE}
    network, program = alone.Network(folder), torch.export.load(folder / "model.pt2").module()
    for n in (1, 2, 7, 13):
        g = torch.Generator().manual_seed(n)
        pictures = torch.randint(256, (n, 3, SIZE, SIZE), generator=g, dtype=torch.uint8)
        with torch.no_grad():
            z = Flipped(model.eval())(model.backbone.preprocess(pictures))
            p = (z / 1.7).softmax(1)
        assert np.abs(network(pictures.numpy()) - p.numpy()).max() < 1e-5
        assert (program(pictures) - p).abs().max() < 1e-5
        assert 0.34 < p.max(1).values.mean() < 0.999


@pytest.mark.parametrize(
    "name", ["photo.jpg", "tall.png", "turned.jpg", "grey.png", "grey.jpg", "palette.gif", "cmyk.jpg", "clear.png",
             "tiny.bmp", "photo.webp", "deep.png", "deep.tif", "turned.tif"]
)  # fmt: skip
def test_the_resize_beside_the_network_is_that_of_the_training_pictures_to_the_bit(name, files):
    mine = alone.read(files[name], SIZE, SIZE)
    assert np.array_equal(mine.transpose(1, 2, 0), decode(files[name].read_bytes(), SIZE))


def test_where_the_published_resize_is_larger_than_the_picture_the_middle_is_kept(files):
    data = files["photo.jpg"].read_bytes()
    mine = alone.read(io.BytesIO(data), 48, 64).transpose(1, 2, 0)
    assert np.array_equal(mine, decode(data, 64)[8:56, 8:56])


def test_it_predicts_where_every_other_import_is_refused(written, files, model, tmp_path):
    folder = shutil.copytree(written[0], tmp_path / "elsewhere")
    line = [sys.executable, "-I", "-c", REFUSING, str(folder / "predict.py"), *map(str, files.values())]
    done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, encoding="utf-8",
                          env={"PYTHONIOENCODING": "utf-8", "PATH": ""})  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert [row["file"] for row in rows] == [str(path) for path in files.values()]
    for row, path in zip(rows, files.values(), strict=True):
        picture = torch.from_numpy(decode(path.read_bytes(), SIZE)).permute(2, 0, 1)[None]
        with torch.no_grad():
            p = Deployed(model, temperature=1.7, flips=True).eval()(picture)[0]
        assert [float(row[c]) for c in CLASSES] == pytest.approx(p.tolist(), abs=1e-4)
        assert row["class"] == CLASSES[int(p.argmax())]


def test_the_refusing_process_refuses(tmp_path):
    (tmp_path / "x.py").write_text("import torch", encoding="utf-8")
    line = [sys.executable, "-I", "-c", REFUSING, str(tmp_path / "x.py")]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 1 and "refused: torch" in done.stderr, done.stderr


def test_what_is_no_picture_is_told_and_the_others_are_predicted(written, files, tmp_path, capsys, monkeypatch):
    (tmp_path / "broken.jpg").write_bytes(files["photo.jpg"].read_bytes()[:2000])
    (tmp_path / "text.png").write_bytes(b"no picture")
    monkeypatch.setattr(alone, "HERE", written[0])
    monkeypatch.setattr(alone.Network.__init__, "__defaults__", (written[0],))
    given = [tmp_path / "broken.jpg", tmp_path / "text.png", files["grey.png"]]
    assert alone.main([str(path) for path in given]) == 1
    said = capsys.readouterr()
    assert said.err.count("cannot be read as a picture") == 2 and len(said.out.splitlines()) == 2


@pytest.mark.parametrize("strategy, backbone", [("lora", "squeezenet1_1"), ("partial", "efficientnet_lite0")])
def test_other_strategies_and_networks_are_exported_too(strategy, backbone, tmp_path):
    network = trained(strategy, backbone)
    found = export(network, tmp_path, classes=CLASSES, pictures=shapes())
    assert max(found.values()) < 1e-4


def test_a_network_that_computes_something_else_is_not_given_out(model, tmp_path, monkeypatch):
    own = alone.Network.__call__
    monkeypatch.setattr(alone.Network, "__call__", lambda self, pictures: own(self, pictures) + np.float32(2e-4))
    with pytest.raises(ValueError, match="model.onnx gives probabilities that differ by 0.0002 .*at most 0.0001"):
        export(model, tmp_path, classes=CLASSES, pictures=shapes())


@pytest.mark.parametrize(
    "change, words",
    [
        ({"classes": CLASSES[:2]}, "got 2 classes for 3 outputs"),
        ({"pictures": torch.zeros(2, 3, 40, 40, dtype=torch.uint8)}, r"expected uint8 \(N, 3, 64, 64\)"),
        ({"pictures": torch.zeros(2, 3, SIZE, SIZE)}, "expected uint8"),
        ({"temperature": 0.0}, "got temperature=0.0"),
    ],
)
def test_what_cannot_be_exported_is_refused(change, words, model, tmp_path):
    with pytest.raises(ValueError, match=words):
        export(model, tmp_path, **({"classes": CLASSES, "pictures": shapes()} | change))


def test_a_card_says_data_scores_limits_and_the_licence_of_the_weights():
    about = {
        "backbone": "squeezenet1_1", "classes": ["cat", "dog"], "data": "Two kinds of pets.", "training": "One epoch.",
        "counts": {"train": {"cat": 11, "dog": 7}, "test": {"cat": 3}}, "scores": {"accuracy": "0.9 [0.8, 1.0]"},
        "temperature": 1.25, "limits": ["Indoors only."], "resize": 64, "size": 64,
    }  # fmt: skip
    text = card("Pets", **about)
    for words in (
        "| cat | 11 | 3 |",
        "| dog | 7 | 0 |",
        "accuracy: 0.9 [0.8, 1.0]",
        "Indoors only.",
        "licence",
        "1.250",
    ):
        assert words in text
    with pytest.raises(ValueError, match="1 scores and 0 limits"):
        card("Pets", **(about | {"limits": []}))


def test_the_model_stays_as_it_was(model, tmp_path):
    model.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    export(model, tmp_path, classes=CLASSES, pictures=shapes())
    assert model.training and all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert isinstance(model.head, LinearHead) and isinstance(model, Model)


@pytest.mark.parametrize("name", ["README.md", "predict.py"])
def test_a_folder_of_something_else_is_left_as_it_is(name, model, tmp_path):
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match=f"holds {name} and no model.json.*expected a new one"):
        export(model, tmp_path, classes=CLASSES, pictures=shapes())
    assert [path.name for path in tmp_path.iterdir()] == [name] and (tmp_path / name).read_text() == "mine"
