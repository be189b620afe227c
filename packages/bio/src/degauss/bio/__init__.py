"""Degauss for DNA and protein design: masked diffusion on sequences, and its optimisation for rewards."""
