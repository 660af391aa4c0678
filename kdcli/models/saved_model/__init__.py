"""TODO kdcli/models/saved_model."""
