"""The command line `degauss-bio`."""

from __future__ import annotations

from degauss.core.cli import Program, Verb

PROGRAM = Program(
    name="degauss-bio",
    summary="diffusion models for DNA and protein design",
    verbs={
        "generate": Verb("degauss.bio.commands.generate:Generate", "Draw sequences from a model"),
        "invfold": Verb("degauss.bio.commands.invfold:Invfold", "Design sequences for a protein's backbone"),
        "infill": Verb("degauss.bio.commands.infill:Infill", "Fill the free places of sequences"),
        "design": Verb("degauss.bio.commands.design:Design", "Design sequences that rewards like, under constraints"),
        "finetune": Verb("degauss.bio.commands.finetune:Finetune", "Fine-tune a model towards rewards"),
        "train": Verb("degauss.bio.commands.train:Train", "Train a model on sequences of one's own"),
        "score": Verb("degauss.bio.commands.score:Score", "Score sequences by rewards, novelty and complexity"),
        "evaluate": Verb("degauss.bio.commands.evaluate:Evaluate", "Judge designs beside natural sequences"),
        "train-predictor": Verb(
            "degauss.bio.commands.train_predictor:TrainPredictor", "Train an oracle of activity or fitness"
        ),
    },
)


def main() -> int:
    """Run the command line and return its exit status."""
    return PROGRAM.main()
