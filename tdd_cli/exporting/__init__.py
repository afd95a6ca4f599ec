"""Export: students as files that other programs load, checked by loading them."""
