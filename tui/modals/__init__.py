"""What stands in front of a screen until it is answered."""
