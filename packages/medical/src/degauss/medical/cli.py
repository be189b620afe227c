"""The command line `degauss-medical`."""

from __future__ import annotations

from degauss.core.cli import Program, Verb

PROGRAM = Program(
    name="degauss-medical",
    summary="diffusion models for 3D medical inverse problems and synthesis",
    verbs={
        "simulate": Verb("degauss.medical.commands.simulate:Simulate", "Simulate a scan of a volume, in CT or MRI"),
        "reconstruct": Verb("degauss.medical.commands.reconstruct:Reconstruct", "Reconstruct the volume behind a scan"),
        "calibrate": Verb(
            "degauss.medical.commands.calibrate:Calibrate", "Calibrate the intervals of draws on known volumes"
        ),
        "check-op": Verb("degauss.medical.commands.check_op:CheckOp", "Check an operator's adjoint, norm and rays"),
        "train-prior": Verb("degauss.medical.commands.train_prior:TrainPrior", "Train a prior of slices on volumes"),
        "evaluate": Verb("degauss.medical.commands.evaluate:Evaluate", "Judge a reconstruction against its truth"),
        "montage": Verb("degauss.medical.commands.montage:Montage", "Show volumes side by side in three planes"),
    },
)


def main() -> int:
    """Run the command line and return its exit status."""
    return PROGRAM.main()
