"""Make `kdcli/sources/digits.npz` from scikit-learn's copy of the UCI digits (CC BY 4.0).

Run: python benchmarks/make_digits.py

Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
Repository, 1998, doi:10.24432/C50P49. The grey levels 0-16 become 0-255 (uint8); the split is stratified:
of each class a fifth, drawn with a fixed seed, is the test split.
"""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

TARGET = Path(__file__).parent.parent / "kdcli" / "sources" / "digits.npz"


def main():
    digits = load_digits()
    pictures = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = digits.target.astype(np.uint8)
    train, test = train_test_split(np.arange(len(labels)), test_size=360, stratify=labels, random_state=0)
    train, test = np.sort(train), np.sort(test)
    np.savez_compressed(
        TARGET, x_train=pictures[train], y_train=labels[train], x_test=pictures[test], y_test=labels[test]
    )
    print(f"{TARGET}: {TARGET.stat().st_size} bytes, {len(train)} training and {len(test)} test examples")


if __name__ == "__main__":
    main()
