"""`make bench-stages`: what each stage of a request costs in process, by pytest-benchmark."""
