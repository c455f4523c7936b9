"""What is known of a window before its targets, as numbers: one module for each block, and `block` with what they share."""
