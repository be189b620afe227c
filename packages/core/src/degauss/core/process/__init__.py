"""Processes beyond data-to-noise: paths around an observation, bridges, interpolants, rectified flows."""
