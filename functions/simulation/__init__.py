"""Phantoms with analytic truth and scans as a detector would record them."""
