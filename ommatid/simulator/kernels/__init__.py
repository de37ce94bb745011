"""Numba kernels, one job each."""
