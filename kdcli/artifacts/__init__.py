"""Files that ship: converted, opened again and compared with their model."""
