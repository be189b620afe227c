"""The report holds every number once, says why others are missing, and its page is well-formed and whole."""

from __future__ import annotations

import csv
import json
import math
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from statistics import fmean, stdev

import pytest
import torch
from torch import Tensor

from degauss.audio import metrics, metrics_report, speech_metrics
from degauss.audio.metrics_page import histogram, page, write_page
from degauss.audio.metrics_report import BY_NAME, Item, Judge, Report, Row, judge, judge_wave, pairs, sounds, with_words
from degauss.audio.recognition import digits_of
from degauss.audio.spectra import log_mel
from degauss.audio.waves import Wave, read, write
from degauss.core.errors import InputError


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tools of the extra are tested elsewhere; here one is absent, one refuses, and the others are numbers."""

    def absent(wave: Wave) -> None:
        raise ImportError("this metric needs speechmos, which is not installed")

    def refuse(*waves: Wave) -> float:
        raise InputError("PESQ needs at least 1/4 s; expected a longer recording.")

    monkeypatch.setattr(speech_metrics, "dnsmos", absent)
    monkeypatch.setattr(speech_metrics, "pesq_wideband", refuse)
    monkeypatch.setattr(speech_metrics, "pesq_narrowband", lambda *_: 2.5)
    monkeypatch.setattr(speech_metrics, "estoi", lambda *_: 0.75)
    monkeypatch.setattr(speech_metrics, "speaker_similarity", lambda a, b: 0.5 if a is b else 0.9)


@pytest.fixture
def folders(tmp_path: Path, speech: Tensor) -> tuple[Path, Path]:
    """Clean and noisy recordings: two of the same length, one a little longer, deep in folders."""
    clean, noisy = tmp_path / "clean", tmp_path / "noisy"
    for number, name in enumerate(("a", "b", "deep/c")):
        noise = torch.randn(16000, generator=torch.Generator().manual_seed(number))
        made = speech + 0.01 * (1 + number) * noise
        if number == 1:
            made = torch.cat([made, torch.zeros(100)])
        write(clean / f"{name}.wav", Wave(speech[None], 16000), "FLOAT")
        write(noisy / f"{name}.{'flac' if number == 0 else 'wav'}", Wave(made[None], 16000), "PCM_24")
    return clean, noisy


@pytest.fixture
def found(folders: tuple[Path, Path]) -> Report:
    clean, noisy = folders
    return judge(pairs(noisy, clean), Judge(), title="A <b> & c")


def test_files_are_paired_by_name_at_any_depth(folders: tuple[Path, Path]) -> None:
    clean, noisy = folders
    assert pairs(noisy, clean) == [
        Item("a", noisy / "a.flac", clean / "a.wav"),
        Item("b", noisy / "b.wav", clean / "b.wav"),
        Item("deep/c", noisy / "deep/c.wav", clean / "deep/c.wav"),
    ]
    assert pairs(noisy / "b.wav", clean / "a.wav") == [Item("b", noisy / "b.wav", clean / "a.wav")]
    (clean / "a.wav").unlink()
    (clean / "b.wav").unlink()
    with pytest.raises(InputError, match=r"a\.flac has no partner in .*clean \(and 1 more\)"):
        pairs(noisy, clean)
    with pytest.raises(InputError, match="expected two of a kind"):
        pairs(noisy, clean / "deep" / "c.wav")
    (noisy / "a.wav").write_bytes(b"")
    with pytest.raises(InputError, match=r"has a\.flac and a\.wav; expected one sound of a name"):
        sounds(noisy)


def test_every_value_is_that_of_its_function(folders: tuple[Path, Path], found: Report) -> None:
    clean, noisy = folders
    row = found.rows[0]
    reference, estimate = read(clean / "a.wav"), read(noisy / "a.flac")
    s, y = reference.samples[0], estimate.samples[0]
    config = metrics_report.mel_config(16000)
    mels = log_mel(s, config), log_mel(y, config)
    assert row.values["si_sdr"] == pytest.approx(float(metrics.si_sdr(s, y)))
    assert row.values["sdr"] == pytest.approx(float(metrics.sdr(s, y)))
    assert row.values["lsd"] == pytest.approx(float(metrics.log_spectral_distance(s, y)))
    assert row.values["mcd"] == pytest.approx(metrics.mel_cepstral_distance(*mels))
    assert row.values["delta_variance"] == pytest.approx(metrics.delta_variance_ratio(*mels))
    assert (row.values["pesq_nb"], row.values["estoi"], row.values["similarity"]) == (2.5, 0.75, 0.9)
    assert row.values["f0_rmse"] < 20
    assert row.values["vde"] < 0.3


def test_noise_makes_all_of_it_worse(found: Report) -> None:
    for name in ("si_sdr", "sdr", "lsd", "mcd"):
        values = [row.values[name] for row in found.rows]
        assert values == sorted(values, reverse=BY_NAME[name].better == "higher"), name


def test_what_is_missing_has_its_reason_and_no_number(found: Report) -> None:
    for row in found.rows:
        assert not row.values.keys() & row.missing.keys()
        assert row.values.keys() | row.missing.keys() == set(found.names)
        assert row.missing["pesq_wb"].startswith("PESQ needs at least 1/4 s")
        assert "speechmos" in row.missing["dnsmos_sig"]
    assert "pesq_wb" not in found.summary
    assert found.reasons["pesq_wb", found.rows[0].missing["pesq_wb"]] == ["a", "b", "deep/c"]


def test_a_few_samples_more_are_cut_and_said(found: Report) -> None:
    assert [row.notes for row in found.rows] == [(), ("cut by 100 samples to the shorter of the two",), ()]


def test_another_length_leaves_what_needs_no_timing(folders: tuple[Path, Path], speech: Tensor) -> None:
    clean, noisy = folders
    write(noisy / "a.flac", Wave(torch.cat([speech[:8000].repeat_interleave(1), speech])[None], 16000), "PCM_24")
    (row,) = judge([pairs(noisy, clean)[0]], Judge()).rows
    for name in ("si_sdr", "sdr", "lsd", "mcd", "f0_rmse", "vde", "gpe"):
        assert "lasts 1.000 s, the estimate 1.500 s" in row.missing[name]
    assert {"delta_variance", "similarity"} <= row.values.keys()
    (warped,) = judge([pairs(noisy, clean)[0]], Judge(align="dtw")).rows
    assert {"mcd", "f0_rmse", "vde", "gpe"} <= warped.values.keys()
    assert "si_sdr" in warped.missing


def test_another_rate_is_not_resampled_unasked(folders: tuple[Path, Path], speech: Tensor) -> None:
    clean, noisy = folders
    write(noisy / "a.flac", Wave(speech[None], 48000), "PCM_24")
    found = judge(pairs(noisy, clean), Judge())
    assert "16000 Hz, the estimate of 48000 Hz" in found.rows[0].missing["si_sdr"]
    assert found.summary["si_sdr"].files == 2


def test_an_exact_copy_is_no_infinite_mean(folders: tuple[Path, Path]) -> None:
    clean, _ = folders
    found = judge(pairs(clean, clean), Judge())
    assert "infinite" in found.rows[0].missing["sdr"]
    values = found.rows[0].values
    assert values["lsd"] == values["mcd"] == values["f0_rmse"] == values["vde"] == 0
    assert values["delta_variance"] == 1
    assert found.whole["frechet_log_mel"] == pytest.approx(0, abs=1e-6)


def test_one_broken_file_does_not_stop_the_others(folders: tuple[Path, Path]) -> None:
    clean, noisy = folders
    (noisy / "b.wav").write_bytes(b"no sound")
    found = judge(pairs(noisy, clean), Judge())
    assert not found.rows[1].values
    assert "expected WAV" in found.rows[1].missing["si_sdr"]
    assert found.summary["si_sdr"].files == 2
    with pytest.raises(InputError, match="expected WAV"):
        judge([pairs(noisy, clean)[1]], Judge())


def test_a_silent_estimate_is_no_crash(folders: tuple[Path, Path]) -> None:
    clean, noisy = folders
    write(noisy / "a.flac", Wave(torch.zeros(1, 16000), 16000), "PCM_24")
    row = judge(pairs(noisy, clean), Judge()).rows[0]
    assert "the estimate is silent" in row.missing["si_sdr"]
    assert "no frame is voiced in both" in row.missing["f0_rmse"]
    assert row.values["sdr"] == pytest.approx(0)
    assert row.values["delta_variance"] == 0


def test_words_are_counted_over_the_set(folders: tuple[Path, Path], tmp_path: Path) -> None:
    _, noisy = folders
    table = tmp_path / "said.csv"
    table.write_text("text,name,more\n7,a.flac,x\n12,b,\n345,deep/c.wav,\n", encoding="utf-8")
    items = with_words(pairs(noisy), table, digits_of)
    assert [item.words for item in items] == [("seven",), ("one", "two"), ("three", "four", "five")]
    heard = iter([("seven",), ("one",), ("three", "four", "nine", "nine")])
    found = judge(items, Judge(recogniser=lambda wave: next(heard)))
    assert [row.values["wer"] for row in found.rows] == pytest.approx([0, 1 / 2, 2 / 3])
    assert found.whole["wer"] == pytest.approx(3 / 6)  # not the mean of the files
    assert found.rows[2].heard == "three four nine nine"
    assert found.names == ("dnsmos", "dnsmos_sig", "dnsmos_bak", "dnsmos_p808", "wer")
    assert "frechet_log_mel" not in found.whole


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("name,words\na,1\n", "has name, words; expected columns name and text"),
        ("", "has nothing; expected columns name and text"),
        ("name,text\na,1\nb,x\n", r"line 3: 'x' has the word 'x'"),
        ("name,text\na,1\nb,2\n", "has no line for deep/c; expected one for each of 3 files"),
    ],
)
def test_a_transcript_that_cannot_be_used(folders: tuple[Path, Path], tmp_path: Path, content: str, said: str) -> None:
    table = tmp_path / "said.csv"
    table.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=said):
        with_words(pairs(folders[1]), table, digits_of)


def test_a_given_voice_needs_no_reference(folders: tuple[Path, Path], speech: Tensor) -> None:
    found = judge(pairs(folders[1]), Judge(voice=Wave(speech[None], 16000)))
    assert [row.values for row in found.rows] == [{"similarity": 0.9}] * 3


def test_only_what_is_asked_for_is_computed(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*waves: Wave) -> float:
        raise AssertionError("computed, though nobody asked")

    for name in ("estoi", "dnsmos", "speaker_similarity"):
        monkeypatch.setattr(speech_metrics, name, never)
    clean, noisy = folders
    found = judge(pairs(noisy, clean), Judge(only=frozenset({"mcd", "pesq_wb"})))
    assert found.names == ("pesq_wb", "mcd")
    assert [row.values.keys() | row.missing.keys() for row in found.rows] == [{"mcd", "pesq_wb"}] * 3
    alone = judge_wave(read(noisy / "b.wav"), Judge(only=frozenset({"mcd"})), reference=read(clean / "b.wav"))
    assert alone.values == {"mcd": found.rows[1].values["mcd"]}


# --- files --------------------------------------------------------------------------------------------------


def test_csv_has_a_row_a_file_and_json_everything(found: Report, tmp_path: Path) -> None:
    found.write(tmp_path / "report")
    with (tmp_path / "report.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["a", "b", "deep/c"]
    assert {row["pesq_wb"] for row in rows} == {""}
    assert float(rows[1]["si_sdr"]) == pytest.approx(found.rows[1].values["si_sdr"], rel=1e-5)
    numbers = json.loads((tmp_path / "report.json").read_text())
    values = [row.values["mcd"] for row in found.rows]
    summary = numbers["summary"]["mcd"]
    assert (summary["files"], summary["mean"], summary["sd"]) == (3, pytest.approx(fmean(values)), stdev(values))
    assert (summary["least"], summary["most"]) == (min(values), max(values))
    assert "1/4 s" in numbers["files"][0]["missing"]["pesq_wb"]


def test_the_frechet_distance_is_of_all_frames(folders: tuple[Path, Path], found: Report) -> None:
    config = metrics_report.mel_config(16000)
    sides: list[metrics.Moments] = []
    for place, suffixes in zip(folders, (["wav"] * 3, ["flac", "wav", "wav"]), strict=True):
        waves = [read(place / f"{name}.{kind}").samples[0] for name, kind in zip(("a", "b", "deep/c"), suffixes)]  # noqa: B905
        sides.append(metrics.Moments.of(torch.cat([log_mel(wave[:16000], config) for wave in waves], 1)))
    assert found.whole["frechet_log_mel"] == pytest.approx(metrics.frechet_log_mel(*sides), rel=1e-6)


class Balanced(HTMLParser):
    """Raises unless every element is closed in order."""

    void = frozenset({"meta"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_needs_nothing_else(found: Report, tmp_path: Path) -> None:
    write_page(tmp_path / "report.html", found)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    parser = Balanced()
    parser.feed(text)
    assert parser.open == []
    assert parser.links == []
    assert "A &lt;b&gt; &amp; c" in text
    assert "A <b>" not in text
    assert "PESQ needs at least 1/4 s" in text
    assert "cut by 100 samples" in text
    assert f"{found.summary['si_sdr'].mean:.3f}" in text or f"{found.summary['si_sdr'].mean:.1f}" in text
    assert text.count("<svg") == len(found.summary)
    assert text.count('<td class="number none"') == 3 * 5  # wideband PESQ and four of DNSMOS


def test_names_of_files_cannot_break_the_page() -> None:
    row = Row("<script>", {"mcd": 1.0}, {"sdr": 'a "quoted" <reason>'})
    parser = Balanced()
    text = page(Report("t", ("mcd", "sdr"), (row,), {}))
    parser.feed(text)
    assert parser.open == []
    assert "<script>" not in text
    assert "<reason>" not in text


def _bars(values: list[float]) -> list[tuple[float, float]]:
    root = ET.fromstring(histogram(values, "title"))
    return [(float(bar.get("x", "nan")), float(bar.get("height", "nan"))) for bar in root.iter("rect")]


def test_a_histogram_counts_every_value_once() -> None:
    bars = _bars([0.0, 0.01, 1.0, 2.0])
    assert bars == [(5.0, 60.0), (105.0, 30.0), (195.0, 30.0)]
    assert _bars([3.0]) == [(5.0, 60.0)]
    assert len(re.findall("<text", histogram([3.0], "one"))) == 1


def test_summary_of_one_file_has_no_deviation() -> None:
    assert metrics_report.Summary.of([2.0]) == (1, 2.0, None, 2.0, 2.0)
    assert math.isclose(metrics_report.Summary.of([1.0, 3.0]).sd or 0, math.sqrt(2))


def test_progress_is_reported(folders: tuple[Path, Path]) -> None:
    said: list[tuple[int, int]] = []
    judge(pairs(folders[1], folders[0]), Judge(), report=lambda done, total: said.append((done, total)))
    assert said == [(0, 3), (1, 3), (2, 3), (3, 3)]
