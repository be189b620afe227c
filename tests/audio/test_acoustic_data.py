"""A prepared folder as what a model trains on."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from degauss.audio import acoustic_data
from degauss.audio.acoustic import AcousticConfig
from degauss.audio.acoustic_data import Batches, Corpus, collate, read_corpus
from degauss.audio.frontend import midi_of
from degauss.audio.pitch import f0_harvest
from degauss.audio.score import write_ds
from degauss.audio.spectra import MelConfig, log_mel
from degauss.audio.synthetic_corpus import write_sung_vowels
from degauss.audio.transcription import read_transcriptions, write_transcriptions
from degauss.audio.waves import mono, read
from degauss.core.errors import InputError

MEL = MelConfig(n_fft=512, n_mels=20)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_sung_vowels(folder, 5, voices=("ann", "bob"))
    read_corpus(folder, MEL)
    return folder


@pytest.fixture
def folder(source: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(source, tmp_path / "corpus"))


@pytest.fixture(scope="module")
def corpus(source: Path) -> Corpus:
    return read_corpus(source, MEL)


def config(corpus: Corpus) -> AcousticConfig:
    return AcousticConfig(corpus.phones, corpus.voices, MEL, hidden=16, blocks=1, channels=8, layers=2)


def pitched(folder: Path) -> Path:
    """Speech of the same sounds: the table without its notes."""
    path = folder / "transcriptions.csv"
    plain = {"notes": (), "note_durations": (), "slurs": (), "phones_per_word": ()}
    entries = [entry._replace(segment=replace(entry.segment, **plain)) for entry in read_transcriptions(path)]
    write_transcriptions(path, entries)
    return folder


# --- reading ---


def test_what_is_known_of_each_recording(source, corpus):
    entries = read_transcriptions(source / "transcriptions.csv")
    assert [item.name for item in corpus.items] == ["u0", "u1", "u2", "u3", "u4"]
    for item, entry in zip(corpus.items, entries, strict=True):
        x = mono(read(source / "wavs" / f"{item.name}.wav"))
        torch.testing.assert_close(item.mel, log_mel(x, MEL))
        assert int(item.durations.sum()) == item.mel.shape[1] == len(item.f0) == len(item.melody)
        assert item.phones == entry.segment.phones
        # In the middle of each vowel the pitch that was found is the note that was written, within the vibrato.
        ends = torch.cumsum(item.durations, 0)
        for k in range(1, len(item.phones) - 1):
            middle = int(ends[k]) - int(item.durations[k]) // 2
            assert abs(float(midi_of(item.f0)[middle] - item.melody[middle])) < 0.3
            assert float(item.melody[middle]) == pytest.approx(float(item.sung.notes[k]), abs=1e-4)


def test_what_is_known_of_all(corpus):
    assert corpus.voices == ("ann", "bob")
    assert corpus.sings
    assert set(corpus.phones) <= {"SP", "aa", "eh", "iy", "ow", "uw"}
    statistics = corpus.statistics(corpus.voices)
    for item in corpus.items:
        assert bool((item.mel >= statistics.low[:, None]).all())
        assert bool((item.mel <= statistics.high[:, None]).all())
    ranges = corpus.ranges()
    assert 55 <= ranges["ann"].low <= statistics.voice_pitch[0] <= ranges["ann"].high <= 64.2
    # The second voice is a fifth higher.
    assert float(statistics.voice_pitch[1] - statistics.voice_pitch[0]) > 3


def test_speech_has_ranges_of_its_pitch(folder, corpus):
    """Those of what is found in the sound, but for its outliers."""
    spoken = read_corpus(pitched(folder), MEL)
    assert not spoken.sings
    for end in ("low", "high"):
        assert abs(getattr(spoken.ranges()["ann"], end) - getattr(corpus.ranges()["ann"], end)) < 1


def test_features_are_computed_once(folder, monkeypatch):
    def never(*_: object, **__: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(acoustic_data, "log_mel", never)
    assert len(read_corpus(folder, MEL).items) == 5
    with pytest.raises(AssertionError, match="computed again"):
        read_corpus(folder, replace(MEL, n_mels=21))


def test_a_changed_recording_is_seen(folder):
    before = read_corpus(folder, MEL)
    shutil.copy(folder / "wavs" / "u1.wav", folder / "wavs" / "u0.wav")
    entries = read_transcriptions(folder / "transcriptions.csv")
    write_transcriptions(folder / "transcriptions.csv", [entries[1]._replace(name="u0"), *entries[1:]])
    after = read_corpus(folder, MEL)
    assert torch.equal(after.items[0].mel, before.items[1].mel)
    assert after.digest != before.digest
    assert read_corpus(folder, MEL).digest == after.digest


def test_progress_is_told(folder):
    told: list[tuple[int, int]] = []
    read_corpus(folder, MEL, lambda done, total: told.append((done, total)))
    assert told == [(k, 5) for k in range(1, 6)]


def test_phones_of_another_length_than_the_recording(folder):
    path = folder / "transcriptions.csv"
    first, *rest = read_transcriptions(path)
    segment = replace(
        first.segment, durations=(0.7, *first.segment.durations[1:]), notes=(), note_durations=(), slurs=()
    )
    write_transcriptions(path, [first._replace(segment=segment), *rest])
    with pytest.raises(InputError, match=r"u0.wav: lasts .* s, but its phones .* s; expected the same"):
        read_corpus(folder, MEL)


def test_what_cannot_be_read(folder, tmp_path):
    with pytest.raises(InputError, match="expected a folder that 'prepare' wrote"):
        read_corpus(tmp_path)
    path = folder / "transcriptions.csv"
    whole = path.read_text()
    path.write_text(whole.splitlines()[0] + "\n")
    with pytest.raises(InputError, match="has no lines"):
        read_corpus(folder, MEL)
    path.write_text(whole.replace("rest,", "H9,", 1).replace(" rest", " H9", 1))
    with pytest.raises(InputError, match=r"'u0': segment 1, note_seq"):
        read_corpus(folder, MEL)
    path.write_text(whole)
    (folder / "wavs" / "u2.wav").unlink()
    with pytest.raises(InputError, match=r"u2.wav: no such file, but .*transcriptions.csv has a line for it"):
        read_corpus(folder, MEL)


def test_speech_and_singing_have_estimators_of_their_own(folder, monkeypatch):
    """DIO for speech, Harvest for what has notes; neither finds the other's features."""
    asked: list[str] = []

    def estimator(name: str):
        def estimate(x: Tensor, rate: int, hop: int, **_: float) -> Tensor:
            asked.append(name)
            return torch.full((1 + len(x) // hop,), 100.0)

        return estimate

    monkeypatch.setattr(acoustic_data, "estimate_f0", estimator("dio"))
    monkeypatch.setattr(acoustic_data, "f0_harvest", estimator("harvest"))
    shutil.rmtree(folder / "ds")
    read_corpus(folder, MEL)
    assert asked == ["harvest"] * 5
    read_corpus(pitched(folder), MEL)
    assert asked[5:] == ["dio"] * 5


def test_f0_of_singing_is_that_of_its_score(folder, corpus, monkeypatch):
    """With zeros it is taken as it is; without, what is voiced is Harvest's to say. A changed score is seen."""
    entry = read_transcriptions(folder / "transcriptions.csv")[0]
    count = round(entry.segment.duration / 0.005) + 1
    curve = [220.0 + 0.5 * k for k in range(count)]
    frames = torch.arange(corpus.items[0].mel.shape[1]) * MEL.hop / MEL.rate
    line = 220 + 100 * frames

    def told(values: list[float]) -> Tensor:
        write_ds(folder / "ds" / "u0.ds", [replace(entry.segment, f0=tuple(values), f0_step=0.005)])
        return read_corpus(folder, MEL).items[0].f0

    voiced = f0_harvest(mono(read(folder / "wavs" / "u0.wav")), MEL.rate, MEL.hop, low=50.0) > 0
    assert 0 < int(voiced.sum()) < len(voiced)
    found = told(curve)
    assert torch.equal(found > 0, voiced)
    torch.testing.assert_close(found[voiced], line[voiced], rtol=1e-4, atol=0)
    monkeypatch.setattr(acoustic_data, "f0_harvest", None)  # not needed
    found = told([0.0] * 40 + curve[40:])
    inside = frames > 0.2
    torch.testing.assert_close(found[inside], line[inside], rtol=1e-4, atol=0)
    assert not bool(found[frames < 0.19].any())


def test_scores_that_do_not_fit_their_recording(folder):
    entry = read_transcriptions(folder / "transcriptions.csv")[0]
    segment = replace(entry.segment, f0=(200.0,) * 20, f0_step=0.005)
    write_ds(folder / "ds" / "u0.ds", [segment])
    with pytest.raises(InputError, match=r"u0\.ds: has f0 for 0\.100 s, but the phones last"):
        read_corpus(folder, MEL)
    write_ds(folder / "ds" / "u0.ds", [segment, segment])
    with pytest.raises(InputError, match=r"u0\.ds: holds 2 segments"):
        read_corpus(folder, MEL)


# --- batches ---


def test_a_batch_is_its_recordings_padded(corpus):
    batch = collate(corpus.items[:3], config(corpus))
    for row, item in enumerate(corpus.items[:3]):
        phones, frames = len(item.phones), item.mel.shape[1]
        names = [corpus.phones[number - 1] for number in batch.phones[row, :phones].tolist()]
        assert tuple(names) == item.phones
        assert corpus.voices[int(batch.voices[row])] == item.voice
        assert torch.equal(batch.mel[row, :, :frames], item.mel)
        assert torch.equal(batch.f0[row, :frames], item.f0)
        assert torch.equal(batch.durations[row, :phones], item.durations)
        for part in (batch.phones[row, phones:], batch.durations[row, phones:], batch.f0[row, frames:]):
            assert not bool(part.any())


def test_batches_follow_from_their_numbers(corpus):
    batches = Batches(corpus, config(corpus), seed=3)
    epoch = batches(range(5))
    assert sorted(epoch.durations.sum(1).tolist()) == sorted(item.mel.shape[1] for item in corpus.items)
    again = batches([3])
    frames = again.f0.shape[1]
    assert torch.equal(again.mel[0], epoch.mel[3, :, :frames])


def test_a_split_is_disjoint_and_keyed(corpus):
    train, held = corpus.split(2, seed=1)
    names = [{item.name for item in part.items} for part in (train, held)]
    assert names[0] | names[1] == {"u0", "u1", "u2", "u3", "u4"}
    assert not names[0] & names[1]
    assert names[1] == {item.name for item in corpus.split(2, seed=1)[1].items}
    with pytest.raises(InputError, match="held_out must be less than the 5 recordings, but is 5"):
        corpus.split(5)
