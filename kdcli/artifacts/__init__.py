"""TODO kdcli/artifacts."""
