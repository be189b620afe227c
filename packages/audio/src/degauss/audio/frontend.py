r"""From phones and notes to one condition a frame: the front end that every acoustic model here shares.

    phones, notes, slurs --FFT blocks--> + voice --durations--> repeated over frames --f0--> condition

An **FFT block** is self-attention and two convolutions, each with a residual and a LayerNorm before it. The
**duration predictor** says ln(1 + frames) of each phone. The **length regulator** repeats each phone over its frames.
The **pitch predictor** says, for each frame, how many semitones f0 lies above a reference, and whether there is a
voice at all. The reference is the note that is sung then, or where none is, the mean pitch of the voice; so one
predictor serves speech (melody of a voice) and singing (a singer's way with a note).

Durations in seconds become whole frames by rounding their running sum, so errors never add up: phone k begins at frame
round(fps * sum of the durations before it), within half a frame of its time, however long the utterance.

Padding changes nothing: whatever stands beyond the end of an utterance, its own part of every result is the same.

Reference: Ren et al. 2021, "FastSpeech 2: Fast and High-Quality End-to-End Text to Speech" (ICLR); for notes and slurs
Liu et al. 2022, "DiffSinger" (AAAI), and its published code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from degauss.core.errors import InputError, check_range
from degauss.core.nets.embedding import sinusoidal

# The share of the predictors' gradient that reaches the encoder, as published.
_PREDICTOR_GRADIENT = 0.1
_NOTES = 128


class Batch(NamedTuple):
    """Utterances, padded with zeros at their ends. p phones, n frames.

    ``phones`` int64 ``[b, p]``: numbers from 1, 0 is padding. ``durations`` int64 ``[b, p]``: frames.
    ``voices`` int64 ``[b]``. ``notes`` ``[b, p]``: the MIDI number of the note that a phone is sung on, 0 for none;
    ``note_seconds`` ``[b, p]``: how long it is, with its slurs; ``slurs`` int64 ``[b, p]``: 1 where it has any.
    ``melody`` ``[b, n]``: the MIDI number of the note at each frame, 0 for none. ``f0`` ``[b, n]``: Hz, 0 where
    unvoiced. ``mel`` ``[b, mels, n]``: log-mels as `spectra.log_mel` gives them; ``[b, mels, 0]`` where unknown.
    """

    phones: Tensor
    durations: Tensor
    voices: Tensor
    notes: Tensor
    note_seconds: Tensor
    slurs: Tensor
    melody: Tensor
    f0: Tensor
    mel: Tensor


@dataclass(frozen=True)
class FrontendConfig:
    """The sizes of the front end; the published ones are hidden 256, 4 blocks, 2 heads, kernel 9, expansion 4.

    ``phones``, ``voices``: how many there are. ``expansion``: inner channels of an FFT block over ``hidden``.
    """

    phones: int
    voices: int = 1
    hidden: int = 128
    blocks: int = 3
    heads: int = 2
    kernel: int = 9
    expansion: int = 2
    dropout: float = 0.1

    def __post_init__(self) -> None:
        for name in ("phones", "voices", "blocks", "heads", "kernel", "expansion"):
            check_range(name, getattr(self, name), 1)
        check_range("hidden", self.hidden, 4)
        check_range("dropout", self.dropout, 0, 1)
        if self.hidden % (2 * self.heads):
            raise InputError(f"hidden must be a multiple of 2 x heads = {2 * self.heads}, but is {self.hidden}.")
        if not self.kernel % 2:
            raise InputError(f"kernel must be odd, but is {self.kernel}.")


# --- time ---------------------------------------------------------------------------------------------------


def whole_frames(lengths: Tensor) -> Tensor:
    """Lengths in frames ``[..., p]``, fractions allowed, as whole frames: int64, by rounding their running sum.

    The total is the rounded total, and every boundary within half a frame of where it belongs.
    """
    ends = torch.cumsum(lengths.double(), -1).round().long()
    return torch.diff(ends, dim=-1, prepend=torch.zeros_like(ends[..., :1]))


def repeat(x: Tensor, durations: Tensor, frames: int) -> Tensor:
    """The length regulator: each of ``x [b, p, ...]`` over its ``durations [b, p]`` frames, ``[b, frames, ...]``.

    Zero after the end of a row.
    """
    ends = durations.cumsum(1)
    places = torch.arange(frames, device=x.device).expand(len(x), -1).contiguous()
    source = torch.searchsorted(ends, places, right=True)
    inside = source < x.shape[1]
    source = source.clamp(max=x.shape[1] - 1)
    rows = torch.arange(len(x), device=x.device)[:, None]
    out = x[rows, source]
    return out * inside.reshape(*inside.shape, *[1] * (out.ndim - 2)).to(out.dtype)


def frames_inside(durations: Tensor, frames: int) -> Tensor:
    """1 on the frames of each row and 0 after them: float32 ``[b, frames]``."""
    places = torch.arange(frames, device=durations.device)
    return (places < durations.sum(1, keepdim=True)).float()


# --- pitch --------------------------------------------------------------------------------------------------


def midi_of(f0: Tensor) -> Tensor:
    """MIDI numbers, with fractions, of frequencies in Hz; 0 stays 0."""
    return torch.where(f0 > 0, 69 + 12 * torch.log2(f0.clamp(min=1e-3) / 440), 0.0)


def hz_of(midi: Tensor) -> Tensor:
    """Frequencies in Hz of MIDI numbers."""
    return 440 * torch.exp2((midi - 69) / 12)


class PitchEmbedding(nn.Module):
    """MIDI numbers ``[...]``, 0 for no pitch, to ``[..., hidden]``.

    A vector for each semitone, linear in between, and a straight line: the first tells notes apart, the second carries
    over to notes that are rare in the training data.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.semitones = nn.Embedding(_NOTES, hidden)
        self.line = nn.Linear(1, hidden, bias=False)
        nn.init.normal_(self.semitones.weight, std=hidden**-0.5)

    def forward(self, midi: Tensor) -> Tensor:
        place = midi.clamp(1, _NOTES - 1.001)
        low = place.floor()
        share = (place - low)[..., None]
        index = low.long()
        between = torch.lerp(self.semitones(index), self.semitones(index + 1), share)
        known = between + self.line((place[..., None] - 60) / 12)
        return torch.where((midi > 0)[..., None], known, self.semitones.weight[0])


# --- blocks -------------------------------------------------------------------------------------------------


class FFTBlock(nn.Module):
    """``(x [b, n, hidden], inside [b, n]) -> [b, n, hidden]``, zero outside."""

    def __init__(self, config: FrontendConfig) -> None:
        super().__init__()
        hidden, inner = config.hidden, config.expansion * config.hidden
        self.heads = config.heads
        self.attention_norm = nn.LayerNorm(hidden)
        self.query_key_value = nn.Linear(hidden, 3 * hidden, bias=False)
        self.attention_out = nn.Linear(hidden, hidden, bias=False)
        self.norm = nn.LayerNorm(hidden)
        self.wide = nn.Conv1d(hidden, inner, config.kernel, padding=config.kernel // 2)
        self.narrow = nn.Linear(inner, hidden)
        self.dropout = nn.Dropout(config.dropout)
        nn.init.xavier_uniform_(self.query_key_value.weight)

    def forward(self, x: Tensor, inside: Tensor) -> Tensor:
        x = x + self.dropout(self._attend(self.attention_norm(x), inside))
        # The convolution must see zeros beyond the end, as it does where an utterance is alone.
        padded = self.norm(x) * inside[..., None]
        inner = self.dropout(F.gelu(self.wide(padded.mT).mT))
        return (x + self.dropout(self.narrow(inner))) * inside[..., None]

    def _attend(self, x: Tensor, inside: Tensor) -> Tensor:
        b, n, hidden = x.shape
        parts = self.query_key_value(x).view(b, n, 3, self.heads, hidden // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=inside.bool()[:, None, None, :])
        return self.attention_out(mixed.transpose(1, 2).reshape(b, n, hidden))


class FFTStack(nn.Module):
    """Positions, so many FFT blocks, and a LayerNorm: ``(x [b, n, hidden], inside [b, n]) -> [b, n, hidden]``."""

    def __init__(self, config: FrontendConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(FFTBlock(config) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(config.hidden)
        self.position_scale = nn.Parameter(torch.ones(()))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, inside: Tensor) -> Tensor:
        places = torch.arange(x.shape[1], device=x.device, dtype=x.dtype)
        x = self.dropout(x + self.position_scale * sinusoidal(places, x.shape[2]).to(x.dtype)) * inside[..., None]
        for block in self.blocks:
            x = block(x, inside)
        return self.norm(x) * inside[..., None]


class Predictor(nn.Module):
    """Convolutions over places: ``(x [b, n, hidden], inside [b, n]) -> [b, n, outputs]``."""

    def __init__(self, hidden: int, outputs: int, layers: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv1d(hidden, hidden, kernel, padding=kernel // 2) for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(layers))
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor, inside: Tensor) -> Tensor:
        x = x.detach() + _PREDICTOR_GRADIENT * (x - x.detach())
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = convolution((x * inside[..., None]).mT).mT
            x = self.dropout(norm(F.relu(x)))
        return self.out(x)


# --- the whole ----------------------------------------------------------------------------------------------


class Pitch(NamedTuple):
    """What the pitch predictor says of each frame: ``semitones`` above the reference, and the log-odds of a voice.

    ``reference``: a MIDI number. All ``[b, n]``.
    """

    semitones: Tensor
    voiced: Tensor
    reference: Tensor

    @property
    def f0(self) -> Tensor:
        """Hz, 0 where more likely unvoiced than voiced."""
        return hz_of(self.reference + self.semitones) * (self.voiced > 0)


class Frontend(nn.Module):
    """See the module. ``voice_pitch``: the mean pitch of each voice as a MIDI number, ``[voices]``."""

    voice_pitch: Tensor

    def __init__(self, config: FrontendConfig, voice_pitch: Tensor) -> None:
        super().__init__()
        if voice_pitch.shape != (config.voices,):
            raise ValueError(f"voice_pitch is {tuple(voice_pitch.shape)}, expected ({config.voices},)")
        hidden = config.hidden
        self.config = config
        self.phone = nn.Embedding(config.phones + 1, hidden, padding_idx=0)
        self.voice = nn.Embedding(config.voices, hidden)
        self.note = PitchEmbedding(hidden)
        self.note_length = nn.Linear(1, hidden)
        self.slur = nn.Embedding(2, hidden)
        self.encoder = FFTStack(config)
        self.duration = Predictor(hidden, 1, 2, 3, config.dropout)
        self.melody = PitchEmbedding(hidden)
        self.pitch_predictor = Predictor(hidden, 2, 4, 5, config.dropout)
        self.pitch = PitchEmbedding(hidden)
        self.register_buffer("voice_pitch", voice_pitch.float())
        for embedding in (self.phone, self.voice, self.slur):
            nn.init.normal_(embedding.weight, std=hidden**-0.5)
        nn.init.zeros_(self.phone.weight[0])  # pyright: ignore[reportArgumentType]

    def encode(self, batch: Batch) -> Tensor:
        """What is known of each phone, ``[b, p, hidden]``."""
        sung = (batch.notes > 0)[..., None].to(batch.notes.dtype)
        length = self.note_length(torch.log1p(batch.note_seconds)[..., None]) * sung
        x = self.phone(batch.phones) + self.note(batch.notes) + length + self.slur(batch.slurs)
        inside = phones_inside(batch)
        return (self.encoder(x, inside) + self.voice(batch.voices)[:, None]) * inside[..., None]

    def log_durations(self, batch: Batch, encoded: Tensor) -> Tensor:
        """ln(1 + frames) of each phone, ``[b, p]``."""
        return self.duration(encoded, phones_inside(batch))[..., 0]

    def predict_pitch(self, batch: Batch, encoded: Tensor) -> Pitch:
        """The pitch of each frame, from the phones, their durations and the melody; f0 of the batch is not seen."""
        frames = batch.melody.shape[1]
        told = repeat(encoded, batch.durations, frames) + self.melody(batch.melody)
        said = self.pitch_predictor(told, frames_inside(batch.durations, frames))
        reference = torch.where(batch.melody > 0, batch.melody, self.voice_pitch[batch.voices][:, None])
        # In octaves inside, so that its scale is that of the other losses.
        return Pitch(12 * said[..., 0], said[..., 1], reference)

    def condition(self, batch: Batch, encoded: Tensor) -> Tensor:
        """What the decoder and the denoiser are told, ``[b, hidden, n]``: zero beyond the end, and only there."""
        frames = batch.f0.shape[1]
        inside = frames_inside(batch.durations, frames)
        told = repeat(encoded, batch.durations, frames) + self.pitch(midi_of(batch.f0))
        return (told * inside[..., None]).mT.contiguous()


def phones_inside(batch: Batch) -> Tensor:
    """1 on the phones of each row and 0 after them: float32 ``[b, p]``."""
    return (batch.phones > 0).float()
