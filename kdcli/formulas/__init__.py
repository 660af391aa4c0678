"""What the formulas of several losses share: types, features in pairs, directions, pooling, layers."""
