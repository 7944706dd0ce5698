"""`make bench-stages`: the cost of each stage of a request in process, by pytest-benchmark."""
