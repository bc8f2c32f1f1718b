"""Clients in C and Rust, in this process: their connects are led through a proxy of ours."""
