"""Degauss for medicine: operators of CT and MRI, for the inverse problems of `degauss.core.inverse`."""
