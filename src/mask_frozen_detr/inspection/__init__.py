"""A look at data before it is trained on: counts, what is broken or odd, what the detector finds, pictures."""
