"""One module a metric, and the report."""
