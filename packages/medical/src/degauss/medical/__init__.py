"""Degauss for medicine: 3D inverse problems and synthesis.

No method has landed here yet.
"""
