"""TODO kdcli/jobs."""
