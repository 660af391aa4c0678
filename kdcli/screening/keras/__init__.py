"""Screening of Keras files: `.keras` archives and `.h5` files."""
