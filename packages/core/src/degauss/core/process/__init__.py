"""Processes beyond data-to-noise; each module is one family, with its names.

``mean_reverting``  OUVE and IR-SDE, around an observation      ``interpolant``  stochastic interpolants, ODE and SDE
``bridge``          Brownian bridges to an observation          ``rectified``    rectified flow, reflow, time laws
``residual``        ResShift, RDDM                              ``pfgm``         PFGM++ as a schedule with other noise

``predictor_corrector`` is the sampler that score-based models around an observation were published with.
``centred`` samples any of those that are Gaussian around an observation with any solver of ``degauss.core.gaussian``.
"""
