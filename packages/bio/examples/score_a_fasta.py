"""Score sequences that you have: rewards, and what a model of DNA finds of them.

    python packages/bio/examples/score_a_fasta.py [my.fasta] [--reward motif:TGASTCA ...] [--model FOLDER]

Sequences must be of the model's length. Without a file, four are made up: two that the model drew itself, one of even
letters, and a repeat, which the model may well find the likeliest of all. Many scores at once, for any length, are
those of `degauss-bio score`.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from _model import open_model

from degauss.bio.metrics import dinucleotide_entropy
from degauss.bio.model import SequenceModel
from degauss.bio.rewards import evaluate, parse_reward
from degauss.bio.sequences import Record, read_sequences, tokens_of
from degauss.core.errors import InputError
from degauss.core.jump import first_hitting, sample_tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sequences", type=Path, nargs="?")
    parser.add_argument("--reward", nargs="+", default=["motif:consensus=TGASTCA", "gc:.4-.6", "homopolymer:5"])
    parser.add_argument("--model", help="folder of a model of DNA")
    arguments = parser.parse_args()

    model = open_model(arguments.model)
    source = arguments.sequences or Path("made up")
    records = made_up(model) if arguments.sequences is None else read_sequences(source)
    tokens = tokens_of(source, records, model.alphabet)
    if tokens.shape[1] != model.length:
        raise InputError(f"{source}: has sequences of {tokens.shape[1]} letters; the model takes {model.length}.")

    rewards = [parse_reward(text) for text in arguments.reward]
    bits = -model.log_prob(tokens).nats / (model.length * math.log(2))
    columns = {reward.name: evaluate(reward, tokens) for reward in rewards}
    columns |= {"bits a letter": bits, "entropy of pairs": dinucleotide_entropy(tokens)}
    print("\t".join(["name", *columns]))
    for row, record in enumerate(records):
        print("\t".join([record.name, *(f"{values[row]:.3f}" for values in columns.values())]))


def made_up(model: SequenceModel) -> list[Record]:
    with torch.inference_mode():
        drawn = sample_tokens(
            model.denoiser(), model.process, (2, model.length), solver=first_hitting(), steps=model.length
        )
    even = torch.randint(4, (1, model.length), generator=torch.Generator().manual_seed(0))
    first, second, third = model.alphabet.decode(torch.cat([drawn, even]))
    repeat = ("AT" * model.length)[: model.length]
    names = ("drawn_1", "drawn_2", "even_letters", "repeat")
    return [Record(name, sequence) for name, sequence in zip(names, (first, second, third, repeat), strict=True)]


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        raise SystemExit(str(error)) from None
