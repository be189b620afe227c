"""Guidance: a denoiser in, a denoiser out, so that no solver knows of it."""
