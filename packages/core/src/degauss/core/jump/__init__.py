"""Jump processes on discrete data: tokens that turn into masks or into other tokens, and the way back.

A state is integers ``[batch, length]``; a denoiser answers ``Categorical`` logits ``[batch, length, V]``.

``rates``        how fast tokens are corrupted          ``ancestral``      exact steps
``absorbing``    into masks; ``Subs`` for networks      ``skipping``       the same, evaluated where something changes
``uniform``      into other tokens; ``Context``         ``first_hitting``  exact times, one token an evaluation
``losses``       bounds on -log p, per sample           ``tau_leaping``    held rates
``likelihood``   exact for short sequences, estimated   ``confidence``     the surest positions first
``infill``       given positions                        ``remasking``      second thoughts (ReMDM)
``oracle``       tables, for which all is enumerated    ``temper``         temperature, top-p
``automaton``    languages of tokens                    ``constrained``    samples that are all in one
``sampling``     all of it in one call
"""

from degauss.core.jump.absorbing import Absorbing, Subs
from degauss.core.jump.ancestral import Ancestral, AncestralUniform, Conditioned, ancestral
from degauss.core.jump.automaton import Automaton, Lattice, TooManyStates, allowed, explore, unfold
from degauss.core.jump.confidence import (
    Confident,
    EntropyBounded,
    certainty,
    confident,
    entropy_bounded,
    margin,
    token_probability,
    top_probability,
)
from degauss.core.jump.constrained import Constrained, accepted_marginals, constrained, draw_accepted, log_acceptance
from degauss.core.jump.first_hitting import FirstHitting, first_hitting
from degauss.core.jump.infill import FREE, Given, Held, check_template
from degauss.core.jump.likelihood import (
    Estimate,
    bits_per_token,
    estimate_bound,
    exact_bound,
    exact_discrete_bound,
    exact_log_likelihood,
)
from degauss.core.jump.losses import (
    Times,
    any_order,
    discrete_elbo,
    elbo,
    independent,
    lambda_dce,
    uniform_elbo,
    weyl,
)
from degauss.core.jump.process import Process, Solver
from degauss.core.jump.rates import Cosine, KeptRates, Level, LogLinear, Rates, TotalRates
from degauss.core.jump.remasking import Remasking, capped, remasking, rescaled
from degauss.core.jump.sampling import sample_tokens
from degauss.core.jump.skipping import Skipping, skipping
from degauss.core.jump.tau_leaping import TauLeaping, tau_leaping
from degauss.core.jump.temper import Nucleus, Tempered
from degauss.core.jump.uniform import Context, Uniform

__all__ = [
    "FREE",
    "Absorbing",
    "Ancestral",
    "AncestralUniform",
    "Automaton",
    "Conditioned",
    "Confident",
    "Constrained",
    "Context",
    "Cosine",
    "EntropyBounded",
    "Estimate",
    "FirstHitting",
    "Given",
    "Held",
    "KeptRates",
    "Lattice",
    "Level",
    "LogLinear",
    "Nucleus",
    "Process",
    "Rates",
    "Remasking",
    "Skipping",
    "Solver",
    "Subs",
    "TauLeaping",
    "Tempered",
    "Times",
    "TooManyStates",
    "TotalRates",
    "Uniform",
    "accepted_marginals",
    "allowed",
    "ancestral",
    "any_order",
    "bits_per_token",
    "capped",
    "certainty",
    "check_template",
    "confident",
    "constrained",
    "discrete_elbo",
    "draw_accepted",
    "elbo",
    "entropy_bounded",
    "estimate_bound",
    "exact_bound",
    "exact_discrete_bound",
    "exact_log_likelihood",
    "explore",
    "first_hitting",
    "independent",
    "lambda_dce",
    "log_acceptance",
    "margin",
    "remasking",
    "rescaled",
    "sample_tokens",
    "skipping",
    "tau_leaping",
    "token_probability",
    "top_probability",
    "unfold",
    "uniform_elbo",
    "weyl",
]
