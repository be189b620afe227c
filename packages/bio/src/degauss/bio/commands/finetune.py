"""`degauss-bio finetune`: a model whose own samples a reward likes."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import UseAppendAction, arg

from degauss.core.errors import check_range
from degauss.core.options import check_directory, device_of


@dataclass(frozen=True, kw_only=True)
class Finetune:
    """Fine-tune a model towards rewards. Stop it and run it again: it goes on where it stopped.

    The aim is the largest reward - alpha KL from the model that it starts with, in nats. drakes differentiates the
    reward along relaxed sampling; path and weighted take any reward. The model is written to OUT/model, for 'design
    --method drakes' and all verbs that take --model.

    At the end sequences of both models are compared. Its card.json says the reward and the KL that were reached, and
    warns where the fine-tuned model's sequences are less likely than those before, or likelier, or alike, or repeats:
    signs that it has learnt the reward's weaknesses. A larger --alpha keeps it nearer.
    """

    model: str = "dna"
    """A model that ships with the package, by its name, or the folder of one that 'train' wrote."""
    rewards: Annotated[UseAppendAction[tuple[str, ...]], arg(name="reward")]
    """Given once or more, and summed: NAME[:ARGUMENTS] or WEIGHT*NAME[:ARGUMENTS], such as
    activity:FOLDER,cell=HepG2."""
    method: Literal["drakes", "path", "weighted"] = "drakes"
    """drakes: gradients of the reward, for rewards that have them. path: score functions. weighted: maximum
    likelihood on samples weighted by exp(reward / alpha)."""
    alpha: float = 1.0
    """Units of the reward that a nat of divergence is worth."""
    label: str | None = None
    """The class whose sequences are to be made better, where the model has classes."""
    steps: int = 200
    """Training steps; of weighted, those of each round."""
    batch: int = 16
    """Sequences a step."""
    lr: float = 3e-4
    """Peak learning rate."""
    trajectory: int = 32
    """Sampling steps of a trajectory."""
    truncate: int | None = None
    """Differentiate only so many of a trajectory's last steps (drakes); all unless given."""
    temperature: float = 1.0
    """Of the relaxed draws (drakes)."""
    pool: int = 4096
    """Sequences that are drawn and scored in each round (weighted)."""
    rounds: int = 1
    """Rounds, each drawing from the model of the one before (weighted)."""
    samples: int = 128
    """Sequences of each model that are compared at the end."""
    save_every: int = 50
    """Steps between checkpoints, and between figures of metrics.jsonl."""
    seed: int = 0
    """Everything random follows from it."""
    device: Literal["auto", "cpu"] = "auto"
    """The accelerator if there is one, or the CPU."""
    out: Path = Path("runs/finetuned")
    """Directory of the run: checkpoints, metrics.jsonl, and at the end the model."""

    def run(self) -> None:
        from degauss.bio.fine_tuning import Tuning, card_of, check_plan, check_tunable, compare, fit, look
        from degauss.bio.model import SequenceModel, find_model, weights_hash
        from degauss.bio.rewards import parse_rewards
        from degauss.core.cli import write_resolved_config
        from degauss.core.train import TrainConfig

        check_directory(self.out)
        check_range("samples", self.samples, 2)
        tuning = Tuning(
            self.method,
            self.alpha,
            self.trajectory,
            self.truncate,
            self.temperature,
            self.pool,
            self.rounds,
            self.label,
        )
        training = TrainConfig(
            out=self.out,
            steps=self.steps,
            batch_size=self.batch,
            lr=self.lr,
            schedule="constant",
            seed=self.seed,
            save_every=self.save_every,
            evaluate_every=self.save_every,
            log_every=min(10, self.save_every),
            device=self.device,
        )
        path = find_model(self.model)
        base, reward = SequenceModel.load(path), parse_rewards(self.rewards)
        check_tunable(base, reward, tuning)
        sha256 = weights_hash(path)
        check_plan(self.out, sha256, reward, tuning)
        write_resolved_config(self.out / "finetune.toml", self, model_sha256=sha256)
        tuned = fit(base, reward, tuning, training)
        for model in (base, tuned):
            model.network.to(device_of(self.device))
        before, after = compare(base, tuned, reward, tuning, n=self.samples, seed=self.seed)
        found = look(before, after, base.alphabet.vocabulary)
        card = card_of(self.model, sha256, reward, tuning, training, before, after, found)
        tuned.save(self.out / "model", card)
        reached = card["reached"]
        print(
            f"wrote {self.out / 'model'}: reward {reached['reward_before']:.3g} before, {reached['reward']:.3g} now, "
            f"{reached['kl_nats']:.3g} nats from {self.model}"
        )
        for warning in found.warnings:
            print(f"{warning} (Designs: of the new model; natural: of {self.model}.)", file=sys.stderr)
