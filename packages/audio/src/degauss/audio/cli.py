"""The command line `degauss-audio`."""

from __future__ import annotations

from degauss.core.cli import Program, Verb

PROGRAM = Program(
    name="degauss-audio",
    summary="diffusion models for speech, singing and sound",
    verbs={
        "speak": Verb("degauss.audio.commands.speak:Speak", "Text to speech"),
        "sing": Verb("degauss.audio.commands.sing:Sing", "Sing a song: .ds, MIDI or MusicXML"),
        "enhance": Verb("degauss.audio.commands.enhance:Enhance", "Clean up a recording, or a folder of them"),
        "train": Verb("degauss.audio.commands.train:Train", "Train voices that speak or sing on a prepared folder"),
        "metrics": Verb("degauss.audio.commands.metrics:Metrics", "Measure recordings, against references or alone"),
        "pareto enhance": Verb(
            "degauss.audio.commands.pareto:ParetoEnhance", "Draw quality against cost of an enhancer's solvers"
        ),
        "pareto speak": Verb(
            "degauss.audio.commands.pareto:ParetoSpeak", "Draw quality against cost of an acoustic model's solvers"
        ),
        "prepare": Verb("degauss.audio.commands.prepare:Prepare", "Recordings and texts to phones, pitch and notes"),
        "score-lint": Verb("degauss.audio.commands.score_lint:ScoreLint", "Find what is wrong with a score"),
        "resynthesize": Verb("degauss.audio.commands.resynth:Resynthesize", "Hear and measure what a vocoder loses"),
        "train-vocoder": Verb(
            "degauss.audio.commands.train_vocoder:TrainVocoder", "Train a neural vocoder on a folder"
        ),
        "train-enhancer": Verb(
            "degauss.audio.commands.train_enhancer:TrainEnhancer", "Train a model that cleans recordings"
        ),
        "fit-boundary": Verb(
            "degauss.audio.commands.fit_boundary:FitBoundary", "Find where shallow diffusion may start"
        ),
        "distill": Verb("degauss.audio.commands.distill:Distill", "Make a model of two evaluations out of one of many"),
    },
)


def main() -> int:
    """Run the command line and return its exit status."""
    return PROGRAM.main()
