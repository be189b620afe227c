r"""One training loop, on accelerate, whose every step is a function of (seed, step).

**Exact resume without a data state.** Step k (from 0) trains on the global samples kB, ..., kB + B - 1, where
B is the batch over all processes and micro-batches. Which items these are, the noise they are given (keyed by
seed and sample number), the dropout masks (by seed, step, process, micro-batch), the learning rate and the
decay of the average are functions of these numbers alone. So a checkpoint holds the weights, their average,
the optimizer's moments and k: going on from it gives the weights of the uninterrupted run bit for bit, on the
same device type and number of processes and micro-batches, where kernels and reductions are deterministic.

**The same training on any number of processes.** A mean loss over B samples is the mean over equal shares, so
processes and micro-batches change the result by rounding alone, dropout and batch statistics aside.

Learning rate: lr * min(1, (k+1)/warmup), and for "cosine" times (1 + cos(pi (k - warmup)/(steps - warmup)))/2
after the warm-up. Average of the weights (Polyak and Juditsky 1992; here exponential, in float32 or better):
a_{k+1} = d_k a_k + (1 - d_k) w_{k+1} with d_k = ema, or min(ema, (1 + k)/(10 + k)) with ``ema_warmup``.

A run's directory: ``checkpoints/step-NNNNNNNN/`` (the last two), ``metrics.jsonl``, TensorBoard's events,
and ``model.json``, what is trained there (`remember`).
"""

from degauss.core.train.batches import Data, Shuffle
from degauss.core.train.config import TrainConfig, Trained, learning_rate
from degauss.core.train.loop import Loss, adamw, train
from degauss.core.train.process import Interrupted
from degauss.core.train.run import Diverged, latest_checkpoint, remember

__all__ = [
    "Data",
    "Diverged",
    "Interrupted",
    "Loss",
    "Shuffle",
    "TrainConfig",
    "Trained",
    "adamw",
    "latest_checkpoint",
    "learning_rate",
    "remember",
    "train",
]
