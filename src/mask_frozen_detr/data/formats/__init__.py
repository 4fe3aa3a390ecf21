"""Formats of annotations, a file each; `find` tells which one a folder or file is in."""
