"""The verbs of `degauss-bio`, one module each; torch and the like are imported when a verb runs."""
