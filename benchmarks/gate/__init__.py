"""`make exit-gate`: what "done" means (docs/performance.md), measured."""
