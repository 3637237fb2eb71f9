"""Whether a new bundle takes the running one's place: measured on the same test part, chance accounted for."""
