"""How good a repair is: holes like the real ones, made where a recording is good, filled in and compared.

The holes lie in the last tenth of the recording, on which no model is trained. For bad channels, good channels of the
same type are hidden, one in each hole, while the bad ones stay hidden; for bad spans, spans as long and as wide as the
median one. Beside the model stand what mne does with a bad channel, its interpolation from the positions of the
others (spherical splines for EEG), where the recording has a montage; the least-squares regression of a channel on the
others, fitted on what was not held out; and for spans the straight line in time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from degauss.timeseries import naive_imputation as naive
from degauss.timeseries.csdi import CSDI, Imputing
from degauss.timeseries.recordings import Recording, Stretch
from degauss.timeseries.repair import Record, paths

Array = NDArray[np.float64]
Kind = Literal["channels", "spans"]
_FITTED = 20_000


@dataclass(frozen=True, eq=False)
class Hole:
    """``hidden`` ``[n, features]`` of the rows ``first`` to ``last`` of a stretch; all of it is good."""

    stretch: Stretch
    first: int
    last: int
    hidden: NDArray[np.bool_]


class Errors(NamedTuple):
    """Of one hole: root mean square errors in SI units; None where a method has no answer."""

    channels: tuple[str, ...]
    seconds: float
    model: float
    interpolation: float | None
    regression: float | None
    line: float | None


class Score(NamedTuple):
    """Of all holes of a kind: root mean square errors in standard deviations of the channels.

    ``coverage_90``: share of the hidden values inside the central 90 % of the draws.
    """

    model: float
    interpolation: float | None
    regression: float | None
    line: float | None
    coverage_90: float
    holes: tuple[Errors, ...]


def holes(recording: Recording, length: int, count: int, flat: NDArray[np.bool_], seed: int) -> dict[Kind, list[Hole]]:
    """Up to ``count`` holes of each kind that is to be repaired, in what was not trained on; ``length``: a window."""
    random = np.random.default_rng(seed)
    rate, features = recording.data.info["sfreq"], len(recording.picks)
    found: dict[Kind, list[Hole]] = {}
    if recording.bads:
        types = recording.data.get_channel_types(recording.picks)
        bad = {types[recording.channels.index(name)] for name in recording.bads}
        alike = np.array([kind in bad for kind in types]) & ~flat
        found["channels"] = _draw(recording, 4 * length, lambda good: _channel(good, alike, random), count, random)
    spans = [span for span in recording.spans if span.wanted]
    if spans:
        rows = max(1, round(float(np.median([span.duration for span in spans])) * rate))
        wide = max(1, int(np.median([len(span.columns) for span in spans])))
        columns = np.flatnonzero(~flat) if wide == features else None

        def span(good: NDArray[np.bool_]) -> NDArray[np.bool_]:
            chosen = random.permutation(np.flatnonzero(~flat))[:wide] if columns is None else columns
            hidden = np.zeros_like(good)
            size = min(rows, len(good) // 2)
            start = (len(good) - size) // 2
            hidden[start : start + size, chosen] = True
            return hidden & good

        found["spans"] = _draw(recording, rows + 2 * length, span, count, random)
    return found


def _channel(good: NDArray[np.bool_], alike: NDArray[np.bool_], random: np.random.Generator) -> NDArray[np.bool_]:
    """One of the channels that are good throughout."""
    hidden = np.zeros_like(good)
    candidates = np.flatnonzero(alike & good.all(0))
    if len(candidates) and good.shape[1] > 1:
        hidden[:, random.choice(candidates)] = True
    return hidden


def _draw(
    recording: Recording,
    size: int,
    hide: Callable[[NDArray[np.bool_]], NDArray[np.bool_]],
    count: int,
    random: np.random.Generator,
) -> list[Hole]:
    """Holes in stretches of at most ``size`` rows anywhere in what was held out; those that came out empty are not."""
    places = list(recording.held_out())
    drawn: list[Hole] = []
    for _ in range(count if places else 0):
        stretch, low = places[int(random.integers(len(places)))]
        rows = min(size, len(stretch.known) - low)
        first = low + int(random.integers(len(stretch.known) - low - rows + 1))
        hidden = hide(stretch.known[first : first + rows])
        if hidden.any():
            drawn.append(Hole(stretch, first, first + rows, hidden))
    return drawn


def backtest(
    recording: Recording,
    model: CSDI,
    imputing: Imputing,
    found: Sequence[Hole],
    value: Literal["mean", "draw"] = "mean",
    report: Callable[[int, int], None] | None = None,
) -> Score:
    """Fill in holes of one kind as `repair` would, and compare; ValueError if there are none."""
    if not found:
        raise ValueError("there are no holes to score")
    rate, width = recording.data.info["sfreq"], model.units.width
    squares: list[Array] = []
    inside: list[NDArray[np.bool_]] = []
    errors: list[Errors] = []
    for number, hole in enumerate(found):
        truth, hidden = hole.stretch.all(hole.first, hole.last), hole.hidden
        given = np.where(hidden, np.nan, hole.stretch.read(hole.first, hole.last))
        pieces = list(paths(model, Record(lambda a, b, given=given: given[a:b], hidden), imputing, number * len(given)))
        guesses = np.full((4, *given.shape), np.nan)
        for start, samples in pieces:
            part = slice(start, start + samples.shape[1])
            guesses[0, part] = samples.mean(0) if value == "mean" else samples[0]
            low, high = np.quantile(samples, (0.05, 0.95), axis=0)
            within = (truth[part] >= low) & (truth[part] <= high)
            inside.append(within[hidden[part]])
        guesses[1] = interpolated(recording, given)
        guesses[2] = regressed(recording, given)
        if not hidden.all(0).any():  # a line needs ends
            guesses[3] = np.where(np.isnan(given), naive.linear(given, model.units.centre), given)
        rows, columns = np.nonzero(hidden)
        off: Array = guesses[:, rows, columns] - truth[rows, columns]
        squares.append((off / width[columns]) ** 2)
        names = tuple(recording.channels[column] for column in np.flatnonzero(hidden.any(0)))
        seconds = int(hidden.any(1).sum()) / rate
        errors.append(Errors(names, seconds, *_roots(off**2)))  # pyright: ignore[reportArgumentType]
        if report is not None:
            report(number + 1, len(found))
    ours, splines, regression, line = _roots(np.concatenate(squares, axis=1))
    assert ours is not None
    return Score(ours, splines, regression, line, float(np.concatenate(inside).mean()), tuple(errors))


def _roots(squares: Array) -> list[float | None]:
    """Root mean squares of the rows, None where one holds anything that is not finite."""
    return [float(np.sqrt(row.mean())) if np.isfinite(row).all() else None for row in squares]


def interpolated(recording: Recording, given: Array) -> Array:
    """What mne makes of every channel with NaN in ``given`` ``[n, features]``, from the others' values and positions.

    NaN throughout where the recording has no positions, or where no channel of the type is left.
    """
    import mne

    info: Any = mne.pick_info(recording.data.info, recording.picks)
    nothing = np.full_like(given, np.nan)
    places = np.array([channel["loc"][:3] for channel in info["chs"]])
    if not np.isfinite(places).all() or (places == 0).all(1).any():
        return nothing
    bad = np.asarray(np.isnan(given).any(axis=0))
    types = np.array(info.get_channel_types())
    if any(bad[types == kind].all() for kind in set(types[bad])):
        return nothing
    info["bads"] = [name for name, is_bad in zip(recording.channels, bad, strict=True) if is_bad]
    raw: Any = mne.io.RawArray(np.where(np.isnan(given), 0.0, given).T, info, verbose="error")
    try:
        raw.interpolate_bads(reset_bads=False, on_bad_position="ignore", verbose="error")
    except (ValueError, RuntimeError):  # say, no sphere fits the head
        return nothing
    return np.where(np.isnan(given), raw.get_data().T, given)


def regressed(recording: Recording, given: Array) -> Array:
    """Every channel with NaN in ``given`` ``[n, features]`` by ordinary least squares on those without, at one instant.

    Fitted on what was not held out, on at most ``_FITTED`` rows. NaN for a channel that is bad throughout, and for all
    where no channel is complete or where fewer rows than twice the coefficients have what is needed.
    """
    rows = np.concatenate([stretch.read(0, size) for stretch, size in recording.trained_on()])
    seen = np.isfinite(rows).any(0)
    gaps = np.isnan(given).any(0)
    known, wanted = np.flatnonzero(seen & ~gaps), np.flatnonzero(seen & gaps)
    rows = rows[np.isfinite(rows[:, seen]).all(1)]
    if not len(known) or len(rows) < 2 * (1 + len(known)):
        return np.full_like(given, np.nan)
    rows = rows[:: -(-len(rows) // _FITTED)]
    centre = rows.mean(0)
    width = np.where(rows.std(0) > 0, rows.std(0), 1.0)
    z = (rows - centre) / width
    weights = np.linalg.lstsq(z[:, known], z[:, wanted])[0]
    answer = given.copy()
    answer[:, wanted] = ((given - centre) / width)[:, known] @ weights * width[wanted] + centre[wanted]
    return np.where(np.isnan(given), answer, given)
