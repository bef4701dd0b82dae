"""Laboratories: activations of a pass, attention maps, solvers."""
