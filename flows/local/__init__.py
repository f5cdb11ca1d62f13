"""Executes the flow definition on this machine: interpreter, verified copy, Parsl, run store, search index."""
