"""Score distillation: how a diffusion model of images says what a render should have been.

Each method is a file, a frozen configuration with one method, ``residual(asked, x0, t, noise, step)``; see
`degauss.threed.distillation.residual` for what they share.
"""
