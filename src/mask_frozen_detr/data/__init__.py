"""Data sets in any format: found, read, checked; pictures; classes."""
