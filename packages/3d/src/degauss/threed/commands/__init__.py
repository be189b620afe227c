"""The verbs of `degauss-3d`, one module each; torch and the like are imported when a verb runs."""
