"""The verbs of `degauss-timeseries`, one module each; torch and pandas are imported when a verb runs."""
