"""Degauss for DNA and protein design.

No method has landed here yet.
"""
