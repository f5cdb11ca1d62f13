"""From grey values to phases."""
