//! The file server in its jail, spoken to in bytes as a guest's kernel would, or never would.

mod canary;
mod client;
mod confined;
mod hostile;
mod limits;
mod meaning;
mod model;
mod mounted;
