"""TODO kdcli/models/keras."""
