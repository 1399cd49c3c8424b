"""One file per data set: raw download -> canonical task."""
