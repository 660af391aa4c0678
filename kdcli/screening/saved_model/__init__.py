"""TODO kdcli/screening/saved_model."""
