"""``make bench-attacks``: what an attack costs other organizations, measured on the production wiring."""
