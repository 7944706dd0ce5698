"""`make exit-gate`: what "done" means (spec 15), measured."""
