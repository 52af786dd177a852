"""Writes the memory of forged machines as virtual machine monitors and imaging tools do: each container once."""
