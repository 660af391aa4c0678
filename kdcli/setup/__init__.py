"""TODO kdcli/setup."""
