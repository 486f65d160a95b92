"""From the results of runs to one table."""
