"""`degauss-audio sing`: a song from its notes and words."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from degauss.audio.commands.acoustic_options import VoiceOptions, check_sound, write_sound
from degauss.core.options import progress


@dataclass(frozen=True, kw_only=True)
class Sing(VoiceOptions):
    """Sing a song: a .ds file of DiffSinger, MIDI or MusicXML with lyrics.

    Beside the sound go a picture of it (.png) and what was done (.json). The sound begins where the song does.
    """

    song: Positional[Path]
    """The song: .ds, .mid or .musicxml (.mxl, .xml)."""
    out: Path = Path("song.wav")
    """The sound to write."""
    transpose: float = 0.0
    """Semitones up, or down below 0: to bring a song into the range of a voice."""
    language: Literal["japanese", "english"] = "japanese"
    """Of the lyrics of MIDI and MusicXML; a .ds file has its phones already."""
    lyric: str | None = None
    """Sing all of it on this one syllable."""
    part: str | None = None
    """The part to sing, by name (MusicXML)."""
    track: int | None = None
    """The track to sing, from 0 (MIDI); the one with most lyrics unless given."""
    verse: int = 1
    """The verse to sing (MusicXML)."""
    tempo: float | None = None
    """Quarters a minute (MusicXML); what is written unless given."""
    picture: bool = True
    """Whether to draw the picture."""

    def run(self) -> None:
        from degauss.audio.songs import Reading, read_song
        from degauss.audio.synthesis import check_song, sing, transposed

        check_sound(self.out)
        reading = Reading(self.language, self.lyric, self.part, self.verse, self.track, self.tempo)
        score = read_song(self.song, reading)
        opened = self.opened("singing")
        model = opened.model
        voice = model.config.voices[model.voice(self.voice)]
        segments = [transposed(segment, self.transpose) for segment in score] if self.transpose else list(score)
        check_song(model, voice, segments, self.song)
        with progress("singing") as report:
            song = sing(model, segments, opened.vocoder, opened.sampling, voice=voice, report=report)
        about = {"song": self.song.name, "transpose": self.transpose, **song.report}
        write_sound(self.out, song.wave, song.f0, opened, about, self.song.stem, self.picture)
        factor = song.report["real_time_factor"]
        print(f"wrote {self.out}: {song.wave.duration:.2f} s, {len(segments)} phrases at {factor:.2f} of real time")
