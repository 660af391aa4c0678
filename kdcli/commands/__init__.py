"""TODO kdcli/commands."""
