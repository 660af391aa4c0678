"""What writes the generated parts of the documentation, one file for each source of facts."""
