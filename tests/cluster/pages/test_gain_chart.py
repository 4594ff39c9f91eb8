"""The chart of gain against size: where points lie, and that it is a file of its own."""

from xml.etree import ElementTree

import pytest

from cluster.pages.charts import Caption
from cluster.pages.gain_chart import Gain, GainCurve, gain_chart

SVG = "{http://www.w3.org/2000/svg}"
CAPTION = Caption(name="gain", title="Gain <over> nothing", description="a & b")


def draw(*curves: GainCurve) -> ElementTree.Element:
    drawn = gain_chart(CAPTION, curves, x_label="labels", y_label="points")
    return ElementTree.fromstring(str(drawn))


def curve(*gains: tuple[float | None, float]) -> GainCurve:
    return GainCurve(
        label="ours", gains=tuple(Gain(size=size, value=value) for size, value in gains)
    )


def points(root: ElementTree.Element) -> list[tuple[float, float]]:
    return [
        (float(node.get("cx", "")), float(node.get("cy", ""))) for node in root.iter(f"{SVG}circle")
    ]


def test_points_lie_by_the_logarithm_of_size_and_all_is_last() -> None:
    """100 to 1,000 is as far as 10 to 100; what has no number stands behind the largest."""
    (ten, hundred, thousand, everything) = points(
        draw(curve((1000, 2.0), (10, 1.0), (None, -1.0), (100, 1.0)))
    )
    assert hundred[0] - ten[0] == pytest.approx(thousand[0] - hundred[0], abs=0.2)
    assert everything[0] > thousand[0]


def test_gains_of_both_signs_lie_around_the_line_of_no_gain() -> None:
    """Up is better: a gain lies above zero by as much as a loss of the same size lies below it."""
    root = draw(curve((10, 2.0), (100, -2.0)))
    (zero,) = [node for node in root.iter(f"{SVG}path") if node.get("class") == "zero"]
    height = float(zero.get("d", "").partition(" ")[2].partition("H")[0])
    (_, above), (_, below) = points(root)
    assert height - above == pytest.approx(below - height, abs=0.2)
    assert above < height

    (_, nothing) = points(draw(curve((10, 0.0))))[0]
    assert nothing > 0


def test_it_is_a_file_whose_texts_are_escaped() -> None:
    """It has its own style, a legend, and a title for those who cannot see it."""
    root = draw(curve((None, 1.0)))
    assert root.tag == f"{SVG}svg"
    assert next(iter(root.iter(f"{SVG}title"))).text == "Gain <over> nothing"
    assert len(list(root.iter(f"{SVG}style"))) == 1
    assert "ours" in {node.text for node in root.iter(f"{SVG}text")}


def test_sizes_are_above_zero() -> None:
    """A logarithmic axis has no place for 0."""
    with pytest.raises(ValueError, match="expected all above 0"):
        draw(curve((0.0, 1.0)))
