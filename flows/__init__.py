"""Runs where the user is: the flow definition, the client side, the command line and the local interpreter."""
