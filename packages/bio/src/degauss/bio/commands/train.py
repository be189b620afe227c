"""`degauss-bio train`: a model of one's own sequences."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from degauss.core.errors import InputError
from degauss.core.options import check_directory


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a model on sequences of equal length. Stop it and run it again: it goes on where it stopped.

    The model is written to OUT/model, for --model of the other verbs. Its card.json says how many bits a letter costs
    it on sequences that were held out, beside Markov models of the same sequences.
    """

    sequences: Positional[Path]
    """FASTA, GenBank, a table (.csv, .tsv with a column 'sequence') or plain text; also gzipped."""
    out: Path = Path("runs/sequences")
    """Directory of the run: checkpoints, metrics.jsonl, and at the end the model."""
    alphabet: Literal["DNA", "protein"] = "DNA"
    """What the letters are."""
    label: str | None = None
    """The column of a table (or the key in FASTA headers) that says a sequence's class."""
    held_out: float = 0.1
    """Share of the different sequences that is held out."""
    both_strands: bool = False
    """Turn DNA to its other strand half of the time; right for enhancers, wrong for promoters."""
    net: Literal["conv", "transformer"] = "conv"
    """The network: dilated convolutions, or a small diffusion transformer."""
    width: int = 96
    """Channels of the network."""
    depth: int = 6
    """Layers of the network."""
    dropout: float = 0.1
    """Share of the network's channels that are dropped in training."""
    dropped_labels: float = 0.1
    """Share of the sequences that are shown without their class, for guidance."""
    steps: int = 5000
    """Training steps."""
    batch: int = 64
    """Sequences a step."""
    lr: float = 2e-3
    """Peak learning rate."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Mixed precision, on a GPU."""
    seed: int = 0
    """Everything random follows from it."""
    device: Literal["auto", "cpu"] = "auto"
    """The accelerator if there is one, or the CPU."""

    def run(self) -> None:
        from degauss.bio.alphabets import alphabet_of
        from degauss.bio.model import ModelConfig
        from degauss.bio.sequences import read_sequences, tokens_of
        from degauss.bio.training import (
            Batch,
            MaskedLoss,
            Sequences,
            card_of,
            classes_of,
            fit,
            held_out,
            net_of,
            recipe,
        )
        from degauss.core.cli import write_resolved_config
        from degauss.core.files import fingerprint

        check_directory(self.out)
        if self.both_strands and self.alphabet != "DNA":
            raise InputError("both_strands is for DNA, but the alphabet is 'protein'.")
        records = read_sequences(self.sequences)
        tokens = tokens_of(self.sequences, records, alphabet_of(self.alphabet))
        names, labels = classes_of(self.sequences, records, self.label)
        net = net_of(self.net, tokens.shape[1], self.width, self.depth, self.dropout)
        config = ModelConfig(alphabet_of(self.alphabet), tokens.shape[1], net, names)
        MaskedLoss(config, self.dropped_labels)
        out = held_out([record.sequence for record in records], self.held_out, self.seed)
        settings = recipe(
            self.out,
            steps=self.steps,
            batch=self.batch,
            lr=self.lr,
            seed=self.seed,
            precision=self.precision,
            device=self.device,
            tracker="tensorboard",
        )
        data = Sequences(tokens[~out], labels[~out], tokens.shape[1], self.both_strands, self.seed)
        valid = Batch(tokens[out], labels[out])
        write_resolved_config(self.out / "train.toml", self)
        model = fit(config, data, valid, settings, self.dropped_labels)
        trained_on = {"file": str(self.sequences), "sha256": fingerprint(self.sequences)}
        card = card_of(model, data, valid, settings, trained_on)
        model.save(self.out / "model", card)
        bits = card["metrics"]
        print(
            f"wrote {self.out / 'model'} after {self.steps} steps: {bits['bits_per_letter']:.3f} bits a letter on "
            f"{len(valid.tokens)} held-out sequences, {min(bits['markov_bits_per_letter'].values()):.3f} by the best "
            "Markov model"
        )
