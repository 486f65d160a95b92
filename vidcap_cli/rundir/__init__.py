"""The run directory: its files, who owns it, what is planned, claimed, reported and committed."""
