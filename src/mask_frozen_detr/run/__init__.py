"""A run folder as others read it: its description, its weights, its detector, its model card; the hub."""
