"""SavedModels as networks: frozen graphs and signatures."""
