"""The parts of `make bench-gate`: two source trees under the same load, and what a request costs in each."""
