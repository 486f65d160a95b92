"""Leading a run: msrun and its ranks, on this node and on others."""
