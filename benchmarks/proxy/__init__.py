"""What ``make bench`` measures and how it tells it, a module a subject; see ``benchmarks.bench``."""
