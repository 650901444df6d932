"""Figures: what is drawn is read back from the artists, and compared with numbers worked out here."""

import io
import itertools
import math
import warnings
import xml.etree.ElementTree as ElementTree

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

from sftlib import plotting
from sftlib.metrics import Interval
from sftlib.plotting.charts import spread
from sftlib.plotting.maps import CLASS_COLOURS, widest
from sftlib.plotting.svg import nice_ticks, thin


@pytest.fixture(autouse=True)
def course_style():
    with matplotlib.rc_context():
        plotting.use_style()
        yield
    assert plt.get_fignums() == []  # nothing here goes through pyplot


def axes(width=7.0, height=3.4, rows=1, columns=1):
    return Figure(figsize=(width, height)).subplots(rows, columns)


def png(ax):
    buffer = io.BytesIO()
    ax.figure.savefig(buffer, format="png")
    return buffer.getvalue()


def texts_on_the_page(ax):
    """(text, box in pixels) of everything written in the axes, after the layout was made."""
    canvas = FigureCanvasAgg(ax.figure)
    canvas.draw()
    return [(t.get_text(), t.get_window_extent(canvas.get_renderer())) for t in ax.texts if t.get_text().strip()]


def overlapping(boxes):
    """Pairs of texts whose boxes overlap, each box a pixel smaller all round."""
    smaller = [(text, box.padded(-1)) for text, box in boxes]
    return [(a[0], b[0]) for a, b in itertools.combinations(smaller, 2) if a[1].overlaps(b[1])]


def cut_off(ax, boxes):
    width, height = ax.figure.bbox.size
    return [t for t, b in boxes if b.x0 < 0 or b.y0 < 0 or b.x1 > width or b.y1 > height]


# ------------------------------------------------------------------------------------------------ style


def test_palette_is_the_one_of_okabe_and_ito():
    published = {"#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7"}
    assert set(plotting.COLOURS.values()) == published


@pytest.mark.parametrize(
    "number, text",
    [(0, "0"), (2, "2"), (997, "997"), (1026, "1.03 k"), (722_496, "722 k"), (999_600, "1.00 M"), (23.5e6, "23.5 M"),
     (1.1e11, "110 G"), (3.07e12, "3.07 T"), (-1026, "-1.03 k")],
)  # fmt: skip
def test_short_numbers(number, text):
    assert plotting.short(number) == text


def test_the_same_figure_gives_the_same_bytes():
    for kind in ("png", "svg"):
        drawn = []
        for _ in range(2):
            ax, buffer = plotting.idea(axes(9, 3.4)), io.BytesIO()
            ax.figure.savefig(buffer, format=kind, metadata={"Date": None} if kind == "svg" else None)
            drawn.append(buffer.getvalue())
        assert drawn[0] == drawn[1]


def test_symbols_and_letters_of_the_course_are_in_the_font():
    ax = axes()
    ax.set_title("✓ ✗ → ← ↑ ↓ × · ∂ λ α μ ≤ ≥ – −")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a missing glyph is a warning
        png(ax)


# ------------------------------------------------------------------------------------------------ curves and bands


def test_curves_draw_the_numbers_given_each_in_its_own_colour_and_line_style():
    series = {"train": ([1, 2, 3], [0.5, 0.7, 0.8]), "validation": ([1, 3], [0.4, 0.6])}
    ax = plotting.curves(axes(), series, xlabel="epoch", ylabel="accuracy")
    for line, (x, y) in zip(ax.lines, series.values(), strict=True):
        assert line.get_xdata().tolist() == x and line.get_ydata().tolist() == y
    assert len({line.get_color() for line in ax.lines}) == len({line.get_linestyle() for line in ax.lines}) == 2
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("epoch", "accuracy")


def test_curves_are_named_beside_their_ends_without_overlap():
    series = {f"run number {k}": ([1, 2, 3, 4, 5], [0.1, 0.2, 0.3, 0.4, 0.5 + k / 1000]) for k in range(7)}
    ax = plotting.curves(axes(), series, xlabel="epoch", ylabel="loss")
    boxes = texts_on_the_page(ax)
    assert [text.strip() for text, _ in boxes] == list(series)
    assert overlapping(boxes) == [] and cut_off(ax, boxes) == []
    assert min(box.x0 for _, box in boxes) > ax.transData.transform((5, 0))[0]  # right of the last point


def test_epochs_have_no_halves():
    ax = plotting.curves(axes(), {"train": ([1, 2, 3], [1, 2, 3])}, xlabel="epoch", ylabel="loss")
    assert all(tick == round(tick) for tick in ax.get_xticks())


def test_a_curve_with_values_missing_is_named_at_its_last_known_one():
    ax = plotting.curves(axes(), {"a": ([1, 2, 3], [5.0, 7.0, math.nan])}, xlabel="x", ylabel="y")
    assert ax.texts[0].xy == (2.0, 7.0)


def test_curves_refuse_rows_of_different_lengths():
    with pytest.raises(ValueError, match=r"'a' has x \(3,\) and y \(2,\)"):
        plotting.curves(axes(), {"a": ([1, 2, 3], [1, 2])}, xlabel="x", ylabel="y")


def test_spread_keeps_the_order_and_the_gap_and_leaves_far_ones_alone():
    assert spread([0.0, 50.0, 20.0], 5).tolist() == [0.0, 50.0, 20.0]
    crowded = spread([3.0, 3.0, 1.0, 2.0], 5)
    assert np.diff(crowded[[2, 3, 0, 1]]).min() >= 5 - 1e-6
    assert crowded.mean() == pytest.approx(2.25)


def test_bands_show_mean_and_range_over_seeds():
    ys = np.array([[1.0, 5.0, 3.0], [3.0, 6.0, 9.0]])
    ax = plotting.bands(axes(), [10, 100, 1000], {"frozen": ys}, xlabel="labels", ylabel="accuracy")
    assert ax.lines[0].get_ydata().tolist() == [2.0, 5.5, 6.0]
    corners = {tuple(p) for p in ax.collections[0].get_paths()[0].vertices.tolist()}
    assert {(10, 1), (10, 3), (100, 5), (100, 6), (1000, 3), (1000, 9)} <= corners


def test_bands_show_another_interval_when_told():
    ax = plotting.bands(axes(), [1, 2], {"a": np.array([[1.0, 2.0], [5.0, 4.0], [0.0, 0.0]])}, xlabel="x", ylabel="y",
                        interval=lambda ys: (np.median(ys, axis=0) - 1, np.median(ys, axis=0) + 1))  # fmt: skip
    corners = {tuple(p) for p in ax.collections[0].get_paths()[0].vertices.tolist()}
    assert {(1, 0), (1, 2), (2, 1), (2, 3)} <= corners


def test_bands_refuse_seeds_in_the_wrong_dimension():
    with pytest.raises(ValueError, match=r"\(3, 2\); expected \(seeds, 3\)"):
        plotting.bands(axes(), [1, 2, 3], {"a": np.zeros((3, 2))}, xlabel="x", ylabel="y")


# ------------------------------------------------------------------------------------------------ intervals, tables


def some_intervals():
    return {"a": Interval(0.02, 0.01, 0.05), "b": Interval(-0.03, -0.07, 0.0), "c": Interval(-0.05, -0.11, -0.02)}


def test_intervals_run_from_end_to_end_the_first_on_top_and_are_hollow_where_they_hold_the_line():
    ax = plotting.intervals(axes(), some_intervals(), scale=100, against=0)
    lines, marks, dotted = ax.lines[:6:2], ax.lines[1:6:2], ax.lines[6]
    for line, ends in zip(lines, ([1, 5], [-7, 0], [-11, -2]), strict=True):
        assert list(line.get_xdata()) == pytest.approx(ends)
    assert [mark.get_xdata()[0] for mark in marks] == pytest.approx([2, -3, -5])
    assert [to_hex(mark.get_markerfacecolor()) == "#ffffff" for mark in marks] == [False, True, False]
    heights = [ax.transData.transform((0, line.get_ydata()[0]))[1] for line in lines]
    assert heights == sorted(heights, reverse=True) and list(dotted.get_xdata()) == [0, 0]
    assert [t.get_text() for t in ax.get_yticklabels()] == list("abc")


def test_two_series_of_intervals_stand_side_by_side_each_with_one_entry_in_the_legend():
    ax = axes()
    for shift, name in ((-0.2, "first"), (0.2, "second")):
        plotting.intervals(ax, some_intervals(), shift=shift, label=name)
    assert ax.get_legend_handles_labels()[1] == ["first", "second"]
    rows = [line.get_ydata()[0] for line in ax.lines[::2]]
    assert rows == pytest.approx([-0.2, 0.8, 1.8, 0.2, 1.2, 2.2])
    assert all(to_hex(m.get_markerfacecolor()) != "#ffffff" for m in ax.lines[1::2])  # nothing to hold


def test_a_table_of_numbers_writes_each_in_its_cell_in_a_colour_that_can_be_read():
    values = np.array([[0.1, 0.2, 0.9], [0.8, 0.5, 0.3]])
    ax = plotting.heat(axes(), values, rows=["a", "b"], columns=["u", "v", "w"], limits=(0, 1))
    assert (np.asarray(ax.images[0].get_array()) == values).all() and ax.images[0].get_clim() == (0, 1)
    written = {t.get_position()[::-1]: t for t in ax.texts}
    for at, value in np.ndenumerate(values):
        assert written[at].get_text() == f"{value:.2f}"
        shade = np.array(ax.images[0].cmap(ax.images[0].norm(value))[:3]) @ (0.2126, 0.7152, 0.0722)
        assert written[at].get_color() == ("white" if shade < 0.5 else "black")
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b"]


def test_a_table_takes_texts_and_refuses_a_shape_that_its_names_do_not_have():
    ax = plotting.heat(axes(), [[2.0, 3.0]], rows=["a"], columns=["u", "v"], texts=[["two", "three"]])
    assert [t.get_text() for t in ax.texts] == ["two", "three"] and ax.images[0].get_clim() == (2, 3)
    with pytest.raises(ValueError, match=r"shape \(1, 2\); expected \(2, 1\)"):
        plotting.heat(axes(), [[2.0, 3.0]], rows=["a", "b"], columns=["u"])


# ------------------------------------------------------------------------------------------------ confusion, embedding


def test_confusion_has_truth_in_rows_and_shares_of_the_row():
    ax = plotting.confusion(axes(4, 4), [[3, 1], [0, 7]], ["fine", "defect"])
    cells = {tuple(map(int, t.get_position())): t.get_text() for t in ax.texts}  # (column, row)
    assert cells == {(0, 0): "3\n75%", (1, 0): "1\n25%", (0, 1): "0\n0%", (1, 1): "7\n100%"}
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("predicted", "true")
    assert [t.get_text() for t in ax.get_yticklabels()] == ["fine", "defect"]


def test_confusion_of_a_class_without_pictures_divides_nothing_by_zero():
    with np.errstate(all="raise"):
        ax = plotting.confusion(axes(4, 4), np.array([[0, 0], [2, 3]]), ["none", "some"])
    assert [t.get_text() for t in ax.texts][0] == "0\n0%"


def test_confusion_refuses_a_matrix_of_another_size():
    with pytest.raises(ValueError, match=r"shape \(2, 2\) for 3 classes"):
        plotting.confusion(axes(), [[1, 2], [3, 4]], ["a", "b", "c"])


def test_embedding_gives_each_class_its_colour_its_marker_and_its_count():
    points = np.arange(22.0).reshape(11, 2)
    labels = np.array([0, 2, 0, 1, 1, 2, 2, 2, 0, 2, 1])
    ax = plotting.embedding(axes(), points, labels, ["a", "b", "c"])
    for k, cloud in enumerate(ax.collections):
        assert cloud.get_offsets().tolist() == points[labels == k].tolist()
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["a (3)", "b (3)", "c (5)"]
    assert len({cloud.get_paths()[0].vertices.tobytes() for cloud in ax.collections}) == 3
    assert len({to_hex(cloud.get_facecolor()[0]) for cloud in ax.collections}) == 3


def test_embedding_refuses_features_that_are_not_projected():
    with pytest.raises(ValueError, match="project to 2-D first"):
        plotting.embedding(axes(), np.zeros((11, 5)), np.zeros(11), ["a"])


# ------------------------------------------------------------------------------------------------ pictures


def some_pictures(n=5, height=7, width=11):
    return np.random.default_rng(3).integers(0, 256, (n, 3, height, width), dtype=np.uint8)


def test_pictures_show_the_pixels_and_mark_right_and_wrong_by_symbol_and_colour():
    pictures, grid = some_pictures(), axes(rows=2, columns=3)
    same = plotting.pictures(grid, pictures, ["a", "b", "c", "d", "e"], right=[True, False, True, True, False])
    assert same is grid
    for ax, picture in zip(grid.flat, pictures, strict=False):
        shown = ax.images[0].get_array()
        assert all((shown[:, :, c] == picture[c]).all() for c in range(3))
    titles = [t for ax in grid.flat for t in ax.get_children() if isinstance(t, Text) and t.get_text()]
    assert [t.get_text() for t in titles] == ["✓ a", "✗ b", "✓ c", "✓ d", "✗ e"]
    assert len({to_hex(t.get_color()) for t in titles}) == 2
    assert not grid.flat[5].axison  # the place left over is blank


def test_pictures_without_a_verdict_have_plain_titles():
    grid = axes(columns=5)
    plotting.pictures(grid, some_pictures(), list("abcde"))
    assert [ax.get_title(loc="left") for ax in grid] == list("abcde")


@pytest.mark.parametrize(
    "wrong, message",
    [(np.zeros((5, 3, 7, 11), np.float32), "float32; expected uint8"),
     (np.zeros((5, 7, 11, 3), np.uint8), r"\(5, 7, 11, 3\)"),
     (np.zeros((7, 3, 5, 5), np.uint8), "7 pictures for 5 axes")],
)  # fmt: skip
def test_pictures_refuse_what_they_cannot_show(wrong, message):
    with pytest.raises(ValueError, match=message):
        plotting.pictures(axes(columns=5), wrong)


# ------------------------------------------------------------------------------------------------ networks

NAMES = ["conv1", "fire2", "pool", "head"]
SHAPES = [(5, 31, 29), (7, 13, 11), (7,), (2,)]


def test_shapes_have_a_bar_a_stage_as_long_as_the_stage_has_values():
    ax = plotting.shapes(axes(), NAMES, SHAPES, cut=3, parameters=[1793, 0, 0, 16])
    assert [bar.get_width() for bar in ax.patches] == [5 * 31 * 29, 7 * 13 * 11, 7, 2]
    assert [bool(bar.get_hatch()) for bar in ax.patches] == [False, False, False, True]  # g is hatched
    assert ax.lines[0].get_ydata()[0] == 2.5  # the cut lies between the third and the fourth row
    written = [t.get_text() for t in ax.texts]
    assert written[:4] == ["5 × 31 × 29   ·   1.79 k parameters", "7 × 13 × 11   ·   0 parameters",
                           "7   ·   0 parameters", "2   ·   16 parameters"]  # fmt: skip
    assert written[4:] == ["f", "g"]


@pytest.mark.parametrize("parameters", [None, [1_792_345] * 4])
def test_texts_of_shapes_stay_on_the_page(parameters):
    ax = plotting.shapes(axes(6, 3), NAMES, SHAPES, cut=1, parameters=parameters)
    boxes = texts_on_the_page(ax)
    assert cut_off(ax, boxes) == [] and overlapping(boxes) == []


@pytest.mark.parametrize("cut", [0, 4, -1])
def test_shapes_refuse_a_cut_that_leaves_f_or_g_empty(cut):
    with pytest.raises(ValueError, match=f"cut {cut}"):
        plotting.shapes(axes(), NAMES, SHAPES, cut=cut)


def test_share_bars_divide_each_quantity_between_f_and_g():
    ax = plotting.share_bars(axes(7, 2), {"parameters": (3000, 1000), "multiply-adds": (7e6, 0)})
    assert [bar.get_width() for bar in ax.patches] == [0.75, 0.25, 1.0, 0.0]
    assert [bar.get_x() for bar in ax.patches] == [0, 0.75, 0, 1.0]
    assert [t.get_text() for t in ax.texts][:2] == ["f: 3.00 k (75.0%)", "g: 1.00 k (25.0%)"]
    boxes = texts_on_the_page(ax)
    assert overlapping(boxes) == [] and cut_off(ax, boxes) == []


def test_share_bars_refuse_a_quantity_that_nobody_has():
    with pytest.raises(ValueError, match="'parameters' is 0 in f and 0 in g"):
        plotting.share_bars(axes(), {"parameters": (0, 0)})


# ------------------------------------------------------------------------------------------------ the course's picture


def test_every_part_of_the_idea_can_be_coloured_and_looks_different():
    drawn = {png(plotting.idea(axes(9, 3.4), highlight=part)) for part in [(), *((p,) for p in plotting.PARTS)]}
    assert len(drawn) == 1 + len(plotting.PARTS)


def test_nothing_in_the_idea_overlaps_or_is_cut_off():
    ax = plotting.idea(axes(9, 3.4), highlight=tuple(plotting.PARTS))
    boxes = texts_on_the_page(ax)
    assert overlapping(boxes) == [] and cut_off(ax, boxes) == []
    assert {"f", "g", "z", "x", "y", "backbone", "head", "logits", "(N, D)"} <= {text for text, _ in boxes}


def test_the_idea_refuses_a_part_it_does_not_have():
    with pytest.raises(ValueError, match="called body; expected some of x, f, z, g"):
        plotting.idea(axes(), highlight=("f", "body"))


# ------------------------------------------------------------------------------------------------ live curves


def svg(series, **more):
    return ElementTree.fromstring(plotting.svg_curves("loss", series, xlabel="step", **more))


def polylines(root):
    return [[tuple(map(float, p.split(","))) for p in e.get("points").split()] for e in root.iter("polyline")]


def test_svg_points_lie_where_the_axes_say():
    root = svg({"train": ([1, 2, 5], [0.0, 1.0, 2.0])})
    (a, b, c) = polylines(root)[0]
    assert (b[0] - a[0]) / (c[0] - a[0]) == pytest.approx(1 / 4, abs=0.01)
    assert (a[1] - b[1]) / (a[1] - c[1]) == pytest.approx(1 / 2, abs=0.01)  # pixels count downwards
    rows = {e.text: float(e.get("y")) - 4 for e in root.iter("text") if e.get("text-anchor") == "end"}
    assert rows["0"] == pytest.approx(a[1]) and rows["2"] == pytest.approx(c[1])


def test_svg_names_its_lines_and_tells_their_last_values_to_a_screen_reader():
    root = svg({"_each": ([1, 2], [3.0, 4.0]), "train": ([1, 2], [3.0, 0.125]), "a<b": ([1], [2.0])})
    assert root.get("role") == "img" and root.get("aria-label") == "loss: train 0.125, a<b 2.000"
    written = [e.text for e in root.iter("text")]
    assert "train 0.125" in written and "a<b 2.000" in written and not any("_each" in t for t in written)
    strokes = [(e.get("stroke"), e.get("stroke-dasharray")) for e in root.iter("polyline")]
    assert len(set(strokes)) == 3 and strokes[0][0] == "currentColor"


def test_svg_text_takes_the_colour_of_the_page():
    assert {e.get("fill") for e in svg({"a": ([1, 2], [1.0, 2.0])}).iter("text")} == {"currentColor"}


@pytest.mark.parametrize("series", [{}, {"a": ([], [])}, {"a": ([1], [math.nan])}])
def test_svg_without_data_says_so(series):
    root = svg(series)
    assert "no data yet" in [e.text for e in root.iter("text")] and polylines(root) == []


@pytest.mark.parametrize("y", [[0.5], [0.5, 0.5], [0.0, 0.0], [1.0, math.inf], [math.nan, -3.0]])
def test_svg_of_flat_or_broken_curves_stays_inside_the_picture(y):
    root = svg({"a": (list(range(len(y))), y)}, width=300, height=170)
    assert all(0 <= x <= 300 and 0 <= v <= 170 for x, v in polylines(root)[0])


def test_svg_of_a_long_run_stays_small():
    n = 100_003
    text = plotting.svg_curves("loss", {"a": (range(n), [1 / (k + 1) for k in range(n)])}, xlabel="step")
    assert len(text) < 8_000


@pytest.mark.parametrize("n", [0, 1, 2, 299, 300, 301, 997, 3001])
def test_thinning_keeps_first_and_last_and_few(n):
    kept = thin(list(range(n)), list(range(n)), 300)
    assert len(kept) <= 301 and len(kept) >= min(n, 150)
    assert kept == sorted(set(kept)) and (not n or (kept[0], kept[-1]) == ((0, 0), (n - 1, n - 1)))


@pytest.mark.parametrize(
    "low, high, ticks",
    [(0, 2, [0, 0.5, 1, 1.5, 2]), (0.61, 0.88, [0.6, 0.7, 0.8, 0.9]),
     (-3, 5, [-4, -2, 0, 2, 4, 6]), (0, 997, [0, 500, 1000])],
)  # fmt: skip
def test_ticks_are_round_and_enclose_the_values(low, high, ticks):
    assert nice_ticks(low, high) == pytest.approx(ticks)


def test_an_overlay_mixes_the_classes_colours_with_the_picture_and_names_them():
    picture = np.random.default_rng(0).integers(0, 256, (3, 29, 37)).astype(np.uint8)
    classes = np.full((29, 37), 255)
    classes[:, :17], classes[20:, 17:] = 0, 1
    for opacity in (0.0, 0.3, 1.0):
        ax = plotting.overlay(axes(), picture, classes, ("sky", "road"), opacity=opacity)
        shown = np.asarray(ax.images[0].get_array())
        for k, colour in enumerate(CLASS_COLOURS[:2]):
            expected = (1 - opacity) * picture.transpose(1, 2, 0) / 255 + opacity * np.array(to_rgb(colour))
            assert np.allclose(shown[classes == k], expected[classes == k])
        assert np.allclose(shown[classes == 255], picture.transpose(1, 2, 0)[classes == 255] / 255)
        names = {text.get_text(): text.get_position() for text in ax.texts}
        assert set(names) == (set() if opacity == 0 else {"sky", "road"})
        for name, (x, y) in names.items():
            assert classes[y, x] == ("sky", "road").index(name)
    small = np.full((29, 37), 0)
    small[3, 5] = 1
    named = [t.get_text() for t in plotting.overlay(axes(), picture, small, ("sky", "road")).texts]
    assert named == ["sky"]
    assert plotting.overlay(axes(), picture, small, ("sky", "road"), named=False).texts[:] == []


def test_the_name_stands_where_the_class_is_widest():
    mask = np.zeros((31, 41), bool)
    mask[2:5, :] = True
    mask[10:27, 20:37] = True
    assert tuple(widest(mask)) == (18, 28)
    assert widest(np.ones((31, 41), bool))[0] == 15


@pytest.mark.parametrize(
    "picture, classes, settings, words",
    [
        (np.zeros((29, 37, 3), np.uint8), np.zeros((29, 37), int), {}, "of one size"),
        (np.zeros((3, 29, 37), np.uint8), np.zeros((29, 31), int), {}, "of one size"),
        (np.zeros((3, 29, 37), np.uint8), np.zeros((29, 37), int), {"opacity": 2}, "got opacity=2"),
    ],
)
def test_an_overlay_of_what_does_not_fit_is_refused(picture, classes, settings, words):
    with pytest.raises(ValueError, match=words):
        plotting.overlay(axes(), picture, classes, ("sky", "road"), **settings)


def test_values_that_are_equal_but_for_rounding_are_drawn():
    """The first step of a run: its loss, and the average of that one loss"""
    nearly = (3.8521129921930815, 3.852112992193082)
    assert nearly[0] != nearly[1] and len(nice_ticks(*nearly)) > 1
    text = plotting.svg_curves("loss", {"each step": ([1], nearly[:1]), "smooth": ([1], nearly[1:])}, xlabel="step")
    assert "nan" not in text
