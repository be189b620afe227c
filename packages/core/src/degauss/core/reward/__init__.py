"""Rewards: sequences that are likely under a model and good at something.

**Searching** while sampling, with any reward:

``reward``       what a reward is                      ``smc``           particles towards p exp(r / alpha); TDS
``proposal``     one random step, with its weight      ``svdd``          the best of several proposals, step by step
``constrained``  the same under hard constraints       ``best_of``       the best of several samples
``guidance``     by a reward's gradient;               ``search``        ``design``: all of these in one call
                 classifier-free

**Fine-tuning** a model, so that plain sampling does it:

``relaxed``      trajectories to differentiate         ``weighted``      maximum likelihood on weighted samples
``drakes``       the reward's gradient along them      ``finetuning``    the training run of an objective
``path_gradient``  the score function's, exact         ``audit``         how far any of them ends from the target
``kl``, ``paths``  how far a model has gone
"""

from degauss.core.reward.audit import (
    Audit,
    SampleAudit,
    Target,
    audit,
    audit_samples,
    enumerate_law,
    tilted,
    total_variation,
)
from degauss.core.reward.best_of import BestOf
from degauss.core.reward.constrained import ConstrainedProposal, constrained_proposal
from degauss.core.reward.drakes import Drakes, DrakesConfig
from degauss.core.reward.finetuning import Figures, Objective, finetune, frozen, reward_and_divergence
from degauss.core.reward.guidance import (
    ClassifierFree,
    Guidance,
    ReleasedGuided,
    StateGuided,
    TaylorGuided,
)
from degauss.core.reward.kl import (
    Divergence,
    leave_one_out,
    log_transition,
    path_term,
    published_divergence,
    step_divergence,
    token_divergence,
)
from degauss.core.reward.path_gradient import PathGradient
from degauss.core.reward.paths import Path, draw_path
from degauss.core.reward.proposal import (
    AncestralProposal,
    Proposal,
    Proposed,
    Proposer,
    ancestral_proposal,
    log_ratio,
)
from degauss.core.reward.relaxed import GumbelSoftmax, Joint, Rolled, Rollout, SoftNetwork, Timed
from degauss.core.reward.reward import Counted, Hardened, Reward, SoftReward, name_of
from degauss.core.reward.search import Completion, Designed, Drawn, Found, Method, Run, design, most_likely
from degauss.core.reward.smc import SMC
from degauss.core.reward.svdd import SVDD
from degauss.core.reward.weighted import Pool, Resampled, WeightedConfig, draw_pool, finetune_weighted

__all__ = [
    "SMC",
    "SVDD",
    "AncestralProposal",
    "Audit",
    "BestOf",
    "ClassifierFree",
    "Completion",
    "ConstrainedProposal",
    "Counted",
    "Designed",
    "Divergence",
    "Drakes",
    "DrakesConfig",
    "Drawn",
    "Figures",
    "Found",
    "Guidance",
    "GumbelSoftmax",
    "Hardened",
    "Joint",
    "Method",
    "Objective",
    "Path",
    "PathGradient",
    "Pool",
    "Proposal",
    "Proposed",
    "Proposer",
    "ReleasedGuided",
    "Resampled",
    "Reward",
    "Rolled",
    "Rollout",
    "Run",
    "SampleAudit",
    "SoftNetwork",
    "SoftReward",
    "StateGuided",
    "Target",
    "TaylorGuided",
    "Timed",
    "WeightedConfig",
    "ancestral_proposal",
    "audit",
    "audit_samples",
    "constrained_proposal",
    "design",
    "draw_path",
    "draw_pool",
    "enumerate_law",
    "finetune",
    "finetune_weighted",
    "frozen",
    "leave_one_out",
    "log_ratio",
    "log_transition",
    "most_likely",
    "name_of",
    "path_term",
    "published_divergence",
    "reward_and_divergence",
    "step_divergence",
    "tilted",
    "token_divergence",
    "total_variation",
]
