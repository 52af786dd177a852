"""The objects of forged machines: types, processes, handles, lookaside lists and Driver Verifier's accounts."""
