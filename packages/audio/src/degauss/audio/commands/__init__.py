"""The verbs of `degauss-audio`, one module each; torch and the like are imported when a verb runs."""
