"""The verbs of `degauss-medical`, one module each; torch and the like are imported when a verb runs."""
