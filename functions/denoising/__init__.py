"""Noise removal in reconstructed slices."""
