"""Train the enhancement model that the package ships: a mask at 16 kHz, for noise and some reverberation.

    python packages/audio/examples/train_shipped_enhancer.py OUT [--steps N] [--score] [--install]

It is a predictive model, the first stage of StoRM: the second one, diffusion around what the first says, wants a GPU.
Interrupt it and run it again: it goes on where it stopped. The defaults take about 25 minutes on one CPU core.
``OUT/model`` is the model, with its ``card.json`` beside it; with ``--score`` an existing one is only measured, with
``--install`` it is copied to where `degauss-audio enhance` looks for it.

Speech: the Free Spoken Digit Dataset, the Erithacus voicebank, and the sentences of ``examples/data/sentences.txt`` as
flite's and espeak-ng's voices say them (where these are installed), most played at several speeds, as other people
would sound, and all through microphones that differ. Noises: a kitchen and an exercise bike at several speeds, babble
of the same people, and noises that are made. One mixture in five is spoken in a simulated room (where pyroomacoustics
is installed).

It is measured on people and noises that it never heard: two speakers of CMU ARCTIC in a street and in what was added to
VoiceBank-DEMAND, and six of VoiceBank-DEMAND's own pairs.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
from torch import Tensor

from degauss.audio import datasets, synthetic
from degauss.audio.enhancement import SHIPPED, Enhancer, EnhancerConfig, Pairs, enhance
from degauss.audio.enhancement_training import fit, recipe
from degauss.audio.masker import MASK_LOSS, MaskerConfig
from degauss.audio.metrics import si_sdr
from degauss.audio.mixtures import Mixtures, babble, excerpt, mix
from degauss.audio.preparation import Flite
from degauss.audio.rooms import SomeInRooms
from degauss.audio.spectra import Compressed
from degauss.audio.speech_metrics import dnsmos, estoi, pesq_wideband
from degauss.audio.waves import Wave, mono, read, resample
from degauss.core.errors import InputError
from degauss.core.noise import Noise
from degauss.core.options import progress
from degauss.core.shipping import made_by, parser, settings_of, ship
from degauss.core.train import Data

RATE = 16000
# Frames of 32 ms that overlap by half, not by three quarters: half of the work in training and in use.
CONFIG = EnhancerConfig(
    rate=RATE,
    spectrum=Compressed(n_fft=510, hop=255),
    predictive=MaskerConfig(),
    score=None,
    by_magnitude=MASK_LOSS,
)
SECONDS, SNR, TILT, COLOUR, IN_ROOMS = 1.5, (-5.0, 20.0), 4.0, 5.0, 0.2

SENTENCES = Path(__file__).parent / "data" / "sentences.txt"
FLITE = ("slt", "rms", "awb", "kal16")
ESPEAK = (
    "Alicia", "Andrea", "Andy", "Annie", "Denis", "Diogo", "Gene", "Hugo",
    "Jacky", "Lee", "Linda", "Marco", "Michael", "Mike", "Pablo", "Paul",
)  # fmt: skip
SAID = 24  # sentences of each of espeak-ng's voices
# What is played faster is higher, of smaller people. Digits are recorded at 8 kHz and so have nothing above 4 kHz:
# played at twice the speed they fill the band.
SPEEDS = {"digits": (1.0, 1.25, 1.6, 2.0), "flite": (0.85, 0.93, 1.0, 1.08, 1.17, 1.28), "sung": (0.9, 1.0, 1.12)}
NOISE_SPEEDS = (0.7, 1.0, 1.4)
KEPT = 20.0  # s at the end of a recorded noise, for validation

RATIOS = (0.0, 5.0, 10.0)  # dB
Voices = dict[str, list[Tensor]]


# --- who speaks -----------------------------------------------------------------------------------------------


def at_speed(wave: Wave, speed: float) -> Tensor:
    """The sound at the model's rate, ``speed`` times as fast and as high."""
    return mono(resample(Wave(wave.samples, round(wave.rate * speed)), RATE))


def spread(voices: Voices, name: str, takes: Iterable[Wave], speeds: tuple[float, ...]) -> None:
    """Each take at one of the speeds in turn; a speed of somebody is a voice."""
    for number, wave in enumerate(takes):
        speed = speeds[number % len(speeds)]
        voices.setdefault(f"{name} x {speed:g}", []).append(at_speed(wave, speed))


def heard(held_out: bool) -> Voices:
    """Training voices, or other takes and sentences of the same."""
    voices: Voices = {}
    takes = [take for take in datasets.digits() if take.held_out == held_out]
    for speaker in sorted({take.speaker for take in takes}):
        own = (read(take.path) for take in takes if take.speaker == speaker)
        spread(voices, speaker, own, SPEEDS["digits"])
    syllables = datasets.voicebank()
    sung = (read(one.path) for number, one in enumerate(syllables) if (number % 15 == 7) == held_out)
    spread(voices, "Erithacus", sung, SPEEDS["sung"])
    sentences = [line for line in SENTENCES.read_text(encoding="utf-8").split("\n") if line]
    chosen = [line for number, line in enumerate(sentences) if (number % 15 == 7) == held_out]
    if told("flite"):
        for voice in FLITE:
            spread(voices, f"flite's {voice}", (Flite(line, voice).read()[0] for line in chosen), SPEEDS["flite"])
    if told("espeak-ng"):
        for number, voice in enumerate(ESPEAK):
            own = [chosen[(SAID * number + k) % len(chosen)] for k in range(min(SAID, len(chosen)))]
            spread(voices, f"espeak-ng's {voice}", (espoken(line, voice) for line in own), (1.0,))
    return voices


def told(program: str) -> bool:
    """Whether a program that speaks is there; it is said where it is not."""
    there = shutil.which(program) is not None
    if not there:
        print(f"{program} is not installed: training without its voices")
    return there


def espoken(text: str, voice: str) -> Wave:
    """What one of espeak-ng's voices says."""
    with tempfile.TemporaryDirectory() as folder:
        sound = Path(folder) / "said.wav"
        subprocess.run(["espeak-ng", "-v", f"en-us+{voice}", "-w", str(sound), text], check=True, timeout=60)
        return read(sound)


# --- in what noise --------------------------------------------------------------------------------------------


def restless(length: int, seed: int) -> Tensor:
    """Noise whose octaves swell and fade by themselves, twice a second or so, by some 10 dB."""
    spectrum = torch.fft.rfft(synthetic.pink(length, seed))
    octave = torch.fft.rfftfreq(length, 1 / RATE).clamp_min(62.5).div(62.5).log2().floor()
    total = torch.zeros(length)
    for number in range(int(octave.max()) + 1):
        band = torch.fft.irfft(spectrum * (octave == number), n=length)
        knots = Noise(seed, [1 + number]).normal(torch.empty(1, 1, 2 + 2 * length // RATE))
        swell = torch.nn.functional.interpolate(knots, length, mode="linear", align_corners=True)[0, 0]
        total += band * torch.exp(1.2 * swell)
    return total


def noises(voices: Voices, held_out: bool) -> list[Tensor]:
    """Training noises; or the ends of the recorded ones, and other draws of those that are made."""
    recorded, kept = datasets.samples(), round(KEPT * RATE)
    found: list[Tensor] = []
    for name in ("doing_the_dishes", "exercise_bike"):
        whole = at_speed(read(recorded[name]), 1.0)
        part = Wave((whole[-kept:] if held_out else whole[:-kept])[None], RATE)
        found += [at_speed(part, speed) for speed in (1.0,) * held_out or NOISE_SPEEDS]
    length, seed = 20 * RATE, 100 * held_out
    found += [babble(voices, length, seed + k, many, RATE) for k, many in enumerate((3, 6, 12))]
    found += [restless(length, seed + k) for k in range(4)]
    found += [synthetic.pink(length, seed), synthetic.white(length, seed), synthetic.clicks(length, RATE, seed)]
    return [*found, *(synthetic.hum(length, RATE, frequency) for frequency in (50.0, 60.0))]


def pairs(held_out: bool) -> Data[Pairs]:
    voices = heard(held_out)
    found = noises(voices, held_out)
    minutes = sum(len(take) for takes in voices.values() for take in takes) / RATE / 60
    print(f"{len(voices)} voices, {minutes:.0f} minutes; {len(found)} noises")
    mixtures = Mixtures(list(voices.values()), found, RATE, SECONDS, SNR, TILT, int(held_out), COLOUR)
    if importlib.util.find_spec("pyroomacoustics") is None:
        print("pyroomacoustics is not installed: training without rooms")
        return mixtures
    return SomeInRooms(mixtures, IN_ROOMS)


# --- how good it is -------------------------------------------------------------------------------------------


class Case(NamedTuple):
    """A sound ``[n]`` at the model's rate, clean and noisy."""

    clean: Tensor
    noisy: Tensor


class Scores(NamedTuple):
    """Means over sounds: PESQ (wide band), ESTOI, SI-SDR in dB, and DNSMOS's opinion of the speech and of all."""

    pesq_wb: float
    estoi: float
    si_sdr: float
    dnsmos_signal: float
    dnsmos_overall: float


def real_pairs() -> list[Case]:
    return [Case(at_speed(read(pair.clean), 1.0), at_speed(read(pair.noisy), 1.0)) for pair in datasets.noisy_pairs()]


def mixed() -> list[Case]:
    """Sentences of CMU ARCTIC, each in a noise of the test at each ratio."""
    recorded = datasets.samples()
    speech = [at_speed(read(path), 1.0) for name, path in recorded.items() if name.startswith("cmu_arctic")]
    street = at_speed(read(recorded["noise_freesound_573577"]), 1.0)
    unheard = [street, *(pair.noisy - pair.clean for pair in real_pairs())]
    cases: list[Case] = []
    for number, clean in enumerate(speech):
        for ratio in RATIOS:
            noise = unheard[len(cases) % len(unheard)]
            noisy = mix(clean, excerpt(noise, len(clean), number / len(speech)), ratio, RATE)
            peak = noisy.abs().max()
            cases.append(Case(clean / peak, noisy / peak))
    return cases


def judged(cases: list[Case], system: Callable[[Tensor, int], Tensor]) -> dict[str, float]:
    rows: list[Scores] = []
    for number, (clean, noisy) in enumerate(cases):
        made = system(noisy, number)
        truth, found = Wave(clean[None], RATE), Wave(made[None].float(), RATE)
        opinion = dnsmos(found)
        ratio = float(si_sdr(clean.double(), made.double()))
        rows.append(Scores(pesq_wideband(truth, found), estoi(truth, found), ratio, opinion.signal, opinion.overall))
    means = Scores(*(fmean(column) for column in zip(*rows, strict=True)))
    return {name: round(value, 3) for name, value in means._asdict().items()}


def measured(model: Enhancer) -> dict[str, Any]:
    """Of sounds as they were, and of what the model makes of them; and what that costs."""

    def left(sound: Tensor, number: int) -> Tensor:
        del number
        return sound

    def cleaned(sound: Tensor, number: int) -> Tensor:
        return enhance(sound, model, number=number)

    real = real_pairs()
    sets = {
        "CMU ARCTIC, 2 speakers, at 0, 5 and 10 dB": mixed(),
        "VoiceBank-DEMAND p287, six pairs": real,
    }
    rows: dict[str, Any] = {}
    with progress("measuring") as report:
        for done, (where, cases) in enumerate(sets.items()):
            report(done, len(sets))
            rows[where] = {"as it was": judged(cases, left), "cleaned": judged(cases, cleaned)}
    clean = [Case(case.clean, case.clean) for case in real]
    rows["VoiceBank-DEMAND p287, clean to begin with"] = {"cleaned": judged(clean, cleaned)}
    return {
        "what": "people and noises that were not trained on; means over files",
        **rows,
        "real_time_factor": round(real_time(cleaned), 3),
    }


def real_time(system: Callable[[Tensor, int], Tensor]) -> float:
    """Seconds of this thread for a second of sound."""
    noisy = real_pairs()[2].noisy
    system(noisy, 0)
    start = time.thread_time()
    system(noisy, 0)
    return (time.thread_time() - start) / (len(noisy) / RATE)


def card(model: Enhancer, arguments: argparse.Namespace) -> dict[str, Any]:
    said = {
        "flite": f"speech made for this by flite's voices {', '.join(FLITE)} (CMU's permissive licence)",
        "espeak-ng": f"speech made for this by {len(ESPEAK)} voices of espeak-ng",
    }
    return {
        **made_by("enhancer", "packages/audio/examples/train_shipped_enhancer.py", arguments),
        "trained_on": [
            "Free Spoken Digit Dataset, takes 5 to 49, at four speeds (CC BY-SA 4.0)",
            "Erithacus voicebank, by Erithacus, at three speeds (CC BY 4.0)",
            *(line for program, line in said.items() if shutil.which(program)),
            "noises: two recordings of pyroomacoustics' examples (MIT), babble of the same voices, and made ones",
        ],
        "licence": "CC BY-SA 4.0",
        "method": model.config.method,
        "rate": RATE,
        "spectrum": asdict(model.config.spectrum),
        "parameters": sum(weight.numel() for weight in model.network.parameters()),
        "metrics": measured(model),
    }


def main() -> None:
    torch.set_num_threads(1)
    arguments = parser(__doc__, steps=3000, batch=16, lr=2e-3).parse_args()
    if arguments.score:
        model = Enhancer.load(arguments.out / "model")
    else:
        model = fit(CONFIG, pairs(False), recipe(arguments.out, **settings_of(arguments)), valid=pairs(True))
    ship(arguments, card(model, arguments), SHIPPED)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        raise SystemExit(str(error)) from None
