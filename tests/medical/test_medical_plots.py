"""Pictures of volumes: the letters are where the patient's sides are, and lengths are physical."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from degauss.core.errors import InputError
from degauss.core.inverse import Band, Coverage
from degauss.medical.metrics import AXES
from degauss.medical.plots import (
    LETTERS,
    SOFT_TISSUE,
    Panel,
    coverage_figure,
    deviation,
    error,
    grey,
    middle,
    montage,
    quality_curves,
    section,
    share,
    window,
)
from degauss.medical.volumes import Place, Volume

# Of each letter: the world's axis (right, front, head) and the sign along which it lies.
TOWARDS = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "H": (2, 1), "F": (2, -1)}


@pytest.mark.parametrize("stored", [(1, 1, 1), (-1, -1, 1), (1, -1, -1)])
@pytest.mark.parametrize("plane", list(AXES))
def test_the_letters_tell_where_the_patients_sides_are(plane, stored) -> None:
    shape = (5, 6, 7)
    affine = np.diag([2.0 * stored[0], 3.0 * stored[1], 4.0 * stored[2], 1.0])
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    world = torch.from_numpy((index @ affine[:3, :3].T).astype(np.float32))
    left, right, top, bottom = LETTERS[plane]
    for letter, edge in ((left, (slice(None), 0)), (right, (slice(None), -1)), (top, (0,)), (bottom, (-1,))):
        axis, sign = TOWARDS[letter]
        volume = Volume.at(sign * world[..., axis], "arbitrary", Place.of(affine, shape))
        shown = section(volume.data, plane, 2)
        assert bool((shown[edge] == shown.max()).all()), f"{letter} of {plane}"
        assert shown.min() < shown.max()


def test_lengths_are_physical(here) -> None:
    import matplotlib.image

    # Black blocks on white paper: 10 x 20 x 30 voxels of 6 x 2 x 1 mm are 60 x 40 x 30 mm.
    black = Panel("", torch.zeros(10, 20, 30), 0.0, 1.0)
    montage("block.png", [black], (6.0, 2.0, 1.0), (5, 10, 15))
    dark = matplotlib.image.imread(here / "block.png")[..., :3].max(-1) < 0.05
    # A column and rows beside the letters; the scale below is not wholly black there.
    columns = np.flatnonzero(dark.any(0))
    column = dark[:, columns[0] + (columns[-1] - columns[0]) * 2 // 5]
    starts, ends = (np.flatnonzero(np.diff(column.astype(int)) == step) for step in (1, -1))
    heights = [int(end - start) for start, end in zip(starts, ends, strict=True) if end - start > 40]
    rows = [int(start + (end - start) // 4) for start, end in zip(starts, ends, strict=True) if end - start > 40]
    widths = [int(dark[row].sum()) for row in rows]
    millimetres = [heights[0] / 40, heights[1] / 60, heights[2] / 60, widths[0] / 30, widths[1] / 30, widths[2] / 40]
    assert len(heights) == 3
    assert max(millimetres) / min(millimetres) < 1.03


def volume(seed: int = 0) -> torch.Tensor:
    return 100 * torch.randn(6, 8, 10, generator=torch.Generator().manual_seed(seed))


def test_a_montage_names_what_it_shows(here) -> None:
    truth = volume()
    panels = [
        grey("reconstruction", volume(1), SOFT_TISSUE, "HU"),
        error("error", volume(1), truth, SOFT_TISSUE, "HU"),
        deviation("deviation", truth.abs(), "HU"),
        share("provenance", torch.rand(6, 8, 10)),
    ]
    for name in ("a.svg", "b.svg"):
        montage(name, panels, (3.0, 1.0, 1.0), (3, 4, 5), "title")
    text = (here / "a.svg").read_text()
    assert text == (here / "b.svg").read_text()
    for word in ("reconstruction", "error", "deviation", "provenance", "title", "HU", "measured share"):
        assert word in text
    for letter in TOWARDS:
        assert text.count(f">{letter}</text>") == 8, "two planes of four panels"


def test_what_panels_show() -> None:
    truth = volume()
    off = error("error", truth + 7, truth, (-160.0, 240.0), "HU")
    torch.testing.assert_close(off.data, torch.full_like(truth, 7))
    assert (off.low, off.high) == (-100, 100), "a quarter of the window, and 0 in the middle"
    assert deviation("std", torch.zeros(3, 3, 3), "HU").high > 0
    assert window(truth, "HU") == SOFT_TISSUE
    low, high = window(truth.abs(), "arbitrary")
    assert low == 0 < high <= float(truth.abs().max())
    inside = torch.zeros(6, 8, 10, dtype=torch.bool)
    inside[2:5, 1:4, 6:9] = True
    assert middle(inside) == (3, 2, 7)


def test_montages_refuse(here) -> None:
    panel = grey("", volume(), SOFT_TISSUE, "HU")
    with pytest.raises(InputError, match=r"inside the volume of \(6, 8, 10\) voxels, but are \(6, 0, 0\)"):
        montage("a.png", [panel], (1.0, 1.0, 1.0), (6, 0, 0))
    with pytest.raises(ValueError, match="one shape"):
        montage("a.png", [panel, grey("", volume()[1:], SOFT_TISSUE, "HU")], (1.0, 1.0, 1.0), (1, 1, 1))
    assert not list(here.glob("*.png"))


def test_coverage_and_quality_are_drawn(here) -> None:
    curves = {"as drawn": [(0.1, 0.05), (0.9, 0.6)], "calibrated": [(0.1, 0.1), (0.9, 0.9)]}
    found = Coverage(0.9, Band(0.9, 10, 1.0), tuple(Band(0.8, 1, 1.0) for _ in range(10)), {})
    coverage_figure("coverage.svg", curves, found)
    coverage_figure("curve.png", curves)
    quality_curves("quality.svg", {"dds": [(50, 32.0), (10, 30.0)], "mbir": [(4000, 32.5)]}, title="8 views")
    text = (here / "coverage.svg").read_text()
    for word in ("as drawn", "calibrated", "level promised", "intervals of 90%"):
        assert word in text
    text = (here / "quality.svg").read_text()
    for word in ("dds", "mbir", "4000", "8 views", "PSNR (dB)"):
        assert word in text
    assert (here / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_letters_of_a_thin_row_stand_beside_each_other(here, monkeypatch) -> None:
    from degauss.medical import plots

    kept = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: kept.append(figure))
    x = torch.rand(3, 64, 64)
    montage(here / "thin.png", [Panel("x", x, 0.0, 1.0, "", "gray")], (2.0, 3.0, 3.0), (1, 30, 30))
    (figure,) = kept
    figure.canvas.draw()
    for axes in figure.axes[:3]:
        boxes = [text.get_window_extent() for text in axes.texts]
        assert len(boxes) == 4
        for k, box in enumerate(boxes):
            assert not any(box.overlaps(other) for other in boxes[:k])
