"""The contract that every loss must satisfy, as checks on generated inputs."""
