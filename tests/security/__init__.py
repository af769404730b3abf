"""One test for each attack we know of. Each fails when its defence is taken away: see mutants.py."""
