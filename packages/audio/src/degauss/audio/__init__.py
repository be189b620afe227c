"""Degauss for speech, singing and sound.

No method has landed here yet.
"""
