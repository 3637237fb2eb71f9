"""The log and the catalogue: importing, preparing, splitting, gating, and Feast features."""
