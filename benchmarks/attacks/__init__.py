"""``make bench-attacks``: the cost of an attack to other organizations, measured on the production wiring."""
