"""What ships with the package: the emoji miniature, its data set, and the scripts that made both."""
