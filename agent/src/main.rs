//! PID 1 of an msb guest.
fn main() {}
