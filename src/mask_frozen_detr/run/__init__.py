"""A run folder as others read it: its description, its weights, the detector that it belongs to."""
