"""Degauss time series: forecasting and imputation with diffusion models.

Reading and writing tables (`table`), regular grids (`regular`), public series (`datasets`), scores
(`metrics`), the forecasts to beat (`naive`) and pictures (`plots`) are modules of their own: import what you
use, so that a command line answers before numpy or torch is loaded.
"""
