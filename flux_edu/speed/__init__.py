"""Measured speed, and what makes a step faster without standing in a chapter."""
