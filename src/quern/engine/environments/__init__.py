"""Python environments of their own for engines that bring gigabytes: what goes into each, and making them."""
