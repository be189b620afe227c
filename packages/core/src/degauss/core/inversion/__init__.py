"""Inversion: from data back to the noise that makes it."""
