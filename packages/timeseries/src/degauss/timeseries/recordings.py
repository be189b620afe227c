"""Recordings of EEG, MEG and the like, as mne reads them: what is bad in them, and what is put in its place.

A recording is a record with one feature for each data channel, in the SI units of mne (V, T, T/m). Bad is what mne
calls bad: the channels in ``info["bads"]``, from start to end, and the spans of annotations that begin with "bad", of
all channels or of those that the annotation names. Both are filled in, but for ``BAD_ACQ_SKIP``, where nothing was
recorded. Nothing else changes: what was good keeps its bits, and channels that hold no data (stimuli, EOG, ...) are
left alone. What was filled in is no longer bad, and an annotation ``degauss: imputed`` says where it is.

A Raw is one stretch of rows, or several where ``mne.concatenate_raws`` left boundaries; each epoch of Epochs is one.
The last tenth of every recording is never trained on, so that a model can be tested there; see `repair_backtest`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from degauss.core.errors import InputError
from degauss.core.files import atomic_path
from degauss.timeseries.csdi import CSDI, Imputing
from degauss.timeseries.repair import Record, paths

if TYPE_CHECKING:
    from mne import BaseEpochs
    from mne.io import BaseRaw

IMPUTED = "degauss: imputed"
SKIPPED = "bad_acq_skip"
HELD_OUT = 0.1
"""The share at the end of every recording that is not trained on."""
RAW_NAMES = ("raw.fif", "_eeg.fif", "_meg.fif", "_ieeg.fif")
EPOCHS_NAMES = ("-epo.fif", "_epo.fif")
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
_CHUNK = 1 << 14
_LARGEST = 2_000_000_000

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Report = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Stretch:
    """Rows that follow each other: of one epoch, or of a Raw (``epoch`` None) from ``start`` on.

    ``known``, ``wanted``: ``[n, features]``, what is good and what is to be filled in. ``onset``: the time of row 0
    where annotations count theirs from, in s.
    """

    data: Any
    picks: NDArray[np.int64]
    epoch: int | None
    start: int
    onset: float
    known: Mask
    wanted: Mask

    def all(self, first: int, last: int) -> Array:
        """The rows as they are, good or bad, ``[last - first, features]``."""
        if self.epoch is None:
            return self.data.get_data(self.picks, self.start + first, self.start + last).T
        return self.data.get_data(copy=False)[self.epoch, self.picks, first:last].T

    def read(self, first: int, last: int) -> Array:
        """The rows with NaN for what is bad."""
        return np.where(self.known[first:last], self.all(first, last), np.nan)

    def put(self, first: int, values: Array) -> None:
        """Replace what is wanted of the rows from ``first`` on; a value that is kept is never computed with."""
        wanted = self.wanted[first : first + len(values)]
        for column in np.flatnonzero(wanted.any(0)).tolist():
            rows = np.flatnonzero(wanted[:, column])
            changed = self.all(first, first + len(values))[:, column]
            changed[rows] = values[rows, column]
            pick = int(self.picks[column])
            if self.epoch is None:
                self.data[pick, self.start + first : self.start + first + len(values)] = changed[None]
            else:
                self.data.get_data(copy=False)[self.epoch, pick, first : first + len(values)] = changed


class Span(NamedTuple):
    """An annotation of something bad: its number among all, its words, s and columns, and whether it is filled in."""

    number: int
    description: str
    onset: float
    duration: float
    columns: tuple[int, ...]
    wanted: bool


@dataclass(frozen=True, eq=False)
class Recording:
    """A Raw or Epochs in memory, whose bad parts are known; made by `read` or `of`."""

    data: BaseRaw | BaseEpochs
    name: str
    picks: NDArray[np.int64]
    bads: tuple[str, ...]
    spans: tuple[Span, ...]
    stretches: tuple[Stretch, ...]

    @classmethod
    def read(cls, path: str | Path) -> Recording:
        """Read a file that mne knows by its name (.fif, .edf, .bdf, .vhdr, ...; Epochs from ..._epo.fif).

        Raises `InputError` if there is none, or if mne cannot read it or finds no data channels.
        """
        import mne

        path = Path(path)
        if not path.exists():
            raise InputError(f"{path}: no such file.")
        try:
            if holds_epochs(path):
                data = mne.read_epochs(path, preload=True, verbose="error")
            else:
                data = mne.io.read_raw(path, preload=True, verbose="error")
        except Exception as error:  # what a reader raises at a damaged file is anybody's guess
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(f"{path}: mne cannot read it as a recording ({reason.rstrip('.')}).") from None
        return cls.of(data, str(path))

    @classmethod
    def of(cls, data: BaseRaw | BaseEpochs, name: str = "the recording") -> Recording:
        """A Raw or Epochs, which `repair` will change; pass a copy to keep it. `InputError` without data channels."""
        import mne

        data.load_data()
        with_bads: Any = ()
        picks = mne.pick_types(
            data.info, meg=True, eeg=True, seeg=True, ecog=True, dbs=True, fnirs=True, exclude=with_bads
        )
        if not len(picks):
            raise InputError(f"{name}: has no data channels; expected EEG, MEG, ECoG, sEEG, DBS or fNIRS.")
        channels = [data.ch_names[pick] for pick in picks]
        bads = tuple(channel for channel in channels if channel in data.info["bads"])
        spans = tuple(_spans(data.annotations, channels))
        places = _places(data)
        columns = [channels.index(bad) for bad in bads]
        stretches = tuple(_stretch(data, picks, place, spans, columns) for place in places)
        met = {k for k, span in enumerate(spans) for place in places if _rows(span, place, data.info["sfreq"])}
        return cls(data, name, picks, bads, tuple(spans[k] for k in sorted(met)), stretches)

    @property
    def channels(self) -> tuple[str, ...]:
        """The data channels, good and bad: the features."""
        return tuple(self.data.ch_names[pick] for pick in self.picks)

    @property
    def rate(self) -> str:
        """The sampling rate in words."""
        return f"{self.data.info['sfreq']:.9g} Hz"

    @property
    def rows_to_fill(self) -> int:
        """How many rows have something to fill in."""
        return sum(int(stretch.wanted.any(1).sum()) for stretch in self.stretches)

    def trained_on(self) -> Iterator[tuple[Stretch, int]]:
        """Stretches and how many of their rows, from the first, a model may be trained on."""
        left = self._kept()
        for stretch in self.stretches:
            rows = min(left, len(stretch.known))
            if rows:
                yield stretch, rows
            left -= rows

    def held_out(self) -> Iterator[tuple[Stretch, int]]:
        """Stretches and from which of their rows on no model was trained on them."""
        left = self._kept()
        for stretch in self.stretches:
            if left < len(stretch.known):
                yield stretch, max(left, 0)
            left -= len(stretch.known)

    def _kept(self) -> int:
        sizes = [len(stretch.known) for stretch in self.stretches]
        if self.stretches[0].epoch is None:
            return sum(sizes) - int(HELD_OUT * sum(sizes))
        # Whole epochs; one that is alone is trained on.
        return sizes[0] * max(1, int((1 - HELD_OUT) * len(sizes)))


def holds_epochs(path: Path) -> bool:
    """Whether a file is named as Epochs are."""
    return path.name.endswith(EPOCHS_NAMES)


# --- what is bad --------------------------------------------------------------------------------------------


class _Place(NamedTuple):
    """Where a stretch lies: its epoch, its first row, its number of rows, and the time of the first row in s."""

    epoch: int | None
    start: int
    size: int
    onset: float


def _spans(annotations: Any, channels: Sequence[str]) -> Iterator[Span]:
    """The annotations of something bad that last for a time, and what of it concerns the data channels."""
    if annotations is None:
        return
    for number in range(len(annotations)):
        words = str(annotations.description[number])
        names = annotations.ch_names[number] or tuple(channels)
        columns = tuple(k for k, channel in enumerate(channels) if channel in names)
        onset, duration = float(annotations.onset[number]), float(annotations.duration[number])
        if words.lower().startswith("bad") and duration > 0 and columns:
            yield Span(number, words, onset, duration, columns, not words.lower().startswith(SKIPPED))


def _places(data: Any) -> list[_Place]:
    rate = data.info["sfreq"]
    if hasattr(data, "events"):
        # mne has no public name for the rate in which the events of (perhaps resampled) epochs count.
        origin = data.events[:, 0] / float(np.ravel(data._raw_sfreq)[0])
        return [_Place(k, 0, len(data.times), float(zero + data.times[0])) for k, zero in enumerate(origin)]
    first = data.first_time
    marks = [
        round((onset - first) * rate)
        for onset, words in zip(data.annotations.onset, data.annotations.description, strict=True)
        if words.lower() in ("bad boundary", "edge boundary")
    ]
    cuts = sorted({0, *(mark for mark in marks if 0 < mark < data.n_times), data.n_times})
    return [_Place(None, a, b - a, first + a / rate) for a, b in pairwise(cuts)]


def _rows(span: Span, place: _Place, rate: float) -> range:
    """Which rows of a stretch an annotation covers; mne rounds to the nearest sample."""
    edges = (span.onset - place.onset, span.onset + span.duration - place.onset)
    first, last = (min(max(round(edge * rate), 0), place.size) for edge in edges)
    return range(first, last)


def _stretch(data: Any, picks: NDArray[np.int64], place: _Place, spans: Sequence[Span], bads: Sequence[int]) -> Stretch:
    shape = (place.size, len(picks))
    wanted, skipped = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
    wanted[:, list(bads)] = True
    for span in spans:
        rows = _rows(span, place, data.info["sfreq"])
        (wanted if span.wanted else skipped)[rows.start : rows.stop, list(span.columns)] = True
    return Stretch(data, picks, place.epoch, place.start, place.onset, ~(wanted | skipped), wanted & ~skipped)


class Survey(NamedTuple):
    """Of what is good of each channel: how many values, their mean, and which channels are constant (flat)."""

    seen: NDArray[np.int64]
    mean: Array
    flat: Mask


def survey(recording: Recording) -> Survey:
    """Look at everything good of a recording once; `InputError` at a value that is not finite."""
    features = len(recording.picks)
    count, total = np.zeros(features, np.int64), np.zeros(features)
    low, high = np.full(features, np.inf), np.full(features, -np.inf)
    for stretch in recording.stretches:
        for first in range(0, len(stretch.known), _CHUNK):
            known = stretch.known[first : first + _CHUNK]
            values = stretch.all(first, first + len(known))
            wrong = np.argwhere(known & ~np.isfinite(values))
            if len(wrong):
                row, column = wrong[0].tolist()
                time = (first + row + stretch.start) / recording.data.info["sfreq"]
                where = "" if stretch.epoch is None else f" of epoch {stretch.epoch}"
                raise InputError(
                    f"{recording.name}: channel {recording.channels[column]!r} is {values[row, column]} at "
                    f"{time:.6g} s{where}; expected a number, or a channel or span that is marked as bad."
                )
            count += known.sum(0)
            total += np.where(known, values, 0.0).sum(0)
            low = np.minimum(low, np.where(known, values, np.inf).min(0))
            high = np.maximum(high, np.where(known, values, -np.inf).max(0))
    return Survey(count, total / np.maximum(count, 1), (count > 0) & (low == high))


def training_records(recordings: Sequence[Recording]) -> list[Array]:
    """What a model of the first recording may be trained on: the good of all, ``[n, features]`` with NaN elsewhere.

    The last tenth of each is left out. Channels are found by name; one that another recording lacks is not known
    there. Raises `InputError` if sampling rates differ, or if a channel that is to be filled in is nowhere good.
    """
    own = recordings[0]
    records: list[Array] = []
    for other in recordings:
        if other.rate != own.rate:
            raise InputError(
                f"{other.name}: was sampled at {other.rate}, but {own.name} at {own.rate}; expected the same, so "
                "resample one."
            )
        theirs = other.channels
        columns = [theirs.index(channel) if channel in theirs else -1 for channel in own.channels]
        for stretch, rows in other.trained_on():
            values = np.column_stack([stretch.read(0, rows), np.full(rows, np.nan)])[:, columns]
            records.append(values)
    wanted = np.logical_or.reduce([stretch.wanted.any(0) for stretch in own.stretches])
    for column in np.flatnonzero(wanted).tolist():
        seen = np.concatenate([record[~np.isnan(record[:, column]), column] for record in records])
        if len(seen) == 0 or seen.min() == seen.max():
            raise InputError(
                f"{own.name}: channel {own.channels[column]!r} is {'flat' if len(seen) else 'bad'} in all that can be "
                "trained on, so nothing shows what it is like; expected a recording of the same montage in which it "
                "is good (train), or mne's interpolate_bads."
            )
    return records


def check_wanted(recording: Recording) -> None:
    """`InputError` unless there is something to fill in."""
    if not recording.rows_to_fill:
        raise InputError(
            f"{recording.name}: nothing is marked as bad; expected a bad data channel (info['bads']) or an annotation "
            "that begins with BAD."
        )


def check_model(recording: Recording, model: CSDI, source: str) -> None:
    """`InputError` unless a model is of these channels, in this order, at this rate."""
    names, channels = model.units.names, recording.channels
    for name in channels:
        if name not in names:
            raise InputError(f"{source} was not trained on channel {name!r} of {recording.name}.")
    for name in names:
        if name not in channels:
            raise InputError(f"{source} expects a channel {name!r}, which {recording.name} lacks.")
    if names != channels:
        raise InputError(
            f"{source} expects the channels in the order {', '.join(names)}; expected the same of {recording.name}, "
            "so reorder them."
        )
    if model.units.step != recording.rate:
        raise InputError(
            f"{source} was trained at {model.units.step}, but {recording.name} was sampled at {recording.rate}; "
            "expected the same, so resample it."
        )


# --- repair -------------------------------------------------------------------------------------------------


class View(NamedTuple):
    """A part of one repaired channel, to look at: its times in s ``[n]``, and in SI units what it was before.

    ``observed``: NaN where it was filled in; ``quantiles``: of what was drawn, at `LEVELS`, NaN where it was not.
    """

    channel: str
    times: Array
    before: Array
    observed: Array
    quantiles: Array


class Repaired(NamedTuple):
    """What a repair did: values filled in of each channel, the mean standard deviation of its draws, and a view."""

    filled: NDArray[np.int64]
    spread: Array
    view: View


def repair(
    recording: Recording,
    model: CSDI,
    imputing: Imputing,
    value: Literal["mean", "draw"] = "mean",
    report: Report | None = None,
) -> Repaired:
    """Fill in everything bad of a recording, in place, mark it, and say what was done.

    ``value``: the mean of the draws, which is nearest to the truth but too smooth, or the first draw, which has the
    spectrum of a recording. Raises `InputError` if there is nothing to fill in, or if sampling diverges.
    """
    check_wanted(recording)
    total = recording.rows_to_fill
    features = len(recording.picks)
    count, spread = np.zeros(features, np.int64), np.zeros(features)
    viewer = _Viewer(recording, model.config.length)
    number = done = 0
    for stretch in recording.stretches:

        def told(rows: int, done: int = done) -> None:
            if report is not None:
                report(done + rows, total)

        for start, samples in paths(model, Record(stretch.read, stretch.wanted), imputing, number, told):
            viewer.see(stretch, start, samples)
            wanted = stretch.wanted[start : start + samples.shape[1]]
            count += wanted.sum(0)
            spread += np.where(wanted, samples.std(0), 0.0).sum(0)
            stretch.put(start, samples.mean(0) if value == "mean" else samples[0])
        number += len(stretch.known)
        done += int(stretch.wanted.any(1).sum())
    _mark(recording)
    return Repaired(count, spread / np.maximum(count, 1), viewer.view())


class _Viewer:
    """Keeps the part around the first hole, and what was drawn there."""

    def __init__(self, recording: Recording, length: int) -> None:
        stretch = next(stretch for stretch in recording.stretches if stretch.wanted.any())
        row, column = np.argwhere(stretch.wanted)[0].tolist()
        self.stretch, self.column, self.first = stretch, column, max(0, row - length)
        self.last = min(self.first + 6 * length, len(stretch.wanted))
        self.channel, self.rate = recording.channels[column], recording.data.info["sfreq"]
        self.before = stretch.all(self.first, self.last)[:, column].copy()
        self.quantiles = np.full((len(LEVELS), self.last - self.first), np.nan)

    def see(self, stretch: Stretch, start: int, samples: Array) -> None:
        first, last = max(start, self.first), min(start + samples.shape[1], self.last)
        if stretch is self.stretch and first < last:
            drawn = np.quantile(samples[:, first - start : last - start, self.column], LEVELS, axis=0)
            filled = stretch.wanted[first:last, self.column]
            self.quantiles[:, first - self.first : last - self.first] = np.where(filled, drawn, np.nan)

    def view(self) -> View:
        rows = np.arange(self.first, self.last)
        if self.stretch.epoch is None:
            times = (rows + self.stretch.start) / self.rate
        else:
            times = self.stretch.data.times[rows]
        observed = np.where(self.stretch.known[rows, self.column], self.before, np.nan)
        return View(self.channel, times, self.before, observed, self.quantiles)


def _mark(recording: Recording) -> None:
    """Say what was filled in, and that it is no longer bad."""
    from mne import Annotations

    data = recording.data
    rate, channels = data.info["sfreq"], recording.channels
    filled = [span for span in recording.spans if span.wanted]
    marks = [(span.onset, span.duration, [channels[column] for column in span.columns]) for span in filled]
    if recording.bads:
        marks += [(stretch.onset, len(stretch.known) / rate, list(recording.bads)) for stretch in recording.stretches]
    if data.annotations is None:
        data.set_annotations(Annotations([], [], [], orig_time=data.info["meas_date"]), verbose="error")
    # Changed in place, since setting them would move the onsets of a Raw that does not start at 0.
    annotations: Any = data.annotations
    if filled:
        annotations.delete([span.number for span in filled])
    for onset, duration, names in marks:
        annotations.append(onset, duration, IMPUTED, ch_names=[names])
    data.info["bads"] = [name for name in data.info["bads"] if name not in recording.bads]


# --- files --------------------------------------------------------------------------------------------------


def check_target(recording: Recording, path: Path) -> None:
    """`InputError` unless the recording can be written there: by its name, its size, and what is installed."""
    epochs = recording.stretches[0].epoch is not None
    if path.suffix == ".edf":
        if epochs:
            raise InputError(f"{path}: EDF holds no epochs; expected a name that ends in {' or '.join(EPOCHS_NAMES)}.")
        try:
            import_module("edfio")
        except ModuleNotFoundError:
            raise InputError(
                f"{path}: mne needs edfio to write EDF, which is not installed; expected the extra of "
                'pip install "degauss-timeseries[edf]" (or pip install edfio), or a name that ends in _raw.fif.'
            ) from None
        return
    expected = EPOCHS_NAMES if epochs else (*RAW_NAMES, ".edf")
    if not path.name.endswith(expected):
        kind = "Epochs" if epochs else "a Raw"
        raise InputError(f"{path}: expected a name that ends in {', '.join(expected)}, as mne has it for {kind}.")
    size = 8 if epochs or _precision(recording.data) == "double" else 4
    needed = size * len(recording.data.ch_names) * sum(len(stretch.known) for stretch in recording.stretches)
    if needed > _LARGEST:
        raise InputError(
            f"{path}: would take {needed / 1e9:.1f} GB, but a FIF file holds 2; expected a shorter recording, so crop."
        )


def write(recording: Recording, path: Path) -> None:
    """Write the recording as FIF or EDF, whole or not at all; see `check_target` for what it raises.

    FIF keeps the bits of what was good, of a recording as it was read; one that was filtered since is rounded to the
    precision of its file, as mne does. EDF holds 16 bits a value, so it keeps values to a step of its scale.
    """
    check_target(recording, path)
    data: Any = recording.data
    with atomic_path(path) as partial:
        if path.suffix == ".edf":
            import mne

            mne.export.export_raw(partial, data, fmt="edf", physical_range="channelwise", verbose="error")
        elif recording.stretches[0].epoch is None:
            data.save(partial, fmt=_precision(data), verbose="error")
        else:
            data.save(partial, fmt="double", verbose="error")


def _precision(data: Any) -> Literal["single", "double"]:
    # A float32 times its calibration comes back only through float32; so does a 16-bit integer.
    return "single" if data.orig_format in ("single", "short") else "double"
