"""TODO kdcli/screening/keras."""
