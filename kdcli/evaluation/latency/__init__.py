"""TODO kdcli/evaluation/latency."""
