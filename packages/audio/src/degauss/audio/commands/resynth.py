"""`degauss-audio resynthesize`: what a vocoder makes of a recording, to hear and measure what it loses."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from degauss.core.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Resynthesize:
    """Take a recording's mel spectrogram and f0, and make sound of them again.

    Hardly any model that uses the vocoder can sound better than this. Writes the sound at the vocoder's rate, in one
    channel; beside it, NAME.json says what was lost and how long it took, and NAME.png shows it.
    """

    recording: Positional[Path]
    """A sound file of any rate (wav, flac, ogg, mp3)."""
    vocoder: str = "neural"
    """neural (shipped), world, griffin-lim, or the folder of one trained by 'train-vocoder'."""
    out: Path = Path("resynthesized.wav")
    """Sound file to write."""
    seed: int = 0
    """Everything random follows from it."""

    def run(self) -> None:
        import math
        import time

        from degauss.audio import pitch, waves
        from degauss.audio.plots import sound_picture
        from degauss.audio.spectra import log_mel
        from degauss.audio.vocoders import BUILT_IN, SHIPPED, copy_errors, open_vocoder
        from degauss.core.cli import provenance
        from degauss.core.files import atomic_path, fingerprint, write_json

        about, picture = self.out.with_suffix(".json"), self.out.with_suffix(".png")
        for path in (self.out, about, picture):
            if path.is_dir():
                raise InputError(f"{path}: is a directory; expected the name of a file to write.")
        if self.out.resolve() == self.recording.resolve():
            raise InputError(f"{self.out}: is the recording itself; expected another name to write to.")
        vocoder = open_vocoder(self.vocoder, seed=self.seed)
        config = vocoder.config
        wave = waves.read(self.recording)
        waves.check_audible(wave, self.recording)
        if wave.rate != config.rate:
            said = f"{self.recording} is at {wave.rate} Hz, and this vocoder works at {config.rate} Hz"
            print(
                f"{said}: resampled, so nothing above {min(wave.rate, config.rate) / 2:g} Hz is left.", file=sys.stderr
            )
        x = waves.mono(waves.resample(wave, config.rate))
        mel, f0 = log_mel(x, config), pitch.f0(x, config.rate, config.hop)
        if len(f0) < 2:
            raise InputError(f"{self.recording}: has {len(x)} samples; expected at least one hop of {config.hop}.")
        start = time.perf_counter()
        made = vocoder(mel, f0)
        seconds = time.perf_counter() - start
        sound = waves.Wave(made[None], config.rate)
        waves.write(self.out, sound)
        lost = copy_errors(mel, f0, made, config)
        trained = SHIPPED if self.vocoder == "neural" else Path(self.vocoder)
        facts = {
            "recording": str(self.recording),
            "vocoder": self.vocoder,
            "checkpoint_sha256": fingerprint(trained) if self.vocoder not in BUILT_IN[1:] else None,
            "seed": self.seed,
            "seconds": seconds,
            "real_time_factor": seconds / (len(made) / config.rate),
            "lost": {name: None if math.isnan(value) else value for name, value in lost._asdict().items()},
            "provenance": provenance(),
        }
        with atomic_path(about) as part:
            write_json(part, facts)
        sound_picture(picture, sound, config, f0, f"{self.recording.name} by {self.vocoder}")
        heard = "no voice" if math.isnan(lost.f0_cents) else f"f0 off by {lost.f0_cents:.1f} cents (median)"
        print(
            f"wrote {self.out}: log-mel distance {lost.log_mel:.3f}, {heard}, "
            f"real-time factor {facts['real_time_factor']:.3f}"
        )
