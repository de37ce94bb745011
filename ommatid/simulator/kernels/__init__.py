"""The arithmetic of the instructions: a Numba function does one job and has a plain NumPy twin in the tests."""
