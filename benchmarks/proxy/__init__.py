"""The measurements and reports of ``make bench``, one module per subject; see ``benchmarks.bench``."""
