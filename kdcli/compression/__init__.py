"""kd compress: candidates for the targets, successive halving, and the file that ships."""
