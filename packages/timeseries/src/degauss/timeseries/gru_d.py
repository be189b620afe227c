r"""GRU-D: a recurrent network for series with missing values, whose memory decays while nothing is seen.

With x_t the values, m_t 1 where observed, d_t the time since a channel was last observed, x'_t its last value:

    gamma_x = exp(-max(0, w_x d_t + b_x)),    gamma_h = exp(-max(0, W_h d_t + b_h))
    u_t = m_t x_t + (1 - m_t) (gamma_x x'_t + (1 - gamma_x) mean)
    h = gamma_h h_{t-1}
    z, r = sigmoid(W u_t + V m_t + U h + b),    n = tanh(W_n u_t + V_n m_t + U_n (r h) + b_n)
    h_t = (1 - z) h + z n

The values are standardised, so the mean is 0. A channel that was not observed yet has x' = mean. All but the terms in
h is known before the run, and is computed for all times at once.

Reference: Che et al. 2018, Recurrent neural networks for multivariate time series with missing values, equations 9
to 14.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class GRUD(nn.Module):
    """The states ``[length, batch, hidden]`` after each time, from what ``inputs`` makes of the values."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.decay_value = nn.Parameter(torch.zeros(2, channels))
        self.decay_state = nn.Linear(channels, hidden)
        self.gates = nn.Linear(2 * channels, 3 * hidden)
        self.turn = nn.Linear(hidden, 2 * hidden, bias=False)
        self.fresh = nn.Linear(hidden, hidden, bias=False)

    @staticmethod
    def inputs(values: Tensor, times: Tensor) -> tuple[Tensor, ...]:
        """x, m, x' and d, each ``[batch, length, channels]``, of standardised values with NaN at times ``[length]``."""
        seen = ~values.isnan()
        filled = values.nan_to_num()
        index = torch.arange(len(times))[:, None]
        before = torch.where(seen, index, -1).cummax(1).values.roll(1, 1)
        before[:, 0] = -1
        never = before < 0
        latest = filled.gather(1, before.clamp(min=0)).masked_fill(never, 0.0)
        times = times.to(values)
        since = times[:, None] - torch.where(never, times[0], times[before.clamp(min=0)])
        return filled, seen.to(values), latest, since

    def forward(self, filled: Tensor, seen: Tensor, latest: Tensor, since: Tensor) -> Tensor:
        slope, base = self.decay_value
        shrunk = latest * torch.exp(-functional.relu(slope * since + base))
        entered = torch.where(seen > 0, filled, shrunk)
        known = self.gates(torch.cat([entered, seen], -1)).transpose(0, 1)
        decays = torch.exp(-functional.relu(self.decay_state(since))).transpose(0, 1)
        h = known.new_zeros(known.shape[1], self.hidden)
        states: list[Tensor] = []
        for terms, decay in zip(known.unbind(), decays.unbind(), strict=True):
            h = h * decay
            z_term, r_term, n_term = terms.chunk(3, -1)
            z_own, r_own = self.turn(h).chunk(2, -1)
            z, r = torch.sigmoid(z_term + z_own), torch.sigmoid(r_term + r_own)
            h = torch.lerp(h, torch.tanh(n_term + self.fresh(r * h)), z)
            states.append(h)
        return torch.stack(states)
