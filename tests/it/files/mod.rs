//! The file server in its jail, spoken to in bytes as a guest's kernel would, or never would.

mod client;
mod meaning;
