"""The public recordings: what they hold, and what is said where they are absent or damaged."""

from __future__ import annotations

import io
import struct
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from degauss.audio import datasets
from degauss.audio.datasets import (
    Digit,
    Oto,
    Syllable,
    noisy_pairs,
    read_frequencies,
    read_oto,
    read_voicebank,
    samples,
    unpacked,
)
from degauss.core.errors import InputError
from degauss.core.places import data_root


def needs(name: str) -> pytest.MarkDecorator:
    present = (data_root() / "audio" / name).exists()
    return pytest.mark.skipif(not present, reason=f"audio/{name} is not under DEGAUSS_DATA")


# --- the real sets ------------------------------------------------------------------------------------------


def test_the_digits_are_all_there(digits: list[Digit]):
    assert len(digits) == 3000
    speakers = {one.speaker for one in digits}
    assert speakers == {"george", "jackson", "lucas", "nicolas", "theo", "yweweler"}
    count = Counter((one.digit, one.speaker) for one in digits)
    assert set(count.values()) == {50}
    assert len(count) == 60
    assert sum(one.held_out for one in digits) == 300
    assert digits == sorted(digits, key=lambda one: one[1:])
    for one in digits[::500]:
        info = sf.info(one.path)
        assert (info.samplerate, info.channels) == (8000, 1)
        assert one.path.name == f"{one.digit}_{one.speaker}_{one.take}.wav"


def test_the_voicebank_is_all_there(voicebank: list[Syllable]):
    assert len(voicebank) == 101
    assert {one.romaji for one in voicebank} >= {"a", "ka", "shi", "tsu", "n", "ryo", "pya"}
    for one in voicebank:
        info = sf.info(one.path)
        assert info.samplerate == 44100
        assert one.table.hop == 256
        assert abs(len(one.table.f0) * 256 - info.frames) <= 256
        duration = info.frames / 44100
        assert 0 <= one.oto.offset < one.oto.end(duration) <= duration + 0.05
        assert one.oto.overlap > 0
        assert 0 < one.oto.preutterance <= one.oto.consonant


def test_the_voicebank_holds_its_notes(voicebank: list[Syllable]):
    """Within the part that may be stretched, a syllable stays within a semitone of its table's mean pitch."""
    off: list[float] = []
    for one in voicebank:
        first, last = one.oto.offset + one.oto.consonant, one.oto.end(sf.info(one.path).duration)
        inside = one.table.f0[int(first * 44100 / 256) : int(last * 44100 / 256)]
        off.append(abs(12 * np.log2(float(inside[inside > 0].median()) / one.table.mean)))
    assert np.quantile(off, 0.9) < 1


@needs("vbd_debug")
def test_the_noisy_pairs_belong_together():
    pairs = noisy_pairs()
    assert [pair.name for pair in pairs] == [f"p287_00{k}" for k in range(1, 7)]
    for pair in pairs:
        (clean, rate), (noisy, other) = sf.read(pair.clean), sf.read(pair.noisy)
        assert rate == other == 16000
        assert clean.shape == noisy.shape
        assert np.corrcoef(clean, noisy)[0, 1] > 0.5


@needs("samples")
def test_the_samples_have_names():
    found = samples()
    assert {"cmu_arctic_us_aew_a0001", "singing_8000", "doing_the_dishes"} <= found.keys()
    assert all(path.is_file() for path in found.values())


# --- absent or damaged --------------------------------------------------------------------------------------


@pytest.mark.parametrize("read", [datasets.digits, datasets.voicebank, noisy_pairs, samples])
def test_what_is_absent_is_said(read, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("DEGAUSS_DATA", str(tmp_path))
    with pytest.raises(InputError, match=r"does not exist; expected .* there, so set DEGAUSS_DATA"):
        read()


def packed(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:xz") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "degauss" / "audio"


def test_an_archive_is_unpacked_once_beside_none_of_the_data(cache: Path, tmp_path: Path):
    archive = packed(tmp_path / "data" / "set.tar.xz", {"set/a.txt": b"one"})
    folder = unpacked(archive)
    assert folder.parent == cache
    assert (folder / "set" / "a.txt").read_bytes() == b"one"
    (folder / "set" / "a.txt").write_bytes(b"touched")
    assert unpacked(archive) == folder
    assert (folder / "set" / "a.txt").read_bytes() == b"touched"  # not unpacked again
    other = unpacked(packed(archive, {"set/a.txt": b"two"}))
    assert other != folder
    assert (other / "set" / "a.txt").read_bytes() == b"two"
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["set.tar.xz"]


def test_an_archive_that_another_process_unpacked_meanwhile_is_used(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    archive = packed(tmp_path / "set.tar.xz", {"a.txt": b"one"})
    plain = tarfile.TarFile.extractall

    def slow(tar: tarfile.TarFile, path: Path, **options) -> None:
        plain(tar, path, **options)
        folder = cache / path.name.split("-", 2)[2]
        folder.mkdir()
        (folder / "a.txt").write_bytes(b"theirs")

    monkeypatch.setattr(tarfile.TarFile, "extractall", slow)
    assert (unpacked(archive) / "a.txt").read_bytes() == b"theirs"
    assert len(list(cache.iterdir())) == 1


def test_a_damaged_or_hostile_archive_leaves_nothing(cache: Path, tmp_path: Path):
    whole = packed(tmp_path / "whole.tar.xz", {"a.bin": np.random.default_rng(0).bytes(20000)}).read_bytes()
    (tmp_path / "cut.tar.xz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "no.tar.xz").write_bytes(b"not an archive")
    packed(tmp_path / "out.tar.xz", {"../../evil.txt": b"x"})
    for name in ("cut", "no", "out"):
        with pytest.raises(InputError, match=rf"{name}\.tar\.xz: cannot be unpacked"):
            unpacked(tmp_path / f"{name}.tar.xz")
    assert list(cache.iterdir()) == []
    assert not list(tmp_path.rglob("evil.txt"))


def test_archives_of_something_else_are_refused(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DEGAUSS_DATA", str(tmp_path))
    packed(tmp_path / "audio" / "ErithacusVB.tar.xz", {"a.txt": b"x"})
    packed(tmp_path / "audio" / "free-spoken-digit-dataset.tar.xz", {"a.txt": b"x"})
    with pytest.raises(InputError, match=r"holds no oto\.ini"):
        datasets.voicebank()
    with pytest.raises(InputError, match="holds no wav file"):
        datasets.digits()
    packed(tmp_path / "audio" / "free-spoken-digit-dataset.tar.xz", {"seven.wav": b"x"})
    with pytest.raises(InputError, match=r"seven\.wav: is not named as a digit"):
        datasets.digits()
    (tmp_path / "audio" / "vbd_debug" / "clean").mkdir(parents=True)
    (tmp_path / "audio" / "vbd_debug" / "clean" / "a.wav").touch()
    with pytest.raises(InputError, match=r"a\.wav is not in both clean and noisy"):
        noisy_pairs()


# --- UTAU's files -------------------------------------------------------------------------------------------


def test_oto_is_read_in_seconds_and_in_shift_jis(tmp_path: Path):
    path = tmp_path / "oto.ini"
    path.write_bytes("あ.wav=あ,100,50,-400,20,10\r\n\r\nka.wav=,100.5,,80,,\r\n".encode("cp932"))
    (a, ka) = read_oto(path)
    assert a == ("あ.wav", "あ", Oto(0.1, 0.05, -0.4, 0.02, 0.01))
    assert a[2].end(2.0) == pytest.approx(0.5)  # a length from the offset
    assert ka == ("ka.wav", "", Oto(0.1005, 0.0, 0.08, 0.0, 0.0))
    assert ka[2].end(2.0) == pytest.approx(1.92)  # cut from the end


@pytest.mark.parametrize("line", ["ka.wav=ka,1,2,3,4", "ka.wav", "ka.wav=ka,1,2,x,4,5"])
def test_a_bad_line_of_oto_is_named(tmp_path: Path, line: str):
    path = tmp_path / "oto.ini"
    path.write_text(f"a.wav=a,1,2,3,4,5\n{line}\n")
    with pytest.raises(InputError, match=r"oto\.ini, line 2: .*; expected FILE=ALIAS"):
        read_oto(path)


def table(frames: int, f0: list[float]) -> bytes:
    header = b"FREQ0003" + struct.pack("<id", 256, 120.0) + bytes(16) + struct.pack("<i", frames)
    return header + b"".join(struct.pack("<dd", hz, 1000.0 + k) for k, hz in enumerate(f0))


def test_frequencies_are_read(tmp_path: Path):
    path = tmp_path / "a_wav.frq"
    path.write_bytes(table(3, [0.0, 110.0, 112.5]))
    found = read_frequencies(path)
    assert (found.hop, found.mean) == (256, 120.0)
    assert found.f0.tolist() == [0.0, 110.0, 112.5]
    assert found.amplitude.tolist() == [1000.0, 1001.0, 1002.0]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"RIFF" + bytes(60), r"begins with b'RIFF.*; expected an UTAU frequency table"),
        (b"FREQ0003", "begins with b'FREQ0003'"),
        (table(3, [1.0, 2.0]), "is 32 bytes after its header; expected 48, for 3 frames"),
        (table(1, [float("nan")]), "not finite"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, content: bytes, complaint: str):
    path = tmp_path / "a_wav.frq"
    path.write_bytes(content)
    with pytest.raises(InputError, match=complaint):
        read_frequencies(path)


def test_a_voicebank_that_lacks_a_file_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"oto\.ini: does not exist"):
        read_voicebank(tmp_path)
    (tmp_path / "oto.ini").write_text("a.wav=,1,2,3,4,5\n")
    with pytest.raises(InputError, match=r"oto\.ini: names a\.wav, but there is no such file"):
        read_voicebank(tmp_path)
    (tmp_path / "a.wav").touch()
    with pytest.raises(InputError, match=r"a_wav\.frq: does not exist"):
        read_voicebank(tmp_path)
    (tmp_path / "a_wav.frq").write_bytes(table(1, [100.0]))
    (one,) = read_voicebank(tmp_path)
    assert one.romaji == "a"
    (tmp_path / "oto.ini").write_bytes(b"\x81\n")
    with pytest.raises(InputError, match="is not Shift-JIS text"):
        read_voicebank(tmp_path)
