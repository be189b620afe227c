"""Degauss for 3D: text or image to shape and scene.

No method has landed here yet.
"""
