"""The executive's objects: types, headers, processes, handles, and other holders of pool: lists and Driver Verifier."""
