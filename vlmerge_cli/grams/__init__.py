"""Gram matrices: collecting XᵀX of what linear slots are given, their exact sums, and the file that holds them."""
