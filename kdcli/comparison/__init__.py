"""TODO kdcli/comparison."""
