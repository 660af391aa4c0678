"""A student from the teacher's own graph: channel groups, importance, and the smaller model."""
