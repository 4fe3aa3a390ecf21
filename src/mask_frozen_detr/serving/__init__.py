"""A run in the browser: a page with a picture on it, on this machine or as a Space."""
