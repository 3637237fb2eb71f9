"""Staged tuning: instruction tasks with global contrast (stage 1), the annealing adapter (stage 2)."""
