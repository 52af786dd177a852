"""Memory of virtual machines and raw images: their containers, and the kernel that is found in them."""
