//! A program of WICE.

fn main() {}
