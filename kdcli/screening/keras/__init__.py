"""What a file of Keras could run or allocate, read without loading it."""
