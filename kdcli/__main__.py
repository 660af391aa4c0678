"""`python -m kdcli` is `kd`."""

from kdcli.cli.app import main

if __name__ == "__main__":
    main()
