"""What values a function's instructions can hand to the functions they call."""
