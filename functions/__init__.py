"""Runs where the data is: the registered functions and all numerics. Imports nothing from tomopipe.flows."""
