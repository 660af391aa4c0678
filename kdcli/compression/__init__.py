"""Target in, file out: candidates by construction, pilots by successive halving, and the file that ships."""
