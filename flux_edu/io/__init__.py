"""Weights and pictures, in and out."""
