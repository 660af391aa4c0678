"""The contract that every loss keeps."""
