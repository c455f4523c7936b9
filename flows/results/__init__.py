"""What finished runs show: found again, compared, and written as pages. It starts no run."""
