"""Rewards: what a design is to be good at, by name, from this package and from others.

    reward = parse_reward("activity:runs/hepg2/model,cell=HepG2")
    total = parse_rewards(["activity:runs/hepg2/model,cell=HepG2", "0.5*gc:.4-.6"])
    scores = evaluate(total, tokens)                             # [batch]
    gradient = torch.func.grad(lambda w: total.soft(w).sum())    # where `total` is Differentiable

A package adds a reward by the entry-point group `degauss.bio.rewards`: a name, and a callable that takes the text after
the colon and returns a `Reward`.
"""

from degauss.bio.rewards.parsing import available, parse_reward, parse_rewards
from degauss.bio.rewards.reward import Differentiable, Reward, Term, Total, evaluate, total

__all__ = [
    "Differentiable",
    "Reward",
    "Term",
    "Total",
    "available",
    "evaluate",
    "parse_reward",
    "parse_rewards",
    "total",
]
